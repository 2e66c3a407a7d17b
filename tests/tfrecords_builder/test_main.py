import json
import re
import subprocess
import sys
import time

import numpy as np
import pytest

from tfrs import geotiff
from tfrs.registry import DATASETS


@pytest.fixture(scope="module")
def eurosat(tmp_path_factory):
    """Ten patches of each of two classes: 16 train, 2 val, 2 test."""
    root, rng = tmp_path_factory.mktemp("data") / "EuroSAT_MS", np.random.default_rng(0)
    for name in ("River", "Forest"):
        (root / name).mkdir(parents=True)
        for number in range(1, 11):
            pixels = rng.integers(1, 4000, (13, 64, 64)).astype("uint16")
            geotiff.write(root / name / f"{name}_{number}.tif", geotiff.Raster(pixels, "EPSG:32632"))
    return root


@pytest.fixture
def builder(tmp_path):
    """Run the command in an empty folder."""

    def run(*arguments):
        command = [sys.executable, "-m", "tfrecords_builder", *map(str, arguments)]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)

    return run


def assert_error(result, status, *patterns):
    assert result.returncode == status
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    for pattern in patterns:
        assert re.search(pattern, line), line


def files(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_build_verify_show_stats(builder, eurosat, tmp_path):
    build = builder("--dataset", "eurosat", "--input", eurosat, "--shard_mb", 1, "--workers", 2)
    assert (build.returncode, build.stderr) == (0, "")
    assert re.search(r"^records/eurosat/1\.0\.0: wrote 2\.\d MB in \d+\.\d s \(\d+\.\d MB/s\)$", build.stdout, re.M)
    assert build.stdout.splitlines()[0].endswith(": s2 (13 bands)")
    assert [line.split() for line in build.stdout.splitlines()[2:]] == [
        ["train", "16", "records"],
        ["val", "2", "records"],
        ["test", "2", "records"],
    ]

    verify = builder("verify", "records", "--workers", 1)
    assert (verify.returncode, verify.stdout) == (0, "ok: 20 records in 4 shards\n")

    show = builder("show", "records/eurosat")
    assert show.returncode == 0
    assert "simulated: no" in show.stdout
    assert show.stdout.isascii()

    stats = builder("stats", "records/eurosat/1.0.0")
    assert stats.returncode == 0
    figure = tmp_path / stats.stdout.strip()
    assert figure.name == "class_distribution.png"
    assert figure.read_bytes().startswith(b"\x89PNG")

    before = files(tmp_path / "records")
    again = builder("--dataset", "eurosat", "--input", eurosat, "--shard_mb", 1, "--workers", 1)
    assert again.returncode == 0
    assert "already built: nothing to do" in again.stdout
    assert files(tmp_path / "records") == before


def test_verify_fails_on_a_flipped_bit(builder, eurosat, tmp_path):
    assert builder("--dataset", "eurosat", "--input", eurosat).returncode == 0
    (shard,) = tmp_path.glob("records/eurosat/1.0.0/*-test.tfrecord-*")
    data = bytearray(shard.read_bytes())
    data[-1000] ^= 8
    shard.write_bytes(data)
    result = builder("verify", "records")
    assert_error(result, 1, r"2 problems found", r"--repair", r"--overwrite")
    assert f"{shard.relative_to(tmp_path)}: record 1: CRC of the data does not match" in result.stdout
    result = builder("verify", "records", "--repair", "--workers", 1)
    assert result.returncode == 0
    assert result.stdout.splitlines()[2:] == [f"repaired {shard.name}", "ok: 20 records in 3 shards"]


def test_bad_patch_is_left_out_and_named(builder, eurosat, tmp_path):
    for path in eurosat.glob("River/*"):
        target = tmp_path / "data" / "eurosat" / "River" / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes()[: 50_000 if path.stem == "River_7" else None])
    result = builder("--dataset", "eurosat")
    assert result.returncode == 0
    assert "in quarantine: 1, see records/eurosat/1.0.0/quarantine.jsonl" in result.stdout
    (line,) = (tmp_path / "records/eurosat/1.0.0/quarantine.jsonl").read_text().splitlines()
    assert json.loads(line)["path"] == "River/River_7.tif"


def test_split_files_options_and_empty_split(builder, eurosat, tmp_path):
    (tmp_path / "test.txt").write_text("River_1\nRiver_2.tif\n")
    result = builder(
        "--dataset=eurosat", f"--input={eurosat}", "--split_file=train=rest,test=test.txt", "--limit=5", "--seed=3"
    )
    assert result.returncode == 0
    assert result.stderr == "warning: no patch in split val\n"
    manifest = json.loads((tmp_path / "records/eurosat/1.0.0/manifest.json").read_text())
    assert {split: part["records"] for split, part in manifest["splits"].items()} == {"train": 5, "test": 2}
    spec = manifest["spec"]
    assert (spec["seed"], spec["limit"], spec["split_file"]) == (3, 5, {"train": "rest", "test": "test.txt"})
    assert not {"val_fraction", "simulated"} & spec.keys()


def test_other_records_are_refused_unless_overwritten(builder, eurosat, tmp_path):
    assert builder("--dataset", "eurosat", "--input", eurosat).returncode == 0
    before = files(tmp_path)
    other = ["--dataset", "eurosat", "--input", eurosat, "--val_fraction", 0.25]
    assert_error(
        builder(*other), 1, r"records/eurosat/1\.0\.0 holds other records", r"val_fraction: None there, 0\.25", r"--overwrite"
    )
    assert files(tmp_path) == before
    result = builder(*other, "--overwrite")
    assert result.returncode == 0
    assert "wrote" in result.stdout
    manifest = json.loads((tmp_path / "records/eurosat/1.0.0/manifest.json").read_text())
    assert manifest["splits"]["val"]["records"] == round(0.25 * 18)


def test_simulated_records_say_so(builder, tmp_path):
    build = ["--dataset", "eurosat", "--workers", 1]
    assert builder(*build, "--synthesize", 30, "--seed", 5).returncode == 0
    marker = json.loads((tmp_path / "data/eurosat/SIMULATED.json").read_text())
    assert marker == {"dataset": "eurosat", "patches": 30, "seed": 5}
    assert "simulated: yes" in builder("show", "records").stdout
    assert builder("verify", "records", "--workers", 1).stdout.startswith("ok: 30 records")
    for synthesize in (["--synthesize", 30], []):  # the marker tells, not the flag
        assert "already built" in builder(*build, *synthesize, "--seed", 5).stdout
    assert_error(builder(*build, "--synthesize", 31, "--seed", 5), 1, r"data/eurosat: holds other simulated data", r"--input")


@pytest.mark.parametrize(
    ("arguments", "status", "patterns"),
    [
        ([], 1, ["--dataset", "verify, show, stats"]),
        (["--dataset=eurosat", "--input=nowhere"], 1, ["nowhere: no such file or directory", "--input"]),
        (["--dataset=eurosat"], 1, ["data/eurosat: no such file or directory"]),
        (["--dataset=eurosat", "--input=empty"], 1, ["empty: no eurosat patch", "it is empty"]),
        (["--dataset=sen12ms", "--input={eurosat}"], 1, ["EuroSAT_MS: no sen12ms patch", "it has Forest, River", "expected"]),
        (["--dataset=eurosat_rgb", "--input={eurosat}"], 1, ["no eurosat_rgb patch", "jpg"]),
        (["--dataset=sen12m"], 1, ["unknown data set 'sen12m'. Did you mean 'sen12ms'?"]),
        (["--dataset=eurosat", "--inptu=x"], 2, ["inptu.*input", "--help"]),
        (["--dataset=eurosat", "--workers=0"], 2, ["workers"]),
        (["--dataset=eurosat", "--limit=many"], 2, ["limit"]),
        (["--dataset=eurosat", "--input={eurosat}", "--split_file=train.txt"], 1, ["'train.txt'; give split=file"]),
        (["--dataset=eurosat", "--input={eurosat}", "--split_file=train="], 1, ["'train='; give split=file"]),
        (["--dataset=eurosat", "--input={eurosat}", "--split_file=val=a,val=b"], 1, ["val twice"]),
        (["--dataset=eurosat", "--input={eurosat}", "--split_file=trian=rest"], 1, ["trian", "train, val, test"]),
        (["--dataset=eurosat", "--input={eurosat}", "--split_file=train=no.txt"], 1, ["no.txt: No such file"]),
        (["--dataset=eurosat", "--input={eurosat}", "--split_file=train=names.txt"], 1, ["names.txt: 1 of 2", "Rivers_1"]),
        (["--dataset=eurosat", "--input={eurosat}", "--val_fraction=1.5"], 1, ["--val_fraction is 1.5"]),
        (["--dataset=eurosat", "--input={eurosat}", "--synthesize=3"], 1, ["EuroSAT_MS: holds data that are not simulated"]),
        (["--dataset=eurosat", "--input={eurosat}", "--output=names.txt"], 1, ["names.txt"]),
        (["--dataset=eurosat", "--max_bad_fraction=1.5"], 2, ["max_bad_fraction"]),
        (["--dataset=eurosat", "--runner=baem"], 2, ["local.beam"]),
        (["--dataset=eurosat", "--beam_options=--direct_num_workers=2"], 1, ["--beam_options without --runner=beam"]),
        (["--dataset=eurosat", "--task_index=8", "--task_count=8"], 1, ["--task_index=8 with --task_count=8; .*from 0"]),
        (["--dataset=eurosat", "--task_index=0"], 1, ["--task_index=0 needs --task_count"]),
        (["--dataset=eurosat", "--shard_mb=nan"], 2, ["shard_mb=nan: give a number"]),
        (["--dataset=eurosat", "--max_bad_fraction=nan"], 2, ["max_bad_fraction=nan: give a number"]),
        (["--dataset=eurosat", "--task_index=0", "--task_count=2", "--overwrite"], 1, ["cannot be shared by tasks"]),
        (["--dataset=eurosat", "--task_count=2", "--synthesize=5"], 1, ["cannot be shared by tasks"]),
        (["--dataset=eurosat", "--repair"], 1, ["--repair belongs to the sub-command verify"]),
        (["--dataset=eurosat", "more"], 1, ["'more' stands beside --dataset"]),
        (["verfy", "records"], 1, ["unknown sub-command 'verfy'. Did you mean 'verify'?"]),
        (["verify"], 1, ["verify wants one folder of records"]),
        (["show", "a", "b"], 1, ["show wants one folder of records"]),
        (["stats", "nowhere"], 1, ["nowhere: no such directory"]),
        (["show", "empty"], 1, ["empty: no manifest.json"]),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(builder, eurosat, tmp_path, arguments, status, patterns):
    (tmp_path / "empty").mkdir()
    (tmp_path / "names.txt").write_text("River_1\nRivers_1\n")
    assert_error(builder(*(argument.format(eurosat=eurosat) for argument in arguments)), status, *patterns)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "names.txt"]
    assert not any((tmp_path / "empty").iterdir())


def test_help_is_quick_and_imports_nothing_heavy(builder):
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        result = builder("--help")
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.5
    assert result.returncode == 0
    assert all(name in result.stdout for name in [*DATASETS, "verify", "data/<dataset>", "--val_fraction"])
    command = [sys.executable, "-X", "importtime", "-m", "tfrecords_builder", "--help"]
    trace = subprocess.run(command, capture_output=True, text=True, timeout=60).stderr
    imported = {line.rsplit("|", 1)[1].strip().split(".")[0] for line in trace.splitlines() if "|" in line}
    assert "absl" in imported
    assert not imported & {"tensorflow", "numpy", "rasterio", "matplotlib", "keras"}


def test_show_survives_a_closed_pipe(builder, eurosat, tmp_path):
    assert builder("--dataset", "eurosat", "--input", eurosat).returncode == 0
    reader = subprocess.Popen(["true"], stdin=subprocess.PIPE)
    reader.wait()
    command = [sys.executable, "-m", "tfrecords_builder", "show", "records"]
    show = subprocess.run(command, cwd=tmp_path, stdout=reader.stdin, stderr=subprocess.PIPE, text=True, timeout=60)
    reader.stdin.close()
    assert show.stderr == ""

"""MultiSenGE as a user builds it: simulated patches through the real commands to records, and a training on them."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest
import tifffile

from tfrs.datasets.multisenge_names import read_patch
from tfrs.labels import MULTISENGE
from tfrs.records import Records

METZ = "6.10,49.06,6.25,49.17"


def run(folder, module, *arguments, status=0):
    command = [sys.executable, "-m", module, *map(str, arguments)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Sixteen patches with two or three dates each: forty records."""
    folder = tmp_path_factory.mktemp("multisenge")
    done = run(folder, "tfrecords_builder", "--dataset=multisenge", "--synthesize=16", "--workers=2", "--shard_mb=20")
    return folder, done


@pytest.fixture(scope="module")
def records(built):
    return Records(built[0] / "records/multisenge")


def test_simulated_names_are_the_official_ones(built):
    root = built[0] / "data/multisenge"
    names = {part.name: [path.name for path in part.iterdir()] for part in root.iterdir() if part.is_dir()}
    assert {part: len(found) for part, found in names.items()}.items() >= {
        "labels": 16,
        "ground_reference": 16,
        "s2": 40,
    }.items()
    patterns = {
        "labels": r"\d\d[A-Z]{3}_\d+_\d+\.json",
        "ground_reference": r"\d\d[A-Z]{3}_GR_\d+_\d+\.tif",
        "s2": r"\d\d[A-Z]{3}_2020\d{4}_S2_\d+_\d+\.tif",
        "s1": r"\d\d[A-Z]{3}_2020\d{4}_S1_\d+_\d+\.tif",
    }
    for part, pattern in patterns.items():
        assert all(re.fullmatch(pattern, name) for name in names[part])
    listed = [read_patch(root, name.removesuffix(".json")) for name in names["labels"]]
    assert sum(len(patch.s1) for patch in listed) == len(names["s1"])
    assert all(patch.x % 257 == patch.y % 257 == 0 for patch in listed)


def test_build_verify_show(built):
    folder, build = built
    assert build.stderr == ""
    assert "ok: 40 records" in run(folder, "tfrecords_builder", "verify", "records").stdout
    shown = run(folder, "tfrecords_builder", "show", "records").stdout
    tables = {part.splitlines()[0]: [line.split() for line in part.splitlines()[1:]] for part in shown.split("\n\n")}
    assert tables["Dates per patch"] == [["dates", "patches"], ["2", "8"], ["3", "8"]]
    distances = {int(days): int(count) for days, count in tables["Distance of Sentinel-1 from Sentinel-2"][1:]}
    assert sum(distances.values()) == 40
    assert max(distances) <= 2
    assert sum(int(row[1]) for row in tables["Dates of 16 patches by month"][1:]) == 40
    assert "Labels that differ" not in shown


def test_records_are_the_pixels_of_the_files(built, records):
    root, seen = built[0] / "data/multisenge", 0
    for split in records.manifest["splits"]:
        for sample in records.samples(split):
            tile, date, x, y = sample["key"].split("_")
            s1 = sample["s1_date"].replace("-", "")
            for field, path in {
                "s2": f"s2/{tile}_{date}_S2_{x}_{y}.tif",
                "s1": f"s1/{tile}_{s1}_S1_{x}_{y}.tif",
                "ground_reference": f"ground_reference/{tile}_GR_{x}_{y}.tif",
            }.items():
                pixels = np.atleast_3d(tifffile.imread(root / path))
                pixels = pixels if len(pixels) < 256 else np.moveaxis(pixels, -1, 0)
                np.testing.assert_array_equal(sample[field], pixels)
            np.testing.assert_array_equal(sample["labels"], np.unique(sample["ground_reference"]) - 1)
            seen += 1
    assert seen == 40


def test_class_frequencies_per_split_are_those_of_the_maps(records):
    for split, part in records.manifest["splits"].items():
        maps = np.concatenate([sample["ground_reference"].ravel() for sample in records.samples(split)])
        expected = np.bincount(maps, minlength=15)[1:] / len(maps)
        np.testing.assert_allclose(part["classes"]["fractions"], expected, rtol=1e-6, atol=1e-9)


def test_tensorflow_datasets_reads_every_record(records):
    tfds = pytest.importorskip("tensorflow_datasets")
    dataset = tfds.builder_from_directory(str(records.directory)).as_dataset(split="train")
    ours = {sample["key"]: sample for sample in records.samples("train")}
    for example in dataset.as_numpy_iterator():
        sample = ours.pop(example["key"].decode())
        assert example["date"].decode() == sample["date"]
        for field in ("s2", "s1", "ground_reference", "fractions"):
            np.testing.assert_array_equal(example[field], sample[field])
    assert not ours


def test_metz_is_the_test_split(built):
    folder, _ = built
    flags = ["--dataset=multisenge", "--tiles=31UGQ", f"--test_area={METZ}", "--dates=first", "--split=spatial"]
    build = run(folder, "tfrecords_builder", *flags, "--output=metz")
    records = Records(folder / "metz/multisenge")
    inside = [sample["transform"] for sample in records.samples("test")]
    assert inside
    # Metz lies between 722 and 740 km east and 5,436 and 5,452 km north in zone 31, patches included.
    assert all(722_000 < place[2] < 740_000 and 5_436_000 < place[5] < 5_452_000 for place in inside)
    total = sum(records.count(split) for split in records.manifest["splits"])
    left_out = re.search(r"left out: (\d+) patches beside one of another split", build.stdout)
    assert total + (int(left_out[1]) if left_out else 0) == 12
    spec = records.manifest["spec"]
    assert (spec["tiles"], spec["test_area"]) == (["31UGQ"], [6.1, 49.06, 6.25, 49.17])
    assert "already built" in run(folder, "tfrecords_builder", *flags, "--output=metz").stdout


def test_labels_that_differ_from_the_map_are_reported(built, tmp_path):
    root = tmp_path / "data"
    subprocess.run(["cp", "-r", built[0] / "data/multisenge", root], check=True)
    path = sorted((root / "labels").iterdir())[0]
    content = json.loads(path.read_text())
    present = set(content["labels"].split(";"))
    content["labels"] = ";".join(sorted(present | {next(str(n) for n in MULTISENGE.numbers if str(n) not in present)}))
    path.write_text(json.dumps(content))
    build = run(tmp_path, "tfrecords_builder", "--dataset=multisenge", "--dates=first", f"--input={root}")
    tile, x, y = path.stem.split("_")
    assert re.search(rf"labels differ from the map in 1 record, e\.g\. {tile}_\d{{8}}_{x}_{y}", build.stdout)
    shown = run(tmp_path, "tfrecords_builder", "show", "records").stdout
    assert "Labels that differ from the map: 1" in shown


def test_bad_patches_are_left_out_and_named(built, tmp_path):
    root = tmp_path / "data"
    subprocess.run(["cp", "-r", built[0] / "data/multisenge", root], check=True)
    files = sorted((root / "labels").iterdir())
    content = json.loads(files[0].read_text())
    del content["labels"]
    files[0].write_text(json.dumps(content))
    for path in (root / "s1").glob(f"{files[1].stem[:5]}_*_S1_{files[1].stem[6:]}.tif"):
        path.unlink()
    build = run(tmp_path, "tfrecords_builder", "--dataset=multisenge", "--dates=first", f"--input={root}")
    assert "in quarantine: 2" in build.stdout
    lines = [json.loads(line) for line in (tmp_path / "records/multisenge/1.0.0/quarantine.jsonl").read_text().splitlines()]
    reasons = {line["reason"] for line in lines}
    assert reasons == {"has no entry 'labels'", "no such file"}


def test_options_of_another_data_set_are_refused(built, tmp_path):
    done = run(tmp_path, "tfrecords_builder", "--dataset=eurosat", "--tiles=31UGQ", status=1)
    assert done.stderr == "error: --tiles is no option of data set eurosat; its options: none\n"
    done = run(tmp_path, "tfrecords_builder", "--dataset=multisenge", "--test_area=here", status=2)
    assert "test_area" in done.stderr
    done = run(built[0], "tfrecords_builder", "--dataset=multisenge", "--tiles=31UGR", "--output=other", status=1)
    assert "unknown tile '31UGR'. Did you mean '31UGQ'" in done.stderr
    assert not (built[0] / "other").exists()


def test_classify_trains_on_the_labels(built):
    folder, _ = built
    run(
        folder,
        "experiments.classify",
        "--records=records/multisenge",
        "--model=resnet_small",
        "--input=s1s2",
        "--augment=crop:64",
        "--epochs=1",
        "--batch_size=8",
        "--run_dir=run",
    )
    report = json.loads((folder / "run/report.json").read_text())
    assert list(report["per_class"]) == list(MULTISENGE.classes)
    records = Records(folder / "records/multisenge")
    supports = [scores["support"] for scores in report["per_class"].values()]
    assert supports == records.manifest["splits"]["test"]["classes"]["labels"]
    assert (folder / "run/export/card.json").exists()

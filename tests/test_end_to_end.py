"""The commands of the README as a user gives them, from simulated patches to a prediction."""

import json
import subprocess
import sys

import numpy as np
import pytest
import tifffile

from tfrs.labels import IGBP_SIMPLIFIED


def run(folder, module, *arguments, status=0):
    command = [sys.executable, "-m", module, *map(str, arguments)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("end_to_end")
    run(folder, "tfrecords_builder", "--dataset", "sen12ms", "--synthesize", 15)
    return folder


@pytest.fixture(scope="module")
def finished(folder):
    flags = [
        "--model=resnet_small",
        "--input=s1s2",
        "--fusion=late",
        "--augment=dihedral,crop:64",
        "--epochs=2",
        "--batch_size=4",
    ]
    return folder, run(folder, "experiments.classify", *flags, "--run_dir=runs/a")


def test_defaults_find_data_and_records_and_the_build_verifies(folder):
    assert (folder / "data/sen12ms/SIMULATED.json").exists()
    assert "ok: 15 records" in run(folder, "tfrecords_builder", "verify", "records").stdout
    shown = run(folder, "tfrecords_builder", "show", "records/sen12ms").stdout
    assert "simulated" in shown
    assert all(name in shown for name in IGBP_SIMPLIFIED.classes)


def test_run_directory_holds_what_the_contract_says(finished):
    folder, done = finished
    run_dir = folder / "runs/a"
    names = {path.name for path in run_dir.iterdir()}
    assert {"flags.txt", "checkpoints", "tensorboard", "history.csv", "report.json", "report.md", "export"} <= names
    assert {"confusion.png", "f1.png"} <= names
    assert not done.stderr, "a run that goes well has nothing to say on stderr"
    report = json.loads((run_dir / "report.json").read_text())
    assert report["split"] == "test"
    assert set(report["per_class"]) == set(IGBP_SIMPLIFIED.classes)
    assert report["per_class"]["Snow/Ice"]["f1"] is None, "absent from the simulated landscapes"
    card = json.loads((run_dir / "export/card.json").read_text())
    assert card["inputs"]["s2"]["bands"][:3] == ["B02", "B03", "B04"]
    assert card["inputs"]["s1"] == {
        "bands": ["VV", "VH"],
        "dtype": "float32",
        "unit": "decibel",
        "nodata": None,
        "layout": "(batch, band, row, column)",
    }


def test_same_command_on_a_finished_run_has_nothing_to_train(finished):
    folder, _ = finished
    again = run(folder, "experiments.classify", "--flagfile=runs/a/flags.txt")
    assert "finished already" in again.stdout


def test_other_settings_in_the_same_run_directory_are_refused(finished):
    folder, _ = finished
    refused = run(folder, "experiments.classify", "--flagfile=runs/a/flags.txt", "--epochs=3", status=1)
    assert "epochs: 2 there, 3 asked for" in refused.stderr
    assert refused.stderr.count("\n") == 1


def test_evaluate_repeats_the_report_and_names_other_splits(finished):
    folder, _ = finished
    before = (folder / "runs/a/report.json").read_text()
    run(folder, "experiments.evaluate", "--run_dir", "runs/a", "--split", "test")
    assert (folder / "runs/a/report.json").read_text() == before
    run(folder, "experiments.evaluate", "--run_dir", "runs/a", "--split", "train")
    assert json.loads((folder / "runs/a/report-train.json").read_text())["patches"] == 9
    assert (
        "Did you mean 'test'" in run(folder, "experiments.evaluate", "--run_dir", "runs/a", "--split", "tset", status=1).stderr
    )


def patch(folder):
    path = next((folder / "data/sen12ms").glob("ROIs*/s2_*/*.tif"))
    other = path.parent.parent / path.parent.name.replace("s2_", "s1_") / path.name.replace("_s2_", "_s1_")
    return path, other


def test_predict_equals_the_saved_model_run_without_this_package(finished, tmp_path):
    folder, _ = finished
    s2, s1 = patch(folder)
    printed = run(
        folder, "experiments.predict", "--export=runs/a/export", f"--scene=s2={s2},s1={s1}", "--layout=sen12ms"
    ).stdout
    shown = {line.split("%")[1].strip().removesuffix("  <-"): float(line.split("%")[0]) for line in printed.splitlines()}

    bands = [1, 2, 3, 4, 5, 6, 7, 8, 11, 12]  # B02..B8A, B11, B12 in ESA order
    pixels = tifffile.imread(s2)
    pixels = np.moveaxis(pixels, -1, 0) if pixels.shape[-1] == 13 else pixels
    backscatter = tifffile.imread(s1)
    backscatter = np.moveaxis(backscatter, -1, 0) if backscatter.shape[-1] == 2 else backscatter
    np.savez(tmp_path / "patch.npz", s2=pixels[bands][None], s1=backscatter[None])
    script = (
        "import sys, json, numpy as np, tensorflow as tf\n"
        "model = tf.saved_model.load(sys.argv[1]).signatures['serving_default']\n"
        "patch = np.load(sys.argv[2])\n"
        "out = model(s2=tf.constant(patch['s2']), s1=tf.constant(patch['s1']))\n"
        "assert not any(name.split('.')[0] == 'tfrs' for name in sys.modules)\n"
        "print(json.dumps(out['probabilities'].numpy()[0].tolist()))\n"
    )
    command = [sys.executable, "-c", script, str(folder / "runs/a/export"), str(tmp_path / "patch.npz")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    for name, probability in zip(IGBP_SIMPLIFIED.classes, json.loads(done.stdout), strict=True):
        assert shown[name] == pytest.approx(100 * probability, abs=0.051)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--scene=s2={s1},s1={s1}", "--layout=sen12ms"], "has 2 bands, 13 are named"),
        (["--scene=s2={s2},s1={s1}", "--layout=sen12sm"], "Did you mean 'sen12ms'"),
    ],
)
def test_predict_refuses_what_does_not_fit_the_card(finished, arguments, message):
    folder, _ = finished
    s2, s1 = patch(folder)
    arguments = [argument.format(s2=s2, s1=s1) for argument in arguments]
    refused = run(folder, "experiments.predict", "--export=runs/a/export", *arguments, status=1)
    assert message in refused.stderr
    assert refused.stderr.count("\n") == 1


def test_the_papers_model_trains_one_epoch_through_the_default_flags(folder):
    flags = [
        "--model=resnet50",
        "--input=s2_ms",
        "--augment=crop:64",
        "--epochs=1",
        "--batch_size=4",
        "--run_dir=runs/resnet50",
    ]
    done = run(folder, "experiments.classify", *flags)
    assert "average_f1" in done.stdout
    assert (folder / "runs/resnet50/export/saved_model.pb").exists()


@pytest.mark.parametrize(
    "flag, message",
    [
        ("--input=s2_rbg", "Did you mean 's2_rgb'"),
        ("--cpu_devices=3", "cannot be shared by 3 devices"),
    ],
)
def test_wrong_settings_give_one_line_and_no_run_directory(folder, flag, message):
    refused = run(folder, "experiments.classify", "--batch_size=4", "--run_dir=runs/wrong", flag, status=1)
    assert message in refused.stderr
    assert refused.stderr.count("\n") == 1
    assert not (folder / "runs/wrong").exists()


def test_unknown_flag_is_status_2_with_a_suggestion(folder):
    refused = run(folder, "experiments.classify", "--modle=resnet50", status=2)
    assert "Did you mean: model" in refused.stderr


@pytest.mark.parametrize("module", ["tfrecords_builder", "experiments.classify", "experiments.evaluate", "experiments.predict"])
def test_help_imports_nothing_that_takes_long(module):
    """Half a second is the aim, which benchmarks.startup measures."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", module, "--help"], capture_output=True, text=True, check=True
    )
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert "absl" in imported
    assert not imported & {"keras", "matplotlib", "pyarrow", "rasterio", "scipy", "tensorflow"}

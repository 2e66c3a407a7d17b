"""Segmentation as a user runs it: records of three data sets, a training through the real command, and a map."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
import tifffile

from tfrs import registry, train
from tfrs.errors import UserError
from tfrs.experiment import Experiment
from tfrs.labels import BIGEARTHNET_19, MULTISENGE_URBAN
from tfrs.records import Records

SMALL = ("--batch_size=4", "--epochs=1", "--augment=dihedral,crop:32")


def run(folder, module, *arguments, status=0):
    command = [sys.executable, "-m", module, *map(str, arguments)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stdout + done.stderr
    return done


def build(folder, dataset, patches):
    run(folder, "tfrecords_builder", f"--dataset={dataset}", f"--synthesize={patches}", "--workers=1")
    return Records(folder / "records" / dataset)


@pytest.fixture(scope="module")
def multisenge(tmp_path_factory):
    """Both U-Nets of Wenger et al. 2022, trained for one step: the one with indices, its map of one patch."""
    folder = tmp_path_factory.mktemp("multisenge")
    records = build(folder, "multisenge", 8)
    options = ("--model=unet_vgg16", "--input=irrg_index", "--scheme=multisenge_urban", "--run_dir=run", *SMALL)
    run(folder, "experiments.segment", *options)
    return folder, records


def test_exported_model_labels_a_patch_as_predict_and_the_report_do(multisenge):
    folder, records = multisenge
    sample = records.sample("test", 0)
    card = json.loads((folder / "run/export/card.json").read_text())
    assert card["inputs"]["s2"]["bands"] == ["B08", "B04", "B03", "B11"]
    assert card["inputs"]["s2"]["channels"] == ["B08", "B04", "B03", "NDVI", "NDBI", "eNDVI"]
    assert card["output"]["layout"] == "(batch, class, row, column)"
    assert [entry["name"] for entry in card["classes"]] == list(MULTISENGE_URBAN.classes)
    serve = tf.saved_model.load(str(folder / "run/export")).signatures["serving_default"]

    def label(image):
        bands = image[[6, 2, 1, 8]]  # of B02 B03 B04 B05 B06 B07 B08 B8A B11 B12
        return serve(s2=tf.constant(bands[None]))["probabilities"].numpy()[0].argmax(0)

    tile, date, x, y = sample["key"].split("_")
    scene = f"data/multisenge/s2/{tile}_{date}_S2_{x}_{y}.tif"
    done = run(
        folder, "experiments.predict", "--export=run/export", f"--scene=s2={scene}", "--layout=multisenge", "--output=map.tif"
    )
    labelled = label(sample["s2"])
    np.testing.assert_array_equal(tifffile.imread(folder / "map.tif"), labelled + 1)
    shares = {MULTISENGE_URBAN.classes[i]: f"{(labelled == i).mean():7.1%}" for i in np.unique(labelled)}
    assert all(f"{share}  {name}" in done.stdout for name, share in shares.items())

    matrix = np.zeros((6, 6))
    for found in records.samples("test"):
        truth = np.minimum(found["ground_reference"][0], 6) - 1
        np.add.at(matrix, (truth, label(found["s2"])), 1)
    np.testing.assert_array_equal(json.loads((folder / "run/report.json").read_text())["confusion_matrix"], matrix)


def test_report_has_the_form_of_the_papers_tables(multisenge):
    folder, records = multisenge
    report = json.loads((folder / "run/report.json").read_text())
    pixels = 256 * 256 * records.count("test")
    assert sum(row["support"] for row in report["per_class"].values()) == pixels == np.sum(report["confusion_matrix"])
    text = (folder / "run/report.md").read_text()
    assert "| Class | Pixels | F1 | IoU | Precision | Recall |" in text and "Weighted F1 (by support)" in text
    assert (folder / "run/patches.png").stat().st_size > 1000


def test_map_needs_an_output(multisenge):
    refused = run(multisenge[0], "experiments.predict", "--export=run/export", "--scene=s2=x.tif", status=1)
    assert "this model labels pixels; give the map's file with --output, e.g. map.tif" in refused.stderr


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"task": "single_label"}, "--task=single_label is not for this command"),
        ({"model": "resnet50"}, "resnet50 is a classifier; to label pixels take e.g. unet_vgg16"),
        ({"model": "unet_efficientnetb0"}, "efficientnetb0 cannot be used"),
        ({"model": "pspnet_resnet18", "augment": ("crop:32",)}, "pspnet_resnet18 takes patches of 256x256 only, not 32x32"),
        ({"encoder_weights": "nowhere.h5"}, "no such file"),
        ({"first_convolution": "random"}, "--first_convolution is for networks with --encoder_weights"),
        ({"learning_rate": -1.0}, "--learning_rate=-1.0 is out of range"),
        ({"threshold": 0.2}, "--threshold is for --task=multi_label; this run's task is segmentation"),
        ({"fusion": "late"}, "--fusion is for classifiers"),
        ({"ignore": ("Savanna",)}, "unknown class of multisenge 'Savanna'"),
    ],
)
def test_refused_settings(multisenge, tmp_path, settings, message):
    given = {"model": "unet_mobilenet", "input": "irrg", "task": "segmentation", **settings}
    records = str(multisenge[1].directory)
    with pytest.raises(UserError, match=re.escape(message)):
        train.run(Experiment(records=records, run_dir=str(tmp_path / "never"), batch_size=4, **given), "segment")
    assert not (tmp_path / "never").exists()


def test_settings_of_segmentation_are_refused_elsewhere(multisenge, tmp_path):
    experiment = Experiment(records=str(multisenge[1].directory), run_dir=str(tmp_path / "never"), loss="dice")
    with pytest.raises(UserError, match="--loss is for --task=segmentation"):
        train.run(experiment)


def test_sen12ms_with_coarse_labels(tmp_path):
    """Weak supervision: both sensors, savanna ignored, smoothed labels of the simplified scheme, a sum of losses."""
    build(tmp_path, "sen12ms", 10)
    options = ("--records=records/sen12ms", "--model=unet_mobilenet", "--input=s1s2", "--ignore=Savanna", "--run_dir=run")
    run(tmp_path, "experiments.segment", *options, "--label_smoothing=0.1", "--loss=focal+0.5*dice", *SMALL)
    report = json.loads((tmp_path / "run/report.json").read_text())
    assert len(report["per_class"]) == 9 and report["ignored_classes"] == ["Savanna"]


def test_bigearthnet_v2_reference_maps(tmp_path, capsys):
    """120x120 patches, no multiple of 32, and pixels without a class; the encoder's weights are needed at the start only."""
    registry.segmenter("unet_mobilenet")("unet_mobilenet").encoder.build(3).save_weights(tmp_path / "encoder.weights.h5")
    records = build(tmp_path, "bigearthnet_v2", 12)
    experiment = Experiment(
        model="unet_mobilenet",
        input="s2_10m",
        records=str(records.directory),
        run_dir=str(tmp_path / "run"),
        task="segmentation",
        batch_size=4,
        epochs=1,
        encoder_weights=str(tmp_path / "encoder.weights.h5"),
    )
    scores = train.run(experiment, "segment")
    assert 0 <= scores["mean_iou"] <= 1
    (tmp_path / "encoder.weights.h5").unlink()
    assert train.run(experiment, "segment") == scores and "finished already" in capsys.readouterr().out
    report = json.loads((tmp_path / "run/report.json").read_text())
    maps = np.concatenate([sample["reference_map"].ravel() for sample in records.samples("test")])
    assert list(report["per_class"]) == list(BIGEARTHNET_19.classes)
    assert report["per_class"]["Urban fabric"]["support"] == np.isin(maps, (111, 112)).sum()
    # Codes of CLC level 3 that the 19 classes leave out.
    dropped = (122, 123, 124, 131, 132, 133, 141, 142, 332, 334, 335, 423, 990, 995, 999, 0)
    assert np.sum(report["confusion_matrix"]) == (~np.isin(maps, dropped)).sum()

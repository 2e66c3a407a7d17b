"""A run whose model sees indices: training with augmentation, report, card, and the same answers from the SavedModel."""

import json

import numpy as np
import pytest
import tensorflow as tf
from small_records import settings, write_records

from tfrs import assemble, evaluate, registry, train
from tfrs.errors import UserError
from tfrs.experiment import Experiment


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setitem(registry.MODELS, "tiny", "small_records:encoder")


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    return write_records(tmp_path_factory.mktemp("records"), train=16, val=4, test=4)


def test_run_with_indices(records, tmp_path):
    experiment = settings(
        records,
        tmp_path / "run",
        input="irrg_index",
        epochs=1,
        mixed_precision="bfloat16",
        augment=("noise:1", "band_dropout:0.5", "mixup"),
        entropy_levels=4,
        entropy_window=5,
        entropy_offsets=("0:1", "1:0"),
    )
    assert np.isfinite(train.run(experiment)["average_f1"])
    folder = tmp_path / "run"
    card = json.loads((folder / "export/card.json").read_text())
    assert card["inputs"]["s2"]["bands"] == ["B08", "B04", "B03", "B11"]
    assert card["inputs"]["s2"]["channels"] == ["B08", "B04", "B03", "NDVI", "NDBI", "eNDVI"]
    assert card["inputs"]["s2"]["entropy"] == {"levels": 4, "window": 5, "offsets": [[0, 1], [1, 0]]}
    assert Experiment.from_flags((folder / "flags.txt").read_text()) == experiment

    task = assemble.task(experiment, records)
    model = evaluate.best_model(experiment, folder, records, task)
    image = np.stack([sample["s2"] for sample in records.samples("test")])[
        :, records.sensors["s2"].index(["B08", "B04", "B03", "B11"])
    ]
    serve = tf.saved_model.load(str(folder / "export")).signatures["serving_default"]
    found = serve(s2=tf.constant(image))["probabilities"]
    np.testing.assert_allclose(found, task.probabilities(model({"s2": image}, training=False)), rtol=1e-4, atol=1e-6)
    layer = model.get_layer("indices_s2")
    assert (layer.entropy.levels, layer.entropy.window, layer.entropy.offsets) == (4, 5, ((0, 1), (1, 0)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"entropy_levels": 40}, r"--entropy_levels=40 is out of range"),
        ({"entropy_window": 6}, r"--entropy_window=6 must be odd"),
        ({"entropy_offsets": ("1",)}, r"--entropy_offsets=1: give row:column"),
    ],
)
def test_wrong_settings_are_refused_before_anything_is_read(records, tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        settings(records, tmp_path, **changes)

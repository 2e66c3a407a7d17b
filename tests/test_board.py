import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tfrs import board, metrics, plots
from tfrs.labels import EUROSAT, IGBP_SIMPLIFIED
from tfrs.sensors import Sensor, sentinel1
from tfrs.tasks import MultiLabel, SingleLabel

SENSORS = {"s2": Sensor("s2", ("B02", "B08", "B03", "B04"), "uint16", ""), "s1": sentinel1()}
TASK = SingleLabel(EUROSAT, ("label",))


def events(folder):
    found = EventAccumulator(str(folder), size_guidance={"tensors": 0})
    found.Reload()
    return found


def values(found, tag):
    return [(event.step, float(tf.make_ndarray(event.tensor_proto))) for event in found.Tensors(tag)]


def row(epoch):
    return {
        "epoch": epoch,
        "loss": 1 / epoch,
        "val_loss": 2 / epoch,
        "learning_rate": 1e-3,
        "images_per_second": 10.0,
        "waiting": 0.25,
    }


def test_scalars_of_every_epoch(tmp_path):
    matrix = np.eye(10) * 4
    matrix[3] = 0
    scores = metrics.scores(matrix, EUROSAT.classes)
    with board.Board(tmp_path, TASK, SENSORS) as shown:
        shown.epoch(row(1), scores)
        shown.epoch(row(2), scores)
    found = events(tmp_path)
    present = [name for name in EUROSAT.classes if name != "Highway"]
    assert set(found.Tags()["tensors"]) == {
        *("loss/train", "loss/val", "val/average_f1", "val/overall_f1", "val/weighted_f1", "val/overall_accuracy"),
        *("val/average_accuracy", "val/mean_iou", "val/kappa"),
        *("training/learning_rate", "training/images_per_second", "training/waiting"),
        *(f"val_{score}/{name}" for name in present for score in ("f1", "iou")),
    }
    assert values(found, "loss/train") == [(1, 1), (2, 0.5)]
    assert values(found, "loss/val") == [(1, 2), (2, 1)]
    assert values(found, "training/waiting") == [(1, 0.25), (2, 0.25)]
    assert values(found, "val_f1/River") == [(1, 1), (2, 1)]
    assert values(found, "training/learning_rate") == [(1, pytest.approx(1e-3)), (2, pytest.approx(1e-3))]


def test_each_head_has_its_scores(tmp_path):
    one, other = (
        {"scheme": s.name, **metrics.scores(np.eye(10) * n, s.classes)} for n, s in ((1, IGBP_SIMPLIFIED), (2, EUROSAT))
    )
    other["kappa"] = 0.25
    with board.Board(tmp_path, TASK, SENSORS) as shown:
        shown.epoch(row(1), one | {"heads": {"probabilities": one, "patch_class": other}})
    found = events(tmp_path)
    assert values(found, "val/kappa") == [(1, 1)] and values(found, "val_eurosat/kappa") == [(1, 0.25)]
    assert {"val_f1/Barren", "val_f1/River"} <= set(found.Tags()["tensors"])


def batch(count=12):
    """Patches whose every pixel is 100 times the number of the patch plus the position of the band."""
    numbers = 100 * np.arange(1, count + 1)[:, None, None, None] + np.arange(4)[:, None, None]
    s2 = np.broadcast_to(numbers, (count, 4, 6, 6)).astype(np.uint16)
    return {"s2": s2, "s1": np.full((count, 2, 6, 6), -10, np.float32)}


def by_first_pixel(images, training):
    """A classifier that takes patch n for class n - 1."""
    assert training is False
    return tf.one_hot(tf.cast(images["s2"][:, 0, 0, 0], tf.int32) // 100 - 1, 10) * 5


def test_first_patches_with_reference_and_prediction(tmp_path, monkeypatch):
    drawn, draw = [], plots.patches

    def watch(*arguments):
        drawn.append(arguments)
        return draw(*arguments)

    monkeypatch.setattr(plots, "patches", watch)
    target = np.r_[0, 5, np.arange(2, 10), 0, 0]
    dataset = tf.data.Dataset.from_tensors((batch(), target, np.ones(12, np.float32)))
    with board.Board(tmp_path, TASK, SENSORS) as shown:
        shown.patches(4, dataset, by_first_pixel)
    ((images, true, predicted),) = drawn
    names = [[name] for name in EUROSAT.classes]
    assert predicted == names[:8]
    assert true == [names[0], names[5], *names[2:8]]
    assert list(images) == ["s2 B04 B03 B02", "s1 VV"]
    assert images["s2 B04 B03 B02"].shape == (8, 6, 6, 3) and images["s1 VV"].shape == (8, 6, 6)
    found = events(tmp_path)
    assert found.PluginTagToContent("images").keys() == {"val/patches"}
    (event,) = found.Tensors("val/patches")
    width, height, picture = tf.make_ndarray(event.tensor_proto)
    assert event.step == 4 and tf.image.decode_png(picture).shape[:2] == (int(height), int(width))


def test_bands_of_the_picture_go_by_name(tmp_path, monkeypatch):
    """True colour out of B02 B08 B03 B04."""
    seen = []
    monkeypatch.setattr(plots, "displayable", lambda image: seen.append(image) or np.zeros((len(image), 6, 6, 3)))
    dataset = tf.data.Dataset.from_tensors((batch(2), np.zeros(2, int), np.ones(2, np.float32)))
    with board.Board(tmp_path, TASK, SENSORS) as shown:
        shown.patches(1, dataset, by_first_pixel)
    np.testing.assert_array_equal(seen[0][:, :, 0, 0], [[103, 102, 100], [203, 202, 200]])


def test_multi_labels_have_several_names_or_none(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(plots, "patches", lambda *arguments: drawn.append(arguments) or plots.Figure(figsize=(1, 1)))
    target = np.zeros((2, 10), np.float32)
    target[0, [0, 9]] = 1
    dataset = tf.data.Dataset.from_tensors((batch(2), target, np.ones(2, np.float32)))
    with board.Board(tmp_path, MultiLabel(IGBP_SIMPLIFIED, ("labels",)), SENSORS) as shown:
        shown.patches(1, dataset, lambda images, training: tf.constant([[-1.0] * 10, [-1.0, 1.0, 2.0] + [-1.0] * 7]))
    assert drawn[0][1:] == ([["Forest", "Water"], []], [[], ["Shrubland", "Savanna"]])


def test_graph(tmp_path):
    dense = keras.layers.Dense(2, name="of_the_graph")
    step = tf.function(dense).get_concrete_function(tf.TensorSpec((None, 3)))
    with board.Board(tmp_path, TASK, SENSORS) as shown:
        shown.graph(step.graph)
    found = events(tmp_path)
    assert found.Tags()["graph"]
    assert any("of_the_graph" in node.name or "MatMul" in node.op for node in found.Graph().node)


def test_figure_as_pixels():
    figure = plots.Figure(figsize=(2, 1), dpi=50, facecolor="#ff0000")
    figure.subplots().set_axis_off()
    made = board.pixels(figure)
    assert made.dtype == np.uint8 and made.shape[2] == 4 and made[0, 0].tolist() == [255, 0, 0, 255]

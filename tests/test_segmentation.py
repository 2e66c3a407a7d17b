"""Dense labels: from the map in the records to the target, the loss and the confusion matrix."""

import dataclasses
import json

import numpy as np
import pytest
import sklearn.metrics
import tensorflow as tf
from small_records import write_records
from test_train import python

from tfrs import metrics, pipeline, pixels, segmentation
from tfrs.errors import UserError
from tfrs.labels import BIGEARTHNET_19, BIGEARTHNET_43, DFC2020, IGBP, IGBP_SIMPLIFIED, IGNORE, MULTISENGE, lookup
from tfrs.records import Records

SETTINGS = {"scheme": "", "ignored": (), "loss": "cross_entropy", "class_weights": "none", "label_smoothing": 0.0}


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    return write_records(tmp_path_factory.mktemp("records"), train=21, val=5)


def create(records, **changes):
    return segmentation.create(records, **{**SETTINGS, **changes})


def stored(records, split):
    """Key -> the map of a record, read without the pipeline."""
    return {sample["key"]: sample["lc"][0] for sample in records.samples(split)}


SIMPLE = {
    number: name for number, name in zip(range(1, 18), [0] * 5 + [1] * 2 + [2] * 2 + [3, 4, 5, 6, 5, 7, 8, 9], strict=True)
}


def test_numbers_become_class_ids():
    table = lookup("igbp", IGBP_SIMPLIFIED)
    assert [int(table[number]) for number in range(1, 18)] == list(SIMPLE.values())
    assert table[0] == table[18] == IGNORE and len(table) == 19


def test_dropped_and_ignored_classes():
    """DFC2020 has no savanna (8, 9) and no snow (15); grassland (10) is its third class."""
    table = lookup("igbp", DFC2020.without(["Water"]))
    assert [int(table[number]) for number in (1, 8, 9, 10, 15, 16, 17)] == [0, IGNORE, IGNORE, 2, IGNORE, 6, IGNORE]


def test_corine_codes_become_the_nineteen_classes():
    table = lookup("bigearthnet_43", BIGEARTHNET_19)
    codes = {112: 0, 121: 1, 122: None, 211: 2, 231: 4, 312: 9, 332: None, 512: 17, 523: 18, 335: None, 0: None}
    assert {code: int(table[code]) for code in codes} == {c: IGNORE if i is None else i for c, i in codes.items()}
    assert table[-1] == IGNORE and len(table) == max(BIGEARTHNET_43.numbers) + 2


def test_counts_in_the_manifest_are_those_of_the_maps(records):
    for split in ("train", "val"):
        numbers = np.concatenate([image.ravel() for image in stored(records, split).values()])
        assert records.manifest["splits"][split]["classes"]["lc"] == [int((numbers == n).sum()) for n in IGBP.numbers]


@pytest.mark.parametrize("read", ["random", "sequential"])
def test_target_is_the_map(records, read):
    task = create(records)
    maps = stored(records, "val")
    keys = list(maps)
    batches = pipeline.load(records, "val", inputs="s1", task=task, batch_size=4, read=read)
    targets = np.concatenate([target.numpy() for _, target, _ in batches])
    assert targets.dtype == np.uint8 and targets.shape == (8, 16, 16)
    for key, target in zip(keys, targets, strict=False):
        np.testing.assert_array_equal(target, np.vectorize(SIMPLE.get)(maps[key]))


@pytest.mark.parametrize("read", ["random", "sequential"])
def test_image_and_map_are_augmented_with_one_draw(records, read):
    """Bands of the small patches tell the class: wherever a pixel goes, its class goes with it, and noise leaves maps alone."""
    load = {"inputs": "B02", "task": create(records, scheme="igbp"), "batch_size": 7, "read": read}
    spectra = np.random.default_rng(0).integers(300, 5000, (13, 18))[1]
    plain = np.concatenate([target.numpy() for _, target, _ in pipeline.load(records, "train", **load)])
    for images, target, _ in pipeline.load(records, "train", augment=("dihedral", "crop:11"), seed=1, **load):
        assert target.shape == (7, 11, 11)
        difference = images["s2"].numpy()[:, 0].astype(int) - spectra[target.numpy() + 1]
        assert (difference >= 0).all() and (difference < 200).all()
    noisy = [target.numpy() for _, target, _ in pipeline.load(records, "train", augment=("noise",), seed=1, **load)]
    assert sorted(t.tobytes() for t in np.concatenate(noisy)) == sorted(t.tobytes() for t in plain)


def test_turned_corners_have_no_class(records):
    load = {"inputs": "B02", "task": create(records, scheme="igbp"), "batch_size": 7}
    for images, target, _ in pipeline.load(records, "train", augment=("rotate",), seed=1, **load):
        no_data = images["s2"].numpy()[:, 0] == 0
        np.testing.assert_array_equal(target.numpy() == IGNORE, no_data)
        assert no_data.any(axis=(1, 2)).sum() > 4 and no_data.mean() < 0.3


def test_cutmix_pastes_the_map_with_the_image(records):
    """Bands of the small patches tell the class, whoever's pixel it is."""
    load = {"inputs": "B02", "task": create(records, scheme="igbp"), "batch_size": 7}
    spectra = np.random.default_rng(0).integers(300, 5000, (13, 18))[1]
    plain = pipeline.load(records, "train", seed=1, **load)
    mixed = pipeline.load(records, "train", augment=("cutmix",), seed=1, **load)
    for (_, before, _), (images, target, _) in zip(plain, mixed, strict=True):
        assert target.shape == (7, 16, 16) and target.dtype == tf.uint8
        difference = images["s2"].numpy()[:, 0].astype(int) - spectra[target.numpy() + 1]
        assert (difference >= 0).all() and (difference < 200).all()
        neighbour = np.roll(before, -1, axis=0)
        assert ((target == before) | (target == neighbour)).numpy().all() and (target != before).numpy().any()


def test_mixup_is_refused(records):
    with pytest.raises(UserError, match="mixup would mix maps of classes"):
        pipeline.load(records, "train", inputs="s1", task=create(records), batch_size=2, augment=["mixup"], seed=0)


def test_confusion_matrix_is_scikit_learns(records):
    task = create(records)
    rng = np.random.default_rng(0)
    target = rng.choice([0, 1, 4, 9, IGNORE], (3, 6, 7)).astype(np.uint8)
    logits = rng.normal(size=(3, 6, 7, 10)).astype(np.float32)
    matrix = task.confusion(tf.constant(target), tf.constant(logits), tf.constant([1.0, 0.0, 1.0])).numpy()
    used = (target != IGNORE) & np.array([True, False, True])[:, None, None]
    true, guess = target[used], logits.argmax(-1)[used]
    np.testing.assert_array_equal(matrix, sklearn.metrics.confusion_matrix(true, guess, labels=range(10)))
    scores = metrics.scores(matrix, task.scheme.classes)
    present = [0, 1, 4, 9]
    assert scores["overall_accuracy"] == pytest.approx(sklearn.metrics.accuracy_score(true, guess))
    assert scores["kappa"] == pytest.approx(sklearn.metrics.cohen_kappa_score(true, guess))
    for name, reference in (("average_f1", "macro"), ("weighted_f1", "weighted")):
        expected = sklearn.metrics.f1_score(true, guess, labels=present, average=reference)
        assert scores[name] == pytest.approx(expected)
    expected = sklearn.metrics.jaccard_score(true, guess, labels=present, average="macro")
    assert scores["mean_iou"] == pytest.approx(expected)
    expected = sklearn.metrics.recall_score(true, guess, labels=present, average="macro")
    assert scores["average_accuracy"] == pytest.approx(expected)


def test_size_is_the_number_of_valid_pixels(records):
    target = np.full((2, 3, 4), IGNORE, np.uint8)
    target[1, :2, 1] = 3
    assert create(records).size(tf.constant(target)).numpy().tolist() == [0, 2]


def test_weights_come_from_the_training_split(records):
    """Weights of the merged classes, without those that are ignored."""
    maps = np.concatenate([np.vectorize(SIMPLE.get)(image).ravel() for image in stored(records, "train").values()])
    assert set(maps) == {0, 1, 2, 5, 9}
    weights = create(records, class_weights="inverse", ignored=("Savanna",)).class_weights
    used = maps[maps != 2]
    expected = [len(used) / (used == c).sum() if (maps == c).any() else 0 for c in range(10) if c != 2]
    assert weights == pytest.approx(expected)


def test_ignored_classes_are_no_classes_of_the_model(records):
    task = create(records, ignored=("Savanna",))
    assert task.scheme.classes == tuple(name for name in IGBP_SIMPLIFIED.classes if name != "Savanna")
    assert task.scheme.numbers == (1, 2, 4, 5, 6, 7, 8, 9, 10)
    target = task.target({"lc": tf.constant(np.array([[[[1, 8, 9, 10, 17]]]], np.uint8))})
    assert target.numpy().tolist() == [[[0, IGNORE, IGNORE, 2, 8]]]


def test_pixels_without_data_have_no_class(records, monkeypatch):
    """A pixel of Sentinel-2 that is 0 in all bands read, and one of Sentinel-1 that is NaN in one."""
    gather = pixels.gather

    def with_holes(shards, starts, field, *rest):
        image = gather(shards, starts, field, *rest)
        if field.dtype == "uint16":
            image[:, :, 3, 5], image[:, 0, 6, 6] = 0, 0
        elif field.dtype == "float32":
            image[:, 1, 7, 2] = np.nan
        return image

    monkeypatch.setattr(pixels, "gather", with_holes)
    (_, target, _), *_ = pipeline.load(records, "val", inputs="s1s2", task=create(records), batch_size=4)
    holes = np.zeros((16, 16), bool)
    holes[3, 5] = holes[7, 2] = True
    np.testing.assert_array_equal(target.numpy() == IGNORE, np.broadcast_to(holes, (4, 16, 16)))


def test_sum_of_losses_and_class_weights(records):
    """A pixel of class 0 with probability 1/2: weight ln 2 + 0.5 (1 - Dice), Dice = 2 (1/2) / (1/2 + 1)."""
    task = create(records, loss="cross_entropy+0.5*dice")
    task = dataclasses.replace(task, class_weights=(3.0, *[1.0] * 9))
    logits = np.full((1, 1, 1, 10), -30, np.float32)
    logits[..., :2] = 0
    loss = task.loss(tf.zeros((1, 1, 1), tf.uint8), tf.constant(logits)).numpy()
    assert loss == pytest.approx([3 * np.log(2) + 0.5 * (1 - 2 / 3)], rel=1e-5)


def test_scheme_is_that_of_the_labels_unless_another_is_given(records):
    assert create(records).scheme == IGBP_SIMPLIFIED
    assert create(records, scheme="igbp").scheme == IGBP
    assert len(create(records, scheme="dfc2020").scheme.classes) == 8


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scheme": "multisenge"}, "unknown scheme for classes of igbp 'multisenge'. Known: igbp, igbp_simplified, dfc2020"),
        ({"ignored": ("savanna",)}, "unknown class of igbp_simplified 'savanna'. Did you mean 'Savanna'"),
        ({"ignored": IGBP_SIMPLIFIED.classes}, "--ignore names all classes of igbp_simplified"),
        (
            {"ignored": [n for n in IGBP_SIMPLIFIED.classes if n != "Snow/Ice"]},
            "no pixel of split train has one of the classes Snow/Ice",
        ),
        ({"loss": "dice+jaccard", "label_smoothing": 0.1}, r"--label_smoothing has no effect on --loss=dice\+jaccard"),
        ({"class_weights": "x"}, "unknown class weights 'x'"),
        ({"loss": "hinge"}, "unknown loss 'hinge'"),
    ],
)
def test_refused_settings(records, changes, message):
    with pytest.raises(UserError, match=message):
        create(records, **changes)


def test_records_without_a_map(records, tmp_path):
    manifest = json.loads((records.directory / "manifest.json").read_text())
    del manifest["splits"]["train"]["classes"]["lc"]
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match=r"no map of classes with its pixels counted .* built by this version"):
        create(Records(tmp_path))


def test_labels_of_a_patch(records):
    task = create(records)
    ids = np.array([[0, 9], [IGNORE, 0]], np.uint8)
    assert task.decode(ids) == ["Forest", "Water"]
    assert task.decode(np.eye(10)[[[0, 9], [1, 0]]]) == ["Forest", "Shrubland", "Water"]
    assert MULTISENGE.palette()[13].tolist() == [0x2A, 0x6F, 0xBB] and MULTISENGE.palette()[IGNORE].tolist() == [0, 0, 0]


TWO_REPLICAS = """
import json
import keras, numpy as np, tensorflow as tf
from small_steps import rows
from tfrs.evaluate import make_measure
from tfrs.labels import IGBP_SIMPLIFIED
from tfrs.segmentation import Segmentation
from tfrs.steps import make_train_steps

(cpu,) = tf.config.list_physical_devices("CPU")
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
rng = np.random.default_rng(0)
images, target = rng.normal(size=(3, 4, 2, 8, 8)).astype("float32"), rng.integers(0, 10, (3, 4, 8, 8)).astype("uint8")
target[0, 0], target[1, 2:, 1:], target[2] = 255, 255, 255  # shares of valid pixels differ; the last batch has none
weight = np.array([[1] * 4, [1] * 3 + [0], [1] * 4], "float32")
weights = tuple(np.linspace(1, 3, 10).tolist())
task, results = Segmentation(IGBP_SIMPLIFIED, ("lc",), "igbp", (), ((1.0, "cross_entropy"), (0.5, "dice")), weights), []
for devices in (["CPU:0"], ["CPU:0", "CPU:1"]):
    strategy = tf.distribute.MirroredStrategy(devices)
    with strategy.scope():
        keras.utils.set_random_seed(1)
        image = keras.Input((2, 8, 8), name="s1")
        x = keras.layers.Permute((2, 3, 1))(image)
        x = keras.layers.Conv2D(6, 3, padding="same", activation="relu", kernel_regularizer=keras.regularizers.L2(0.01))(x)
        model = keras.Model({"s1": image}, keras.layers.Conv2D(10, 1)(x))
        optimizer = keras.optimizers.SGD(0.1)
        optimizer.build(model.trainable_variables)
    batches = tf.data.Dataset.from_tensor_slices(({"s1": images}, target, weight))
    losses = rows(strategy, make_train_steps(strategy, model, optimizer, task), batches)[:, :2].tolist()
    matrix, loss = make_measure(strategy, model, task)(batches)
    weights = [value.tolist() for value in model.get_weights()]
    results.append({"losses": losses, "weights": weights, "matrix": matrix.tolist(), "loss": loss})
print(json.dumps(results))
"""


def test_two_replicas_learn_and_score_as_one(tmp_path):
    done = python("-c", TWO_REPLICAS, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    one, two = json.loads(done.stdout)
    np.testing.assert_allclose(two["losses"], one["losses"], rtol=1e-5)
    assert [size for _, size in one["losses"]] == [3 * 64, 2 * 64 + 8, 0]
    for left, right in zip(one["weights"], two["weights"], strict=True):
        np.testing.assert_allclose(right, left, atol=1e-6)
    assert two["matrix"] == one["matrix"] and np.sum(one["matrix"]) == 5 * 64 + 8
    assert two["loss"] == pytest.approx(one["loss"], rel=1e-6)

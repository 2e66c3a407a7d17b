"""Water, built-up and other, and the class of the patch: targets, losses, confusion; and windows to learn them from."""

import numpy as np
import pytest
import sklearn.metrics
import tensorflow as tf

from tfrs import aggregate
from tfrs.aggregate import DUAL, Aggregate, Dual
from tfrs.errors import UserError
from tfrs.labels import EUROSAT, IGNORE, MERGES, WATER_BUILT_UP
from tfrs.pipeline import finish
from tfrs.window_samples import cut_windows

WATER, BUILT, OTHER = range(3)


def columns(label, **layers):
    shape = (len(label), 1, 2, 3)
    return {"label": tf.constant(label, tf.int64)} | {n: tf.constant(v, tf.uint8, shape) for n, v in layers.items()}


def classes(*names):
    return [EUROSAT.classes.index(name) for name in names]


def task(kind, *layers):
    return kind(DUAL if kind is Dual else WATER_BUILT_UP, ("label", *layers), "eurosat")


def test_table_of_the_paper():
    """Syrris et al. 2020, section 3, class by class."""
    found = {
        name: WATER_BUILT_UP.classes[i] for name, i in zip(EUROSAT.classes, MERGES["eurosat", "water_built_up"], strict=True)
    }
    special = {"River": "Water", "SeaLake": "Water", "Industrial": "Built-up", "Residential": "Built-up"}
    assert found == {name: special.get(name, "Other") for name in EUROSAT.classes}


def test_masks_say_which_pixels_of_a_patch_are_meant():
    """GSW: 1 is land, 2 and 3 water; ESM: 1 no building, 250 and 255 buildings; 0 no data, where the patch's class stands."""
    label = classes("River", "Residential", "Forest")
    gsw = [[0, 1, 2, 3, 1, 1], [3, 3, 1, 0, 3, 3], [3, 3, 3, 3, 3, 3]]
    esm = [[255, 0, 0, 250, 1, 1], [0, 1, 2, 250, 255, 20], [255, 255, 255, 255, 255, 255]]
    found = task(Aggregate, "gsw", "esm").target(columns(label, gsw=gsw, esm=esm)).numpy().reshape(3, 6)
    np.testing.assert_array_equal(found[0], [WATER, OTHER, WATER, WATER, OTHER, OTHER])
    np.testing.assert_array_equal(found[1], [BUILT, OTHER, OTHER, BUILT, BUILT, OTHER])
    np.testing.assert_array_equal(found[2], [OTHER] * 6)
    only = task(Aggregate, "gsw").target(columns(label, gsw=gsw)).numpy().reshape(3, 6)
    np.testing.assert_array_equal(only[1], [BUILT] * 6)
    alone = task(Aggregate).target(columns(label)).numpy()
    assert alone.dtype == np.uint8 and alone.shape == (3, 1, 1) and alone.ravel().tolist() == [WATER, BUILT, OTHER]


@pytest.fixture(scope="module")
def dual():
    """Ids of both heads (two patches of 2x3 pixels, one ignored), the target of both, and logits."""
    rng = np.random.default_rng(0)
    covers, patch = rng.integers(0, 3, (2, 2, 3)), np.array([8, 1])[:, None, None] + np.zeros((2, 2, 3), int)
    valid = np.ones((2, 2, 3), bool)
    valid[1, 0, 0] = False
    target = np.where(valid, covers + 3 * patch, IGNORE).astype(np.uint8)
    return covers, patch, valid, target, rng.normal(size=(2, 2, 3, 13)).astype(np.float32)


def softmax(values):
    values = np.exp(values - values.max(-1, keepdims=True))
    return values / values.sum(-1, keepdims=True)


def test_target_of_both_heads():
    found = task(Dual, "gsw").target(columns(classes("SeaLake", "Highway"), gsw=[[1, 2, 0, 3, 1, 1]] * 2)).numpy().reshape(2, 6)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found % 3, [[OTHER, WATER, WATER, WATER, OTHER, OTHER], [OTHER] * 6])
    np.testing.assert_array_equal(found // 3, [classes("SeaLake") * 6, classes("Highway") * 6])


def test_loss_is_the_sum_of_both_cross_entropies(dual):
    covers, patch, valid, target, logits = dual
    expected = []
    for b in range(2):
        pixels = valid[b]
        first = softmax(logits[b][pixels][:, :3])[np.arange(pixels.sum()), covers[b][pixels]]
        second = softmax(logits[b][pixels][:, 3:])[np.arange(pixels.sum()), patch[b][pixels]]
        expected.append(-np.log(first).mean() - np.log(second).mean())
    np.testing.assert_allclose(task(Dual).loss(tf.constant(target), tf.constant(logits)), expected, rtol=1e-5)


def test_confusion_has_a_block_per_head(dual):
    """Against scikit-learn; the ignored pixel counts in neither, nor does a patch that weighs nothing."""
    covers, patch, valid, target, logits = dual
    for weight in ([1, 1], [1, 0]):
        counted = valid & np.array(weight, bool)[:, None, None]
        found = task(Dual).confusion(tf.constant(target), tf.constant(logits), tf.constant(weight, tf.float32)).numpy()
        first = sklearn.metrics.confusion_matrix(covers[counted], logits[..., :3].argmax(-1)[counted], labels=range(3))
        second = sklearn.metrics.confusion_matrix(patch[counted], logits[..., 3:].argmax(-1)[counted], labels=range(10))
        np.testing.assert_array_equal(found[:3, :3], first)
        np.testing.assert_array_equal(found[3:, 3:], second)
        assert not found[:3, 3:].any() and not found[3:, :3].any()


def test_figure_shows_both_heads(dual):
    covers, patch, valid, target, logits = dual
    shown = task(Dual).maps(target, logits)
    np.testing.assert_array_equal(shown["reference"], np.where(valid, covers, IGNORE))
    np.testing.assert_array_equal(shown["class"], np.where(valid, patch + 3, IGNORE))
    np.testing.assert_array_equal(shown["predicted class"], logits[..., 3:].argmax(-1) + 3)
    assert all(image.dtype == np.uint8 for image in shown.values())


def patches(batches=2, size=3, side=8, seed=0):
    """Batches of patches of side x side pixels with values that are all different, and targets 0, 1 (a tenth), IGNORE."""
    rng = np.random.default_rng(seed)
    images = np.arange(batches * size * 2 * side * side, dtype=np.uint16).reshape(batches, size, 2, side, side)
    target = rng.choice(np.array([0, 1, IGNORE], np.uint8), (batches, size, side, side), p=[0.8, 0.1, 0.1])
    dataset = tf.data.Dataset.from_tensor_slices(({"s2": images}, target, np.ones((batches, size), np.float32)))
    return images, target, finish(dataset, batches)


def drawn(dataset):
    return [(images["s2"].numpy(), target.numpy(), weight.numpy()) for images, target, weight in dataset]


@pytest.mark.parametrize("balanced", [False, True])
def test_windows_are_those_of_the_patches(balanced):
    """All values differ, so the centre of a window tells where it must be; no pixel comes twice."""
    images, target, dataset = patches()
    cut = cut_windows(dataset, margin=2, count=6, balanced=balanced, seed=1)
    assert len(cut) == 2 and cut.element_spec[0]["s2"].shape == (18, 2, 5, 5)
    for number, (found, labels, weight) in enumerate(drawn(cut)):
        assert weight.shape == (18,) and labels.shape == (18, 1, 1)
        places = [np.argwhere(images[number][:, 0] == window[0, 2, 2])[0] for window in found]
        assert len(set(map(tuple, places))) == 18
        for (patch, row, column), window, label in zip(places, found, labels, strict=True):
            np.testing.assert_array_equal(window, images[number][patch, :, row - 2 : row + 3, column - 2 : column + 3])
            assert label == target[number][patch, row, column] != IGNORE
        per_patch = np.bincount([patch for patch, *_ in places], minlength=3)
        assert balanced or per_patch.tolist() == [6, 6, 6]


def test_balanced_windows_have_rare_classes_as_often():
    _, target, dataset = patches(batches=1, size=8, side=40)
    assert (target == 1).sum() * 7 < (target == 0).sum()
    ((_, even, _),) = drawn(cut_windows(dataset, margin=2, count=40, balanced=True, seed=1))
    ((_, plain, _),) = drawn(cut_windows(dataset, margin=2, count=40, balanced=False, seed=1))
    assert 0.4 < np.mean(even == 1) < 0.6 and np.mean(plain == 1) < 0.2


def test_pixels_without_a_class_are_drawn_last():
    _, target, dataset = patches(batches=1, size=2)
    ((_, labels, _),) = drawn(cut_windows(dataset, margin=2, count=16, balanced=False, seed=0))
    assert sorted(labels.ravel()) == sorted(target[0, :, 2:-2, 2:-2].ravel())


def test_draws_follow_seed_and_epoch():
    _, _, dataset = patches()

    def draw(seed, epoch=0, epochs=1):
        cut = cut_windows(dataset, margin=2, count=4, balanced=False, seed=seed, epoch=epoch)
        return [[images.tolist() for images, *_ in drawn(cut)] for _ in range(epochs)]

    first, second = draw(3, epochs=2)
    assert draw(3) == [first] != draw(4) and second != first and draw(3, epoch=1) == [second]  # goes on where it stopped


@pytest.mark.parametrize("count", [0, 4])
def test_draws_go_on_at_a_step(count):
    """The dataset begins at a step, as `pipeline.load` does, with batches of another epoch after the first."""
    _, _, dataset = patches(batches=3)
    options = {"margin": 2, "count": count, "balanced": False, "seed": 3}
    whole = [images.tolist() for images, *_ in drawn(cut_windows(dataset, epoch=1, **options))]
    rest = finish(dataset.skip(1), None)
    assert whole[1:] == [images.tolist() for images, *_ in drawn(cut_windows(rest, epoch=1, step=1, steps=3, **options))]


def test_all_windows_are_the_whole_patches():
    images, target, dataset = patches()
    for number, (found, labels, weight) in enumerate(drawn(cut_windows(dataset, margin=2, count=0, balanced=False, seed=0))):
        np.testing.assert_array_equal(found, images[number])
        np.testing.assert_array_equal(labels, target[number][:, 2:6, 2:6])
        assert weight.tolist() == [1, 1, 1]


def test_more_windows_than_there_are():
    _, _, dataset = patches()
    with pytest.raises(UserError, match="--windows=17: a patch of 8x8 pixels has 16 of 5x5"):
        cut_windows(dataset, margin=2, count=17, balanced=False, seed=0)
    with pytest.raises(UserError, match="a patch of 8x8 pixels has 0 of 9x9"):
        cut_windows(dataset, margin=4, count=0, balanced=False, seed=0)


def test_records_without_a_class_of_eurosat(tmp_path):
    from small_records import write_records

    records = write_records(tmp_path, train=2, val=1)
    with pytest.raises(UserError, match="no label with the classes of EuroSAT; --task=dual needs records of eurosat"):
        aggregate.create(records, "dual", loss="cross_entropy", label_smoothing=0.0)

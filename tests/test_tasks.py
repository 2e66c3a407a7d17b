import math
from dataclasses import replace

import numpy as np
import pytest
import sklearn.metrics
import tensorflow as tf

from tfrs import tasks
from tfrs.errors import UserError
from tfrs.labels import EUROSAT, IGBP, IGBP_SIMPLIFIED, Scheme
from tfrs.labels import MULTISENGE as MULTISENGE_14
from tfrs.schema import Field, Schema

SEN12MS = Schema(
    {
        "label": Field("label", scheme="igbp_simplified"),
        "labels": Field("labels", scheme="igbp_simplified"),
        "fractions": Field("fractions", scheme="igbp"),
    },
    {"igbp": IGBP, "igbp_simplified": IGBP_SIMPLIFIED},
)
ONE_LABEL = Schema({"label": Field("label", scheme="eurosat")}, {"eurosat": EUROSAT})
ONLY_LABELS = Schema({"labels": Field("labels", scheme="igbp_simplified")}, {"igbp_simplified": IGBP_SIMPLIFIED})
PIXELS = 256 * 256


def create(name, schema, threshold=0.1, inclusive=False, label_smoothing=0.0, scheme=""):
    settings = {"threshold": threshold, "inclusive": inclusive, "label_smoothing": label_smoothing}
    return tasks.create(name, schema, **settings, scheme=scheme)


def fractions(*patches):
    """IGBP number -> share, or count of pixels, per patch, as the records hold it."""
    rows = np.zeros((len(patches), 17), np.float32)
    for row, patch in zip(rows, patches, strict=True):
        for number, share in patch.items():
            row[number - 1] = share / PIXELS if isinstance(share, int) else share
    return {"fractions": tf.constant(rows)}


def labels(target):
    """Numbers of the simplified classes of each patch."""
    return [(np.flatnonzero(row) + 1).tolist() for row in np.asarray(target)]


def test_target_sums_17_classes_to_10_before_the_threshold():
    columns = fractions(
        {1: 0.04, 2: 0.04, 3: 0.04, 12: 0.88},  # three forests of 4 % are one of 12 %
        {8: 0.06, 9: 0.05, 12: 0.06, 14: 0.05, 17: 0.78},  # savannas 11 %, croplands with mosaics 11 %
        {6: 0.05, 7: 0.04, 13: 0.91},  # shrublands 9 %
        {10: 0.2, 11: 0.2, 13: 0.2, 15: 0.2, 16: 0.2},
    )
    assert labels(create("multi_label", SEN12MS).target(columns)) == [[1, 6], [3, 6, 10], [7], [4, 5, 7, 8, 9]]


@pytest.mark.parametrize(("inclusive", "expected"), [(False, False), (True, True)])
def test_exactly_the_threshold(inclusive, expected):
    """10 % of a patch without labels at some pixels is a whole number of them; so is 25 % of 65,536."""
    multi_label = create("multi_label", SEN12MS, inclusive=inclusive)
    for parts in ({1: 0.1, 17: 0.9}, {1: 0.05, 5: 0.05, 17: 0.9}, {1: 0.02, 2: 0.03, 3: 0.05, 17: 0.9}):
        assert labels(multi_label.target(fractions(parts))) == [[1, 10] if expected else [10]]
    counted = fractions({n: 13 / 650 for n in range(1, 6)} | {17: 0.9})  # five times 2 %
    assert labels(multi_label.target(counted)) == [[1, 10] if expected else [10]]
    quarter = create("multi_label", SEN12MS, threshold=0.25, inclusive=inclusive)
    assert labels(quarter.target(fractions({6: PIXELS // 4, 10: PIXELS * 3 // 4}))) == [[2, 4] if expected else [4]]


@pytest.mark.parametrize("inclusive", [False, True])
@pytest.mark.parametrize("threshold", [0.05, 0.1, 0.25, 0.3, 0.5, 0.9])
def test_threshold_is_right_to_the_pixel(threshold, inclusive):
    """Every number of pixels of a 256x256 patch near the threshold, split over two classes of one simplified class."""
    middle = round(threshold * PIXELS)
    counts = range(middle - 5, middle + 6)
    columns = fractions(*({12: n // 3, 14: n - n // 3, 17: PIXELS - n} for n in counts))
    target = np.asarray(create("multi_label", SEN12MS, threshold=threshold, inclusive=inclusive).target(columns))
    # In integers: n / 65536 > threshold, with the threshold as a number of hundredths.
    over = [100 * n - round(100 * threshold) * PIXELS for n in counts]
    assert target[:, 5].tolist() == [float(x > 0 or (inclusive and x == 0)) for x in over]


def test_paper_and_code_differ_only_at_the_threshold():
    rng = np.random.default_rng(0)
    columns = fractions(*(dict(enumerate(rng.dirichlet(np.ones(17) * 0.3), 1)) for _ in range(200)))
    paper, code = (create("multi_label", SEN12MS, inclusive=inclusive).target(columns) for inclusive in (False, True))
    np.testing.assert_array_equal(paper, code)


def test_patch_of_no_class_above_the_threshold_has_no_label():
    assert labels(create("multi_label", SEN12MS, threshold=0.5).target(fractions({1: 0.5, 17: 0.5}))) == [[]]


def test_target_of_stored_labels_is_multi_hot():
    multi_label = create("", ONLY_LABELS)
    assert multi_label.columns == ("labels",)
    stored = tf.constant([[0, 1, 0, 0, 0, 0, 0, 0, 0, 1]], tf.uint8)
    target = multi_label.target({"labels": stored})
    assert target.dtype == tf.float32 and labels(target) == [[2, 10]]


def test_target_of_single_label_is_the_class_id():
    single = create("single_label", SEN12MS)
    assert single.columns == ("label",) and single.scheme == IGBP_SIMPLIFIED
    np.testing.assert_array_equal(single.target({"label": tf.constant([3, 9], tf.int64)}), [3, 9])


def test_multi_label_loss_is_the_mean_binary_cross_entropy():
    """As PyTorch's BCEWithLogitsLoss: mean over classes; here per sample, so that padding can be left out."""
    rng = np.random.default_rng(0)
    target = rng.integers(0, 2, (5, 10)).astype(np.float32)
    logits = rng.normal(0, 3, (5, 10)).astype(np.float32)
    loss = create("multi_label", SEN12MS).loss(tf.constant(target), tf.constant(logits)).numpy()
    assert loss.shape == (5,)
    probability = 1 / (1 + np.exp(-logits.astype(float)))
    for row in range(5):
        pairs = zip(target[row], probability[row], strict=True)
        expected = np.mean([sklearn.metrics.log_loss([t], [[1 - p, p]], labels=[0, 1]) for t, p in pairs])
        assert loss[row] == pytest.approx(expected, rel=1e-5)
    # By hand: logit 0 costs log 2 whatever is true, logit 2 costs log(1 + e^-2) or 2 more.
    by_hand = create("", ONLY_LABELS).loss(tf.constant([[1.0, 0.0, 1.0, 0.0]]), tf.constant([[0.0, 0.0, 2.0, 2.0]]))
    assert float(by_hand[0]) == pytest.approx((2 * math.log(2) + 2 * math.log1p(math.exp(-2)) + 2) / 4, rel=1e-6)


def test_loss_is_finite_at_extreme_logits():
    extreme = tf.constant([[1e4, -1e4] * 5])
    wrong = tf.constant([[0.0, 1.0] * 5])
    assert float(create("multi_label", SEN12MS).loss(wrong, extreme)[0]) == pytest.approx(1e4)
    assert float(create("single_label", SEN12MS).loss(tf.constant([1]), extreme)[0]) == pytest.approx(2e4, rel=1e-3)


def test_single_label_loss_is_the_cross_entropy():
    rng = np.random.default_rng(1)
    logits, target = rng.normal(0, 3, (20, 10)).astype(np.float32), rng.integers(0, 10, 20)
    loss = create("", ONE_LABEL).loss(tf.constant(target), tf.constant(logits)).numpy()
    probability = np.exp(logits.astype(float))
    probability /= probability.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(loss, -np.log(probability[np.arange(20), target]), rtol=1e-5)
    assert loss.mean() == pytest.approx(sklearn.metrics.log_loss(target, probability, labels=range(10)), rel=1e-5)


def test_label_smoothing_spreads_its_share_over_all_classes():
    logits = np.array([[2.0, 0.0, -1.0, 0.5, 0, 0, 0, 0, 0, 0]], np.float32)
    loss = create("single_label", ONE_LABEL, label_smoothing=0.1).loss(tf.constant([0]), tf.constant(logits))
    log_probability = logits[0].astype(float) - np.log(np.exp(logits[0].astype(float)).sum())
    expected = -(0.91 * log_probability[0] + 0.01 * log_probability[1:].sum())
    assert float(loss[0]) == pytest.approx(expected, rel=1e-6)


def test_probabilities():
    logits = tf.constant([[0.0, math.log(3), -math.log(3)]])
    np.testing.assert_allclose(create("", ONE_LABEL).probabilities(logits), [[3 / 13, 9 / 13, 1 / 13]], rtol=1e-6)
    np.testing.assert_allclose(create("", SEN12MS).probabilities(logits), [[0.5, 0.75, 0.25]], rtol=1e-6)


def test_decode():
    multi_label, single = create("multi_label", SEN12MS), create("single_label", SEN12MS)
    assert multi_label.decode(np.array([0.5, 0.49, 0, 0, 0, 0, 0, 0, 0, 1])) == ["Forest", "Water"]
    assert multi_label.decode(np.zeros(10)) == []
    assert single.decode(np.array([0.1, 0.2, 0.15] + [0.0] * 7)) == ["Shrubland"]
    assert single.decode(np.int64(9)) == ["Water"]


def test_confusion_decides_at_probability_one_half():
    logits = tf.constant([[0.0, -1e-6] + [-5.0] * 8])
    matrix = create("multi_label", SEN12MS).confusion(tf.constant([[1.0] * 2 + [0.0] * 8]), logits, tf.ones(1)).numpy()
    assert matrix[0].tolist() == [[0, 0], [0, 1]]
    assert matrix[1].tolist() == [[0, 0], [1, 0]]
    assert matrix[2].tolist() == [[1, 0], [0, 0]]


def test_confusion_of_single_labels_takes_the_highest_logit():
    logits = tf.one_hot([2, 2, 7], 10)
    matrix = create("single_label", SEN12MS).confusion(tf.constant([2, 3, 7]), logits, tf.constant([1.0, 1.0, 0.0])).numpy()
    assert [matrix[2, 2], matrix[3, 2], matrix[7, 7], matrix.sum()] == [1, 1, 0, 2]


@pytest.mark.parametrize(
    ("schema", "name", "scheme"),
    [
        (SEN12MS, "multi_label", "igbp_simplified"),
        (ONLY_LABELS, "multi_label", "igbp_simplified"),
        (ONE_LABEL, "single_label", "eurosat"),
    ],
)
def test_empty_name_takes_multi_labels_where_there_are_some(schema, name, scheme):
    task = create("", schema)
    assert task.name == name and task.scheme.name == scheme


def test_fractions_alone_make_labels_of_their_own_scheme():
    schema = Schema({"fractions": Field("fractions", scheme="igbp")}, {"igbp": IGBP})
    assert labels(create("", schema).target(fractions({1: 0.04, 2: 0.06, 12: 0.9}, {3: 0.2, 17: 0.8}))) == [[12], [3, 17]]


@pytest.mark.parametrize(
    ("name", "schema", "message"),
    [
        ("multi_lable", SEN12MS, r"unknown task 'multi_lable'\. Did you mean 'multi_label'\?"),
        ("multi_label", ONE_LABEL, r"the records have one label per patch .*--task=single_label"),
        ("single_label", ONLY_LABELS, r"the records have no single label .*--task=multi_label"),
    ],
)
def test_task_that_the_records_cannot_serve(name, schema, message):
    with pytest.raises(UserError, match=message):
        create(name, schema)


@pytest.mark.parametrize("change", ["order", "name", "missing"])
def test_records_of_other_classes_are_refused(change):
    names = list(EUROSAT.classes)
    other = {"order": names[::-1], "name": ["Crop", *names[1:]], "missing": names[:-1]}[change]
    count = len(other)
    scheme = replace(EUROSAT, classes=tuple(other), numbers=EUROSAT.numbers[:count], colors=EUROSAT.colors[:count])
    with pytest.raises(UserError, match=r"built with other classes of scheme 'eurosat' .*build them again with --overwrite"):
        create("", Schema(ONE_LABEL.fields, {"eurosat": scheme}))


def test_scheme_of_another_name_is_taken_as_it_is():
    scheme = Scheme("mine", ("wet", "dry"), (1, 2), ("0000ff", "ffff00"))
    assert create("", Schema({"label": Field("label", scheme="mine")}, {"mine": scheme})).scheme is scheme


MULTISENGE = Schema(
    {"labels": Field("labels", scheme="multisenge"), "fractions": Field("fractions", scheme="multisenge")},
    {"multisenge": MULTISENGE_14},
)


def test_labels_of_the_map_s_own_scheme_are_the_target_unless_fractions_are_asked_for():
    options = {"threshold": 0.1, "inclusive": False, "label_smoothing": 0.0}
    assert tasks.create("", MULTISENGE, **options).columns == ("labels",)
    assert tasks.create("", MULTISENGE, labels="fractions", **options).columns == ("fractions",)
    assert tasks.create("", SEN12MS, **options).columns == ("fractions",)
    assert tasks.create("", SEN12MS, labels="stored", **options).columns == ("labels",)


def test_a_threshold_that_would_do_nothing_is_refused():
    with pytest.raises(UserError, match="give --labels=fractions with --threshold"):
        tasks.create("", MULTISENGE, threshold=0.3, inclusive=False, label_smoothing=0.0)
    with pytest.raises(UserError, match=r"unknown source of labels 'fraction'. Did you mean 'fractions'"):
        tasks.create("", MULTISENGE, labels="fraction", threshold=0.1, inclusive=False, label_smoothing=0.0)


def test_urban_scheme_of_multisenge_by_name():
    """Classes 1 to 5 stay, 6 to 14 are one (Wenger et al. 2022, section 4)."""
    schema = Schema({"labels": Field("labels", scheme="multisenge")}, {"multisenge": MULTISENGE_14})
    task = create("", schema, scheme="multisenge_urban")
    present = np.zeros((3, 14), np.uint8)
    present[0, [1, 4]] = present[1, [5, 13]] = present[2, [0, 8]] = 1
    expected = [[0, 1, 0, 0, 1, 0], [0, 0, 0, 0, 0, 1], [1, 0, 0, 0, 0, 1]]
    np.testing.assert_array_equal(task.target({"labels": tf.constant(present)}), expected)
    assert task.scheme.name == "multisenge_urban"


def test_single_labels_merge_too():
    schema = Schema({"label": Field("label", scheme="igbp")}, {"igbp": IGBP})
    task = create("single_label", schema, scheme="igbp_simplified")
    np.testing.assert_array_equal(task.target({"label": tf.constant([0, 11, 13, 16], tf.int64)}), [0, 5, 5, 9])


def test_scheme_without_a_merge():
    schema = Schema({"labels": Field("labels", scheme="multisenge")}, {"multisenge": MULTISENGE_14})
    with pytest.raises(
        UserError, match=r"unknown scheme for classes of multisenge 'multisenge_urbn'\. Did you mean 'multisenge_urban'"
    ):
        create("", schema, scheme="multisenge_urbn")


def test_multi_labels_are_not_smoothed():
    with pytest.raises(UserError, match="--label_smoothing is for --task=single_label"):
        create("multi_label", SEN12MS, label_smoothing=0.1)


@pytest.mark.parametrize(("name", "smoothing"), [("single_label", 0.0), ("single_label", 0.1), ("multi_label", 0.0)])
def test_loss_of_a_mixed_target_is_the_mixed_loss(name, smoothing):
    """Cross-entropy is linear in the target (Zhang et al. 2018, section 2)."""
    task, rng = create(name, SEN12MS, label_smoothing=smoothing), np.random.default_rng(0)
    logits = tf.constant(rng.normal(size=(5, 10)), tf.float32)
    if name == "single_label":
        one, other = (tf.constant(rng.integers(0, 10, 5)) for _ in range(2))
    else:
        one, other = (tf.constant(rng.integers(0, 2, (5, 10)), tf.float32) for _ in range(2))
    mixed = task.loss(0.3 * task.soft(one) + 0.7 * task.soft(other), logits)
    np.testing.assert_allclose(mixed, 0.3 * task.loss(one, logits) + 0.7 * task.loss(other, logits), rtol=1e-5)
    np.testing.assert_allclose(task.loss(task.soft(one), logits), task.loss(one, logits), rtol=1e-6)

import numpy as np
import pytest
import tensorflow as tf
from small_images import LAYERS, SEEDS, WITH_MAP, augmented, images, landscape

from tfrs import ops
from tfrs.augment import seeds
from tfrs.errors import UserError
from tfrs.experiment import Experiment

SPECS = [
    "dihedral",
    "crop:3",
    "resized_crop:7",
    "rotate",
    "noise:0.1",
    "brightness",
    "contrast",
    "speckle",
    "band_dropout:0.5",
    "modality_dropout:0.5",
    "cutout:2",
]


def test_every_op_is_tested_and_explained_in_the_help():
    assert [spec.partition(":")[0] for spec in SPECS] == list(ops.OPS)
    text = Experiment.__dataclass_fields__["augment"].metadata["help"].replace(",", " ").replace(":", " ").split()
    assert {*ops.OPS, *ops.MIXINGS} <= set(text)


@pytest.mark.parametrize("spec", SPECS)
def test_draws_depend_on_the_seed_alone(spec):
    """Not on the batch that a sample is in, nor on what was drawn before."""
    together = augmented(spec, images(200), SEEDS[:200])
    alone = augmented(spec, images(1), SEEDS[150:151])
    others = augmented(spec, images(200), SEEDS[200:400])
    for name in together:
        np.testing.assert_array_equal(together[name][150], alone[name][0])
    assert any((together[name] != others[name]).any() for name in together)


@pytest.mark.parametrize("specs", [*([spec] for spec in SPECS), SPECS], ids=str)
def test_same_in_a_data_set_as_eagerly(specs):
    made = ops.parse(specs, LAYERS)
    batches = [images(8) for _ in range(5)]
    drawn = SEEDS[:40].reshape(5, 8)
    eager = [augmented(specs, batch, seed) for batch, seed in zip(batches, drawn, strict=True)]

    def in_graph(s2, s1, seed):
        def call(s2, s1, seed):
            return list(ops.apply(made, {"s2": s2.copy(), "s1": s1.copy()}, seed)[0].values())

        return tf.numpy_function(call, [s2, s1, seed], [tf.uint16, tf.float32])

    arrays = (np.stack([b["s2"] for b in batches]), np.stack([b["s1"] for b in batches]), drawn)
    dataset = tf.data.Dataset.from_tensor_slices(arrays).map(in_graph, num_parallel_calls=4)
    for expected, (s2, s1) in zip(eager, dataset.as_numpy_iterator(), strict=True):
        np.testing.assert_array_equal(s2, expected["s2"])
        np.testing.assert_array_equal(s1, expected["s1"])
        assert s2.dtype == np.uint16 and s1.dtype == np.float32


def test_ops_of_a_chain_draw_independently():
    """Two symmetries in a row lead back for one pair of eight; the same one twice would for six of eight."""
    before = images(1000)
    after = augmented(["dihedral", "dihedral"], before, SEEDS[:1000])
    back = (after["s1"] == before["s1"]).all(axis=(1, 2, 3))
    assert back.mean() == pytest.approx(1 / 8, abs=0.04)


def test_seeds_are_mixed_to_uniform_numbers():
    drawn = seeds.uniform(np.arange(10_000, dtype=np.uint64))
    assert drawn.min() >= 0 and drawn.max() < 1
    np.testing.assert_allclose(np.histogram(drawn, 10, (0, 1))[0], 1000, atol=130)


def test_splitmix64_as_published():
    """First outputs of the reference implementation (Vigna, splitmix64.c) for the state 1234567."""
    states = np.uint64(1234567) + np.arange(3, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    assert seeds.mix(states).tolist() == [6457827717110365317, 3203168211198807973, 9817491932198370423]


@pytest.mark.parametrize(
    ("spec", "layers", "message"),
    [
        ("dihedrl", LAYERS, r"unknown augmentation 'dihedrl'\. Did you mean 'dihedral'\?"),
        ("crop", LAYERS, r"augmentation 'crop' needs a number, e\.g\. crop:64"),
        ("crop:", LAYERS, r"augmentation 'crop' needs a number"),
        ("crop:0", LAYERS, r"crop:0"),
        ("crop:-8", LAYERS, r"crop:-8"),
        ("noise:loud", LAYERS, r"augmentation 'noise:loud': could not convert string to float: 'loud'"),
        ("dihedral:3", LAYERS, r"augmentation 'dihedral:3': it takes no number"),
        ("crop:3:4", LAYERS, r"augmentation 'crop:3:4': it takes one number"),
        ("crop:2.5", LAYERS, r"augmentation 'crop:2\.5': the size is a whole number of pixels"),
        ("crop:inf", LAYERS, r"whole number of pixels"),
        ("resized_crop:8:1.5", LAYERS, r"'resized_crop:8:1\.5': the smallest share of the area is between 0\.01 and 1"),
        ("resized_crop:8:0.5:2", LAYERS, r"it takes two numbers"),
        ("rotate:-5", LAYERS, r"the largest angle is between 0 and 180 degrees"),
        ("brightness:1", LAYERS, r"the amount is between 0 and 0\.99"),
        ("speckle:0", LAYERS, r"the number of looks is between 1 and 1000"),
        ("noise:nan", LAYERS, r"the amount is between 0 and 100"),
        ("mixup:0", LAYERS, r"alpha is between 0\.01 and 100"),
        ("modality_dropout", {"s2": LAYERS["s2"]}, r"modality_dropout needs an input of several sensors; this one has s2"),
    ],
)
def test_bad_specs(spec, layers, message):
    with pytest.raises(UserError, match=message):
        ops.parse([spec], layers)


@pytest.mark.parametrize("specs", [["mixup", "crop:3"], ["cutmix:1", "mixup"]], ids=str)
def test_mixing_comes_last(specs):
    with pytest.raises(UserError, match=rf"augmentation '{specs[0]}' must be the last"):
        ops.parse(specs, LAYERS)


def test_numbers_that_are_not_given_take_their_default():
    for short, long in [("rotate", "rotate:180"), ("resized_crop:6", "resized_crop:6:0.25"), ("noise", "noise:0.05")]:
        first, second = (augmented(spec, landscape(3), SEEDS[:3], WITH_MAP) for spec in (short, long))
        for name in first:
            np.testing.assert_array_equal(first[name], second[name])


def test_seeds_are_those_of_key_epoch_and_seed():
    keys = [b"a", b"b"]
    drawn = {tuple(seeds.of(keys, seed, epoch).tolist()) for seed in (0, 1) for epoch in (0, 1)}
    assert len({value for pair in drawn for value in pair}) == 8
    assert seeds.of([b"b"], 1, 1)[0] == seeds.of(keys, 1, 1)[1]

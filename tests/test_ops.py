import numpy as np
import pytest
import tensorflow as tf

from tfrs import ops
from tfrs.errors import UserError

SCALES = {
    "s2": (np.array([1000.0, 2000.0, 3000.0]), np.array([100.0, 200.0, 300.0])),
    "s1": (np.array([-11.5, -18.25]), np.array([4.0, 5.0])),
}
SEEDS = np.random.default_rng(0).integers(0, 2**63, 4000).astype(np.uint64)


def images(count, size=5):
    """s2 and s1 whose every pixel holds a value of its own within the sample, the same numbering in both."""
    numbers = np.broadcast_to(np.arange(size * size).reshape(size, size), (count, 1, size, size))
    return {
        "s2": np.concatenate([numbers + 1000 * band for band in range(3)], axis=1).astype(np.uint16),
        "s1": np.concatenate([numbers, numbers], axis=1).astype(np.float32),
    }


def one(spec, scales=SCALES):
    (op,) = ops.parse([spec], scales)
    return op


def the_eight(image):
    """All flips and quarter turns of (C, H, W) as NumPy's own functions make them."""
    turns = [np.rot90(image, k, axes=(1, 2)) for k in range(4)]
    return [*turns, *(np.flip(turn, 2) for turn in turns)]


def test_symmetries_are_the_eight_of_the_square():
    image = images(1)["s2"][0]
    made = {ops.symmetry(image, code).tobytes() for code in range(8)}
    assert len(made) == 8
    assert made == {np.ascontiguousarray(expected).tobytes() for expected in the_eight(image)}


def test_dihedral_draws_each_symmetry_equally_often_and_alike_for_all_sensors():
    before = images(len(SEEDS))
    after = one("dihedral")({name: batch.copy() for name, batch in before.items()}, SEEDS)
    counts = np.zeros(8)
    for number in range(len(SEEDS)):
        code = [np.array_equal(after["s2"][number], x) for x in the_eight(before["s2"][number])].index(True)
        np.testing.assert_array_equal(after["s1"][number], the_eight(before["s1"][number])[code])
        counts[code] += 1
    expected = len(SEEDS) / 8
    assert ((counts - expected) ** 2 / expected).sum() < 24.3  # chi-square, 7 degrees of freedom, p = 0.001


def test_dihedral_wants_squares():
    with pytest.raises(UserError, match="dihedral needs square images, s2 is 4x6; crop first"):
        one("dihedral")({"s2": np.zeros((1, 3, 4, 6), np.uint16)}, SEEDS[:1])


def test_crop_is_the_same_window_of_all_sensors_anywhere_in_the_patch():
    before = images(len(SEEDS))
    after = one("crop:3")(before, SEEDS)
    corners = after["s1"][:, 0, 0, 0].astype(int)
    for number in range(0, len(SEEDS), 7):
        row, column = divmod(corners[number], 5)
        for name, batch in after.items():
            np.testing.assert_array_equal(batch[number], before[name][number, :, row : row + 3, column : column + 3])
    places, counts = np.unique(corners, return_counts=True)
    assert places.tolist() == [0, 1, 2, 5, 6, 7, 10, 11, 12]
    expected = len(SEEDS) / 9
    assert ((counts - expected) ** 2 / expected).sum() < 26.1  # chi-square, 8 degrees of freedom, p = 0.001


def test_crop_of_the_whole_patch_changes_nothing():
    before = images(3)
    np.testing.assert_array_equal(one("crop:5")(before, SEEDS[:3])["s2"], before["s2"])


def test_noise_has_the_spread_asked_for():
    values = {"s2": np.full((50, 3, 32, 32), 5000, np.uint16), "s1": np.full((50, 2, 32, 32), -15, np.float32)}
    after = one("noise:0.5")({name: batch.copy() for name, batch in values.items()}, SEEDS[:50])
    for name, (_, std) in SCALES.items():
        change = after[name].astype(float) - values[name].astype(float)
        np.testing.assert_allclose(change.std(axis=(0, 2, 3)), 0.5 * std, rtol=0.02)
        np.testing.assert_allclose(change.mean(axis=(0, 2, 3)), 0, atol=0.01 * std.max())
    assert len({after["s2"][i].tobytes() for i in range(50)}) == 50


def test_noise_stays_within_the_type():
    noise = one("noise:5", {"s2": SCALES["s2"]})
    after = noise({"s2": np.array([0, 65535], np.uint16).repeat(300).reshape(2, 3, 10, 10)}, SEEDS[:2])["s2"]
    assert after.dtype == np.uint16
    # Half of all draws would leave the type; wrapped around they would land at the other end.
    assert after[0].max() < 10_000 and (after[0] == 0).mean() == pytest.approx(0.5, abs=0.1)
    assert after[1].min() > 55_000 and (after[1] == 65535).mean() == pytest.approx(0.5, abs=0.1)


def dropped(before, after):
    """Per sample and band of both sensors, whether the band was set to its mean; other bands are untouched."""
    columns = []
    for name, (mean, _) in SCALES.items():
        for band, value in enumerate(mean):
            is_mean = (after[name][:, band] == value).all(axis=(1, 2))
            same = (after[name][:, band] == before[name][:, band]).all(axis=(1, 2))
            assert (is_mean | same).all()
            columns.append(is_mean)
    return np.stack(columns, axis=1)


@pytest.mark.parametrize("probability", [0.3, 1])
def test_band_dropout_sets_bands_to_their_mean_and_keeps_one(probability):
    before = images(len(SEEDS))
    gone = dropped(before, one(f"band_dropout:{probability}")({k: v.copy() for k, v in before.items()}, SEEDS))
    assert gone.sum(axis=1).max() <= 4  # of five bands
    # One band of five stays whatever is drawn.
    np.testing.assert_allclose(gone.mean(axis=0), probability * 4 / 5, atol=0.03)


@pytest.mark.parametrize("probability", [0.4, 1])
def test_modality_dropout_drops_one_whole_sensor(probability):
    before = images(len(SEEDS))
    gone = dropped(before, one(f"modality_dropout:{probability}")({k: v.copy() for k, v in before.items()}, SEEDS))
    s2, s1 = gone[:, :3], gone[:, 3:]
    assert (s2.all(axis=1) == s2.any(axis=1)).all() and (s1.all(axis=1) == s1.any(axis=1)).all()
    assert not (s2[:, 0] & s1[:, 0]).any()
    assert s2[:, 0].mean() == pytest.approx(probability / 2, abs=0.03)
    assert s1[:, 0].mean() == pytest.approx(probability / 2, abs=0.03)


def test_mean_of_whole_numbers_is_rounded():
    scales = {"s2": (np.array([0.6, 70_000.0, 10.4]), np.ones(3)), "s1": SCALES["s1"]}
    after = one("modality_dropout:1", scales)(images(40), SEEDS[:40])["s2"][:, :, 0, 0]
    assert {tuple(bands) for bands in after.tolist()} == {(0, 1000, 2000), (1, 65535, 10)}


SPECS = ["dihedral", "crop:3", "noise:0.1", "band_dropout:0.5", "modality_dropout:0.5"]


@pytest.mark.parametrize("spec", SPECS)
def test_draws_depend_on_the_seed_alone(spec):
    """Not on the batch that a sample is in, nor on what was drawn before."""
    together = one(spec)(images(200), SEEDS[:200])
    alone = one(spec)(images(1), SEEDS[150:151])
    others = one(spec)(images(200), SEEDS[200:400])
    for name in together:
        np.testing.assert_array_equal(together[name][150], alone[name][0])
    assert any((together[name] != others[name]).any() for name in together)


@pytest.mark.parametrize("specs", [*([spec] for spec in SPECS), SPECS], ids=str)
def test_same_in_a_data_set_as_eagerly(specs):
    made = ops.parse(specs, SCALES)
    batches = [images(8) for _ in range(5)]
    seeds = SEEDS[:40].reshape(5, 8)
    eager = [ops.apply(made, {k: v.copy() for k, v in batch.items()}, seed) for batch, seed in zip(batches, seeds, strict=True)]

    def in_graph(s2, s1, seed):
        def call(s2, s1, seed):
            return list(ops.apply(made, {"s2": s2.copy(), "s1": s1.copy()}, seed).values())

        return tf.numpy_function(call, [s2, s1, seed], [tf.uint16, tf.float32])

    arrays = (np.stack([b["s2"] for b in batches]), np.stack([b["s1"] for b in batches]), seeds)
    dataset = tf.data.Dataset.from_tensor_slices(arrays).map(in_graph, num_parallel_calls=4)
    for expected, (s2, s1) in zip(eager, dataset.as_numpy_iterator(), strict=True):
        np.testing.assert_array_equal(s2, expected["s2"])
        np.testing.assert_array_equal(s1, expected["s1"])
        assert s2.dtype == np.uint16 and s1.dtype == np.float32


def test_ops_of_a_chain_draw_independently():
    """Two symmetries in a row lead back for one pair of eight; the same one twice would for six of eight."""
    before = images(1000)
    after = ops.apply(ops.parse(["dihedral", "dihedral"], SCALES), {k: v.copy() for k, v in before.items()}, SEEDS[:1000])
    back = (after["s1"] == before["s1"]).all(axis=(1, 2, 3))
    assert back.mean() == pytest.approx(1 / 8, abs=0.04)


def test_seeds_are_mixed_to_uniform_numbers():
    drawn = ops.uniform(np.arange(10_000, dtype=np.uint64))
    assert drawn.min() >= 0 and drawn.max() < 1
    np.testing.assert_allclose(np.histogram(drawn, 10, (0, 1))[0], 1000, atol=130)


def test_splitmix64_as_published():
    """First outputs of the reference implementation (Vigna, splitmix64.c) for the state 1234567."""
    states = np.uint64(1234567) + np.arange(3, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    assert ops.mix(states).tolist() == [6457827717110365317, 3203168211198807973, 9817491932198370423]


@pytest.mark.parametrize(
    ("spec", "scales", "message"),
    [
        ("dihedrl", SCALES, r"unknown augmentation 'dihedrl'\. Did you mean 'dihedral'\?"),
        ("crop", SCALES, r"augmentation 'crop' needs a number, e\.g\. crop:64"),
        ("crop:", SCALES, r"augmentation 'crop' needs a number"),
        ("crop:0", SCALES, r"crop:0"),
        ("crop:-8", SCALES, r"crop:-8"),
        ("noise:loud", SCALES, r"augmentation 'noise:loud': could not convert string to float: 'loud'"),
        ("modality_dropout", {"s2": SCALES["s2"]}, r"modality_dropout needs an input of several sensors; this one has s2"),
    ],
)
def test_bad_specs(spec, scales, message):
    with pytest.raises(UserError, match=message):
        ops.parse([spec], scales)


def test_crop_larger_than_the_patch():
    with pytest.raises(UserError, match=r"crop:6 is larger than the images \(5x5\)"):
        one("crop:6")(images(2), SEEDS[:2])

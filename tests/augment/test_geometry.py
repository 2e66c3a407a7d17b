"""Augmentations that move pixels, against NumPy, SciPy and TensorFlow."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
from scipy.ndimage import map_coordinates
from small_images import LAYERS, SEEDS, WITH_MAP, augmented, images, landscape

from tfrs.augment import seeds
from tfrs.augment.geometry import draw_window, symmetry
from tfrs.augment.layers import Layer
from tfrs.errors import UserError


def the_eight(image):
    """All flips and quarter turns of (C, H, W) as NumPy's own functions make them."""
    turns = [np.rot90(image, k, axes=(1, 2)) for k in range(4)]
    return [*turns, *(np.flip(turn, 2) for turn in turns)]


def test_symmetries_are_the_eight_of_the_square():
    image = images(1)["s2"][0]
    made = {symmetry(image, code).tobytes() for code in range(8)}
    assert len(made) == 8
    assert made == {np.ascontiguousarray(expected).tobytes() for expected in the_eight(image)}


def test_dihedral_draws_each_symmetry_equally_often_and_alike_for_all_sensors():
    before = images(len(SEEDS))
    after = augmented("dihedral", before, SEEDS)
    counts = np.zeros(8)
    for number in range(len(SEEDS)):
        code = [np.array_equal(after["s2"][number], x) for x in the_eight(before["s2"][number])].index(True)
        np.testing.assert_array_equal(after["s1"][number], the_eight(before["s1"][number])[code])
        counts[code] += 1
    expected = len(SEEDS) / 8
    assert ((counts - expected) ** 2 / expected).sum() < 24.3  # chi-square, 7 degrees of freedom, p = 0.001


def test_dihedral_wants_squares():
    with pytest.raises(UserError, match="dihedral needs square images, s2 is 4x6; crop first"):
        augmented("dihedral", {"s2": np.zeros((1, 3, 4, 6), np.uint16)}, SEEDS[:1])


def test_crop_is_the_same_window_of_all_sensors_anywhere_in_the_patch():
    before = images(len(SEEDS))
    after = augmented("crop:3", before, SEEDS)
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
    np.testing.assert_array_equal(augmented("crop:5", before, SEEDS[:3])["s2"], before["s2"])


def test_crop_larger_than_the_patch():
    with pytest.raises(UserError, match=r"crop:6 is larger than the images \(5x5\)"):
        augmented("crop:6", images(2), SEEDS[:2])


HEIGHT, WIDTH = 24, 20


def with_ramps(count):
    """A landscape whose s1 holds the row and the column of each pixel, which bilinear interpolation keeps exactly."""
    ramps = np.broadcast_to(np.indices((HEIGHT, WIDTH)).astype(np.float32), (count, 2, HEIGHT, WIDTH))
    return landscape(count, HEIGHT, WIDTH) | {"s1": ramps.copy()}


def turn(ramps):
    """The angle of a turn, from where two central pixels came from."""
    (top, left), (bottom, right) = ramps[:, 9, 8], ramps[:, 14, 11]
    moved = (bottom - top) + 1j * (right - left)
    return np.angle((5 + 3j) / moved)


def at(image, y, x, order):
    return map_coordinates(image.astype(float), [y, x], order=order, mode="grid-constant", cval=0)


def expected(band, y, x):
    """Bilinear mean of the neighbours with data where the nearest has data, else 0."""
    known = at(band != 0, y, x, 0) > 0
    with np.errstate(invalid="ignore"):
        return np.where(known, at(band, y, x, 1) / at(band != 0, y, x, 1), 0)


@pytest.mark.parametrize(("spec", "largest"), [("rotate", 180), ("rotate:20", 20)])
def test_rotation_is_scipys(spec, largest):
    before = with_ramps(40)
    after = augmented(spec, before, SEEDS[:40], WITH_MAP)
    row, column = np.indices((HEIGHT, WIDTH)) - np.array([(HEIGHT - 1) / 2, (WIDTH - 1) / 2])[:, None, None]
    angles = []
    for number in range(40):
        angles.append(turn(after["s1"][number]))
        place = (row + 1j * column) * np.exp(-1j * angles[-1])
        y, x = place.real + (HEIGHT - 1) / 2, place.imag + (WIDTH - 1) / 2
        # The angle is known to float32: a place nearly between two pixels may belong to either.
        clear = (np.abs(y % 1 - 0.5) > 1e-3) & (np.abs(x % 1 - 0.5) > 1e-3)
        np.testing.assert_array_equal(after["lc"][number, 0][clear], at(before["lc"][number, 0], y, x, 0)[clear])
        for old, new in zip(before["s2"][number], after["s2"][number], strict=True):
            np.testing.assert_allclose(new[clear], expected(old, y, x)[clear], atol=2)
        np.testing.assert_array_equal(np.isnan(after["s1"][number, 0])[clear], at(np.ones_like(y), y, x, 0)[clear] == 0)
    angles = np.rad2deg(angles)
    assert np.abs(angles).max() <= largest and angles.min() < -0.8 * largest and angles.max() > 0.8 * largest


def test_turn_by_nothing_changes_nothing():
    before = landscape(3)
    for name, batch in augmented("rotate:0", before, SEEDS[:3], WITH_MAP).items():
        np.testing.assert_array_equal(batch, before[name])


@pytest.mark.parametrize("spec", ["rotate", "resized_crop:15", "contrast", "noise", "speckle"])
def test_any_value_may_stand_for_no_data(spec):
    before = {"s1": landscape(4)["s1"]}
    expected = augmented(spec, before, SEEDS[:4])["s1"]
    marked = {"s1": np.where(np.isnan(before["s1"]), np.float32(-9999), before["s1"])}
    after = augmented(spec, marked, SEEDS[:4], {"s1": dataclasses.replace(LAYERS["s1"], nodata=-9999)})["s1"]
    np.testing.assert_array_equal(after, np.where(np.isnan(expected), -9999, expected))


def test_no_data_of_whole_numbers_without_nodata_value_is_the_mean():
    rgb = {"rgb": np.full((1, 3, 9, 9), 200, np.uint8)}
    after = augmented("rotate", rgb, SEEDS[:1], {"rgb": Layer(None, np.array([9.6, 80.0, 70.0]), np.ones(3))})["rgb"]
    assert after[0, :, 0, 0].tolist() == [10, 80, 70] and (after[0, :, 4, 4] == 200).all()


@pytest.mark.parametrize("size", [9, 20, 31])
def test_resized_crop_is_tensorflows_antialiased_resize(size):
    before = landscape(12)
    after = augmented(f"resized_crop:{size}:0.2", before, SEEDS[:12], WITH_MAP)
    for number, seed in enumerate(seeds.mix(SEEDS[:12])):
        window = (slice(None), *draw_window(seed, HEIGHT, WIDTH, 0.2))

        def resized(image, method="bilinear"):
            last = tf.constant(image.transpose(1, 2, 0).astype(np.float32))
            return tf.image.resize(last, (size, size), method, antialias=True).numpy().transpose(2, 0, 1)

        np.testing.assert_array_equal(after["lc"][number], resized(before["lc"][number][window], "nearest"))
        for name, tolerance in (("s2", 0.6), ("s1", 1e-4)):
            cut = before[name][number][window]
            present = ~np.isnan(cut) if name == "s1" else cut != 0
            known = resized(present, "nearest") > 0
            share = np.where(known, resized(present), 1)
            nodata = np.nan if name == "s1" else 0
            reference = np.where(known, resized(np.where(present, cut, 0)) / share, nodata)
            np.testing.assert_allclose(after[name][number], reference, atol=tolerance, rtol=1e-5)


def test_windows_have_the_area_and_the_form_asked_for():
    windows = [draw_window(seed, 200, 240, 0.3) for seed in SEEDS[:1000]]
    areas = np.array([(rows.stop - rows.start) * (columns.stop - columns.start) for rows, columns in windows]) / (200 * 240)
    ratios = np.array([(columns.stop - columns.start) / (rows.stop - rows.start) for rows, columns in windows])
    assert 0.29 < areas.min() < 0.32 and 0.97 < areas.max() <= 1
    assert np.histogram(areas, 7, (0.3, 1))[0] == pytest.approx(1000 / 7, abs=40)
    assert 0.74 < ratios.min() < 0.77 and 1.3 < ratios.max() < 1.35
    for span, length in ((0, 200), (1, 240)):
        starts, stops = (np.array([getattr(window[span], end) for window in windows]) for end in ("start", "stop"))
        assert starts.min() == 0 and stops.max() == length and starts.max() > 0.3 * length


def test_window_of_a_long_patch_fits():
    for seed in SEEDS[:200]:
        rows, columns = draw_window(seed, 10, 40, 0.5)
        assert 0 <= rows.start < rows.stop <= 10 and 0 <= columns.start < columns.stop <= 40
        assert 0.45 * 400 < (rows.stop - rows.start) * (columns.stop - columns.start) <= 400

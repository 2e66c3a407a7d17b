"""Augmentations that take something away."""

import numpy as np
import pytest
from small_images import LAYERS, SEEDS, WITH_MAP, augmented, images

from tfrs.augment.layers import Layer


def dropped(before, after):
    """Per sample and band of both sensors, whether the band was set to its mean; other bands are untouched."""
    columns = []
    for name, layer in LAYERS.items():
        for band, value in enumerate(layer.mean):
            is_mean = (after[name][:, band] == value).all(axis=(1, 2))
            same = (after[name][:, band] == before[name][:, band]).all(axis=(1, 2))
            assert (is_mean | same).all()
            columns.append(is_mean)
    return np.stack(columns, axis=1)


@pytest.mark.parametrize("probability", [0.3, 1])
def test_band_dropout_sets_bands_to_their_mean_and_keeps_one(probability):
    before = images(len(SEEDS))
    gone = dropped(before, augmented(f"band_dropout:{probability}", before, SEEDS))
    assert gone.sum(axis=1).max() <= 4  # of five bands
    # One band of five stays whatever is drawn.
    np.testing.assert_allclose(gone.mean(axis=0), probability * 4 / 5, atol=0.03)


@pytest.mark.parametrize("probability", [0.4, 1])
def test_modality_dropout_drops_one_whole_sensor(probability):
    before = images(len(SEEDS))
    gone = dropped(before, augmented(f"modality_dropout:{probability}", before, SEEDS))
    s2, s1 = gone[:, :3], gone[:, 3:]
    assert (s2.all(axis=1) == s2.any(axis=1)).all() and (s1.all(axis=1) == s1.any(axis=1)).all()
    assert not (s2[:, 0] & s1[:, 0]).any()
    assert s2[:, 0].mean() == pytest.approx(probability / 2, abs=0.03)
    assert s1[:, 0].mean() == pytest.approx(probability / 2, abs=0.03)


def test_mean_of_whole_numbers_is_rounded():
    layers = LAYERS | {"s2": Layer(0, np.array([0.6, 70_000.0, 10.4]), np.ones(3))}
    after = augmented("modality_dropout:1", images(40), SEEDS[:40], layers)["s2"][:, :, 0, 0]
    assert {tuple(bands) for bands in after.tolist()} == {(1, 1001, 2001), (1, 65535, 10)}


@pytest.mark.parametrize("size", [1, 4, 7])
def test_cutout_sets_a_square_around_any_pixel_to_the_means(size):
    before = images(len(SEEDS), 6) | {"lc": np.ones((len(SEEDS), 1, 6, 6), np.uint8)}
    after = augmented(f"cutout:{size}", before, SEEDS, WITH_MAP)
    np.testing.assert_array_equal(after["lc"], before["lc"])
    gone = (after["s1"] == LAYERS["s1"].mean[:, None, None]).all(axis=1)
    np.testing.assert_array_equal((after["s2"] == LAYERS["s2"].mean[:, None, None]).all(axis=1), gone)
    for name in LAYERS:
        kept = np.broadcast_to(~gone[:, None], after[name].shape)
        np.testing.assert_array_equal(after[name][kept], before[name][kept])
    # Each pixel is the centre equally often, and a square is less where it reaches over the border.
    seen = np.zeros((6, 6))
    for row in range(6):
        for column in range(6):
            first_row, first_column = row - size // 2, column - size // 2
            seen[max(0, first_row) : first_row + size, max(0, first_column) : first_column + size] += 1 / 36
    np.testing.assert_allclose(gone.mean(axis=0), seen, atol=0.03)
    assert all(mask[np.ix_(mask.any(1), mask.any(0))].all() for mask in gone[:100])

"""Augmentations that change values: their distributions, and that they leave alone what they must."""

import numpy as np
import pytest
import scipy.stats
from small_images import LAYERS, SEEDS, WITH_MAP, augmented, landscape, missing

from tfrs import ops
from tfrs.errors import UserError

OPS = ["noise:0.5", "brightness:0.5", "contrast:0.9", "speckle:1"]


def test_noise_has_the_spread_asked_for():
    values = {"s2": np.full((50, 3, 32, 32), 5000, np.uint16), "s1": np.full((50, 2, 32, 32), -15, np.float32)}
    after = augmented("noise:0.5", values, SEEDS[:50])
    for name, layer in LAYERS.items():
        change = after[name].astype(float) - values[name].astype(float)
        np.testing.assert_allclose(change.std(axis=(0, 2, 3)), 0.5 * layer.std, rtol=0.02)
        np.testing.assert_allclose(change.mean(axis=(0, 2, 3)), 0, atol=0.01 * layer.std.max())
    assert len({after["s2"][i].tobytes() for i in range(50)}) == 50


def test_noise_stays_within_the_type():
    after = augmented("noise:5", {"s2": np.array([1, 65535], np.uint16).repeat(300).reshape(2, 3, 10, 10)}, SEEDS[:2])["s2"]
    assert after.dtype == np.uint16
    # Half of all draws would leave the type; wrapped around they would land at the other end.
    assert after[0].max() < 10_000 and (after[0] == 1).mean() == pytest.approx(0.5, abs=0.1)
    assert after[1].min() > 55_000 and (after[1] == 65535).mean() == pytest.approx(0.5, abs=0.1)


def test_noise_of_two_sensors_is_not_the_same():
    values = {"s2": np.full((1, 3, 64, 64), 5000, np.uint16), "s1": np.full((1, 2, 64, 64), -15, np.float32)}
    after = augmented("noise:1", values, SEEDS[:1])
    bands = [after["s2"][0, 0].ravel(), after["s2"][0, 1].ravel(), *after["s1"][0].reshape(2, -1)]
    assert np.abs(np.corrcoef(bands) - np.eye(4)).max() < 0.08


def test_brightness_is_a_factor_of_reflectance_and_an_offset_in_decibels():
    before = {"s2": np.full((400, 3, 4, 4), 40_000, np.uint16), "s1": np.full((400, 2, 4, 4), -15, np.float32)}
    before["s2"][:, 1] = 10_000
    after = augmented("brightness:0.2", before, SEEDS[:400])
    factors = after["s2"] / before["s2"].astype(float)
    powers = 10 ** ((after["s1"].astype(float) - before["s1"]) / 10)
    for found in (factors, powers):
        assert np.ptp(found, axis=(1, 2, 3)).max() < 1e-4  # one for all bands and pixels
        uniform = (found[:, 0, 0, 0] - 0.8) / 0.4
        assert scipy.stats.kstest(uniform, "uniform").pvalue > 0.01
    assert abs(np.corrcoef(factors[:, 0, 0, 0], powers[:, 0, 0, 0])[0, 1]) < 0.2


def test_contrast_keeps_the_mean_and_scales_the_spread():
    before = landscape(300)
    after = augmented("contrast:0.4", before, SEEDS[:300], WITH_MAP)
    for name in LAYERS:
        old, new = (np.where(missing(name, image), np.nan, image.astype(float)) for image in (before[name], after[name]))
        assert not np.allclose(old, new, equal_nan=True)
        if name == "s2":  # where nothing is cut off at the limits
            dimmed = (np.nanstd(new, axis=(2, 3)) < np.nanstd(old, axis=(2, 3))).all(axis=1)
            old, new = old[dimmed], new[dimmed]
        np.testing.assert_allclose(np.nanmean(new, axis=(2, 3)), np.nanmean(old, axis=(2, 3)), atol=0.1)
        factors = np.nanstd(new, axis=(2, 3)) / np.nanstd(old, axis=(2, 3))
        assert np.ptp(factors, axis=1).max() < 1e-3
        assert factors.min() + 1e-3 >= 0.6 and factors.min() < 0.65
        assert factors.max() > 0.95 if name == "s2" else 1.35 < factors.max() <= 1.4 + 1e-3


@pytest.mark.parametrize("looks", [1, 4, 4.9])
def test_speckle_multiplies_power_by_gamma_numbers(looks):
    before = landscape(30)
    after = augmented(f"speckle:{looks}", before, SEEDS[:30], WITH_MAP)
    np.testing.assert_array_equal(after["s2"], before["s2"])
    power = 10 ** ((after["s1"].astype(float) - before["s1"]) / 10)
    drawn = power[~np.isnan(power)]
    assert len(drawn) == (~np.isnan(before["s1"])).sum()
    assert scipy.stats.kstest(drawn, scipy.stats.gamma(looks, scale=1 / looks).cdf).pvalue > 0.01
    vv, vh = power[:, 0].ravel(), power[:, 1].ravel()
    both = ~np.isnan(vv) & ~np.isnan(vh)
    assert abs(np.corrcoef(vv[both], vh[both])[0, 1]) < 0.05


def test_speckle_needs_sentinel1():
    with pytest.raises(UserError, match=r"speckle is for Sentinel-1 in decibels; this input has s2"):
        ops.parse(["speckle"], {"s2": LAYERS["s2"], "lc": WITH_MAP["lc"]})


@pytest.mark.parametrize("spec", OPS)
def test_no_pixel_gains_or_loses_its_data_and_maps_stay(spec):
    before = landscape(20)
    before["s2"][:, 2] = np.minimum(before["s2"][:, 2], 3)  # so dark that rounding could reach 0
    before["s2"][:3, 0] = 0  # a band without any data
    after = augmented(spec, before, SEEDS[:20], WITH_MAP)
    for name in LAYERS:
        np.testing.assert_array_equal(missing(name, after[name]), missing(name, before[name]))
    np.testing.assert_array_equal(after["lc"], before["lc"])

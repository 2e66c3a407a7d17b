import numpy as np
import pytest

from tfrs import landscape
from tfrs.landscape import Acquisition, Cover

CLEAR = Acquisition()


def rng(seed=0):
    return np.random.default_rng(seed)


def ground(shares, pattern="stands", shape=(256, 256)):
    return landscape.surface(rng(), Cover(pattern, shares), shape)


def test_fields_are_standardised_independent_and_smooth():
    fields = landscape.fields(rng(), 40, (128, 128), 4)
    assert (fields.dtype, fields.shape) == (np.float32, (40, 128, 128))
    assert abs(fields.mean()) < 0.05
    assert fields.std() == pytest.approx(1, abs=0.05)
    assert np.abs(np.corrcoef(fields.reshape(40, -1)) - np.eye(40)).mean() < 0.1
    neighbours = np.corrcoef(fields[..., 1:].ravel(), fields[..., :-1].ravel())[0, 1]
    distant = np.corrcoef(fields[..., 40:].ravel(), fields[..., :-40].ravel())[0, 1]
    assert neighbours > 0.9
    assert abs(distant) < 0.1


def test_zones_are_coherent():
    zones = landscape.zones(rng(), (256, 256), [3, 5, 9, 17], 40)
    assert set(np.unique(zones)) <= {3, 5, 9, 17}
    chance = (np.bincount(zones.ravel()) ** 2).sum() / zones.size**2
    assert (zones[1:] == zones[:-1]).mean() > max(0.95, chance + 0.1)


@pytest.mark.parametrize("pattern", ["grain", "stands", "fields", "yards"])
def test_surfaces_cover_their_shares(pattern):
    cover = Cover(pattern, {"crop": 0.6, "soil": 0.3, "water": 0.1})
    maps = [landscape.surface(rng(seed), cover, (256, 256)) for seed in range(30)]
    ids, counts = np.unique(maps, return_counts=True)
    assert len(ids) == 3
    np.testing.assert_allclose(np.sort(counts / counts.sum()), [0.1, 0.3, 0.6], atol=0.05)


def test_speckle_is_gamma_distributed():
    power = 10 ** (landscape.sentinel1(rng(), ground({"water": 1}), CLEAR) / 10).astype(float)
    for band, decibel in zip(power, (-19.5, -27.5), strict=True):
        # Multi-look intensity of mean m and L looks has variance m**2 / L and third central moment 2 m**3 / L**2.
        assert band.mean() == pytest.approx(10 ** (decibel / 10), rel=0.01)
        assert (band.mean() / band.std()) ** 2 == pytest.approx(4.4, rel=0.05)
        assert ((band - band.mean()) ** 3).mean() / band.std() ** 3 == pytest.approx(2 / np.sqrt(4.4), rel=0.1)


def test_borders_are_mixed_and_wider_where_pixels_are_coarser():
    step = ground({"water": 1})
    step[:, 128:] = ground({"crop": 1})[0, 0]
    image = landscape.sentinel2(rng(), step, CLEAR).astype(float).mean(1)
    dark, bright = image[:, :100].mean(1), image[:, 156:].mean(1)
    share = (image - dark[:, None]) / (bright - dark)[:, None]
    mixed = ((share > 0.1) & (share < 0.9))[:, 112:144].sum(1)
    b08, b8a, b09 = mixed[[7, 8, 9]]
    assert 1 <= b08 < b8a < b09


def test_vigour_changes_deciduous_trees_but_not_conifers():
    def infrared(surface, vigour):
        return landscape.sentinel2(rng(), ground({surface: 1}), Acquisition(vigour=vigour))[7].mean()

    assert infrared("broadleaf", 0.5) < 0.95 * infrared("broadleaf", 1)
    assert infrared("conifer", 0.5) == infrared("conifer", 1)


def test_haze_lifts_blue_more_than_infrared():
    clear, hazy = (landscape.sentinel2(rng(), ground({"grass": 1}), Acquisition(haze=haze)).mean((1, 2)) for haze in (0, 1))
    lift = hazy - clear
    assert lift[1] > lift[3] > lift[7] > 0
    assert lift[10] == pytest.approx(0, abs=0.01)


def test_line_crosses_the_patch():
    field = ground({"soil": 1}, shape=(64, 64))
    for seed in range(10):
        laid = landscape.lay(rng(seed), field, "water", 8, 4) != field
        assert 0.05 < laid.mean() < 0.4
        assert laid[[0, -1]].any() or laid[:, [0, -1]].any()

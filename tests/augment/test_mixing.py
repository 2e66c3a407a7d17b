"""Augmentations that mix neighbours of a batch."""

import numpy as np
import pytest
import scipy.stats
from small_images import LAYERS, SEEDS, WITH_MAP, landscape, missing

from tfrs import ops
from tfrs.errors import UserError

COUNT = 300


def mixed(spec, batch, layers):
    return ops.apply(
        ops.parse([spec], layers), {name: image.copy() for name, image in batch.items()}, SEEDS[: len(batch["s2"])]
    )


def beta_variance(alpha):
    return 1 / (4 * (2 * alpha + 1))


@pytest.mark.parametrize("alpha", [0.2, 1])
def test_mixup_is_the_weighted_mean_with_the_next_record(alpha):
    before = {name: image for name, image in landscape(COUNT).items() if name in LAYERS}
    after, share = mixed(f"mixup:{alpha}", before, LAYERS)
    assert share.dtype == np.float32 and share[-1] == 1
    assert share[:-1].mean() == pytest.approx(0.5, abs=0.08)
    assert share[:-1].var() == pytest.approx(beta_variance(alpha), rel=0.2)
    for name, batch in before.items():
        np.testing.assert_array_equal(after[name][-1], batch[-1])
        own, other = batch[:-1].astype(float), batch[1:].astype(float)
        part = share[:-1, None, None, None].astype(float)
        both = ~missing(name, batch[:-1]) & ~missing(name, batch[1:])
        expected = part * own + (1 - part) * other
        np.testing.assert_allclose(after[name][:-1][both], expected[both], atol=0.51 if name == "s2" else 1e-4)


def test_mixup_takes_no_value_from_where_there_is_none():
    before = {name: image for name, image in landscape(3).items() if name in LAYERS}
    before["s2"][0, :, :3], before["s2"][1, :, 2:5] = 0, 0
    before["s1"][0, :, :3], before["s1"][1, :, 2:5] = np.nan, np.nan
    after, _ = mixed("mixup:1", before, LAYERS)
    for name, batch in before.items():
        np.testing.assert_array_equal(after[name][0, :, :2], batch[1, :, :2])
        np.testing.assert_array_equal(after[name][0, :, 3:5], batch[0, :, 3:5])
        assert missing(name, after[name][0, :, 2]).all()


def test_mixup_of_maps_is_refused():
    with pytest.raises(UserError, match=r"mixup would mix maps of classes.*cutmix pastes them"):
        ops.parse(["mixup"], WITH_MAP)


@pytest.mark.parametrize("alpha", [0.3, 1])
def test_cutmix_pastes_a_window_of_the_next_record_with_its_map(alpha):
    before = landscape(COUNT, 40, 40)
    before["lc"][:] = np.arange(COUNT, dtype=np.uint8)[:, None, None, None] % 200 + 1  # tells whose pixel it is
    after, share = mixed(f"cutmix:{alpha}", before, WITH_MAP)
    own = after["lc"][:, 0] == before["lc"][:, 0]
    np.testing.assert_allclose(own.mean(axis=(1, 2)), share, atol=1e-6)
    assert share[-1] == 1
    for number in range(COUNT - 1):
        for name, batch in before.items():
            pasted = np.where(own[number], batch[number], batch[number + 1])
            np.testing.assert_array_equal(after[name][number], pasted)
        window = ~own[number]
        assert window[np.ix_(window.any(1), window.any(0))].all()
    # A window of side s (of 1) around any pixel keeps s - s^2 / 4 of it on average, the rest is beyond the border.
    kept = scipy.stats.beta(alpha, alpha).expect(lambda area: (np.sqrt(area) - area / 4) ** 2)
    assert share[:-1].mean() == pytest.approx(1 - kept, abs=0.05)
    centres = np.array([[rows.mean() for rows in np.nonzero(~mask)] for mask in own[:-1] if (~mask).any()])
    assert centres.min() < 3 and centres.max() > 36 and centres.mean() == pytest.approx(19.5, abs=1.5)

import zipfile

import numpy as np
import pytest

from tfrs.datasets.multisenge_splits import assign, corner, within
from tfrs.errors import UserError

METZ = (6.10, 49.06, 6.25, 49.17)


@pytest.fixture(scope="module")
def names(shared):
    with zipfile.ZipFile(shared / "data/multisenge/labels.zip") as archive:
        return sorted(name.removeprefix("labels/").removesuffix(".json") for name in archive.namelist())


def touching(a, b):
    """Pairs of patches of one UTM zone that overlap or touch, the missing pixel between them included."""
    return (np.abs(a[:, None] - b).max(-1) <= 2570).sum()


def by_zone(names, mask):
    return {z: np.array([corner(n) for n, m in zip(names, mask, strict=True) if m and n.startswith(z)]) for z in ("31", "32")}


def test_corner_counts_columns_and_rows_of_the_tile():
    assert corner("31UGQ_257_514") == (699960 + 2570, 5500020 - 5140)


def test_real_patches_lie_side_by_side(names):
    """The data set has no overlaps, across tiles too (but for one pair): x is the column, y the row, the corner is right."""
    for zone, corners in by_zone(names, np.ones(len(names), bool)).items():
        overlapping = sum((np.abs(corners - c).max(1) < 2560).sum() - 1 for c in corners) // 2
        assert overlapping == {"31": 1, "32": 0}[zone]


@pytest.mark.parametrize(("split", "area"), [("random", ()), ("spatial", ()), ("random", METZ), ("spatial", METZ)])
def test_shares_of_the_real_patches(names, split, area):
    assigned = assign(names, split=split, area=area, seed=0)
    count = {name: int((assigned == name).sum()) for name in ("train", "val", "test", "")}
    rest = len(names) - count["test"]
    # The area is 11 x 12 km, 20 patches large; it cuts through others.
    assert 20 < count["test"] < 40 if area else count["test"] == pytest.approx(0.1 * len(names), rel=0.05)
    assert count["val"] == pytest.approx(0.2 * rest, rel=0.1)
    assert count[""] < 0.13 * len(names) if split == "spatial" else count[""] == 0


@pytest.mark.parametrize("area", [(), METZ])
@pytest.mark.parametrize("seed", [0, 1])
def test_spatial_split_has_no_neighbours_across(names, area, seed):
    assigned = assign(names, split="spatial", area=area, seed=seed)
    parts = {split: by_zone(names, assigned == split) for split in ("train", "val", "test")}
    for a, b in (("train", "val"), ("train", "test"), ("val", "test")):
        for zone in ("31", "32"):
            if len(parts[a][zone]) and len(parts[b][zone]):
                assert touching(parts[a][zone], parts[b][zone]) == 0
    random = assign(names, split="random", area=area, seed=seed)
    assert touching(by_zone(names, random == "train")["31"], by_zone(names, random == "val")["31"]) > 1000


def test_a_seed_is_a_split(names):
    first, again, other = (assign(names, split="random", area=(), seed=seed) for seed in (3, 3, 4))
    assert (first == again).all()
    assert (first != other).any()


def test_area_in_degrees_and_in_metres_by_hand():
    # Upper left corners: x = 699960 + 2570 c, y = 5500020 - 2570 r.
    grid = [f"31UGQ_{257 * c}_{257 * r}" for c in range(4) for r in range(4)]
    area = (699960 + 2570 + 100, 5500020 - 3 * 2570 + 100, 699960 + 2 * 2570 + 100, 5500020 - 2 * 2570 - 100)
    inside = {name for name, hit in zip(grid, within(grid, area), strict=True) if hit}
    assert inside == {"31UGQ_257_514", "31UGQ_514_514"}
    # The central meridian of zone 31, 3 degrees east, is at 500,000 m: 20 m within the first column of 31UEQ.
    grid = [f"31UEQ_{257 * c}_{257 * r}" for c in range(3) for r in (10, 30)]
    inside = {name for name, hit in zip(grid, within(grid, (2.9999, 48.0, 3.0001, 50.0)), strict=True) if hit}
    assert inside == {"31UEQ_0_2570", "31UEQ_0_7710"}


def test_area_elsewhere_is_refused():
    with pytest.raises(UserError, match=r"touches no patch; the patches lie within 5\.7"):
        within(["31UGQ_0_0"], (2.0, 48.0, 3.0, 49.0))


def test_area_in_metres_needs_one_zone():
    with pytest.raises(UserError, match=r"in UTM, but the patches lie in EPSG:32631 and EPSG:32632; choose tiles"):
        within(["31UGQ_0_0", "32ULU_0_0"], (700000.0, 5400000.0, 710000.0, 5410000.0))

import pytest

from tfrs import tiles
from tfrs.errors import UserError


# Upper left corners that follow from real BigEarthNet patches: the patch in column c and row r of a tile, named <..>_c_r,
# has its corner at (ulx, uly) of its JSON file, and patches are 1,200 m wide.
@pytest.mark.parametrize(
    ("tile", "ulx", "uly", "column", "row"),
    [
        ("33UUP", 404400, 5342400, 87, 48),
        ("29SND", 567180, 4358040, 56, 35),
        ("35VPK", 668400, 6954420, 57, 38),
        ("29UPU", 643200, 5796840 + 1200, 36, 85),
    ],
)
def test_corner_agrees_with_real_patches(tile, ulx, uly, column, row):
    assert tiles.origin(tile) == (ulx - 1200 * column, uly + 1200 * row)


def test_zones():
    assert [tiles.crs(tile) for tile in ("31UGQ", "32ULU", "01NAA", "60XWA")] == [
        "EPSG:32631",
        "EPSG:32632",
        "EPSG:32601",
        "EPSG:32660",
    ]


@pytest.mark.parametrize("name", ["31UGQ_", "31uGQ", "61UGQ", "00UGQ", "31MGQ", "31OGQ", "31UIQ", "31UGW", "31UZQ", "UGQ", ""])
def test_other_names_are_refused(name):
    with pytest.raises(UserError, match="not the name of a Sentinel-2 tile"):
        tiles.origin(name)

"""Maps as files, read back with other libraries than the one that wrote them."""

from pathlib import Path

import numpy as np
import pytest
import rasterio
import tifffile

from tfrs.errors import UserError
from tfrs.geotiff import Raster
from tfrs.labels import BIGEARTHNET_43, MULTISENGE
from tfrs.predict import check_output, write_map

PLACE = Raster(np.zeros((1, 3, 4), np.uint16), "EPSG:32631", (10.0, 0.0, 500000.0, 0.0, -10.0, 5400000.0))
IDS = np.array([[0, 13, 5, 5], [1, 1, 2, 3], [0, 0, 0, 12]])


def certain(count):
    """Probabilities (classes, H, W) that say IDS, and nothing of the lower left pixel."""
    probabilities = np.where(np.arange(count)[:, None, None] == IDS, 0.9, 0.0)
    probabilities[:, 2, 0] = np.nan
    return probabilities


NUMBERS = IDS + 1
NUMBERS[2, 0] = 0  # no data


def classes(scheme):
    rows = zip(scheme.classes, scheme.numbers, scheme.colors, strict=True)
    return [{"name": name, "number": number, "color": f"#{color}"} for name, number, color in rows]


def test_geotiff_has_the_numbers_their_colours_and_the_place(tmp_path):
    shares = write_map(tmp_path / "map.tif", certain(14), classes(MULTISENGE), PLACE)
    assert shares == pytest.approx(np.bincount(NUMBERS[NUMBERS > 0], minlength=15)[1:] / 11)
    with tifffile.TiffFile(tmp_path / "map.tif") as file:
        (page,) = file.pages
        np.testing.assert_array_equal(page.asarray(), NUMBERS)
        assert page.photometric == tifffile.PHOTOMETRIC.PALETTE
        palette = page.colormap.T // 257
    for number, color in zip(MULTISENGE.numbers, MULTISENGE.colors, strict=True):
        assert bytes(palette[number].tolist()).hex() == color
    with rasterio.open(tmp_path / "map.tif") as file:
        assert file.crs.to_epsg() == 32631 and file.nodata == 0 and tuple(file.transform)[:6] == PLACE.transform


def test_png_has_the_colours(tmp_path):
    image = pytest.importorskip("PIL.Image", reason="Pillow comes with matplotlib")
    write_map(tmp_path / "map.png", certain(14), classes(MULTISENGE), PLACE)
    with image.open(tmp_path / "map.png") as file:
        assert file.mode == "P"
        np.testing.assert_array_equal(np.array(file), NUMBERS)
        assert np.array(file.convert("RGB"))[0, 1].tolist() == list(bytes.fromhex(MULTISENGE.colors[13]))


def test_numbers_above_255(tmp_path):
    write_map(tmp_path / "map.tif", certain(43), classes(BIGEARTHNET_43), PLACE)
    assert tifffile.imread(tmp_path / "map.tif").tolist()[0] == [111, 213, 124, 124]


@pytest.mark.parametrize(
    ("name", "scheme", "message"),
    [
        ("map.jpg", MULTISENGE, r"map\.jpg: a map is written as \.tif, \.tiff, \.png"),
        ("map.png", BIGEARTHNET_43, "beyond the 255 of a PNG with colours; write a .tif"),
        ("no/map.tif", MULTISENGE, "no such folder; make it, or give another --output"),
        ("image.tif", MULTISENGE, "is the image itself"),
    ],
)
def test_refused_outputs(tmp_path, name, scheme, message):
    (tmp_path / "image.tif").write_bytes(b"")
    with pytest.raises(UserError, match=message):
        check_output(tmp_path / name, classes(scheme), [str(tmp_path / "image.tif")])


def test_file_that_cannot_be_written():
    with pytest.raises(UserError, match=r"/proc/map\.tif\.tmp: cannot be written"):
        write_map(Path("/proc/map.tif"), certain(14), classes(MULTISENGE), PLACE)

"""Maps as files, read back with other libraries than the one that wrote them."""

import numpy as np
import pytest
import rasterio
import tifffile

from tfrs.errors import UserError
from tfrs.geotiff import Raster
from tfrs.labels import BIGEARTHNET_43, MULTISENGE
from tfrs.predict import write_map

PLACE = Raster(np.zeros((1, 3, 4), np.uint16), "EPSG:32631", (10.0, 0.0, 500000.0, 0.0, -10.0, 5400000.0))
IDS = np.array([[0, 13, 5, 5], [1, 1, 2, 3], [0, 0, 0, 12]])


def classes(scheme):
    rows = zip(scheme.classes, scheme.numbers, scheme.colors, strict=True)
    return [{"name": name, "number": number, "color": f"#{color}"} for name, number, color in rows]


def test_geotiff_has_the_numbers_their_colours_and_the_place(tmp_path):
    write_map(tmp_path / "map.tif", IDS, classes(MULTISENGE), PLACE)
    with tifffile.TiffFile(tmp_path / "map.tif") as file:
        (page,) = file.pages
        np.testing.assert_array_equal(page.asarray(), IDS + 1)
        assert page.photometric == tifffile.PHOTOMETRIC.PALETTE
        palette = page.colormap.T // 257
    for number, color in zip(MULTISENGE.numbers, MULTISENGE.colors, strict=True):
        assert bytes(palette[number].tolist()).hex() == color
    with rasterio.open(tmp_path / "map.tif") as file:
        assert file.crs.to_epsg() == 32631 and tuple(file.transform)[:6] == PLACE.transform


def test_png_has_the_colours(tmp_path):
    image = pytest.importorskip("PIL.Image", reason="Pillow comes with matplotlib")
    write_map(tmp_path / "map.png", IDS, classes(MULTISENGE), PLACE)
    with image.open(tmp_path / "map.png") as file:
        assert file.mode == "P"
        np.testing.assert_array_equal(np.array(file), IDS + 1)
        assert np.array(file.convert("RGB"))[0, 1].tolist() == list(bytes.fromhex(MULTISENGE.colors[13]))


def test_numbers_above_255(tmp_path):
    write_map(tmp_path / "map.tif", IDS, classes(BIGEARTHNET_43), PLACE)
    assert tifffile.imread(tmp_path / "map.tif").tolist()[0] == [111, 213, 124, 124]


def test_other_kinds_of_files(tmp_path):
    with pytest.raises(UserError, match=r"map\.jpg: a map is written as \.tif, \.tiff, \.png"):
        write_map(tmp_path / "map.jpg", IDS, classes(MULTISENGE), PLACE)

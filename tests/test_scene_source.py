"""Bands and metadata of scenes in the layouts in which they are published, from names alone."""

import shutil
import zipfile

import numpy as np
import pytest
import rasterio.shutil
from small_scene import write

from tfrs.errors import UserError
from tfrs.scene_source import Product, band_name, find, product

SAFE = "S2B_MSIL2A_20230223T032739_N0509_R018_T48QUE_20230224T183543.SAFE"
TILE = "T48QUE_20230223T032739"
METADATA = """<?xml version="1.0" encoding="UTF-8"?>
<n1:Level-2A_User_Product xmlns:n1="https://psd-14.sentinel2.eo.esa.int/PSD/User_Product_Level-2A.xsd">
  <n1:General_Info><Product_Info><PROCESSING_BASELINE>05.09</PROCESSING_BASELINE></Product_Info>
    <Product_Image_Characteristics><BOA_ADD_OFFSET_VALUES_LIST>
      <BOA_ADD_OFFSET band_id="1">-1000</BOA_ADD_OFFSET><BOA_ADD_OFFSET band_id="8">-900</BOA_ADD_OFFSET>
    </BOA_ADD_OFFSET_VALUES_LIST></Product_Image_Characteristics></n1:General_Info>
</n1:Level-2A_User_Product>
"""
PIXELS = np.ones((1, 4, 4), np.uint16)


@pytest.fixture(scope="module")
def safe(tmp_path_factory):
    """The files of an L2A product that matter here; names and folders as ESA gives them."""
    root = tmp_path_factory.mktemp("safe") / SAFE
    image = root / "GRANULE/L2A_T48QUE_A031177_20230223T034218"
    for resolution, bands in {
        "10": ("B02", "TCI", "AOT"),
        "20": ("B01", "B02", "B8A", "SCL"),
        "60": ("B01", "B02", "B8A"),
    }.items():
        for band in bands:
            write(image / f"IMG_DATA/R{resolution}m/{TILE}_{band}_{resolution}m.jp2", PIXELS, driver="JP2OpenJPEG", QUALITY=100)
    write(image / "QI_DATA/MSK_QUALIT_B02.jp2", PIXELS, driver="JP2OpenJPEG")
    (root / "MTD_MSIL2A.xml").write_text(METADATA)
    return root


def test_safe_has_each_band_at_its_finest(safe):
    found = find(str(safe), ("B8A", "B02", "B01"))
    assert list(found) == ["B8A", "B02", "B01"]
    assert [place.path.rpartition("/")[2] for place in found.values()] == [
        f"{TILE}_{end}.jp2" for end in ("B8A_20m", "B02_10m", "B01_20m")
    ]


def test_safe_says_its_offsets(safe):
    expected = Product("L2A", 509, (("B02", -1000.0), ("B8A", -900.0)))
    assert product(str(safe)) == expected
    assert product(str(next(safe.glob("GRANULE/*/IMG_DATA")))) == expected, "of a folder inside, too"


def test_zip(safe, tmp_path):
    archive = tmp_path / "download.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for path in safe.rglob("*.*"):
            if path.is_file():
                file.write(path, path.relative_to(safe.parent))
    (place,) = find(str(archive), ("B02",)).values()
    assert place.path.startswith("/vsizip/{") and place.path.endswith("R10m/T48QUE_20230223T032739_B02_10m.jp2")
    assert product(str(archive)) == product(str(safe))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("S2A_MSIL1C_20200101T000000_N0208_R018_T48QUE_20200101T010101.SAFE", Product("L1C", 208)),
        ("S2B_MSIL2A_20200223T032739_N9999_R018_T48QUE_20230924T183543", Product("L2A", 9999)),
        ("S2A_MSIL2A_20170613T101031_87_48", Product("L2A", None)),  # a patch of BigEarthNet
        ("scene", Product()),
    ],
)
def test_product_names(name, expected):
    assert product(f"/data/{name}/B02.tif") == expected


def test_bigearthnet_patch(tmp_path):
    patch = "S2A_MSIL2A_20170613T101031_87_48"
    for band in ("B02", "B8A", "B12"):
        write(tmp_path / patch / f"{patch}_{band}.tif", PIXELS)
    (tmp_path / patch / f"{patch}_labels_metadata.json").write_text("{}")
    assert list(find(str(tmp_path / patch), ("B12", "B02"))) == ["B12", "B02"]


def test_the_real_scene(shared):
    (folder,) = (shared / "data" / "scenes").iterdir()
    found = find(str(folder), ("B02", "B8A", "B11"))
    assert [place.path for place in found.values()] == [f"{folder}/{band}.tif" for band in ("B02", "B8A", "B11")]
    assert product(str(folder)) == Product("L2A", 9999)


@pytest.mark.parametrize("form", ["tif", "zip", "vrt"])
def test_raster_with_band_names(tmp_path, form):
    path = write(tmp_path / "image.tif", np.ones((3, 4, 4), np.uint16), names=("B2", "Band 8A", "cloud"))
    if form == "vrt":
        rasterio.shutil.copy(path, tmp_path / "image.vrt", driver="VRT")
        path = tmp_path / "image.vrt"
    if form == "zip":
        with zipfile.ZipFile(tmp_path / "image.zip", "w") as file:
            file.write(path, "deep/image.tif")
        path = tmp_path / "image.zip"
    found = find(str(path), ("B8A", "B02"))
    assert [place.number for place in found.values()] == [2, 1]


def test_raster_without_band_names(tmp_path):
    path = str(write(tmp_path / "image.tif", np.ones((2, 4, 4), np.uint16)))
    assert find(path, ("B02",), ("B04", "B02"))["B02"].number == 2


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("B2", "B02"), ("B02_10m", "B02"), ("Band 12", "B12"), ("b8a", "B8A"), ("Band_8A", "B8A"), ("B11 SWIR", "B11"),
        ("VV", "VV"), ("Sigma0_VH_db", "VH"), ("nir", ""), ("VVH", ""), ("", ""),
    ],
)  # fmt: skip
def test_band_names(text, name):
    assert band_name(text) == name


def test_refused(tmp_path, safe):
    plain = str(write(tmp_path / "plain.tif", np.ones((2, 4, 4), np.uint16)))
    named = str(write(tmp_path / "named.tif", np.ones((2, 4, 4), np.uint16), names=("B04", "B02")))
    twice = str(write(tmp_path / "twice.tif", np.ones((2, 4, 4), np.uint16), names=("B04", "B4")))
    shutil.copytree(safe, tmp_path / "two" / "a.SAFE")
    shutil.copytree(safe, tmp_path / "two" / "b.SAFE")
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.tif").write_text("no raster")
    (tmp_path / "text.zip").write_text("no zip")
    for arguments, message in {
        (plain, ("B02",)): r"plain\.tif carries no band names.*give --layout=DATASET, or --bands=B02",
        (plain, ("B02",), ("B02", "B03", "B04")): r"has 2 bands, 3 are named",
        (plain, ("B08",), ("B02", "B03")): r"the model needs band B08; there are B02, B03",
        (named, ("B02",), ("B02", "B04")): r"its bands are called B04, B02, but B02, B04 was said; leave that out",
        (twice, ("B04",)): r"B04 twice among the bands",
        (str(safe), ("B02", "B10")): r"needs band B10; there are B01, B02, B8A",
        (str(tmp_path / "two"), ("B02",)): r"two files of band B\w+, .*a\.SAFE.* and .*b\.SAFE.*; give the folder of one scene",
        (str(tmp_path / "empty"), ("B02",)): r"no file is named after a band",
        (str(tmp_path / "nowhere.tif"), ("B02",)): r"nowhere\.tif: no such file",
        (str(tmp_path / "text.tif"), ("B02",)): r"text\.tif: cannot be read as a raster",
        (str(tmp_path / "text.zip"), ("B02",)): r"text\.zip: cannot be read as a zip",
    }.items():
        with pytest.raises(UserError, match=message):
            find(*arguments)

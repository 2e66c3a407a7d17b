import numpy as np
import pytest
import tifffile

from tfrs import synthetic_bigearthnet
from tfrs.labels import BIGEARTHNET_43


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    folder = tmp_path_factory.mktemp("synthetic")
    synthetic_bigearthnet.v1(folder / "v1", 14, 0)
    synthetic_bigearthnet.v2(folder / "v2", 14, 0)
    return folder / "v1", folder / "v2"


def planes(root, ending):
    return [tifffile.imread(path) for path in root.rglob(f"*{ending}")]


@pytest.mark.parametrize(
    "ending, size, dtype",
    [("_B02.tif", 120, "uint16"), ("_B8A.tif", 60, "uint16"), ("_B09.tif", 20, "uint16"), ("_VH.tif", 120, "float32")],
)
def test_files_are_as_published(roots, ending, size, dtype):
    for root in roots:
        found = planes(root, ending)
        assert len(found) == 14
        assert {(plane.shape, str(plane.dtype)) for plane in found} == {((size, size), dtype)}


def test_both_versions_show_the_same_ground(roots):
    for ending in ("_B05.tif", "_VV.tif"):
        first, second = ({plane.tobytes() for plane in planes(root, ending)} for root in roots)
        assert first == second


def test_there_is_no_cirrus_band_and_there_are_12_others(roots):
    bands = {path.stem.rpartition("_")[2] for path in roots[0].rglob("S2*.tif")}
    assert bands == {"B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12"}


def test_every_class_has_had_its_turn_and_maps_hold_corine_codes(roots):
    maps = planes(roots[1], "_reference_map.tif")
    assert (
        {code for codes in maps for code in np.unique(codes)}
        == set(synthetic_bigearthnet.COVERS)
        <= set(BIGEARTHNET_43.numbers)
    )
    assert max(len(np.unique(codes)) for codes in maps) > 1


def test_coarse_bands_are_means_of_blocks():
    plane = np.arange(36, dtype=np.uint16).reshape(6, 6)
    np.testing.assert_array_equal(synthetic_bigearthnet._coarse(plane, 6), [[18]])  # 17.5, to the even number
    np.testing.assert_array_equal(synthetic_bigearthnet._coarse(plane, 1), plane)

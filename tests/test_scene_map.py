"""Maps in files, read back with other libraries than the one that wrote them, and areas computed by hand."""

import csv
import itertools
import re
import resource
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
import rasterio
import rasterio.shutil
import tifffile
from rio_cogeo.cogeo import cog_validate
from small_scene import PLACE, UTM

from tfrs import quicklook
from tfrs.areas import pixel_areas
from tfrs.errors import UserError
from tfrs.geotiff import Grid
from tfrs.labels import BIGEARTHNET_43, MULTISENGE
from tfrs.scene_map import Extras, check_output, entropy, write_map
from tfrs.scene_windows import Part

GRID = Grid(UTM, PLACE, 3, 4)
IDS = np.array([[0, 13, 5, 5], [1, 1, 2, 3], [0, 0, 0, 12]])
KNOWN = np.ones((3, 4), bool)
KNOWN[2, 0] = False
NUMBERS = np.where(KNOWN, IDS + 1, 0)


def card(scheme):
    rows = zip(scheme.classes, scheme.numbers, scheme.colors, strict=True)
    return {
        "task": "segmentation",
        "scheme": scheme.name,
        "classes": [{"name": name, "number": number, "color": f"#{color}"} for name, number, color in rows],
        "inputs": {"s2": {"bands": ["B04", "B03", "B02"], "dtype": "uint16", "unit": "x", "nodata": 0}},
    }


def certain(scheme, channels=0, drops=None):
    """Four parts that say IDS."""
    values = np.where(np.arange(len(scheme.classes) + channels)[:, None, None] == IDS, 0.9, 0.1 / 13)
    if channels:
        values[-channels:] = drops
    for left, top in itertools.product((0, 3), (0, 2)):
        place = slice(top, top + 2), slice(left, left + 3)
        known = KNOWN[place]
        yield Part(top, left, values[:, *place].astype(np.float32), known, {"s2": np.ones((3, *known.shape), np.uint16)}, 1)


def write(path, scheme, grid=GRID, extras=Extras(), **options):  # noqa: B008
    return write_map(path, certain(scheme, **options), grid, 1, card(scheme), extras)


def table(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_geotiff_has_the_numbers_their_colours_and_the_place(tmp_path):
    shares = write(tmp_path / "map.tif", MULTISENGE)
    assert shares == pytest.approx(np.bincount(NUMBERS[NUMBERS > 0], minlength=15)[1:] / 11)
    with tifffile.TiffFile(tmp_path / "map.tif") as file:
        (page,) = file.pages
        np.testing.assert_array_equal(page.asarray(), NUMBERS)
        assert page.photometric == tifffile.PHOTOMETRIC.PALETTE and page.is_tiled
        palette = page.colormap.T // 257
    for number, color in zip(MULTISENGE.numbers, MULTISENGE.colors, strict=True):
        assert bytes(palette[number].tolist()).hex() == color
    with rasterio.open(tmp_path / "map.tif") as file:
        assert file.crs.to_epsg() == 32648 and file.nodata == 0 and tuple(file.transform)[:6] == PLACE
        assert file.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
    assert {path.name for path in tmp_path.iterdir()} == {
        *("map.tif", "map.tif.aux.xml", "map.qml", "map_areas.csv", "map_quicklook.png")
    }


def test_gdal_and_qgis_find_the_names(tmp_path):
    """GDAL, by what it copies into a VRT."""
    write(tmp_path / "map.tif", MULTISENGE)
    with rasterio.open(tmp_path / "map.tif") as file:
        rasterio.shutil.copy(file, tmp_path / "map.vrt", driver="VRT")
    names = [element.text for element in ET.parse(tmp_path / "map.vrt").iter("Category")]
    assert names == ["no data", *MULTISENGE.classes]
    entries = ET.parse(tmp_path / "map.qml").findall("./pipe/rasterrenderer/colorPalette/paletteEntry")
    assert [(int(e.attrib["value"]), e.attrib["label"], e.attrib["color"]) for e in entries] == [
        (n, name, f"#{color}") for n, name, color in zip(MULTISENGE.numbers, MULTISENGE.classes, MULTISENGE.colors, strict=True)
    ]


def test_png_has_the_colours(tmp_path):
    image = pytest.importorskip("PIL.Image", reason="Pillow comes with matplotlib")
    write(tmp_path / "map.png", MULTISENGE)
    with image.open(tmp_path / "map.png") as file:
        assert file.mode == "P"
        np.testing.assert_array_equal(np.array(file), NUMBERS)
        assert np.array(file.convert("RGB"))[0, 1].tolist() == list(bytes.fromhex(MULTISENGE.colors[13]))


def test_numbers_above_255(tmp_path):
    write(tmp_path / "map.tif", BIGEARTHNET_43)
    assert tifffile.imread(tmp_path / "map.tif").tolist()[0] == [111, 213, 124, 124]


def test_areas_of_square_metres(tmp_path):
    write(tmp_path / "map.tif", MULTISENGE)
    rows = table(tmp_path / "map_areas.csv")
    assert [int(row["number"]) for row in rows] == list(MULTISENGE.numbers)
    assert rows[1] == {"number": "2", "class": "Sparse Built-Up", "pixels": "2", "hectares": "0.0200", "percent": "18.1818"}
    assert sum(int(row["pixels"]) for row in rows) == 11


def test_cells_that_reach_beyond_the_scene(tmp_path, monkeypatch):
    """Patches of 64 pixels of 10 m over 150 rows and 170 columns: the last cells are 22 rows high and 42 columns wide."""
    pictures = []
    monkeypatch.setattr(quicklook, "write", lambda path, _, samples, __: (path.touch(), pictures.append(samples.scene)))
    ids = np.array([[0, 0, 1], [2, 3, 1], [2, 4, 5]])
    values = np.where(np.arange(14)[:, None, None] == ids, 0.9, 0.1 / 13)
    parts = [
        Part(0, left, values[:, :, left:][..., :n], np.ones((3, n), bool), {"s2": np.ones((3, 192, 64 * n), np.uint16)}, 1)
        for left, n in [(0, 2), (2, 1)]
    ]
    write_map(tmp_path / "map.tif", parts, Grid(UTM, PLACE, 150, 170), 64, card(MULTISENGE), Extras())
    rows = table(tmp_path / "map_areas.csv")
    # Hectares: 64 x 64 pixels 40.96, 64 x 42 pixels 26.88, 22 x 64 pixels 14.08, 22 x 42 pixels 9.24.
    expected = ["81.9200", "53.7600", "55.0400", "40.9600", "14.0800", "9.2400"]
    assert [row["hectares"] for row in rows[:6]] == expected and [row["pixels"] for row in rows[:3]] == ["2", "2", "2"]
    assert sum(float(row["hectares"]) for row in rows) == pytest.approx(150 * 170 / 100)
    (shown,) = pictures
    there = np.isfinite(shown)
    assert there[:, :150, :170].all() and there.sum() == 3 * 150 * 170 and shown.shape == (3, 192, 192)


def test_areas_in_degrees_are_those_of_the_ellipsoid():
    """The whole Earth (Moritz 1980: 510,065,621.724 km2 of GRS80, whose difference is below 1e-9), and a known square."""
    step = 0.5
    earth = pixel_areas(Grid("EPSG:4326", (step, 0, -180, 0, -step, 90), 360, 720))
    assert earth.sum() * 720 / 1e6 == pytest.approx(510_065_621.724, rel=1e-8)
    # One degree at 45 N: 78,846.8 m by 111,131.8 m (Snyder 1987, table 8, arcs of parallel and meridian)
    (square,) = pixel_areas(Grid("EPSG:4326", (1.0, 0, 7, 0, -1.0, 45.5), 1, 1))
    assert square == pytest.approx(78_846.8 * 111_131.8, rel=1e-4)


def test_areas_in_feet():
    assert pixel_areas(Grid("EPSG:2225", (10, 0, 0, 0, -10, 0), 1, 1))[0] == pytest.approx(100 * 0.3048006096**2, rel=1e-9)


def test_no_area_without_a_place(tmp_path):
    assert pixel_areas(Grid('LOCAL_CS["a plan",UNIT["metre",1]]', PLACE, 3, 4)) is None
    write(tmp_path / "map.tif", MULTISENGE, Grid("", PLACE, 3, 4))
    assert {row["hectares"] for row in table(tmp_path / "map_areas.csv")} == {""}


def test_layers(tmp_path):
    drops = np.stack([np.full((3, 4), 0.25), np.arange(12).reshape(3, 4) / 100])
    extras = Extras(probabilities=True, uncertainty=True, occluded=("s2", "s1"))
    write(tmp_path / "map.tif", MULTISENGE, extras=extras, channels=2, drops=drops)
    with rasterio.open(tmp_path / "map_probabilities.tif") as file:
        assert file.descriptions == MULTISENGE.classes and file.count == 14
        values = file.read(masked=True) * file.scales[0]
    np.testing.assert_array_equal(values.mask[0], ~KNOWN)
    assert values[:, 0, 1].tolist() == pytest.approx([0.1 / 13] * 13 + [0.9], abs=5e-5)
    with rasterio.open(tmp_path / "map_uncertainty.tif") as file:
        value = file.read(1, masked=True)[0, 0] * file.scales[0]
    assert value == pytest.approx(-(0.9 * np.log(0.9) + 0.1 * np.log(0.1 / 13)) / np.log(14), abs=5e-5)
    with rasterio.open(tmp_path / "map_occlusion.tif") as file:
        assert file.descriptions == ("s2", "s1")
        np.testing.assert_allclose((file.read(masked=True) * file.scales[0])[:, KNOWN], drops[:, KNOWN], atol=5e-5)
    rows = table(tmp_path / "map_occlusion.csv")
    assert rows[1]["s2"] == "0.2500" and float(rows[1]["s1"]) == pytest.approx((0.04 + 0.05) / 2)
    assert rows[7]["pixels"] == "0" and rows[7]["s1"] == "", "no mean of no pixels"


def test_entropy_is_1_of_ignorance_and_0_of_certainty():
    assert entropy(np.full((4, 1, 1), 0.25), "segmentation") == pytest.approx(1)
    assert entropy(np.array([1.0, 0, 0])[:, None, None], "single_label") == pytest.approx(0, abs=1e-9)
    assert entropy(np.array([0.5, 1, 0, 0.5])[:, None, None], "multi_label") == pytest.approx(0.5)


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
        check_output(tmp_path / name, card(scheme)["classes"], [str(tmp_path / "image.tif"), "/nowhere.tif"], Extras())


@pytest.mark.parametrize(
    ("name", "flag", "with_it"),
    [
        ("probabilities", "--probabilities", Extras(probabilities=True)),
        ("uncertainty", "--uncertainty", Extras(uncertainty=True)),
        ("occlusion", "--occlude", Extras(occluded=("s2",))),
    ],
)
def test_layers_of_an_earlier_map_do_not_stay_beside_a_new_one(tmp_path, name, flag, with_it):
    for suffix in (".tif", ".tif.aux.xml"):
        (tmp_path / f"map_{name}{suffix}").write_bytes(b"of before")
    classes = card(MULTISENGE)["classes"]
    check_output(tmp_path / "map.tif", classes, [], Extras())
    (tmp_path / "map.tif").write_bytes(b"of before")
    check_output(tmp_path / "map.tif", classes, [], with_it)
    check_output(tmp_path / "map.png", classes, [], Extras())
    found = rf"map_{name}\.tif, .*map_{name}\.tif\.aux\.xml: of the earlier map, .*; delete that, or give {flag} too"
    with pytest.raises(UserError, match=found):
        check_output(tmp_path / "map.tif", classes, [], Extras())


def test_one_process_writes_a_map(tmp_path):
    def while_another_comes():
        with pytest.raises(UserError, match=r"map\.png: another process is writing it; wait for it, or give another name"):
            write(tmp_path / "map.png", MULTISENGE)  # whose areas, legend and picture have the same names
        yield from certain(MULTISENGE)

    for left in ("map.lock.tmp", "map.tif.tmp", "map.tif.plain.tmp"):  # by one that was killed
        (tmp_path / left).write_bytes(b"half")
    write_map(tmp_path / "map.tif", while_another_comes(), GRID, 1, card(MULTISENGE), Extras())
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "map.tif"), NUMBERS)
    assert not list(tmp_path.glob("*.tmp"))


def test_file_that_cannot_be_written():
    with pytest.raises(UserError, match=r"/proc/map\.tif: cannot be written \(No such file or directory\)"):
        write(Path("/proc/map.tif"), MULTISENGE)


@pytest.mark.parametrize("error", [UserError, KeyboardInterrupt])
def test_nothing_is_left_of_a_map_that_fails(tmp_path, error):
    def failing():
        yield next(certain(MULTISENGE))
        raise error("the scene ends here")

    (tmp_path / "map.tif").write_bytes(b"of before")
    with pytest.raises(error, match="the scene ends here"):
        write_map(tmp_path / "map.tif", failing(), GRID, 1, card(MULTISENGE), Extras(probabilities=True, uncertainty=True))
    assert [path.name for path in tmp_path.iterdir()] == ["map.tif"]
    assert (tmp_path / "map.tif").read_bytes() == b"of before"


OCCLUDED = Extras(occluded=("s2", "s1"))


@pytest.mark.parametrize("name", ["map_areas.csv", "map_occlusion.csv", "map_quicklook.png", "map.tif.aux.xml", "map.qml"])
def test_disk_full_at_a_file_beside_the_map(tmp_path, name):
    (tmp_path / "map.tif").write_bytes(b"of before")
    (tmp_path / f"{name}.tmp").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        write(tmp_path / "map.tif", MULTISENGE, extras=OCCLUDED, channels=2, drops=np.zeros((2, 3, 4)))
    assert [path.name for path in tmp_path.iterdir()] == ["map.tif"]
    assert (tmp_path / "map.tif").read_bytes() == b"of before"


def test_folder_in_the_way(tmp_path):
    (tmp_path / "map_areas.csv").mkdir()
    with pytest.raises(UserError, match=r"map_areas\.csv: is a folder, where a file is to be written; move it away"):
        write(tmp_path / "map.tif", MULTISENGE)
    assert [path.name for path in tmp_path.iterdir()] == ["map_areas.csv"]


def test_disk_full_at_a_raster(tmp_path):
    """By a limit to the size of files, which GDAL passes over as it does a full disk. Noise, which deflate makes no smaller."""
    side, noise = 120, np.random.default_rng(0).uniform(-3.2, 3.2, (14, 120, 120)).astype(np.float32)
    parts = [Part(0, 0, noise, np.ones((side, side), bool), {"s2": np.ones((3, side, side), np.uint16)}, 1)]

    def make():
        grid = Grid(UTM, PLACE, side, side)
        write_map(tmp_path / "map.tif", parts, grid, 1, card(MULTISENGE), Extras(probabilities=True))

    make()
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    largest = (tmp_path / "map_probabilities.tif").stat().st_size
    plain = noise.size * 2
    assert plain < largest
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    for limit in (plain - 1, plain + 10, largest - 1):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, usual[1]))
        try:
            with pytest.raises(UserError, match=r"map_probabilities\.tif.*cannot be written .*; is the disk full\?"):
                make()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, usual)
        assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_large_maps_are_cloud_optimized_with_overviews(tmp_path):
    side = 1100
    values = np.zeros((14, side, side), np.float32)
    values[3] = 1
    parts = [Part(0, 0, values, np.ones((side, side), bool), {"s2": np.ones((3, side, side), np.uint16)}, 1)]
    write_map(tmp_path / "map.tif", parts, Grid(UTM, PLACE, side, side), 1, card(MULTISENGE), Extras(uncertainty=True))
    for name in ("map.tif", "map_uncertainty.tif"):
        valid, errors, warnings = cog_validate(str(tmp_path / name), strict=True)
        assert valid, (errors, warnings)
        with rasterio.open(tmp_path / name) as file:
            assert file.overviews(1) and file.block_shapes[0] == (512, 512)
    with rasterio.open(tmp_path / "map.tif", overview_level=0) as file:
        assert (file.read(1) == 4).all() and file.colormap(1)[4][:3] == tuple(bytes.fromhex(MULTISENGE.colors[3]))


@pytest.mark.parametrize(("side", "step"), [(600, 1), (2, 2)])
def test_quicklook_shows_scene_map_shares_and_a_scale(tmp_path, monkeypatch, side, step):
    from tfrs import plots

    monkeypatch.setattr(quicklook, "SIDE", side)

    drawn = []
    monkeypatch.setattr(plots, "save", lambda figure, path: (drawn.append(figure), Path(path).touch()))
    write(tmp_path / "map.tif", MULTISENGE)
    (figure,) = drawn
    image, colors = (axes.get_images()[0].get_array() for axes in figure.axes)
    assert image.shape[:2] == KNOWN[::step, ::step].shape
    expected = np.array([[0, 0, 0], *(tuple(bytes.fromhex(color)) for color in MULTISENGE.colors)])[NUMBERS[::step, ::step]]
    np.testing.assert_array_equal(colors, expected)
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts[0] == "Dense Built-Up 27.3 %" and texts[-1] == "no data"
    assert re.fullmatch(r"10 m", figure.axes[1].texts[0].get_text())

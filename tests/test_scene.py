"""Bands of other pixel sizes and projections on one grid, against interpolation by NumPy and coordinates by rasterio."""

import itertools
import json

import numpy as np
import pytest
import rasterio
import rasterio.warp
from small_scene import BANDS, PLACE, UTM, bands_folder, card, scene, write

from tfrs.errors import UserError
from tfrs.scene import Reading, find_scene, opened
from tfrs.scene_values import Said

READING = Reading({})
CARD = card()


def whole(found):
    with opened(found) as read:
        return read(0, 0, found.grid.height, found.grid.width)


def scaled(place, factor):
    return (place[0] * factor, 0.0, place[2], 0.0, place[4] * factor, place[5])


def test_files_on_one_grid_are_read_as_they_are(tmp_path):
    data = scene(50, 70)
    found = find_scene({"s2": str(bands_folder(tmp_path / "scene", data))}, CARD, READING)
    images, known = whole(found)
    np.testing.assert_array_equal(images["s2"], data)
    np.testing.assert_array_equal(known, data.any(axis=0))
    assert found.grid.crs == UTM and found.grid.transform == PLACE and not found.notes


def interpolated(coarse, factor):
    """Bilinear between pixel centres, constant beyond the outermost."""
    size = np.array(coarse.shape) * factor
    rows, columns = ((np.arange(n) + 0.5) / factor - 0.5 for n in size)
    down = np.stack([np.interp(rows, np.arange(coarse.shape[0]), column) for column in coarse.T], axis=1)
    return np.stack([np.interp(columns, np.arange(coarse.shape[1]), row) for row in down])


@pytest.mark.parametrize("factor", [2, 6])
def test_coarser_bands_are_interpolated_and_windows_agree(tmp_path, factor):
    fine = np.random.default_rng(0).integers(200, 5000, (60, 120)).astype(np.uint16)
    coarse = np.random.default_rng(1).integers(200, 5000, (60 // factor, 120 // factor)).astype(np.uint16)
    for band in BANDS:
        place = scaled(PLACE, factor) if band == "B8A" else PLACE
        write(tmp_path / "scene" / f"{band}.tif", coarse if band == "B8A" else fine, place=place)
    found = find_scene({"s2": str(tmp_path / "scene")}, CARD, READING)
    images, _ = whole(found)
    np.testing.assert_allclose(images["s2"][1], interpolated(coarse, factor), atol=0.51)
    with opened(found) as read:
        part, _ = read(13, 29, 21, 33)
    np.testing.assert_array_equal(part["s2"], images["s2"][:, 13:34, 29:62])
    nearest = find_scene({"s2": str(tmp_path / "scene")}, CARD, Reading({}, resampling="nearest"))
    np.testing.assert_array_equal(whole(nearest)[0]["s2"][1], coarse.repeat(factor, 0).repeat(factor, 1))


def test_resampling_of_the_models_data(tmp_path):
    path = {"s2": str(bands_folder(tmp_path / "scene", scene(20, 20)))}
    said = {**CARD, "data": {"dataset": "bigearthnet", "spec": {"resampling": "cubic"}}}
    assert find_scene(path, said, READING).resampling == "cubic"
    assert find_scene(path, CARD, READING).resampling == "bilinear"
    with pytest.raises(UserError, match=r"unknown resampling 'cubik'\. Did you mean 'cubic'"):
        find_scene(path, CARD, Reading({}, resampling="cubik"))


def test_other_projection_and_a_gap(tmp_path):
    """Sentinel-1 in degrees, decibels that rise with the longitude, and without the west of the scene."""
    write(tmp_path / "s2.tif", scene(60, 80, seed=3), names=BANDS)
    west, north = rasterio.warp.transform(UTM, "EPSG:4326", [PLACE[2] + 200], [PLACE[5] + 300])
    step = 1e-4
    longitude = west[0] + step * (np.arange(120) + 0.5)
    ramp = np.broadcast_to(1000 * (longitude - west[0]) - 40, (2, 150, 120)).astype(np.float32)
    write(tmp_path / "s1.tif", ramp, place=(step, 0, west[0], 0, -step, north[0]), crs="EPSG:4326", names=("VV", "VH"))
    both = {
        **CARD,
        "inputs": {**CARD["inputs"], "s1": {"bands": ("VH",), "dtype": "float32", "unit": "decibel", "nodata": None}},
    }
    found = find_scene({"s2": str(tmp_path / "s2.tif"), "s1": str(tmp_path / "s1.tif")}, both, READING)
    images, known = whole(found)
    rows, columns = np.indices((60, 80))
    x, y = (PLACE[i] + PLACE[j] * (n + 0.5) for i, j, n in ((2, 0, columns), (5, 4, rows)))
    east = np.reshape(rasterio.warp.transform(UTM, "EPSG:4326", x.ravel(), y.ravel())[0], x.shape)
    covered = (east > west[0] + step) & (east < west[0] + 119 * step)
    assert 0.5 < covered.mean() < 0.9
    np.testing.assert_allclose(images["s1"][0][covered], 1000 * (east - west[0])[covered] - 40, atol=0.02)
    beyond = (east < west[0] - step) | (east > west[0] + 121 * step)
    assert np.isnan(images["s1"][0][beyond]).all() and not known[beyond].any() and known[covered].mean() > 0.9
    (note,) = found.notes
    assert note.endswith(
        "s1.tif: covers about 76% of the scene; beyond it, there is no map"
    )  # 60 of 80 columns, turned a little
    write(tmp_path / "s1.tif", ramp, place=(step, 0, west[0] + 1, 0, -step, north[0]), crs="EPSG:4326", names=("VV", "VH"))
    with pytest.raises(UserError, match=r"s1\.tif: lies outside of the scene"):
        find_scene({"s2": str(tmp_path / "s2.tif"), "s1": str(tmp_path / "s1.tif")}, both, READING)


def test_mask_and_area_of_interest(tmp_path):
    data = scene(60, 80, seed=3)
    clouds = np.zeros((30, 40), np.uint8)
    clouds[5:9, 10:30] = 1
    write(tmp_path / "clouds.tif", clouds, place=scaled(PLACE, 2))
    ring = [(20.2, 10.3), (60.7, 10.3), (60.7, 42.0), (40.0, 55.5), (20.2, 10.3)]  # columns and rows
    corners = [rasterio.warp.transform(UTM, "EPSG:4326", [PLACE[2] + 10 * c], [PLACE[5] - 10 * r]) for c, r in ring]
    shape = {"type": "Polygon", "coordinates": [[(x[0], y[0]) for x, y in corners]]}
    (tmp_path / "aoi.geojson").write_text(json.dumps({"type": "Feature", "geometry": shape, "properties": {}}))
    paths = {"s2": str(write(tmp_path / "s2.tif", data, names=BANDS)), "mask": str(tmp_path / "clouds.tif")}
    found = find_scene(paths, CARD, Reading({}, aoi=str(tmp_path / "aoi.geojson")))
    images, known = whole(found)
    assert found.grid.transform[2] == PLACE[2] + 200 and found.grid.transform[5] == PLACE[5] - 100
    assert (found.grid.height, found.grid.width) == (46, 41)
    np.testing.assert_array_equal(images["s2"], data[:, 10:56, 20:61])
    rows, columns = np.indices((60, 80)) + 0.5
    inside = np.ones((60, 80), bool)
    for (c0, r0), (c1, r1) in itertools.pairwise(ring):  # convex: left of no edge
        inside &= (c1 - c0) * (rows - r0) - (r1 - r0) * (columns - c0) > 0
    expected = inside & data.any(axis=0) & (clouds.repeat(2, 0).repeat(2, 1) == 0)
    assert 0 < expected.sum() < inside.sum()
    differs = known != expected[10:56, 20:61]
    assert differs.sum() <= 2, "where an edge meets a centre"
    assert found.notes == ()
    small = str(write(tmp_path / "small.tif", clouds[:27, :30], place=scaled(PLACE, 2)))
    (note,) = find_scene({**paths, "mask": small}, CARD, READING).notes
    assert note == f"{small}: covers about 68% of the scene; beyond it, nothing is masked"


def test_pixels_of_another_size_are_told(tmp_path):
    path = write(tmp_path / "s2.tif", scene(60, 80), names=BANDS, place=scaled(PLACE, 2))
    assert "pixels of 20 m; the model learned from 10 m" in find_scene({"s2": str(path)}, CARD, READING).notes[0]


def test_layout_of_a_data_set(tmp_path):
    """EuroSAT's order of 13 bands, and bright pixels that would otherwise ask for an offset."""
    data = np.random.default_rng(0).integers(2000, 5000, (13, 20, 30)).astype(np.uint16)
    found = find_scene({"s2": str(write(tmp_path / "s2.tif", data))}, CARD, Reading({}, layout="eurosat"))
    np.testing.assert_array_equal(whole(found)[0]["s2"], data[[3, 12, 1]])


def test_refused(tmp_path):
    (tmp_path / "far.geojson").write_text(json.dumps({"type": "Polygon", "coordinates": [[(0, 0), (1, 0), (1, 1), (0, 0)]]}))
    (tmp_path / "point.geojson").write_text(json.dumps({"type": "Point", "coordinates": [0, 0]}))
    (tmp_path / "text.geojson").write_text("no json")
    (tmp_path / "metres.geojson").write_text(
        json.dumps({"type": "Polygon", "coordinates": [[PLACE[2::3], (4e5, 2e6), (4e5, 1e6), PLACE[2::3]]]})
    )
    (tmp_path / "empty.geojson").write_text(json.dumps({"type": "Polygon", "coordinates": []}))
    path = str(write(tmp_path / "s2.tif", scene(60, 80), names=BANDS))
    apart = {**CARD, "inputs": {"s2_10m": CARD["inputs"]["s2"]}}
    both = {**CARD, "inputs": {**CARD["inputs"], "s1": {"bands": ["VV"], "dtype": "float32", "unit": "decibel"}}}
    degrees = str(write(tmp_path / "degrees.tif", scene(60, 80), names=BANDS, crs="EPSG:4326"))
    bare = write(tmp_path / "bare" / "B04.tif", scene(60, 80)[0], crs=None).parent
    for band in BANDS[1:]:
        write(bare / f"{band}.tif", scene(30, 40)[0], crs=None)
    for arguments, message in [
        (({"s2": path, "s1": path}, CARD, READING), "the model takes s2; --scene gives s2, s1"),
        (({"s2": path}, CARD, Reading({}, aoi=str(tmp_path / "far.geojson"))), r"far\.geojson: lies outside of .*s2\.tif"),
        (({"s2": path}, CARD, Reading({}, aoi=str(tmp_path / "point.geojson"))), "has no polygon; --aoi takes"),
        (({"s2": path}, CARD, Reading({}, aoi=str(tmp_path / "text.geojson"))), "is no GeoJSON"),
        (({"s2": path}, CARD, Reading({}, aoi=str(tmp_path / "empty.geojson"))), "is no GeoJSON"),
        (({"s2": path}, CARD, Reading({}, aoi=str(tmp_path / "metres.geojson"))), r"metres\.geojson: is no GeoJSON in degrees"),
        (({"s2": path}, CARD, Reading({}, aoi="nowhere")), "nowhere: No such file"),
        (({"s2": path, "mask": degrees}, CARD, READING), r"degrees\.tif: lies outside of the scene"),
        (({"s2_10m": path}, apart, READING), "takes bands of each resolution apart"),
        (({"s2": str(bare)}, CARD, READING), r"has no CRS, so it cannot be placed on the scene's 80x60 pixels"),
        (({"s2": path}, CARD, Reading({}, layout="sen12ms", said=Said())), "has 3 bands, 13 are named"),
        (({"s2": path}, CARD, Reading({"s1": ["VV"]})), "--bands names s1, the model takes s2; write it as s2:B04,B8A,B02$"),
        (({"s2": path, "s1": path}, both, Reading({"": BANDS})), r"not say of which sensor; write it as s2:B04,B8A,B02\+s1:VV"),
        (({"s2": degrees}, CARD, READING), "in EPSG:4326, in degrees, but begins at y = 1.98709e"),
    ]:  # fmt: skip
        with pytest.raises(UserError, match=message):
            find_scene(*arguments)

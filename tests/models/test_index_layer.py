import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from cooccurrence import reference

from tfrs import registry
from tfrs.indices import INDICES, Entropy
from tfrs.labels import EUROSAT
from tfrs.models.build import build
from tfrs.models.indices import Indices
from tfrs.models.input_stage import input_planes
from tfrs.sensors import resolve, select, sentinel1, sentinel2
from tfrs.tasks import SingleLabel

BANDS = ("B02", "B03", "B04", "B08", "B11")
SENSORS = {"s2": sentinel2(), "s1": sentinel1()}
STATISTICS = {
    name: {band: {"mean": 900.0 + 10 * i, "std": 200.0 + i} for i, band in enumerate(sensor.bands)}
    for name, sensor in SENSORS.items()
}


def chosen(spec):
    return select(SENSORS, resolve(spec, SENSORS))


def indices(values, names, dtype="uint16", **options):
    """Indices of pixels given as {band: row of digital numbers}."""
    image = np.stack([np.asarray(row, dtype) for row in values.values()])[None, :, None]
    return keras.ops.convert_to_numpy(Indices(tuple(values), names, **options)(image))[0, 0]


def test_digital_numbers_become_reflectances():
    """By hand, in the order asked for: SAVI and EVI depend on the scale."""
    pixel = dict(zip(BANDS, ([500], [800], [1000], [4000], [2000]), strict=True))
    names = ("EVI", "NDVI", "NDBI", "NDWI", "MNDWI", "SAVI", "BSI")
    expected = [0.75 / 1.625, 0.6, -1 / 3, -2 / 3, -3 / 7, 0.45, -0.2]
    np.testing.assert_allclose(indices(pixel, names)[0], expected, rtol=1e-6)


def test_pixels_without_data_have_no_index():
    values = {"B08": [0, 5000, 0, 5000, 7], "B04": [5000, 0, 0, 2500, 7]}
    found = indices(values, ("NDVI",), nodata=0).ravel()
    np.testing.assert_allclose(found, [0, 0, 0, 1 / 3, 0], rtol=1e-6)
    np.testing.assert_allclose(indices(values, ("NDVI",)).ravel(), [-1, 1, 0, 1 / 3, 0], rtol=1e-6)  # 0 / 0 is 0 too
    assert not indices({"B08": [10000, -3000], "B04": [-10000, 3000]}, ("NDVI", "eNDVI"), "float32").any()  # 2 / 0 is too


@pytest.mark.parametrize("name", INDICES)
def test_always_finite_and_in_range(name):
    """NaN, infinities, negative values, sums of zero, the largest numbers: every pair of them in every pair of bands."""
    odd = [0, 1, -1, 1e4, -1e4, 65535, 1e38, -1e38, math.inf, -math.inf, math.nan]
    grid = np.stack(np.meshgrid(*[odd] * len(INDICES[name].bands), indexing="ij")).reshape(len(INDICES[name].bands), -1)
    found = indices(dict(zip(INDICES[name].bands, grid, strict=True)), (name,), "float32", nodata=0)
    assert np.isfinite(found).all() and (np.abs(found) <= 1).all()
    without = np.isnan(grid).any(axis=0) | (grid == 0).any(axis=0)
    if not INDICES[name].texture:
        assert without.any() and not found[without].any()


def test_steep_formulas_are_clipped():
    """EVI = 2.5 * 0.5 / 0.075 here."""
    assert indices({"B08": [5000], "B04": [1], "B02": [1900]}, ("EVI",)).item() == 1


@pytest.mark.parametrize("settings", [{}, {"levels": 5, "window": 5, "offsets": ((0, 2), (1, -1))}], ids=["default", "other"])
def test_entropy_of_ndvi_is_that_of_scikit_image(settings):
    rng = np.random.default_rng(0)
    image = rng.integers(200, 6000, (1, 2, 14, 17)).astype(np.uint16)
    image[:, 1, :, :8] //= 4
    image[rng.random(image.shape) < 0.05] = 0
    nir, red = image[0].astype(float)
    ndvi = np.divide(nir - red, nir + red, where=(nir > 0) & (red > 0), out=np.full(nir.shape, np.nan))
    levels = settings.get("levels", 8)
    bins = np.where(np.isnan(ndvi), -1, np.digitize(np.nan_to_num(ndvi), np.linspace(-1, 1, levels + 1)[1:-1]))
    expected = reference(bins, levels, settings.get("window", 7), settings.get("offsets", Entropy.offsets))
    made = Indices(("B08", "B04"), ("eNDVI",), nodata=0, entropy=settings)(image)[0, :, :, 0]
    np.testing.assert_allclose(made, expected / math.log(levels**2), atol=1e-6)
    assert expected.max() > 1


@pytest.mark.parametrize(("ndvi", "level"), [(-1, 0), (-0.5, 2), (0, 4), (0.5, 6), (1, 7)])
def test_bins_hold_their_lower_edge_and_the_last_both(ndvi, level):
    """Beside a pixel of a known level: entropy is 0 where the two are alike."""
    middle = 2 * (level + 0.5) / 8 - 1
    values = {"B08": [1 + ndvi, 1 + middle], "B04": [1 - ndvi, 1 - middle]}
    assert not indices(values, ("eNDVI",), "float32").any()


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16", "mixed_float16"])
def test_half_precision_comes_after_the_arithmetic(policy):
    rng = np.random.default_rng(0)
    image = rng.integers(1, 65535, (1, 2, 9, 9)).astype(np.float32)
    layer = Indices(("B08", "B04"), ("NDVI", "eNDVI"), dtype=policy)
    made = layer(image)
    assert keras.backend.standardize_dtype(made.dtype) == policy.removeprefix("mixed_")
    exact = Indices(("B08", "B04"), ("NDVI", "eNDVI"), dtype="float32")(image)
    np.testing.assert_allclose(np.asarray(made, np.float32), exact, rtol=5e-3, atol=1e-3)


def test_planes_are_the_channels_in_order():
    """Bands z-scored, indices not, and a band that only an index needs is not seen."""
    sensors = chosen("s2:NDBI,B04,NDVI,B03+s1:VH")
    assert sensors["s2"].bands == ("B04", "B03", "B11", "B08") and sensors["s1"].channels == ("VH",)
    images, planes = input_planes(sensors, STATISTICS, "records", Entropy())
    assert {name: tensor.shape for name, tensor in planes.items()} == {"s2": (None, None, None, 4), "s1": (None, None, None, 1)}
    rng = np.random.default_rng(0)
    values = {
        "s2": rng.integers(1, 9000, (2, 4, 5, 6)).astype(np.uint16),
        "s1": rng.normal(-10, 3, (2, 1, 5, 6)).astype(np.float32),
    }
    found = keras.Model(images, planes)(values)
    red, green, swir, nir = values["s2"].astype(float).transpose(1, 0, 2, 3)
    row = STATISTICS["s2"]
    score = {b: (v - row[b]["mean"]) / row[b]["std"] for b, v in (("B04", red), ("B03", green))}
    expected = [(swir - nir) / (swir + nir), score["B04"], (nir - red) / (nir + red), score["B03"]]
    np.testing.assert_allclose(found["s2"], np.stack(expected, axis=-1), rtol=1e-4, atol=1e-6)
    row = STATISTICS["s1"]["VH"]
    np.testing.assert_allclose(found["s1"], (values["s1"].transpose(0, 2, 3, 1) - row["mean"]) / row["std"], rtol=1e-4)


def test_model_is_the_same_saved_reloaded_and_exported(tmp_path, monkeypatch):
    """Sizes of batch and image are open in all of them."""
    monkeypatch.setitem(registry.MODELS, "tiny", "small_records:encoder")
    entropy = Entropy(levels=6, window=5, offsets=((0, 1), (2, -1)))
    model = build("tiny", chosen("irrg_index"), SingleLabel(EUROSAT, ("label",)), STATISTICS, entropy=entropy)
    assert model.inputs[0].shape == (None, 4, None, None) and model.inputs[0].dtype == "uint16"
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    serve = tf.function(lambda s2: model({"s2": s2}, training=False))
    signature = serve.get_concrete_function(tf.TensorSpec([None, 4, None, None], tf.uint16))
    holder = tf.Module()
    holder.model = model
    tf.saved_model.save(holder, str(tmp_path / "export"), signature)
    exported = tf.saved_model.load(str(tmp_path / "export")).signatures["serving_default"]
    rng = np.random.default_rng(0)
    for shape in ((2, 4, 32, 48), (1, 4, 20, 20)):
        image = rng.integers(0, 6000, shape).astype(np.uint16)
        expected = model({"s2": image}, training=False).numpy()
        assert np.isfinite(expected).all() and np.ptp(expected) > 0
        np.testing.assert_allclose(again({"s2": image}, training=False), expected, rtol=1e-5, atol=1e-6)
        (found,) = exported(s2=tf.constant(image)).values()
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    layer = again.get_layer("indices_s2")
    assert layer.entropy.levels == 6 and [tuple(offset) for offset in layer.entropy.offsets] == [(0, 1), (2, -1)]

import keras
import numpy as np
import pytest

from tfrs.models.normalize import Normalize

MEAN, STD = (1000.0, 2.5, -11.5), (250.0, 0.5, 4.0)


def expected(values, mean=MEAN, std=STD):
    """Float64, band by band, with plain NumPy."""
    bands = [(values[:, i].astype(float) - mean[i]) / std[i] for i in range(len(mean))]
    return np.stack(bands, axis=-1)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32"])
def test_scores_of_each_band_bands_last(dtype):
    values = np.random.default_rng(0).integers(0, 200, (2, 3, 4, 5)).astype(dtype)
    made = keras.ops.convert_to_numpy(Normalize(MEAN, STD)(values))
    assert made.dtype == np.float32 and made.shape == (2, 4, 5, 3)
    np.testing.assert_allclose(made, expected(values), rtol=1e-5, atol=1e-5)


def test_largest_digital_number():
    made = Normalize([1000.0], [100.0])(np.full((1, 1, 1, 1), 65535, np.uint16))
    assert float(made[0, 0, 0, 0]) == pytest.approx(645.35)


def test_clip_comes_before_the_score():
    values = np.array([-60, -25, -10, 0, 9.7], np.float32).reshape(1, 1, 1, 5)
    made = keras.ops.convert_to_numpy(Normalize([-12.0], [4.0], clip=(-25.0, 0.0))(values)).ravel()
    np.testing.assert_allclose(made, (np.array([-25, -25, -10, 0, 0]) + 12) / 4, rtol=1e-6)


def test_nan_becomes_the_mean_of_its_band_and_touches_no_other_pixel():
    values = np.full((1, 3, 2, 2), 5, np.float32)
    values[0, 1, 0, 1] = np.nan
    made = keras.ops.convert_to_numpy(Normalize(MEAN, STD, clip=(-25, 10))(values))
    assert made[0, 0, 1, 1] == 0
    values[0, 1, 0, 1] = MEAN[1]
    np.testing.assert_allclose(made, expected(values), rtol=1e-5)


def test_constant_band_is_only_centred():
    made = keras.ops.convert_to_numpy(Normalize([7.0, 7.0], [0.0, 2.0])(np.full((1, 2, 1, 1), 9, np.uint16)))
    np.testing.assert_array_equal(made.ravel(), [2, 1])


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_half_precision_comes_after_the_arithmetic(policy, dtype):
    """1003 - 1000 is 3 in float32; bfloat16 knows 1000 and 1004 only, and float16 no digital number above 65,504."""
    values = np.array([1003, 65535], dtype).reshape(1, 1, 1, 2)
    layer = Normalize([1000.0], [10.0], dtype=policy)
    made = layer(values)
    assert keras.backend.standardize_dtype(made.dtype) == policy.removeprefix("mixed_")
    np.testing.assert_allclose(np.asarray(made, np.float64).ravel(), [0.3, 6453.5], rtol=5e-3)


def test_other_number_of_bands_is_refused():
    with pytest.raises(ValueError, match=r"4 bands come in, statistics are of 3"):
        Normalize(MEAN, STD)(np.zeros((1, 4, 2, 2), np.float32))


def test_shape_is_known_before_the_pixels():
    made = Normalize(MEAN, STD)(keras.Input((3, None, None), dtype="uint16"))
    assert made.shape == (None, None, None, 3) and made.dtype == "float32"


def test_survives_saving(tmp_path):
    image = keras.Input((3, None, None), dtype="uint16", name="s2")
    model = keras.Model({"s2": image}, keras.layers.Conv2D(4, 1)(Normalize(MEAN, STD, clip=(0, 900))(image)))
    model.save(tmp_path / "model.keras")
    values = np.random.default_rng(0).integers(0, 2000, (2, 3, 4, 4)).astype(np.uint16)
    again = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(again({"s2": values}), model({"s2": values}))

import math

import keras
import numpy as np
import pytest

from tfrs import registry
from tfrs.errors import UserError
from tfrs.labels import EUROSAT, Scheme
from tfrs.models.build import build
from tfrs.sensors import Sensor, resolve, select, sentinel1, sentinel2
from tfrs.tasks import SingleLabel

SENSORS = {"s2": sentinel2(), "s1": sentinel1()}
RGB = {"rgb": Sensor("rgb", ("B04", "B03", "B02"), "uint8", "display intensity")}
THOUSAND = Scheme("imagenet", tuple(map(str, range(1000))), tuple(range(1000)), ("000000",) * 1000)
# Of keras.applications, ImageNet classifiers of 3 channels and 1000 classes.
PUBLISHED = {"resnet50": (keras.applications.ResNet50, 25_636_712), "densenet121": (keras.applications.DenseNet121, 8_062_504)}


def inputs(spec):
    return select(SENSORS, resolve(spec, SENSORS))


def statistics(sensors):
    """A mean and a deviation of its own for every band."""
    numbers = {(name, band): float(i) for i, (name, band) in enumerate((n, b) for n, s in sensors.items() for b in s.bands)}
    return {
        name: {band: {"mean": 10 * numbers[name, band], "std": 1 + numbers[name, band]} for band in sensor.bands}
        for name, sensor in sensors.items()
    }


def make(name, sensors, scheme=EUROSAT, **options):
    return build(name, sensors, SingleLabel(scheme, ("label",)), statistics({**SENSORS, **RGB}), **options)


def patches(sensors, count=2, size=32):
    rng = np.random.default_rng(0)
    return {
        name: rng.integers(0, 100, (count, len(sensor.bands), size, size)).astype(sensor.dtype)
        for name, sensor in sensors.items()
    }


@pytest.fixture(scope="module", params=PUBLISHED)
def published(request):
    """Name, model as built here, and as keras.applications has it."""
    keras.utils.set_random_seed(0)
    kind, _ = PUBLISHED[request.param]
    return request.param, make(request.param, RGB, THOUSAND), kind(weights=None)


def layers(model):
    """Every layer from the input on, those of encoders included."""
    for layer in model.layers:
        yield from layers(layer) if isinstance(layer, keras.Model) else [layer]


def kernels(model):
    """Kernels of convolutions and dense layers from the input on."""
    return [layer.kernel.numpy() for layer in layers(model) if hasattr(layer, "kernel")]


def test_parameters_are_those_of_the_published_architecture(published):
    name, ours, theirs = published
    assert ours.count_params() == theirs.count_params() == PUBLISHED[name][1]
    assert [w.shape for w in ours.weights] == [w.shape for w in theirs.weights]


def test_kernels_are_he_normal(published):
    """Standard deviation sqrt(2 / fan_in), mean 0 (He et al. 2015); their own start is Glorot's."""
    _, ours, _ = published
    ratios = []
    for kernel in kernels(ours):
        ratio = kernel.std() / math.sqrt(2 / np.prod(kernel.shape[:-1]))
        assert ratio == pytest.approx(1, abs=4 / math.sqrt(kernel.size))
        assert np.abs(kernel).max() > 1.9 * kernel.std()  # of a uniform distribution it is 1.73
        ratios.append(ratio)
    assert len(ratios) > 50 and np.mean(ratios) == pytest.approx(1, abs=2e-3)


def test_batch_normalisation_follows_in_tens_of_steps(published):
    _, ours, _ = published
    momenta = {layer.momentum for layer in layers(ours) if isinstance(layer, keras.layers.BatchNormalization)}
    assert momenta == {0.9}


def test_same_function_as_the_published_model(published):
    """With the weights of ours, theirs gives the same logits for normalised images."""
    _, ours, theirs = published
    theirs.layers[-1].activation = keras.activations.linear
    theirs.set_weights([w.numpy() for w in ours.weights])
    images = patches(RGB, size=224, count=1)
    bands = statistics({**SENSORS, **RGB})["rgb"].values()
    scored = np.stack([(images["rgb"][:, i] - row["mean"]) / row["std"] for i, row in enumerate(bands)], axis=-1)
    expected = theirs(scored.astype(np.float32), training=False)
    np.testing.assert_allclose(ours(images, training=False), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", registry.MODELS)
@pytest.mark.parametrize("spec", ["s2_all", "s1"])
def test_any_number_of_channels(name, spec):
    """Only the first kernel depends on it."""
    sensors = inputs(spec)
    model = make(name, sensors)
    (channels,) = (len(sensor.bands) for sensor in sensors.values())
    assert kernels(model)[0].shape[2] == channels
    logits = model(patches(sensors, size=model.inputs[0].shape[2] or 32), training=False)
    assert logits.shape == (2, 10) and keras.backend.standardize_dtype(logits.dtype) == "float32"
    assert np.isfinite(logits).all()


def test_size_of_the_patch_is_free():
    model = make("resnet_small", inputs("s2_rgb"))
    for size in (16, 33, 64):
        assert model(patches(inputs("s2_rgb"), size=size), training=False).shape == (2, 10)


def test_small_resnet_is_the_18_layer_layout():
    """17 convolutions besides 3 shortcuts, as He et al. 2016, Table 1, counts them with the last dense layer to 18."""
    model = registry.model("resnet_small")(3, "small")
    sizes = [layer.kernel_size for layer in model.layers if isinstance(layer, keras.layers.Conv2D)]
    assert sizes.count((3, 3)) == 17 and sizes.count((1, 1)) == 3
    # Kernels by hand: stem, then per stage the convolutions and the shortcut.
    stages = [4 * 9 * 32 * 32] + [9 * w * w // 2 + 3 * 9 * w * w + w * w // 2 for w in (64, 128, 256)]
    normalised = 32 + 4 * 32 + 5 * (64 + 128 + 256)
    assert model.count_params() == 9 * 3 * 32 + sum(stages) + 4 * normalised
    assert model(np.zeros((1, 64, 64, 3), np.float32)).shape == (1, 4, 4, 256)


def test_inputs_are_named_and_typed_as_the_records_are():
    model = make("resnet_small", inputs("s1s2"))
    assert {tensor.name: (tensor.shape, tensor.dtype) for tensor in model.inputs} == {
        "s2": ((None, 10, None, None), "uint16"),
        "s1": ((None, 2, None, None), "float32"),
    }


def test_early_fusion_is_one_encoder_of_all_channels():
    early, alone = make("resnet_small", inputs("s1s2")), make("resnet_small", inputs("s2_ms"))
    assert kernels(early)[0].shape == (3, 3, 12, 32)
    assert early.count_params() == alone.count_params() + 3 * 3 * 2 * 32


def test_late_fusion_is_an_encoder_per_sensor():
    late = make("resnet_small", inputs("s1s2"), fusion="late")
    encoders = [make("resnet_small", inputs(spec)).count_params() - (256 * 10 + 10) for spec in ("s2_ms", "s1")]
    assert late.count_params() == sum(encoders) + 2 * 256 * 10 + 10
    assert sorted(kernel.shape[2] for kernel in kernels(late) if kernel.shape[3:] == (32,) and kernel.shape[2] != 32) == [2, 10]
    # Each sensor enters by its own encoder: cutting the dense layer's half of one leaves the other's alone.
    images = patches(inputs("s1s2"))
    dense = late.get_layer("logits")
    kernel, bias = dense.get_weights()
    kernel[256:] = 0
    dense.set_weights([kernel, bias])
    before = late(images, training=False).numpy()
    changed = {name: late({**images, name: images[name] + 1}, training=False).numpy() for name in images}
    assert [np.allclose(before, after) for after in changed.values()].count(True) == 1


def test_late_fusion_of_one_sensor_is_early_fusion():
    late, early = (make("resnet_small", inputs("s1"), fusion=fusion) for fusion in ("late", "early"))
    assert [w.shape for w in late.weights] == [w.shape for w in early.weights]


def test_every_name_of_a_weight_is_its_own():
    """Two encoders of the same kind in one model; saving goes by names."""
    paths = [weight.path for weight in make("resnet_small", inputs("s1s2"), fusion="late").weights]
    assert len(set(paths)) == len(paths)


def normalize_layers(model):
    return {layer.name: layer for layer in model.layers if layer.name.startswith("normalize")}


def test_statistics_of_the_records_go_by_band_name():
    found = normalize_layers(make("resnet_small", inputs("VH,B12,B03,VV")))
    # The n-th band of all, B01 counted 0 and VV 13, has mean 10 n and deviation 1 + n.
    assert found["normalize_s2"].mean == [120, 20] and found["normalize_s2"].std == [13, 3]
    assert found["normalize_s1"].mean == [140, 130] and found["normalize_s1"].std == [15, 14]
    assert found["normalize_s1"].clip is None


@pytest.mark.parametrize(
    ("name", "means", "clip"),
    [
        ("sen12ms", {"s2": [1139.6792, 2409.1128], "s1": [-18.294598, -11.76858]}, [-25, 0]),
        ("bigearthnet", {"s2": [590.24, 2266.46], "s1": [-19.2904, -12.62]}, None),
    ],
)
def test_published_statistics_go_by_band_name(name, means, clip):
    found = normalize_layers(make("resnet_small", inputs("B04,B8A,VH,VV"), normalization=name))
    assert {key: found[f"normalize_{key}"].mean for key in means} == means
    assert found["normalize_s1"].clip == clip and found["normalize_s2"].clip is None


def test_order_of_the_bands_carries_through():
    """The same weights but for the first kernel's channels, which change places: the same logits."""
    forward, backward = make("resnet_small", inputs("B02,B03,B04")), make("resnet_small", inputs("B04,B03,B02"))
    weights = forward.get_weights()
    weights[0] = weights[0][:, :, ::-1]
    backward.set_weights(weights)
    images = patches(inputs("B02,B03,B04"))["s2"]
    expected, found = forward({"s2": images}, training=False), backward({"s2": images[:, ::-1].copy()}, training=False)
    scale = np.abs(expected).max()  # a logit near 0 has the rounding errors of the large ones
    np.testing.assert_allclose(found / scale, expected / scale, rtol=0, atol=1e-5)


def test_seed_decides_the_weights():
    made = []
    for seed in (1, 1, 2):
        keras.utils.set_random_seed(seed)
        made.append(kernels(make("resnet_small", inputs("s1")))[0])
    assert np.array_equal(made[0], made[1]) and not np.array_equal(made[0], made[2])


def test_dropout_acts_in_training_only():
    model, images = make("resnet_small", inputs("s1"), dropout=0.5), patches(inputs("s1"))
    np.testing.assert_array_equal(model(images, training=False), model(images, training=False))
    assert model.get_layer("dropout").rate == 0.5
    assert "dropout" not in [layer.name for layer in make("resnet_small", inputs("s1")).layers]


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision_keeps_the_ends_in_float32(policy):
    keras.config.set_dtype_policy(policy)
    try:
        model = make("resnet_small", inputs("s1"))
        # A tenth beside a thousand: half precision cannot tell -999.9 from -1000.
        statistic = {"s1": {"VV": {"mean": -1000.0, "std": 0.1}, "VH": {"mean": -1000.0, "std": 0.1}}}
        fine = build("resnet_small", inputs("s1"), SingleLabel(EUROSAT, ("label",)), statistic)
        scored = keras.Model(fine.inputs, fine.get_layer("normalize_s1").output)
    finally:
        keras.config.set_dtype_policy("float32")
    assert keras.backend.standardize_dtype(model.output.dtype) == "float32"
    assert {keras.backend.standardize_dtype(w.dtype) for w in model.trainable_weights} == {"float32"}
    assert model.get_layer("resnet_small").output.dtype == policy.removeprefix("mixed_")
    values = np.full((1, 2, 16, 16), -999.9, np.float32)
    np.testing.assert_allclose(np.asarray(scored({"s1": values}), np.float64), 1, atol=0.01)


def test_saved_and_loaded_again(tmp_path):
    model, images = make("resnet_small", inputs("s1s2"), fusion="late"), patches(inputs("s1s2"))
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(again(images, training=False), model(images, training=False))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "resnet5"}, r"unknown model 'resnet5'\. Did you mean 'resnet50'\?"),
        ({"fusion": "erly"}, r"unknown fusion 'erly'\. Did you mean 'early'\?"),
        ({"normalization": "sen12"}, r"unknown normalization 'sen12'\. Did you mean 'sen12ms'\?"),
        ({"sensors": inputs("B01,B10,B02"), "normalization": "bigearthnet"}, r"'bigearthnet' has no statistics for s2 B10$"),
        ({"sensors": RGB, "normalization": "sen12ms"}, r"'sen12ms' has no statistics for rgb B04, B03, B02"),
    ],
)
def test_refusals(options, message):
    options = {"name": "resnet_small", "sensors": inputs("s2_rgb"), **options}
    with pytest.raises(UserError, match=message):
        make(options.pop("name"), options.pop("sensors"), **options)


def test_records_without_a_training_split_have_no_statistics():
    empty = {"s1": {band: {"mean": None, "std": None} for band in ("VV", "VH")}}
    with pytest.raises(UserError, match=r"normalization 'records' has no statistics for s1 VV, VH"):
        build("resnet_small", inputs("s1"), SingleLabel(EUROSAT, ("label",)), empty)

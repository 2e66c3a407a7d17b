"""Every family of networks: shapes, a step of training, files, export."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfrs import registry
from tfrs.models.encoder import fill
from tfrs.models.segmenter import segmenter

# Every decoder once, and every family of encoders.
NAMES = ("unet_vgg16", "fpn_resnet18", "linknet_vgg19", "pspnet_densenet121", "unet_wenger", "deeplabv3plus_resnet50")
CHANNELS, CLASSES, SIDE = 6, 4, 40


@pytest.fixture(scope="module", params=NAMES)
def network(request):
    keras.utils.set_random_seed(0)
    return segmenter(request.param, CHANNELS, [CLASSES], size=SIDE)


@pytest.fixture(scope="module")
def half(network):
    """The same once more, in half precision, and untrained."""
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        return segmenter(network.name, CHANNELS, [CLASSES], size=SIDE)
    finally:
        keras.config.set_dtype_policy("float32")


def planes(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def sevens(encoder, _):
    """In place of pretrained weights: a number that no start gives."""
    model = encoder.build(3)
    model.set_weights([np.full(weight.shape, 7.0) for weight in model.weights])
    return model


def layers(model):
    for layer in model.layers:
        yield from layers(layer) if isinstance(layer, keras.Model) else [layer]


def test_a_batch_is_learnt(network):
    """Each quarter of the patch is a class, and bright in a channel."""
    target = np.kron([[0, 1], [2, 3]], np.ones((SIDE // 2, SIDE // 2), int))[None].repeat(2, axis=0)
    images = planes(2, SIDE, SIDE, CHANNELS) + 2 * np.eye(CLASSES, CHANNELS, dtype="float32")[target]
    entropy, optimizer = keras.losses.SparseCategoricalCrossentropy(from_logits=True), keras.optimizers.SGD(0.02)
    losses = []
    for _ in range(3):
        with tf.GradientTape() as tape:
            loss = entropy(target, network(images, training=True))
        gradients = tape.gradient(loss, network.trainable_weights)
        assert all(g is not None and np.isfinite(g).all() for g in gradients)
        optimizer.apply(gradients, network.trainable_weights)
        losses.append(float(loss))
    assert losses[-1] < 0.9 * losses[0]


def test_files_hold_all_of_it(network, tmp_path):
    images = planes(1, SIDE, SIDE, CHANNELS)
    expected = network(images, training=False)
    network.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(again(images, training=False), expected)
    network.save_weights(tmp_path / "model.weights.h5")
    for weight in again.weights:
        weight.assign(keras.ops.zeros_like(weight))
    again.load_weights(tmp_path / "model.weights.h5")
    np.testing.assert_array_equal(again(images, training=False), expected)


def test_exported_graph_labels_any_size(network, tmp_path):
    """The graph knows neither height nor width (but PSPNet's), as `export` writes it."""
    module = tf.Module()
    module.model = network
    served = tf.function(lambda planes: {"logits": network(planes, training=False)})
    signature = served.get_concrete_function(tf.TensorSpec(network.input_shape, tf.float32, "planes"))
    tf.saved_model.save(module, str(tmp_path / "export"), {"serving_default": signature})
    loaded = tf.saved_model.load(str(tmp_path / "export")).signatures["serving_default"]
    images = planes(1, SIDE, SIDE if network.input_shape[2] else 70, CHANNELS)
    expected = network(images, training=False)
    np.testing.assert_allclose(loaded(planes=images)["logits"], expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_any_size_is_padded_with_the_mean_and_cut_out_again(network):
    images = planes(1, SIDE, SIDE, CHANNELS) if network.input_shape[1] else planes(1, 50, 90, CHANNELS)
    found = network(images, training=False)
    assert found.shape == (*images.shape[:3], CLASSES) and found.dtype == "float32"
    if network.input_shape[1] is None:
        padded = np.zeros((1, 64, 96, CHANNELS), "float32")
        padded[:, :50, :90] = images
        scale = np.abs(found).max()
        np.testing.assert_allclose(found, network(padded, training=False)[:, :50, :90], rtol=0, atol=1e-5 * scale)


def test_starts_as_the_other_models_do(half):
    """He-normal kernels (standard deviation sqrt(2 / fan in), cut at two of the untruncated) and momentum 0.9."""
    checked = 0
    for layer in layers(half):
        if isinstance(layer, keras.layers.BatchNormalization):
            assert layer.momentum == 0.9
        elif type(layer) is keras.layers.Conv2D:
            kernel = layer.kernel.numpy()
            ratio = kernel.std() / np.sqrt(2 / np.prod(kernel.shape[:-1]))
            assert ratio == pytest.approx(1, abs=4 / np.sqrt(kernel.size))
            if kernel.size > 1000:  # of a uniform distribution of that deviation the largest is 1.73
                assert np.abs(kernel).max() > 1.9 * kernel.std()
            checked += 1
    assert checked > 10


def test_mixed_precision_keeps_the_logits_in_float32(half):
    assert half.get_layer(f"{half.name}_features").output.dtype == "bfloat16"
    assert {keras.backend.standardize_dtype(weight.dtype) for weight in half.weights} == {"float32"}
    logits = half(planes(1, SIDE, SIDE, CHANNELS), training=False).numpy()
    assert logits.dtype == np.float32 and np.isfinite(logits).all()
    # Numbers of bfloat16 have their lower 16 bits 0.
    assert np.mean(logits.view(np.uint32) & 0xFFFF == 0) < 0.5


def test_dropout_comes_before_the_last_convolution():
    found = segmenter("fpn_mobilenet", 2, [3], size=32, dropout=0.25)
    names = [layer.name for layer in found.layers]
    assert found.get_layer("dropout").rate == 0.25 and names.index("dropout") == names.index("logits") - 1


def test_pspnet_takes_the_next_multiple_of_48():
    found = segmenter("pspnet_mobilenet", 2, [3], size=50)
    assert found.get_layer("pspnet_mobilenet_features").input_shape == (None, 96, 96, 2)
    with pytest.raises(ValueError, match=r"expected shape=\(None, 50, 50, 2\), found shape=\(1, 64, 64, 2\)"):
        found(planes(1, 64, 64, 2))


def test_unet_wenger_is_the_one_of_the_authors():
    """Parameters by hand, after their `unet_model`: VGG16's 13 kernels, then per step 2x2 up and two 3x3."""
    found = segmenter("unet_wenger", 3, [6], size=64)
    vgg16 = 14_714_688  # of keras.applications, without top
    decoder, below = 0, 512
    for width in (512, 256, 128, 64):
        decoder += 4 * below * width + width  # transposed convolution
        decoder += 9 * 2 * width * width + width + 9 * width * width + width
        below = width
    assert found.count_params() == vgg16 + decoder + 64 * 6 + 6
    kinds = [type(layer).__name__ for layer in layers(found)]
    assert kinds.count("Dropout") == 4 and "BatchNormalization" not in kinds
    # L2 of 0.01 on the eight 3x3 kernels of the decoder.
    kernels = [layer.kernel.numpy() for layer in layers(found) if getattr(layer, "kernel_regularizer", None)]
    assert len(found.losses) == len(kernels) == 8
    assert float(sum(found.losses)) == pytest.approx(
        0.01 * sum((kernel.astype(float) ** 2).sum() for kernel in kernels), rel=1e-5
    )


def test_deeplab_encoder_is_the_published_one_without_its_last_step():
    """At every second position, rate 2 at stride 16 computes what rate 1 at stride 32 does."""
    published = keras.applications.ResNet50(include_top=False, weights=None, input_shape=(None, None, 3))
    features = segmenter("deeplabv3plus_resnet50", 3, [2], size=64).get_layer("deeplabv3plus_resnet50_features")
    fill(features, published, "mean")
    images = planes(1, 64, 96, 3)
    found = keras.Model(features.input, features.get_layer("conv5_block3_out").output)(images, training=False)
    expected = published(images, training=False)
    assert found.shape == (1, 4, 6, 2048)
    np.testing.assert_allclose(found[:, ::2, ::2], expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def test_deeplab_by_its_parameters(monkeypatch):
    """Chen et al. 2018: 1x1 and three separable 3x3 of 256, pooling, projection; 48 low features; two more; 1x1."""
    monkeypatch.setattr("tfrs.models.segmenter.pretrained", sevens)
    found = segmenter("deeplabv3plus_densenet121", 3, [7], size=64, encoder_weights="any")
    encoder = 7_037_504  # of keras.applications, without top
    assert sum(int((weight.numpy() == 7).sum()) for weight in found.weights) == encoder
    deep, low, normalised = 1024, 256, 4 * 256
    pyramid = (deep * 256 + normalised) + 3 * (9 * deep + deep * 256 + normalised)
    pooling = deep * 256 + normalised
    projection = 5 * 256 * 256 + normalised
    decoder = (low * 48 + 4 * 48) + (9 * 304 + 304 * 256 + normalised) + (9 * 256 + 256 * 256 + normalised)
    assert found.count_params() == encoder + pyramid + pooling + projection + decoder + 256 * 7 + 7
    rates = [layer.dilation_rate for layer in layers(found) if isinstance(layer, keras.layers.SeparableConv2D)]
    assert rates == [(6, 6), (12, 12), (18, 18), (1, 1), (1, 1)]
    features = found.get_layer("deeplabv3plus_densenet121_features")
    stages = keras.Model(features.input, [features.get_layer(name).output for name in ("pool2_relu", "relu")])
    assert [tensor.shape for tensor in stages(planes(1, 64, 96, 3))] == [(1, 16, 24, low), (1, 4, 6, deep)]


@pytest.mark.parametrize(
    ("name", "filled"),
    [  # parameters of keras.applications without their tops
        ("unet_vgg16", 14_714_688),
        ("fpn_mobilenet", 3_228_864),
        # the first three blocks of VGG16 and the fourth's convolutions: PSPNet stops at stride 8
        ("pspnet_vgg16", 1_735_488 + 5_899_776),
    ],
)
def test_every_weight_of_the_encoder_is_filled(name, filled, monkeypatch):
    monkeypatch.setattr("tfrs.models.segmenter.pretrained", sevens)
    model = segmenter(name, 3, [2], size=48, encoder_weights="any")
    assert sum(int((weight.numpy() == 7).sum()) for weight in model.weights) == filled


def test_every_encoder_of_the_package_is_offered_or_refused():
    from tfrs.models.encoder_decoder import _package

    assert sorted([*registry.ENCODERS, *registry.REFUSED_ENCODERS]) == sorted(_package().get_available_backbone_names())
    assert {name: registry.segmenter(name)(name).encoder.name for name in ("fpn_vgg19", "unet_densenet201")} == {
        "fpn_vgg19": "vgg19",
        "unet_densenet201": "densenet201",
    }

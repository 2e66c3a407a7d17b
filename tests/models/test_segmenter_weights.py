"""Pretrained encoders: files, the input they expect, first convolutions; against Keras and NumPy by hand."""

import h5py
import keras
import numpy as np
import pytest

from tfrs import registry
from tfrs.errors import UserError
from tfrs.models.encoder import fill, image_input, pretrained
from tfrs.models.segmenter import segmenter

CAFFE_MEAN = np.array([103.939, 116.779, 123.68])  # blue, green, red
TORCH_MEAN, TORCH_STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


def encoder(name):
    return registry.segmenter(name)(name).encoder


def planes(*shape):
    return np.random.default_rng(1).normal(scale=1.5, size=shape).astype("float32")


def up_to(model, name):
    """The model from z-scores to the output of the layer `name` of its network of features."""
    features = model.get_layer(f"{model.name}_features")
    entered = keras.Model(model.input, model.get_layer("image_input").output)
    inner = keras.Model(features.input, features.get_layer(name).output)
    return lambda images: inner(entered(images, training=False), training=False).numpy()


@pytest.fixture(scope="module")
def vgg16():
    keras.utils.set_random_seed(0)
    return keras.applications.VGG16(include_top=False, weights=None)


@pytest.fixture(scope="module")
def file(vgg16, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "vgg16.weights.h5"
    vgg16.save_weights(path)
    return str(path)


@pytest.mark.parametrize(("name", "last"), [("unet_vgg16", "block5_pool"), ("unet_wenger", "block5_conv3")])
def test_three_channels_go_through_the_encoders_own_preprocessing(name, last, vgg16, file):
    images = planes(1, 64, 64, 3)
    pixels = np.clip(127.5 + 63.75 * images, 0, 255)
    assert 0.05 < np.mean((pixels == 0) | (pixels == 255)) < 0.3
    reference = keras.Model(vgg16.input, vgg16.get_layer(last).output)
    expected = reference(keras.applications.vgg16.preprocess_input(pixels.copy()), training=False).numpy()
    found = up_to(segmenter(name, 3, [2], size=64, encoder_weights=file), last)(images)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * expected.max())


@pytest.mark.parametrize("channels", [3, 5])
def test_preprocessing_is_saved_with_the_model(channels, tmp_path):
    inputs = keras.Input((None, None, channels))
    model = keras.Model(inputs, image_input(encoder("unet_wenger"), channels)(inputs))
    model.save(tmp_path / "model.keras")
    images = planes(1, 32, 32, channels)
    np.testing.assert_array_equal(keras.models.load_model(tmp_path / "model.keras")(images), model(images))


@pytest.mark.parametrize("channels", [3, 5])
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # BGR minus the mean; RGB as it is; RGB in 0..1, standardised; RGB in -1..1
        ("deeplabv3plus_resnet50", lambda rgb: rgb[..., ::-1] - CAFFE_MEAN),
        ("linknet_resnet18", lambda rgb: rgb),
        ("deeplabv3plus_densenet121", lambda rgb: (rgb / 255 - TORCH_MEAN) / TORCH_STD),
        ("linknet_mobilenet", lambda rgb: rgb / 127.5 - 1),
    ],
)
def test_input_of_each_kind_of_encoder(name, expected, channels):
    """Five bands are five grey images, whose mean and deviation are ImageNet's: 114.8 +- 57.6 of 255."""
    images = planes(1, 48, 48, channels)
    found = image_input(encoder(name), channels)(images)
    if channels == 3:
        np.testing.assert_allclose(found, expected(np.clip(127.5 + 63.75 * images, 0, 255)), rtol=1e-4, atol=1e-3)
    else:
        level, step = (expected(np.full(3, grey)).mean() for grey in (114.8, 114.8 + 57.6))
        np.testing.assert_allclose(found, level + (step - level) * images, rtol=1e-4, atol=1e-3)


def test_mean_kernel_answers_to_grey_as_the_pretrained_does(vgg16, file):
    """Six equal channels, or a grey image of three: the same response of the first convolution, and so of all."""
    grey = planes(1, 32, 32, 1)
    model = segmenter("unet_wenger", 6, [2], size=32, encoder_weights=file)
    reference = keras.Model(vgg16.input, vgg16.get_layer("block5_conv3").output)
    expected = reference(np.repeat(57.6 * grey, 3, axis=-1), training=False).numpy()
    found = up_to(model, "block5_conv3")(np.repeat(grey, 6, axis=-1))
    np.testing.assert_allclose(found, expected, rtol=1e-2, atol=1e-2 * expected.max())
    kernel, bias = model.get_layer("unet_wenger_features").get_layer("block1_conv1").get_weights()
    theirs, their_bias = vgg16.get_layer("block1_conv1").get_weights()
    for channel in range(6):
        np.testing.assert_allclose(kernel[:, :, channel], theirs.sum(axis=2) / 6, rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(bias, their_bias)


def test_random_first_convolution_leaves_the_others_pretrained(vgg16, file):
    model = segmenter("unet_wenger", 6, [2], size=32, encoder_weights=file, first_convolution="random")
    features = model.get_layer("unet_wenger_features")
    kernel = features.get_layer("block1_conv1").kernel.numpy()
    assert kernel.std() == pytest.approx(np.sqrt(2 / 54), rel=0.1)  # He normal: 9 x 6 inputs
    assert kernel.std(axis=2).min() > 0
    weighted = [layer for layer in vgg16.layers if layer.weights]
    for layer in weighted[1:]:
        for found, expected in zip(features.get_layer(layer.name).get_weights(), layer.get_weights(), strict=True):
            np.testing.assert_array_equal(found, expected)


def test_normalisation_before_the_first_convolution_gets_the_mean_channel(tmp_path):
    rng = np.random.default_rng(0)
    source = encoder("linknet_resnet18").build(3)
    source.set_weights([rng.uniform(0.01, 0.1, weight.shape) for weight in source.weights])
    source.save_weights(tmp_path / "resnet18.weights.h5")
    model = segmenter("linknet_resnet18", 5, [2], size=32, encoder_weights=str(tmp_path / "resnet18.weights.h5"))
    features = model.get_layer("linknet_resnet18_features")
    for found, given in zip(
        features.get_layer("bn_data").get_weights(), source.get_layer("bn_data").get_weights(), strict=True
    ):
        np.testing.assert_allclose(found, np.full(5, given.mean()), rtol=1e-6)
    np.testing.assert_allclose(
        features.get_layer("conv0").get_weights()[0],
        np.stack([source.get_layer("conv0").get_weights()[0].sum(axis=2) / 5] * 5, axis=2),
        rtol=1e-5,
    )
    np.testing.assert_array_equal(features.get_layer("bn1").get_weights(), source.get_layer("bn1").get_weights())


def test_an_encoder_of_another_version_is_refused(vgg16):
    features = segmenter("unet_wenger", 3, [2], size=32).get_layer("unet_wenger_features")
    other = keras.models.clone_model(
        vgg16,
        clone_function=lambda layer: layer.from_config(
            {**layer.get_config(), "name": layer.name.replace("block3_", "stage3_")}
        ),
    )
    with pytest.raises(UserError, match="unet_wenger_features has no layer 'stage3_conv1'"):
        fill(features, other, "mean")


def test_imagenet_comes_through_keras_and_through_the_package(vgg16, file, monkeypatch):
    """Their downloads are replaced by the file; that they ask for ImageNet's without top is checked."""
    asked = []

    def get_file(name, *_, **__):
        asked.append(name)
        return file

    monkeypatch.setattr("keras.src.utils.file_utils.get_file", get_file)
    monkeypatch.setattr(keras.utils, "get_file", get_file)
    for name in ("unet_wenger", "pspnet_vgg16"):
        model = segmenter(name, 3, [2], size=48, encoder_weights="imagenet")
        found = model.get_layer(f"{name}_features").get_layer("block4_conv3").get_weights()
        np.testing.assert_array_equal(found[0], vgg16.get_layer("block4_conv3").get_weights()[0])
    assert asked == ["vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5"] * 2


@pytest.mark.parametrize("name", ["unet_wenger", "pspnet_vgg16"])
def test_imagenet_without_network(name, monkeypatch):
    def get_file(*_, **__):
        raise Exception("URL fetch failure on https://x: None -- Name or service not known")

    monkeypatch.setattr("keras.src.utils.file_utils.get_file", get_file)
    monkeypatch.setattr(keras.utils, "get_file", get_file)
    with pytest.raises(
        UserError, match=r"ImageNet weights of vgg16: URL fetch failure .* give the path of a file with the weights"
    ):
        segmenter(name, 3, [2], size=48, encoder_weights="imagenet")


def test_files_that_do_not_fit(vgg16, tmp_path):
    keras.applications.VGG19(include_top=False, weights=None).save_weights(tmp_path / "vgg19.weights.h5")
    (tmp_path / "broken.h5").write_bytes(b"not a file of HDF5" * 100)
    (tmp_path / "broken.keras").write_bytes(b"not a zip" * 100)
    (tmp_path / "weights.ckpt").write_bytes(b"of another kind")
    vgg16.save_weights(tmp_path / "lacking.weights.h5")
    with h5py.File(tmp_path / "lacking.weights.h5", "a") as stored:
        del stored["layers/conv2d_12"]  # the last of 13
    for name, reason in {
        "vgg19.weights.h5": "2 objects could not be loaded",
        "broken.h5": "file signature not found",
        "broken.keras": "not a zip file",
        "weights.ckpt": "File format not supported",
        "lacking.weights.h5": "1 objects could not be loaded",
    }.items():
        with pytest.raises(UserError, match=rf"{name} does not hold the weights of vgg16 without its top .*{reason}"):
            pretrained(encoder("unet_wenger"), str(tmp_path / name))
    with pytest.raises(UserError, match=r"encoder weights 'imagnet': no such file\. Give none, imagenet, or the path"):
        pretrained(encoder("unet_wenger"), "imagnet")
    with pytest.raises(UserError, match=r"unknown first convolution 'men'\. Did you mean 'mean'\?"):
        segmenter("unet_wenger", 6, [2], size=32, first_convolution="men")


@pytest.mark.parametrize("kind", ["keras", "h5"])
def test_whole_models_are_taken_too(kind, vgg16, tmp_path):
    vgg16.save(tmp_path / f"vgg16.{kind}")
    found = pretrained(encoder("unet_vgg16"), str(tmp_path / f"vgg16.{kind}"))
    for weight, expected in zip(found.get_weights(), vgg16.get_weights(), strict=True):
        np.testing.assert_array_equal(weight, expected)

"""Weights taken over from another run, against the arithmetic of the layers and what the models answer."""

import dataclasses

import keras
import numpy as np
import pytest
from small_records import settings, write_records

from tfrs import assemble, registry, train
from tfrs.errors import UserError
from tfrs.export import export
from tfrs.transfer import Network, load, start_from


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    return write_records(tmp_path_factory.mktemp("records"), train=16, val=8, test=8)


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setitem(registry.MODELS, "tiny", "small_records:encoder")


@pytest.fixture
def made(records, tmp_path):
    """Function from settings to (network, task) with random weights in every layer, moving averages too."""

    def make(seed=0, **changes):
        experiment = settings(records, tmp_path / "unused", **changes)
        task = assemble.task(experiment, records)
        model = assemble.model(experiment, records, task, pretrained=False)
        rng = np.random.default_rng(seed)
        for variable in model.variables:
            if np.issubdtype(variable.dtype, np.floating):
                shift = 0.1 * rng.uniform(size=variable.shape) if len(variable.shape) == 1 else 0.0
                variable.assign(variable * rng.uniform(0.8, 1.2, variable.shape) + shift)
        channels = {name: sensor.channels for name, sensor in assemble.sensors(experiment, records).items()}
        return Network(model, experiment, channels, task.scheme.classes), task

    return make


@pytest.fixture
def exported(made, records, tmp_path):
    """Function from settings to the network and the path of its export."""

    def make(**changes):
        network, task = made(seed=1, **changes)
        return network, export(network.experiment, tmp_path / "source", records, task, network.model, {})

    return make


def answer(network, images):
    """What a model says of images {(sensor, channel): (B, H, W)}."""
    given = {
        name: np.stack([images[name, channel] for channel in channels], axis=1) for name, channels in network.channels.items()
    }
    return network.model(given).numpy()


def random_images(network):
    rng = np.random.default_rng(3)
    types = {"s1": np.float32, "s2": np.uint16}
    pairs = [(name, channel) for name, channels in network.channels.items() for channel in channels]
    return {pair: rng.integers(1, 4000, (2, 16, 16)).astype(types[pair[0]]) for pair in pairs}


@pytest.mark.parametrize(
    "options",
    [
        {"model": "tiny"},
        {"model": "tiny", "fusion": "late"},
        {"model": "resnet_small", "fusion": "late"},
        {"model": "unet_resnet18", "task": "segmentation"},  # which normalises the bands before its first convolution
    ],
)
def test_bands_in_another_order_give_the_same_answer(exported, made, options):
    source, path = exported(input="s2:B02,B03,B8A+s1:VV,VH", **options)
    target, _ = made(input="s2:B8A,B02,B03+s1:VH,VV", **options)
    images = random_images(source)
    assert not np.allclose(answer(target, images), answer(source, images), rtol=1e-2)
    assert start_from(path, target) == []
    expected = answer(source, images)
    np.testing.assert_allclose(answer(target, images), expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())


def test_export_is_read_as_it_was_written(exported):
    source, path = exported(input="s1s2")
    found = load(path)
    assert (found.channels, found.classes) == (source.channels, source.classes)
    images = random_images(source)
    np.testing.assert_allclose(answer(found, images), answer(source, images), rtol=1e-6)


def test_other_bands_keep_their_start(exported, made):
    source, path = exported(input="s2:B02,B03,B04")
    target, _ = made(input="s2:B04,B08,B02+s1:VV")
    theirs, before = first_kernel(source), first_kernel(target)
    left = start_from(path, target)
    found = first_kernel(target)
    for place, expected in enumerate([theirs[:, :, 2], before[:, :, 1], theirs[:, :, 0], before[:, :, 3]]):
        np.testing.assert_array_equal(found[:, :, place], expected)
    assert left == ["tiny/conv2d, s2 B08, s1 VV (unknown to tiny)"]
    np.testing.assert_array_equal(target.model.get_layer("logits").kernel, source.model.get_layer("logits").kernel)


def first_kernel(network):
    (encoder,) = (layer for layer in network.model.layers if isinstance(layer, keras.Model))
    return next(layer for layer in encoder.layers if isinstance(layer, keras.layers.Conv2D)).kernel.numpy()


@pytest.mark.parametrize("options", [{"model": "tiny"}, {"model": "unet_wenger", "task": "segmentation"}])
def test_other_classes_have_a_head_of_their_own(exported, made, options):
    source, path = exported(input="s1", **options)
    target, _ = made(input="s1", **options)
    classes = ("Water", *source.classes[:-1])  # as many, in another order
    before = head(target).get_weights()
    (line,) = start_from(path, dataclasses.replace(target, classes=classes))
    assert "logits (of other classes: Forest, " in line
    for found, expected in zip(head(target).get_weights(), before, strict=True):
        np.testing.assert_array_equal(found, expected)


def head(network):
    inner = next((layer for layer in network.model.layers if layer.name == network.model.name), network.model)
    return next(layer for layer in (*network.model.layers, *getattr(inner, "layers", ())) if layer.name == "logits")


def test_segmentation_with_other_bands(exported, made):
    """With two more bands that are constant, hence 0 after normalisation, a network says what it said without them."""
    task = {"task": "segmentation", "model": "unet_wenger"}
    source, path = exported(input="s2:B02,B03", **task)
    target, _ = made(input="s1:VV+s2:B03,B02", **task)
    start_from(path, target)
    images = random_images(source)
    mean = target_mean(target, "s1")
    padded = {**images, ("s1", "VV"): np.full((2, 16, 16), mean, np.float32)}
    np.testing.assert_allclose(answer(target, padded), answer(source, images), rtol=1e-3, atol=1e-4)


def target_mean(network, sensor):
    return network.model.get_layer(f"normalize_{sensor}").mean[0]


def test_what_cannot_be_taken(exported, made, tmp_path):
    _, path = exported(model="resnet_small", input="s1")
    target, _ = made(input="s1")
    with pytest.raises(UserError, match="a resnet_small, none of whose layers fits tiny"):
        start_from(path, dataclasses.replace(target, classes=("other",)))
    with pytest.raises(UserError, match=r"missing/export: no card\.json that can be read; give the export"):
        start_from(tmp_path / "missing", target)


def test_pretrained_encoders_expect_another_input(exported, made):
    _, path = exported(task="segmentation", model="unet_wenger", input="s1")
    target, _ = made(task="segmentation", model="unet_wenger", input="s1", encoder_weights="imagenet")
    with pytest.raises(UserError, match="--encoder_weights=none, whose input is scaled otherwise"):
        start_from(path, target)


def test_run_starts_from_another_and_continues_without_it(records, tmp_path, capsys):
    """The purpose of the SEN12MS paper: train on one data set, go on with other bands and labels elsewhere."""
    first = settings(records, tmp_path / "first", epochs=1, input="s2_rgb")
    train.run(first)
    second = settings(
        records, tmp_path / "second", epochs=1, input="s2_ms", init_from=str(tmp_path / "first"), learning_rate=0.0
    )
    train.run(second)
    assert "weights of " in (out := capsys.readouterr().out) and "s2 B08" in out
    # At a learning rate of 0 the weights are still those that it started from.
    one, other = (load(tmp_path / name) for name in ("first", "second"))
    bands = [other.channels["s2"].index(band) for band in one.channels["s2"]]
    np.testing.assert_array_equal(first_kernel(other)[:, :, bands], first_kernel(one))

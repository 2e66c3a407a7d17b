import itertools
import math

import keras
import numpy as np
import pytest
import tensorflow as tf
import tifffile

from tfrecords_builder.writer import write
from tfrs import assemble
from tfrs.aggregate import DUAL, Aggregate, Dual
from tfrs.datasets.eurosat import EuroSat
from tfrs.errors import UserError
from tfrs.experiment import Experiment
from tfrs.labels import EUROSAT, WATER_BUILT_UP
from tfrs.models.build import build, build_segmenter
from tfrs.records import Records
from tfrs.sensors import resolve, select, sentinel2
from tfrs.tasks import SingleLabel

SENSORS = select({"s2": sentinel2()}, resolve("s2_10m", {"s2": sentinel2()}))
STATISTICS = {"s2": {band: {"mean": 1000.0 + i, "std": 300.0} for i, band in enumerate(SENSORS["s2"].bands)}}


def trainable(model):
    return sum(math.prod(variable.shape) for variable in model.trainable_variables)


def layers(model, kind):
    found = [layer for layer in model.layers if isinstance(layer, kind)]
    return found + [layer for inner in model.layers if isinstance(inner, keras.Model) for layer in layers(inner, kind)]


@pytest.fixture(scope="module")
def cnn_class():
    keras.utils.set_random_seed(0)
    return build("cnn_class", SENSORS, SingleLabel(EUROSAT, ("label",)), STATISTICS)


def test_cnn_class_has_the_published_parameters(cnn_class):
    """Syrris et al. 2020, section 3.1."""
    assert trainable(cnn_class) == 2_507_018
    assert cnn_class.input_shape == (None, 4, 64, 64) and cnn_class.output_shape == (None, 10)
    assert {layer.rate for layer in layers(cnn_class, keras.layers.Dropout)} == {0.09}
    assert len(layers(cnn_class, keras.layers.BatchNormalization)) == 5


def test_cnn_class_starts_xavier_normal(cnn_class):
    """Standard deviation sqrt(2 / (fan_in + fan_out)), the head's too (Glorot & Bengio 2010)."""
    kernels = [layer.kernel.numpy() for layer in layers(cnn_class, (keras.layers.Conv2D, keras.layers.Dense))]
    assert len(kernels) == 8
    for kernel in kernels:
        *window, before, after = kernel.shape
        expected = math.sqrt(2 / (math.prod(window) * (before + after)))
        assert kernel.std() / expected == pytest.approx(1, abs=4 / math.sqrt(kernel.size))
        assert np.abs(kernel).max() > 1.75 * kernel.std()  # of a uniform distribution it is 1.73


def test_head_of_other_classifiers_stays_he_normal():
    model = build("resnet_small", SENSORS, SingleLabel(EUROSAT, ("label",)), STATISTICS)
    assert isinstance(model.get_layer("logits").kernel_initializer, keras.initializers.HeNormal)


def window_network(name):
    keras.utils.set_random_seed(0)
    scheme, kind = (DUAL, Dual) if name == "cnn_dual" else (WATER_BUILT_UP, Aggregate)
    model = build_segmenter(name, SENSORS, kind(scheme, ("label",), "eurosat"), STATISTICS, size=64)
    rng = np.random.default_rng(0)
    for layer in layers(model, keras.layers.BatchNormalization):  # as after training
        layer.set_weights([rng.uniform(0.5, 1.5, layer.gamma.shape) for _ in range(4)])
    return model


@pytest.fixture(scope="module", params=["cnn_segm", "cnn_dual"])
def windowed(request):
    return request.param, window_network(request.param)


def test_networks_of_windows_have_the_published_parameters(windowed):
    name, model = windowed
    assert trainable(model) == {"cnn_segm": 860_163, "cnn_dual": 1_259_277}[name]
    assert {layer.rate for layer in layers(model, keras.layers.Dropout)} == {0.1}
    kernels = [layer.kernel.numpy() for layer in layers(model, keras.layers.Conv2D)]
    for kernel in kernels:
        *window, before, after = kernel.shape
        fans = before if name == "cnn_dual" else before + after
        assert kernel.std() / math.sqrt(2 / (math.prod(window) * fans)) == pytest.approx(1, abs=4 / math.sqrt(kernel.size))
        if kernel.size > 10_000:  # of a uniform distribution the largest is 1.73 standard deviations
            assert (np.abs(kernel).max() < 1.75 * kernel.std()) == (name == "cnn_dual")


def test_dense_prediction_is_that_of_every_window(windowed):
    """The whole patch at once, and a 5x5 window per pixel of the patch mirrored at its edges (NumPy)."""
    _, model = windowed
    patch = np.random.default_rng(1).integers(0, 3000, (1, 4, 9, 11)).astype(np.uint16)
    dense = model({"s2": patch}, training=False).numpy()[0]
    mirrored = np.pad(patch[0], [(0, 0), (2, 2), (2, 2)], mode="reflect")
    cut = np.lib.stride_tricks.sliding_window_view(mirrored, (5, 5), (1, 2)).transpose(1, 2, 0, 3, 4).reshape(-1, 4, 5, 5)
    centre = model({"s2": cut}, training=False).numpy()[:, 2, 2]  # of a window alone, nothing else is seen there
    np.testing.assert_allclose(centre.reshape(dense.shape), dense, atol=1e-5, rtol=0)
    assert dense.std() > 0.01


def test_training_labels_pixels_with_a_whole_window_only(windowed):
    name, model = windowed
    classes = 13 if name == "cnn_dual" else 3
    for size, logits in ((5, 1), (16, 12)):
        patch = np.zeros((2, 4, size, size), np.uint16)
        assert model({"s2": patch}, training=True).shape == (2, logits, logits, classes)


def test_branches_of_cnn_dual_are_coupled_three_times():
    """Each output changes with the first kernels of both branches, and with the last of its own only."""
    model = window_network("cnn_dual")
    patch = np.random.default_rng(1).integers(0, 3000, (1, 4, 5, 5)).astype(np.uint16)
    before = model({"s2": patch}).numpy()[0, 2, 2]
    convolutions = layers(model, keras.layers.Conv2D)
    inner = [layer for layer in convolutions if not layer.name.startswith("logits")]
    assert len(inner) == 10

    def changed(layer):
        kernel = layer.kernel.numpy()
        layer.kernel.assign(kernel * 1.5)
        after = model({"s2": patch}).numpy()[0, 2, 2]
        layer.kernel.assign(kernel)
        return bool(np.any(before[:3] != after[:3])), bool(np.any(before[3:] != after[3:]))

    assert [changed(layer) for layer in inner[:6]] == [(True, True)] * 6
    assert sorted(changed(layer) for layer in inner[6:]) == [(False, True)] * 2 + [(True, False)] * 2
    assert [len({layer.kernel.shape[2] for layer in inner[i : i + 2]}) for i in range(0, 10, 2)] == [1] * 5


def test_a_network_with_two_heads_needs_two():
    with pytest.raises(UserError, match=r"cnn_dual has 2 heads, for python -m experiments\.dual"):
        build_segmenter("cnn_dual", SENSORS, Aggregate(WATER_BUILT_UP, ("label",), "eurosat"), STATISTICS, size=64)
    with pytest.raises(UserError, match="cnn_segm has no encoder"):
        build_segmenter(
            "cnn_segm",
            SENSORS,
            Aggregate(WATER_BUILT_UP, ("label",), "eurosat"),
            STATISTICS,
            size=64,
            encoder_weights="imagenet",
        )


@pytest.fixture(scope="module")
def real(shared, tmp_path_factory):
    """Records of the real patches, all of them to train on, and the digital numbers of their files by key."""
    folder, root = tmp_path_factory.mktemp("eurosat"), shared / "data/eurosat_ms"
    files = {path.stem: tifffile.imread(path) for path in sorted(root.glob("*/*.tif"))}
    write(EuroSat(), root, folder, {"train": list(files)})
    return Records(folder / "eurosat"), files


@pytest.mark.parametrize(
    ("model", "task", "optimizer", "classes"),
    [
        ("cnn_class", "single_label", keras.optimizers.Adam(0.001), {"AnnualCrop_1": 0, "Pasture_300": 5}),
        ("cnn_dual", "dual", keras.optimizers.SGD(0.01), {"AnnualCrop_1": 2 + 3 * 0, "Pasture_300": 2 + 3 * 5}),
    ],
)
def test_networks_learn_real_patches(real, model, task, optimizer, classes):
    """From the published files to a few steps of training; what is learned from are their bands at 10 m."""
    records, files = real
    experiment = Experiment(
        records=str(records.directory), model=model, task=task, input="s2_10m", batch_size=2, windows=50 * (task == "dual")
    )
    learned = assemble.task(experiment, records)
    whole, target, _ = next(iter(assemble.batches(experiment, records, learned, "train")))
    for key, patch, ids in zip(records.index("train")["key"].tolist(), whole["s2"].numpy(), target.numpy(), strict=True):
        np.testing.assert_array_equal(patch, files[key.decode()].transpose(2, 0, 1)[[1, 2, 3, 7]])  # B02 B03 B04 B08 there
        assert np.unique(ids) == classes[key.decode()]
    network = assemble.model(experiment, records, learned)
    epoch, losses = assemble.batches(experiment, records, learned, "train", training=True), []
    for images, target, _ in itertools.chain.from_iterable([epoch] * 3):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(learned.loss(target, network(images, training=True)))
        optimizer.apply(tape.gradient(loss, network.trainable_variables), network.trainable_variables)
        losses.append(float(loss))
    assert np.isfinite(losses).all() and losses[-1] < 0.8 * losses[0]

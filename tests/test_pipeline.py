import collections
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from small_records import SIZE, write_records

from tfrs import folds, pipeline, pixels, storage, tasks
from tfrs.errors import UserError
from tfrs.frames import open_shard
from tfrs.records import Records
from tfrs.sensors import S2_BANDS

TRAIN = 37
OPTIONS = {"threshold": 0.1, "inclusive": False, "label_smoothing": 0.0}
AUGMENT = ("dihedral", "rotate:20", "crop:12", "noise:0.1", "speckle", "band_dropout:0.2", "modality_dropout:0.3")
# Positions in the file, counted by hand: B01 B02 B03 B04 B05 B06 B07 B08 B09 B10 B11 B12 B8A.
S2_MS = [1, 2, 3, 4, 5, 6, 7, 12, 10, 11]
BANDS = {
    "s2_ms": {"s2": S2_MS},
    "s2_rgb": {"s2": [3, 2, 1]},
    "s2_10m": {"s2": [1, 2, 3, 7]},
    "irrg": {"s2": [7, 3, 2]},
    "s2_all": {"s2": [0, 1, 2, 3, 4, 5, 6, 7, 12, 8, 9, 10, 11]},
    "s1": {"s1": [0, 1]},
    "s1s2": {"s2": S2_MS, "s1": [0, 1]},
    "VH,B12,B11,B8A,VV": {"s1": [1, 0], "s2": [11, 10, 12]},
    "s2:B02+s1:VH": {"s2": [1], "s1": [1]},
}


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    found = write_records(tmp_path_factory.mktemp("records"), train=TRAIN, val=5)
    assert len(found.shards("train")) > 1
    return found


def task(records, name="single_label"):
    return tasks.create(name, records.schema, **OPTIONS)


def load(records, split="train", **options):
    options = {"inputs": "s1s2", "task": task(records), "batch_size": 8, **options}
    return pipeline.load(records, split, **options)


def epoch(dataset):
    """All batches of one pass: (images, target, weight) of NumPy arrays."""
    return list(dataset.as_numpy_iterator())


def samples(batches):
    """(image bytes of all sensors, target) of every sample that counts, in order."""
    return [
        (b"".join(image[i].tobytes() for image in images.values()), int(target[i]))
        for images, target, weight in batches
        for i in np.flatnonzero(weight)
    ]


def stored(records, split="train", inputs="s1s2"):
    """The same, by reading record after record."""
    return [
        (b"".join(record[name][bands].tobytes() for name, bands in BANDS[inputs].items()), record["label"])
        for record in records.samples(split)
    ]


def same(first, second):
    for one, other in zip(first, second, strict=True):
        tf.nest.map_structure(np.testing.assert_array_equal, one, other)


@pytest.mark.parametrize("read", ["random", "sequential"])
@pytest.mark.parametrize("inputs", BANDS)
def test_bands_are_those_of_the_input_in_its_order(records, inputs, read):
    batches = epoch(load(records, inputs=inputs, read=read))
    assert samples(batches) == stored(records, inputs=inputs)
    for name, bands in BANDS[inputs].items():
        assert batches[0][0][name].dtype == {"s2": np.uint16, "s1": np.float32}[name]
        assert batches[0][0][name].shape == (8, len(bands), SIZE, SIZE)


def test_all_bands_come_in_esa_order_though_the_file_has_b8a_last(records):
    (images, _, _) = epoch(load(records, inputs="s2_all"))[0]
    raw, place = records.sample("train", 0)["s2"], S2_BANDS.index("B8A")
    assert place == 8
    np.testing.assert_array_equal(images["s2"][0, place], raw[-1])
    np.testing.assert_array_equal(images["s2"][0, place + 1 :], raw[8:-1])


@pytest.mark.parametrize("read", ["random", "sequential"])
@pytest.mark.parametrize("seed", [None, 3])
@pytest.mark.parametrize("batch_size", [1, 8, TRAIN, 100])
def test_every_record_counts_once_and_batches_are_full(records, read, seed, batch_size):
    dataset = load(records, read=read, seed=seed, batch_size=batch_size)
    steps = -(-TRAIN // batch_size)
    assert dataset.cardinality() == steps
    for _ in range(2):
        batches = epoch(dataset)
        assert len(batches) == steps
        assert sorted(samples(batches)) == sorted(stored(records))
        for images, target, weight in batches:
            assert len(images["s2"]) == len(images["s1"]) == len(target) == len(weight) == batch_size
        last = batches[-1][2]
        assert last.dtype == np.float32
        np.testing.assert_array_equal(last, np.arange(batch_size) < TRAIN - (steps - 1) * batch_size)


@pytest.mark.parametrize("read", ["random", "sequential"])
def test_padding_is_real_records(records, read):
    """A weight of 0 must not turn into NaN by way of an all-zero image or an impossible label."""
    known = set(stored(records))
    (images, target, _) = epoch(load(records, read=read, batch_size=100))[0]
    for i in range(100):
        assert (images["s2"][i].tobytes() + images["s1"][i].tobytes(), int(target[i])) in known


@pytest.mark.parametrize("read", ["random", "sequential"])
def test_without_a_seed_the_order_is_that_of_the_records(records, read):
    dataset = load(records, read=read)
    assert samples(epoch(dataset)) == samples(epoch(dataset)) == stored(records)


@pytest.mark.parametrize("read", ["random", "sequential"])
@pytest.mark.parametrize("augment", [(), AUGMENT], ids=["plain", "augmented"])
def test_seed_decides_and_epochs_differ(records, read, augment):
    options = {"read": read, "augment": augment}
    dataset = load(records, seed=1, **options)
    first, second, third = epoch(dataset), epoch(dataset), epoch(dataset)
    again = load(records, seed=1, **options)
    same(first, epoch(again))
    same(second, epoch(again))
    # A run that goes on after two epochs sees what it would have seen without the break.
    same(third, epoch(load(records, seed=1, epoch=2, **options)))
    assert samples(first) != samples(second) != samples(third) != samples(first)
    assert samples(first) != samples(epoch(load(records, seed=2, **options)))


@pytest.mark.parametrize("read", ["random", "sequential"])
def test_global_seed_of_tensorflow_has_no_part_in_the_order(records, read):
    """Training sets it, to 0 by default."""
    orders = []
    for seed in (0, 1):
        tf.random.set_seed(seed)
        orders.append(samples(epoch(load(records, read=read, seed=0))))
    assert orders[0] == orders[1]


def test_augmentation_is_the_records_own_not_the_ways_of_reading(records):
    """Random and sequential reading give the same augmented samples, in another order, in every epoch."""
    random, sequential = (load(records, read=read, seed=5, augment=AUGMENT) for read in ("random", "sequential"))
    plain, seen = {image for image, _ in stored(records)}, set()
    for _ in range(2):
        left, right = samples(epoch(random)), samples(epoch(sequential))
        assert left != right
        assert sorted(left) == sorted(right)
        images = {image for image, _ in left}
        assert len(images) == TRAIN and not images & (plain | seen)
        seen |= images


def test_augmentation_does_not_depend_on_the_batch(records):
    eights, threes = (samples(epoch(load(records, seed=5, augment=AUGMENT, batch_size=size))) for size in (8, 3))
    assert eights == threes


@pytest.mark.parametrize(
    ("bands", "positions"),
    [("B02", [1]), ("B02,B03,B05", [1, 2, 4]), ("B04,B03,B02", [3, 2, 1]), ("B04,B02,B01", [3, 1, 0])],
    ids=["one", "forwards", "backwards", "gap"],
)
def test_dihedral_of_both_sensors_is_the_same_symmetry(records, bands, positions):
    raw = {record["s1"].tobytes(): record for record in records.samples("train")}

    def the_eight(image):
        turns = [np.rot90(image, k, axes=(1, 2)) for k in range(4)]
        return [turn.tobytes() for turn in [*turns, *(np.flip(turn, 2) for turn in turns)]]

    back = {view: (key, code) for key in raw for code, view in enumerate(the_eight(raw[key]["s1"]))}
    codes = set()
    for images, _, _ in epoch(load(records, inputs=f"s2:{bands}+s1:VV,VH", seed=0, augment="dihedral")):
        for s2, s1 in zip(images["s2"], images["s1"], strict=True):
            key, code = back[s1.tobytes()]
            assert s2.tobytes() == the_eight(raw[key]["s2"][positions])[code]
            codes.add(code)
    assert len(codes) > 4


@pytest.mark.parametrize("read", ["random", "sequential"])
@pytest.mark.parametrize("augment", [(), AUGMENT, (*AUGMENT, "mixup")], ids=["plain", "augmented", "mixed"])
def test_workers_share_every_global_batch(records, read, augment):
    options = {"read": read, "seed": 2, "batch_size": 12, "augment": augment}
    whole = epoch(load(records, **options))
    parts = [epoch(load(records, worker=(index, 3), **options)) for index in range(3)]
    joined = [tf.nest.map_structure(lambda *pieces: np.concatenate(pieces), *batch) for batch in zip(*parts, strict=True)]
    same(whole, joined)
    assert all(len(target) == 4 for part in parts for _, target, _ in part)


@pytest.mark.parametrize("read", ["random", "sequential"])
@pytest.mark.parametrize("kind", ["single_label", "multi_label"])
def test_targets_belong_to_their_images(records, read, kind):
    """Even shuffled: each image is known by its bytes, its labels by the record."""
    known = {record["s1"].tobytes(): record for record in records.samples("train")}
    for images, target, _ in epoch(load(records, inputs="s1", task=task(records, kind), seed=0, read=read)):
        for image, labels in zip(images["s1"], target, strict=True):
            record = known[image.tobytes()]
            if kind == "single_label":
                assert labels == record["label"]
            else:
                assert labels.dtype == np.float32
                np.testing.assert_array_equal(np.flatnonzero(labels), record["labels"])


@pytest.mark.parametrize("read", ["random", "sequential"])
@pytest.mark.parametrize("kind", ["single_label", "multi_label"])
@pytest.mark.parametrize("worker", [(0, 1), (1, 2)])
def test_labels_are_mixed_as_the_images_are(records, read, kind, worker):
    """Each record with the next one of the global batch, the last with the first; also what fills the last batch."""
    options = {"read": read, "seed": 5, "batch_size": 8, "inputs": "s1", "task": task(records, kind)}
    plain = epoch(load(records, **options))
    mixed = epoch(load(records, augment=["mixup:1"], worker=worker, **options))
    index, count = worker
    for (images, target, weight), (blend, soft, part_weight) in zip(plain, mixed, strict=True):
        hot = np.eye(10)[target] if kind == "single_label" else target
        part = range(index * 8 // count, (index + 1) * 8 // count)
        assert soft.shape == (len(part), 10) and soft.dtype == np.float32
        np.testing.assert_array_equal(part_weight, weight[part])
        for row, number in enumerate(part):
            own, other = (images["s1"][i].astype(float) for i in (number, (number + 1) % 8))
            clear = np.abs(own - other) > 1
            found = ((blend["s1"][row] - other)[clear] / (own - other)[clear]) if clear.any() else np.ones(1)
            assert np.ptp(found) < 1e-4 and 0 <= found[0] <= 1
            expected = found[0] * hot[number] + (1 - found[0]) * hot[(number + 1) % 8]
            np.testing.assert_allclose(soft[row], expected, atol=1e-5)


def test_mixing_needs_a_neighbour(records):
    with pytest.raises(UserError, match="a batch of 1 record has none to mix it with"):
        load(records, augment=["cutmix"], seed=0, batch_size=1)


@pytest.mark.parametrize("read", ["random", "sequential"])
def test_shapes_are_static(records, read):
    images, target, weight = load(records, task=task(records, "multi_label"), read=read).element_spec
    assert images == {"s2": tf.TensorSpec((8, 10, SIZE, SIZE), tf.uint16), "s1": tf.TensorSpec((8, 2, SIZE, SIZE), tf.float32)}
    assert target == tf.TensorSpec((8, 10), tf.float32)
    assert weight == tf.TensorSpec((8,), tf.float32)
    cropped = load(records, augment=["crop:12", "cutmix"], seed=0, read=read, worker=(0, 2)).element_spec[0]
    assert cropped["s2"].shape == (4, 10, 12, 12) and cropped["s1"].shape == (4, 2, 12, 12)


@pytest.mark.parametrize("cores", [1, 3, 64])
def test_any_number_of_cores_streams_any_number_of_shards(records, monkeypatch, cores):
    monkeypatch.setattr(pipeline, "PARALLEL_CALLS", cores)
    for split in ("train", "val"):
        batches = list(load(records, split, read="sequential", seed=0))
        assert sum(weight.numpy().sum() for _, _, weight in batches) == records.count(split)
    assert len(records.shards("val")) == 1


class Watched:
    """Bytes of a shard that remember which of them were asked for."""

    def __init__(self, data, seen):
        self.data, self.seen = data, seen

    def __getitem__(self, span):
        self.seen.append((span.start, span.stop))
        return self.data[span]


@pytest.mark.parametrize("inputs", ["s2_rgb", "s2_ms", "s1", "s1s2"])
def test_only_the_bytes_of_the_bands_are_touched(records, inputs, monkeypatch):
    everything = {path: path.read_bytes() for path in records.shards("train")}
    expected = {path: np.zeros(len(data), int) for path, data in everything.items()}
    for record in records.samples("train"):
        for name, bands in BANDS[inputs].items():
            for band in bands:
                pixels = record[name][band].tobytes()
                (path,) = (path for path, data in everything.items() if pixels in data)
                start = everything[path].find(pixels)
                expected[path][start : start + len(pixels)] = 1
    seen = {path: [] for path in everything}
    monkeypatch.setattr(records, "open", lambda path: Watched(open_shard(path), seen[path]))
    epoch(load(records, inputs=inputs, batch_size=5))
    for path, spans in seen.items():
        touched = np.zeros_like(expected[path])
        for start, stop in spans:
            touched[start:stop] = 1
        np.testing.assert_array_equal(touched, expected[path])


def test_unused_bands_may_be_damaged(records, tmp_path):
    """Random access neither parses nor checks what it does not need; `verify` is there for that."""
    shutil.copytree(records.directory, tmp_path / "copy")
    copy = Records(tmp_path / "copy")
    table = copy.index("train")
    for row in table:
        with open(copy.shards("train")[row["shard"]], "r+b") as file:
            file.seek(int(row["at_s1"]))
            file.write(b"\xff" * (2 * SIZE * SIZE * 4))
    assert samples(epoch(load(copy, inputs="s2_ms"))) == stored(records, inputs="s2_ms")
    assert samples(epoch(load(copy, inputs="s1"))) != stored(records, inputs="s1")


def test_index_is_rebuilt_when_its_file_is_gone(records, tmp_path):
    shutil.copytree(records.directory, tmp_path / "copy")
    (tmp_path / "copy" / "index-train.npy").unlink()
    same(epoch(load(Records(tmp_path / "copy"), seed=4)), epoch(load(records, seed=4)))


def test_images_are_handed_over_without_a_copy(records):
    """TensorFlow takes an array over as it is when it starts at a multiple of 64 bytes."""
    for shape, dtype in [((3, 13, 7, 7), "uint16"), ((1, 1, 1, 1), "float32"), ((2, 3, 64, 64), "uint8")]:
        array = pixels.aligned(shape, np.dtype(dtype))
        assert array.ctypes.data % 64 == 0 and array.shape == shape and array.dtype == dtype and array.flags.c_contiguous


def test_scale_of_an_op_is_that_of_the_bands_chosen(records):
    """Band dropout puts in the mean of the training split, per band, in the order of the input."""
    pixels = np.stack([record["s2"] for record in records.samples("train")]).astype(float)
    mean = np.rint(pixels.mean(axis=(0, 2, 3)))[[7, 3, 2]]
    found = set()
    for images, _, _ in epoch(load(records, inputs="irrg", seed=0, augment=["band_dropout:0.9"])):
        for image in images["s2"]:
            constant = [len(np.unique(band)) == 1 for band in image]
            np.testing.assert_array_equal(image[constant, 0, 0], mean[constant])
            found |= set(np.flatnonzero(constant))
    assert found == {0, 1, 2}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "tran"}, r"unknown split of .*'tran'\. Did you mean 'train'\?"),
        ({"inputs": "s2_mss"}, r"'s2_mss'\. Did you mean 's2_ms'\?"),
        ({"inputs": "rgb"}, r"input 'rgb' needs sensor 'rgb', but the records have s2, s1; inputs that fit: s2_rgb"),
        ({"inputs": "s2:B13"}, r"sensor 's2' has no band B13"),
        ({"batch_size": 0}, r"a batch of 0 cannot be shared"),
        ({"batch_size": 8, "worker": (0, 3)}, r"a batch of 8 cannot be shared by 3 workers; give a multiple of 3"),
        ({"augment": ["dihedral"]}, r"augmentations are random: give a seed with them"),
        ({"augment": ["dihedrall"], "seed": 0}, r"unknown augmentation 'dihedrall'\. Did you mean 'dihedral'\?"),
        ({"augment": ["crop:17"], "seed": 0}, r"crop:17 is larger than the images \(16x16\)"),
        ({"augment": ["modality_dropout"], "seed": 0, "inputs": "s1"}, r"modality_dropout needs an input of several sensors"),
        ({"sampling": "balancd", "seed": 0}, r"unknown sampling 'balancd'\. Did you mean 'balanced'\?"),
        ({"batch_size": 8, "worker": (2, 2)}, r"worker=\(2, 2\): workers are numbered from 0"),
        ({"batch_size": 8, "worker": (0, 0)}, r"worker=\(0, 0\): workers are numbered from 0"),
        ({"seed": -1}, r"seed=-1, epoch=0: give whole numbers from 0"),
        ({"seed": 0, "epoch": -1}, r"seed=0, epoch=-1: give whole numbers from 0"),
        ({"sampling": "balanced"}, r"sampling by weights is random: give a seed"),
        ({"sampling": "balanced", "seed": 0, "read": "sequential"}, r"by their number, which --read=sequential cannot"),
        (
            {"sampling": lambda table: np.zeros(len(table)), "seed": 0},
            r"sampling weights of 37 records must be as many numbers",
        ),
        ({"sampling": lambda table: [1, 2], "seed": 0}, r"sampling weights of 37 records must be as many numbers"),
        ({"step": 5}, r"an epoch of split 'train' has steps 0 to 4, not 5"),
        ({"read": "randm"}, r"unknown way of reading 'randm'\. Did you mean 'random'\?"),
    ],
)
def test_refusals(records, options, message):
    with pytest.raises(UserError, match=message):
        load(records, **options)


def test_split_of_no_record_is_refused(records, monkeypatch):
    monkeypatch.setattr(records, "count", lambda split: 0)
    with pytest.raises(UserError, match=r"split 'val' has no record"):
        load(records, "val")


def test_augmentation_by_statistics_needs_a_training_split(tmp_path):
    only = write_records(tmp_path, test=3)
    with pytest.raises(UserError, match=r"no statistics of s2 \(the records have no training split\)"):
        load(only, "test", augment=["noise"], seed=0)
    assert len(epoch(load(only, "test"))) == 1


@pytest.mark.parametrize("read", ["random", "sequential"])
@pytest.mark.parametrize("worker", [(0, 1), (1, 2)])
@pytest.mark.parametrize("split", ["train", "fold"])
def test_a_run_resumes_at_a_step(records, read, worker, split):
    """Bit for bit what an uninterrupted run yields from that step on, augmented, mixed and drawn by weights."""
    if split == "fold":
        records, split = folds.split(records, 3, 0, seed=1), "train"
    options = {"read": read, "seed": 3, "augment": (*AUGMENT, "mixup"), "worker": worker, "batch_size": 6}
    options |= {"sampling": "balanced"} if read == "random" else {}
    whole = load(records, split, **options)
    epochs = [epoch(whole) for _ in range(3)]
    steps = len(epochs[0])
    for step in (0, 1, steps - 1):
        resumed = load(records, split, epoch=1, step=step, **options)
        same(epochs[1][step:], epoch(resumed))
        same(epochs[2], epoch(resumed))


@pytest.mark.parametrize("read", ["random", "sequential"])
def test_workers_lose_and_repeat_nothing(records, read):
    parts = [epoch(load(records, seed=2, read=read, batch_size=12, worker=(index, 4))) for index in range(4)]
    assert sorted(sample for part in parts for sample in samples(part)) == sorted(stored(records))
    assert {len(part) for part in parts} == {-(-TRAIN // 12)}


def drawn(records, count=1, **options):
    """Keys of the records of each of several epochs, in their order."""
    keys = {record["s1"].tobytes(): record["key"] for record in records.samples("train")}
    dataset = load(records, inputs="s1", **options)
    return [[keys[image] for image, _ in samples(epoch(dataset))] for _ in range(count)]


def test_balanced_sampling_draws_classes_equally_often(records):
    labels = {record["key"]: record["label"] for record in records.samples("train")}
    sizes = collections.Counter(labels.values())
    assert max(sizes.values()) > min(sizes.values())
    totals = collections.Counter()
    for keys in drawn(records, 40, seed=4, sampling="balanced"):
        assert len(keys) == TRAIN
        share = TRAIN / len(sizes)  # what is expected of a class
        for key, count in collections.Counter(keys).items():
            expected = share / sizes[labels[key]]
            assert math.floor(expected) <= count <= math.ceil(expected)
        totals.update(labels[key] for key in keys)
    for label in sizes:
        assert abs(totals[label] / 40 - share) < 0.5


def test_weights_may_be_any_function_of_the_index(records):
    """Records of weight 0 never come; the others in proportion."""
    names = sorted(record["key"] for record in records.samples("train"))
    weights = {name: place % 4 for place, name in enumerate(names)}
    found = drawn(records, 60, seed=1, sampling=lambda table: np.array([weights[key.decode()] for key in table["key"]]))
    totals = collections.Counter(key for keys in found for key in keys)
    for name in names:
        expected = 60 * TRAIN * weights[name] / sum(weights.values())
        assert abs(totals[name] - expected) < 6 * math.sqrt(60) / 2
    assert all(totals[name] == 0 for name in names if weights[name] == 0)


def test_sampling_is_that_of_its_seed_and_a_record_drawn_again_is_augmented_anew(records):
    def sampling(table):
        return np.arange(TRAIN) % 3

    options = {"sampling": sampling, "batch_size": TRAIN}
    one, two, other = (drawn(records, 2, seed=seed, **options) for seed in (1, 1, 2))
    assert one == two and one != other and one[0] != one[1]
    keys = one[0]
    assert len(set(keys)) < TRAIN
    ((images, _, _),) = epoch(load(records, inputs="s1", seed=1, augment=["noise"], **options))
    assert len({image.tobytes() for image in images["s1"]}) == TRAIN


def test_reading_is_sequential_on_network_file_systems(tmp_path, monkeypatch):
    (tmp_path / "mounts").write_text(
        "/dev/sda1 / ext4 rw 0 0\nserver:/data /data nfs4 rw 0 0\n/dev/sdb1 /data/local xfs rw 0 0\n"
        "bucket /mnt/my\\040bucket fuse.gcsfuse rw 0 0\n/dev/sdc1 /disk fuseblk rw 0 0\n"
    )
    expected = {
        "/home/records": False,
        "/data/records": True,
        "/database": False,
        "/data/local/records": False,
        "/mnt/my bucket/records": True,
        "/disk/records": False,
    }
    assert {path: storage.is_remote(Path(path), tmp_path / "mounts") for path in expected} == expected
    assert not storage.is_remote(tmp_path, tmp_path / "nothing")


@pytest.mark.parametrize("remote", [False, True])
def test_auto_reads_as_the_storage_is(records, remote, monkeypatch):
    monkeypatch.setattr(storage, "is_remote", lambda directory: remote)
    same(epoch(load(records, seed=3)), epoch(load(records, seed=3, read="sequential" if remote else "random")))
    assert drawn(records, seed=1, sampling="balanced") == drawn(records, seed=1, sampling="balanced", read="random")

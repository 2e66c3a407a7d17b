"""Ways of reading the same patches into batches, for benchmarks.input: ours, those of the field, and the limits.

Each way is a function from a job, and whether each patch gets a random flip and quarter turn (dihedral), to an endless
iterator over numbers of patches, of one batch or several. It runs in a process of its own, since TensorFlow and the workers of
PyTorch do not share one, and rests until it is asked to run again. Epochs follow each other without a break, as if there were
many patches.
"""

import contextlib
import functools
import importlib.util
import itertools
import os
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tfrs.command import import_tensorflow

WORKERS = 2
EPOCHS = 1000  # more than any run lasts
WARM_UP = 16  # batches before the clock starts: what waits ready in buffers is no speed
TAKEN = 16  # batches of tf.data at a time


@dataclass(frozen=True)
class Job:
    """An input of a data set: its records, the GeoTIFF files (per patch (path, bands from 1, size)) and copies in other forms.

    Attributes:
        bands: Per sensor, the positions of the wanted bands in the file.
        task: What the target is.
    """

    records: Path
    copies: Path
    files: tuple[tuple[tuple[str, tuple[int, ...], int], ...], ...]
    inputs: str
    bands: dict[str, tuple[int, ...]]
    task: str
    batch: int


def ours(job: Job, dihedral: bool, read: str) -> Iterator[int]:
    from tfrs import pipeline, tasks
    from tfrs.records import Records

    records = Records(job.records)
    task = tasks.create(job.task, records.schema, threshold=0.1, inclusive=False, label_smoothing=0.0)
    options = {"inputs": job.inputs, "task": task, "batch_size": job.batch, "seed": 0, "read": read}
    return _taken(pipeline.load(records, "train", augment=["dihedral"] * dihedral, **options))


def parsed(job: Job, dihedral: bool) -> Iterator[int]:
    """TFRecordDataset as the guides of TensorFlow have it: shuffled files, interleave, shuffle buffer, parse, batch."""
    import tensorflow as tf

    from tfrs.records import Records

    records = Records(job.records)

    def parse(record):
        fields = records.schema.decode(record, job.bands)
        images = [tf.gather(fields[name], bands) for name, bands in job.bands.items()]
        return _turned_by_tensorflow(images) if dihedral else images

    files = tf.data.Dataset.from_tensor_slices(list(map(str, records.shards("train")))).shuffle(1000)
    dataset = files.interleave(tf.data.TFRecordDataset, cycle_length=4, num_parallel_calls=tf.data.AUTOTUNE).shuffle(256)
    return _taken(dataset.map(parse, num_parallel_calls=tf.data.AUTOTUNE).batch(job.batch).prefetch(2))


def tfds(job: Job, dihedral: bool) -> Iterator[int]:
    import tensorflow as tf
    import tensorflow_datasets

    def select(fields):
        # Labels of records differ in number, and are no part of what is compared.
        images = [tf.gather(fields[name], bands) for name, bands in job.bands.items()]
        return _turned_by_tensorflow(images) if dihedral else images

    dataset = tensorflow_datasets.builder_from_directory(job.records).as_dataset(split="train", shuffle_files=True)
    dataset = dataset.map(select, num_parallel_calls=tf.data.AUTOTUNE)
    return _taken(dataset.shuffle(256).batch(job.batch).prefetch(2))


def _taken(dataset) -> Iterator[int]:
    """Patches of so many batches, taken without Python, as in TensorFlow's own benchmarks of tf.data (`DatasetBenchmarkBase`)
    and in training with `--steps_per_execution`.

    A loop in Python would be measured with the pipeline: it holds the interpreter for 0.3 ms a batch, and meanwhile the threads
    of `load` cannot go on. Measured: SEN12MS s2_rgb 9,300 patches/s in such a loop, 11,900 without.
    """
    import tensorflow as tf

    iterator = iter(dataset.repeat())

    @tf.function
    def take():
        count = 0
        for _ in tf.range(TAKEN):
            count += tf.shape(tf.nest.flatten(next(iterator))[-1])[0]
        return count

    while True:
        yield int(take())


def _turned_by_tensorflow(images: list) -> list:
    """Images (C, H, W) of a patch, all with the same random flip and quarter turn."""
    import tensorflow as tf

    transposes, up_down, left_right = (tf.random.uniform([]) < 0.5 for _ in range(3))
    images = [
        tf.cond(transposes, lambda image=image: tf.transpose(image, (0, 2, 1)), lambda image=image: image) for image in images
    ]
    images = [tf.cond(up_down, lambda image=image: tf.reverse(image, [1]), lambda image=image: image) for image in images]
    return [tf.cond(left_right, lambda image=image: tf.reverse(image, [2]), lambda image=image: image) for image in images]


def _turned_by_numpy(images: list[np.ndarray]) -> list[np.ndarray]:
    """As `_turned_by_tensorflow`, as views."""
    turns, flips = random.randrange(4), random.random() < 0.5
    images = [np.rot90(image, turns, (-2, -1)) for image in images]
    return [image[..., ::-1] for image in images] if flips else images


class Patches:
    """A map-style data set for a DataLoader, from a function of a patch's number to its images."""

    def __init__(self, count: int, read: Callable[[int], list[np.ndarray]], dihedral: bool):
        self.count, self.read, self.dihedral = count, read, dihedral

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, number: int) -> list[np.ndarray]:
        images = self.read(number)
        # PyTorch takes no array with negative strides.
        return _signed(list(map(np.ascontiguousarray, _turned_by_numpy(images))) if self.dihedral else images)


def _signed(images: list[np.ndarray]) -> list[np.ndarray]:
    """PyTorch has few operations on uint16; the bits are the same."""
    return [image.view(np.int16) if image.dtype == np.uint16 else image for image in images]


def loader(patches, batch: int | None) -> Iterator[int]:
    import torch.utils.data

    shuffle = {}
    if isinstance(patches, Patches):
        shuffle = {"sampler": torch.utils.data.RandomSampler(patches, num_samples=EPOCHS * len(patches))}
    settings = {"num_workers": WORKERS, "multiprocessing_context": "fork", **shuffle}
    return (len(images) for images, *_ in torch.utils.data.DataLoader(patches, batch, **settings))


def rasterio(job: Job, dihedral: bool) -> Iterator[int]:
    """The GeoTIFF files as torchgeo reads them, but the wanted bands only; bands at 20 and 60 m are resampled by GDAL."""
    import rasterio as library

    def read(number: int) -> list[np.ndarray]:
        images = []
        for path, bands, size in job.files[number]:
            with library.open(path) as file:
                images.append(file.read(bands, out_shape=(len(bands), size, size)))
        # Of several files, those of one type are bands of one sensor.
        kinds = {image.dtype: [other for other in images if other.dtype == image.dtype] for image in images}
        return [np.concatenate(kind) for kind in kinds.values()]

    return loader(Patches(len(job.files), read, dihedral), job.batch)


def maps(job: Job) -> dict[str, np.ndarray]:
    return {name: np.load(job.copies / f"{name}.npy", mmap_mode="r") for name in job.bands}


def memmap(job: Job, dihedral: bool) -> Iterator[int]:
    """Fancy indexing of a memory-mapped array in one thread, nothing else: no library, no labels."""
    arrays, rng = maps(job), np.random.default_rng(0)
    count = len(next(iter(arrays.values())))
    while True:
        for numbers in np.array_split(rng.permutation(count), count // job.batch):
            images = [array[numbers[:, None], list(job.bands[name])] for name, array in arrays.items()]
            if dihedral:
                turned = zip(*(_turned_by_numpy(list(patch)) for patch in zip(*images, strict=True)), strict=True)
                images = list(map(np.stack, turned))
            yield len(images[0])


def memmap_loader(job: Job, dihedral: bool) -> Iterator[int]:
    arrays = maps(job)

    def read(number: int) -> list[np.ndarray]:
        return [array[number, list(job.bands[name])] for name, array in arrays.items()]

    return loader(Patches(len(next(iter(arrays.values()))), read, dihedral), job.batch)


def lmdb(job: Job, dihedral: bool) -> Iterator[int]:
    """A tensor per band in the safetensors form by key, as rico-hdl writes them and ConfigILM reads them."""
    import lmdb as library
    import safetensors.numpy

    @functools.cache  # in each worker: an environment does not survive a fork
    def environment():
        return library.open(str(job.copies / "lmdb"), readonly=True, lock=False, readahead=False)

    def read(number: int) -> list[np.ndarray]:
        with environment().begin(buffers=True) as transaction:
            tensors = safetensors.numpy.load(bytes(transaction.get(str(number).encode())))
        return [np.stack([tensors[f"{name}_{band}"] for band in bands]) for name, bands in job.bands.items()]

    return loader(Patches(len(job.files), read, dihedral), job.batch)


def webdataset(job: Job, dihedral: bool) -> Iterator[int]:
    import webdataset as library

    def select(sample: dict) -> list[np.ndarray]:
        images = [sample[f"{name}.npy"][list(bands)] for name, bands in job.bands.items()]
        return _signed(_turned_by_numpy(images) if dihedral else images)

    shards = sorted(map(str, job.copies.glob("*.tar")))
    patches = library.WebDataset(shards, shardshuffle=len(shards)).repeat(EPOCHS)
    return loader(patches.shuffle(256).decode().map(select).batched(job.batch), None)


def shard_bytes(job: Job, dihedral: bool) -> Iterator[int]:
    """Limit: every byte of the shards read in order into one buffer."""
    from tfrs.records import Records

    records, buffer = Records(job.records), bytearray(1 << 22)
    shards = records.shards("train")
    share = records.count("train") / sum(os.path.getsize(path) for path in shards)
    for path in itertools.cycle(shards):
        with open(path, "rb", buffering=0) as file:
            while size := file.readinto(buffer):
                yield size * share


def memcpy(job: Job, dihedral: bool) -> Iterator[int]:
    """Limit: batches of the wanted size copied from one place of memory to another, in one thread."""
    source = [np.array(array[: 8 * job.batch, : len(job.bands[name])]) for name, array in maps(job).items()]
    target = [np.empty_like(array[: job.batch]) for array in source]
    parts = max(1, len(source[0]) // job.batch)
    for number in itertools.count():
        at = number % parts * job.batch
        for to, array in zip(target, source, strict=True):
            np.copyto(to[: len(array[at : at + job.batch])], array[at : at + job.batch])
        yield job.batch


# Name -> (way, modules that must be installed).
WAYS: dict[str, tuple[Callable[[Job, bool], Iterator[int]], tuple[str, ...]]] = {
    "load": (functools.partial(ours, read="random"), ("tensorflow",)),
    "load sequential": (functools.partial(ours, read="sequential"), ("tensorflow",)),
    "rasterio DataLoader": (rasterio, ("torch",)),
    "TFRecordDataset + parse": (parsed, ("tensorflow",)),
    "np.memmap": (memmap, ()),
    "np.memmap DataLoader": (memmap_loader, ("torch",)),
    "LMDB + safetensors": (lmdb, ("torch", "lmdb", "safetensors")),
    "WebDataset": (webdataset, ("torch", "webdataset")),
    "TFDS": (tfds, ("tensorflow", "tensorflow_datasets")),
    "limit: shard bytes": (shard_bytes, ()),
    "limit: memcpy": (memcpy, ()),
}
LIMITS = ("limit: shard bytes", "limit: memcpy")  # which turn nothing


def missing(way: str) -> list[str]:
    return [module for module in WAYS[way][1] if not importlib.util.find_spec(module)]


def serve(way: str, job: Job, pipe) -> None:
    """Send patches/s and `own_memory` for every (seconds, dihedral) that comes through the pipe, until it is closed."""
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    if "tensorflow" in WAYS[way][1]:
        import_tensorflow()
    batches = {dihedral: WAYS[way][0](job, dihedral) for dihedral in (False, True)[: 1 + (way not in LIMITS)]}
    for each in batches.values():
        next(each)
    pipe.send(None)
    with contextlib.suppress(EOFError):
        while True:
            seconds, dihedral = pipe.recv()
            warm = 0
            while warm < WARM_UP * job.batch:
                warm += next(batches[dihedral])
            count, start = 0, time.perf_counter()
            while (spent := time.perf_counter() - start) < seconds:
                count += next(batches[dihedral])
            pipe.send((count / spent, own_memory()))


def own_memory() -> float:
    """MB of this process that are of no file: pages of memory-mapped shards belong to the system's cache."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["RssAnon"].split()[0]) / 1e3


def copy_records(records: Path, copies: Path) -> None:
    """The rasters of the sensors of all records as .npy, LMDB and tar, as far as the libraries are there."""
    from tfrs.records import Records

    found = Records(records)
    count = found.count("train")
    copies.mkdir(parents=True)
    for name in found.sensors:
        shape = (count, *found.schema.fields[name].shape)
        target = np.lib.format.open_memmap(copies / f"{name}.npy", "w+", found.schema.fields[name].dtype, shape)
        for number, sample in enumerate(found.samples("train")):
            target[number] = sample[name]
        target.flush()
    if not missing("LMDB + safetensors"):
        import lmdb as library
        import safetensors.numpy

        with library.open(str(copies / "lmdb"), map_size=1 << 40) as environment:
            for number, sample in enumerate(found.samples("train")):
                bands = {f"{n}_{b}": np.ascontiguousarray(band) for n in found.sensors for b, band in enumerate(sample[n])}
                with environment.begin(write=True) as transaction:
                    transaction.put(str(number).encode(), safetensors.numpy.save(bands))
    if not missing("WebDataset"):
        import webdataset as library

        with library.ShardWriter(str(copies / "%04d.tar"), maxsize=1e8, verbose=0) as writer:
            for number, sample in enumerate(found.samples("train")):
                writer.write({"__key__": str(number), **{f"{name}.npy": np.array(sample[name]) for name in found.sensors}})

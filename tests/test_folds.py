import itertools
from collections import Counter

import numpy as np
import pytest
from small_records import SmallPatches, write_records

from tfrecords_builder.writer import write
from tfrs import folds, pipeline, selection, tasks
from tfrs.errors import UserError
from tfrs.schema import Schema

FOLDS = 4


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    return write_records(tmp_path_factory.mktemp("records"), train=61, val=13, test=17)


def keys(records, split):
    return [sample["key"] for sample in records.samples(split)]


def everything(records):
    return [sample for split in records.splits for sample in records.samples(split)]


def test_every_record_is_tested_once_and_parts_are_disjoint(records):
    known = sorted(sample["key"] for sample in everything(records))
    tested, validated = [], []
    for fold in range(FOLDS):
        parts = folds.split(records, FOLDS, fold, seed=3)
        assert parts.splits == ("train", "val", "test")
        found = {split: keys(parts, split) for split in parts.splits}
        assert sorted(itertools.chain(*found.values())) == known
        assert {split: parts.count(split) for split in parts.splits} == {split: len(k) for split, k in found.items()}
        tested.append(set(found["test"]))
        validated.append(set(found["val"]))
        assert parts.selection == f"fold {fold} of 4 with seed 3"
    assert sorted(itertools.chain(*tested)) == known
    assert validated == [*tested[1:], tested[0]]  # val is the next fold


def with_fields(*names):
    class Chosen(SmallPatches):
        schema = Schema(
            {n: f for n, f in SmallPatches.schema.fields.items() if n in ("key", "s1", "s2", *names)},
            SmallPatches.schema.schemes,
        )

        def read(self, root, key):
            return {n: value for n, value in super().read(root, key).items() if n in self.schema.fields}

    return Chosen


@pytest.mark.parametrize("fields", [("label", "labels", "fractions"), ("labels", "fractions"), ("fractions",), ()])
def test_each_fold_has_its_share_of_every_class(tmp_path, fields):
    records = write(
        with_fields(*fields)(), tmp_path, tmp_path, {"train": [f"t{n}" for n in range(60)], "val": [f"v{n}" for n in range(23)]}
    )
    samples = {sample["key"]: sample for sample in everything(records)}

    def present(sample):
        return [int(c) for c in (np.flatnonzero(sample["fractions"]) if fields[0] == "fractions" else sample["labels"])]

    if not fields:
        kind = dict.fromkeys(samples, 0)
    elif fields[0] == "label":
        kind = {key: sample["label"] for key, sample in samples.items()}
    else:  # the rarest class present
        often = Counter(itertools.chain(*map(present, samples.values())))
        kind = {key: min(present(sample), key=lambda c: (often[c], c)) for key, sample in samples.items()}
        assert len(set(often.values())) > 2
    tested = [Counter(kind[key] for key in keys(folds.split(records, FOLDS, fold, seed=0), "test")) for fold in range(FOLDS)]
    for name, total in Counter(kind.values()).items():
        assert {count[name] for count in tested} <= {total // FOLDS, -(-total // FOLDS)}
    sizes = [count.total() for count in tested]
    assert max(sizes) - min(sizes) <= 1


def test_folds_do_not_depend_on_shards_splits_or_order(records, tmp_path):
    names = [sample["key"] for sample in everything(records)]
    other = write(SmallPatches(), tmp_path, tmp_path, {"test": names[::-1][:70], "train": names[:21]}, shard_mb=0.05)
    for fold in range(FOLDS):
        one, two = (folds.split(found, FOLDS, fold, seed=5) for found in (records, other))
        assert {split: sorted(keys(one, split)) for split in one.splits} == {s: sorted(keys(two, s)) for s in two.splits}


def test_the_seed_decides(records):
    tests = [frozenset(keys(folds.split(records, FOLDS, 0, seed), "test")) for seed in (0, 1, 2, 2**32 - 1, 0)]
    assert len(set(tests)) == 4 and tests[0] == tests[-1]
    # A seed next to another gives folds that have nothing to do with its own.
    assert len(tests[0] & tests[1]) < len(tests[0]) / 2


def test_dates_of_a_patch_stay_together(tmp_path):
    class Dated(with_fields("label")):
        name = "multisenge"

    names = [f"31UGQ_202007{day:02}_{place}_0" for place in range(12) for day in (1, 6, 11)]
    records = write(Dated(), tmp_path, tmp_path, {"train": names})
    patches = [{key[-4:] for key in keys(folds.split(records, 3, fold, seed=1), "test")} for fold in range(3)]
    counts = [folds.split(records, 3, fold, seed=1).count("test") for fold in range(3)]
    assert sum(map(len, patches)) == len(set.union(*patches)) == 12
    assert counts == [3 * len(found) for found in patches]


@pytest.mark.parametrize("read", ["random", "sequential"])
def test_batches_of_a_fold_pool_all_splits(records, read):
    parts = folds.split(selection.where(records, ["key!=*_0"]), 3, 1, seed=0)
    assert parts.selection == "key!=*_0; fold 1 of 3 with seed 0"
    task = tasks.create("single_label", records.schema, threshold=0.1, inclusive=False, label_smoothing=0.0)
    options = {"inputs": "s1", "task": task, "batch_size": 6, "read": read}
    seen = []
    for split in parts.splits:
        known = {sample["s1"].tobytes(): sample for sample in parts.samples(split)}
        found = []
        for images, target, weight in pipeline.load(parts, split, seed=2, **options).as_numpy_iterator():
            for image, label in zip(images["s1"][weight > 0], target[weight > 0], strict=True):
                found.append(image.tobytes())
                assert known[image.tobytes()]["label"] == label
        assert sorted(found) == sorted(known)
        seen += found
    assert len(set(seen)) == 61 + 13 + 17 - 3


@pytest.mark.parametrize(
    ("count", "fold", "message"),
    [
        (2, 0, r"--folds=2: give at least 3"),
        (5, 5, r"--fold=5: the 5 folds are numbered 0 to 4"),
        (5, -1, r"--fold=-1: the 5 folds are numbered 0 to 4"),
        (92, 0, r"91 patches are too few for 92 folds"),
    ],
)
def test_refusals(records, count, fold, message):
    with pytest.raises(UserError, match=message):
        folds.split(records, count, fold, seed=0)

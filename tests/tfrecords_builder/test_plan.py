import pickle
import zipfile
from types import SimpleNamespace

import numpy as np
import pytest

from tfrecords_builder.plan import plan
from tfrs.datasets.sen12ms import Sen12MS
from tfrs.errors import UserError

OWN = {
    "train": [f"River_{i}" for i in range(60)],
    "val": [f"River_{i}" for i in range(60, 80)],
    "test": [f"River_{i}" for i in range(80, 100)],
}
ALL = sorted(key for keys in OWN.values() for key in keys)


def dataset(**splits):
    splits = splits or OWN
    return SimpleNamespace(
        splits=("train", "val", "test"),
        index=lambda root, split: sorted(splits[split]),
        keys=lambda root: {key for keys in splits.values() for key in keys},
        patch=lambda key: key,
    )


def as_sets(splits):
    return {split: set(keys) for split, keys in splits.items()}


@pytest.fixture
def lists(tmp_path):
    """Write a list of patches and give its name."""

    def write(name, text, newline="\n"):
        (tmp_path / name).write_bytes(text.replace("\n", newline).encode())
        return str(tmp_path / name)

    return write


def test_own_splits_in_a_seeded_order():
    first, again, other = (plan(dataset(), None, seed=seed) for seed in (0, 0, 1))
    assert first == again
    for splits in (first, other):
        assert list(splits) == ["train", "val", "test"]
        assert as_sets(splits) == as_sets(OWN)
        assert all(len(keys) == len(OWN[split]) for split, keys in splits.items())
    assert all(first[split] != other[split] != sorted(OWN[split]) for split in OWN)


def test_order_has_no_trace_of_the_names():
    """Shards cut from it hold a sample of the split: no patch stands near its place in the sorted list by rule."""
    places = np.argsort(plan(dataset(train=[f"p{i:04}" for i in range(2000)], val=[], test=[]), None)["train"])
    assert abs(np.corrcoef(places, np.arange(2000))[0, 1]) < 0.1


def test_splits_without_a_patch_are_left_out():
    assert list(plan(dataset(train=["a", "b"], val=[], test=["c"]), None)) == ["train", "test"]


def test_limit_takes_the_first_of_the_same_order():
    whole, some = plan(dataset(), None, seed=5), plan(dataset(), None, seed=5, limit=30)
    assert some == {split: keys[:30] for split, keys in whole.items()}
    assert [len(keys) for keys in some.values()] == [30, 20, 20]


def test_val_fraction_draws_from_train_and_val():
    splits, other = (plan(dataset(), None, val_fraction=0.1, seed=seed) for seed in (0, 1))
    assert {split: len(keys) for split, keys in splits.items()} == {"train": 72, "val": 8, "test": 20}
    assert set(splits["test"]) == set(OWN["test"])
    assert set(splits["train"]) | set(splits["val"]) == {*OWN["train"], *OWN["val"]}
    assert set(splits["val"]) != set(other["val"])
    assert set(splits["val"]) & set(OWN["train"])


@pytest.mark.parametrize("fraction", [0, 1, -0.5, 1.5, float("nan")])
def test_val_fraction_is_a_fraction(fraction):
    with pytest.raises(UserError, match=r"--val_fraction is .*; give a number between 0 and 1"):
        plan(dataset(), None, val_fraction=fraction)


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_split_files(lists, newline):
    files = {
        "train": lists("train.txt", "River_90\nRiver_3.tif\n\n  River_60 \nfolder/River_7.jpg", newline),
        "val": lists("val.txt", "River_1\n", newline),
    }
    assert as_sets(plan(dataset(), None, split_files=files)) == {
        "train": {"River_90", "River_3", "River_60", "River_7"},
        "val": {"River_1"},
    }


def test_order_of_a_split_file_does_not_matter(lists):
    files = [lists("a.txt", "River_1\nRiver_2\nRiver_3\nRiver_4\n"), lists("b.txt", "River_4\nRiver_2\nRiver_1\nRiver_3\n")]
    first, second = (plan(dataset(), None, split_files={"train": file}) for file in files)
    assert first == second


def test_rest_is_what_no_file_names(lists):
    files = {"train": "rest", "test": lists("test.txt", "River_0\nRiver_99\n")}
    splits = plan(dataset(), None, split_files=files)
    assert set(splits["test"]) == {"River_0", "River_99"}
    assert sorted(splits["train"]) == [key for key in ALL if key not in splits["test"]]


def test_rest_cannot_belong_to_two_splits():
    with pytest.raises(UserError, match="rest"):
        plan(dataset(), None, split_files={"train": "rest", "val": "rest"})


def test_split_files_and_val_fraction(lists):
    files = {"train": "rest", "test": lists("test.txt", "River_0\n")}
    splits = plan(dataset(), None, split_files=files, val_fraction=0.25)
    assert {split: len(keys) for split, keys in splits.items()} == {"train": 74, "test": 1, "val": 25}
    assert sorted(key for keys in splits.values() for key in keys) == ALL


def test_unknown_patch_is_named(lists):
    file = lists("train.txt", "River_1\nRivers_2\nRiver_200\n")
    message = rf"^{file}: 2 of 3 patches are not in the data set, e\.g\. Rivers_2; its names look like River_0$"
    with pytest.raises(UserError, match=message):
        plan(dataset(), None, split_files={"train": file})


@pytest.mark.parametrize(
    ("train", "val", "message"),
    [
        ("River_1\nRiver_2\nRiver_1\n", "River_3\n", r"train\.txt: patch River_1 stands twice \(train and train\)"),
        ("River_1\nRiver_2\n", "River_3\nRiver_2.tif\n", r"val\.txt: patch River_2 stands twice \(train and val\)"),
    ],
)
def test_a_patch_has_one_split(lists, train, val, message):
    files = {"train": lists("train.txt", train), "val": lists("val.txt", val)}
    with pytest.raises(UserError, match=message):
        plan(dataset(), None, split_files=files)


def test_pickled_list_is_refused(tmp_path):
    (tmp_path / "train.pkl").write_bytes(pickle.dumps(["River_1", "River_2"]))
    with pytest.raises(UserError, match=r"train\.pkl: not a text file \(a pickled list\?\); --split_file wants one patch name"):
        plan(dataset(), None, split_files={"train": str(tmp_path / "train.pkl")})


@pytest.mark.parametrize(("name", "reason"), [("no.txt", "No such file or directory"), (".", "Is a directory")])
def test_unreadable_list_is_named(tmp_path, name, reason):
    with pytest.raises(UserError, match=rf"{reason}; --split_file wants text files"):
        plan(dataset(), None, split_files={"train": str(tmp_path / name)})


def test_unknown_split(lists):
    with pytest.raises(UserError, match="--split_file names split trian; the splits are train, val, test"):
        plan(dataset(), None, split_files={"trian": "rest"})


def test_official_lists_split_as_the_data_set_does(shared, tmp_path, monkeypatch):
    with zipfile.ZipFile(shared / "data" / "sen12ms" / "splits.zip") as archive:
        archive.extractall(tmp_path)
    listed = {split: (tmp_path / f"{split}_list.txt").read_text().split() for split in ("test", "val")}
    keys = {split: sorted(name.removesuffix(".tif") for name in names) for split, names in listed.items()}
    keys["train"] = ["ROIs1158_spring_s2_1_p30", "ROIs1970_fall_s2_2_p5"]
    monkeypatch.setattr(Sen12MS, "index", lambda self, root, split: keys[split])
    files = {"train": "rest", **{split: str(tmp_path / f"{split}_list.txt") for split in listed}}
    splits = plan(Sen12MS(), tmp_path, split_files=files)
    assert {split: sorted(part) for split, part in splits.items()} == keys
    with pytest.raises(UserError, match=r"val_list\.pkl: not a text file"):
        plan(Sen12MS(), tmp_path, split_files={"val": str(tmp_path / "val_list.pkl")})

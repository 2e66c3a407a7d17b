import json
import math
import re
from dataclasses import dataclass

import numpy as np
import pytest

from tfrecords_builder import quarantine
from tfrecords_builder.writer import write
from tfrs.datasets.base import Dataset
from tfrs.errors import BadPatch, UserError
from tfrs.schema import Field, Schema
from tfrs.sensors import sentinel2

PLANNED, ALLOWED = 1200, 12  # of the default of 1 %


@dataclass(frozen=True)
class Patches(Dataset):
    name = "small"
    sensors = (sentinel2(("B02",)),)
    layout = "nothing on disk"
    schema = Schema({"key": Field("text"), "s2": Field("raster", "uint16", (1, 8, 8))}, {})

    def index(self, root, split):
        raise NotImplementedError

    def synthesize(self, root, n, seed):
        raise NotImplementedError

    def read(self, root, key):
        with open(root / "read", "a") as log:
            log.write(f"{key}\n")
        if key in (root / "bad").read_text().split():
            number = int(key.split("_")[1])
            raise BadPatch(root / f"{key}.tif", f"{number} values are NaN" if number % 3 else f"{root}/{key}.tif is cut")
        return {"key": key, "s2": np.full((1, 8, 8), int(key.split("_")[1]), np.uint16)}


@pytest.fixture
def root(tmp_path):
    (tmp_path / "source").mkdir()
    return tmp_path / "source"


def bad(root, keys):
    (root / "bad").write_text(" ".join(keys))
    (root / "read").write_text("")


def reads(root):
    return len((root / "read").read_text().split())


def keys(first, last):
    return [f"p_{number}" for number in range(first, last)]


def build(root, planned=PLANNED, **options):
    """Shards of 40 patches."""
    shard_mb = 40 * 8 * 8 * 2 / 1e6
    return write(Patches(), root, root.parent / "out", {"train": keys(0, planned)}, **{"shard_mb": shard_mb, **options})


def contents(records):
    return {path.name: path.read_bytes() for path in records.directory.iterdir()}


@pytest.mark.parametrize(
    ("planned", "fraction", "allowed"),
    [
        (5, 0.01, 10),
        (1099, 0.01, 10),
        (1100, 0.01, 11),
        (180_662, 0.01, 1806),
        (100, 0.29, 29),  # 0.29 * 100 is 28.999...
        (100, 1, 100),
        (100, 0, 0),
    ],
)
def test_a_share_is_allowed_and_always_a_few(planned, fraction, allowed):
    assert quarantine.allowed(planned, fraction) == allowed


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("number", [ALLOWED, ALLOWED + 1])
def test_one_more_than_allowed_stops_the_build_wherever_they_are(root, number, workers):
    spread = [f"p_{i}" for i in range(40, PLANNED, PLANNED // number)][:number]
    bad(root, spread)
    if number == ALLOWED:
        assert build(root, workers=workers).manifest["quarantined"] == ALLOWED
        return
    for _ in range(2):  # nothing was mended
        with pytest.raises(UserError, match=r"stopped, 13 patches are bad, and --max_bad_fraction=0\.01 of 1200 allows 12"):
            build(root, workers=workers)
    assert not list(root.parent.rglob("manifest.json"))


def test_a_broken_source_is_noticed_early_and_the_reasons_are_told(root):
    bad(root, keys(0, PLANNED))
    with pytest.raises(UserError) as error:
        build(root)
    assert reads(root) == 40
    listed = root.parent / "out/small/1.0.0/.build/quarantine.jsonl"
    assert re.search(
        r"stopped, 40 patches are bad, .* allows 12: 26 x n values are NaN, e\.g\. p_1\.tif; 14 x the file is cut, e\.g\. "
        rf"p_0\.tif\. All are listed in {listed}\. Mend the source and run the same command again, ",
        str(error.value),
    )
    lines = [json.loads(line) for line in listed.read_text().splitlines()]
    assert [line["key"] for line in lines] == keys(0, 40)
    assert lines[0] == {"key": "p_0", "split": "train", "path": "p_0.tif", "reason": "p_0.tif is cut"}


def test_bad_patches_of_a_mended_source_are_read_anew(root):
    bad(root, [])
    sound = contents(build(root))
    bad(root, ["p_5", *keys(600, 680)])
    with pytest.raises(UserError, match="stopped, 41 patches are bad"):
        build(root, overwrite=True)
    assert reads(root) == 640
    bad(root, [])
    assert contents(build(root)) == sound
    # The shard of p_5, the one that stopped the build, and those after it.
    assert reads(root) == 40 + 40 + PLANNED - 640


def test_more_may_be_allowed_later_without_reading_again(root):
    bad(root, keys(600, 640))
    with pytest.raises(UserError, match="stopped, 40 patches are bad"):
        build(root)
    bad(root, keys(600, 640))
    records = build(root, max_bad_fraction=0.05)
    assert reads(root) == PLANNED - 640
    assert (records.count("train"), records.manifest["quarantined"]) == (PLANNED - 40, 40)
    bad(root, keys(600, 640))
    assert contents(build(root, overwrite=True, max_bad_fraction=1)) == contents(records)


def test_a_small_build_is_not_stopped_by_a_few(root):
    bad(root, ["p_1", "p_3"])
    with pytest.raises(UserError, match="stopped, 2 patches are bad, and --max_bad_fraction=0 of 4 allows 0"):
        build(root, 4, max_bad_fraction=0)
    assert build(root, 4).manifest["quarantined"] == 2


def test_the_last_stop_is_forgotten_by_what_came_after(root):
    folder = root.parent
    assert quarantine.retry_before(folder, 100, 0.01) == -math.inf
    quarantine.write(folder / "quarantine.jsonl", [{"key": str(i)} for i in range(11)])
    assert quarantine.retry_before(folder, 100, 0.01) == (folder / "quarantine.jsonl").stat().st_mtime
    assert quarantine.retry_before(folder, 100, 0.11) == -math.inf


def test_shards_under_way_when_a_build_stops_are_read_anew_too(root):
    """Two workers: while the first shard stops the build, the second goes on to its end."""
    bad(root, keys(0, 80))
    with pytest.raises(UserError, match="patches are bad"):
        build(root, workers=2)
    bad(root, [])
    assert build(root, workers=2).manifest["quarantined"] == 0

import json
import shutil

import google_crc32c
import numpy as np
import pytest

from tfrecords_builder import metadata
from tfrecords_builder.plan import plan
from tfrecords_builder.writer import write
from tfrs.datasets.eurosat import EuroSat
from tfrs.datasets.sen12ms import Sen12MS


@pytest.fixture(scope="module")
def built(eurosat_tree, tmp_path_factory):
    """Records of 40 patches, the keys by split, and the key of the one that is truncated."""
    root = shutil.copytree(eurosat_tree[0], tmp_path_factory.mktemp("data") / "eurosat")
    splits = plan(EuroSat(), root)
    bad = next(key for key in splits["train"] if key.startswith("River"))
    path = root / "EuroSAT_MS" / "River" / f"{bad}.tif"
    path.write_bytes(path.read_bytes()[:60_000])
    return write(EuroSat(), root, tmp_path_factory.mktemp("records"), splits, shard_mb=1), splits, bad


def test_counts_and_statistics_are_those_of_the_sources(built, eurosat_tree):
    records, splits, bad = built
    manifest = records.manifest
    classes = ["AnnualCrop", "Highway", "River", "SeaLake"]
    for split, keys in splits.items():
        kept = [key for key in keys if key != bad]
        stated = manifest["splits"][split]
        assert stated["records"] == len(kept) == sum(shard["records"] for shard in stated["shards"])
        for shard, path in zip(stated["shards"], records.shards(split), strict=True):
            data = path.read_bytes()
            assert (shard["name"], shard["bytes"], shard["crc32c"]) == (
                path.name,
                len(data),
                f"{google_crc32c.value(data):08x}",
            )
        counts = dict(zip(manifest["schema"]["schemes"]["eurosat"]["classes"], stated["classes"]["label"], strict=True))
        assert {name: count for name, count in counts.items() if count} == {
            name: sum(key.startswith(name) for key in kept) for name in classes
        }
    pixels = np.stack([eurosat_tree[1][key].data for key in splits["train"] if key != bad]).astype(np.float64)
    assert " ".join(manifest["statistics"]["s2"]) == "B01 B02 B03 B04 B05 B06 B07 B08 B09 B10 B11 B12 B8A"
    for row, values in zip(manifest["statistics"]["s2"].values(), pixels.transpose(1, 0, 2, 3), strict=True):
        assert (row["count"], row["min"], row["max"]) == (values.size, values.min(), values.max())
        np.testing.assert_allclose([row["mean"], row["std"]], [values.mean(), values.std()], rtol=1e-12)


def test_bad_patches_are_listed(built):
    records, _, bad = built
    (line,) = map(json.loads, (records.directory / "quarantine.jsonl").read_text().splitlines())
    assert line.pop("reason").startswith("cannot be read")
    assert line == {"key": bad, "split": "train", "path": f"EuroSAT_MS/River/{bad}.tif"}
    assert records.manifest["quarantined"] == 1


def test_statistics_of_several_sensors_and_labels(sen12ms_tree, tmp_path):
    root, sources = sen12ms_tree
    splits = plan(Sen12MS(), root)
    manifest = write(Sen12MS(), root, tmp_path, splits, shard_mb=3).manifest
    assert len(manifest["splits"]["train"]["shards"]) > 1
    for sensor, bands in {"s2": 13, "s1": 2}.items():
        pixels = np.stack([sources[key][sensor] for key in splits["train"]]).astype(np.float64)
        rows = list(manifest["statistics"][sensor].values())
        assert len(rows) == bands
        np.testing.assert_allclose([row["mean"] for row in rows], pixels.mean(axis=(0, 2, 3)), rtol=1e-12)
        np.testing.assert_allclose([row["std"] for row in rows], pixels.std(axis=(0, 2, 3)), rtol=1e-12)
    for split, keys in splits.items():
        igbp = np.stack([sources[key]["lc"][0].ravel() for key in keys])
        shares = np.array([[(cover == number).mean() for number in range(1, 18)] for cover in igbp])
        # Schmitt & Wu 2021, Table 2: the first IGBP class of each of the ten, and croplands from two.
        merged = np.add.reduceat(
            shares[:, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 12, 14, 15, 16]], [0, 5, 7, 9, 10, 11, 13, 14, 15, 16], 1
        )
        classes = manifest["splits"][split]["classes"]
        np.testing.assert_allclose(classes["fractions"], shares.mean(axis=0), rtol=1e-6)
        assert classes["labels"] == (merged > 0.1).sum(axis=0).tolist()
        assert classes["label"] == np.bincount(merged.argmax(axis=1), minlength=10).tolist()


def test_manifest_tells_what_was_asked_for(eurosat_tree, tmp_path):
    options, splits = {"seed": 3, "split_file": {"train": "rest"}}, {"train": ["River_1", "River_2"]}
    manifest = write(EuroSat(seed=3), eurosat_tree[0], tmp_path, splits, shard_mb=2, options=options).manifest
    spec = manifest["spec"]
    assert {name: spec[name] for name in ("seed", "shard_mb", "patches", "split_file")} == {
        **options,
        "shard_mb": 2,
        "patches": {"train": 2},
    }
    sensor = manifest["sensors"]["s2"]
    assert (sensor["name"], sensor["bands"][-1], sensor["dtype"], sensor["nodata"]) == ("s2", "B8A", "uint16", 0)


def test_a_file_is_whole_or_not_there(tmp_path):
    metadata.write_json(tmp_path / "a.json", {"a": 1})
    with pytest.raises(TypeError):
        metadata.write_json(tmp_path / "a.json", {"a": object()})
    with pytest.raises(UnicodeEncodeError):
        metadata.write_text(tmp_path / "a.json", "\ud800")
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]

"""Patches of records before and after augmentation: the figure, the text and the command."""

import subprocess
import sys

import numpy as np
import pytest
from small_records import write_records
from test_series import LENGTHS, SmallSeries

from tfrecords_builder.writer import write
from tfrs import contact_sheet, pipeline, plots, tasks
from tfrs.errors import UserError
from tfrs.labels import IGBP, IGBP_SIMPLIFIED

MAGENTA = (1, 0, 1)


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    return write_records(tmp_path_factory.mktemp("records"), train=12, val=3)


def shown(figure):
    """Title of a row -> its pictures."""
    rows, pictures = {}, []
    for axes in figure.axes:
        pictures = rows.setdefault(axes.get_ylabel(), []) if axes.get_ylabel() else pictures
        pictures.append(np.asarray(axes.images[0].get_array()))
    return {title: np.stack(pictures) for title, pictures in rows.items()}


def in_color(picture):
    return np.broadcast_to(picture[..., None], (*picture.shape, 3)) if picture.ndim == 3 else picture


def test_records_are_shown_with_labels_and_maps(records):
    numbers = contact_sheet.choose(records, "train", count=3, keys=[], seed=1)
    figure, text = contact_sheet.show(records, "train", numbers)
    samples = [records.sample("train", number) for number in numbers]
    rows = shown(figure)
    assert list(rows) == ["s2\nB04 B03 B02", "s1\nVV", "lc"]
    s2, s1 = (np.stack([sample[name][bands] for sample in samples]) for name, bands in (("s2", [3, 2, 1]), ("s1", [0])))
    np.testing.assert_allclose(rows["s2\nB04 B03 B02"], plots.displayable(s2))
    np.testing.assert_allclose(rows["s1\nVV"], in_color(plots.displayable(s1)))
    colors = np.array([list(bytes.fromhex(color)) for color in IGBP.colors])
    np.testing.assert_array_equal(rows["lc"], colors[np.stack([sample["lc"][0] for sample in samples]).astype(int) - 1])
    title, *lines = text.splitlines()
    assert title == "small, train" and len(lines) == 3
    for axes, line, sample in zip(figure.axes, lines, samples, strict=False):
        names = [IGBP_SIMPLIFIED.classes[i] for i in sample["labels"]]
        assert axes.get_title().split("\n") == [sample["key"], *names]
        share = sample["fractions"].max()
        assert line.startswith(
            f"{sample['key']}: label {IGBP_SIMPLIFIED.classes[sample['label']]}; labels {', '.join(names)}; "
        )
        assert f"fractions {IGBP.classes[sample['fractions'].argmax()]} {share:.1%}" in line


def test_what_is_shown_is_what_training_sees(records):
    """Same seed and epoch: each record as `pipeline.load` gives it, in the stretch of what it was before."""
    augment = ["dihedral", "rotate:40", "crop:12", "brightness:0.3", "noise:0.2"]
    figure, text = contact_sheet.show(records, "val", [0, 1, 2], inputs="s1s2", augment=augment, seed=3, epoch=5)
    assert "below: dihedral, rotate:40, crop:12, brightness:0.3, noise:0.2 (seed 3, epoch 5; magenta: no data)" in text
    rows = shown(figure)
    single = tasks.create("single_label", records.schema, threshold=0.1, inclusive=False, label_smoothing=0.0)
    options = {"inputs": "s1s2", "task": single, "batch_size": 3, "seed": 3}
    ((images, _, _),) = pipeline.load(records, "val", augment=augment, epoch=5, **options).as_numpy_iterator()
    ((plain, _, _),) = pipeline.load(records, "val", epoch=5, **options).as_numpy_iterator()
    stored = [record["s1"].tobytes() for record in records.samples("val")]
    order = np.argsort([stored.index(image.tobytes()) for image in plain["s1"]])
    for title, name, bands in (("s2\nB04 B03 B02", "s2", [2, 1, 0]), ("s1\nVV", "s1", [0])):
        before, after = (batch[name][order][:, bands] for batch in (plain, images))
        missing = (np.isnan(after) if name == "s1" else after == 0).any(axis=1)
        assert 0 < missing.mean() < 0.5
        expected = np.where(missing[..., None], MAGENTA, in_color(plots.displayable(after, before)))
        np.testing.assert_allclose(rows[f"augmented\n{title}"], expected, atol=1e-5)
    assert rows["augmented\nlc"].shape == (3, 12, 12, 3)
    no_class = (rows["augmented\nlc"] == 0).all(axis=-1)
    np.testing.assert_array_equal(no_class, (rows["augmented\ns1\nVV"] == MAGENTA).all(axis=-1))


@pytest.mark.parametrize(("spec", "rows"), [("mixup:1", 4), ("cutmix", 6)])
def test_mixed_labels_are_said(records, spec, rows):
    """Of maps there is no mean, so mixup is shown without."""
    figure, text = contact_sheet.show(records, "train", [4, 7], augment=[spec])
    assert len(shown(figure)) == rows
    samples = [records.sample("train", number) for number in (4, 7)]
    lines = [line for line in text.splitlines() if line.startswith("  ")]
    for line, own, other in zip(lines, samples, samples[::-1], strict=True):
        shares, *sums = line.strip().split("; ")
        share = int(shares.split("%")[0]) / 100
        assert shares.endswith(f" of {other['key']}")
        said = {name: float(value) for name, value in (part.rsplit(" ", 1) for part in sums)}
        weights = [share * np.isin(np.arange(10), own["labels"]) + (1 - share) * np.isin(np.arange(10), other["labels"])]
        expected = {IGBP_SIMPLIFIED.classes[i]: value for i, value in enumerate(weights[0]) if value}
        assert said == pytest.approx(expected, abs=0.011)
        assert any(line.strip().split("; ")[1] in axes.get_xlabel() for axes in figure.axes)


def test_series_show_one_date_of_each(tmp_path):
    series = write(SmallSeries(), tmp_path, tmp_path, {"train": [str(n) for n in range(7)]}, shard_mb=1)
    positions = range(7)
    (first, title), (random, _) = (contact_sheet.show(series, "train", positions, date=d, seed=2) for d in ("", "random"))
    assert title.startswith("small_series, train, first date")
    s2 = [series.sample("train", number)["s2"] for number in positions]
    np.testing.assert_allclose(
        shown(first)["s2\nB04 B03 B02"], plots.displayable(np.stack([image[0] for image in s2])[:, 2::-1])
    )
    single = tasks.create("", series.schema, threshold=0.1, inclusive=False, label_smoothing=0.0)
    load = {"inputs": "B02,B03,B04", "task": single, "batch_size": 7, "date": "random"}
    ((images, target, _),) = pipeline.load(series, "train", seed=2, **load).as_numpy_iterator()
    own = np.argsort(target)[[series.sample("train", number)["label"] for number in positions]]
    np.testing.assert_allclose(shown(random)["s2\nB04 B03 B02"], plots.displayable(images["s2"][own][:, ::-1]))
    assert len(LENGTHS) == 7


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "tran"}, r"unknown split .*'tran'\. Did you mean 'train'\?"),
        ({"keys": ["train_3", "val_1"]}, r"no record 'val_1' in split 'train'; keys are such as train_\d+"),
    ],
)
def test_records_that_are_not_there(records, options, message):
    with pytest.raises(UserError, match=message):
        contact_sheet.choose(records, **{"split": "train", "count": 2, "keys": [], "seed": 0, **options})


def test_records_are_drawn_or_named(records):
    drawn = [tuple(contact_sheet.choose(records, "train", count=5, keys=[], seed=seed)) for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2] and len(set(drawn[0])) == 5
    assert len(contact_sheet.choose(records, "train", count=99, keys=[], seed=0)) == 12
    numbers = contact_sheet.choose(records, "train", count=5, keys=["train_7", "train_2"], seed=0)
    assert [records.sample("train", number)["key"] for number in numbers] == ["train_7", "train_2"]


def test_the_command_draws_a_figure_without_tensorflow(records, tmp_path):
    script = (
        "import sys, runpy; sys.argv = ['show', *sys.argv[1:]]\n"
        "try: runpy.run_module('experiments.show', run_name='__main__')\n"
        "finally: print(sorted({'tensorflow', 'keras', 'rasterio'} & set(sys.modules)))"
    )
    flags = [f"--records={records.directory}", "--augment=rotate:30,cutmix", "--keys=train_1,train_5", "--input=irrg"]
    command = [sys.executable, "-c", script, *flags]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.stderr == "" and done.stdout.splitlines()[-2:] == ["patches.png", "[]"]
    assert (tmp_path / "patches.png").read_bytes().startswith(b"\x89PNG")
    wrong = [sys.executable, "-m", "experiments.show", f"--records={records.directory}", "--augment=rotat", "--output=x.png"]
    done = subprocess.run(wrong, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and done.stderr.startswith("error: unknown augmentation 'rotat'. Did you mean 'rotate'?")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["patches.png"]

import numpy as np
import pytest
from matplotlib.image import imread

from tfrecords_builder.plan import plan
from tfrecords_builder.show import class_counts, describe, draw_class_distribution, legends, summary
from tfrecords_builder.writer import write
from tfrs import geotiff, plots
from tfrs.datasets.sen12ms import Sen12MS
from tfrs.labels import EUROSAT

# Land cover per quarter of a patch, IGBP numbers. The first two are train, the third is val; there is no test patch.
PATCHES = {
    ("ROIs1158_spring", 1, 1): (12, 12, 12, 12),
    ("ROIs1158_spring", 1, 2): (12, 12, 14, 17),
    ("ROIs1868_summer", 26, 1): (1, 5, 6, 7),
    ("ROIs1868_summer", 26, 2): (1, 1, 1, 1),
}
NAN_IN_S1 = ("ROIs1868_summer", 26, 2)


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    root = tmp_path_factory.mktemp("sen12ms")
    for number, ((season, scene, patch), cover) in enumerate(PATCHES.items()):
        s2 = np.full((13, 256, 256), 1000 + 200 * number, np.uint16)
        s2[8, 0, :5] = 0  # nodata in B8A
        s1 = np.full((2, 256, 256), -12.5, np.float32)
        if (season, scene, patch) == NAN_IN_S1:
            s1[0, 0, :3] = np.nan
        lc = np.zeros((4, 256, 256), np.uint16)
        lc[0] = np.kron(np.reshape(cover, (2, 2)), np.ones((128, 128), int))
        for part, data in {"s2": s2, "s1": s1, "lc": lc}.items():
            folder = root / season / f"{part}_{scene}"
            folder.mkdir(parents=True, exist_ok=True)
            geotiff.write(folder / f"{season}_{part}_{scene}_p{patch}.tif", geotiff.Raster(data, "EPSG:32632"))
    dataset, out = Sen12MS(), tmp_path_factory.mktemp("records")
    return write(dataset, root, out, plan(dataset, root), options={"simulated": True})


def row(text, section, name):
    """The cells of the line that starts with `name` in a section."""
    lines = text.split(section)[1].split("\n\n")[0].splitlines()
    return next(line.split()[1:] for line in lines if line.split()[:1] == [name])


def test_class_counts_are_those_of_the_patches(records):
    forms = class_counts(records, "train", legends(records)[0])
    croplands, water = 5, 9
    assert {form: (shares[croplands], shares[water]) for form, (_, shares) in forms.items()} == {
        "dense": (pytest.approx(87.5), pytest.approx(12.5)),
        "single label": (100, 0),
        "multi label": (100, 50),
    }
    assert [counts[croplands] for counts, _ in forms.values()] == [pytest.approx(1.75), 2, 2]


def test_text_has_classes_side_by_side(records):
    text = describe(records)
    assert row(text, "Classes of train (igbp_simplified)", "Croplands") == ["87.50", "2", "100.00", "2", "100.00"]
    assert row(text, "Classes of train (igbp_simplified)", "Water") == ["12.50", "0", "0.00", "1", "50.00"]
    assert row(text, "Classes of train (igbp_simplified)", "sum") == ["100.00", "2", "100.00", "3", "150.00"]
    # Two of four quarters are forest, two shrubland: the mode is a tie, which the lower number takes.
    assert row(text, "Classes of val", "Forest") == ["50.00", "1", "100.00", "1", "100.00"]
    assert row(text, "Classes of val", "Shrubland") == ["50.00", "0", "0.00", "1", "100.00"]
    assert "Classes of test" not in text


def test_text_has_what_the_records_hold(records):
    text = describe(records)
    assert text.startswith("sen12ms 1.0.0 (simulated)\n")
    assert "simulated: yes" in text
    sensors = text.split("Sensors")[1].split("\n\n")[0].splitlines()
    assert sensors[1].split()[:2] == ["s2", "uint16"]
    assert sensors[1].endswith("B01 B02 B03 B04 B05 B06 B07 B08 B8A B09 B10 B11 B12")
    assert sensors[2].split() == ["s1", "float32", "decibel", "VV", "VH"]
    assert row(text, "Fields of a record", "s2") == ["raster", "uint16", "13x256x256"]
    assert row(text, "Fields of a record", "transform") == ["vector", "float64", "6"]
    assert row(text, "Fields of a record", "fractions") == ["fractions", "of", "17", "classes", "(igbp)"]
    assert row(text, "Splits", "train")[:2] == ["2", "1"]
    megabytes = 2 * 256 * 256 * (13 * 2 + 2 * 4 + 4 * 2) / 1e6
    assert float(row(text, "Splits", "train")[2]) == pytest.approx(megabytes, abs=0.06)
    assert "In quarantine: 1\n  1 x  n values are NaN or infinite" in text


def test_text_has_statistics_of_train(records):
    lines = describe(records).split("Bands of train")[1].split("\n\n")[0].splitlines()
    cells = {line.split()[1]: line.split()[2:] for line in lines[1:]}
    assert cells["B04"] == ["1100.00", "100.00", "1000.00", "1200.00", "0", "0"]
    assert cells["B8A"] == ["1100.00", "100.00", "1000.00", "1200.00", "0", "10"]
    assert cells["VV"] == ["-12.50", "0.00", "-12.50", "-12.50", "0", "0"]


def test_tables_are_aligned(records):
    for section in describe(records).split("\n\n"):
        if section.startswith(("Classes", "Splits", "Bands")):
            assert len({len(line) for line in section.splitlines()[1:]}) == 1


def test_summary_names_quarantine(records):
    lines = summary(records).splitlines()
    assert [line.split() for line in lines[:2]] == [["train", "2", "records"], ["val", "1", "records"]]
    assert "in quarantine: 1, see" in lines[2]
    assert lines[2].endswith("quarantine.jsonl")


def test_figure_lies_beside_the_records(records):
    path = draw_class_distribution(records)
    assert path == records.directory / "class_distribution.png"
    image = imread(path)
    assert image.shape[0] > 500
    assert image[..., :3].std() > 0.1
    assert not list(records.directory.glob("*.tmp"))


def test_bars_are_the_shares():
    rng = np.random.default_rng(0)
    panels = {split: {form: rng.random(10) for form in ("a", "b", "c")} for split in ("train", "test")}
    figure = plots.class_distribution(EUROSAT, panels, "title")
    for axis, forms in zip(figure.axes, panels.values(), strict=True):
        for bars, (form, shares) in zip(axis.containers, forms.items(), strict=False):
            assert bars.get_label() == form
            assert [bar.get_height() for bar in bars] == pytest.approx(shares)
    names = [label.get_text() for label in figure.axes[-1].get_xticklabels()]
    assert names == list(EUROSAT.classes)

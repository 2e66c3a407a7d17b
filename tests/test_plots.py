import io

import numpy as np
import pytest
from matplotlib.colors import to_hex

from tfrs import plots
from tfrs.labels import EUROSAT, IGBP_SIMPLIFIED

NAMES = list(EUROSAT.classes)


def texts(axes):
    return [text.get_text() for text in axes.texts if text.get_text()]


def labels(ticks):
    return [text.get_text() for text in ticks]


def png(figure):
    """Size of the picture that is written, from the file's header."""
    file = io.BytesIO()
    plots.save(figure, file)
    assert file.getvalue().startswith(b"\x89PNG\r\n\x1a\n")
    return tuple(np.frombuffer(file.getvalue()[16:24], ">u4"))


def test_confusion_is_in_per_cent_of_the_reference_class():
    matrix = np.zeros((10, 10))
    matrix[0, 0], matrix[0, 3], matrix[9, 9] = 3, 1, 7
    figure = plots.confusion(matrix, EUROSAT)
    axes = figure.axes[0]
    written = {(text.get_position(), text.get_text()) for text in axes.texts}
    assert written == {((0, 0), "75.0"), ((3, 0), "25.0"), ((9, 9), "100.0")}  # column, row
    assert labels(axes.get_xticklabels()) == NAMES
    assert labels(axes.get_yticklabels()) == [f"{n} ({c})" for n, c in zip(NAMES, [4, *[0] * 8, 7], strict=True)]
    assert png(figure)[0] > 500


def test_confusion_of_multi_labels_is_in_patches():
    matrix = np.zeros((10, 2, 2))
    matrix[:, 0, 0] = 20
    matrix[4] = [[9, 2], [1, 8]]  # TN FP, FN TP
    figure = plots.confusion(matrix, IGBP_SIMPLIFIED)
    axes = figure.axes[0]
    found, missed, wrong = (
        next(bar for bar in bars if bar.get_width()) for bars in axes.containers if hasattr(bars, "patches")
    )
    assert [(bar.get_x(), bar.get_width()) for bar in (found, missed, wrong)] == [(0, 8), (8, 1), (9, 2)]
    assert labels(axes.get_yticklabels()) == list(IGBP_SIMPLIFIED.classes)
    assert texts(axes) == ["8", "1", "2"]
    assert axes.get_xlabel() == "patches (of 20)"
    assert png(figure)[0] > 500


def test_bars_of_scores_have_the_legends_colours():
    per_class = {name: {"f1": i / 10} for i, name in enumerate(NAMES)} | {"River": {"f1": None}}
    figure = plots.class_scores(per_class, EUROSAT)
    (axes,) = figure.axes
    assert [to_hex(bar.get_facecolor()) for bar in axes.patches] == [f"#{color}" for color in EUROSAT.colors]
    heights = [bar.get_height() for bar in axes.patches]
    assert heights == pytest.approx([0, 10, 20, 30, 40, 50, 60, 70, 0, 90])
    assert texts(axes)[8] == "absent" and texts(axes)[9] == "90.0"
    assert labels(axes.get_xticklabels()) == NAMES
    assert png(figure)[0] > 500


def test_distribution_has_a_panel_per_split_and_a_bar_per_form_of_the_labels():
    shares = {"single": np.arange(10.0), "multi": np.arange(10.0)[::-1]}
    figure = plots.class_distribution(EUROSAT, {"train": shares, "test": shares}, "EuroSAT")
    first, second = figure.axes
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["train", "test"]
    for axes in figure.axes:
        single, multi = axes.containers[:2]
        assert [bar.get_height() for bar in single] == list(range(10))
        assert [bar.get_height() for bar in multi] == list(range(10))[::-1]
    strip = second.containers[2]
    assert [to_hex(bar.get_facecolor()) for bar in strip] == [f"#{color}" for color in EUROSAT.colors]
    assert len(first.containers) == 2 and png(figure)[0] > 500


def test_patches_are_labelled_green_where_right_and_red_where_wrong():
    images = {"s2 B04 B03 B02": np.zeros((3, 8, 8, 3)), "s1 VV": np.zeros((3, 8, 8))}
    figure = plots.patches(images, [["Forest", "Water"], [], ["Savanna"]], [["Forest", "Water"], ["Barren"], []])
    assert len(figure.axes) == 6
    lower = figure.axes[3:]
    assert [axes.get_xlabel().split("\n") for axes in lower] == [
        ["reference:", "Forest", "Water", "", "predicted:", "Forest", "Water"],
        ["reference:", "none", "", "predicted:", "Barren"],
        ["reference:", "Savanna", "", "predicted:", "none"],
    ]
    assert [axes.xaxis.label.get_color() for axes in lower] == ["#006400", "#8b0000", "#8b0000"]
    assert [figure.axes[0].get_ylabel(), figure.axes[3].get_ylabel()] == list(images)
    assert png(figure)[0] > 500


@pytest.mark.parametrize(("band", "color"), [(0, (1, 0, 0)), (1, (0, 1, 0)), (2, (0, 0, 1))])
def test_8_bit_colours_are_shown_as_they_are(band, color):
    image = np.zeros((2, 3, 4, 5), np.uint8)
    image[:, band] = 255
    shown = plots.displayable(image)
    assert shown.shape == (2, 4, 5, 3)
    np.testing.assert_array_equal(shown, np.broadcast_to(color, (2, 4, 5, 3)))
    np.testing.assert_allclose(plots.displayable(image // 5), shown / 5)


def test_digital_numbers_are_stretched_alike_over_all_patches():
    """2nd to 98th percentile of a band: a dark patch stays dark, and outliers are cut off."""
    image = np.zeros((2, 3, 10, 10), np.uint16)
    image[0] = 500
    image[1] = np.linspace(500, 1500, 100).reshape(10, 10)
    image[1, 0, 0, 0] = 60_000
    shown = plots.displayable(image)
    assert shown.min() == 0 and shown.max() == 1 and (shown[0] == 0).all()
    low, high = (np.percentile(image[:, 1].astype(float), q) for q in (2, 98))
    np.testing.assert_allclose(shown[1, ..., 1], np.clip((image[1, 1] - low) / (high - low), 0, 1), rtol=1e-5)


def test_one_band_and_missing_pixels():
    image = np.full((1, 2, 4, 4), -20.0, np.float32)
    image[0, 0, :2] = -5
    image[0, 0, 3, 3] = np.nan
    shown = plots.displayable(image)
    assert shown.shape == (1, 4, 4)
    assert (shown[0, :2] == 1).all() and (shown[0, 2:] == 0).all()


def test_constant_patches_are_no_division_by_zero():
    assert np.isin(plots.displayable(np.full((1, 3, 4, 4), 700, np.uint16)), (0, 1)).all()


def test_maps_are_drawn_in_the_colours_of_the_legend():
    """Two patches: reference with classes 0 and 9 and a pixel of no class, prediction with class 3."""
    reference = np.array([[[0, 9], [255, 9]]] * 2, np.uint8)
    images = {"s2": np.full((2, 2, 2, 3), 0.5), "reference": reference, "predicted": np.full((2, 2, 2), 3, np.uint8)}
    figure = plots.maps(images, IGBP_SIMPLIFIED)
    axes = figure.axes
    assert len(axes) == 6 and [axis.get_ylabel() for axis in axes[::2]] == ["s2", "reference", "predicted"]
    shown = axes[2].images[0].get_array()
    expected = [[list(bytes.fromhex(c)) for c in row] for row in (("009900", "1c0dff"), ("000000", "1c0dff"))]
    np.testing.assert_array_equal(shown, expected)
    (legend,) = figure.legends
    assert labels(legend.get_texts()) == ["Forest", "Grassland", "Water", "no class"]
    assert [to_hex(patch.get_facecolor()) for patch in legend.get_patches()] == ["#009900", "#b6ff05", "#1c0dff", "#000000"]
    assert png(figure)[0] > 200

"""Figures; the only file that imports matplotlib, by its objects: no state is shared and no display is needed."""

import textwrap
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from tfrs.labels import IGNORE, Scheme

# Okabe & Ito 2008: told apart with any colour vision.
FORM_COLORS = ("#0072b2", "#e69f00", "#009e73")


def class_distribution(legend: Scheme, panels: Mapping[str, Mapping[str, np.ndarray]], title: str) -> Figure:
    """Bars per class, one panel a split and one bar a form of the labels (Schmitt & Wu 2021, Fig. 2).

    Args:
        legend: The classes; a strip in the legend's colour stands above each name.
        panels: Per panel title, per form of the labels, percent per class.
    """
    figure = Figure(figsize=(1.6 + 0.8 * len(legend.classes), 1.6 + 1.7 * len(panels)), dpi=150, layout="constrained")
    figure.suptitle(f"Class distribution of {title}")
    axes = figure.subplots(len(panels), sharex=True, sharey=True, squeeze=False)[:, 0]
    positions = np.arange(len(legend.classes))
    for axis, (panel, forms) in zip(axes, panels.items(), strict=True):
        width = 0.8 / len(forms)
        for i, (form, shares) in enumerate(forms.items()):
            offset = (i - (len(forms) - 1) / 2) * width
            axis.bar(positions + offset, shares, width, label=form, color=FORM_COLORS[i])
        axis.set_title(panel, loc="left", fontsize="medium")
        axis.set_ylabel("%")
        axis.grid(axis="y", alpha=0.3)
        axis.set_axisbelow(True)
        axis.tick_params(axis="x", length=0)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(FORM_COLORS), frameon=False)
    last = axes[-1]
    strip = {"transform": last.get_xaxis_transform(), "clip_on": False, "edgecolor": "0.5", "linewidth": 0.5}
    last.bar(positions, 0.05, 0.8, bottom=-0.09, color=[f"#{color}" for color in legend.colors], **strip)
    last.set_xticks(positions, legend.classes, rotation=30, ha="right", rotation_mode="anchor")
    last.tick_params(axis="x", pad=14)
    return figure


def confusion(matrix: np.ndarray, legend: Scheme, title: str = "", unit: str = "patches") -> Figure:
    """A confusion matrix (K, K) in per cent of the reference class, or the 2x2 ones (K, 2, 2) of multi-labels as counts.

    Args:
        unit: What is counted, patches or pixels.
    """
    if matrix.ndim == 3:
        return _confusion_multi_label(matrix, legend, title)
    count = len(legend.classes)
    figure = Figure(figsize=(2 + 0.6 * count, 1.6 + 0.6 * count), dpi=150, layout="constrained")
    axes = figure.subplots()
    support = matrix.sum(axis=1, keepdims=True)
    share = 100 * np.divide(matrix, support, out=np.zeros(matrix.shape), where=support > 0)
    image = axes.imshow(share, cmap="Blues", vmin=0, vmax=100)
    for (row, column), value in np.ndenumerate(share):
        if matrix[row, column]:
            color = "white" if value > 50 else "black"
            axes.text(column, row, f"{value:.1f}", ha="center", va="center", color=color, fontsize=8)
    axes.set_xticks(range(count), legend.classes, rotation=45, ha="right")
    axes.set_yticks(range(count), [f"{name} ({int(n):,})" for name, n in zip(legend.classes, support[:, 0], strict=True)])
    axes.set_xlabel("predicted")
    axes.set_ylabel(f"reference (number of {unit})")
    axes.set_title(title)
    figure.colorbar(image, label="% of the reference class", shrink=0.8)
    return figure


def _confusion_multi_label(matrix: np.ndarray, legend: Scheme, title: str) -> Figure:
    (_, false_positive), (false_negative, true_positive) = matrix.transpose(1, 2, 0)
    count = len(legend.classes)
    figure = Figure(figsize=(8, 1.2 + 0.4 * count), dpi=150, layout="constrained")
    axes = figure.subplots()
    left = np.zeros(count)
    parts = {
        "right (TP)": (true_positive, FORM_COLORS[2]),
        "missed (FN)": (false_negative, FORM_COLORS[1]),
        "false alarm (FP)": (false_positive, "#d55e00"),
    }
    for label, (values, color) in parts.items():
        bars = axes.barh(range(count), values, left=left, color=color, label=label)
        axes.bar_label(bars, [int(v) if v else "" for v in values], label_type="center", fontsize=7)
        left += values
    axes.set_yticks(range(count), legend.classes)
    axes.invert_yaxis()
    axes.set_xlabel(f"patches (of {int(matrix[0].sum())})")
    axes.set_title(title)
    figure.legend(loc="outside lower center", ncols=len(parts))
    return figure


def class_scores(per_class: Mapping[str, Mapping[str, float | None]], legend: Scheme, title: str = "") -> Figure:
    """F1 per class in the legend's colours; absent classes keep their place without a bar."""
    figure = Figure(figsize=(1.6 + 0.7 * len(legend.classes), 3.6), dpi=150, layout="constrained")
    axes = figure.subplots()
    values = [per_class[name]["f1"] for name in legend.classes]
    colors = [f"#{color}" for color in legend.colors]
    bars = axes.bar(range(len(values)), [100 * (v or 0) for v in values], color=colors, edgecolor="0.3", linewidth=0.5)
    axes.bar_label(bars, ["absent" if v is None else f"{100 * v:.1f}" for v in values], fontsize=8, padding=2)
    axes.set_xticks(range(len(values)), legend.classes, rotation=30, ha="right")
    axes.set_ylim(0, 110)
    axes.set_ylabel("F1 in %")
    axes.set_title(title)
    return figure


def patches(images: Mapping[str, np.ndarray], true: list[list[str]], predicted: list[list[str]]) -> Figure:
    """Patches with their labels, one column a patch and one row a sensor (Schmitt & Wu 2021, Fig. 3).

    Args:
        images: Per title of a row, displayable images (N, H, W) or (N, H, W, 3) in 0..1.
        true: Names of the reference classes of each patch.
        predicted: Names of the predicted classes; labels that agree are green, others red.
    """
    captions = [
        "\n".join(["reference:", *(names or ["none"]), "", "predicted:", *(guesses or ["none"])])
        for names, guesses in zip(true, predicted, strict=True)
    ]
    figure, grid = _sheet(images, texts=[captions])
    for axes, caption, names, guesses in zip(grid[-1], captions, true, predicted, strict=True):
        axes.set_xlabel(caption, fontsize=8, color="#006400" if names == guesses else "#8b0000")
    return figure


def maps(images: Mapping[str, np.ndarray], legend: Scheme, title: str = "") -> Figure:
    """Patches with their maps, one column a patch and one row an image or map (Wenger et al. 2022, Fig. 6).

    Args:
        images: As of `patches`, or class ids (N, H, W) in uint8.
        legend: The classes; those that occur are listed below with their colours, pixels of no class are black.
    """
    figure, _ = _sheet(images, {name: legend for name, row in images.items() if row.dtype == np.uint8})
    figure.suptitle(title)
    return figure


def records(
    images: Mapping[str, np.ndarray], schemes: Mapping[str, Scheme], titles: list[str], captions: list[str], title: str
) -> Figure:
    """Patches of records, one column a patch, with a text above and one below each, and the classes of maps.

    Args:
        images: As of `maps`.
        schemes: Classes of the rows that are maps.
    """
    figure, grid = _sheet(images, schemes, [titles, captions])
    figure.suptitle(title, fontsize=10)
    for top, bottom, above, below in zip(grid[0], grid[-1], titles, captions, strict=True):
        top.set_title(above, fontsize=7)
        bottom.set_xlabel(below, fontsize=7)
    return figure


def scene(image: np.ndarray, ids: np.ndarray, legend: Scheme, shares: np.ndarray, title: str, pixel: float | None) -> Figure:
    """A scene beside its map, with the share of each class, largest first, and a scale bar.

    Args:
        image: Displayable (H', W', 3) or (H', W') in 0..1; of the same ground as the map, in other pixels maybe.
        ids: Class ids (H, W) in uint8, `IGNORE` where there are no data.
        shares: Of each class (classes,).
        pixel: Metres of a pixel of the map; None where it has no place.
    """
    height, width = ids.shape
    figure = Figure(figsize=(10.4, 1.2 + 5 * min(max(height / width, 0.4), 2)), dpi=110, layout="constrained")
    left, right = figure.subplots(1, 2)
    for axes, shown in ((left, image), (right, legend.palette()[ids])):
        axes.imshow(shown, cmap="gray", vmin=0, vmax=1, interpolation="nearest", extent=(0, width, height, 0))
        axes.set_xticks([])
        axes.set_yticks([])
    figure.suptitle(title)
    if pixel:
        _scale_bar(right, width, pixel)
    order = [i for i in np.argsort(-shares, kind="stable").tolist() if shares[i]]
    labels = [f"{legend.classes[i]} {100 * shares[i]:.1f} %" for i in order]
    handles = [
        Patch(facecolor=f"#{legend.colors[i]}", edgecolor="0.3", linewidth=0.5, label=label)
        for i, label in zip(order, labels, strict=True)
    ]
    handles += [Patch(facecolor="black", label="no data")] if (ids == IGNORE).any() else []
    figure.legend(handles=handles, loc="outside lower center", ncols=min(4, len(handles)), frameon=False)
    return figure


def _scale_bar(axes, width: int, pixel: float) -> None:
    """A bar of 1, 2 or 5 times a power of ten metres, about a quarter of the picture long."""
    most = width * pixel / 4
    length = max(step * 10.0**power for power in range(-2, 8) for step in (1, 2, 5) if step * 10.0**power <= most)
    text = f"{length / 1000:g} km" if length >= 1000 else f"{length:g} m"
    place = {"transform": axes.get_xaxis_transform(), "clip_on": False}
    axes.plot([width - length / pixel, width], [-0.025, -0.025], color="black", linewidth=3, solid_capstyle="butt", **place)
    axes.text(width - length / pixel / 2, -0.04, text, ha="center", va="top", fontsize=9, **place)


def _sheet(
    images: Mapping[str, np.ndarray],
    schemes: Mapping[str, Scheme] = MappingProxyType({}),
    texts: Sequence[Sequence[str]] = (),
) -> tuple[Figure, np.ndarray]:
    """A figure and its axes (rows, patches): images, and maps with a legend of the classes that occur.

    Args:
        texts: Texts of each patch that there is to be place for.
    """
    count = len(next(iter(images.values())))
    width = max(0.6 + 2 * count, 5)
    figure = Figure(figsize=(width, 1), dpi=110, layout="constrained")
    grid = figure.subplots(len(images), count, squeeze=False)
    seen: dict[Scheme, set[int]] = {}
    for row, (name, row_images) in zip(grid, images.items(), strict=True):
        scheme = schemes.get(name)
        for axes, image in zip(row, row_images, strict=True):
            axes.imshow(scheme.palette()[image] if scheme else image, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            axes.set_xticks([])
            axes.set_yticks([])
        row[0].set_ylabel(name)
        if scheme:
            seen.setdefault(scheme, set()).update(np.unique(row_images).tolist())
    entries = [(s.classes[i], f"#{s.colors[i]}") for s, ids in seen.items() for i in sorted(ids) if i < len(s.classes)]
    entries += [("no class", "black")] if any(IGNORE in ids for ids in seen.values()) else []
    names = [textwrap.shorten(name, 40, placeholder=" ...") for name, _ in entries]
    columns = max(1, int(width / (0.6 + 0.08 * max(map(len, names), default=1))))  # inches of a handle and of a letter
    if entries:
        colors = [color for _, color in entries]
        handles = [
            Patch(facecolor=c, edgecolor="0.3", linewidth=0.5, label=name) for c, name in zip(colors, names, strict=True)
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), columns), frameon=False)
    lines = sum(1 + max(text.count("\n") for text in row) for row in texts)
    figure.set_figheight(0.8 + 2 * len(images) + 0.22 * -(-len(entries) // columns) + 0.14 * lines)
    return figure, grid


def displayable(image: np.ndarray, like: np.ndarray | None = None) -> np.ndarray:
    """Images (N, C, H, W) as (N, H, W, 3) or, with fewer than three bands, (N, H, W), in 0..1.

    8-bit values are shown as they are, others from the 2nd to the 98th percentile of each band over all images: a stretch
    of its own would show the noise of a dark patch as colours.

    Args:
        like: Images whose percentiles are taken, where `image` is to be compared with them.
    """
    bands = 3 if image.shape[1] >= 3 else 1
    shown = np.moveaxis(image[:, :bands], 1, -1)
    if image.dtype == np.uint8:
        stretched = shown / 255
    else:
        low, high = np.nanpercentile((image if like is None else like)[:, :bands], (2, 98), axis=(0, 2, 3))
        stretched = np.clip(np.nan_to_num((shown - low) / np.maximum(high - low, 1e-6)), 0, 1)
    return stretched if bands == 3 else stretched[..., 0]


def save(figure: Figure, file) -> None:
    """Write a figure as PNG, without empty margins."""
    figure.savefig(file, format="png", bbox_inches="tight")

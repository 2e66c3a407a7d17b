"""Windows over a scene against the whole scene at once, by NumPy."""

import threading
import time

import numpy as np
import pytest
from scipy.ndimage import uniform_filter

from tfrs.scene_windows import ahead, blended, blocks, coarse, predict, strips

RNG = np.random.default_rng(0)


def known_scene(height, width):
    return RNG.integers(1, 5000, (3, height, width)).astype(np.uint16), RNG.random((height, width)) > 0.2


def reader(image, known, log=None):
    def read(top, left, height, width):
        assert min(top, left) >= 0 and top + height <= known.shape[0] and left + width <= known.shape[1]
        if log is not None:
            log.append((top, height))
        part = slice(top, top + height), slice(left, left + width)
        return {"s2": image[:, *part]}, known[part]

    return read


def per_pixel(images):
    image = images["s2"].astype(np.float32)
    return np.stack([image[:, 0] / (1 + image[:, 1]), image.sum(axis=1)], axis=1)


def mapped(model, channels, read, rows, columns, batch, most=1000):
    """The parts of a map in blocks of up to `most` windows side by side."""
    parts = blocks(columns, most)
    source = (strip for part in parts for strip in strips(read, rows, part))
    return [found for part in parts for found in predict(model, channels, source, rows, part, batch)]


def whole(parts, name="values"):
    """What parts hold, put together; fails where there is a gap."""
    pieces = [(part.top, part.left, getattr(part, name)) for part in parts]
    size = [max(corner[i] + piece.shape[i - 2] for *corner, piece in pieces) for i in (0, 1)]
    found, seen = np.zeros((*pieces[0][2].shape[:-2], *size)), np.zeros(size, int)
    for top, left, piece in pieces:
        place = slice(top, top + piece.shape[-2]), slice(left, left + piece.shape[-1])
        found[..., *place] = piece
        seen[place] += 1
    assert (seen == 1).all()
    return found


@pytest.mark.parametrize("most", [1, 2, 1000])
@pytest.mark.parametrize("size", [(50, 70), (7, 9), (64, 64), (130, 33)])
@pytest.mark.parametrize(
    ("window", "overlap", "fixed"),
    [(16, 8, False), (16, 4, False), (20, 0, False), (64, 32, True), (300, 150, False), (80, 7, True)],
)
def test_per_pixel_model_does_not_know_of_windows(size, window, overlap, fixed, most):
    image, known = known_scene(*size)
    rows, columns = (blended(pixels, window, overlap, fixed) for pixels in size)
    log = []
    parts = mapped(per_pixel, 2, reader(image, known, log), rows, columns, 3, most)
    values, (expected,) = whole(parts), per_pixel({"s2": image[None]})
    np.testing.assert_allclose(values[:, known], expected[:, known], rtol=2e-6)
    np.testing.assert_array_equal(whole(parts, "known"), known)
    for part in parts:
        place = slice(part.top, part.top + part.known.shape[0]), slice(part.left, part.left + part.known.shape[1])
        np.testing.assert_array_equal(part.images["s2"], image[:, *place])
    assert sum(height for _, height in log) == size[0] * len(blocks(columns, most)), "a block reads every row once"


@pytest.mark.parametrize("window", [16, 20, 31])
@pytest.mark.parametrize("overlap", [0, 4, 7])
@pytest.mark.parametrize("size", [(40, 45), (46, 47), (49, 61)])
def test_a_model_of_small_windows_does_not_know_of_large_ones(size, window, overlap):
    """Means of 5x5 pixels, each call mirroring its edges, against SciPy's of the whole scene."""
    image, _ = known_scene(*size)

    def means(images):
        return uniform_filter(images["s2"].astype(np.float64), (0, 0, 5, 5), mode="reflect")

    axes = [blended(pixels, window, overlap, margin=2) for pixels in size]
    values = whole(mapped(means, 3, reader(image, np.ones(size, bool)), *axes, 4))
    np.testing.assert_allclose(values, uniform_filter(image.astype(np.float64), (0, 5, 5), mode="reflect"), rtol=1e-5)


def test_windows_are_blended_by_hann():
    """A model that answers with the number of its window, against the textbook's weights sin^2(pi (i + 1/2) / n)."""
    calls = iter(range(100))
    rows, columns = blended(16, 16, 8), blended(32, 16, 8)
    assert columns.starts == (0, 8, 16)
    image, known = np.ones((1, 16, 32), np.uint16), np.ones((16, 32), bool)

    def numbered(images):
        return np.full((1, 1, 16, 16), next(calls), np.float32)

    values = whole(mapped(numbered, 1, reader(image, known), rows, columns, 1))
    hann = np.sin(np.pi * (np.arange(16) + 0.5) / 16) ** 2
    weights = np.zeros((3, 32))
    for number, start in enumerate(columns.starts):
        weights[number, start : start + 16] = hann
    expected = (weights * np.arange(3)[:, None]).sum(axis=0) / weights.sum(axis=0)
    np.testing.assert_allclose(values[0], np.broadcast_to(expected, (16, 32)), rtol=1e-5)


@pytest.mark.parametrize("size", [(50, 70), (7, 9), (64, 48)])
@pytest.mark.parametrize(("patch", "stride"), [(16, 16), (16, 8), (16, 5), (9, 1), (64, 64)])
@pytest.mark.parametrize("most", [3, 1000])
def test_patches_around_each_cell_mirrored_at_the_edges(size, patch, stride, most):
    image, _ = known_scene(*size)
    rows, columns = (coarse(pixels, patch, stride) for pixels in size)

    def means(images):
        return images["s2"].astype(np.float64).mean(axis=(2, 3))[:, :, None, None]

    values = whole(mapped(means, 3, reader(image, np.ones(size, bool)), rows, columns, 4, most))
    margin = 3 * patch
    padded = np.pad(image, ((0, 0), (margin, margin), (margin, margin)), mode="symmetric")
    assert values.shape == (3, -(-size[0] // stride), -(-size[1] // stride))
    for row, column in np.ndindex(values.shape[1:]):
        top, left = (margin + i * stride - (patch - stride) // 2 for i in (row, column))
        expected = padded[:, top : top + patch, left : left + patch].mean(axis=(1, 2))
        np.testing.assert_allclose(values[:, row, column], expected, rtol=1e-5)


def test_cells_need_data_in_half_of_their_pixels():
    known = np.zeros((8, 16), bool)
    known[:4, :4] = known[:2, 4:8] = known[:1, 8:12] = True  # all, half, a quarter, none of the cells above
    axes = [coarse(pixels, 4, 4) for pixels in known.shape]
    parts = mapped(lambda i: np.zeros((len(i["s2"]), 1, 1, 1)), 1, reader(known[None], known), *axes, 9)
    np.testing.assert_array_equal(whole(parts, "known"), [[True, True, False, False], [False] * 4])


def test_windows_without_data_are_not_computed():
    image, known = known_scene(32, 64)
    known[:] = False
    known[20, 40] = True
    axes = [blended(pixels, 16, 0) for pixels in (32, 64)]
    seen = []

    def model(images):
        seen.append(len(images["s2"]))
        return per_pixel(images)

    parts = mapped(model, 2, reader(image, known), *axes, 8)
    assert seen == [1] and whole(parts, "known").sum() == 1
    np.testing.assert_allclose(whole(parts)[1, 20, 40], image[:, 20, 40].sum())


def test_ahead_gives_the_same_items_and_errors():
    assert list(ahead((i for i in range(50)), 3)) == list(range(50))

    def broken():
        yield 1
        raise KeyError("of the thread")

    items = ahead(broken())
    assert next(items) == 1
    with pytest.raises(KeyError, match="of the thread"):
        next(items)


def test_ahead_stops_with_its_consumer():
    closed = threading.Event()

    def endless():
        try:
            while True:
                yield 0
                time.sleep(0.001)
        finally:
            closed.set()

    items = ahead(endless())
    next(items)
    items.close()
    assert closed.is_set()

import numpy as np
import pytest

from tfrs import spatial


def grid(columns, rows, pitch):
    return pitch * np.stack(np.meshgrid(np.arange(columns), np.arange(rows)), -1).reshape(-1, 2).astype(float)


def test_draw_takes_a_share_of_what_is_available():
    available = np.arange(200) % 2 == 0
    chosen = spatial.draw(np.random.default_rng(1), available, 0.2)
    assert chosen.sum() == 20
    assert not (chosen & ~available).any()
    assert (chosen == spatial.draw(np.random.default_rng(1), available, 0.2)).all()
    assert (chosen != spatial.draw(np.random.default_rng(2), available, 0.2)).any()


@pytest.mark.parametrize("seed", range(5))
def test_blocks_are_whole_and_of_about_the_share(seed):
    centers = grid(80, 80, spatial.BLOCK / 8) + 1
    available = np.ones(len(centers), bool)
    chosen = spatial.draw_blocks(np.random.default_rng(seed), available, 0.2, centers)
    blocks = chosen.reshape(10, 8, 10, 8).sum((1, 3))
    assert set(np.unique(blocks)) == {0, 64}
    assert chosen.mean() == pytest.approx(0.2, abs=0.01)


def test_blocks_take_only_what_is_available():
    centers = grid(80, 80, spatial.BLOCK / 8) + 1
    available = np.random.default_rng(0).random(len(centers)) < 0.5
    chosen = spatial.draw_blocks(np.random.default_rng(0), available, 0.3, centers)
    assert not (chosen & ~available).any()
    assert chosen.sum() / available.sum() == pytest.approx(0.3, abs=0.02)


def test_near_is_a_circle():
    centers = grid(5, 5, 10.0)
    chosen = np.zeros(25, bool)
    chosen[12] = True
    expected = np.array([[0, 0, 0, 0, 0], [0, 0, 1, 0, 0], [0, 1, 1, 1, 0], [0, 0, 1, 0, 0], [0, 0, 0, 0, 0]], bool)
    assert (spatial.near(centers, chosen, 10.0).reshape(5, 5) == expected).all()
    assert spatial.near(centers, chosen, 14.2).sum() == 9

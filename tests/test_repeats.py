import csv

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from tfrs.repeats import rows, spread, to_csv, to_markdown

RUNS = [
    ({"input": "s1"}, {"average_f1": 0.5, "kappa": 0.1}),
    ({"input": "s2"}, {"average_f1": 0.75, "kappa": 0.25}),
    ({"input": "s1"}, {"average_f1": 0.7, "kappa": 0.3}),
]


@given(st.lists(st.floats(0, 1), min_size=2, max_size=10))
def test_spread_is_that_of_numpy(values):
    found = spread(values)
    assert found.mean == pytest.approx(np.mean(values))
    assert found.std == pytest.approx(np.std(values, ddof=1), abs=1e-12)
    assert (found.min, found.max) == (np.min(values), np.max(values))
    assert found.min - 1e-9 <= found.low <= found.mean + 1e-9 and found.mean - 1e-9 <= found.high <= found.max + 1e-9


def test_interval_is_that_of_scipys_bootstrap():
    values = [0.61, 0.65, 0.70, 0.58, 0.66, 0.71, 0.63, 0.69]
    expected = scipy.stats.bootstrap((values,), np.mean, n_resamples=10_000, method="percentile", rng=1).confidence_interval
    assert (spread(values).low, spread(values).high) == pytest.approx((expected.low, expected.high), abs=2e-3)


def test_one_run_has_no_deviation():
    assert vars(spread([0.5])) == {"mean": 0.5, "std": None, "low": None, "high": None, "min": 0.5, "max": 0.5}


def test_repetitions_are_one_row():
    s1, s2 = rows(RUNS)
    assert (s1.settings, s1.runs, s2.settings, s2.runs) == ({"input": "s1"}, 2, {"input": "s2"}, 1)
    assert s1.scores["average_f1"].mean == pytest.approx(0.6)
    assert s2.scores["kappa"].mean == 0.25


def test_tables():
    lines = to_markdown(rows(RUNS)).splitlines()
    assert lines[0] == "| input | Runs | Average F1 | Kappa |"
    assert lines[2] == "| s1 | 2 | 60.0 ± 14.1 (50.0 to 70.0) | 20.0 ± 14.1 (10.0 to 30.0) |"
    assert lines[3] == "| s2 | 1 | 75.0 | 25.0 |"
    first, second = csv.DictReader(to_csv(rows(RUNS)).splitlines())
    assert float(first["average_f1_mean"]) == pytest.approx(0.6) and float(first["kappa_max"]) == 0.3
    assert (second["input"], second["runs"], second["average_f1_std"]) == ("s2", "1", "")

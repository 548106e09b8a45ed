from types import SimpleNamespace

import numpy as np
import pytest

from skode.timeseries import duration
from skode.timeseries.duration import FEW_ROWS, SHARE_TRIED, seconds_for, some_rows
from tests.timeseries.test_panel import panel_of


def panel(n_series, n_rows, seed=0, unobserved=0.0):
    """Series of so many rows each, a share of which only tells covariates."""
    y = np.arange(n_series * n_rows, dtype=float)
    y[np.random.default_rng(seed).random(len(y)) < unobserved] = np.nan
    return panel_of(np.repeat(np.arange(n_series), n_rows), np.tile(np.arange(n_rows), n_series), y)


@pytest.fixture
def work(monkeypatch):
    """Work that takes a second for each row, and the panels that it was done on."""
    clock, seen = SimpleNamespace(seconds=0.0), []
    monkeypatch.setattr(duration, "time", SimpleNamespace(perf_counter=lambda: clock.seconds))

    def done(part):
        clock.seconds += len(part.time)
        seen.append(part)

    return SimpleNamespace(done=done, seen=seen)


@pytest.mark.parametrize("unobserved", [0.0, 0.5])
@pytest.mark.parametrize(("n_series", "n_rows"), [(4, 20), (1000, 20), (1, 5000), (3, 2000), (400, 1)])
def test_seconds_in_proportion_to_the_rows_are_found(n_series, n_rows, unobserved, work):
    whole = panel(n_series, n_rows, unobserved=unobserved)
    n_observed = (~np.isnan(whole.y)).sum()
    assert seconds_for(whole, work.done) == pytest.approx(n_observed)
    (part,) = work.seen
    assert len(part.time) <= max(1.1 * SHARE_TRIED * n_rows * n_series, 1.1 * FEW_ROWS)


def test_of_many_series_some_are_whole_and_of_few_all_begin():
    many, few = some_rows(panel(1000, 20)), some_rows(panel(2, 5000)).observed()
    assert many.n_series == 100
    assert (np.bincount(many.codes) == 20).all()
    assert few.n_series == 2
    assert np.bincount(few.codes).tolist() == [500, 500]
    assert few.time.max() == 499


def test_a_small_panel_is_tried_whole():
    small = panel(3, 20)
    assert some_rows(small) is small


def test_a_panel_without_observations_takes_no_time(work):
    assert seconds_for(panel(2, 5, unobserved=1.0), work.done) == 0.0

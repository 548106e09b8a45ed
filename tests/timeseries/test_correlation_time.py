"""How fast series change, from cycles, trends and noise whose answer is known."""

import math

import numpy as np
import pytest

from skode.timeseries.correlation_time import correlation_time
from skode.timeseries.panel import Panel


def panel_of(signal, *, n_series=60, n_rows=40, noise=0.0, seen=1.0, regular=False, seed=0):
    """Series over a span of 10, of a function of times and of random phases, in as many outputs as it gives."""
    rng = np.random.default_rng(seed)
    time = np.sort(rng.uniform(0.0, 10.0, (n_series, n_rows)), axis=1)
    if regular:
        time[:] = np.linspace(0.0, 10.0, n_rows)
    y = np.asarray(signal(time, rng.uniform(0.0, 2.0 * np.pi, (n_series, 1))), dtype=float)
    y = y.reshape(len(y), -1).T if y.ndim == 3 else y.reshape(-1, 1)
    y = y + noise * rng.standard_normal(y.shape)
    y[rng.random(y.shape) > seen] = np.nan
    return Panel.of(np.repeat(np.arange(n_series), n_rows), time.ravel(), np.zeros((y.shape[0], 0)), y)


@pytest.mark.parametrize("cycles", [1.5, 4.0, 12.0])
@pytest.mark.parametrize("how", [{}, {"noise": 0.4}, {"noise": 0.2, "seen": 0.3}, {"regular": True, "n_rows": 100}])
def test_that_of_a_cycle_is_a_quarter_of_its_period(cycles, how):
    omega = 2.0 * np.pi * cycles / 10.0
    panel = panel_of(lambda t, phase: math.sqrt(2.0) * np.sin(omega * t + phase), **how)
    assert correlation_time(panel, 10.0) == pytest.approx(0.5 * math.pi / omega, rel=0.2)


def test_levels_of_series_are_no_change():
    omega = 2.0
    panel = panel_of(lambda t, phase: 30.0 * phase + np.sin(omega * t + phase))
    assert correlation_time(panel, 10.0) == pytest.approx(0.5 * math.pi / omega, rel=0.2)


def test_a_trend_takes_a_large_part_of_the_span():
    assert 3.0 < correlation_time(panel_of(lambda t, phase: phase * t), 10.0) < 5.0


def test_noise_constants_and_a_few_values_have_none():
    assert correlation_time(panel_of(lambda t, _: 0.0 * t, noise=1.0), 10.0) == math.inf
    assert correlation_time(panel_of(lambda t, phase: phase + 0.0 * t), 10.0) == math.inf
    assert correlation_time(panel_of(lambda t, phase: np.sin(t + phase), n_series=2, n_rows=4), 10.0) == math.inf
    assert correlation_time(panel_of(lambda t, phase: np.sin(t + phase), n_series=5, n_rows=1), 10.0) == math.inf


def test_outputs_of_noise_do_not_count():
    omega, rng = 3.0, np.random.default_rng(1)

    def signal(t, phase):
        return np.stack([np.sin(omega * t + phase), rng.standard_normal(t.shape), np.cos(omega * t + phase)])

    panel = panel_of(lambda t, phase: signal(t, phase).reshape(3, 1, -1))
    assert correlation_time(panel, 10.0) == pytest.approx(0.5 * math.pi / omega, rel=0.2)


def test_of_many_values_some_are_looked_at(monkeypatch):
    monkeypatch.setattr("skode.timeseries.correlation_time.MOST_VALUES", 2000)
    omega = 2.0
    panel = panel_of(lambda t, phase: np.sin(omega * t + phase), n_series=100, n_rows=60)
    assert correlation_time(panel, 10.0) == pytest.approx(0.5 * math.pi / omega, rel=0.2)
    one = panel_of(lambda t, phase: np.sin(omega * t + phase), n_series=1, n_rows=6000)
    assert correlation_time(one, 10.0) == pytest.approx(0.5 * math.pi / omega, rel=0.4)

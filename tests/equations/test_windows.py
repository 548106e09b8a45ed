"""Growing windows: which observations they have, and a relaxation oscillation that plain starts do not find."""

import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.exceptions import ConvergenceWarning

from skode import ODERegressor
from skode.equations import fitting
from skode.equations.windows import grown, window
from tests.equations.systems import solved


def oscillator(t, y, p):
    x, v = y.unbind(-1)
    return torch.stack([v, p["mu"] * (1.0 - x**2) * v - x], dim=-1)


def observed(mu, n, end, seed=0):
    rng = np.random.default_rng(seed)
    t = np.concatenate([[0.0], np.sort(rng.uniform(0.0, end, n))])
    x = solved(oscillator, {"mu": mu}, [2.0, 0.0], t, "Radau")[:, :1]
    return t[:, None], x + 0.05 * x.std() * rng.normal(size=x.shape)


ARGUMENTS = {"states": ["x", "v"], "observe": "x", "initial": [2.0, 0.0], "rtol": 1e-4, "atol": 1e-6}


def test_a_relaxation_oscillation_is_found_from_far_off(monkeypatch):
    """Stiff enough to turn suddenly, not so stiff that the explicit method would take long."""
    monkeypatch.setattr(fitting, "_turns_suddenly", lambda task: True)
    X, y = observed(10.0, 25, 16.0)
    settings = {"method": "dopri5", "n_restarts": 0, **ARGUMENTS}
    model = ODERegressor(oscillator, {"mu": (25.0, 0, None)}, **settings).fit(X, y)
    estimate, error = model.summary().loc["mu", ["estimate", "std_error"]]
    assert abs(estimate - 10.0) < 4.0 * error
    assert error < 0.5
    assert model.converged_


def test_windows_are_for_implicit_methods_and_states_that_were_not_observed(monkeypatch):
    found = []
    monkeypatch.setattr(fitting, "_by_windows", lambda *args: found.append(1) or [])
    X, y = observed(3.0, 20, 6.0)
    both = np.column_stack([y, y])
    for method, own, data in (("dopri5", "x", y), ("kvaerno5", ["x", "v"], both), ("kvaerno5", "x", y)):
        arguments = {**ARGUMENTS, "observe": own, "method": method, "n_restarts": 0, "max_iter": 1}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ODERegressor(oscillator, {"mu": (3.0, 0, None)}, **arguments).fit(X, data)
        assert len(found) == (data is y and method == "kvaerno5")


def test_a_time_limit_in_a_window_keeps_the_best_so_far():
    X, y = observed(3.0, 20, 6.0)
    with pytest.warns(ConvergenceWarning, match="ended by max_time"):
        model = ODERegressor(oscillator, {"mu": (5.0, 0, None)}, method="kvaerno5", max_time=1e-6, **ARGUMENTS).fit(
            X, y
        )
    assert model.params_["mu"] > 0.0
    assert np.isfinite(model.predict([[1.0]])).all()


@pytest.fixture(scope="module")
def task():
    X = pd.DataFrame({"s": [0] * 20 + [1] * 10, "t": [*np.linspace(0.1, 2.0, 20), *np.linspace(0.1, 1.0, 10)]})
    y = np.exp(-X["t"].to_numpy())
    y[3] = np.nan
    model = ODERegressor(lambda t, y, p: -p["rate"][..., None] * y, {"rate": 1.0}, series="s", time="t").fit(X, y)
    return model._task_


def test_a_window_has_the_first_rows_of_each_series(task):
    part = window(task, 10)
    layout = part.layout
    assert np.diff(layout.row_pointer).tolist() == [10, 6]  # of 19 and 10
    assert np.diff(layout.segment_pointer).tolist() == [1, 1]
    np.testing.assert_array_equal(layout.time[:10], task.layout.time[:10])
    np.testing.assert_array_equal(layout.y[10:], task.layout.y[19:25])
    whole = window(task, 19).layout
    np.testing.assert_array_equal(whole.time, task.layout.time)


def test_windows_grow_and_halve_where_the_observations_are_lost(task):
    sizes = []

    def fit(part, u):
        sizes.append(int(np.diff(part.layout.row_pointer).max()))
        lost = sizes[-1] >= 18 and sizes.count(15) == 0
        return u + 1.0, np.array([5.0 if lost else 1.0])

    found = grown(task, np.zeros((2, 2)), fit)
    assert sizes == [8, 12, 18, 15, 19]
    np.testing.assert_array_equal(found, 4.0)
    assert grown(task, np.zeros((2, 2)), lambda part, u: None) is None

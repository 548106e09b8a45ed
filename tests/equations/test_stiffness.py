"""Detection of stiffness, and what follows from it: fits, predictions and simulations with default settings."""

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.exceptions import ConvergenceWarning

from skode import ODERegressor
from skode.equations import estimator
from skode.equations.initial import InitialStates
from skode.equations.layout import Layout
from skode.equations.levenberg_marquardt import Task
from skode.equations.noise import NOISES
from skode.equations.parameters import Parameter, Scales
from skode.equations.sensitivities import SolverSettings
from skode.equations.shooting import Model
from skode.equations.stiffness import decay_rates, is_stiff
from tests.equations.systems import lotka_volterra, robertson, solved, system

TIMES = np.linspace(0.0, 10.0, 21)


def relaxing(t, y, p):
    """A slow state, and one that follows it at a rate of its own."""
    slow, fast = y.unbind(-1)
    return torch.stack([-0.1 * slow, -p["rate"] * (fast - slow)], dim=-1)


def task(rhs, states, parameter, t=TIMES, n_segments=1, y0=(1.0, 1.0)):
    model = Model(
        system(rhs, states, (parameter.name,)), Scales([parameter]), 1, InitialStates(None, y0),
        SolverSettings("dopri5", 1e-6, 1e-9),
    )  # fmt: skip
    layout = Layout.of(np.zeros(len(t), int), t, np.ones((len(t), 1)), np.ones(len(t)), np.zeros(1), n_segments)
    return Task(model, layout, None, NOISES["gaussian"], np.ones(1))


def stiff(problem, observed=None, *, thorough=False):
    return is_stiff(problem, problem.model.scales.start[None], observed or {}, problem.layout, thorough=thorough)


def test_rates_are_those_of_the_jacobian():
    problem = task(relaxing, "ab", Parameter("rate", 50.0, 0.0))
    rates = decay_rates(problem, problem.model.scales.start[None], TIMES[None], np.ones((1, 21, 2)))
    np.testing.assert_allclose(rates, 50.0)


def test_oscillations_and_growth_are_no_decay():
    def spiral(t, y, p):
        return torch.stack([p["rate"] * y[..., 1], -p["rate"] * y[..., 0]], dim=-1)

    assert not stiff(task(spiral, "ab", Parameter("rate", 1e4, 0.0)), {0: 0, 1: 0})
    assert not stiff(task(lambda t, y, p: p["rate"][..., None] * y, "ab", Parameter("rate", 1.0, 0.0)))


BOTH = {0: 0, 1: 0}


@pytest.mark.parametrize(("rate", "expected"), [(3.0, False), (300.0, False), (360.0, True), (1e5, True)])
def test_stiff_is_a_thousand_steps_for_stability(rate, expected):
    """1000 steps of length 3.3 over the rate cover the 10 units of time where the rate is 330."""
    assert stiff(task(relaxing, "ab", Parameter("rate", rate, 0.0)), BOTH) == expected


def test_states_that_were_not_observed_are_simulated():
    assert not stiff(task(relaxing, "ab", Parameter("rate", 3.0, 0.0)))
    assert stiff(task(relaxing, "ab", Parameter("rate", 1e5, 0.0)))


def test_equations_may_get_stiff_after_a_start_that_is_not():
    def late(t, y, p):
        slow, fast = y.unbind(-1)
        return torch.stack([1.0 + 0.0 * slow, -p["rate"] * slow * fast], dim=-1)

    problem = task(late, "ab", Parameter("rate", 1e3, 0.0), y0=(0.0, 1.0))
    assert not stiff(problem)
    assert stiff(problem, thorough=True)


def test_the_longest_segment_counts():
    assert not stiff(task(relaxing, "ab", Parameter("rate", 1000.0, 0.0), n_segments=10), BOTH)
    assert stiff(task(relaxing, "ab", Parameter("rate", 4000.0, 0.0), n_segments=10), BOTH)


RATES = {"k1": 0.04, "k2": 3e7, "k3": 1e4}
LATE = np.concatenate([[0.0], np.logspace(-4, 3, 12)])


@pytest.fixture(scope="module")
def robertsons():
    y = solved(robertson, RATES, [1.0, 0.0, 0.0], LATE, "Radau")
    start = {name: (1.5 * rate, 0, None) for name, rate in RATES.items()}
    return ODERegressor(
        robertson, start, states=["a", "b", "c"], initial=[1.0, 0.0, 0.0], rtol=1e-5, atol=1e-10, n_segments=6,
        max_iter=10,
    ).fit(LATE[:, None], y * (1.0 + 0.01 * np.random.default_rng(0).normal(size=y.shape)))  # fmt: skip


@pytest.mark.filterwarnings("ignore:The fit ended before:sklearn.exceptions.ConvergenceWarning")
def test_robertsons_rates_by_default(robertsons):
    assert robertsons.method_ == "kvaerno5"
    assert robertsons.params_ == pytest.approx(RATES, rel=0.03)
    later = np.array([[1e4], [1e5]])
    expected = solved(robertson, robertsons.params_, [1.0, 0.0, 0.0], np.array([0.0, 1e4, 1e5]), "Radau")[1:]
    np.testing.assert_allclose(robertsons.predict(later), expected, rtol=1e-3, atol=1e-8)


def smooth_data(rate):
    t = np.linspace(0.0, 5.0, 20)
    exact = rate / (rate - 0.1) * (np.exp(-0.1 * t) - np.exp(-rate * t)) + np.exp(-rate * t)
    return pd.DataFrame({"t": t}), pd.Series(exact + 0.01 * np.random.default_rng(0).normal(size=len(t)), name="fast")


def test_what_is_not_stiff_is_solved_by_the_explicit_method_and_later_by_either():
    X, y = smooth_data(2.0)
    arguments = {"params": {"rate": (1.0, 0, None)}, "states": ["slow", "fast"], "initial": [1.0, 1.0], "time": "t"}
    model = ODERegressor(relaxing, observe="fast", **arguments).fit(X, y)
    plain = ODERegressor(relaxing, observe="fast", method="dopri5", **arguments).fit(X, y)
    assert model.method_ == plain.method_ == "dopri5"
    assert model.params_ == plain.params_
    times = np.array([0.0, 50.0, 100.0])
    found = model.simulate([1.0, 1.0], times, params={"rate": 1e4})
    np.testing.assert_allclose(found[:, 1], 1e4 / (1e4 - 0.1) * np.exp(-0.1 * times), rtol=1e-4)
    assert np.isnan(plain.simulate([1.0, 1.0], times, params={"rate": 1e4})[1:]).all()
    ill = pd.DataFrame({"t": [2e4]})  # decayed, but only stability holds steps back
    assert model.predict(ill) == pytest.approx(0.0, abs=1e-6)


def test_a_fit_that_gets_stuck_where_equations_are_stiff_starts_again(monkeypatch):
    X, y = smooth_data(2.0)
    seen = []

    def stiff_later(problem, u, observed, layout, *, thorough):
        seen.append((problem.model.settings.method, u[0, 0], thorough))
        return len(seen) > 1

    monkeypatch.setattr(estimator, "is_stiff", stiff_later)
    with pytest.warns(ConvergenceWarning, match="after 1 steps"):
        model = ODERegressor(
            relaxing, {"rate": (0.5, 0, None)}, states=["slow", "fast"], observe="fast", initial=[1.0, 1.0], time="t",
            max_iter=1,
        ).fit(X, y)  # fmt: skip
    assert model.method_ == "kvaerno5"
    assert [(method, thorough) for method, _, thorough in seen] == [("dopri5", False), ("dopri5", True)]
    assert seen[0][1] == np.log(0.5)
    assert seen[1][1] != seen[0][1]


def test_a_lotka_volterra_system_is_not_stiff():
    problem = task(
        lambda t, y, p: lotka_volterra(t, y, {"a": p["a"], "b": 0.5, "c": 1.2, "d": 0.4}),
        "xy",
        Parameter("a", 1.0, 0.0),
    )
    assert not stiff(problem)

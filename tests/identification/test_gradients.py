"""Fields of many weights: gradients against finite differences, and a fit whose field is known."""

import numpy as np
import pytest
import torch
from sklearn.exceptions import ConvergenceWarning
from torch import nn

from skode import NeuralODERegressor
from skode.equations.fits import Limits
from skode.identification import problem as problem_module
from skode.identification.gradients import _held_out, _Shooting, shot_by_gradients
from tests.identification.test_estimator import panel, pendulum

SETTINGS = {"series": "s", "time": "t", "random_state": 0}
T = np.linspace(0.0, 8.0, 25)


def data():
    X, y, truth = panel(pendulum, [[1.0, 0.0], [2.0, 0.0]], 0.03, t=T)
    y.iloc[5, 0] = np.nan
    return X, y, truth


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 10), nn.Tanh(), nn.Linear(10, 2)).double()


@pytest.fixture(scope="module")
def many():
    """A fit that takes its few weights for many."""
    X, y, truth = data()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(problem_module, "MOST_WEIGHTS", 10)
        yield NeuralODERegressor(network(), max_iter=20, **SETTINGS).fit(X, y), X, y, truth


@pytest.mark.parametrize("noise", ["gaussian", "student"])
def test_the_gradient_is_that_of_finite_differences(noise):
    X, y, _ = data()
    known = {"known": lambda t, y, p: -p["drag"][..., None] * y, "params": {"drag": (0.1, 0, None)}}
    model = NeuralODERegressor(network(), noise=noise, max_iter=2, n_segments=4, rtol=1e-8, **known, **SETTINGS)
    with pytest.warns(ConvergenceWarning, match="before an optimum"):
        task = model.fit(X, y)._problem.task
    rng, m = np.random.default_rng(0), task.model.n_parameters
    series = np.repeat([0, 1], np.diff(task.layout.segment_pointer))
    shooting = _Shooting(task, series, 0.7)
    shooting.state = np.array([0.1, 0.2]), rng.normal(size=(len(series), 2)), 30.0
    x = np.concatenate([0.3 * rng.normal(size=m), rng.normal(size=2 * len(series))])
    gradient = shooting.objective(x)[1]
    for direction in rng.normal(size=(3, len(x))):
        ahead, behind = (shooting.objective(x + step * direction)[0] for step in (1e-5, -1e-5))
        assert gradient @ direction == pytest.approx((ahead - behind) / 2e-5, rel=1e-5)


def test_the_field_is_found(many):
    model, X, y, truth = many
    exact = pendulum(truth.T).T
    assert np.sqrt(((model.vector_field(truth) - exact) ** 2).mean() / (exact**2).mean()) < 0.12
    assert np.sqrt(((model.predict(X) - truth) ** 2).mean()) < 0.03
    np.testing.assert_allclose(model.noise_scale_, 0.03, rtol=0.4)
    assert model.score(X, y) > 0.95
    assert model.converged_
    assert np.isnan(model.evidence_)


def test_its_jacobian_is_that_of_finite_differences(many):
    model, _, _, truth = many
    states, step = truth[:4], 1e-6
    pairs = [(model.vector_field(states + e), model.vector_field(states - e)) for e in step * np.eye(2)]
    expected = np.stack([(ahead - behind) / (2.0 * step) for ahead, behind in pairs], axis=2)
    np.testing.assert_allclose(model.jacobian(states), expected, rtol=1e-6, atol=1e-8)
    assert len(model.analysis().fixed_points())


def test_auto_with_many_weights_is_refused_before_the_polynomial_is_fitted(many, monkeypatch):
    _, X, y, _ = many
    monkeypatch.setattr("skode.identification.estimator.fitted", lambda *args: pytest.fail("a field was fitted"))
    with pytest.raises(ValueError, match="field='auto' compares fields by their evidence"):
        NeuralODERegressor("auto", noise="combined", degree=1, **SETTINGS).fit(X, y)


def test_what_needs_the_covariance_of_the_weights_is_refused(many):
    model, X, y, truth = many
    for name, call in (
        (r"predict\(return_std=True\)", lambda: model.predict(X, return_std=True)),
        (r"vector_field\(return_std=True\)", lambda: model.vector_field(truth, return_std=True)),
        ("condition", lambda: model.condition(X.assign(s=7), y)),
    ):
        with pytest.raises(ValueError, match=f"{name} needs the covariance of all weights"):
            call()
    with pytest.raises(ValueError, match="field='auto' compares fields by their evidence"):
        NeuralODERegressor("auto", degree=1, **SETTINGS).fit(X, y)
    with pytest.raises(ValueError, match="too many for priors of each term"):
        NeuralODERegressor("polynomial", **SETTINGS).fit(X, y)


def test_a_time_limit_ends_it_with_the_best_so_far(many):
    model = many[0]
    problem = model._problem
    start = model._paths.u * 0.5, problem.smooth.nodes, 1.0
    ended = shot_by_gradients(problem.task, start, Limits(20, 0.1, deadline=-np.inf), problem.smooth.noise)
    assert ended.out_of_time
    assert not ended.converged
    assert np.isfinite(ended.mean).all()


def test_each_series_holds_out_one_stretch(many):
    smooth = many[0]._problem.smooth
    held = _held_out(smooth)
    for series in (0, 1):
        own = held[smooth.series == series]
        assert own.sum() == 5
        assert np.diff(np.flatnonzero(own)).max() == 1
    assert not np.array_equal(held[smooth.series == 0], held[smooth.series == 1])

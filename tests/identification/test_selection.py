"""Against the evidence written out, brute force on a grid, and the covariance of a fit."""

import numpy as np
import pytest
from scipy.stats import multivariate_normal

from skode import NeuralODERegressor
from skode.datasets import make_lotka_volterra
from skode.equations.inference import Estimate, quadratic_form
from skode.equations.prior import MOST_PRECISION
from skode.identification import estimator as estimator_module
from skode.identification.selection import better_terms, evidence, greedy

RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 7))
Y = X[:, 1] - 2.0 * X[:, 4] + RNG.normal(size=60)
A, B = X.T @ X, X.T @ Y


def test_the_evidence_is_that_of_the_observations_with_weights_integrated_out():
    def exact(precision):
        used = np.isfinite(precision)
        return multivariate_normal.logpdf(
            Y, np.zeros(60), np.eye(60) + X[:, used] @ np.diag(1 / precision[used]) @ X[:, used].T
        )

    none = np.full(7, np.inf)
    some = np.array([1.0, 0.3, np.inf, 4.0, 0.1, np.inf, 20.0])
    assert evidence(A, B, none) == 0.0
    assert evidence(A, B, some) == pytest.approx(exact(some) - exact(none), rel=1e-9)


def test_no_precision_by_itself_has_a_larger_evidence_than_the_greedy_ones():
    found = greedy(A, B, np.full(7, np.inf))
    assert {1, 4} <= {*np.flatnonzero(np.isfinite(found))}
    assert np.isinf(found).any()
    for i in range(7):
        for value in [*np.geomspace(1e-4, 1e6, 60), np.inf]:
            tried = found.copy()
            tried[i] = value
            assert evidence(A, B, tried) < evidence(A, B, found) + 2e-3


def test_unknowns_without_a_prior_stay():
    found = greedy(A, B, np.array([0.0, *[np.inf] * 6]))
    assert found[0] == 0.0
    assert np.isfinite(found[[1, 4]]).all()


@pytest.fixture(scope="module")
def fitted():
    """A fit with its problem and optimum."""
    X, y = make_lotka_volterra(5, random_state=0)
    kept, inner = [], estimator_module.fitted

    def noted(*args):
        kept.append((args[0], inner(*args)))
        return kept[-1][1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(estimator_module, "fitted", noted)
        settings = {"series": "series", "time": "time", "noise": "gaussian", "tol": 1e-6}
        model = NeuralODERegressor("polynomial", degree=2, **settings).fit(X, y)
    return model, *kept[-1]


def test_terms_that_matching_takes_for_superfluous_come_back(fitted):
    """Smoothed derivatives speak for other terms here; from those alone the evidence is 11 nats less."""
    table = fitted[0].coefficients_
    kept = {name: {*column.index[column != 0.0]} for name, column in table.items()}
    assert kept == {"dprey/dt": {"prey", "prey predator"}, "dpredator/dt": {"predator", "prey predator"}}
    rates = table.loc["prey", "dprey/dt"], table.loc["predator", "dpredator/dt"]
    np.testing.assert_allclose(rates, [0.55, -0.8], rtol=0.2)
    assert fitted[0].evidence_ > -734.0


def test_the_quadratic_form_is_that_of_the_optimum(fitted):
    _, problem, best = fitted
    optimum, m = best.optimum, problem.task.model.n_parameters
    H, g = quadratic_form(problem.task, Estimate(optimum.shots, optimum.scale, ~optimum.held(problem.task)))
    covariance = np.linalg.inv(H + np.diag(optimum.precision))
    np.testing.assert_allclose(covariance, best.information.covariance[0, :m, :m], rtol=1e-5, atol=1e-9)
    kept = optimum.precision < MOST_PRECISION
    # Where it is optimal the prior pulls as strongly as the data.
    np.testing.assert_allclose(g[kept], -(optimum.precision * optimum.u[0, :m])[kept], atol=0.05)


def test_where_the_selection_is_the_best_there_is_no_better_one(fitted):
    _, problem, best = fitted
    optimum, field = best.optimum, problem.system.field
    precision = np.where(optimum.precision >= MOST_PRECISION, np.inf, optimum.precision)
    degrees = np.repeat(field.powers.sum(axis=1), 2)
    assert better_terms(problem.task, optimum, precision, degrees) is None
    worse = precision.copy()
    worse[np.argmax(np.where(np.isfinite(precision), np.abs(optimum.u[0, : len(worse)]), 0.0))] = np.inf
    u, found = better_terms(problem.task, optimum, worse, degrees)
    np.testing.assert_array_equal(np.isfinite(found), np.isfinite(precision))
    assert (u[np.isinf(found)] == 0.0).all()

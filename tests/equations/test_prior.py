"""Against the largest evidence of a linear model, found by a general optimiser."""

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.stats import multivariate_normal

from skode.equations.prior import Prior, inverse

RNG = np.random.default_rng(0)
X = RNG.normal(size=(30, 5))
GROUPS = np.array([0, 0, 0, 1, 1])
Y = X @ [1.0, -0.5, 2.0, 0.1, -0.2] + RNG.normal(size=30)


def evidence(logs):
    precision = np.exp(logs)[GROUPS]
    return multivariate_normal.logpdf(Y, np.zeros(30), np.eye(30) + X @ np.diag(1.0 / precision) @ X.T)


def test_precisions_have_the_largest_evidence():
    prior, precision = Prior(np.zeros(5), GROUPS), np.ones(5)
    for _ in range(300):
        H = X.T @ X + np.diag(precision)
        u = np.linalg.solve(H, X.T @ Y)
        precision = prior.adapted(u, precision, np.diagonal(inverse(H)))
    best = minimize(lambda logs: -evidence(logs), [0.0, 0.0], tol=1e-10)
    np.testing.assert_allclose(np.log(precision[[0, 4]]), best.x, atol=1e-4)


def test_the_log_density_is_that_of_a_normal_distribution():
    prior = Prior(np.array([0.5, 0.0, 1.0, 0.0, 0.0]), np.array([0, 0, 0, 1, -1]))
    precision, u = np.array([2.0, 2.0, 2.0, 3.0, 0.0]), RNG.normal(size=5)
    expected = multivariate_normal.logpdf(u[:4], prior.mean[:4], np.diag(1.0 / precision[:4]))
    assert prior.log_density(u, precision) == pytest.approx(expected)
    assert prior.adapted(u, precision, np.full(5, 0.1))[4] == 0.0


def test_the_inverse_is_of_any_scale_and_of_the_positive_part():
    scale = np.array([1e-8, 1.0, 1e6])
    H = scale[:, None] * np.array([[2.0, 0.5, 0.1], [0.5, 1.0, 0.2], [0.1, 0.2, 3.0]]) * scale
    np.testing.assert_allclose(
        scale[:, None] * inverse(H) * scale, np.linalg.inv(H / np.outer(scale, scale)), atol=1e-9
    )

"""The interpolants have the order they claim, their right ends, and the optimality that chose them."""

import numpy as np
import pytest
from scipy.interpolate import CubicHermiteSpline
from scipy.optimize import minimize_scalar

from skode.solvers.tableaus import METHODS
from skode.solvers.tableaus.interpolants import collocation_polynomial, continuous_extension, cubic_hermite
from skode.solvers.tableaus.interpolants import rooted_trees as trees_of_interpolants
from tests.solvers.problems import TABLEAUS

COLLOCATION = ["implicit_euler", "implicit_midpoint", "radauIIA3", "radauIIA5", "gl4", "gl6"]
# The interpolant of dopri8 has coefficients beyond 100.
ROUNDING = 1e-12
THETA = np.array([0.05, 0.25, 0.5, 0.7, 0.95])


def slopes(tableau, theta):
    """Derivatives of the interpolation weights, of shape (m, s)."""
    coefficients = np.asarray(tableau.interpolant)
    p = np.arange(coefficients.shape[1])
    return (theta[:, None] ** p * (p + 1)) @ coefficients.T


def weights_on_grid(interpolant, theta):
    interpolant = np.array(interpolant)
    return theta[:, None] ** np.arange(1, interpolant.shape[1] + 1) @ interpolant.T


def test_interpolant_satisfies_all_conditions_to_its_order(tableau, full_matrix, residuals):
    for theta, weights in zip(THETA, tableau.interpolation_weights(THETA), strict=True):
        for n in range(1, tableau.interpolant_order + 1):
            np.testing.assert_allclose(residuals(weights, full_matrix(tableau), n, theta), 0.0, atol=ROUNDING)


def test_interpolant_misses_a_condition_of_the_next_order(tableau, full_matrix, residuals):
    weights = tableau.interpolation_weights(np.array([0.7]))[0]
    # The least among the tableaus is 2e-6, of dopri8.
    assert np.abs(residuals(weights, full_matrix(tableau), tableau.interpolant_order + 1, 0.7)).max() > 1e-7


@pytest.mark.parametrize("name", ["heun3", "rk4", "dopri5", "dopri8", "kvaerno5", *COLLOCATION])
def test_stages_allow_no_interpolant_of_higher_order(name, full_matrix, elementary_weights):
    # Those of the order n ask that the coefficients of theta^n give 1 / density, for every degree of the polynomial.
    tableau = METHODS[name]
    n = tableau.interpolant_order + 1
    by_order = [elementary_weights(m, full_matrix(tableau)) for m in range(1, n + 1)]
    phi = np.concatenate([weights for weights, _ in by_order])
    values = np.concatenate([(m == n) / densities for m, (_, densities) in enumerate(by_order, start=1)])
    best = np.linalg.lstsq(phi, values, rcond=1e-11)[0]
    assert np.abs(phi @ best - values).max() > 1e-4


def test_interpolant_starts_at_the_state_and_ends_at_the_solution_exactly(tableau):
    start, end = tableau.interpolation_weights(np.array([0.0, 1.0]))
    assert start.tolist() == [0.0] * tableau.n_stages
    assert end.tolist() == list(tableau.b)


def test_interpolant_arrives_at_the_solution_continuously(tableau):
    np.testing.assert_allclose(np.sum(tableau.interpolant, axis=1), tableau.b, rtol=0, atol=ROUNDING)


@pytest.mark.parametrize("name", [name for name, tableau in TABLEAUS.items() if tableau.c[0] == 0.0])
def test_interpolant_leaves_along_an_explicit_first_stage(name):
    tableau = METHODS[name]
    expected = [1.0] + [0.0] * (tableau.n_stages - 1)
    np.testing.assert_allclose(slopes(tableau, np.array([0.0]))[0], expected, atol=ROUNDING)


@pytest.mark.parametrize("name", [name for name, tableau in TABLEAUS.items() if tableau.fsal])
def test_interpolant_arrives_along_a_last_stage_that_is_carried(name):
    # The first stage of the next step: the dense output has a continuous derivative.
    tableau = METHODS[name]
    expected = [0.0] * (tableau.n_stages - 1) + [1.0]
    np.testing.assert_allclose(slopes(tableau, np.array([1.0]))[0], expected, atol=ROUNDING)


def test_weight_slopes_are_the_derivatives_of_the_weights(tableau):
    coefficients = [np.polynomial.Polynomial([0.0, *row]) for row in tableau.interpolant]
    expected = np.stack([polynomial.deriv()(THETA) for polynomial in coefficients], axis=1)
    np.testing.assert_allclose(slopes(tableau, THETA), expected, rtol=1e-12, atol=1e-12)


def test_weights_stay_moderate_inside_the_step(tableau):
    # Rounding in the stages is not blown up.
    theta = np.linspace(0.0, 1.0, 101)
    assert np.abs(tableau.interpolation_weights(theta)).sum(1).max() < 10 * np.abs(tableau.b).sum()


def test_cubic_hermite_agrees_with_scipy():
    stages, b = np.array([0.3, -1.2, 2.0]), np.array([0.2, 0.5, 0.3])
    spline = CubicHermiteSpline([0.0, 1.0], [0.0, b @ stages], [stages[0], stages[-1]])
    np.testing.assert_allclose(weights_on_grid(cubic_hermite(b), THETA) @ stages, spline(THETA), rtol=1e-13)


@pytest.mark.parametrize("name", COLLOCATION)
def test_collocation_polynomial_passes_through_the_stages(name):
    # b_j(c_i) = a_ij, and its slopes at the stage times are the stages.
    tableau = METHODS[name]
    c = np.array(tableau.c)
    np.testing.assert_allclose(weights_on_grid(tableau.interpolant, c), tableau.a, atol=1e-15)
    np.testing.assert_allclose(slopes(tableau, c), np.eye(len(c)), atol=5e-15)


def test_collocation_polynomial_integrates_polynomials_exactly():
    c = np.array([0.1, 0.4, 0.8])
    weights = weights_on_grid(collocation_polynomial(c), THETA)
    for p in range(3):
        np.testing.assert_allclose(weights @ c**p, THETA ** (p + 1) / (p + 1), rtol=1e-13)


@pytest.mark.parametrize("name", ["heun3", "fehlberg2"])
def test_continuous_extension_is_the_best_cubic(name, full_matrix):
    # On three explicit stages the cubics of order 2 have one free number, the coefficient beta of theta^2 in b_3.
    tableau = METHODS[name]
    c2, c3 = tableau.c[1:]
    a32 = full_matrix(tableau)[2, 1]
    nodes, quadrature = np.polynomial.legendre.leggauss(8)
    theta = (nodes + 1) / 2

    def missed(beta):
        b3 = beta * theta**2 + (tableau.b[2] - beta) * theta**3
        b2 = (theta**2 / 2 - b3 * c3) / c2
        # The two trees of three nodes, of symmetry 2 and 1.
        bushy, tall = b2 * c2**2 + b3 * c3**2 - theta**3 / 3, b3 * a32 * c2 - theta**3 / 6
        return quadrature @ ((bushy / 2) ** 2 + tall**2)

    beta = minimize_scalar(missed, bracket=(-1.0, 1.0), tol=1e-12).x
    interpolant = continuous_extension(tableau.a, tableau.b, order=2, degree=3)
    np.testing.assert_allclose(interpolant[2], [0.0, beta, tableau.b[2] - beta], atol=1e-6)


def test_interpolant_of_heun3_is_the_best_cubic():
    tableau = METHODS["heun3"]
    assert tableau.interpolant == continuous_extension(tableau.a, tableau.b, order=2, degree=3)


def test_continuous_extension_finds_the_hermite_cubic_where_there_is_no_other():
    for name in ("bosh3", "trbdf2", "kvaerno3"):
        tableau = METHODS[name]
        found = continuous_extension(tableau.a, tableau.b, order=min(tableau.order, 3), degree=3)
        np.testing.assert_allclose(found, cubic_hermite(tableau.b), atol=1e-13)


def test_continuous_extension_uses_its_freedom_for_the_next_order(full_matrix, residuals):
    # The quartic on the stages of kvaerno5 that is asked for order 3 only finds its conditions of order 4 as well.
    tableau = METHODS["kvaerno5"]
    interpolant = continuous_extension(tableau.a, tableau.b, order=3, degree=4)
    for theta, weights in zip(THETA, weights_on_grid(interpolant, THETA), strict=True):
        np.testing.assert_allclose(residuals(weights, full_matrix(tableau), 4, theta), 0.0, atol=ROUNDING)


def test_dopri8_nearly_satisfies_the_conditions_of_order_six(full_matrix, residuals):
    # The local error of the quintic that the same stages allow is some thirty times that of this polynomial.
    tableau = METHODS["dopri8"]
    quintic = np.array(continuous_extension(tableau.a, tableau.b, order=5, degree=5))

    def missed(weights):
        pairs = zip(THETA, weights, strict=True)
        return max(np.abs(residuals(row, full_matrix(tableau), 6, theta)).max() for theta, row in pairs)

    assert missed(weights_on_grid(tableau.interpolant, THETA)) < missed(weights_on_grid(quintic, THETA)) / 10


def test_trees_grown_leaf_by_leaf_are_all_trees(rooted_trees):
    for n in range(1, 8):
        assert sorted(trees_of_interpolants(n)) == rooted_trees(n)

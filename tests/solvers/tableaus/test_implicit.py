"""The implicit methods are stable as published (Hairer, Wanner, Solving Ordinary Differential Equations II, IV)."""

import numpy as np
import pytest
from numpy.polynomial import Polynomial

from skode.solvers.tableaus import METHODS

L_STABLE = ["implicit_euler", "radauIIA3", "radauIIA5", "sdirk2", "trbdf2", "kvaerno3", "kvaerno5"]
CONSERVATIVE = ["implicit_midpoint", "trapezoid", "gl4", "gl6"]
IMAGINARY = 1j * np.concatenate([np.linspace(0.01, 20.0, 400), np.logspace(1.5, 3, 20)])


@pytest.fixture
def stability(full_matrix):
    """The function ``R(z) = 1 + z b^T (I - z A)^-1 1`` by which a step multiplies the solution of ``y' = z y``."""

    def function(tableau):
        a, s = full_matrix(tableau), tableau.n_stages

        def at(z):
            return 1 + z * (np.array(tableau.b) @ np.linalg.solve(np.eye(s) - z * a, np.ones(s)))

        return at

    return function


@pytest.mark.parametrize("name", L_STABLE)
def test_stiff_components_are_damped_at_once(name, stability):
    at = stability(METHODS[name])
    assert abs(at(-1e7)) < 1e-5


@pytest.mark.parametrize("name", CONSERVATIVE)
def test_oscillations_are_neither_damped_nor_amplified(name, stability):
    at = stability(METHODS[name])
    np.testing.assert_allclose([abs(at(z)) for z in IMAGINARY], 1.0, rtol=1e-11)
    assert abs(at(-1e7)) == pytest.approx(1.0, abs=1e-5)


def test_method_is_a_stable(implicit_tableau, stability, full_matrix):
    # By the maximum principle: bounded by 1 on the imaginary axis, and no pole left of it.
    at = stability(implicit_tableau)
    assert max(abs(at(z)) for z in IMAGINARY) < 1 + 1e-11
    assert (np.linalg.eigvals(full_matrix(implicit_tableau)).real > -1e-12).all()


def test_an_l_stable_method_damps_oscillations(stability):
    at = stability(METHODS["radauIIA5"])
    assert abs(at(5j)) < 0.9


@pytest.mark.parametrize(
    ("name", "numerator", "denominator"),
    [
        ("implicit_euler", [1], [1, -1]),
        ("implicit_midpoint", [1, 1 / 2], [1, -1 / 2]),
        ("trapezoid", [1, 1 / 2], [1, -1 / 2]),
        ("gl4", [1, 1 / 2, 1 / 12], [1, -1 / 2, 1 / 12]),
        ("gl6", [1, 1 / 2, 1 / 10, 1 / 120], [1, -1 / 2, 1 / 10, -1 / 120]),
        ("radauIIA3", [1, 1 / 3], [1, -2 / 3, 1 / 6]),
        ("radauIIA5", [1, 2 / 5, 1 / 20], [1, -3 / 5, 3 / 20, -1 / 60]),
    ],
)
def test_stability_function_is_the_pade_approximation(name, numerator, denominator, stability):
    at = stability(METHODS[name])
    for z in (-0.5, 0.3 + 0.7j, -3 + 1j, -40.0):
        assert at(z) == pytest.approx(Polynomial(numerator)(z) / Polynomial(denominator)(z), rel=1e-12)


@pytest.mark.parametrize(("name", "s"), [("implicit_midpoint", 1), ("gl4", 2), ("gl6", 3)])
def test_gauss_methods_have_the_nodes_and_weights_of_gauss_legendre_quadrature(name, s):
    nodes, weights = np.polynomial.legendre.leggauss(s)
    np.testing.assert_allclose(METHODS[name].c, (nodes + 1) / 2, rtol=1e-14)
    np.testing.assert_allclose(METHODS[name].b, weights / 2, rtol=1e-14)


@pytest.mark.parametrize(("name", "s"), [("radauIIA3", 2), ("radauIIA5", 3)])
def test_radau_nodes_are_the_roots_of_their_polynomial(name, s):
    # The derivative of order s - 1 of x^(s-1) (x-1)^s.
    polynomial = Polynomial([0, 1]) ** (s - 1) * Polynomial([-1, 1]) ** s
    np.testing.assert_allclose(METHODS[name].c, np.sort(polynomial.deriv(s - 1).roots().real), rtol=1e-13)


@pytest.mark.parametrize("name", ["sdirk2", "trbdf2", "kvaerno3", "kvaerno5"])
def test_one_factorisation_serves_all_implicit_stages(name):
    tableau = METHODS[name]
    diagonal = [row[i] for i, row in enumerate(tableau.a)]
    assert set(diagonal) - {0.0} == {diagonal[-1]}
    assert all(diagonal[1:])


@pytest.mark.parametrize("name", L_STABLE)
def test_l_stable_methods_end_at_their_last_stage(name):
    tableau = METHODS[name]
    assert tableau.c[-1] == 1.0
    assert tableau.a[-1] == tableau.b


@pytest.mark.parametrize("name", ["kvaerno3", "kvaerno5"])
def test_embedded_solution_of_kvaerno_is_the_stage_before_the_last(name):
    # Both solutions are stiffly accurate, and so the error estimate of a stiff component is not their large slope.
    tableau = METHODS[name]
    np.testing.assert_allclose(np.array(tableau.b) - tableau.e, tableau.a[-2], atol=1e-16)


def test_gamma_of_kvaerno3_makes_order_three_and_l_stability_compatible():
    gamma = METHODS["kvaerno3"].a[-1][-1]
    assert abs(gamma**3 - 3 * gamma**2 + 3 / 2 * gamma - 1 / 6) < 1e-16

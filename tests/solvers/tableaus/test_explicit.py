"""The explicit methods are the published ones."""

from math import factorial

import numpy as np
import pytest
from scipy.integrate import RK23, RK45

from skode.solvers.tableaus import METHODS


@pytest.mark.parametrize(("name", "scipy_method"), [("bosh3", RK23), ("dopri5", RK45)])
def test_tableau_agrees_with_scipy(name, scipy_method, full_matrix):
    tableau = METHODS[name]
    n = scipy_method.n_stages
    np.testing.assert_allclose(tableau.c[:n], scipy_method.C, rtol=1e-15)
    rows, columns = scipy_method.A.shape
    np.testing.assert_allclose(full_matrix(tableau)[:rows, :columns], scipy_method.A, rtol=1e-15)
    np.testing.assert_allclose(tableau.b[:n], scipy_method.B, rtol=1e-15)
    np.testing.assert_allclose(tableau.e, -scipy_method.E, rtol=1e-15)
    np.testing.assert_allclose(tableau.interpolant, scipy_method.P, rtol=1e-14, atol=1e-15)


def test_stability_polynomial_is_that_of_the_exponential_to_the_methods_order(explicit_tableau, full_matrix):
    a, b, ones = full_matrix(explicit_tableau), np.array(explicit_tableau.b), np.ones(explicit_tableau.n_stages)
    coefficients = [b @ np.linalg.matrix_power(a, p) @ ones for p in range(explicit_tableau.order)]
    np.testing.assert_allclose(coefficients, [1 / factorial(p + 1) for p in range(explicit_tableau.order)], rtol=1e-11)


def test_rk4_is_the_three_eighths_rule():
    # Exact weights of the quadrature with the same name.
    np.testing.assert_allclose(METHODS["rk4"].b, np.array([1, 3, 3, 1]) / 8)
    np.testing.assert_allclose(METHODS["rk4"].c, np.array([0, 1, 2, 3]) / 3)


def test_heun_methods_are_quadratures():
    # The trapezoidal rule, and the Radau rule of order 3.
    assert METHODS["heun2"].b == METHODS["adaptive_heun"].b == (0.5, 0.5)
    b, c = np.array(METHODS["heun3"].b), np.array(METHODS["heun3"].c)
    np.testing.assert_allclose([b @ c**p for p in range(3)], [1, 1 / 2, 1 / 3], rtol=1e-15)


def test_adaptive_heun_embeds_euler():
    tableau = METHODS["adaptive_heun"]
    assert (np.array(tableau.b) - tableau.e).tolist() == [1.0, 0.0]


def test_fehlberg2_carries_on_the_higher_order_and_embeds_its_last_row(full_matrix):
    # Fehlberg's own solution of order 1, whose error he estimates with that of order 2.
    tableau = METHODS["fehlberg2"]
    assert (np.array(tableau.b) - tableau.e).tolist() == full_matrix(tableau)[-1].tolist()
    assert not tableau.fsal


def test_dopri8_has_the_published_simplifications(full_matrix):
    # Stages 2 to 5 do not enter the solution; A c^k = c^(k+1) / (k+1) for k = 1 from the third stage and for k = 2 from
    # the fourth on.
    tableau = METHODS["dopri8"]
    a, c = full_matrix(tableau), np.array(tableau.c)
    assert tableau.b[1:5] == (0.0,) * 4
    np.testing.assert_allclose((a @ c)[2:], (c**2 / 2)[2:], atol=1e-14)
    np.testing.assert_allclose((a @ c**2)[3:], (c**3 / 3)[3:], atol=1e-14)

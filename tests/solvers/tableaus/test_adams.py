"""The Adams formulas are the classical ones (Hairer, Norsett, Wanner I, tables III.1.1 and III.1.2)."""

import numpy as np
import pytest
from scipy.interpolate import lagrange

from skode.solvers.tableaus import METHODS, AdamsMethod

ADAMS = [name for name, method in METHODS.items() if isinstance(method, AdamsMethod)]
THETA = np.array([0.0, 0.05, 0.3, 0.5, 0.9, 1.0])


@pytest.fixture(params=ADAMS)
def adams(request):
    return METHODS[request.param]


def test_both_multistep_methods_are_there():
    assert ADAMS == ["explicit_adams", "implicit_adams"]
    assert [METHODS[name].implicit for name in ADAMS] == [False, True]
    assert [METHODS[name].n_past for name in ADAMS] == [3, 2]
    assert not any(METHODS[name].adaptive for name in ADAMS)


@pytest.mark.parametrize(
    ("name", "weights"),
    [
        ("explicit_adams", {0.0: 55, -1.0: -59, -2.0: 37, -3.0: -9}),
        ("implicit_adams", {1.0: 9, 0.0: 19, -1.0: -5, -2.0: 1}),
    ],
)
def test_weights_are_the_classical_ones(name, weights):
    formula = METHODS[name].formula
    assert set(formula.c) == set(weights)
    np.testing.assert_allclose(formula.b, [weights[c] / 24 for c in formula.c], rtol=1e-13)


def test_stages_are_the_present_derivative_then_the_past_ones_then_the_next(adams):
    c = adams.formula.c
    assert c[: 1 + adams.n_past] == tuple(-float(i) for i in range(1 + adams.n_past))
    assert c[1 + adams.n_past :] == ((1.0,) if adams.implicit else ())


def test_interpolant_integrates_the_polynomial_through_the_derivatives(adams):
    slopes = np.random.default_rng(0).normal(size=adams.order)
    integral = lagrange(adams.formula.c, slopes).integ()
    found = adams.formula.interpolation_weights(THETA) @ slopes
    np.testing.assert_allclose(found, integral(THETA) - integral(0.0), rtol=1e-12, atol=1e-14)


def test_formula_is_exact_for_cubics_and_not_for_quartics(adams):
    # Local truncation errors 251/720 and -19/720 (Hairer, Norsett, Wanner I, section III.2).
    b, c = np.array(adams.formula.b), np.array(adams.formula.c)
    np.testing.assert_allclose([b @ c**p for p in range(4)], [1 / (p + 1) for p in range(4)], rtol=1e-12)
    constant = (1 / 5 - b @ c**4) / 24
    assert constant == pytest.approx(-19 / 720 if adams.implicit else 251 / 720, rel=1e-11)


def test_starter_has_no_lower_order(adams):
    assert adams.order == adams.formula.order == 4
    assert adams.starter.order >= adams.order

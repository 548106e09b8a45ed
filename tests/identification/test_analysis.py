"""Against fixed points and exponents that are known in closed form or from the literature."""

import numpy as np
import pytest

from skode.identification import FieldAnalysis
from skode.identification.analysis import stability


def lorenz(Y):
    x, y, z = Y.T
    return np.stack([10.0 * (y - x), x * (28.0 - z) - y, x * y - 8.0 / 3.0 * z], axis=1)


def lorenz_jacobian(Y):
    x, y, z = Y.T
    one, zero = np.ones_like(x), np.zeros_like(x)
    rows = [-10 * one, 10 * one, zero, 28 - z, -one, -x, y, x, -8 / 3 * one]
    return np.stack(rows, axis=1).reshape(-1, 3, 3)


OBSERVED = np.random.default_rng(0).uniform([-20.0, -25.0, 0.0], [20.0, 25.0, 45.0], size=(50, 3))
LORENZ = FieldAnalysis(lorenz, lorenz_jacobian, OBSERVED, ["x", "y", "z"])


def test_the_fixed_points_of_lorenz():
    found = LORENZ.fixed_points()
    root = np.sqrt(8.0 / 3.0 * 27.0)
    np.testing.assert_allclose(found[["x", "y", "z"]], [[-root, -root, 27], [0, 0, 0], [root, root, 27]], atol=1e-8)
    assert found["stability"].tolist() == ["saddle focus", "saddle", "saddle focus"]
    s = np.sqrt(81.0 + 40.0 * 28.0)
    np.testing.assert_allclose(found["eigenvalues"][1], [(-11 + s) / 2, -8 / 3, (-11 - s) / 2])
    assert LORENZ.fixed_points(bounds=[[1.0, 1.0, 1.0], [20.0, 20.0, 40.0]]).shape[0] == 1


def test_the_exponents_of_a_linear_field_are_its_rates():
    A = np.array([[-0.3, 1.0], [0.0, 0.1]])
    analysis = FieldAnalysis(lambda Y: Y @ A.T, lambda Y: np.tile(A, (len(Y), 1, 1)), np.eye(2), ["x", "y"])
    np.testing.assert_allclose(analysis.lyapunov_exponents(60.0, [0.3, 0.2]), [0.1, -0.3], atol=2e-2)


def test_the_exponents_of_lorenz():
    # J. C. Sprott, "Chaos and Time-Series Analysis", 2003: 0.906, 0, -14.572.
    found = LORENZ.lyapunov_exponents(40.0, [1.0, 1.0, 20.0], n_intervals=100)
    np.testing.assert_allclose(found, [0.906, 0.0, -14.572], atol=0.15)
    np.testing.assert_allclose(found.sum(), -(10.0 + 1.0 + 8.0 / 3.0), rtol=1e-6)


@pytest.mark.parametrize(
    ("eigenvalues", "kind"),
    [
        ([-1.0, -2.0], "stable node"),
        ([1.0, 2.0], "unstable node"),
        ([1.0, -2.0], "saddle"),
        ([-1 + 1j, -1 - 1j], "stable focus"),
        ([1j, -1j], "centre"),
        ([0.0, -1.0], "neutral"),
    ],
)
def test_kinds(eigenvalues, kind):
    assert stability(np.array(eigenvalues, dtype=complex)) == kind


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: LORENZ.fixed_points(bounds=[[0.0], [1.0]]), "bounds"),
        (lambda: LORENZ.lyapunov_exponents(0.0), "time"),
        (lambda: LORENZ.lyapunov_exponents(1.0, [1.0]), "y0"),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_trajectory_that_explodes_is_said_to():
    analysis = FieldAnalysis(lambda Y: Y**2, lambda Y: 2.0 * Y[..., None], np.ones((3, 1)), ["x"])
    with pytest.raises(ValueError, match="can't be followed"):
        analysis.lyapunov_exponents(5.0, [1.0])


def analysis(field, jacobian, observed):
    return FieldAnalysis(field, jacobian, observed, ["x", "y"])


def test_a_field_of_zero_has_one_fixed_point_with_a_warning():
    observed = np.random.default_rng(0).normal(size=(50, 2))
    zero = analysis(np.zeros_like, lambda Y: np.zeros((len(Y), 2, 2)), observed)
    with pytest.warns(UserWarning, match="fixed points are not isolated"):
        found = zero.fixed_points()
    assert found["stability"].tolist() == ["neutral"]
    assert np.abs(found[["x", "y"]].to_numpy() - observed.mean(axis=0)).max() < 0.5


def test_a_constant_field_has_none():
    observed = np.random.default_rng(0).normal(size=(50, 2))
    constant = analysis(np.ones_like, lambda Y: np.zeros((len(Y), 2, 2)), observed)
    assert not len(constant.fixed_points())


def test_each_line_of_fixed_points_stands_once():
    """dx/dt = x (1 - x), dy/dt = 0 vanishes on x = 0 and x = 1; rounding of the Jacobian is no direction."""

    def field(Y):
        return np.stack([Y[:, 0] * (1.0 - Y[:, 0]), 1e-17 * Y[:, 1]], axis=1)

    def jacobian(Y):
        matrices = np.full((len(Y), 2, 2), 1e-17)
        matrices[:, 0, 0] = 1.0 - 2.0 * Y[:, 0]
        return matrices

    observed = np.random.default_rng(0).uniform(-0.5, 1.5, size=(50, 2))
    with pytest.warns(UserWarning, match="fixed points are not isolated"):
        found = analysis(field, jacobian, observed).fixed_points()
    np.testing.assert_allclose(found["x"], [0.0, 1.0], atol=1e-8)


def test_a_double_root_is_isolated():
    """dx/dt = x^2 vanishes with its derivative, and not beside 0."""
    observed = np.random.default_rng(0).normal(size=(50, 2))
    found = analysis(
        lambda Y: np.stack([Y[:, 0] ** 2, -Y[:, 1]], axis=1),
        lambda Y: np.stack(
            [np.stack([2 * Y[:, 0], 0 * Y[:, 0]], 1), np.stack([0 * Y[:, 0], 0 * Y[:, 0] - 1], 1)], axis=1
        ),
        observed,
    ).fixed_points()
    assert len(found) == 1
    np.testing.assert_allclose(found[["x", "y"]], 0.0, atol=1e-5)

import numpy as np
import pytest

from skode.equations.inference import _inverse, _sandwich, combinations

RNG = np.random.default_rng(0)


def arrow(n_series, q, s):
    """Normal equations of each series, and all of them as one matrix: shared unknowns, then each series' own."""
    jacobians = RNG.normal(size=(n_series, 7, q))
    size = s + n_series * (q - s)
    rows = np.zeros((n_series, 7, size))
    rows[:, :, :s] = jacobians[:, :, :s]
    for i in range(n_series):
        rows[i, :, s + i * (q - s) : s + (i + 1) * (q - s)] = jacobians[i, :, s:]
    return jacobians, rows


def part(whole, i, q, s):
    places = np.r_[0:s, s + i * (q - s) : s + (i + 1) * (q - s)]
    return whole[np.ix_(places, places)]


@pytest.mark.parametrize(("q", "s"), [(4, 2), (3, 0), (3, 3)])
def test_the_inverse_of_an_arrow_is_that_of_the_whole_matrix(q, s):
    jacobians, rows = arrow(3, q, s)
    found = _inverse(jacobians.swapaxes(1, 2) @ jacobians, s, np.zeros((3, q), dtype=bool))
    flat = rows.reshape(21, -1)
    expected = np.linalg.inv(flat.T @ flat)
    for i in range(3):
        np.testing.assert_allclose(found.covariance[i], part(expected, i, q, s), rtol=1e-8, atol=1e-12)
    assert not found.unknown.any()


@pytest.mark.parametrize(("q", "s"), [(4, 2), (3, 0), (3, 3)])
def test_the_sandwich_of_an_arrow_is_that_of_the_whole_matrix(q, s):
    jacobians, rows = arrow(3, q, s)
    residuals = RNG.normal(size=(3, 7, 1))
    held, H = np.zeros((3, q), dtype=bool), jacobians.swapaxes(1, 2) @ jacobians
    meat = (jacobians * residuals).swapaxes(1, 2) @ (jacobians * residuals)
    found = _sandwich(_inverse(H, s, held), meat, H, (s, held))
    flat, scores = rows.reshape(21, -1), (rows * residuals).reshape(21, -1)
    bread = np.linalg.inv(flat.T @ flat)
    expected = bread @ (scores.T @ scores) @ bread
    for i in range(3):
        np.testing.assert_allclose(found.covariance[i], part(expected, i, q, s), rtol=1e-8, atol=1e-12)


def test_unknowns_that_are_held_have_no_variance_and_are_no_missing_direction():
    jacobians, _ = arrow(2, 3, 1)
    held = np.zeros((2, 3), dtype=bool)
    held[1, 2] = True
    jacobians[1, :, 2] = 0.0
    found = _inverse(jacobians.swapaxes(1, 2) @ jacobians, 1, held)
    assert not found.directions
    assert not found.covariance[1, 2].any()
    assert (np.diagonal(found.covariance[0]) > 0.0).all()


def test_combinations_without_information_are_named():
    jacobian = RNG.normal(size=(1, 9, 4))
    jacobian[:, :, 1] = 1e3 * jacobian[:, :, 0]
    jacobian[:, :, 3] = 0.0
    found = _inverse(jacobian.swapaxes(1, 2) @ jacobian, 4, np.zeros((1, 4), dtype=bool))
    assert sorted(combinations(found, ["a", "b", "c", "d"])) == ["a with b", "d"]
    assert found.unknown.tolist() == [[True, True, False, True]]
    assert np.isfinite(found.errors()[0, 2])


def test_own_unknowns_that_move_along_with_shared_ones_are_part_of_the_combination():
    """Of a, which is shared, and b, which is each series' own, the sum alone is seen; c is seen."""
    jacobians = RNG.normal(size=(2, 7, 3))
    jacobians[0, :, 1] = 2.0 * jacobians[0, :, 0]
    jacobians[1, :, 1] = 1e3 * jacobians[1, :, 0]
    found = _inverse(jacobians.swapaxes(1, 2) @ jacobians, 1, np.zeros((2, 3), dtype=bool))
    assert combinations(found, ["a", "b", "c"]) == ["a with b"]
    assert found.unknown.tolist() == [[True, True, False]] * 2
    assert np.isinf(found.errors()).tolist() == [[True, True, False]] * 2

"""The Runge-Kutta methods satisfy the order conditions (rooted trees; Hairer, Norsett, Wanner I, section II.2)."""

import dataclasses
from functools import cache
from math import prod

import numpy as np
import pytest

from skode.solvers import METHODS
from skode.solvers.tableaus import get_tableau

INTERPOLANT_ORDER = {"euler": 1, "midpoint": 2, "rk4": 3, "bosh3": 3, "tsit5": 4, "dopri5": 4}
# Tsit5 is published in sixteen digits and has coefficients beyond 10.
ROUNDING = 2e-14
THETA = np.array([0.05, 0.25, 0.5, 0.7, 0.95])


@pytest.fixture
def tableau(method):
    return METHODS[method]


@pytest.fixture
def adaptive_tableau(adaptive_method):
    return METHODS[adaptive_method]


@cache
def partitions(n, largest):
    """Ways to write n as a sum of parts of at most ``largest``, largest part first."""
    if n == 0:
        return [()]
    return [(part, *rest) for part in range(min(n, largest), 0, -1) for rest in partitions(n - part, part)]


@cache
def rooted_trees(order):
    """All rooted trees with ``order`` nodes, each as the sorted tuple of its root's subtrees."""
    trees = set()
    for sizes in partitions(order - 1, order - 1):
        forests = [()]
        for size in sizes:
            forests = [(*forest, tree) for forest in forests for tree in rooted_trees(size)]
        trees.update(tuple(sorted(forest, key=repr)) for forest in forests)
    return sorted(trees, key=repr)


def n_nodes(tree):
    return 1 + sum(n_nodes(subtree) for subtree in tree)


def density(tree):
    return n_nodes(tree) * prod(density(subtree) for subtree in tree)


def full_matrix(tableau):
    s = tableau.n_stages
    return np.array([[*row, *[0.0] * (s - len(row))] for row in tableau.a])


def stage_weights(tree, a):
    """What each stage contributes to the elementary differential of a tree."""
    return prod((a @ stage_weights(subtree, a) for subtree in tree), start=np.ones(len(a)))


def residuals(weights, a, order, theta=1.0):
    """By how much the weights miss ``sum_i b_i Phi_i(tree) = theta^n / density``, for every tree of n nodes."""
    return [
        weights @ stage_weights(tree, a) - theta ** n_nodes(tree) / density(tree)
        for n in range(1, order + 1)
        for tree in rooted_trees(n)
    ]


def test_numbers_of_rooted_trees():
    # Sloane's A000081: the conditions tested below are all there are.
    assert [len(rooted_trees(n)) for n in range(1, 7)] == [1, 1, 2, 4, 9, 20]


def test_stage_times_are_row_sums(tableau):
    np.testing.assert_allclose(full_matrix(tableau).sum(1), tableau.c, rtol=0, atol=2e-15)


def test_solution_satisfies_all_conditions_to_its_order(tableau):
    missed = residuals(np.array(tableau.b), full_matrix(tableau), tableau.order)
    np.testing.assert_allclose(missed, 0.0, atol=ROUNDING)


def test_solution_misses_a_condition_of_the_next_order(tableau):
    missed = residuals(np.array(tableau.b), full_matrix(tableau), tableau.order + 1)
    assert np.abs(missed).max() > 1e-5


def test_error_weights_sum_to_zero(adaptive_tableau):
    assert abs(sum(adaptive_tableau.e)) < 1e-15


def test_embedded_solution_satisfies_all_conditions_to_its_order_and_no_further(adaptive_tableau):
    a, embedded = full_matrix(adaptive_tableau), np.array(adaptive_tableau.b) - adaptive_tableau.e
    assert adaptive_tableau.error_order == adaptive_tableau.order - 1
    np.testing.assert_allclose(residuals(embedded, a, adaptive_tableau.error_order), 0.0, atol=ROUNDING)
    assert np.abs(residuals(embedded, a, adaptive_tableau.order)).max() > 1e-5


def test_interpolant_satisfies_all_conditions_to_its_order(tableau):
    order = INTERPOLANT_ORDER[tableau.name]
    for theta, weights in zip(THETA, tableau.interpolation_weights(THETA), strict=True):
        missed = residuals(weights, full_matrix(tableau), order, theta)
        np.testing.assert_allclose(missed, 0.0, atol=ROUNDING)


def test_interpolant_starts_at_the_state_and_ends_at_the_solution_exactly(tableau):
    start, end = tableau.interpolation_weights(np.array([0.0, 1.0]))
    assert start.tolist() == [0.0] * tableau.n_stages
    assert end.tolist() == list(tableau.b)


def test_interpolant_arrives_at_the_solution_continuously(tableau):
    np.testing.assert_allclose(np.sum(tableau.interpolant, axis=1), tableau.b, rtol=0, atol=ROUNDING)


def test_interpolant_leaves_along_the_first_stage(tableau):
    expected = [1.0] + [0.0] * (tableau.n_stages - 1)
    np.testing.assert_allclose(tableau.interpolation_weight_slopes(np.array([0.0]))[0], expected, atol=1e-13)


def test_interpolant_of_adaptive_methods_arrives_along_the_last_stage(adaptive_tableau):
    # The first stage of the next step: the dense output has a continuous derivative.
    expected = [0.0] * (adaptive_tableau.n_stages - 1) + [1.0]
    np.testing.assert_allclose(adaptive_tableau.interpolation_weight_slopes(np.array([1.0]))[0], expected, atol=1e-13)


def test_weight_slopes_are_the_derivatives_of_the_weights(tableau):
    coefficients = [np.polynomial.Polynomial([0.0, *row]) for row in tableau.interpolant]
    expected = np.stack([polynomial.deriv()(THETA) for polynomial in coefficients], axis=1)
    np.testing.assert_allclose(tableau.interpolation_weight_slopes(THETA), expected, rtol=1e-12, atol=1e-13)


def test_adaptive_methods_evaluate_their_last_stage_at_the_new_state(tableau):
    assert tableau.first_same_as_last == tableau.adaptive


def test_a_tableau_cannot_be_changed(tableau):
    with pytest.raises(dataclasses.FrozenInstanceError):
        tableau.order = 9


@pytest.mark.parametrize("name", ["rk5", "DOPRI5", None, 5, ["rk4"]])
def test_an_unknown_method_is_refused_with_the_known_ones(name):
    with pytest.raises(ValueError, match=r"method=.*bosh3.*dopri5.*tsit5") as caught:
        get_tableau(name)
    assert repr(name) in str(caught.value)

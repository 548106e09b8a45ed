"""Interpolants of Runge-Kutta methods that were published without one.

An interpolant is a matrix P of shape (s, degree): ``b_i(theta) = sum_p P_ip theta^p``. It has order q where
``sum_i b_i(theta) Phi_i(tree) = theta^n / gamma(tree)`` for every rooted tree of ``n <= q`` nodes (Hairer, Norsett,
Wanner, Solving Ordinary Differential Equations I, 1993, II.6).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cache
from math import factorial, prod

import numpy as np
from numpy.polynomial import Polynomial

from skode.solvers.tableaus.tableau import Row, square

Tree = tuple["Tree", ...]


def cubic_hermite(b: Sequence[float]) -> tuple[Row, ...]:
    """The cubic through both ends of the step, with the first and the last stage as its slopes there.

    Parameters
    ----------
    b : sequence of s floats
        Weights of the solution, of a method whose last stage is the first of the next step.

    Returns
    -------
    tuple of s tuples of length 3
        Of order 3, or of the method's order where that is less.
    """
    # theta, theta^2, theta^3 of the polynomials that go with y1 - y, with the first slope and with the last.
    end, first_slope, last_slope = (np.array(row) for row in ([0.0, 3.0, -2.0], [1.0, -2.0, 1.0], [0.0, -1.0, 1.0]))
    weights = np.outer(b, end)
    weights[0] += first_slope
    weights[-1] += last_slope
    return _rows(weights)


def collocation_polynomial(c: Sequence[float]) -> tuple[Row, ...]:
    """The polynomial whose slopes at the stage times are the stages.

    Parameters
    ----------
    c : sequence of s floats
        Times of the stages, all different.

    Returns
    -------
    tuple of s tuples of length s
        Of order s: ``b_i(theta)`` is the integral of the i-th Lagrange polynomial on ``c``.
    """
    lagrange = [
        prod((Polynomial([-other, 1.0]) / (time - other) for other in c if other != time), start=Polynomial([1.0]))
        for time in c
    ]
    return _rows(np.array([polynomial.integ().coef[1:] for polynomial in lagrange]))


def continuous_extension(a: Sequence[Row], b: Sequence[float], order: int, degree: int) -> tuple[Row, ...]:
    """The interpolant of a given order that best meets the conditions of the next one.

    The conditions of order are linear in P. To them are added ``b_i(1) = b_i`` and, where the first stage is
    explicit, that the interpolant leaves along it; where moreover the last stage is evaluated at the new state, that
    it arrives along that one, so that the solution has a continuous derivative. What these leave free minimises
    ``integral_0^1 sum_tree (r(tree, theta) / sigma(tree))^2 dtheta`` over the trees of ``order + 1`` nodes: r is by
    how much their condition is missed and sigma the symmetry of the tree, so ``r / sigma`` is what multiplies
    its elementary differential in the error (ibid., theorem II.3.2). Of several minimisers it is the one of least norm.

    Parameters
    ----------
    a : sequence of s tuples
        Weights of the stages.
    b : sequence of s floats
        Weights of the solution.
    order : int
        The order of the interpolant. Where the stages allow none, the conditions are met in the least-squares sense.
    degree : int
        Degree of the polynomials.

    Returns
    -------
    tuple of s tuples of length ``degree``
    """
    matrix = square(a)
    stages = np.eye(len(b))
    powers = np.arange(1, degree + 1)

    # Everything is linear in the rows of P put one after another.
    trees = [tree for n in range(1, order + 1) for tree in rooted_trees(n)]
    weights, values = _order_conditions(trees, matrix, degree)
    constraints = [np.kron(weights, np.eye(degree)), np.kron(stages, np.ones(degree))]
    constraint_values = [values.ravel(), np.asarray(b)]
    if not matrix[0].any():
        constraints.append(np.kron(stages, powers == 1))
        constraint_values.append(stages[0])
        if (matrix[-1] == b).all():
            constraints.append(np.kron(stages, powers))
            constraint_values.append(stages[-1])

    next_trees = rooted_trees(order + 1)
    highest = max(degree, order + 1)
    weights, values = _order_conditions(next_trees, matrix, highest)
    symmetries = np.array([[_symmetry(tree)] for tree in next_trees])
    root = _root_of_gram_matrix(highest)
    objective = np.kron(weights / symmetries, root[:, :degree])
    target = (values / symmetries @ root.T).ravel()

    solution = _constrained_least_squares(
        objective, target, np.concatenate(constraints), np.concatenate(constraint_values)
    )
    return _rows(solution.reshape(len(b), degree))


def _order_conditions(trees: Sequence[Tree], a: np.ndarray, degree: int) -> tuple[np.ndarray, np.ndarray]:
    """Elementary weights of the stages, of shape (trees, s), and what they sum to with P, of shape (trees, degree)."""
    weights = np.array([_elementary_weights(tree, a) for tree in trees])
    values = np.zeros((len(trees), degree))
    for row, tree in zip(values, trees, strict=True):
        row[_n_nodes(tree) - 1] = 1 / _density(tree)
    return weights, values


def _root_of_gram_matrix(degree: int) -> np.ndarray:
    """R with ``|R x|^2`` the integral over [0, 1] of the square of ``x_1 theta + x_2 theta^2 + ...``."""
    p = np.arange(1, degree + 1)
    return np.linalg.cholesky(1 / (p[:, None] + p + 1)).T


def _constrained_least_squares(
    objective: np.ndarray, target: np.ndarray, constraints: np.ndarray, values: np.ndarray
) -> np.ndarray:
    """The x of least norm among those that minimise ``|objective x - target|`` with ``constraints x = values``."""
    left, singular_values, right = np.linalg.svd(constraints, full_matrices=True)
    # Directions that the constraints fix have singular values above 1e-7 of the largest, the others below 1e-15.
    rank = int((singular_values > 1e-11 * singular_values[0]).sum())
    fixed, free = right[:rank].T, right[rank:].T
    x = fixed @ (left[:, :rank].T @ values / singular_values[:rank])
    if free.shape[1]:
        x = x + free @ np.linalg.lstsq(objective @ free, target - objective @ x, rcond=1e-11)[0]
    return x


@cache
def rooted_trees(n: int) -> tuple[Tree, ...]:
    """All rooted trees of n nodes, each as the sorted tuple of its root's subtrees."""
    if n == 1:
        return ((),)
    return tuple(sorted({grown for tree in rooted_trees(n - 1) for grown in _with_one_more_leaf(tree)}))


def _with_one_more_leaf(tree: Tree) -> Iterator[Tree]:
    yield tuple(sorted((*tree, ())))
    for i, subtree in enumerate(tree):
        for grown in _with_one_more_leaf(subtree):
            yield tuple(sorted((*tree[:i], grown, *tree[i + 1 :])))


def _n_nodes(tree: Tree) -> int:
    return 1 + sum(map(_n_nodes, tree))


def _density(tree: Tree) -> int:
    return _n_nodes(tree) * prod(map(_density, tree))


def _symmetry(tree: Tree) -> int:
    return prod(factorial(repeats) * _symmetry(subtree) ** repeats for subtree, repeats in Counter(tree).items())


def _elementary_weights(tree: Tree, a: np.ndarray) -> np.ndarray:
    """The contribution of each stage to the elementary differential of a tree, of shape (s,)."""
    return prod((a @ _elementary_weights(subtree, a) for subtree in tree), start=np.ones(len(a)))


def _rows(weights: np.ndarray) -> tuple[Row, ...]:
    return tuple(tuple(row) for row in weights.tolist())

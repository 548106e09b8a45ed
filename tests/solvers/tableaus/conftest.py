"""Every method, and the order conditions (rooted trees; Hairer, Norsett, Wanner I, section II.2)."""

from functools import cache
from math import prod

import numpy as np
import pytest


@pytest.fixture
def full_matrix():
    """A tableau's ``a`` as a square array."""

    def matrix(tableau):
        s = tableau.n_stages
        return np.array([[*row, *[0.0] * (s - len(row))] for row in tableau.a])

    return matrix


@cache
def partitions(n, largest):
    """Ways to write n as a sum of parts of at most ``largest``, largest part first."""
    if n == 0:
        return [()]
    return [(part, *rest) for part in range(min(n, largest), 0, -1) for rest in partitions(n - part, part)]


@cache
def trees_of_order(order):
    """All rooted trees with ``order`` nodes, each as the sorted tuple of its root's subtrees."""
    trees = set()
    for sizes in partitions(order - 1, order - 1):
        forests = [()]
        for size in sizes:
            forests = [(*forest, tree) for forest in forests for tree in trees_of_order(size)]
        trees.update(tuple(sorted(forest)) for forest in forests)
    return sorted(trees)


def n_nodes(tree):
    return 1 + sum(n_nodes(subtree) for subtree in tree)


def density(tree):
    return n_nodes(tree) * prod(density(subtree) for subtree in tree)


def stage_weights(tree, a):
    """What each stage contributes to the elementary differential of a tree."""
    return prod((a @ stage_weights(subtree, a) for subtree in tree), start=np.ones(len(a)))


@pytest.fixture
def rooted_trees():
    """The rooted trees of a number of nodes."""
    return trees_of_order


@pytest.fixture
def elementary_weights():
    """Elementary weights of the stages for the trees of n nodes, of shape (trees, s), and the trees' densities."""

    def weights(n, a):
        trees = trees_of_order(n)
        return np.array([stage_weights(tree, a) for tree in trees]), np.array([density(tree) for tree in trees])

    return weights


@pytest.fixture
def residuals(elementary_weights):
    """By how much weights miss ``sum_i b_i Phi_i(tree) = theta^n / density``, for every tree of n nodes."""

    def missed(weights, a, n, theta=1.0):
        phi, densities = elementary_weights(n, a)
        return phi @ weights - theta**n / densities

    return missed

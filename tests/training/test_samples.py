"""Samples are trained on once each, with the weights of equal ones added."""

import numpy as np
import pytest

from skode.training import distinct

X = np.array([[1.0, 2.0], [3.0, 4.0], [1.0, 2.0], [1.0, 2.0], [5.0, 6.0]])
Y = np.array([0, 1, 0, 1, 0])


def as_set(X, y, rows, weights):
    return {(*X[i], y[i], w) for i, w in zip(rows, weights, strict=True)}


def test_equal_samples_become_one_with_the_weights_added():
    rows, weights = distinct(X, Y, np.array([1.0, 2.0, 0.5, 4.0, 8.0]))
    assert as_set(X, Y, rows, weights) == {(1, 2, 0, 1.5), (3, 4, 1, 2.0), (1, 2, 1, 4.0), (5, 6, 0, 8.0)}


def test_samples_without_weight_are_left_out():
    rows, weights = distinct(X, Y, np.array([0.0, 2.0, 0.0, 0.0, 1.0]))
    assert as_set(X, Y, rows, weights) == {(3, 4, 1, 2.0), (5, 6, 0, 1.0)}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_order_depends_on_what_the_samples_are_alone(dtype):
    rng = np.random.RandomState(0)
    X = rng.randn(50, 3).astype(dtype)
    y = rng.randn(50, 2)
    rows, weights = distinct(X, y, np.ones(50))
    order = rng.permutation(np.repeat(np.arange(50), 2))
    repeated, doubled = distinct(X[order], y[order], np.ones(100))
    np.testing.assert_array_equal(X[order][repeated], X[rows])
    np.testing.assert_array_equal(doubled, 2 * weights)


def test_layout_does_not_matter():
    rows, _ = distinct(np.asfortranarray(X), Y, np.ones(5))
    np.testing.assert_array_equal(X[rows], X[distinct(X, Y, np.ones(5))[0]])

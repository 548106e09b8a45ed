import numpy as np
import pytest

from skode.density.samples import Samples

X = np.array([[3.0, 1.0], [2.0, 5.0], [3.0, 1.0], [1.0, 4.0]])


def test_equal_samples_are_merged_and_their_weights_added():
    samples = Samples.distinct(X, np.array([1.0, 0.5, 2.0, 0.0]), shuffle=False)
    np.testing.assert_array_equal(samples.points, X[:2])
    np.testing.assert_array_equal(samples.weights, [3.0, 0.5])


def test_a_sample_given_twice_is_one_of_weight_two_in_the_same_place():
    twice = Samples.distinct(X, np.ones(4), shuffle=True)
    weighted = Samples.distinct(X[[1, 3, 0]], np.array([1.0, 1.0, 2.0]), shuffle=True)
    np.testing.assert_array_equal(twice.points, weighted.points)
    np.testing.assert_array_equal(twice.weights, weighted.weights)


@pytest.mark.parametrize("shuffle", [True, False])
def test_samples_of_one_weight_keep_their_order(shuffle):
    rows = X[[1, 0, 3]]
    np.testing.assert_array_equal(Samples.distinct(rows, np.full(3, 0.3), shuffle=shuffle).points, rows)


@pytest.mark.parametrize(("weight", "size"), [(0.1, 3.0), (2.0, 6.0)])
def test_the_size_is_that_of_the_weights_but_at_least_the_number(weight, size):
    assert Samples(X[:3], np.full(3, weight)).size == size


def test_a_split_keeps_weights_beside_their_samples():
    samples = Samples(np.arange(10.0)[:, None], np.arange(10.0))
    parts = samples.split(0.3, np.random.RandomState(0))
    assert [len(part) for part in parts] == [7, 3]
    assert sorted(np.concatenate([part.weights for part in parts])) == [*range(10)]
    for part in parts:
        np.testing.assert_array_equal(part.points[:, 0], part.weights)


def test_a_split_that_leaves_nothing_says_which_parameters_to_change():
    with pytest.raises(ValueError, match=r"validation_fraction=0\.9 of 1 samples .* lower validation_fraction"):
        Samples(X[:1], np.ones(1)).split(0.9, np.random.RandomState(0))

import numpy as np

from skode.equations.layout import Layout
from skode.equations.parameters import Scales, read_parameters
from skode.equations.starts import drawn_starts, filled, observed_states


def test_starts_fill_intervals_and_surround_the_users_elsewhere():
    scales = Scales(read_parameters({"in": (0.5, -1.0, 3.0), "log": (2.0, 0, None), "free": -3.0, "zero": 0.0}))
    drawn = drawn_starts(scales, 4, 200, np.random.RandomState(0))
    assert drawn.shape == (200, 4)
    for column, (low, high) in enumerate([(-1, 3), np.log([0.2, 20.0]), (-9, 3), (-1, 1)]):
        share = (drawn[:, column] - low) / (high - low)
        assert share.min() >= 0.0
        assert share.max() <= 1.0
        assert np.histogram(share, 4, (0, 1))[0].min() > 40


def test_no_starts_are_drawn_of_nothing():
    scales = Scales(read_parameters({"a": 1.0}))
    assert drawn_starts(scales, 1, 0, np.random.RandomState(0)).shape == (0, 1)


def test_observed_states_are_linear_between_observations():
    y = np.array([[0.0], [np.nan], [4.0], [7.0]])
    layout = Layout.of(np.array([0, 0, 0, 1]), np.array([0.0, 1.0, 2.0, 5.0]), y, np.ones(4), np.array([0.0, 5.0]), 2)
    states = observed_states(layout, {1: 0}, np.array([[0.5, 1.0, 9.0], [5.0, np.nan, 6.0]]), 2)
    assert np.isnan(states[:, :, 0]).all()
    np.testing.assert_array_equal(states[0, :, 1], [1.0, 2.0, 4.0])
    assert states[1, 0, 1] == 7.0


def test_nodes_without_a_state_have_that_of_the_one_before():
    nodes = np.array([[[np.nan], [1.0], [np.inf], [np.nan]]])
    assert filled(nodes, np.array([[5.0]]))[0, :, 0].tolist() == [5.0, 1.0, 1.0, 1.0]

import numpy as np
import pytest

from skode.equations.layout import Cells, Layout, ranges

CODES = np.array([0, 0, 0, 0, 1, 1, 2])
TIME = np.array([0.0, 1.0, 2.0, 2.0, 5.0, 9.0, 3.0])
Y = np.array([[1.0], [2.0], [np.nan], [4.0], [5.0], [6.0], [7.0]])
T0 = np.array([0.0, 4.0, 3.0])


@pytest.fixture
def layout():
    return Layout.of(CODES, TIME, Y, np.full(7, 2.0), T0, 2)


def test_ranges_of_some_parts():
    items, owners = ranges(np.array([0, 2, 2, 5]), np.array([2, 0, 1, 2]))
    assert items.tolist() == [2, 3, 4, 0, 1, 2, 3, 4]
    assert owners.tolist() == [0, 0, 0, 1, 1, 3, 3, 3]


def test_segments_cover_each_series(layout):
    assert np.diff(layout.segment_pointer).tolist() == [2, 2, 0]  # the last one was seen at its start only
    for i, end in enumerate([2.0, 9.0]):
        own = layout.spans[layout.segment_pointer[i] : layout.segment_pointer[i + 1]]
        assert own[0, 0] == T0[i]
        assert own[-1, 1] == end
        np.testing.assert_array_equal(own[1:, 0], own[:-1, 1])
    assert layout.n_nodes == 2
    np.testing.assert_array_equal(layout.node_times()[:, 0], T0)
    assert np.isnan(layout.node_times()[2, 1])


def test_rows_are_found_in_their_segments(layout):
    cells = Cells.of(layout, np.array([1, 0, 2]))
    for row, segment in zip(cells.rows, cells.row_segment, strict=True):
        if segment < 0:
            assert layout.time[row] == layout.t0[CODES[row]]
        else:
            assert layout.times[cells.segments[segment], layout.slot[row]] == layout.time[row]
    ends = layout.times[np.arange(4), layout.last]
    np.testing.assert_array_equal(ends, layout.spans[:, 1])


def test_what_was_not_observed_has_no_weight(layout):
    np.testing.assert_array_equal(layout.weights[:, 0], [2.0, 2.0, 0.0, 2.0, 2.0, 2.0, 2.0])
    assert np.isfinite(layout.y).all()


@pytest.mark.parametrize("spacing", ["even", "logarithmic", "gap"])
def test_no_segment_has_much_of_the_time_or_of_the_observations(spacing):
    t = {
        "even": np.linspace(0.0, 1.0, 41),
        "logarithmic": np.concatenate([[0.0], np.logspace(-5, 0, 40)]),
        "gap": np.concatenate([np.linspace(0.0, 0.1, 21), np.linspace(0.9, 1.0, 20)]),
    }[spacing]
    layout = Layout.of(np.zeros(41, dtype=int), t, np.ones((41, 1)), np.ones(41), np.zeros(1), 10)
    assert np.diff(layout.spans, axis=1).max() <= 0.2 + 1e-9
    assert (~np.isnan(layout.times)).sum(axis=1).max() <= 0.2 * 40 + 2

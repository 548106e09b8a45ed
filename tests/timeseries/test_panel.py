from dataclasses import replace

import numpy as np
import pytest

from skode.timeseries.panel import Panel


def panel_of(series, time, y=None, covariates=None):
    n = len(time)
    y = np.arange(n, dtype=float) if y is None else np.asarray(y, dtype=float)
    covariates = np.empty((n, 0)) if covariates is None else covariates
    return Panel.of(np.asarray(series, dtype=object), np.asarray(time, dtype=float), covariates, y.reshape(n, -1))


@pytest.fixture
def panel():
    # a: 1, 2, 3; b: 10; c: 4, 5
    return panel_of(["c", "a", "b", "a", "c", "a"], [5, 3, 10, 1, 4, 2])


def series_of(panel, name):
    code = panel.ids.get_loc(name)
    return panel.time[panel.codes == code].tolist(), panel.y[panel.codes == code, 0].tolist()


def test_rows_are_sorted_by_series_then_time_and_values_follow(panel):
    assert (np.diff(panel.codes) >= 0).all()
    assert series_of(panel, "a") == ([1, 2, 3], [3, 5, 1])
    assert series_of(panel, "b") == ([10], [2])
    assert series_of(panel, "c") == ([4, 5], [4, 0])


def test_a_series_starts_at_its_first_row(panel):
    assert dict(zip(panel.ids, panel.origins, strict=True)) == {"a": 1, "b": 10, "c": 4}
    assert panel.since_origin().min() == 0
    assert panel.since_origin()[panel.codes == panel.ids.get_loc("a")].tolist() == [0, 1, 2]


def test_the_order_of_rows_does_not_matter(panel):
    order = [4, 2, 0, 5, 3, 1]
    series, time = np.array(["c", "a", "b", "a", "c", "a"])[order], np.array([5, 3, 10, 1, 4, 2])[order]
    other = panel_of(series, time, y=order)
    assert other.ids.tolist() == panel.ids.tolist()
    np.testing.assert_array_equal(other.time, panel.time)
    np.testing.assert_array_equal(other.y, panel.y)


def test_rows_at_one_time_keep_their_order():
    panel = panel_of([0, 0, 0, 0], [2, 1, 1, 1], y=[0, 1, 2, 3])
    assert panel.y[:, 0].tolist() == [1, 2, 3, 0]


def test_take_gives_the_series_asked_for_in_that_order(panel):
    names = ["c", "a"]
    taken = panel.take(panel.ids.get_indexer(names))
    assert taken.ids.tolist() == names
    assert taken.codes.tolist() == [0, 0, 1, 1, 1]
    for name in names:
        assert series_of(taken, name) == series_of(panel, name)
        assert taken.origins[taken.ids.get_loc(name)] == panel.origins[panel.ids.get_loc(name)]


def test_taking_an_empty_series_gives_no_rows():
    panel = panel_of(["a", "b", "c"], [1, 2, 3], y=[0, np.nan, 1]).observed()
    taken = panel.take(panel.ids.get_indexer(["b", "c"]))
    assert taken.ids.tolist() == ["b", "c"]
    assert taken.codes.tolist() == [1]


def test_observed_drops_rows_where_nothing_was_seen_and_keeps_their_series():
    y = [[0, np.nan], [np.nan, np.nan], [np.nan, 2], [np.nan, np.nan]]
    panel = panel_of(["a", "a", "a", "b"], [1, 2, 3, 4], y=y)
    seen = panel.observed()
    assert seen.time.tolist() == [1, 3]
    assert seen.ids.tolist() == ["a", "b"]
    assert seen.origins.tolist() == [1, 4]


def test_slots_count_rows_and_number_them_within_their_series(panel):
    lengths, places = panel.take(panel.ids.get_indexer(["a", "b", "c"])).slots()
    assert lengths.tolist() == [3, 1, 2]
    assert places.tolist() == [0, 1, 2, 0, 0, 1]


def test_slots_of_an_empty_series_are_none():
    panel = panel_of(["a", "b", "c"], [1, 2, 3], y=[0, np.nan, 1]).observed()
    lengths, places = panel.slots()
    assert lengths.tolist() == [1, 0, 1]
    assert places.tolist() == [0, 0]


def test_joined_has_the_rows_of_both(panel):
    joined = panel.joined(panel_of(["a", "d"], [2.5, 7], y=[50, 60]))
    assert set(joined.ids) == {"a", "b", "c", "d"}
    assert series_of(joined, "a") == ([1, 2, 2.5, 3], [3, 5, 50, 1])
    assert series_of(joined, "d") == ([7], [60])


def test_joined_keeps_the_origins_of_known_series(panel):
    joined = panel.joined(panel_of(["a", "d"], [-5, 7]))
    origins = dict(zip(joined.ids, joined.origins, strict=True))
    assert origins == {"a": 1, "b": 10, "c": 4, "d": 7}
    assert joined.since_origin().min() == -6  # the row before a's start


def test_joined_keeps_series_of_which_nothing_was_observed():
    first = panel_of(["a", "b"], [1, 2], y=[0, np.nan]).observed()
    second = panel_of(["c", "d"], [3, 4], y=[1, np.nan]).observed()
    joined = first.joined(second)
    assert dict(zip(joined.ids, joined.origins, strict=True)) == {"a": 1, "b": 2, "c": 3, "d": 4}
    lengths = dict(zip(joined.ids, joined.slots()[0], strict=True))
    assert lengths == {"a": 1, "b": 0, "c": 1, "d": 0}


def test_joined_has_rows_of_both_once_with_their_weights_added():
    first = panel_of(["a", "a", "b"], [1, 1, 2], y=[0, 3, np.nan])
    joined = first.joined(panel_of(["b", "a", "a"], [2, 1, 1], y=[np.nan, 4, 3]))
    assert series_of(joined, "a") == ([1, 1, 1], [0, 3, 4])
    assert joined.row_weights().tolist() == [1, 2, 1, 2]
    assert joined.joined(first).row_weights().tolist() == [2, 3, 1, 3]
    assert first.joined(panel_of(["a"], [1], y=[5])).weights is None


def test_joined_leaves_both_panels_unchanged(panel):
    before = panel.origins.copy(), panel.time.copy()
    panel.joined(panel_of(["a"], [-5]))
    np.testing.assert_array_equal(panel.origins, before[0])
    np.testing.assert_array_equal(panel.time, before[1])


def test_windows_are_from_first_row_to_last_since_the_start(panel):
    windows = panel.joined(panel_of(["a"], [-5])).windows()
    assert dict(zip(panel.ids, windows.tolist(), strict=True)) == {"a": [-6, 2], "b": [0, 0], "c": [0, 1]}


def test_a_start_may_lie_before_the_first_row(panel):
    earlier = panel.starting(0.5)
    assert dict(zip(earlier.ids, earlier.origins, strict=True)) == {"a": 0.5, "b": 9.5, "c": 3.5}
    assert earlier.windows().tolist() == [[0.5, 2.5], [0.5, 0.5], [0.5, 1.5]]
    np.testing.assert_array_equal(earlier.time, panel.time)
    assert earlier.starting(0.5).origins.tolist() == earlier.origins.tolist()


def test_the_window_of_a_series_without_rows_is_none():
    panel = panel_of(["a", "b", "b", "c"], [1, 2, 5, 3], y=[np.nan, 0, 1, np.nan]).observed()
    assert dict(zip(panel.ids, panel.windows().tolist(), strict=True)) == {"a": [0, 0], "b": [0, 3], "c": [0, 0]}


def test_without_takes_values_away_and_keeps_rows(panel):
    hidden = panel.time < 3
    less = panel.without(hidden)
    assert np.isnan(less.y[:, 0]).tolist() == hidden.tolist()
    np.testing.assert_array_equal(less.y[~hidden], panel.y[~hidden])
    np.testing.assert_array_equal(less.time, panel.time)
    assert not np.isnan(panel.y).any()


def test_rows_of_series_stand_in_the_order_given(panel):
    codes = panel.ids.get_indexer(["c", "a"])
    rows = panel.rows_of(codes)
    assert panel.time[rows].tolist() == [4, 5, 1, 2, 3]
    assert panel.rows_of(np.array([], dtype=int)).tolist() == []


def test_take_takes_covariates_along():
    panel = panel_of(["a", "b", "a"], [2, 1, 1], covariates=np.array([[20.0], [30.0], [10.0]]))
    taken = panel.take(panel.ids.get_indexer(["b", "a"]))
    assert taken.covariates[:, 0].tolist() == [30, 10, 20]
    other = replace(panel, y=panel.y + 5)
    assert taken.joined(other).covariates[:, 0].tolist() == [30, 30, 10, 10, 20, 20]


def test_ids_without_an_order_are_accepted():
    panel = panel_of(["a", 1, "a", (2, 3)], [2, 1, 1, 0])
    assert panel.n_series == 3
    assert series_of(panel, "a") == ([1, 2], [2, 0])


def test_weights_follow_their_rows(panel):
    weights = np.arange(6.0) + 1.0  # as the values of y, and 1
    weighted = Panel.of(
        np.array(["c", "a", "b", "a", "c", "a"], dtype=object),
        np.array([5.0, 3, 10, 1, 4, 2]),
        np.empty((6, 0)),
        np.arange(6.0)[:, None],
        weights,
    )
    more = panel_of(["d", "a"], [0, 2.5], y=[-1, -1])
    joined, (beside, mine) = weighted.joined(more), weighted.beside(more)
    kept = weighted.y[:, 0] != 3
    for changed in (
        weighted,
        weighted.take(np.array([2, 0])),
        weighted.starting(1.0),
        weighted.without(~kept).observed(),
        weighted.until(weighted.y[:, 0] == 5),
        joined.take(np.array([0, 1, 2])).without(joined.take(np.array([0, 1, 2])).y[:, 0] < 0).observed(),
        beside.without(~mine).observed(),
    ):
        np.testing.assert_array_equal(changed.weights, changed.y[:, 0] + 1.0)
    assert joined.weights[joined.y[:, 0] < 0].tolist() == [1.0, 1.0]
    assert more.joined(weighted).weights.sum() == weights.sum() + 2.0
    assert panel.joined(more).weights is None

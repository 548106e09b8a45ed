"""Rows to predict at, beside the observations of their series."""

import numpy as np
import pandas as pd
import pytest

from skode.frames import LongRows, take_apart
from skode.timeseries.panel import Panel
from skode.timeseries.query import Query
from skode.timeseries.units import Units

KNOWN = pd.DataFrame({"id": ["b", "a", "b", "a"], "t": [2.0, 1.0, 3.0, 5.0]})
Y = np.arange(4.0)


def rows_of(frame):
    return take_apart(frame, series="id", time="t")


@pytest.fixture
def query():
    rows = rows_of(KNOWN)
    units = Units.learned(rows, Y[:, None], None, Y, standardise=True)
    known = units.panel(rows, Y[:, None], None)

    def query(ids, times):
        return Query.of(rows_of(pd.DataFrame({"id": ids, "t": times})), known, units)

    return query


def test_rows_are_sorted_and_their_places_remembered(query):
    found = query(["a", "new", "a", "b"], [4.0, 9.0, 2.0, 7.0])
    assert list(found.panel.ids) == ["a", "new", "b"]
    assert found.order.tolist() == [2, 0, 1, 3]
    assert found.panel.time.tolist() == [2.0, 4.0, 9.0, 7.0]
    assert [found.known.ids[i] if i >= 0 else None for i in found.positions] == ["a", None, "b"]
    assert np.isnan(found.panel.y).all()


def test_known_series_keep_their_start_and_others_have_the_median_one(query):
    found = query(["b", "new"], [4.0, 4.0])
    origins = found.known.origins
    assert found.panel.origins[0] == origins[list(found.known.ids).index("b")]
    assert found.panel.origins[1] == np.median(origins)


def test_ids_of_another_type_are_warned_of(query):
    with pytest.warns(UserWarning, match="ids are integer here, but were string in fit"):
        query([1, 2], [4.0, 4.0])


def test_an_unknown_series_long_before_its_start_is_warned_of(query):
    query(["a"], [-100.0])
    with pytest.warns(UserWarning, match="'new' is queried long before that"):
        query(["new"], [-100.0])


def test_each_row_has_what_is_known_before_it():
    y = np.arange(6.0)[:, None]
    known = Panel.of(np.array([7, 7, 7, 4, 4, 4]), np.array([0.0, 1, 2, 0, 1, 1]), np.zeros((6, 0)), y)
    units = Units("number", 1.0, 4.0, None, None, ["y"], False, True)
    times = np.array([1.0, 1.5, 0.0, 1.8, 9.0, 1.0])
    series = np.array([7, 4, 7, 4, 5, 7])
    rows = LongRows(series, times, "number", np.zeros((6, 0)), np.arange(6))
    query = Query.before(rows, known, units)
    # Rows with the same before them share a series.
    assert query.panel.n_series == query.known.n_series == 4
    own = query.panel.codes[np.argsort(query.order)]
    assert own[0] == own[5] != own[2]
    assert own[1] == own[3]
    for row, expected in enumerate([[0.0], [3.0, 4.0, 5.0], [], [3.0, 4.0, 5.0], [], [0.0]]):
        place = query.positions[own[row]]
        known_then = query.known.take(np.array([place] if place >= 0 else [], dtype=int))
        assert known_then.y[:, 0].tolist() == expected
    assert query.positions[own[4]] == -1
    assert query.panel.time.tolist() == times[query.order].tolist()

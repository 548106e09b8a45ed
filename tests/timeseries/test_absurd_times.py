"""Mistaken times are refused before training, by series, row and value; unusual panels are not."""

from datetime import datetime, timedelta

import numpy as np
import pandas as pd
import pytest
from sklearn.exceptions import ConvergenceWarning

from skode import LatentODERegressor
from skode.frames import take_apart
from skode.timeseries.absurd_times import check_absurd_times


def panel(n_series=10, n_rows=6, span=9.0):
    time = np.tile(np.linspace(0.0, span, n_rows), n_series)
    return pd.DataFrame({"series": np.repeat(np.arange(n_series), n_rows), "time": time})


def dated(frame):
    return frame.assign(
        time=pd.Timestamp("2020-01-01").as_unit("s") + pd.to_timedelta(frame["time"], "D").dt.as_unit("s")
    )


def check(frame, typical_span=None):
    check_absurd_times(take_apart(frame, series="series", time="time"), typical_span)


@pytest.mark.parametrize("date", ["9999-12-31", "2120-01-10", "1920-01-01", "0001-01-01"])
def test_a_date_in_a_wrong_century_is_named(date):
    X = dated(panel())
    X.loc[23, "time"] = pd.Timestamp(date).as_unit("s")  # the last row of series 3
    # The others of the series are 1.8 days apart.
    wrong, first, last = (datetime.fromisoformat(x) for x in (date, "2020-01-01", "2020-01-08T04:48"))
    days = round((max(wrong, last) - min(wrong, first)) / timedelta(days=1))
    with pytest.raises(
        ValueError, match=rf"Series 3 spans {days:,} days; a typical one 9 days. Row 23 of X, at {date} 00"
    ):
        check(X)
    shuffled = X.sample(frac=1.0, random_state=0).reset_index(drop=True)
    row = int(np.flatnonzero(shuffled["time"] == pd.Timestamp(date))[0])
    with pytest.raises(ValueError, match=rf"Series 3 .* Row {row} of X"):
        check(shuffled)


@pytest.mark.parametrize("n_series", [1, 2, 3, 50])
@pytest.mark.parametrize("value", [1e12, -1e12, 1e300])
def test_one_number_among_others_of_another_size_is_named(n_series, value):
    X = panel(n_series, 10)
    X.loc[4, "time"] = value
    with pytest.raises(
        ValueError, match=r"Series 0 spans .* (a typical one|all its other rows) 9. Row 4 of X, at -?1e"
    ):
        check(X)


def test_fit_and_condition_refuse_before_they_do_anything(monkeypatch):
    X = panel()
    y = np.sin(X["time"])
    model = LatentODERegressor("series", "time", max_iter=1, early_stopping=False, random_state=0)
    model.fit(X, y)
    X.loc[5, "time"] = 1e7
    monkeypatch.setattr(LatentODERegressor, "_solver", None)
    with pytest.raises(ValueError, match="Row 5 of X, at 10000000"):
        model.condition(X.assign(series=X["series"] + 100), y)
    with pytest.raises(ValueError, match="Row 5 of X, at 10000000"):
        model.fit(X, y)


@pytest.mark.parametrize("method", ["fit", "condition"])
def test_the_row_named_is_that_of_x_in_whatever_order_and_however_often_rows_come(method):
    X = panel()
    X.loc[5, "time"] = 1e7
    X = pd.concat([X[6:], X]).sample(frac=1.0, random_state=0)
    model = LatentODERegressor("series", "time", max_iter=1, early_stopping=False, random_state=0)
    model.fit(panel(), np.sin(panel()["time"]))
    row = int(np.flatnonzero(X["time"] == 1e7)[0])
    with pytest.raises(ValueError, match=f"Row {row} of X, at 10000000"):
        getattr(model, method)(X, np.sin(X["time"]))


def test_rows_without_weight_may_be_at_any_time():
    X = panel()
    y = np.sin(X["time"])
    right = X.drop(index=5), y.drop(index=5)
    weights = (X.index != 5).astype(float)
    X.loc[5, "time"] = 1e7
    model = LatentODERegressor("series", "time", max_iter=1, early_stopping=False, random_state=0)
    model.fit(X, y, sample_weight=weights)
    found, expected = model.condition(X, y, sample_weight=weights), model.condition(*right)
    np.testing.assert_array_equal(found.predict(right[0]), expected.predict(right[0]))


def test_a_gap_that_can_hardly_be_trained_over_is_warned_of():
    X = panel()
    X.loc[23, "time"] = 900.0
    with pytest.warns(ConvergenceWarning, match="Series 3 spans 900; a typical one 9. Row 23 of X, at 900"):
        check(X)


def one_long_series():
    time = np.concatenate([panel()["time"], np.linspace(0.0, 1e5, 3000)])
    return pd.DataFrame({"series": np.repeat([*range(10), 99], [6] * 10 + [3000]), "time": time})


def heterogeneous():
    rng = np.random.default_rng(0)
    spans = np.repeat(np.exp(1.5 * rng.standard_normal(500)), 8)
    return pd.DataFrame({"series": np.repeat(np.arange(500), 8), "time": spans * np.tile(np.linspace(0, 1, 8), 500)})


PANELS = {
    "equal spans": panel(),
    "dates": dated(panel()),
    "one long series among short ones": one_long_series(),
    "heterogeneous spans": heterogeneous(),
    "one row each": panel(n_rows=1),
    "one row each but one series": pd.DataFrame({"series": [0, 1, 2, 2], "time": [0.0, 1e9, 5.0, 1e6]}),
    "starts far apart": panel().assign(time=lambda X: X["time"] + 1e9 * X["series"]),
    "two campaigns of one series": pd.DataFrame({"series": 0, "time": [0.0, 1, 2, 3, 1e5, 1e5 + 1, 1e5 + 2]}),
    "one series of two rows": pd.DataFrame({"series": 0, "time": [0.0, 1e12]}),
    "repeated times": panel(1, 5, span=0.0),
}


@pytest.mark.parametrize("name", PANELS)
def test_unusual_panels_are_taken(name):
    check(PANELS[name])

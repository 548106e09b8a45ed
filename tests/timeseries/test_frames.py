from datetime import datetime

import numpy as np
import pandas as pd
import pytest
from sklearn.base import BaseEstimator

from skode.timeseries.frames import read_rows, read_targets


def rows_of(X, *, series="id", time="t"):
    return read_rows(BaseEstimator(), X, series=series, time=time, reset=True)


def frame(**columns):
    return pd.DataFrame({"id": [1, 1, 2], "t": [0.0, 1.5, 0.5], **columns})


# Times

DAYS = ["2024-01-01", "2024-01-03", "2024-01-02T12:00"]
HOUR = 3600.0


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_dates_are_read_in_seconds_whatever_their_unit(unit):
    rows = rows_of(frame(t=pd.to_datetime(DAYS, format="ISO8601").as_unit(unit)))
    np.testing.assert_array_equal(rows.time - rows.time[0], [0, 48 * HOUR, 36 * HOUR])
    assert rows.time_kind == "date"


def test_dates_are_counted_from_the_epoch():
    assert rows_of(frame(t=pd.to_datetime(["1970-01-01", "1970-01-02", "1969-12-31"]))).time.tolist() == [
        0.0,
        24 * HOUR,
        -24 * HOUR,
    ]


@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin", "America/New_York"])
def test_dates_with_a_zone_are_instants(zone):
    local = pd.to_datetime(["2024-03-31 00:30", "2024-03-31 12:30", "2024-03-30 00:30"]).tz_localize(zone)
    expected = [stamp.timestamp() for stamp in local]  # Berlin's clocks go forward in between
    rows = rows_of(frame(t=local))
    assert rows.time.tolist() == expected
    assert rows.time_kind == "date with a time zone"


def test_python_datetimes_in_an_object_column_are_dates():
    stamps = pd.Series([datetime(1970, 1, 1), datetime(1970, 1, 2), datetime(1970, 1, 3)], dtype=object)
    assert rows_of(frame(t=stamps)).time.tolist() == [0.0, 24 * HOUR, 48 * HOUR]


def test_time_differences_are_read_in_seconds():
    rows = rows_of(frame(t=pd.to_timedelta(["0s", "1h", "-30min"])))
    assert rows.time.tolist() == [0.0, HOUR, -HOUR / 2]
    assert rows.time_kind == "difference"


@pytest.mark.parametrize("dtype", ["int64", "int8", "uint16", "float32", "Int64", "Float64"])
def test_numbers_of_any_kind_are_times(dtype):
    rows = rows_of(frame(t=pd.Series([0, 2, 1], dtype=dtype)))
    assert rows.time.tolist() == [0.0, 2.0, 1.0]
    assert rows.time.dtype == np.float64
    assert rows.time_kind == "number"


def test_strings_as_times_are_refused_with_advice():
    for dtype in (object, "str"):
        with pytest.raises(ValueError, match=r"time column 't' holds .*pd.to_datetime turns strings into dates"):
            rows_of(frame(t=pd.Series(["2024-01-01"] * 3, dtype=dtype)))


def test_mixed_objects_as_times_are_refused():
    with pytest.raises(ValueError, match="time column 't' holds object"):
        rows_of(frame(t=pd.Series([1, "a", 2.0], dtype=object)))


@pytest.mark.parametrize(
    "missing",
    [
        [0.0, np.nan, 1.0],
        pd.to_datetime(["2024-01-01", None, "2024-01-02"]),
        pd.to_timedelta(["1s", None, "2s"]),
        pd.array([1, None, 2], dtype="Int64"),
        pd.Series([1, None, 2], dtype=object),
    ],
    ids=["float", "date", "difference", "Int64", "object"],
)
def test_missing_times_are_refused(missing):
    with pytest.raises(ValueError, match="time column 't' has missing values"):
        rows_of(frame(t=missing))


@pytest.mark.parametrize("infinite", [np.inf, -np.inf])
def test_infinite_times_are_refused(infinite):
    with pytest.raises(ValueError, match="time column 't' contains infinity"):
        rows_of(frame(t=[0.0, infinite, 1.0]))


# Series


@pytest.mark.parametrize(
    "ids",
    [
        pd.Series(["a", "a", "b"], dtype="str"),
        pd.Series(["a", "a", "b"], dtype=object),
        pd.Series(["a", "a", "b"], dtype="category"),
        pd.Series([7, 7, 9]),
        pd.Series([7, 7, 9], dtype="category"),
        pd.to_datetime(pd.Series(["2024-01-01", "2024-01-01", "2024-01-02"])),
        pd.Series([("a", 1), ("a", 1), ("b", 2)]),
    ],
    ids=["str", "object", "category of str", "int", "category of int", "date", "tuple"],
)
def test_ids_of_any_kind_name_series(ids):
    series = rows_of(frame(id=ids)).series
    assert series[0] == series[1] != series[2]


@pytest.mark.parametrize("missing", [[1.0, np.nan, 2.0], ["a", None, "b"], pd.Categorical(["a", None, "b"])])
def test_missing_ids_are_refused(missing):
    with pytest.raises(ValueError, match="series column 'id' has missing values"):
        rows_of(frame(id=missing))


def test_without_a_series_column_all_rows_are_one_series():
    rows = rows_of(frame()[["t"]], series=None)
    assert len(set(rows.series)) == 1


def test_columns_may_be_named_by_position():
    X = frame(weight=[60.0, 61.0, 80.0])
    by_name, by_position, from_the_end = (
        rows_of(X),
        rows_of(X, series=0, time=1),
        rows_of(X, series=-3, time=-2),
    )
    for rows in (by_position, from_the_end):
        assert rows.series.tolist() == by_name.series.tolist()
        assert rows.time.tolist() == by_name.time.tolist()
        assert rows.covariates.tolist() == by_name.covariates.tolist() == [[60.0], [61.0], [80.0]]


def test_an_object_array_holds_strings_times_and_covariates_by_position():
    X = np.array([["a", 0.0, 60], ["a", 1.5, 61], ["b", 0.5, 80]], dtype=object)
    rows = rows_of(X, series=0, time=1)
    assert rows.series.tolist() == ["a", "a", "b"]
    assert rows.time.tolist() == [0.0, 1.5, 0.5]
    assert rows.covariates.tolist() == [[60.0], [61.0], [80.0]]


def test_series_and_time_must_be_two_columns():
    with pytest.raises(ValueError, match="series='t' and time='t' name the same column"):
        rows_of(frame(), series="t")
    with pytest.raises(ValueError, match="series=1 and time='t' name the same column"):
        rows_of(frame(), series=1)


@pytest.mark.parametrize(("parameter", "column"), [("series", "patient"), ("time", "day")])
def test_an_unknown_column_is_refused_with_those_there_are(parameter, column):
    with pytest.raises(
        ValueError, match=rf"{parameter}='{column}' is not a column of X; its columns are \['id', 't'\]"
    ):
        rows_of(frame(), **{parameter: column})


@pytest.mark.parametrize("position", [2, -3])
def test_an_impossible_position_is_refused(position):
    with pytest.raises(ValueError, match=f"time={position} is not a column of X, which has 2 columns"):
        rows_of(frame(), time=position)


# Covariates


@pytest.mark.parametrize(("bad", "message"), [(np.nan, "NaN"), (np.inf, "infinity")])
def test_missing_and_infinite_covariates_are_refused_by_name(bad, message):
    with pytest.raises(ValueError, match=rf"{message}(.|\n)*weight|weight(.|\n)*{message}"):
        rows_of(frame(weight=[60.0, bad, 80.0]))


def test_strings_as_covariates_are_refused_by_name():
    with pytest.raises(ValueError, match="group"):
        rows_of(frame(weight=[1.0, 2.0, 3.0], group=["low", "high", "low"]))


def test_without_covariates_there_is_an_empty_block():
    assert rows_of(frame()).covariates.shape == (3, 0)


def test_a_frame_without_rows_is_refused():
    with pytest.raises(ValueError, match=r"0 sample\(s\)"):
        rows_of(frame().iloc[:0])


def test_the_callers_frame_is_not_changed():
    X = frame(t=pd.to_datetime(DAYS, format="ISO8601"))
    before = X.copy()
    rows_of(X)
    pd.testing.assert_frame_equal(X, before)


# Targets


def test_one_column_of_targets_may_be_flat():
    np.testing.assert_array_equal(read_targets([1.0, np.nan, 3.0], 3), [[1.0], [np.nan], [3.0]])


def test_nullable_targets_are_read():
    np.testing.assert_array_equal(read_targets(pd.Series([1, None, 3], dtype="Float64"), 3), [[1.0], [np.nan], [3.0]])


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (None, "requires y"),
        ([1.0, 2.0], r"inconsistent numbers of samples: X has 3, y has 2"),
        ([1.0, np.inf, 2.0], "Input y contains infinity"),
        ([np.nan] * 3, "Input y contains NaN only: nothing was observed"),
        (np.zeros((3, 2, 2)), "dim"),
        (["a", "b", "c"], "could not convert string to float"),
    ],
)
def test_bad_targets_are_refused(y, message):
    with pytest.raises(ValueError, match=message):
        read_targets(y, 3)

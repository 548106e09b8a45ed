import re
import sys
from datetime import date, datetime
from decimal import Decimal

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_array
from sklearn.base import BaseEstimator

from skode.frames import column_position, distinct_rows, read_rows, read_span, read_targets, take_apart


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


def test_python_dates_are_dates():
    rows = rows_of(frame(t=[date(1970, 1, 1), date(1970, 1, 3), date(1969, 12, 31)]))
    assert rows.time.tolist() == [0.0, 48 * HOUR, -24 * HOUR]
    assert rows.time_kind == "date"


def test_dates_beyond_the_reach_of_nanoseconds_are_read():
    stamps = np.array(["1970-01-01", "3000-01-01", "0800-01-01"], dtype="datetime64[s]")
    np.testing.assert_array_equal(rows_of(frame(t=stamps)).time, stamps.astype(np.int64))


@pytest.mark.parametrize(
    ("frequency", "days"), [("D", [0, 1, 2]), ("M", [0, 31, 59]), ("Y", [0, 365, 730])], ids=["day", "month", "year"]
)
def test_periods_are_read_as_the_dates_they_start_at(frequency, days):
    periods = pd.period_range("1970-01-01", periods=3, freq=frequency)
    for column in (periods, pd.Series(list(periods), dtype=object)):
        rows = rows_of(frame(t=column))
        assert rows.time.tolist() == [24 * HOUR * day for day in days]
        assert rows.time_kind == "date"


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
        pd.PeriodIndex(["2024-01", None, "2024-02"], freq="M"),
        pd.Series([date(2024, 1, 1), None, date(2024, 1, 2)], dtype=object),
    ],
    ids=["float", "date", "difference", "Int64", "object", "period", "python date"],
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


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.longdouble])
def test_ids_of_any_precision_name_series(dtype):
    X = np.array([[7, 0.0], [7, 1.5], [9, 0.5]], dtype=dtype)
    for rows in (rows_of(X, series=0, time=1), rows_of(pd.DataFrame(X, columns=["id", "t"]))):
        assert pd.Index([7, 8, 9]).get_indexer(pd.Index(rows.series)).tolist() == [0, 0, 2]
        assert rows.time.tolist() == [0.0, 1.5, 0.5]


def test_decimals_are_times_and_ids():
    X = frame(t=[Decimal(0), Decimal("1.5"), Decimal("0.5")], id=[Decimal(7), Decimal(7), Decimal(10**30)])
    rows = rows_of(X)
    assert (rows.time.tolist(), rows.time_kind) == ([0.0, 1.5, 0.5], "number")
    assert rows.series.tolist() == X["id"].tolist()


def test_columns_that_are_called_by_numbers_are_shown_as_the_user_wrote_them():
    X = pd.DataFrame([[1, 0.0, np.nan], [1, 1.0, 2.0]], columns=[5, 7, 9])
    with pytest.raises(ValueError, match="The covariate 9 has missing values"):
        rows_of(X, series=0, time=1)
    with pytest.raises(ValueError, match=r"The time column 9 \(time=2\) has missing values"):
        rows_of(X, series=0, time=2)


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


def test_a_name_of_several_columns_is_refused():
    X = pd.DataFrame([[1, 0.0, 1.0]], columns=["id", "t", "t"])
    with pytest.raises(ValueError, match="time='t' names 2 columns of X"):
        take_apart(X, series="id", time="t")
    with pytest.raises(ValueError, match=r"X has several columns of one name: \['t'\]"):
        rows_of(X)


def test_column_position_finds_names_and_positions():
    X = frame(weight=[60.0, 61.0, 80.0])
    assert [column_position(X, column, "time") for column in ("t", 1, -1)] == [1, 1, 2]


# Levels of the index


def weights(*, by):
    X = frame(weight=[60.0, 61.0, 80.0], height=[1.6, 1.7, 1.8])
    return X.set_index(by)


def assert_same_rows(rows, others):
    assert rows.series.tolist() == others.series.tolist()
    assert rows.time.tolist() == others.time.tolist()
    assert rows.covariates.tolist() == others.covariates.tolist()
    assert rows.time_kind == others.time_kind


@pytest.mark.parametrize("by", ["id", "t", ["id", "t"], ["t", "id"]], ids=str)
def test_levels_of_the_index_are_read_as_columns(by):
    X = weights(by=by)
    assert_same_rows(rows_of(X), rows_of(X.reset_index()))


def test_dates_in_the_index_are_times():
    X = pd.DataFrame({"weight": [60.0, 61.0]}, index=pd.DatetimeIndex(["1970-01-01", "1970-01-02"], name="t"))
    rows = rows_of(X, series=None)
    assert (rows.time.tolist(), rows.time_kind) == ([0.0, 24 * HOUR], "date")


def test_periods_in_the_index_are_times():
    X = pd.DataFrame({"id": [1, 2]}, index=pd.period_range("1970-01-01", periods=2, freq="D", name="t"))
    assert rows_of(X).time.tolist() == [0.0, 24 * HOUR]


def test_a_frame_may_have_no_columns_but_an_index():
    X = frame().set_index(["id", "t"])
    rows = rows_of(X)
    assert X.shape == (3, 0)
    assert_same_rows(rows, rows_of(frame()))
    assert rows.covariates.shape == (3, 0)


def test_other_levels_are_not_read():
    X = weights(by=["id", "t"]).set_index(pd.Index(["x", "y", "z"], name="site"), append=True)
    assert_same_rows(rows_of(X), rows_of(weights(by=["id", "t"])))


def test_a_column_goes_before_a_level_of_its_name():
    X = frame().set_index(pd.Index([7.0, 8.0, 9.0], name="t"))
    assert rows_of(X).time.tolist() == [0.0, 1.5, 0.5]


def test_positions_count_columns_only():
    rows = rows_of(weights(by="t"), series=0)
    assert_same_rows(rows, rows_of(weights(by="t")))
    with pytest.raises(ValueError, match="series=3 is not a column of X, which has 3 columns"):
        rows_of(weights(by="t"), series=3)


def test_an_unknown_column_is_refused_with_the_levels_there_are():
    message = r"time='day' is not a column of X; .* \['weight', 'height'\], the levels of its index \['id', 't'\]"
    with pytest.raises(ValueError, match=message):
        rows_of(weights(by=["id", "t"]), time="day")


@pytest.mark.parametrize(("missing", "label"), [("id", "series"), ("t", "time")])
def test_missing_values_in_the_index_are_refused(missing, label):
    X = frame(id=[1.0, 1.0, 2.0])
    X.loc[1, missing] = np.nan
    with pytest.raises(ValueError, match=f"{label} index level '{missing}' has missing values"):
        rows_of(X.set_index(["id", "t"]))


def test_series_and_time_must_be_two_levels():
    with pytest.raises(ValueError, match="series='t' and time='t' name the same column"):
        rows_of(weights(by=["id", "t"]), series="t")


LAYOUTS = {
    "columns": weights(by=["id", "t"]).reset_index(),
    "both in the index": weights(by=["id", "t"]),
    "series in the index": weights(by="id")[["t", "weight", "height"]],
    "time in the index": weights(by="t")[["id", "weight", "height"]],
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_model_takes_columns_and_levels_for_each_other(layout):
    X, model = LAYOUTS[layout], BaseEstimator()
    fit = read_rows(model, X, series="id", time="t", reset=True)
    columns = X.reset_index() if "index" in layout else X
    names = model.feature_names_in_.tolist()
    assert names == columns.columns.tolist()
    for other in (X, columns, columns.set_index("id"), columns.set_index("t"), columns.set_index(["t", "id"])):
        assert_same_rows(read_rows(model, other, series="id", time="t", reset=False), fit)
    with pytest.raises(ValueError, match="must be in the same order as they were in fit"):
        read_rows(model, columns[names[::-1]], series="id", time="t", reset=False)


def test_levels_take_the_places_that_their_columns_had_in_fit():
    columns = weights(by="id").reset_index()[["weight", "t", "height", "id"]]
    model = BaseEstimator()
    fit = read_rows(model, columns, series="id", time="t", reset=True)
    for by in ("id", "t", ["id", "t"], ["t", "id"]):
        assert_same_rows(read_rows(model, columns.set_index(by), series="id", time="t", reset=False), fit)


def test_a_position_beside_a_level_does_not_silently_become_another_column():
    model = BaseEstimator()
    read_rows(model, weights(by="t"), series=0, time="t", reset=True)
    with pytest.raises(ValueError, match="series=0 and time='t' name the same column"):
        read_rows(model, weights(by="t").reset_index(), series=0, time="t", reset=False)


@pytest.mark.parametrize(
    ("X", "message"),
    [
        (weights(by=["id", "t"])[["height", "weight"]], "same order as they were in fit"),
        (weights(by=["id", "t"])[["weight"]], "now missing:\n- height"),
        (weights(by=["id", "t"]).assign(age=30.0), "unseen at fit time:\n- age"),
    ],
    ids=["order", "missing", "more"],
)
def test_other_columns_than_in_fit_are_refused_beside_an_index(X, message):
    model = BaseEstimator()
    read_rows(model, weights(by=["id", "t"]), series="id", time="t", reset=True)
    with pytest.raises(ValueError, match=message):
        read_rows(model, X, series="id", time="t", reset=False)


# Covariates


@pytest.mark.parametrize(
    "values",
    [
        pd.Series([1, 0, 1], dtype="int8"),
        pd.Series([True, False, True]),
        pd.Series([True, False, True], dtype="boolean"),
        pd.Series([1, 0, 1], dtype="Int64"),
        pd.Series([1, 0, 1], dtype="Float64"),
        pd.Series([1, 0, 1], dtype="category"),
        pd.Series([True, False, True], dtype="category"),
        pd.Series([1, 0, 1], dtype=object),
        pd.Series([True, False, True], dtype=object),
        pd.Series([1, 0.0, 1], dtype=object),
        pd.Series([Decimal(1), Decimal(0), Decimal(1)], dtype=object),
        pd.Series([1, 0, 1], dtype=pd.SparseDtype("int64", 0)),
    ],
    ids=str,
)
def test_numbers_of_any_kind_are_covariates(values):
    covariates = rows_of(frame(dose=values)).covariates
    assert covariates.tolist() == [[1.0], [0.0], [1.0]]
    assert covariates.dtype == np.float64


@pytest.mark.parametrize("dtype", [object, "str", "category"])
def test_text_as_a_covariate_is_refused_with_advice(dtype):
    message = (
        r"covariate 'group' holds .*One-hot encode it, by pd.get_dummies or a OneHotEncoder in a ColumnTransformer"
    )
    with pytest.raises(ValueError, match=message):
        rows_of(frame(weight=[1.0, 2.0, 3.0], group=pd.Series(["low", "high", "low"], dtype=dtype)))


def test_numbers_written_as_text_are_refused_with_advice():
    with pytest.raises(ValueError, match=r"covariate 'dose' holds .*into numbers by pd.to_numeric"):
        rows_of(frame(dose=["1.5", "2", "3"]))


@pytest.mark.parametrize(
    "values",
    [pd.to_datetime(DAYS, format="ISO8601"), pd.to_timedelta([1, 2, 3], unit="s"), [1 + 2j, 1, 1]],
    ids=["date", "difference", "complex"],
)
def test_what_is_no_number_is_refused_as_a_covariate(values):
    with pytest.raises(
        ValueError, match=r"covariate 'dose' holds \w+.*; covariates must be numbers\. Encode or drop it"
    ):
        rows_of(frame(dose=values))


@pytest.mark.parametrize(
    "values",
    [
        [1.0, np.nan, 2.0],
        [1.0, None, 2.0],
        pd.array([1, None, 2], dtype="Int64"),
        pd.array([True, None, False], dtype="boolean"),
        pd.Categorical([1, None, 2]),
        pd.Series([1, None, "a"], dtype=object),
    ],
    ids=["float", "None", "Int64", "boolean", "category", "object"],
)
def test_missing_covariates_are_refused_with_advice(values):
    with pytest.raises(ValueError, match=r"covariate 'dose' has missing values \(NaN\)\. Impute .* an output in y"):
        rows_of(frame(dose=values))


def test_covariates_are_in_the_order_of_their_columns():
    X = frame(b=[1.0, 2.0, 3.0], a=[True, False, True])[["b", "t", "a", "id"]]
    assert rows_of(X).covariates.tolist() == [[1.0, 1.0], [2.0, 0.0], [3.0, 1.0]]


def test_without_covariates_nothing_is_asked_of_other_columns():
    rows = take_apart(frame(group=["low", None, "low"]), series="id", time="t", with_covariates=False)
    assert rows.covariates.shape == (3, 0)


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


@pytest.mark.parametrize("by", [None, ["id", "t"]], ids=["columns", "index"])
def test_rows_are_read_all_at_once(by):
    """The number of calls that reading makes, of Python and of C, does not grow with the rows."""

    def calls(n):
        number, found = np.arange(n), []
        X = pd.DataFrame({"id": (number // 100).astype(str), "t": pd.Timestamp("2024-01-01"), "dose": number % 7})
        X["t"] += pd.to_timedelta(number, unit="s")
        X = X if by is None else X.set_index(by)
        sys.setprofile(lambda _, event, __: found.append(event))
        try:
            rows = rows_of(X)
        finally:
            sys.setprofile(None)
        assert len(rows) == n
        return len(found)

    calls(100)  # what is done once
    assert calls(100_000) < 1.5 * calls(1000)


# Targets


def test_targets_are_taken_by_position_whatever_their_index():
    y = pd.Series([1.0, 2.0, 3.0], index=[2, 1, 0])
    assert read_targets(y, 3).tolist() == read_targets(y.to_frame(), 3).tolist() == [[1.0], [2.0], [3.0]]


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
        (np.zeros((3, 2, 2)), "must be of shape"),
        (["a", "b", "c"], "holds text"),
    ],
)
def test_bad_targets_are_refused(y, message):
    with pytest.raises(ValueError, match=message):
        read_targets(y, 3)


# Common mistakes


def test_a_name_for_a_column_of_an_array_points_to_data_frames():
    with pytest.raises(ValueError, match=r"time='t' names a column, but X has no column names.*set_output"):
        take_apart(pd.DataFrame(np.zeros((3, 2))), series=None, time="t")


def test_a_forgotten_time_is_told_of_with_the_columns_there_are():
    frame = pd.DataFrame({"id": [1, 1], "t": [0.0, 1.0]})
    with pytest.raises(ValueError, match=r"series='id' and time=0 name the same column.*\['id', 't'\]"):
        take_apart(frame, series="id", time=0)
    with pytest.raises(ValueError, match=r"time column 'id' \(time=0\) holds .*If it holds ids, pass series="):
        take_apart(frame.astype({"id": str}), series=None, time=0)


def test_dates_in_the_index_are_not_passed_over_for_a_column_of_numbers():
    dates = pd.date_range("2020-01-01", periods=3, name="when")
    frame = pd.DataFrame({"dose": [1.0, 2.0, 3.0]}, index=dates)
    with pytest.raises(ValueError, match=r"'dose' \(time=0\) is taken for the times, but .* level 'when' of dates"):
        take_apart(frame, series=None, time=0)
    assert take_apart(frame, series=None, time="when").time_kind == "date"
    assert take_apart(frame, series=None, time="dose").time.tolist() == [1.0, 2.0, 3.0]
    assert take_apart(frame.reset_index("when", drop=True), series=None, time=0).time_kind == "number"


@pytest.mark.parametrize("times", [[3.0, 1.0, 3.0], pd.to_datetime(["2020-01-03", "2020-01-01", "2020-01-03"])])
def test_categories_of_times_are_times(times):
    plain = take_apart(pd.DataFrame({"t": times}), series=None, time="t")
    categories = take_apart(pd.DataFrame({"t": pd.Categorical(times)}), series=None, time="t")
    assert categories.time.tolist() == plain.time.tolist()
    assert categories.time_kind == plain.time_kind


def test_missing_times_and_ids_are_counted():
    frame = pd.DataFrame({"id": ["a", None, "b"], "t": [0.0, 1.0, np.nan]})
    with pytest.raises(ValueError, match=r"time column 't' has missing values .* in 1 of 3 rows\. Drop these rows"):
        take_apart(frame, series=None, time="t", with_covariates=False)
    with pytest.raises(ValueError, match="series column 'id' has missing values in 1 of 3 rows"):
        take_apart(frame, series="id", time="t")


def test_text_in_y_is_told_how_to_become_numbers():
    with pytest.raises(ValueError, match=r"y holds text \('no'\).*likelihood=\"bernoulli\""):
        read_targets(np.array(["no", "yes"], dtype=object), 2)


@pytest.mark.parametrize(
    ("y", "value"),
    [
        (np.array(["yes", "no"]), "text ('yes')"),
        (np.array(["1.5", "low"]), "text ('low')"),
        (np.array([b"yes", b"no"]), "bytes (b'yes')"),
        ([1.0, {"a": 1}], "dict ({'a': 1})"),
        ([datetime(2020, 1, 1)] * 2, "datetime (datetime.datetime(2020, 1, 1, 0, 0))"),
        (pd.Series(["x", pd.NA], dtype="string"), "text ('x')"),
    ],
    ids=["array of text", "text after a number", "bytes", "dict", "datetime", "string"],
)
def test_the_value_of_y_that_is_no_number_is_shown(y, value):
    with pytest.raises(ValueError, match=re.escape(f"y holds {value}; it must hold numbers")):
        read_targets(y, 2)


def test_sparse_targets_are_told_to_be_made_dense():
    with pytest.raises(TypeError, match="Sparse data was passed for y"):
        read_targets(csr_array([[1.0], [0.0]]), 2)


@pytest.mark.parametrize("dates", [pd.to_datetime(["2020-01-01", None]), pd.to_timedelta(["1s", None])])
def test_dates_are_no_targets(dates):
    for y in (dates, pd.DataFrame({"a": [1.0, 2.0], "b": dates})[["b"]]):
        with pytest.raises(ValueError, match=r"y holds \w+64\[.*; it must hold numbers"):
            read_targets(y, 2)


@pytest.mark.parametrize("missing", [pd.NA, pd.NaT, None, np.nan], ids=str)
def test_what_is_missing_in_y_was_not_observed_whatever_it_is_written_as(missing):
    objects = [1.0, missing, 3.0]
    for y in (objects, np.array(objects, dtype=object), pd.Series(objects, dtype=object), [[v] for v in objects]):
        np.testing.assert_array_equal(read_targets(y, 3), [[1.0], [np.nan], [3.0]])
    flags = pd.DataFrame({"a": [True, False, missing], "b": objects}, dtype=object)
    np.testing.assert_array_equal(read_targets(flags, 3), [[1.0, 1.0], [0.0, np.nan], [np.nan, 3.0]])


def test_y_of_three_dimensions_is_refused_with_its_shape():
    with pytest.raises(ValueError, match=r"\(n_rows,\) or \(n_rows, n_outputs\), got \(4, 2, 2\)"):
        read_targets(np.zeros((4, 2, 2)), 4)


# Rows that come more than once


def merged(X, y, weights=None):
    weights = np.ones(len(X)) if weights is None else np.asarray(weights, dtype=float)
    return distinct_rows(rows_of(X), np.asarray(y, dtype=float).reshape(len(X), -1), weights)


def test_equal_rows_become_one_with_the_weights_added():
    X = pd.DataFrame({"id": [2, 1, 2, 1, 2], "t": [0.0, 1.0, 0.0, 1.0, 0.0], "u": [1.0, 2.0, 1.0, 3.0, 1.0]})
    rows, values, weights = merged(X, [5.0, 6.0, 5.0, 6.0, 7.0], [1.0, 1.0, 0.5, 4.0, 8.0])
    # Those of series 1 differ in u, the last of series 2 in y.
    assert rows.series.tolist() == [1, 1, 2, 2]
    assert rows.covariates[:, 0].tolist() == [2.0, 3.0, 1.0, 1.0]
    assert values[:, 0].tolist() == [6.0, 6.0, 5.0, 7.0]
    assert weights.tolist() == [1.0, 4.0, 1.5, 8.0]


def test_nothing_observed_is_equal_to_nothing_observed():
    X = pd.DataFrame({"id": [1, 1, 1], "t": [0.0, 0.0, 1.0]})
    _, values, weights = merged(X, [np.nan, np.nan, 2.0])
    np.testing.assert_array_equal(values[:, 0], [np.nan, 2.0])
    assert weights.tolist() == [2.0, 1.0]


def test_rows_without_weight_are_left_out_and_weights_of_one_are_none():
    X = frame(u=[1.0, 2.0, 3.0])
    rows, values, weights = merged(X, [1.0, 2.0, 3.0], [1.0, 0.0, 1.0])
    assert rows.series.tolist() == [1, 2]
    assert values[:, 0].tolist() == [1.0, 3.0]
    assert weights is None


def test_ids_of_several_types_may_be_mixed():
    X = pd.DataFrame({"id": np.array(["b", 1, "b"], dtype=object), "t": [1.0, 0.0, 0.0]})
    rows, _, _ = merged(X, [1.0, 2.0, 3.0])
    assert rows.series.tolist() == [1, "b", "b"]
    assert rows.time.tolist() == [0.0, 0.0, 1.0]


def test_spans_of_time_are_in_the_unit_of_times():
    assert (
        read_span("gap", "36h", "date", "t") == read_span("gap", np.timedelta64(36, "h"), "difference", "t") == 129_600
    )
    assert read_span("gap", np.float32(2.5), "number", "t") == 2.5


@pytest.mark.parametrize(
    ("span", "kind", "message"),
    [
        ("a week", "date", r"gap='a week' is no length of time .*: give one such as pd.Timedelta\(days=7\)"),
        ("1M", "difference", "gap='1M' is no length of time .*M.*: give"),
        ("7", "date", "gap='7' has no unit: give one such as"),
        ([1, 7], "number", r"gap=\[1, 7\] is no length of time .*: give a number in the same unit"),
        ("-1D", "date", "gap='-1D' must be positive"),
        (np.nan, "number", "gap=nan must be positive"),
    ],
)
def test_what_is_no_span_of_time_is_refused_by_name(span, kind, message):
    with pytest.raises(ValueError, match=message):
        read_span("gap", span, kind, "t")

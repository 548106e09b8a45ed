from datetime import timedelta
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_array_equal
from sklearn import config_context
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import GridSearchCV, TimeSeriesSplit, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from skode.model_selection import ForecastSplit
from tests.model_selection.long_frames import random_frame, tiny_regressor

DAY = pd.Timedelta(days=1)


def folds_of(X, *args, **kwargs):
    return list(ForecastSplit(*args, series="id", time="day", **kwargs).split(X))


def line(times):
    return pd.DataFrame({"id": "a", "day": times})


@pytest.mark.parametrize("kwargs", [{}, {"test_fraction": 0.1}, {"horizon": 1.5}, {"horizon": 1, "gap": 0.5}])
@pytest.mark.parametrize("seed", range(10))
def test_folds_are_forecasts_of_every_series(seed, kwargs):
    X = random_frame(seed)
    folds = folds_of(X, **kwargs)
    assert len(folds) == ForecastSplit().get_n_splits() == 3
    for train, test in folds:
        assert len(train)
        assert len(test)
        for rows in (train, test):
            assert_array_equal(rows, np.unique(rows))
        for series in X["id"].unique():
            days = X["day"].where(X["id"] == series)
            trained, tested = days.iloc[train].dropna(), days.iloc[test].dropna()
            if len(tested):
                # Strictly later, so that no time is on both sides.
                assert tested.min() - trained.max() > 0
                assert tested.min() - trained.max() >= kwargs.get("gap", 0)
                assert np.ptp(tested) < kwargs.get("horizon", np.inf)
    # The origin rolls on: what was tested trains later, and is tested once.
    tests = np.concatenate([test for _, test in folds])
    assert len(np.unique(tests)) == len(tests)
    if "gap" not in kwargs:
        for (train, test), (next_train, _) in pairwise(folds):
            assert_array_equal(next_train, np.union1d(train, test))
        assert_array_equal(np.union1d(*folds[-1]), np.arange(len(X)))


@pytest.mark.parametrize("horizon", [0.5, 1.25])
@pytest.mark.parametrize("seed", range(5))
def test_horizons_are_counted_back_from_each_series_last_row(seed, horizon):
    X = random_frame(seed)
    last = X.groupby("id")["day"].transform("max")
    first = X.groupby("id")["day"].transform("min")
    for fold, (train, test) in enumerate(folds_of(X, horizon=horizon)):
        cut, end = last - (3 - fold) * horizon, last - (2 - fold) * horizon
        tested = (first <= cut) & (X["day"] > cut) & (X["day"] <= end)
        assert_array_equal(test, np.flatnonzero(tested))
        assert_array_equal(np.flatnonzero((X["day"] <= cut) & (first <= cut)), train[(first <= cut).iloc[train]])


def test_a_fraction_is_of_each_series_distinct_times():
    X = pd.concat([line(np.repeat(np.arange(10.0) ** 3, 2)), line([1, 2, 3, 4, 5.0]).assign(id="b")])
    train, test = folds_of(X.reset_index(drop=True), 2, test_fraction=0.3)[1]
    # 3 of 10 times, each of two rows, and 1 of 5.
    assert_array_equal(test, [14, 15, 16, 17, 18, 19, 24])
    assert_array_equal(train, np.setdiff1d(np.arange(25), test))


@pytest.mark.parametrize(("fraction", "n_times", "n_tested"), [(0.29, 100, 29), (0.2, 4, 1), (0.5, 5, 2)])
def test_a_fraction_is_rounded_down_but_at_least_one_time(fraction, n_times, n_tested):
    [(_, test)] = folds_of(line(np.arange(n_times)), 1, test_fraction=fraction)
    assert len(test) == n_tested


def test_for_one_sorted_series_it_is_scikit_learns():
    X = np.arange(20.0)[:, None]
    ours = list(ForecastSplit(4, test_fraction=0.15).split(X))
    theirs = list(TimeSeriesSplit(4, test_size=3).split(X))
    for fold, other in zip(ours, theirs, strict=True):
        for rows, others in zip(fold, other, strict=True):
            assert_array_equal(rows, others)


def test_a_series_too_short_is_trained_on_only():
    X = pd.DataFrame({"id": list("aaaaaabccdd"), "day": [0, 1, 2, 3, 4, 5, 9, 3, 3, 5, 6]})
    by_fraction, by_horizon = folds_of(X), folds_of(X, horizon=1)
    for folds in (by_fraction, by_horizon):
        for train, _ in folds:
            assert {6, 7, 8} <= set(train)  # b has one row and c one time
        assert [10 in test for _, test in folds] == [False, False, True]  # d can be forecast once
        assert all(9 in train for train, _ in folds)


def test_a_silent_series_is_not_tested():
    X = pd.concat([line(np.arange(11)), line([0, 1, 10]).assign(id="b")], ignore_index=True)
    assert [test.tolist() for _, test in folds_of(X, horizon=2)] == [[5, 6], [7, 8], [9, 10, 13]]


def test_a_series_without_rows_before_the_gap_is_not_tested():
    X = pd.concat([line(np.arange(11)), line([8, 9, 10]).assign(id="b")], ignore_index=True)
    (train, test), *_ = folds_of(X, 1, horizon=1, gap=3)
    assert_array_equal(train, np.arange(8))
    assert_array_equal(test, [10])


@pytest.mark.parametrize("step", [0.1, 0.7, 1 / 3, 1e-3, 1e6])
@pytest.mark.parametrize("start", [0, 1e3])
def test_rounding_moves_no_row_to_another_fold(step, start):
    X = line(start + step * np.arange(50))
    folds = folds_of(X, 10, horizon=3 * step, gap=2 * step)
    assert [test.tolist() for _, test in folds] == [[i, i + 1, i + 2] for i in range(20, 50, 3)]
    assert [train.max() for train, _ in folds] == list(range(18, 48, 3))


@pytest.mark.parametrize(
    "as_times",
    [
        lambda day: pd.Timestamp("2024-03-01") + day * DAY,
        lambda day: pd.Timestamp("2024-03-20", tz="Europe/Berlin") + day * DAY,  # over the change of clocks
        lambda day: day * DAY,
    ],
    ids=["date", "zone", "difference"],
)
@pytest.mark.parametrize("horizon", [1.5 * DAY, timedelta(days=1.5), np.timedelta64(36, "h")])
def test_dates_are_split_like_numbers(as_times, horizon):
    X = random_frame(0)
    dated = X.assign(day=as_times(X["day"]))
    for numbers, dates in zip(
        folds_of(X, horizon=1.5, gap=0.5), folds_of(dated, horizon=horizon, gap=DAY / 2), strict=True
    ):
        assert_array_equal(numbers[0], dates[0])
        assert_array_equal(numbers[1], dates[1])


def test_the_order_and_the_index_of_rows_do_not_matter():
    X = random_frame(1)
    shuffled = X.sample(frac=1, random_state=0)
    for fold, other in zip(folds_of(X), folds_of(shuffled), strict=True):
        for rows, others in zip(fold, other, strict=True):
            assert_array_equal(rows, np.sort(shuffled.index[others]))


def test_columns_may_be_named_by_position_and_X_may_be_an_array():
    X = random_frame(2).assign(group="text that only a later step reads")
    expected = folds_of(X)
    for given, columns in [(X, (0, 1)), (X, (-3, "day")), (X.to_numpy(), (0, 1))]:
        folds = list(ForecastSplit(series=columns[0], time=columns[1]).split(given))
        for fold, other in zip(folds, expected, strict=True):
            assert_array_equal(fold[0], other[0])
            assert_array_equal(fold[1], other[1])


def test_series_and_times_may_be_levels_of_the_index():
    X = random_frame(5)
    for by in ("id", "day", ["id", "day"]):
        for fold, other in zip(folds_of(X), folds_of(X.set_index(by)), strict=True):
            assert_array_equal(fold[0], other[0])
            assert_array_equal(fold[1], other[1])


@pytest.mark.parametrize(
    "ids", [pd.Categorical(list("aabb")), [("a", 1), ("a", 1), ("b", 1), ("b", 1)], [1, 1, "b", "b"]]
)
def test_ids_of_any_kind_name_series(ids):
    X = pd.DataFrame({"id": ids, "day": [0, 1, 5, 6]})
    [(train, test)] = folds_of(X, 1)
    assert_array_equal(train, [0, 2])
    assert_array_equal(test, [1, 3])


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("routing", [False, True])
def test_a_grid_search_forecasts(routing):
    X = random_frame(3, 40)
    cv = ForecastSplit(2, series="id", time="day")
    with config_context(enable_metadata_routing=routing):
        search = GridSearchCV(tiny_regressor(), {"latent_size": [2, 3]}, cv=cv).fit(X, np.sin(X["day"]))
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    assert search.n_splits_ == 2


def test_a_pipeline_may_read_the_other_columns():
    X = random_frame(4).assign(text="x")
    y = 3 * X["day"]
    model = make_pipeline(FunctionTransformer(lambda X: X[["day"]]), LinearRegression())
    scores = cross_val_score(model, X, y, cv=ForecastSplit(series="id", time="day"))
    assert scores == pytest.approx([1, 1, 1])


def test_repr_names_the_parameters():
    one_line = " ".join(repr(ForecastSplit(2, series="id", horizon=7)).split())
    assert one_line == "ForecastSplit(gap=None, horizon=7, n_splits=2, series='id', test_fraction=0.2, time=0)"


def test_groups_are_not_read():
    X = random_frame(5)
    with pytest.warns(UserWarning, match="ForecastSplit does not read groups; its series are the column series='id'"):
        next(ForecastSplit(series="id", time="day").split(X, groups=X["id"]))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("n_splits", 0),
        ("n_splits", 2.5),
        ("series", 1.5),
        ("time", None),
        ("horizon", 0),
        ("horizon", "7D"),
        ("test_fraction", 0.0),
        ("test_fraction", 1.0),
        ("gap", -1),
    ],
)
def test_bad_parameters_are_refused_by_name_and_value(name, value):
    with pytest.raises(ValueError, match=rf"The '{name}' parameter of ForecastSplit.*{value}"):
        ForecastSplit(**{name: value})


def test_folds_that_leave_nothing_to_train_on_are_refused():
    with pytest.raises(ValueError, match=r"test_fraction must be below 1 / n_splits = 0\.2\."):
        ForecastSplit(5)
    assert ForecastSplit(5, horizon=1).n_splits == 5


@pytest.mark.parametrize("name", ["horizon", "gap"])
def test_durations_must_suit_the_times(name):
    dates = line(pd.date_range("2024-01-01", periods=9))
    with pytest.raises(ValueError, match=rf"{name}=7 does not suit .*'day'.* holds a date: .*pd.Timedelta\(days=7\)"):
        folds_of(dates, **{name: 7})
    with pytest.raises(ValueError, match=rf"{name}=.* does not suit .* holds a number: give a number"):
        folds_of(line(np.arange(9)), **{name: DAY})
    with pytest.raises(ValueError, match=rf"{name}=.* must be positive"):
        folds_of(dates, **{name: -DAY})


@pytest.mark.parametrize("kwargs", [{}, {"horizon": 3}, {"horizon": 0.5, "gap": 3}])
def test_too_many_folds_are_refused(kwargs):
    with pytest.raises(ValueError, match=r"Fold 0 of n_splits=3 has nothing to test: .* Give fewer splits"):
        folds_of(line([0, 1, 2]), **kwargs)


def test_bad_columns_are_refused_by_name():
    X = random_frame(6)
    with pytest.raises(ValueError, match=r"time='week' is not a column of X; its columns are \['id', 'day'\]"):
        next(ForecastSplit(time="week").split(X))
    with pytest.raises(ValueError, match="series=2 is not a column of X, which has 2 columns"):
        next(ForecastSplit(series=2).split(X))
    with pytest.raises(ValueError, match="series='id' and time=0 name the same column"):
        next(ForecastSplit(series="id").split(X))
    with pytest.raises(ValueError, match="time column 'id' holds"):
        next(ForecastSplit(time="id").split(X))
    with pytest.raises(ValueError, match="series column 'id' has missing values"):
        next(ForecastSplit(series="id", time="day").split(X.assign(id=None)))
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        next(ForecastSplit(series="id", time="day").split(X, y=[1.0]))

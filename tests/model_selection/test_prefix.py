import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_array_equal
from sklearn import config_context
from sklearn.model_selection import GridSearchCV, cross_validate

from skode.model_selection import PrefixSplit
from tests.model_selection.long_frames import random_frame, tiny_regressor


def folds_of(X, *args, **kwargs):
    return list(PrefixSplit(*args, series="id", time="day", **kwargs).split(X))


@pytest.mark.parametrize("prefix", [0.1, 0.5, 0.99])
@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_folds_hold_out_the_ends_of_series(seed, shuffle, prefix):
    X = random_frame(seed)
    n_times = X.groupby("id")["day"].nunique()
    folds = folds_of(X, 3, prefix=prefix, shuffle=shuffle, random_state=seed if shuffle else None)
    assert len(folds) == PrefixSplit(3, series="id").get_n_splits() == 3
    fold_of_series = []
    for train, test in folds:
        assert_array_equal(np.sort(np.concatenate([train, test])), np.arange(len(X)))
        for rows in (train, test):
            assert len(rows)
            assert_array_equal(rows, np.unique(rows))
        held_out = X["id"].iloc[test].unique()
        fold_of_series.extend(held_out)
        for series in held_out:
            known = X["day"].iloc[train][X["id"].iloc[train] == series]
            later = X["day"].iloc[test][X["id"].iloc[test] == series]
            assert known.max() < later.min()  # also: no time is on both sides
            assert known.nunique() == min(max(int(prefix * n_times[series]), 1), n_times[series] - 1)
    assert sorted(fold_of_series) == sorted(n_times.index[n_times > 1])


def test_folds_are_blocks_of_series_in_the_order_of_their_ids():
    X = pd.DataFrame({"id": np.repeat([9, 7, 8, 5], 2), "day": [0, 1] * 4})
    assert [test.tolist() for _, test in folds_of(X, 2)] == [[3, 7], [1, 5]]


def test_shuffled_folds_are_reproducible_and_differ():
    X = pd.DataFrame({"id": np.repeat(range(12), 2), "day": [0, 1] * 12})

    def tests(random_state):
        return [test.tolist() for _, test in folds_of(X, 3, shuffle=True, random_state=random_state)]

    assert tests(0) == tests(0) != tests(1)
    assert sorted(row for test in tests(0) for row in test) == list(range(1, 24, 2))


def test_a_series_at_one_time_is_trained_on_only():
    X = pd.DataFrame({"id": list("aabbbc"), "day": [0, 1, 0, 0, 2, 5]})
    folds = folds_of(X, 2)
    assert [test.tolist() for _, test in folds] == [[1], [4]]
    with pytest.raises(ValueError, match=r"n_splits=3 folds need as many series .* series='id' there are 2\."):
        folds_of(X, 3)


def test_dates_are_split_like_numbers():
    X = random_frame(0)
    dated = X.assign(day=pd.Timestamp("2024-03-20", tz="Europe/Berlin") + X["day"] * pd.Timedelta(days=1))
    for fold, other in zip(folds_of(X), folds_of(dated), strict=True):
        assert_array_equal(fold[0], other[0])
        assert_array_equal(fold[1], other[1])


def test_the_order_and_the_index_of_rows_do_not_matter():
    X = random_frame(1)
    shuffled = X.sample(frac=1, random_state=0)
    for fold, other in zip(folds_of(X), folds_of(shuffled), strict=True):
        for rows, others in zip(fold, other, strict=True):
            assert_array_equal(rows, np.sort(shuffled.index[others]))


def test_X_may_be_an_array():
    X = np.array([["a", 0.0], ["b", 3.0], ["a", 1.0], ["b", 2.0]], dtype=object)
    folds = PrefixSplit(2, series=0, time=1).split(X)
    assert [test.tolist() for _, test in folds] == [[2], [1]]


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("routing", [False, True])
def test_a_grid_search_continues_series(routing):
    X = random_frame(3, 40)
    cv = PrefixSplit(2, series="id", time="day")
    with config_context(enable_metadata_routing=routing):
        search = GridSearchCV(tiny_regressor(), {"latent_size": [2, 3]}, cv=cv).fit(X, np.sin(X["day"]))
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    assert search.n_splits_ == 2


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_the_prefix_is_what_predictions_are_conditioned_on():
    X = random_frame(4, 40)
    cv = PrefixSplit(2, series="id", time="day")
    result = cross_validate(
        tiny_regressor(), X, np.sin(X["day"]), cv=cv, return_estimator=True, return_indices=True, error_score="raise"
    )
    for model, train, test in zip(result["estimator"], *result["indices"].values(), strict=True):
        assert set(X["id"].iloc[test]) <= set(model.context_.ids)
        assert model.context_.row_weights().sum() == len(train)  # equal rows are one that weighs more


def test_repr_names_the_parameters():
    one_line = " ".join(repr(PrefixSplit(2, series="id")).split())
    assert one_line == "PrefixSplit(n_splits=2, prefix=0.5, random_state=None, series='id', shuffle=False, time=0)"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("n_splits", 1),
        ("series", None),
        ("time", 1.5),
        ("prefix", 0.0),
        ("prefix", 1.0),
        ("shuffle", "yes"),
        ("random_state", "seed"),
    ],
)
def test_bad_parameters_are_refused_by_name_and_value(name, value):
    with pytest.raises(ValueError, match=rf"The '{name}' parameter of PrefixSplit.*{value}"):
        PrefixSplit(**{"series": "id", name: value})


def test_a_random_state_without_shuffle_is_refused():
    with pytest.raises(ValueError, match="random_state has no effect since shuffle is False"):
        PrefixSplit(series="id", random_state=0)


def test_series_and_times_may_be_levels_of_the_index():
    X = random_frame(5).assign(group="text")
    for by in ("id", "day", ["id", "day"], ["day", "id"]):
        for fold, other in zip(folds_of(X), folds_of(X.set_index(by)), strict=True):
            assert_array_equal(fold[0], other[0])
            assert_array_equal(fold[1], other[1])

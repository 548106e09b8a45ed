import copy
import pickle

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_array_equal
from sklearn import config_context
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.compose import make_column_transformer
from sklearn.linear_model import LinearRegression
from sklearn.metrics import r2_score
from sklearn.model_selection import GridSearchCV, GroupKFold, cross_val_score, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

from skode import LatentODERegressor
from skode.frames import read_rows, read_targets
from skode.model_selection import ContinuationScorer, PrefixSplit


class LastValue(RegressorMixin, BaseEstimator):
    """Predicts the last value it was conditioned on in each series, plus ``offset``; 0 for other series."""

    def __init__(self, series="id", time="day", offset=0.0):
        self.series = series
        self.time = time
        self.offset = offset

    def fit(self, X, y):
        read_rows(self, X, series=self.series, time=self.time, reset=True)
        self.n_outputs_ = read_targets(y, len(y)).shape[1]
        self.last_, self.seen_ = {}, 0
        return self

    def condition(self, X, y):
        rows = read_rows(self, X, series=self.series, time=self.time, reset=False)
        values = read_targets(y, len(rows))
        conditioned = copy.deepcopy(self)
        conditioned.seen_ += len(rows)
        for row in np.argsort(rows.time, kind="stable"):
            conditioned.last_[rows.series[row]] = values[row]
        return conditioned

    def predict(self, X):
        rows = read_rows(self, X, series=self.series, time=self.time, reset=False)
        nothing = np.zeros(self.n_outputs_)
        predicted = np.array([self.last_.get(series, nothing) for series in rows.series]) + self.offset
        return predicted[:, 0] if self.n_outputs_ == 1 else predicted

    def score_samples(self, X, y):
        residuals = (read_targets(y, len(X)) - self.predict(X).reshape(len(X), -1)) ** 2
        return -0.5 * np.nansum(residuals, axis=1)


def steps(n_series=6, n_times=4):
    """Series that count up from the square of their number."""
    X = pd.DataFrame({"id": np.repeat(range(n_series), n_times), "day": np.tile(np.arange(n_times), n_series)})
    return X, (X["id"] ** 2 + X["day"]).to_numpy(float)


def fitted(X, y, **parameters):
    return LastValue(**parameters).fit(X, y)


def test_each_series_is_continued_from_its_own_prefix():
    X, y = steps()
    model = fitted(X, y)
    later = X["day"] >= 2
    assert ContinuationScorer()(model, X, y) == r2_score(y[later], (X["id"] ** 2 + 1)[later])
    assert model.seen_ == 0


@pytest.mark.parametrize(
    ("scoring", "score"),
    [
        ("neg_mean_absolute_error", -1.5),  # the rest is 1 and 2 above the last value known
        ("neg_root_mean_squared_error", -np.sqrt(2.5)),
        ("log_density", -1.25),
    ],
)
def test_errors_and_densities_have_the_values_they_should(scoring, score):
    X, y = steps()
    assert ContinuationScorer(0.5, scoring)(fitted(X, y), X, y) == pytest.approx(score, rel=1e-15)


def test_a_callable_scores_the_conditioned_model():
    X, y = steps()

    def largest_error(model, X, y):
        return -np.abs(model.predict(X) - y).max()

    assert ContinuationScorer(scoring=largest_error)(fitted(X, y), X, y) == -2.0


@pytest.mark.parametrize("prefix", [0.1, 0.3, 0.5, 0.99])
def test_the_prefix_is_that_of_PrefixSplit(prefix):
    rng = np.random.default_rng(0)
    X = pd.DataFrame({"id": rng.choice(list("abcdef"), 60), "day": rng.integers(0, 12, 60)})
    tested = np.concatenate([test for _, test in PrefixSplit(3, series="id", time="day", prefix=prefix).split(X)])
    query = []

    def note(model, X, y):
        query.extend(y)
        return float(model.seen_)

    rows = np.arange(60.0)
    assert ContinuationScorer(prefix, note)(fitted(X, rows), X, rows) == 60 - len(tested)
    assert_array_equal(np.sort(query), np.sort(tested))


def test_values_not_observed_are_left_out():
    X, y = steps()
    y[3::4] = np.nan  # then the rest that was observed is 1 above the last value known
    for scoring in ("neg_mean_absolute_error", "neg_root_mean_squared_error"):
        assert ContinuationScorer(scoring=scoring)(fitted(X, y), X, y) == -1.0
    assert ContinuationScorer(scoring="log_density")(fitted(X, y), X, y) == -0.5


def test_errors_of_outputs_are_averaged_over_what_was_observed():
    X, y = steps()
    y = np.column_stack([y, 10 * y, y])
    y[3::4, 1] = np.nan
    y[X["day"] >= 2, 2] = np.nan
    model = fitted(X, y)
    assert ContinuationScorer(scoring="neg_mean_absolute_error")(model, X, y) == -(1.5 + 10) / 2
    assert ContinuationScorer(scoring="neg_root_mean_squared_error")(model, X, y) == -(np.sqrt(2.5) + 10) / 2


def test_with_nothing_observed_in_the_prefix_the_model_is_not_conditioned():
    X, y = steps()
    y[X["day"] < 2] = np.nan
    expected = -np.nanmean(np.abs(y))
    assert ContinuationScorer(scoring="neg_mean_absolute_error")(fitted(X, y), X, y) == pytest.approx(expected)


def test_nothing_to_score_is_an_error():
    X, y = steps()
    model = fitted(X, y)
    with pytest.raises(ValueError, match="Nothing to score: each series has all its rows at one time"):
        ContinuationScorer()(model, X.iloc[::4], y[::4])
    y[X["day"] >= 2] = np.nan
    with pytest.raises(ValueError, match=r"y holds NaN only after the first prefix=0\.5 of each series"):
        ContinuationScorer()(model, X, y)


def test_X_and_y_may_be_of_any_kind():
    X, y = steps()
    score = ContinuationScorer(scoring="neg_mean_absolute_error")
    indexed = X.set_index(["id", "day"])
    assert score(fitted(indexed, y), indexed, pd.Series(y, index=indexed.index[::-1])) == -1.5
    for array in (X.to_numpy(), X.to_numpy().tolist()):
        assert score(fitted(array, y, series=0, time=1), array, y.tolist()) == -1.5
    assert score(fitted(X, y), X, pd.DataFrame({"y": y})) == -1.5


def test_the_order_of_rows_does_not_matter():
    X, y = steps()
    order = np.random.default_rng(0).permutation(len(X))
    model = fitted(X, y)
    score = ContinuationScorer(0.3)
    assert score(model, X.iloc[order], y[order]) == pytest.approx(score(model, X, y), rel=1e-15)


def test_X_and_y_must_have_the_same_length():
    X, y = steps()
    with pytest.raises(ValueError, match=r"inconsistent numbers of samples: \[24, 23\]"):
        ContinuationScorer()(fitted(X, y), X, y[1:])


@pytest.mark.parametrize("n_jobs", [None, 2])
@pytest.mark.parametrize("routing", [False, True])
def test_a_grid_search_chooses_what_continues_best(routing, n_jobs):
    X, y = steps()
    scoring = ContinuationScorer(scoring="neg_mean_absolute_error")
    with config_context(enable_metadata_routing=routing):
        search = GridSearchCV(LastValue(), {"offset": [0.0, 1.5]}, cv=GroupKFold(3), scoring=scoring, n_jobs=n_jobs)
        search.fit(X, y, groups=X["id"])
    assert search.best_params_ == {"offset": 1.5}
    assert search.cv_results_["mean_test_score"].tolist() == [-1.5, -0.5]


def test_several_scores_at_once():
    X, y = steps()
    scoring = {name: ContinuationScorer(scoring=name) for name in ("log_density", "neg_mean_absolute_error")}
    result = cross_validate(LastValue(), X, y, groups=X["id"], cv=GroupKFold(3), scoring=scoring)
    assert result["test_log_density"].tolist() == [-1.25] * 3
    assert result["test_neg_mean_absolute_error"].tolist() == [-1.5] * 3


def test_of_a_pipeline_the_last_step_is_conditioned():
    X, y = steps()
    X = X.assign(group=np.where(X["id"] % 2, "odd", "even"))
    encode = make_column_transformer((OneHotEncoder(sparse_output=False), ["group"]), remainder="passthrough")
    encode.set_output(transform="pandas")
    pipeline = make_pipeline(encode, LastValue(series="remainder__id", time="remainder__day")).fit(X, y)
    assert ContinuationScorer(scoring="neg_mean_absolute_error")(pipeline, X, y) == -1.5
    alone = make_pipeline(LastValue()).fit(X[["id", "day"]], y)
    assert ContinuationScorer(scoring="neg_mean_absolute_error")(alone, X[["id", "day"]], y) == -1.5


def test_what_can_not_be_conditioned_is_refused():
    X, y = steps()
    with pytest.raises(TypeError, match="LinearRegression has no condition, series, time"):
        ContinuationScorer()(LinearRegression().fit(X, y), X, y)


def test_a_pickled_scorer_is_the_same():
    scorer = ContinuationScorer(0.25, "log_density")
    assert pickle.loads(pickle.dumps(scorer)) == copy.deepcopy(scorer) == scorer != ContinuationScorer()


def test_repr_names_the_parameters():
    assert repr(ContinuationScorer()) == "ContinuationScorer(prefix=0.5, scoring=None)"


@pytest.mark.parametrize(("name", "value"), [("prefix", 0.0), ("prefix", 1.0), ("scoring", "r2")])
def test_bad_parameters_are_refused_by_name_and_value(name, value):
    with pytest.raises(ValueError, match=rf"The '{name}' parameter of ContinuationScorer.*{value}"):
        ContinuationScorer(**{name: value})


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("scoring", [None, "neg_root_mean_squared_error", "neg_mean_absolute_error", "log_density"])
def test_a_latent_ODE_is_scored(scoring):
    X, y = steps(4, 5)
    y[::7] = np.nan
    model = LatentODERegressor(
        series="id", time="day", latent_size=2, hidden_layer_sizes=4, encoder_size=4, max_iter=2, n_iter_no_change=None
    )
    cv, scorer = GroupKFold(2), ContinuationScorer(scoring=scoring)
    scores = cross_val_score(model, X, y, groups=X["id"], cv=cv, scoring=scorer, error_score="raise")
    assert np.isfinite(scores).all()

"""The time limit of the estimators, by a clock that shows a second more each time that it is read."""

import itertools
import pickle
import re
from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skode.timeseries import duration
from skode.training import stopwatch
from tests.training import test_callbacks
from tests.training.test_callbacks import classifier

N = 24
X, WEIGHTS = test_callbacks.X[:N], test_callbacks.WEIGHTS[:N]
ESTIMATORS = {name: (make, None if y is None else y[:N]) for name, (make, y) in test_callbacks.ESTIMATORS.items()}

pytestmark = pytest.mark.filterwarnings("ignore:Maximum iterations:sklearn.exceptions.ConvergenceWarning")


@pytest.fixture
def ticks(monkeypatch):
    """The number of times that the clock was read."""
    counted = itertools.count()
    for module in (stopwatch, duration):
        monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: float(next(counted))))
    return counted


def answer(estimator):
    """Numbers that a fitted estimator gives."""
    for name in ("predict_proba", "predict", "score_samples"):
        if hasattr(estimator, name):
            return getattr(estimator, name)(X)
    raise AssertionError


@pytest.mark.parametrize("early_stopping", [False, True])
@pytest.mark.parametrize("name", ESTIMATORS)
def test_a_fit_ends_with_its_time(name, early_stopping, ticks):
    make, y = ESTIMATORS[name]
    settings = {"max_iter": 100_000, "learning_rate": "cosine", "early_stopping": early_stopping}
    estimator = make(max_time=80.0, n_iter_no_change=None, validation_fraction=0.25, **settings).fit(X, y)
    assert 1 < estimator.n_iter_ < 80
    assert len(estimator.loss_curve_) == len(estimator.nfe_forward_) == estimator.n_iter_
    assert len(estimator.validation_scores_ or []) == early_stopping * estimator.n_iter_
    assert estimator.stop_reason_ == "max_time=80.0 was reached, over which the learning rate has come down to 0"
    assert 60.0 < next(ticks) < 90.0
    assert np.isfinite(answer(estimator)).all()
    assert pickle.loads(pickle.dumps(estimator)).stop_reason_ == estimator.stop_reason_


@pytest.mark.parametrize("name", ESTIMATORS)
def test_a_limit_far_away_changes_nothing(name):
    make, y = ESTIMATORS[name]
    free, limited = make().fit(X, y), make(max_time=1e6).fit(X, y)
    assert limited.loss_curve_ == free.loss_curve_
    assert limited.stop_reason_ == free.stop_reason_
    assert np.array_equal(answer(limited), answer(free))


@pytest.mark.parametrize("name", ESTIMATORS)
@pytest.mark.parametrize("max_time", [0, -1.0, np.nan, "60"])
def test_what_is_no_time_is_refused(name, max_time):
    make, y = ESTIMATORS[name]
    with pytest.raises(ValueError, match=r"The 'max_time' parameter of \w+ must be a float in the range \(0.0, inf\)"):
        make(max_time=max_time).fit(X, y)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_however_short_the_time_there_is_a_model_and_a_warning(name, ticks):
    make, y = ESTIMATORS[name]
    with pytest.warns(ConvergenceWarning, match=r"max_time=0\.1 ended training in epoch 1 of 50"):
        estimator = make(max_time=0.1, max_iter=50, batch_size=10, learning_rate="cosine").fit(X, y)
    assert estimator.n_iter_ == 1
    assert np.isfinite(answer(estimator)).all()


@pytest.mark.parametrize("name", ESTIMATORS)
def test_a_warm_start_has_all_the_time_again(name, ticks):
    make, y = ESTIMATORS[name]
    settings = {"max_iter": 100_000, "learning_rate": "cosine", "early_stopping": False, "n_iter_no_change": None}
    estimator = make(max_time=60.0, warm_start=True, **settings).fit(X, y)
    began, first = next(ticks), estimator.loss_
    estimator.fit(X, y, sample_weight=WEIGHTS)
    assert 40.0 < next(ticks) - began < 70.0
    assert estimator.n_iter_ > 1
    assert estimator.loss_ != first


def test_a_partial_fit_ends_with_its_time_and_the_next_goes_on(ticks):
    labels = ESTIMATORS["ODENetClassifier"][1]
    estimator = classifier(max_time=9.0, batch_size=2)  # twelve updates an epoch, with two readings each
    estimator.partial_fit(X, labels)
    assert estimator.stop_reason_ == "max_time=9.0 was reached"
    half = estimator.loss_curve_[0]
    estimator.set_params(max_time=None).partial_fit(X, labels, sample_weight=WEIGHTS)
    assert estimator.loss_curve_[0] == half
    assert estimator.n_iter_ == 2
    assert estimator.stop_reason_ == "max_iter was reached"


def test_a_search_within_a_pipeline_can_choose_it(ticks):
    labels = ESTIMATORS["ODENetClassifier"][1]
    settings = {"max_iter": 100_000, "learning_rate": "cosine", "n_iter_no_change": None, "batch_size": 8}
    pipeline = make_pipeline(StandardScaler(), classifier(**settings))
    search = GridSearchCV(pipeline, {"odenetclassifier__max_time": [12.0, 150.0]}, cv=2)
    search.fit(X, labels, odenetclassifier__sample_weight=WEIGHTS)
    assert search.best_params_ == {"odenetclassifier__max_time": 150.0}
    best = search.best_estimator_[-1]
    assert "max_time=150.0" in best.stop_reason_
    assert clone(best).max_time == 150.0


def test_flow_matching_has_a_share_of_the_time_as_of_the_epochs(ticks):
    make, _ = ESTIMATORS["CNFDensityEstimator"]
    estimator = make(matching_iter=30_000, max_iter=90_000, max_time=160.0).fit(X)
    shares = len(estimator.matching_curve_) / (len(estimator.matching_curve_) + estimator.n_iter_)
    assert 0.1 < shares < 0.4
    assert "max_time" in estimator.stop_reason_
    assert 130.0 < next(ticks) < 170.0


def test_the_phases_after_training_are_named_and_timed(capsys, monkeypatch):
    monkeypatch.setattr("skode.timeseries.after_training.may_have_memory", lambda panel: True)  # of one series too
    make, y = ESTIMATORS["LatentODERegressor"]
    make(verbose=True, max_iter=2).fit(X, y)
    lines = capsys.readouterr().out.splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("Training ended"))
    names = ["Memory of the noise", "Forecasts of the rows set aside", "Posteriors of 1 series"]
    assert [line.split(" ... ")[0] for line in lines[at + 1 :]] == names
    assert all(re.fullmatch(r".* \.\.\. \S+ s, \S+ s in all", line) for line in lines[at + 1 :])

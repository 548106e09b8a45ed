"""scikit-learn's callbacks on the estimators."""

import re

import numpy as np
import pytest
from sklearn.callback import ProgressBar, ScoringMonitor
from sklearn.datasets import make_moons
from sklearn.model_selection import GridSearchCV

from skode import CNFDensityEstimator, CNFRegressor, LatentODERegressor, ODENetClassifier, ODENetRegressor

pytestmark = pytest.mark.filterwarnings("ignore:Maximum iterations:sklearn.exceptions.ConvergenceWarning")

X, LABELS = make_moons(40, noise=0.1, random_state=0)


def classifier(**changed):
    settings = {"max_iter": 4, "learning_rate": "constant", **changed}
    return ODENetClassifier((4,), state_size=3, random_state=0, **settings)


ESTIMATORS = {
    "ODENetClassifier": (classifier, LABELS),
    "ODENetRegressor": (
        lambda **changed: ODENetRegressor((4,), state_size=3, random_state=0, **{"max_iter": 4, **changed}),
        X[:, 0],
    ),
    "CNFDensityEstimator": (
        lambda **changed: CNFDensityEstimator((4,), random_state=0, **{"max_iter": 4, **changed}),
        None,
    ),
    "CNFRegressor": (
        lambda **changed: CNFRegressor((4,), random_state=0, **{"max_iter": 4, **changed}),
        X[:, 0],
    ),
    "LatentODERegressor": (
        lambda **changed: LatentODERegressor(
            latent_size=2,
            hidden_layer_sizes=(4,),
            encoder_size=4,
            n_draws=4,
            rtol=1e-2,
            atol=1e-2,
            random_state=0,
            **{"max_iter": 4, **changed},
        ),
        X[:, 1],
    ),
}


WEIGHTS = np.where(X[:, 0] > 0.5, 3.0, 0.25)


class Recorder:
    """Records the epochs; asks to stop after some."""

    def __init__(self, stop_after=None):
        self.stop_after = stop_after
        self.events, self.losses, self.predictions = [], [], []

    def setup(self, estimator, context):
        self.events.append("setup")

    def teardown(self, estimator, context):
        self.events.append("teardown")

    def on_fit_task_begin(self, estimator, context):
        self.events.append(f"begin {context.task_name} {context.task_id}")

    def on_fit_task_end(self, estimator, context, *, X=None, y=None, fitted_estimator=None):
        self.events.append(f"end {context.task_name} {context.task_id}")
        if context.task_name == "epoch":
            self.losses.append(estimator.loss_curve_[-1])
            ask = fitted_estimator.predict_proba if hasattr(fitted_estimator, "predict_proba") else None
            self.predictions.append(ask(X) if ask else None)
            return self.stop_after is not None and len(self.losses) >= self.stop_after
        return None


@pytest.mark.parametrize("name", ESTIMATORS)
def test_every_epoch_is_a_task(name):
    make, y = ESTIMATORS[name]
    recorder = Recorder()
    estimator = make().set_callbacks(recorder).fit(X, y)
    assert recorder.events[0] == "setup"
    assert recorder.events[-1] == "teardown"
    epochs = [event for event in recorder.events if " epoch " in event]
    assert epochs == [f"{what} epoch {i}" for i in range(4) for what in ("begin", "end")]
    assert recorder.losses == estimator.loss_curve_


@pytest.mark.parametrize("name", ESTIMATORS)
def test_a_callback_that_returns_true_stops_training(name):
    make, y = ESTIMATORS[name]
    estimator = make(max_iter=50).set_callbacks(Recorder(stop_after=2)).fit(X, y)
    assert estimator.n_iter_ == 2


def test_the_estimator_given_to_a_callback_predicts_as_if_training_had_stopped_there():
    recorder = Recorder()
    classifier(alpha=1.0).set_callbacks(recorder).fit(X, LABELS)
    for n, prediction in enumerate(recorder.predictions, start=1):
        np.testing.assert_array_equal(prediction, classifier(alpha=1.0, max_iter=n).fit(X, LABELS).predict_proba(X))


def test_callbacks_change_nothing_about_the_fit():
    watched = classifier().set_callbacks(Recorder()).fit(X, LABELS)
    assert watched.loss_curve_ == classifier().fit(X, LABELS).loss_curve_


@pytest.mark.parametrize("name", ["ODENetClassifier", "LatentODERegressor"])
def test_a_scoring_monitor_logs_a_score_per_epoch(name):
    make, y = ESTIMATORS[name]
    scoring = {"ODENetClassifier": "accuracy", "LatentODERegressor": "r2"}[name]
    monitor = ScoringMonitor(scoring=scoring)
    # Early stopping would go back to the best weights, and these are compared with the last ones.
    estimator = make(early_stopping=False).set_callbacks(monitor).fit(X, y)
    logs = monitor.get_logs()
    log = logs[-1] if isinstance(logs, list) else logs
    epochs = [row for row in log.data if row["task_name"] == "epoch"]
    assert len(epochs) == 4
    assert epochs[-1][scoring] == pytest.approx(estimator.score(X, y), rel=1e-12)


class Metadata:
    """Records what hooks are told of the fit."""

    def __init__(self):
        self.told = []

    def setup(self, estimator, context): ...

    def teardown(self, estimator, context): ...

    def on_fit_task_begin(self, estimator, context, *, metadata=None):
        self.told.append((context.task_name, metadata))

    on_fit_task_end = on_fit_task_begin


@pytest.mark.parametrize("name", ESTIMATORS)
def test_hooks_are_told_the_weights_of_the_fit(name):
    make, y = ESTIMATORS[name]
    told = Metadata()
    make(max_iter=1).set_callbacks(told).fit(X, y, sample_weight=WEIGHTS)
    assert [task for task, _ in told.told] == ["fit", "epoch", "epoch", "fit"]
    for _, metadata in told.told:
        assert list(metadata) == ["sample_weight"]
        np.testing.assert_array_equal(metadata["sample_weight"], WEIGHTS)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_without_weights_there_is_no_metadata(name):
    make, y = ESTIMATORS[name]
    told = Metadata()
    make(max_iter=1).set_callbacks(told).fit(X, y)
    assert told.told[0][1] is None


def own_score(estimator, X, y, sample_weight=None):
    return {"score": estimator.score(X, y, sample_weight=sample_weight)}


@pytest.mark.parametrize("name", ESTIMATORS)
def test_a_scoring_monitor_weights_its_scores_as_the_fit_does(name):
    make, y = ESTIMATORS[name]
    y = X[:, 0] if y is None else y  # without any the monitor does not score
    monitor = ScoringMonitor(scoring=own_score)
    estimator = make(max_iter=1, early_stopping=False).set_callbacks(monitor).fit(X, y, sample_weight=WEIGHTS)
    log = monitor.get_logs()
    log = log[-1] if isinstance(log, list) else log
    (score,) = [row["score"] for row in log.data if row["task_name"] == "epoch"]
    assert score == pytest.approx(estimator.score(X, y, sample_weight=WEIGHTS), rel=1e-12)
    assert score != pytest.approx(estimator.score(X, y), rel=1e-3)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_a_progress_bar_shows_every_epoch(name, capsys):
    pytest.importorskip("rich")
    make, y = ESTIMATORS[name]
    make().set_callbacks(ProgressBar()).fit(X, y)
    out = capsys.readouterr().out
    assert re.search(rf"{name}\b.*100%", out)
    assert not re.search(r"^Epoch", out, flags=re.MULTILINE)


def test_a_progress_bar_runs_through_a_search(capsys):
    pytest.importorskip("rich")
    search = GridSearchCV(classifier(), {"alpha": [0.1, 1.0]}, cv=2)
    search.set_callbacks(ProgressBar()).fit(X, LABELS)
    assert re.search(r"GridSearchCV\b.*100%", capsys.readouterr().out)


# Printing


@pytest.mark.parametrize("early_stopping", [False, True])
@pytest.mark.parametrize("name", ESTIMATORS)
def test_verbose_prints_the_curves_of_the_fit(name, early_stopping, capsys):
    make, y = ESTIMATORS[name]
    estimator = make(verbose=1, early_stopping=early_stopping).fit(X, y)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Epoch ")]
    assert [line.split(":")[0] for line in lines] == [f"Epoch {i}/4" for i in range(1, 5)]

    def column(pattern):
        return [float(found.group(1)) for line in lines if (found := re.search(pattern, line))]

    assert column(r"loss (\S+),") == pytest.approx(estimator.loss_curve_, abs=5e-7)
    assert column(r"validation score (\S+),") == pytest.approx(estimator.validation_scores_ or [], abs=5e-7)
    assert bool(estimator.validation_scores_) == early_stopping
    assert column(r"evaluations (\S+) forward") == pytest.approx(estimator.nfe_forward_, abs=0.05)
    assert column(r"\+ (\S+) backward") == pytest.approx(estimator.nfe_backward_, abs=0.05)
    assert len(column(r", (\d+\.\d\d) s; \S+ s in all, about \S+ s left$")) == 4


def test_partial_fit_counts_on(capsys):
    estimator = classifier(verbose=1)
    for _ in range(2):
        estimator.partial_fit(X, LABELS)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == ["Epoch 1", "Epoch 2"]


def test_flow_matching_before_likelihood_is_told_apart(capsys):
    estimator = ESTIMATORS["CNFDensityEstimator"][0](verbose=1, matching_iter=2, stacking=False).fit(X)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(": loss")[0] for line in lines[:2]] == ["Flow matching: epoch 1/2", "Flow matching: epoch 2/2"]
    assert float(re.search(r"loss (\S+),", lines[1]).group(1)) == pytest.approx(estimator.matching_curve_[1], abs=5e-7)
    assert lines[3].startswith("Epoch 1/4: loss ")

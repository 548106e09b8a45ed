"""scikit-learn's callbacks on the estimators."""

import numpy as np
import pytest
from sklearn.callback import ProgressBar, ScoringMonitor
from sklearn.datasets import make_moons

from skode import CNFDensityEstimator, LatentODERegressor, ODENetClassifier

pytestmark = pytest.mark.filterwarnings("ignore:Maximum iterations:sklearn.exceptions.ConvergenceWarning")

X, LABELS = make_moons(40, noise=0.1, random_state=0)


def classifier(**changed):
    settings = {"max_iter": 4, "learning_rate": "constant", **changed}
    return ODENetClassifier((4,), state_size=3, random_state=0, **settings)


ESTIMATORS = {
    "ODENetClassifier": (classifier, LABELS),
    "CNFDensityEstimator": (
        lambda **changed: CNFDensityEstimator((4,), random_state=0, **{"max_iter": 4, **changed}),
        None,
    ),
    "LatentODERegressor": (
        lambda **changed: LatentODERegressor(
            latent_size=2, hidden_layer_sizes=(4,), encoder_size=4, random_state=0, **{"max_iter": 4, **changed}
        ),
        X[:, 1],
    ),
}


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
    classifier().set_callbacks(recorder).fit(X, LABELS)
    for n, prediction in enumerate(recorder.predictions, start=1):
        np.testing.assert_array_equal(prediction, classifier(max_iter=n).fit(X, LABELS).predict_proba(X))


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


@pytest.mark.parametrize("name", ESTIMATORS)
def test_a_progress_bar_runs(name, capsys):
    pytest.importorskip("rich")
    make, y = ESTIMATORS[name]
    make().set_callbacks(ProgressBar()).fit(X, y)
    assert name in capsys.readouterr().out

"""Score, depth and time against tolerance."""

import copy

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import make_moons
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import get_scorer

from skode import CNFDensityEstimator, LatentODERegressor, ODENetClassifier
from skode.inspection import ToleranceDisplay, tolerance_curve

pytestmark = pytest.mark.filterwarnings("ignore:Maximum iterations:sklearn.exceptions.ConvergenceWarning")
X, Y = make_moons(60, noise=0.1, random_state=0)


@pytest.fixture(scope="module")
def fitted():
    return ODENetClassifier((8,), state_size=4, max_iter=20, learning_rate_init=1e-2, random_state=0).fit(X, Y)


def test_each_row_is_a_prediction_at_that_tolerance(fitted):
    curve = tolerance_curve(fitted, X, Y, tolerances=[1.0, 1e-3, 1e-9])
    assert list(curve.columns) == ["tolerance", "score", "nfe", "seconds"]
    for row in curve.itertuples():
        fitted.set_params(rtol=row.tolerance, atol=row.tolerance)
        assert row.score == fitted.score(X, Y)
        assert row.nfe == fitted.predict(X, return_nfe=True)[1].mean()
    assert curve["nfe"].iloc[-1] > curve["nfe"].iloc[0]
    assert (curve["seconds"] > 0).all()


def test_the_estimator_is_left_as_it_is(fitted):
    fitted.set_params(rtol=1e-3, atol=1e-4)
    before = fitted.predict_proba(X)
    tolerance_curve(fitted, X, Y)
    assert (fitted.rtol, fitted.atol) == (1e-3, 1e-4)
    np.testing.assert_array_equal(fitted.predict_proba(X), before)


def test_any_scorer_will_do(fitted):
    curve = tolerance_curve(fitted, X, Y, tolerances=[1e-3], scoring=get_scorer("neg_log_loss"))
    assert curve["score"].iloc[0] == get_scorer("neg_log_loss")(fitted.set_params(rtol=1e-3, atol=1e-3), X, Y)


@pytest.fixture(scope="module")
def flow():
    return CNFDensityEstimator((8,), early_stopping=False, max_iter=3, random_state=0).fit(X)


@pytest.fixture(scope="module")
def panel():
    rng = np.random.default_rng(0)
    rows = np.column_stack([np.repeat(np.arange(5), 8), np.sort(rng.uniform(0, 10, (5, 8)), axis=1).ravel()])
    return rows, np.sin(rows[:, 1]) + rows[:, 0]


@pytest.fixture(scope="module")
def latent(panel):
    sizes = {"latent_size": 2, "hidden_layer_sizes": (4,), "encoder_size": 4, "n_draws": 4}
    return LatentODERegressor(0, 1, max_iter=2, random_state=0, **sizes).fit(*panel)


def test_a_density_needs_no_targets(flow):
    curve = tolerance_curve(flow, X, tolerances=[1e-2, 1e-8])
    for row in curve.itertuples():
        assert row.score == copy.copy(flow).set_params(rtol=row.tolerance, atol=row.tolerance).score(X)
    assert curve["nfe"].iloc[1] > curve["nfe"].iloc[0]
    assert (curve["seconds"] > 0).all()


def test_a_latent_ode_is_scored_by_its_rows(latent, panel):
    curve = tolerance_curve(latent, *panel, tolerances=[1e-2, 1e-8])
    for row in curve.itertuples():
        assert row.score == copy.copy(latent).set_params(rtol=row.tolerance, atol=row.tolerance).score(*panel)
    assert curve["nfe"].iloc[1] > curve["nfe"].iloc[0]


@pytest.mark.parametrize("name", ["fitted", "flow", "latent"])
def test_steps_of_fixed_length_cost_what_they_cost(name, panel, request):
    """Euler's method evaluates the field once a step; steps are a share of the time that is solved over."""
    estimator = copy.copy(request.getfixturevalue(name)).set_params(method="euler", step_size=0.25)
    rows, y = panel if name == "latent" else (X, None if name == "flow" else Y)
    curve = tolerance_curve(estimator, rows, y, tolerances=[1.0, 1e-6])
    assert curve["nfe"].tolist() == [4.0, 4.0]


def test_a_samples_evaluations_are_counted_once_however_many_are_solved_at_a_time(flow, monkeypatch):
    whole = tolerance_curve(flow, X, tolerances=[1e-4])["nfe"]
    monkeypatch.setattr("skode.density.chunks.CHUNK", 7)
    np.testing.assert_array_equal(tolerance_curve(flow, X, tolerances=[1e-4])["nfe"], whole)


def test_nothing_is_left_behind_in_the_estimator(flow, latent, panel):
    for estimator, data in ((flow, (X,)), (latent, panel)):
        before = dict(vars(estimator))
        tolerance_curve(estimator, *data, tolerances=[1e-1])
        assert vars(estimator) == before


def test_scorers_are_known_by_name(fitted):
    curve = tolerance_curve(fitted, X, Y, tolerances=[1e-3], scoring="neg_log_loss")
    assert curve["score"].iloc[0] == get_scorer("neg_log_loss")(fitted.set_params(rtol=1e-3, atol=1e-3), X, Y)


def test_lines_are_the_columns_of_the_curve(fitted):
    display = ToleranceDisplay.from_estimator(fitted, X, Y, tolerances=[1e-1, 1e-3, 1e-5])
    expected = tolerance_curve(fitted, X, Y, tolerances=[1e-1, 1e-3, 1e-5])
    assert list(display.lines_) == ["score", "nfe", "seconds"]
    for ax, (column, line) in zip(display.axes_, display.lines_.items(), strict=True):
        assert line.axes is ax
        assert ax.get_xscale() == "log"
        np.testing.assert_array_equal(line.get_xdata(), [1e-1, 1e-3, 1e-5])
        np.testing.assert_array_equal(line.get_ydata(), display.curve[column])
    pd.testing.assert_frame_equal(display.curve[["score", "nfe"]], expected[["score", "nfe"]])


def test_a_display_is_drawn_again_on_other_axes(flow):
    display = ToleranceDisplay.from_estimator(flow, X, tolerances=[1e-1, 1e-2], scoring=None, name="flow")
    _, axes = plt.subplots(2, 1)
    assert display.plot(axes, panels=["seconds", "score"], line_kw={"color": "red"}) is display
    assert display.lines_["seconds"].axes is axes[0]
    assert display.lines_["score"].get_color() == "red"
    assert display.figure_ is axes[0].figure
    assert axes[0].get_legend().get_texts()[0].get_text() == "flow"


def test_the_axis_of_scores_says_which(fitted):
    def label(**given):
        return ToleranceDisplay.from_estimator(fitted, X, Y, tolerances=[1e-1], **given).axes_[0].get_ylabel()

    assert label() == "score"
    assert label(scoring="neg_log_loss") == "neg_log_loss"
    assert label(score_name="accuracy") == "accuracy"


def test_what_cannot_be_drawn_is_refused(fitted):
    with pytest.raises(TypeError, match=r"estimator must be one of skode's.*LogisticRegression\(\)"):
        tolerance_curve(LogisticRegression().fit(X, Y), X, Y)
    with pytest.raises(NotFittedError):
        tolerance_curve(ODENetClassifier(), X, Y)
    for tolerances in ([], [1e-3, 0.0], [-1.0], [np.nan]):
        with pytest.raises(ValueError, match=r"tolerances must be .* above 0.*got \["):
            tolerance_curve(fitted, X, Y, tolerances=tolerances)
    display = ToleranceDisplay.from_estimator(fitted, X, Y, tolerances=[1e-1])
    with pytest.raises(ValueError, match=r"panels must be some of .*got \['depth'\]"):
        display.plot(panels=["depth"])
    with pytest.raises(ValueError, match=r"axes must be 3, one for each panel; got 1\. The panels are .*'seconds'"):
        display.plot(plt.subplots()[1])


@pytest.mark.parametrize("name", ["fitted", "latent"])
@pytest.mark.parametrize("scoring", [None, "max_error"])
def test_a_score_of_predictions_needs_targets(name, scoring, panel, request):
    rows = panel[0] if name == "latent" else X
    with pytest.raises(ValueError, match=r"y is needed: the score of (ODENetClassifier|LatentODERegressor) compares"):
        tolerance_curve(request.getfixturevalue(name), rows, scoring=scoring)


def test_a_score_of_ones_own_may_do_without_targets(fitted):
    curve = tolerance_curve(fitted, X, tolerances=[1e-3], scoring=lambda estimator, X, y: estimator.predict(X).mean())
    assert curve["score"].iloc[0] == fitted.set_params(rtol=1e-3, atol=1e-3).predict(X).mean()

"""Curves of training as they are drawn."""

import warnings

import matplotlib.pyplot as plt
import numpy as np
import pytest
from numpy.testing import assert_array_equal
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.linear_model import LinearRegression
from sklearn.neural_network import MLPClassifier

from skode import CNFDensityEstimator, LatentODERegressor, ODENetClassifier, ODENetRegressor
from skode.inspection import TrainingCurveDisplay

RNG = np.random.default_rng(0)
X = RNG.standard_normal((60, 2))
T = np.sort(RNG.uniform(0, 10, 40)).reshape(-1, 1)
LATENT = {"latent_size": 2, "hidden_layer_sizes": (4,), "encoder_size": 4, "n_draws": 4}
ESTIMATORS = {
    "classifier": (ODENetClassifier((4,), state_size=3, early_stopping=True), X, X[:, 0] > 0),
    "regressor": (ODENetRegressor((4,), state_size=3, early_stopping=False), X, X[:, 0]),
    "density": (CNFDensityEstimator((4,), early_stopping=True), X, None),
    "latent": (LatentODERegressor(**LATENT), T, np.sin(T[:, 0])),
}


@pytest.fixture(scope="module")
def fitted():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return {
            name: estimator.set_params(max_iter=4, random_state=0).fit(X, y)
            for name, (estimator, X, y) in ESTIMATORS.items()
        }


@pytest.mark.parametrize("name", ESTIMATORS)
def test_lines_are_the_fitted_curves(fitted, name):
    estimator = fitted[name]
    display = TrainingCurveDisplay.from_estimator(estimator)
    epochs = [1, 2, 3, 4]
    drawn = {
        "loss_line_": estimator.loss_curve_,
        "nfe_forward_line_": estimator.nfe_forward_,
        "nfe_backward_line_": estimator.nfe_backward_,
    }
    if estimator.validation_scores_ is None:
        assert display.validation_line_ is None
    else:
        drawn["validation_line_"] = estimator.validation_scores_
    for line, curve in drawn.items():
        assert_array_equal(getattr(display, line).get_xdata(), epochs)
        assert_array_equal(getattr(display, line).get_ydata(), curve)
    assert len(display.axes_) == len(display.figure_.axes) == (3 if "validation_line_" in drawn else 2)
    assert display.nfe_forward_line_.axes is display.nfe_backward_line_.axes is display.axes_[-1]


@pytest.mark.parametrize("name", ["classifier", "density", "latent"])
def test_the_epoch_whose_weights_were_kept_is_marked(fitted, name):
    estimator = fitted[name]
    display = TrainingCurveDisplay.from_estimator(estimator)
    best = estimator.validation_scores_.index(estimator.best_validation_score_)
    assert display.kept_epoch == best + 1
    on_loss, on_score = display.kept_marks_
    assert_array_equal(on_loss.get_xydata(), [[best + 1, estimator.loss_curve_[best]]])
    assert_array_equal(on_score.get_xydata(), [[best + 1, estimator.best_validation_score_]])


def test_the_weights_of_the_marked_epoch_are_the_estimators():
    """A fit that ends at the marked epoch has the same weights, for it has made the same updates."""
    settings = {"stacking": False, "learning_rate": "constant", "random_state": 0}
    settings["learning_rate_init"] = 0.3  # so large that scores go up and down
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        whole = CNFDensityEstimator((4,), max_iter=8, **settings).fit(X)
        kept = TrainingCurveDisplay.from_estimator(whole).kept_epoch
        assert 1 < kept < 8  # else there is nothing to be seen
        short = CNFDensityEstimator((4,), max_iter=kept, **settings).fit(X)
    assert_array_equal(short.score_samples(X), whole.score_samples(X))


def test_nothing_is_marked_where_the_last_weights_were_kept(fitted):
    display = TrainingCurveDisplay.from_estimator(fitted["regressor"])
    assert display.kept_epoch is None
    assert display.kept_marks_ == []


@pytest.mark.parametrize(
    ("scores", "epoch"), [([1.0, 3.0, 3.0], 2), ([-np.inf, -5.0], 2), ([np.nan, 1.0], 2), ([-np.inf], None)]
)
def test_the_first_of_the_best_usable_scores_is_what_was_kept(scores, epoch):
    network = MLPClassifier()
    network.loss_curve_ = list(range(len(scores)))
    network.coefs_, network.validation_scores_ = [], scores
    assert TrainingCurveDisplay.from_estimator(network).kept_epoch == epoch


def test_networks_of_scikit_learn_have_no_evaluations(fitted):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        network = MLPClassifier((3,), max_iter=3, random_state=0).fit(X, X[:, 0] > 0)
    display = TrainingCurveDisplay.from_estimator(network)
    assert_array_equal(display.loss_line_.get_ydata(), network.loss_curve_)
    assert display.nfe_forward_line_ is None
    assert len(display.axes_) == 1


def test_flow_matching_evaluates_no_solve():
    flow = CNFDensityEstimator((4,), objective="flow_matching", early_stopping=False, max_iter=2, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        display = TrainingCurveDisplay.from_estimator(flow.fit(X))
    assert display.nfe_forward_line_ is None
    assert len(display.axes_) == 1


def test_several_fits_share_axes(fitted):
    figure, axes = plt.subplots(1, 2)
    first = TrainingCurveDisplay.from_estimator(fitted["classifier"], panels=["nfe", "loss"], name="A", axes=axes)
    second = TrainingCurveDisplay.from_estimator(fitted["regressor"], panels=["nfe", "loss"], name="B", axes=axes)
    assert first.figure_ is second.figure_ is figure
    assert first.loss_line_.axes is second.loss_line_.axes is axes[1]
    assert [text.get_text() for text in axes[0].get_legend().get_texts()] == ["A", "B"]
    assert first.nfe_backward_line_.get_color() == first.nfe_forward_line_.get_color()
    assert first.loss_line_.get_color() != second.loss_line_.get_color()


def test_a_display_is_drawn_again_on_other_axes(fitted):
    display = TrainingCurveDisplay.from_estimator(fitted["classifier"], log=True)
    assert display.axes_[0].get_yscale() == "log"
    _, ax = plt.subplots()
    assert display.plot(ax, panels=["validation"], line_kw={"color": "red"}) is display
    assert display.validation_line_.axes is ax
    assert display.validation_line_.get_color() == "red"
    assert display.loss_line_ is None
    assert len(display.kept_marks_) == 1


def test_what_cannot_be_drawn_is_refused(fitted):
    with pytest.raises(NotFittedError):
        TrainingCurveDisplay.from_estimator(ODENetClassifier())
    with pytest.raises(TypeError, match=r"estimator must keep its loss_curve_.*LinearRegression\(\)"):
        TrainingCurveDisplay.from_estimator(LinearRegression().fit(X, X[:, 0]))
    display = TrainingCurveDisplay.from_estimator(fitted["regressor"])
    with pytest.raises(ValueError, match=r"panels must be some of \['loss', 'nfe'\].*\['validation'\]"):
        display.plot(panels=["validation"])
    with pytest.raises(ValueError, match=r"panels must be some of .*got \[\]"):
        display.plot(panels=[])
    with pytest.raises(TypeError, match="unexpected keyword argument 'ax'"):
        display.plot(ax=plt.subplots()[1])
    with pytest.raises(ValueError, match=r"log=True needs a loss above 0; it fell to -0.5"):
        TrainingCurveDisplay([1.0, -0.5]).plot(log=True)


def test_a_fit_without_validation_scores_is_drawn_beside_one_that_has_them(fitted):
    display = TrainingCurveDisplay.from_estimator(fitted["classifier"])
    message = (
        r"axes must be 2, one for each panel; got 3. The panels are \['loss', 'nfe'\]: pass as many axes, or choose"
    )
    with pytest.raises(ValueError, match=message):
        TrainingCurveDisplay.from_estimator(fitted["regressor"], axes=display.axes_)
    beside = TrainingCurveDisplay.from_estimator(fitted["regressor"], axes=display.axes_[[0, 2]])
    assert beside.loss_line_.axes is display.loss_line_.axes
    assert beside.nfe_forward_line_.axes is display.nfe_forward_line_.axes

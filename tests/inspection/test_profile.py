"""Profile likelihoods as they are drawn."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose
from scipy.stats import chi2
from sklearn.base import BaseEstimator
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LinearRegression

from skode import ODERegressor
from skode.inspection import ProfileDisplay
from skode.inspection.profile import Parabola

T = np.linspace(0.0, 3.0, 12)
Y = 2.0 * T + 0.3 * np.random.default_rng(0).standard_normal(12)


def rising(t, y, p):
    return p["slope"].expand(y.shape[:-1])[..., None]


@pytest.fixture(scope="module")
def line():
    """y = slope * t, whose likelihood is known."""
    return ODERegressor(rising, {"slope": 1.0}, initial=[0.0], tol=1e-10).fit(T[:, None], Y)


def test_the_profile_and_its_interval_are_those_of_the_linear_model(line):
    display = ProfileDisplay.from_estimator(line, n_points=41, level=0.9)
    slope, squares = T @ Y / (T @ T), T @ T
    left = np.sum((Y - slope * T) ** 2)
    values, drop = display.lines_["slope"].get_data()
    assert_allclose(drop, -6.0 * np.log1p(squares * (values - slope) ** 2 / left), atol=1e-6)
    reach = np.sqrt(left * np.expm1(chi2.ppf(0.9, 1) / 12) / squares)
    assert_allclose(display.intervals_.loc["slope"], [slope - reach, slope + reach], rtol=1e-4)
    values, parabola = display.parabolas_["slope"].get_data()
    assert_allclose(parabola, -0.5 * squares * (values - slope) ** 2 / (left / 11), rtol=1e-4, atol=1e-6)
    assert_allclose(display.thresholds_["slope"].get_ydata(), -0.5 * chi2.ppf(0.9, 1))
    legend = [text.get_text() for text in display.legend_.get_texts()]
    assert legend == ["profile", "by standard error", "90 % threshold"]


def test_parameters_that_all_series_share_are_profiled_on_their_scale(spring_model):
    display = ProfileDisplay.from_estimator(spring_model, n_points=3)
    assert list(display.lines_) == ["stiffness", "damping"]
    assert [ax.get_xlabel() for ax in display.axes_] == ["stiffness", "damping"]
    estimate, error = spring_model.params_["damping"], spring_model.summary().loc[("damping", ""), "std_error"]
    values, parabola = display.parabolas_["damping"].get_data()
    assert_allclose(values[[0, -1]], estimate * np.exp([-3 * error / estimate, 3 * error / estimate]), rtol=1e-6)
    assert_allclose(parabola[[0, -1]], -4.5, rtol=1e-6)
    with pytest.raises(ValueError, match="name='initial place' is none of the unknowns that can be profiled"):
        ProfileDisplay.from_estimator(spring_model, "initial place")


def test_a_profile_that_stays_above_the_threshold_has_no_end_there():
    table = pd.DataFrame({"rate": [1.0, 2.0, 3.0, 4.0], "loglik": [5.0, 9.0, 9.5, 9.4]})
    display = ProfileDisplay({"rate": table}).plot(line_kw={"color": "red"})
    # Signed roots at 1 and 2 are sqrt(4.5) and sqrt(0.5); the threshold's is sqrt(chi2 / 2).
    share = (np.sqrt(chi2.ppf(0.95, 1) / 2) - np.sqrt(0.5)) / (np.sqrt(4.5) - np.sqrt(0.5))
    assert_allclose(display.intervals_.loc["rate"], [2.0 - share, np.nan])
    assert display.parabolas_["rate"] is None
    assert display.lines_["rate"].get_color() == "red"
    axes = plt.subplots()[1]
    assert display.plot(axes).lines_["rate"].axes is axes
    with pytest.raises(ValueError, match="axes must be 1, one for each panel; got 2"):
        display.plot(plt.subplots(1, 2)[1])


def test_tables_and_parabolas_of_ones_own_are_drawn():
    values = np.geomspace(0.5, 2.0, 5)
    table = pd.DataFrame({"rate": values, "loglik": -0.5 * (np.log(values) / 0.2) ** 2})
    display = ProfileDisplay({"rate": table}, parabolas={"rate": Parabola(1.0, 0.2, log=True)}).plot()
    drawn, parabola = display.parabolas_["rate"].get_data()
    assert_allclose(parabola, -0.5 * (np.log(drawn) / 0.2) ** 2, atol=1e-12)


class Known(BaseEstimator):
    """Profiles of unknowns without a standard error."""

    def fit(self):
        self.params_ = {"low": 0.0, "any": 1.0}
        self.covariance_ = pd.DataFrame(np.eye(2), index=["low", "any"], columns=["low", "any"])
        return self

    def profile(self, name, n_points):
        return pd.DataFrame({name: np.arange(n_points), "loglik": np.zeros(n_points)})

    def summary(self):
        table = {"estimate": [0.0, 1.0], "std_error": [np.nan, np.inf], "start": 1.0, "lower_bound": 0.0}
        return pd.DataFrame(table, index=["low", "any"])


def test_without_a_finite_standard_error_there_is_no_parabola():
    display = ProfileDisplay.from_estimator(Known().fit(), n_points=4)
    assert display.parabolas_ == {"low": None, "any": None}
    assert display.intervals_.isna().all(axis=None)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"names": "speed"}, "name='speed' is none of the unknowns"),
        ({"names": []}, r"names=\[\] must name one unknown at least"),
        ({"n_points": 1}, "n_points must be an integer, 2 or more, got 1"),
        ({"level": 95}, "level must be a probability between 0 and 1; got 95"),
    ],
)
def test_wrong_parameters_are_named(line, given, message):
    with pytest.raises(ValueError, match=message):
        ProfileDisplay.from_estimator(line, **given)


def test_other_estimators_are_refused():
    with pytest.raises(TypeError, match=r"profile and summary, as an ODERegressor has; got LinearRegression\(\)"):
        ProfileDisplay.from_estimator(LinearRegression())
    with pytest.raises(NotFittedError):
        ProfileDisplay.from_estimator(ODERegressor(rising, {"slope": 1.0}))

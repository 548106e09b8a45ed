"""Solutions of fitted equations as they are drawn."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import lognorm, norm
from sklearn.base import BaseEstimator
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LinearRegression

from skode import ODERegressor
from skode.inspection import ODEFitDisplay
from skode.inspection.ode_fit import _band
from tests.inspection.spirals import spring, springs

X, Y = springs()


def band_edges(band):
    """Lower and upper edge of a filled band, from its polygon: first point, lower edge, upper edge backward."""
    vertices = band.get_paths()[0].vertices
    n = (len(vertices) - 3) // 2
    return vertices[1 : n + 1], vertices[n + 2 : -1][::-1]


def test_panels_hold_the_solution_its_band_and_the_rows(spring_model):
    held_out = (X["when"] > 3).to_numpy()
    display = ODEFitDisplay.from_estimator(
        spring_model, X, Y, series=["bob", "ann"], times=np.linspace(0.0, 6.0, 13), level=0.8, held_out=held_out
    )
    assert [ax.get_title() for ax in display.axes_[0]] == ["bob", "ann"]
    assert [ax.get_ylabel() for ax in display.axes_[:, 0]] == ["place", "speed"]
    for j, name in enumerate(["bob", "ann"]):
        mean, std = spring_model.predict(pd.DataFrame({"who": name, "when": np.linspace(0, 6, 13)}), return_std=True)
        for i, output in enumerate(Y):
            assert_allclose(display.lines_[i, j].get_ydata(), mean[:, i])
            lower, upper = band_edges(display.bands_[i, j])
            assert_allclose(lower[:, 1], mean[:, i] - norm.ppf(0.9) * std[:, i])
            assert_allclose(upper[:, 1], mean[:, i] + norm.ppf(0.9) * std[:, i])
            for points, kind in ((display.points_, ~held_out), (display.held_out_points_, held_out)):
                own = ((X["who"] == name) & kind & Y[output].notna()).to_numpy()
                assert_array_equal(points[i, j].get_offsets(), np.column_stack([X["when"], Y[output]])[own])
    legend = [text.get_text() for text in display.legend_.get_texts()]
    assert legend == ["fit", "80 % band", "observed", "held out"]


def test_the_grid_spans_the_rows_and_no_more(spring_model):
    early = X["when"] < 2.5
    display = ODEFitDisplay.from_estimator(spring_model, X[early], Y[early], outputs="speed")
    assert display.axes_.shape == (1, 2)
    drawn = display.lines_[0, 0].get_xdata()
    assert drawn[[0, -1]].tolist() == [0.0, X.loc[early, "when"].max()]


@pytest.mark.parametrize("interpolation", ["linear", "previous"])
def test_inputs_follow_the_rows_as_the_model_has_it(interpolation):
    """dy/dt = u with u = 1, 3, 0, 0 at the times 0, 2, 3, 4, from y = 0 on."""

    def filling(t, y, p):
        return (p["gain"] * p["u"]).expand(y.shape[:-1])[..., None]

    frame = pd.DataFrame({"t": [0.0, 2.0, 3.0, 4.0], "u": [1.0, 3.0, 0.0, 0.0]})
    y = [0.0, 4.0, 5.5, 5.5] if interpolation == "linear" else [0.0, 2.0, 5.0, 5.0]
    model = ODERegressor(
        filling, {"gain": 1.0}, fixed="gain", initial=[0.0], time="t", interpolation=interpolation
    ).fit(frame, y)
    times = np.array([0.5, 1.0, 2.5, 3.5])
    exact = [0.625, 1.5, 5.125, 5.5] if interpolation == "linear" else [0.5, 1.0, 3.5, 5.0]
    display = ODEFitDisplay.from_estimator(model, frame, y, times=times)
    assert_allclose(display.lines_[0, 0].get_ydata(), exact, rtol=1e-4)
    assert display.axes_[0, 0].get_title() == ""


def test_the_band_of_lognormal_noise_is_its_interval_and_that_of_counts_above_0():
    median, s = np.array([[2.0], [0.1]]), np.array([[0.3], [1.2]])
    exact = lognorm(s, scale=median)
    lower, upper = _band("lognormal", median, exact.std(), 0.9)
    assert_allclose(lower, exact.ppf(0.05))
    assert_allclose(upper, exact.ppf(0.95))
    lower, upper = _band("poisson", np.array([[0.2], [100.0]]), np.array([[0.5], [10.0]]), 0.9)
    assert_allclose(lower, [[0.0], [100.0 - 10.0 * norm.ppf(0.95)]])


class Falling(BaseEstimator):
    """Equations of any kind: what the display calls, and no more."""

    series, time = None, "day"

    def fit(self, X, y):
        self.feature_names_in_, self.n_features_in_ = np.array(X.columns, dtype=object), X.shape[1]
        self.states_ = ["height"]
        return self

    def vector_field(self, Y):
        return -np.ones_like(Y)

    def predict(self, X, return_std=False):
        mean = 10.0 - X["day"].to_numpy()
        return (mean, np.ones(len(X))) if return_std else mean


def test_any_estimator_of_equations_is_drawn():
    frame = pd.DataFrame({"day": [0.0, 5.0]})
    display = ODEFitDisplay.from_estimator(Falling().fit(frame, None), frame, [10.0, np.nan], points_kw={"s": 3})
    assert_allclose(display.lines_[0, 0].get_ydata(), np.linspace(10.0, 5.0, 200))
    assert len(display.points_[0, 0].get_offsets()) == 1
    lower, _ = band_edges(display.bands_[0, 0])
    assert_allclose(lower[0, 1], 10.0 - norm.ppf(0.975))
    axes = plt.subplots()[1]
    assert display.plot(axes, line_kw={"color": "red"}) is display
    assert display.lines_[0, 0].axes is axes


class Dosed(Falling):
    """It rises by each dose, from its time on; doses of ``fit`` play no part in the answers."""

    doses = {"dose": "height"}

    def predict(self, X, return_std=False):
        assert len(X) == 4 + 2  # the grid, and the rows with a dose
        day, dose = X["day"].to_numpy(), X["dose"].to_numpy()
        mean = ((day[:, None] >= day) * dose).sum(axis=1) + X["heat"].to_numpy()
        return (mean, np.ones(len(X))) if return_std else mean


def test_doses_are_given_at_the_times_of_their_rows():
    frame = pd.DataFrame({"day": [0.0, 2.0, 4.0], "dose": [5.0, np.nan, 1.0], "heat": [0.0, 2.0, 2.0]})
    model = Dosed().fit(frame, None)
    display = ODEFitDisplay.from_estimator(model, frame, np.ones(3), times=[0.0, 1.0, 3.9, 4.1])
    assert_allclose(display.lines_[0, 0].get_ydata(), [5.0, 6.0, 7.0, 8.0])


def test_arrays_will_do(spring_model):
    codes = (X["who"] == "bob").to_numpy(dtype=float)
    array, y = np.column_stack([codes, X["when"]]), Y.to_numpy()
    model = ODERegressor(**{**spring_model.get_params(), "series": 0, "time": 1}).fit(array, y)
    display = ODEFitDisplay.from_estimator(model, array, y, series=[0.0], outputs=1, times=[1.0, 3.0])
    expected = spring_model.predict(pd.DataFrame({"who": "ann", "when": [1.0, 3.0]}))[:, 1]
    assert_allclose(display.lines_[0, 0].get_ydata(), expected, rtol=1e-4)
    assert display.axes_[0, 0].get_title() == "series 0.0"


def test_a_series_of_one_row_is_drawn_over_the_longest_span(spring_model):
    rows = X[(X["who"] == "bob") | (X["when"] == 0.0)]
    display = ODEFitDisplay.from_estimator(spring_model, rows, Y.loc[rows.index], series="ann")
    assert display.lines_[0, 0].get_xdata()[[0, -1]].tolist() == [0.0, 4.0]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"series": "eve"}, "series='eve' must name series of X, but X has no row of 'eve'"),
        ({"times": pd.to_datetime(["2020-01-01"])}, "times holds a date, but the time column of X a number"),
        ({"level": 95}, "level must be a probability between 0 and 1; got 95"),
        ({"outputs": "mass"}, "outputs='mass' holds 'mass', but the outputs are"),
        ({"held_out": [True]}, "held_out must be a mask of the 30 rows of X"),
        ({"y": Y["place"]}, "y has 1 outputs, but had 2 in fit"),
    ],
)
def test_what_cannot_be_drawn_is_refused(spring_model, given, message):
    with pytest.raises(ValueError, match=message):
        ODEFitDisplay.from_estimator(spring_model, **{"X": X, "y": Y, **given})


def test_other_estimators_are_refused():
    with pytest.raises(TypeError, match=r"predict and vector_field, as an ODERegressor has; got LinearRegression\(\)"):
        ODEFitDisplay.from_estimator(LinearRegression(), X, Y)
    with pytest.raises(NotFittedError):
        ODEFitDisplay.from_estimator(ODERegressor(spring, {"stiffness": 1.0, "damping": 0.2}), X, Y)

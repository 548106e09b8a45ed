"""The picture of a density."""

import sys

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from scipy.integrate import trapezoid
from sklearn.base import BaseEstimator
from sklearn.datasets import load_iris
from sklearn.exceptions import NotFittedError
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import KernelDensity

from skode import CNFDensityEstimator
from skode.inspection import DensityDisplay
from tests.inspection.moons import MOONS

pytestmark = pytest.mark.filterwarnings("ignore:Maximum iterations:sklearn.exceptions.ConvergenceWarning")
IRIS = load_iris(as_frame=True).data


@pytest.fixture(scope="module")
def mixture():
    return GaussianMixture(2, random_state=0).fit(IRIS)


@pytest.mark.parametrize("estimator", ["flow", GaussianMixture(2, random_state=0), KernelDensity(bandwidth=0.2)])
def test_the_surface_is_the_density_on_the_grid(estimator, request):
    estimator = request.getfixturevalue(estimator) if isinstance(estimator, str) else estimator.fit(MOONS)
    display = DensityDisplay.from_estimator(estimator, MOONS, grid_resolution=7, plot_method="pcolormesh")
    points = pd.DataFrame({"east": display.xx0.ravel(), "north": display.xx1.ravel()})
    expected = np.exp(estimator.score_samples(points)).reshape(7, 7)
    np.testing.assert_allclose(display.surface_.get_array(), expected, rtol=1e-12)
    # Each value is drawn around its point: quads of the mesh have the points at their centres.
    corners = display.surface_.get_coordinates()
    centres = (corners[:-1, :-1] + corners[1:, 1:]) / 2
    np.testing.assert_allclose(centres, np.dstack([display.xx0, display.xx1]), atol=1e-12)


@pytest.mark.parametrize("plot_method", ["contour", "contourf"])
def test_contours_lie_where_the_density_has_their_level(plot_method):
    """The circle at which a standard normal density is 0.1."""
    normal = GaussianMixture(1).fit(MOONS)
    normal.means_, normal.covariances_ = np.zeros((1, 2)), np.eye(2)[None]
    normal.precisions_cholesky_ = np.eye(2)[None]
    display = DensityDisplay.from_estimator(
        normal, MOONS, eps=1.5, grid_resolution=150, plot_method=plot_method, levels=[0.1, 0.2]
    )
    vertices = display.surface_.get_paths()[0].vertices
    np.testing.assert_allclose(np.linalg.norm(vertices, axis=1), np.sqrt(-2 * np.log(0.2 * np.pi)), rtol=1e-3)


def test_the_logarithm_is_drawn_on_request(flow):
    display = DensityDisplay.from_estimator(flow, MOONS, grid_resolution=5, plot_method="pcolormesh", log=True)
    np.testing.assert_array_equal(display.surface_.get_array(), display.log_density)


def test_where_the_density_is_0_its_logarithm_is_left_out():
    compact = KernelDensity(kernel="tophat", bandwidth=0.1).fit(MOONS)
    display = DensityDisplay.from_estimator(compact, MOONS, grid_resolution=9, plot_method="pcolormesh", log=True)
    drawn = display.surface_.get_array()
    np.testing.assert_array_equal(np.ma.getmaskarray(drawn), np.isneginf(display.log_density))
    assert 0 < drawn.count() < drawn.size
    display.plot("contourf", log=True)


def test_the_grid_reaches_eps_beyond_the_data(flow):
    low, high = MOONS.min(), MOONS.max()
    display = DensityDisplay.from_estimator(flow, MOONS, grid_resolution=3, eps=0.5)
    np.testing.assert_allclose(display.xx0[0], [low["east"] - 0.5, (low + high)["east"] / 2, high["east"] + 0.5])
    display = DensityDisplay.from_estimator(flow, MOONS, grid_resolution=3)
    tenth = (high - low)["north"] / 10
    np.testing.assert_allclose(display.xx1[[0, -1], 0], [low["north"] - tenth, high["north"] + tenth])


def test_one_column_is_a_line():
    X = MOONS[["east"]]
    estimator = GaussianMixture(2, random_state=0).fit(X)
    display = DensityDisplay.from_estimator(estimator, X, grid_resolution=50, scatter=True, color="red")
    x, y = display.line_.get_data()
    np.testing.assert_allclose(y, np.exp(estimator.score_samples(pd.DataFrame({"east": x}))), rtol=1e-12)
    assert display.surface_ is None
    assert display.line_.get_color() == "red"
    assert (display.ax_.get_xlabel(), display.ax_.get_ylabel()) == ("east", "density")
    np.testing.assert_array_equal(display.points_.get_offsets()[:, 0], X["east"])
    assert display.plot(log=True).ax_.get_ylabel() == "log density, nats"
    np.testing.assert_array_equal(display.line_.get_ydata(), display.log_density)


def test_samples_are_scattered_on_request(flow):
    assert DensityDisplay.from_estimator(flow, MOONS, grid_resolution=3).points_ is None
    display = DensityDisplay.from_estimator(flow, MOONS, grid_resolution=3, scatter=True, scatter_kw={"s": 17})
    np.testing.assert_array_equal(display.points_.get_offsets(), MOONS)
    assert display.points_.get_sizes() == [17]


def test_axes_are_named_by_columns(flow):
    display = DensityDisplay.from_estimator(flow, MOONS, grid_resolution=3)
    assert (display.ax_.get_xlabel(), display.ax_.get_ylabel()) == ("east", "north")
    without = DensityDisplay.from_estimator(KernelDensity().fit(MOONS.to_numpy()), MOONS.to_numpy(), grid_resolution=3)
    assert (without.ax_.get_xlabel(), without.ax_.get_ylabel()) == ("x0", "x1")


def test_a_slice_holds_the_other_columns(mixture):
    length, width, petal, other = IRIS.columns
    display = DensityDisplay.from_estimator(
        mixture, IRIS, columns=[petal, 0], fixed={width: 3.5}, grid_resolution=4, plot_method="pcolormesh", scatter=True
    )
    points = pd.DataFrame(
        {length: display.xx1.ravel(), width: 3.5, petal: display.xx0.ravel(), other: IRIS[other].median()}
    )
    expected = np.exp(mixture.score_samples(points)).reshape(4, 4)
    np.testing.assert_allclose(display.surface_.get_array(), expected, rtol=1e-12)
    assert (display.ax_.get_xlabel(), display.ax_.get_ylabel()) == (petal, length)
    np.testing.assert_array_equal(display.points_.get_offsets(), IRIS[[petal, length]])


def test_one_of_several_columns_is_a_line(mixture):
    display = DensityDisplay.from_estimator(mixture, IRIS, columns=1, grid_resolution=5)
    points = pd.DataFrame(np.tile(IRIS.median(), (5, 1)), columns=IRIS.columns)
    points[IRIS.columns[1]] = display.line_.get_xdata()
    np.testing.assert_allclose(display.line_.get_ydata(), np.exp(mixture.score_samples(points)), rtol=1e-12)


def test_it_draws_on_given_axes_and_again(flow):
    figure, (left, right) = plt.subplots(1, 2)
    left.set_xlabel("mine")
    display = DensityDisplay.from_estimator(flow, MOONS, grid_resolution=3, ax=left)
    assert display.ax_ is left
    assert display.figure_ is figure
    assert left.get_xlabel() == "mine"
    first = display.surface_
    assert display.plot("pcolormesh", right) is display
    assert display.ax_ is right
    assert display.surface_ is not first
    assert first in left.get_children()
    assert display.plot().figure_ is not figure


def test_what_an_estimator_has_to_be(flow):
    with pytest.raises(NotFittedError):
        DensityDisplay.from_estimator(CNFDensityEstimator(), MOONS)
    with pytest.raises(TypeError, match=r"score_samples, log-densities; got BaseEstimator\(\)"):
        DensityDisplay.from_estimator(BaseEstimator(), MOONS)
    with pytest.raises(ValueError, match="X has 4 columns, but CNFDensityEstimator was fitted to 2"):
        DensityDisplay.from_estimator(flow, IRIS)
    with pytest.raises(ValueError, match="feature names"):
        DensityDisplay.from_estimator(flow, MOONS.rename(columns={"east": "west"}))
    with pytest.raises(ValueError, match="X contains NaN"):
        DensityDisplay.from_estimator(flow, MOONS.where(MOONS > 0))


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({}, "X has 4 columns, of which one or two can be drawn: choose them by columns="),
        ({"columns": ["petal"]}, "columns='petal' is not a column of X; its columns are"),
        ({"columns": 4}, "columns=4 is not a column of X"),
        ({"columns": [0, 1, 2]}, r"columns=\[0, 1, 2\] must name one column or two"),
        ({"columns": [0, -4]}, r"columns=\[0, -4\] names one column twice"),
        ({"columns": [0, 1], "fixed": {"petal": 1.0}}, "fixed='petal' is not a column of X"),
        ({"columns": [0, 1], "fixed": {1: 1.0}}, r"fixed=\{1: 1.0\} holds column 1, which is one of those drawn"),
        ({"columns": [0, 1], "fixed": {2: "a"}}, "must have a finite number for each column; got 'a'"),
        ({"columns": 0, "grid_resolution": 1}, "grid_resolution must be a whole number, 2 or more; got 1"),
        ({"columns": 0, "eps": -1.0}, "eps must be 0 or more, or None; got -1.0"),
        ({"columns": 0, "plot_method": "imshow"}, "plot_method must be one of .*; got 'imshow'"),
    ],
)
def test_wrong_parameters_are_named(mixture, parameters, message):
    with pytest.raises(ValueError, match=message):
        DensityDisplay.from_estimator(mixture, IRIS, **parameters)


def test_a_constant_column_needs_a_margin():
    estimator = KernelDensity().fit(MOONS)
    constant = MOONS.assign(north=1.0)
    with pytest.raises(ValueError, match="Column 'north' of X has one value only: eps must be above 0; got None"):
        DensityDisplay.from_estimator(estimator, constant)
    DensityDisplay.from_estimator(estimator, constant, eps=1.0, grid_resolution=3)


def test_no_points_no_scatter():
    display = DensityDisplay(xx0=np.arange(3.0), xx1=None, log_density=np.zeros(3))
    with pytest.raises(ValueError, match="scatter=True needs points"):
        display.plot(scatter=True)
    with pytest.raises(TypeError, match="ax must be matplotlib axes or None; got 1"):
        display.plot(ax=1)


def test_without_matplotlib_the_extra_is_named(flow, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(ImportError, match=r'DensityDisplay.from_estimator draws .*: pip install "skode\[plot\]"'):
        DensityDisplay.from_estimator(flow, MOONS)


@pytest.mark.parametrize(
    ("fixed", "held"),
    [
        (None, "their medians"),
        ({2: 1.0}, "fixed values or medians"),
        ({2: 1.0, 3: 0.2}, "fixed values"),
    ],
)
def test_the_title_of_a_slice_says_what_it_is(mixture, fixed, held):
    display = DensityDisplay.from_estimator(mixture, IRIS, columns=[0, 1], fixed=fixed, grid_resolution=3)
    assert display.ax_.get_title() == f"slice, others at {held}"
    assert display.plot(scatter=True).ax_.get_title() == f"slice, others at {held}; points: all samples"
    ax = plt.subplots()[1]
    ax.set_title("mine")
    assert display.plot(ax=ax).ax_.get_title() == "mine"


def test_the_height_of_a_slice_over_one_column_is_no_density_of_it(mixture):
    """Its area is not 1."""
    display = DensityDisplay.from_estimator(mixture, IRIS, columns=2, grid_resolution=200, eps=5.0)
    assert trapezoid(display.line_.get_ydata(), display.line_.get_xdata()) < 0.5
    assert display.ax_.get_ylabel() == "density of the slice"
    assert display.plot(log=True).ax_.get_ylabel() == "log density of the slice, nats"


def test_where_all_columns_are_drawn_there_is_no_slice(flow):
    assert DensityDisplay.from_estimator(flow, MOONS, grid_resolution=3, scatter=True).ax_.get_title() == ""

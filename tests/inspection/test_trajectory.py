"""The picture of the paths of hidden and latent states."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgba
from matplotlib.dates import date2num
from sklearn.datasets import load_digits, make_moons
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError
from sklearn.mixture import GaussianMixture

from skode import CNFDensityEstimator, LatentODERegressor, ODENetClassifier, ODENetRegressor
from skode.inspection import TrajectoryDisplay

pytestmark = pytest.mark.filterwarnings("ignore:Maximum iterations:sklearn.exceptions.ConvergenceWarning")
X, Y = make_moons(60, noise=0.1, random_state=0)
T = [0.0, 0.25, 0.7, 1.0]


@pytest.fixture(scope="module")
def classifier():
    return ODENetClassifier((8,), state_size=4, max_iter=2, random_state=0).fit(X, Y)


@pytest.fixture(scope="module")
def flow():
    return CNFDensityEstimator((8,), max_iter=2, random_state=0).fit(pd.DataFrame(X, columns=["east", "north"]))


def long_frame(**columns):
    """Series "b", "a" and "c" of 8, 8 and 1 rows, shuffled."""
    ids, days = np.repeat(["b", "a", "c"], [8, 8, 1]), np.array([*range(8), *range(8), 3])
    frame = pd.DataFrame({"who": ids, "when": pd.Timestamp("2024-01-01") + pd.to_timedelta(days, "D"), **columns})
    return frame.sample(frac=1, random_state=0, ignore_index=True)


@pytest.fixture(scope="module")
def latent():
    frame = long_frame()
    y = np.sin(frame["when"].dt.day + (frame["who"] == "a"))
    return LatentODERegressor(series="who", time="when", latent_size=3, max_iter=2, random_state=0).fit(frame, y)


def segments(display):
    return np.array(display.lines_.get_segments())


def test_two_components_are_paths_in_the_plane(classifier):
    display = TrajectoryDisplay.from_estimator(classifier, X[:7], t=T, components=(2, -4))
    states = classifier.trajectory(X[:7], T)[:, :, [2, 0]]
    np.testing.assert_array_equal(segments(display), states)
    np.testing.assert_array_equal(display.starts_.get_offsets(), states[:, 0])
    np.testing.assert_array_equal(display.ends_.get_offsets(), states[:, -1])
    assert (display.ax_.get_xlabel(), display.ax_.get_ylabel()) == ("state 2", "state 0")


def test_one_component_goes_against_depth():
    regressor = ODENetRegressor((8,), state_size=4, max_iter=2, random_state=0).fit(X, Y)
    display = TrajectoryDisplay.from_estimator(regressor, X[:5], t=6, components=1)
    t = np.linspace(0, 1, 6)
    expected = np.stack([np.broadcast_to(t, (5, 6)), regressor.trajectory(X[:5], t)[:, :, 1]], axis=-1)
    np.testing.assert_allclose(segments(display), expected, rtol=1e-12)
    assert (display.ax_.get_xlabel(), display.ax_.get_ylabel()) == ("depth t", "state 1")


def test_more_than_two_components_are_projected(classifier):
    display = TrajectoryDisplay.from_estimator(classifier, X[:7], t=T)
    points = classifier.trajectory(X[:7], T).reshape(-1, 4)
    pca = PCA(2).fit(points)
    np.testing.assert_allclose(segments(display).reshape(-1, 2), pca.transform(points), atol=1e-12)
    np.testing.assert_allclose(display.explained_variance_ratio_, pca.explained_variance_ratio_)
    share = 100 * pca.explained_variance_ratio_[0]
    assert display.ax_.get_xlabel() == f"first principal component ({share:.0f} %)"
    first = display.lines_.get_segments()
    np.testing.assert_array_equal(display.plot(components="pca").lines_.get_segments(), first)
    assert display.plot(components=0).explained_variance_ratio_ is None


def test_a_flow_carries_columns(flow):
    frame = pd.DataFrame(X[:6], columns=["east", "north"])
    display = TrajectoryDisplay.from_estimator(flow, frame, t=T)
    np.testing.assert_array_equal(segments(display), flow.trajectory(frame, T))
    np.testing.assert_allclose(display.ends_.get_offsets(), X[:6], atol=1e-3)
    assert (display.ax_.get_xlabel(), display.ax_.get_ylabel()) == ("east", "north")
    display.plot(components="north")
    np.testing.assert_array_equal(segments(display)[:, :, 1], flow.trajectory(frame, T)[:, :, 1])
    assert (display.ax_.get_xlabel(), display.ax_.get_ylabel()) == ("t", "north")
    assert TrajectoryDisplay.from_estimator(flow, frame).states.shape == (6, 50, 2)


def test_images_are_flattened():
    images, labels = load_digits(n_class=2, return_X_y=True)
    model = ODENetClassifier((4,), state_size=2, image_shape=(1, 8, 8), max_iter=1, random_state=0)
    model.fit(images[:40], labels[:40])
    display = TrajectoryDisplay.from_estimator(model, images[:3], t=2, components=(0, 5))
    states = model.trajectory(images[:3], [0.0, 1.0]).reshape(3, 2, -1)
    np.testing.assert_array_equal(segments(display), states[:, :, [0, 5]])


def test_series_go_through_their_rows_in_order(latent):
    frame = long_frame()
    display = TrajectoryDisplay.from_estimator(latent, frame, components=(0, 1))
    states = pd.DataFrame(latent.latent_trajectory(frame)).assign(**frame)
    assert len(display.lines_.get_segments()) == 3
    for who, segment, start, end in zip(
        frame["who"].unique(),
        display.lines_.get_segments(),
        display.starts_.get_offsets(),
        display.ends_.get_offsets(),
        strict=True,
    ):
        expected = states[states["who"] == who].sort_values("when")[[0, 1]].to_numpy()
        np.testing.assert_array_equal(segment, expected)
        np.testing.assert_array_equal(start, expected[0])
        np.testing.assert_array_equal(end, expected[-1])
    assert display.ax_.get_xlabel() == "latent state 0"


def test_series_go_against_dates(latent):
    frame = long_frame()
    display = TrajectoryDisplay.from_estimator(latent, frame, components=2)
    days = [segment[:, 0] for segment in display.lines_.get_segments()]
    for who, found in zip(frame["who"].unique(), days, strict=True):
        np.testing.assert_allclose(found, date2num(np.sort(frame["when"][frame["who"] == who])))
    assert display.ax_.get_xlabel() == "when"
    display.figure_.canvas.draw()
    assert "2024" in display.ax_.xaxis.get_major_formatter().get_offset()


@pytest.mark.parametrize(("times", "label"), [(np.arange(9.0), "time"), (pd.to_timedelta(range(9), "s"), "when, s")])
def test_numbers_and_differences_are_times_too(times, label):
    frame = pd.DataFrame({"when": times})
    model = LatentODERegressor(time="when", max_iter=2, random_state=0)
    given = frame if label.startswith("when") else frame.to_numpy()
    model.set_params(time="when" if label.startswith("when") else 0).fit(given, np.sin(np.arange(9)))
    display = TrajectoryDisplay.from_estimator(model, given, components=0)
    np.testing.assert_array_equal(segments(display)[0, :, 0], np.arange(9.0))
    assert display.ax_.get_xlabel() == label


@pytest.mark.parametrize(
    "c", [Y, Y.astype(float), Y.astype(bool), np.array(["no", "yes"])[Y], pd.Series(Y, dtype="category")]
)
def test_classes_are_coloured_and_named(flow, c):
    frame = pd.DataFrame(X, columns=["east", "north"])
    display = TrajectoryDisplay.from_estimator(flow, frame, t=3, c=c, alpha=None)
    expected = [to_rgba(f"C{k}") for k in Y]
    np.testing.assert_array_equal(display.lines_.get_color(), expected)
    np.testing.assert_array_equal(display.ends_.get_facecolor(), expected)
    np.testing.assert_array_equal(display.starts_.get_edgecolor(), expected)
    names = [text.get_text() for text in display.legend_.get_texts()]
    assert names == [str(value) for value in np.unique(np.asarray(c))]
    assert display.plot(legend=False).legend_ is None


def test_many_classes_have_colours_of_their_own(flow):
    frame, names = pd.DataFrame(X[:15], columns=["east", "north"]), [f"series {k:02d}" for k in range(15)]
    display = TrajectoryDisplay.from_estimator(flow, frame, t=2, c=names)
    assert len(np.unique(display.lines_.get_color(), axis=0)) == 15


@pytest.mark.parametrize(("n_classes", "beside"), [(6, False), (7, True), (40, True)])
def test_a_legend_of_many_classes_is_beside_the_axes(flow, n_classes, beside):
    frame = pd.DataFrame(X[:40], columns=["east", "north"])
    c = [f"series {k % n_classes:02d}" for k in range(40)]
    display = TrajectoryDisplay.from_estimator(flow, frame, t=2, c=c)
    display.figure_.canvas.draw()
    legend, axes = display.legend_.get_window_extent(), display.ax_.get_window_extent()
    assert (legend.x0 >= axes.x1) == beside
    assert (legend.x1 <= axes.x1) != beside
    assert display.figure_.bbox.x0 <= legend.x0 < legend.x1 <= display.figure_.bbox.x1
    assert display.figure_.bbox.y0 <= legend.y0


def test_numbers_are_coloured_by_a_scale(flow):
    frame = pd.DataFrame(X, columns=["east", "north"])
    display = TrajectoryDisplay.from_estimator(flow, frame, t=2, c=X[:, 0], cmap="plasma", alpha=None)
    np.testing.assert_array_equal(display.lines_.get_array(), X[:, 0])
    assert display.lines_.get_clim() == (X[:, 0].min(), X[:, 0].max())
    scale = (X[:, 0] - X[:, 0].min()) / np.ptp(X[:, 0])
    np.testing.assert_allclose(display.ends_.get_facecolor(), plt.colormaps["plasma"](scale), atol=0.01)
    assert display.legend_ is None


def test_the_scale_of_numbers_has_a_colour_bar(flow):
    frame = pd.DataFrame(X, columns=["east", "north"])
    display = TrajectoryDisplay.from_estimator(flow, frame, t=2, c=frame["east"])
    bar = display.colorbar_
    assert bar.mappable is display.lines_
    assert (bar.vmin, bar.vmax) == (X[:, 0].min(), X[:, 0].max())
    assert bar.ax.get_ylabel() == "east"
    assert display.plot(legend=False).colorbar_ is None
    assert len(display.figure_.axes) == 1
    assert TrajectoryDisplay.from_estimator(flow, frame, t=2, c=X[:, 0]).colorbar_.ax.get_ylabel() == ""
    assert TrajectoryDisplay.from_estimator(flow, frame, t=2, c=Y).colorbar_ is None


def test_series_have_a_class_each(latent):
    frame = long_frame()
    display = TrajectoryDisplay.from_estimator(latent, frame, c=frame["who"] == "a")
    assert list(display.c) == [who == "a" for who in frame["who"].unique()]
    with pytest.raises(ValueError, match=r"c must be the same in all rows of a series; that of '[ab]' differs"):
        TrajectoryDisplay.from_estimator(latent, frame, c=frame["when"].dt.day)


def test_lines_and_markers_take_a_style(flow):
    frame = pd.DataFrame(X[:4], columns=["east", "north"])
    display = TrajectoryDisplay.from_estimator(flow, frame, t=2, color="red", alpha=None, marker_kw={"s": 3})
    np.testing.assert_array_equal(display.lines_.get_color(), [to_rgba("red")])
    np.testing.assert_array_equal(display.ends_.get_facecolor(), [to_rgba("red")])
    np.testing.assert_array_equal(display.starts_.get_facecolor(), [to_rgba("white")])
    assert display.starts_.get_sizes() == [3]


def test_it_draws_on_given_axes_and_again(classifier):
    figure, (left, right) = plt.subplots(1, 2)
    left.set_xlabel("mine")
    display = TrajectoryDisplay.from_estimator(classifier, X[:5], components=(0, 1), ax=left)
    assert display.ax_ is left
    assert display.figure_ is figure
    assert left.get_xlabel() == "mine"
    first = display.lines_
    assert display.plot(right, components=(1, 2)) is display
    assert display.ax_ is right
    assert first in left.collections
    assert display.plot().figure_ is not figure
    xs, ys = segments(display).reshape(-1, 2).T
    assert display.ax_.get_xlim()[0] < xs.min() < xs.max() < display.ax_.get_xlim()[1]
    assert display.ax_.get_ylim()[0] < ys.min() < ys.max() < display.ax_.get_ylim()[1]


def test_what_an_estimator_has_to_be(flow):
    with pytest.raises(NotFittedError):
        TrajectoryDisplay.from_estimator(ODENetClassifier(), X)
    with pytest.raises(NotFittedError):
        TrajectoryDisplay.from_estimator(LatentODERegressor(), X)
    with pytest.raises(TypeError, match=r"trajectory or latent_trajectory; got GaussianMixture\(\)"):
        TrajectoryDisplay.from_estimator(GaussianMixture(), X)
    with pytest.raises(ValueError, match="feature names"):
        TrajectoryDisplay.from_estimator(flow, pd.DataFrame(X, columns=["east", "south"]))


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"components": 4}, "components has 4, which is not among the 4 states"),
        ({"components": "north"}, "components has 'north', which is not among the 4 states"),
        ({"components": (0, 1, 2)}, r"components must be one, a pair or 'pca'; got \(0, 1, 2\)"),
        ({"t": 1}, "t must be 2 depths or more, or the depths themselves; got 1"),
        ({"t": [0.0, 2.0]}, "t must be depths from 0 to 1"),
        ({"c": "width"}, r"c takes values, one for each row of X, such as c=X\['width'\]; got the name 'width'"),
        ({"c": Y[:3]}, r"c must have the shape \(60,\), one value for each row of X; got \(3,\)"),
    ],
)
def test_wrong_parameters_are_named(classifier, parameters, message):
    with pytest.raises(ValueError, match=message):
        TrajectoryDisplay.from_estimator(classifier, X, **parameters)


def test_series_have_times_of_their_own(latent):
    with pytest.raises(ValueError, match="t must be None with a LatentODERegressor, as X holds the times; got 5"):
        TrajectoryDisplay.from_estimator(latent, long_frame(), t=5)


def test_one_state_has_no_plane():
    display = TrajectoryDisplay(states=np.zeros((2, 3, 1)), times=np.arange(3.0))
    assert display.plot().ax_.get_ylabel() == "state 0"
    with pytest.raises(ValueError, match="components='pca' needs states of two components or more"):
        display.plot(components="pca")

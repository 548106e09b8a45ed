"""The picture and the animation of a density on its way from the base to the data."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.animation import AbstractMovieWriter
from sklearn.exceptions import NotFittedError
from sklearn.mixture import GaussianMixture

from skode import CNFDensityEstimator
from skode.inspection import DensityEvolutionDisplay
from tests.inspection.moons import MOONS

pytestmark = pytest.mark.filterwarnings("ignore:Maximum iterations:sklearn.exceptions.ConvergenceWarning")
THREE = MOONS.assign(up=MOONS["east"] ** 2 + np.linspace(0, 1, len(MOONS)))
TIMES = [0.0, 0.3, 0.8, 1.0]


@pytest.fixture
def display(flow):
    return DensityEvolutionDisplay.from_estimator(
        flow, MOONS, times=TIMES, grid_resolution=6, n_samples=20, random_state=3, plot_method="pcolormesh"
    )


def points(display):
    return pd.DataFrame({"east": display.xx0.ravel(), "north": display.xx1.ravel()})


def test_a_panel_is_the_density_at_its_time(flow, display):
    assert [ax.get_title() for ax in display.axes_] == ["t = 0.00", "t = 0.30", "t = 0.80", "t = 1.00"]
    for t, panel in zip(TIMES, display.panels_, strict=True):
        expected = np.exp(flow.log_prob(points(display), t)).reshape(6, 6)
        np.testing.assert_array_equal(panel.surface_.get_array(), expected)
    np.testing.assert_array_equal(display.log_density[-1].ravel(), flow.score_samples(points(display)))


def test_samples_are_carried_along(flow, display):
    samples = flow.sample(20, random_state=3)
    for k, panel in enumerate(display.panels_):
        paths = flow.trajectory(pd.DataFrame(samples, columns=MOONS.columns), TIMES)
        np.testing.assert_array_equal(panel.points_.get_offsets(), paths[:, k])
    np.testing.assert_allclose(display.panels_[-1].points_.get_offsets(), samples, atol=1e-3)
    without = DensityEvolutionDisplay.from_estimator(flow, MOONS, times=2, grid_resolution=3)
    assert without.panels_[0].points_ is None


def test_the_base_is_normal(flow):
    """Where the data are not bent, it is normal around their mean, and integrates to 1."""
    display = DensityEvolutionDisplay.from_estimator(flow, MOONS, times=2, grid_resolution=80, eps=3.0)
    density = np.exp(display.log_density[0])
    cell = np.diff(display.xx0[0])[0] * np.diff(display.xx1[:, 0])[0]
    assert density.sum() * cell == pytest.approx(1, abs=1e-3)
    mean = [(density * xx).sum() * cell for xx in (display.xx0, display.xx1)]
    np.testing.assert_allclose(mean, MOONS.mean(), atol=0.02)


class Recorder(AbstractMovieWriter):
    """Keeps what each frame of an animation shows."""

    def __init__(self, display):
        super().__init__()
        self.display, self.frames = display, []

    def setup(self, fig, outfile, dpi=None):
        self.fig = fig

    def grab_frame(self, **kwargs):
        frame, (ax,) = self.display.frame_, self.fig.axes
        artists = [a for a in (frame.surface_, frame.line_, frame.points_) if a is not None]
        shown = [*ax.collections, *ax.lines]
        assert set(shown) == set(artists)  # nothing of the frames before is left
        self.frames.append((ax.get_title(), *(_data(artist) for artist in artists)))

    def finish(self):
        pass


def _data(artist):
    if hasattr(artist, "get_xydata"):
        return artist.get_xydata()
    return artist.get_offsets() if artist.get_array() is None else artist.get_array()


def test_a_frame_is_the_panel_of_its_time(display):
    recorder = Recorder(display)
    animation = display.animate(hold=2, plot_method="pcolormesh")
    assert animation is display.animation_
    animation.save("nowhere", writer=recorder)
    frames = recorder.frames
    assert len(frames) == len(TIMES) + 2
    for k, (title, surface, offsets) in enumerate([*frames[:4], *frames[3:4] * 2]):
        panel = display.panels_[min(k, 3)]
        assert title == panel.ax_.get_title()
        np.testing.assert_array_equal(surface, panel.surface_.get_array())
        np.testing.assert_array_equal(offsets, panel.points_.get_offsets())
    assert frames[4][0] == frames[5][0] == frames[3][0]


@pytest.mark.parametrize("plot_method", ["contour", "contourf"])
def test_an_animation_by_contours(display, plot_method):
    recorder = Recorder(display)
    _, ax = plt.subplots()
    display.animate(ax, hold=0, plot_method=plot_method, log=True, levels=4).save("nowhere", writer=recorder)
    assert display.frame_.ax_ is ax
    for (_, *frame), values in zip(recorder.frames, display.log_density, strict=True):
        levels = frame[0]
        assert levels.min() < values.max()
        assert levels.max() > values.min()


def test_one_column_is_a_line_at_each_time():
    X = MOONS[["east"]]
    flow = CNFDensityEstimator((8,), max_iter=2, random_state=0).fit(X)
    display = DensityEvolutionDisplay.from_estimator(flow, X, times=3, grid_resolution=9, n_samples=4, random_state=0)
    recorder = Recorder(display)
    display.animate(hold=0).save("nowhere", writer=recorder)
    colours = {panel.line_.get_color() for panel in display.panels_}
    assert colours == {display.frame_.line_.get_color()}
    for t, panel, (_, line, _) in zip([0.0, 0.5, 1.0], display.panels_, recorder.frames, strict=True):
        expected = np.exp(flow.log_prob(pd.DataFrame({"east": display.xx0}), t))
        np.testing.assert_array_equal(panel.line_.get_ydata(), expected)
        np.testing.assert_array_equal(line[:, 1], expected)
    assert len({panel.ax_.get_ylim() for panel in display.panels_}) == 1  # heights can be compared


def test_a_slice_holds_the_other_columns():
    flow = CNFDensityEstimator((8,), max_iter=2, random_state=0).fit(THREE)
    display = DensityEvolutionDisplay.from_estimator(
        flow, THREE, columns=["up", "east"], fixed={"north": 0.2}, times=2, grid_resolution=4, n_samples=5,
        random_state=0, plot_method="pcolormesh",
    )  # fmt: skip
    grid = pd.DataFrame({"east": display.xx1.ravel(), "north": 0.2, "up": display.xx0.ravel()})
    np.testing.assert_array_equal(display.panels_[0].surface_.get_array().ravel(), np.exp(flow.log_prob(grid, 0.0)))
    samples = flow.sample(5, random_state=0)
    np.testing.assert_allclose(display.panels_[1].points_.get_offsets(), samples[:, [2, 0]], atol=1e-3)
    assert display.axes_[0].get_xlabel() == "up"
    titles = [ax.get_title() for ax in display.axes_]
    assert titles == ["t = 0.00\nslice, others at fixed values", "t = 1.00\nslice, others at fixed values"]


def test_some_of_many_times_are_panels(flow):
    display = DensityEvolutionDisplay.from_estimator(flow, MOONS, times=21, grid_resolution=3)
    np.testing.assert_allclose(display.times, np.linspace(0, 1, 21))
    np.testing.assert_allclose(display.panel_times_, [0, 0.25, 0.5, 0.75, 1])
    assert len(display.plot(panels=None).axes_) == 21
    np.testing.assert_allclose(display.plot(panels=1).panel_times_, [1])
    figure, axes = plt.subplots(3)
    assert display.plot(axes) is display
    np.testing.assert_allclose(display.panel_times_, [0, 0.5, 1])
    assert display.figure_ is figure
    assert list(display.axes_) == list(axes)
    assert [panel.ax_ for panel in display.panels_] == list(axes)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"times": 1}, "times must be 2 or more, or the times themselves; got 1"),
        ({"times": [0.5, 0.2]}, r"strictly increasing; got \[0.5, 0.2\]"),
        ({"n_samples": -1}, "n_samples must be a whole number, 0 or more; got -1"),
        ({"columns": "west"}, "columns='west' is not a column of X"),
        ({"plot_method": "imshow"}, "plot_method must be one of .*; got 'imshow'"),
        ({"panels": 0}, "panels must be a whole number, 1 or more, or None; got 0"),
    ],
)
def test_wrong_parameters_are_named(flow, parameters, message):
    with pytest.raises(ValueError, match=message):
        DensityEvolutionDisplay.from_estimator(flow, MOONS, **{"grid_resolution": 2, **parameters})


def test_what_an_estimator_has_to_be(flow):
    with pytest.raises(NotFittedError):
        DensityEvolutionDisplay.from_estimator(CNFDensityEstimator(), MOONS)
    with pytest.raises(TypeError, match=r"must be a CNFDensityEstimator; got GaussianMixture\(\)"):
        DensityEvolutionDisplay.from_estimator(GaussianMixture(), MOONS)
    with pytest.raises(ValueError, match="X has 3 columns, but CNFDensityEstimator was fitted to 2"):
        DensityEvolutionDisplay.from_estimator(flow, THREE)


def test_wrong_axes_and_frames_are_named(display):
    with pytest.raises(ValueError, match="axes must be no more than the times, 4; got 5"):
        display.plot(plt.subplots(5)[1])
    with pytest.raises(TypeError, match="axes must be matplotlib axes; got 1 among them"):
        display.plot([1, 2])
    with pytest.raises(ValueError, match="hold must be a whole number, 0 or more; got -1"):
        display.animate(hold=-1)

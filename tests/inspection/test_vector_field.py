"""Vector fields as they are drawn."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import BaseEstimator
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LinearRegression

from skode import ODERegressor
from skode.inspection import VectorFieldDisplay
from tests.inspection.spirals import MATRIX, spring, springs

X, Y = springs()


def fitted_matrix(model):
    return np.array([[0.0, 1.0], [-model.params_["stiffness"], -model.params_["damping"]]])


def test_stream_lines_follow_the_field_of_the_estimates(spring_model):
    display = VectorFieldDisplay.from_estimator(spring_model, X, grid_resolution=25)
    points = np.dstack(np.meshgrid(display.x, display.y))
    assert_allclose(display.field, points @ fitted_matrix(spring_model).T, atol=1e-12)
    segments = display.streams_[0].lines.get_segments()
    along = np.concatenate([np.diff(segment, axis=0) for segment in segments])
    middle = np.concatenate([0.5 * (segment[1:] + segment[:-1]) for segment in segments])
    moves = np.linalg.norm(along, axis=1) > 0.0
    along, field = along[moves], middle[moves] @ fitted_matrix(spring_model).T
    cosine = (along * field).sum(axis=1) / np.linalg.norm(along, axis=1) / np.linalg.norm(field, axis=1)
    assert np.median(cosine) > 0.999
    assert (display.axes_[0].get_xlabel(), display.axes_[0].get_ylabel()) == ("place", "speed")


def test_trajectories_are_solutions_over_the_rows_and_points_the_observations(spring_model):
    display = VectorFieldDisplay.from_estimator(spring_model, X, Y, states=("speed", 0))
    (lines,), (points,) = display.lines_, display.points_
    for name, segment in zip(X["who"].unique(), lines.get_segments(), strict=True):
        query = pd.DataFrame({"who": name, "when": np.linspace(0.0, 4.0, 200)})
        assert_allclose(segment, spring_model.predict_states(query)[["speed", "place"]])
    assert_array_equal(points.get_offsets(), Y.dropna()[["speed", "place"]])
    low, high = display.axes_[0].get_xlim()
    speeds = np.concatenate([Y["speed"], *(segment[:, 0] for segment in lines.get_segments())])
    assert_allclose([low, high], [speeds.min() - 0.1 * np.ptp(speeds), speeds.max() + 0.1 * np.ptp(speeds)])


def test_the_true_field_has_a_panel_of_its_own(spring_model):
    fixed_points = pd.DataFrame({"speed": [0.0, 1.0], "place": [0.0, 0.5], "stability": ["stable focus", "saddle"]})
    display = VectorFieldDisplay.from_estimator(
        spring_model, X, Y, true_field=lambda states: states @ MATRIX.T, fixed_points=fixed_points
    )
    assert_allclose(display.true_field, np.dstack(np.meshgrid(display.x, display.y)) @ MATRIX.T, atol=1e-12)
    assert [ax.get_title() for ax in display.axes_] == ["fitted", "true"]
    for drawn in display.fixed_points_:
        assert_array_equal(drawn["stable focus"].get_offsets(), [[0.0, 0.0]])
        assert_array_equal(drawn["saddle"].get_offsets(), [[0.5, 1.0]])
        assert drawn["saddle"].get_facecolor().tolist() == [[1.0, 1.0, 1.0, 1.0]]
        assert drawn["stable focus"].get_facecolor().tolist() != [[1.0, 1.0, 1.0, 1.0]]
    legend = [text.get_text() for text in display.legend_.get_texts()]
    assert legend == ["trajectories", "observed", "stable focus", "saddle"]
    with pytest.raises(ValueError, match="axes must be 2, one for each panel; got 1"):
        display.plot(plt.subplots()[1])
    assert display.plot(fixed_kw={"s": 9}).fixed_points_[0]["stable focus"].get_sizes() == [9]


def test_other_parameters_and_limits_need_no_trajectories(spring_model):
    display = VectorFieldDisplay.from_estimator(
        spring_model,
        limits=[(-1, 1), (0, 3)],
        grid_resolution=4,
        field_kw={"params": {"stiffness": 0.0, "damping": 0.0}},
        fixed_points=[[0.0, 0.0]],
    )
    assert display.lines_ == display.points_ == [None]
    assert display.axes_[0].get_ylim() == (0.0, 3.0)
    assert_allclose(display.field[:, 0], [[0.0, 0.0], [1.0, 0.0], [2.0, 0.0], [3.0, 0.0]], atol=1e-12)
    assert list(display.fixed_points_[0]) == ["fixed point"]


class Helix(BaseEstimator):
    """Three states, of which the last goes round the other two: what the display calls, and no more."""

    series, time = "s", "t"

    def fit(self, X, y):
        self.feature_names_in_, self.n_features_in_ = np.array(["s", "t"], dtype=object), 2
        self.states_ = ["x", "y", "z"]
        return self

    def vector_field(self, Y):
        x, y, z = Y.T
        return np.stack([-z * y, z * x, np.zeros(len(Y))], axis=1)

    def predict(self, X, return_std=False):
        t = X["t"].to_numpy()
        return np.stack([np.cos(t), np.sin(t), np.where(X["s"] == "a", 1.0, 5.0)], axis=1)


@pytest.mark.parametrize(("fixed", "held"), [(None, 5.0), ({"z": 2.0}, 2.0)])
def test_of_more_states_the_others_are_held(fixed, held):
    frame = pd.DataFrame({"s": list("aabbcc"), "t": [0.0, 3.0] * 3})
    model = Helix().fit(frame, None)
    observed = pd.DataFrame(model.predict(frame), columns=["z", "x", "y"])[["y", "z", "x"]]  # by name, not by place
    display = VectorFieldDisplay.from_estimator(model, frame, observed, states=("y", "x"), fixed=fixed)
    y, x = np.meshgrid(display.x, display.y)
    assert_allclose(display.field, held * np.dstack([x, -y]), atol=1e-12)
    assert display.held == {"z": held}
    assert display.axes_[0].get_title() == f"z = {held:g}"
    assert_array_equal(display.points_[0].get_offsets(), observed[["y", "x"]])
    assert len(display.lines_[0].get_segments()) == 3


@pytest.mark.parametrize("observed", [pd.Series(np.ones(30), name="place"), np.ones((30, 3))])
def test_states_that_are_not_both_observed_have_no_points(spring_model, observed):
    assert VectorFieldDisplay.from_estimator(spring_model, X, observed).points_ == [None]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"states": ("place", "mass")}, "holds 'mass', but the states are"),
        ({"states": ("place", 0)}, "must name two states"),
        ({"states": "place"}, "must name two states"),
        ({"fixed": {"speed": 1.0}}, r"holds 'speed'; the states that are not drawn are \[\]"),
        ({"limits": (0, 1)}, r"limits must be two pairs of finite numbers, each in order; got \(0, 1\)"),
        ({"limits": [(0, 1), (1, 0)]}, "limits must be two pairs"),
        ({"X": None}, "limits must be given where no trajectories are"),
        ({"X": None, "y": Y}, "y is given without X"),
        ({"grid_resolution": 1}, "grid_resolution must be a whole number, 2 or more; got 1"),
        ({"true_field": lambda states: states[:, 0]}, r"true_field\(Y\) must return derivatives of Y's shape"),
        ({"fixed_points": [0.0, 0.0]}, r"fixed_points must be of shape \(n, 2\)"),
        ({"fixed_points": pd.DataFrame({"place": [0.0]})}, "fixed_points has no column 'speed'"),
    ],
)
def test_what_cannot_be_drawn_is_refused(spring_model, given, message):
    with pytest.raises(ValueError, match=message):
        VectorFieldDisplay.from_estimator(spring_model, **{"X": X, **given})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, r"fixed must hold \['z'\], as there are no trajectories"),
        ({"fixed": {"z": np.nan}}, "must have a finite number for each state; got nan"),
    ],
)
def test_values_of_other_states_are_checked(given, message):
    with pytest.raises(ValueError, match=message):
        VectorFieldDisplay.from_estimator(Helix().fit(None, None), limits=[(0, 1), (0, 1)], **given)


def test_other_estimators_are_refused():
    with pytest.raises(TypeError, match=r"vector_field, as an ODERegressor has; got LinearRegression\(\)"):
        VectorFieldDisplay.from_estimator(LinearRegression(), X)
    with pytest.raises(NotFittedError):
        VectorFieldDisplay.from_estimator(ODERegressor(spring, {"stiffness": 1.0, "damping": 0.2}), X)

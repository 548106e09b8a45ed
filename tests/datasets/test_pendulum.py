"""make_damped_pendulum against the closed forms and the energy of a pendulum."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from pandas.testing import assert_frame_equal
from scipy.integrate import simpson
from scipy.special import ellipj
from scipy.stats import kstest

from skode.datasets import make_damped_pendulum

GRAVITY = 9.81


@pytest.fixture(scope="module")
def pendulums():
    return make_damped_pendulum(40, random_state=0, return_truth=True)


def test_rows_are_series_by_series_in_time_order():
    X, y = make_damped_pendulum(n_series=7, n_observations=11, random_state=0)
    assert X.columns.tolist() == ["series", "time", "length"]
    assert y.columns.tolist() == ["angle", "velocity"]
    assert_array_equal(X["series"], np.repeat(np.arange(7), 11))
    assert X["series"].dtype == np.int64
    assert X["time"].dtype == X["length"].dtype == np.float64
    assert (X.groupby("series")["time"].diff().dropna() >= 0).all()
    assert X.index.equals(y.index)


def test_without_damping_every_swing_is_jacobis(pendulums):
    *_, truth = make_damped_pendulum(10, damping=0, random_state=0, return_truth=True)
    times = np.linspace(0, truth.window, 101)
    for series, angle in truth.initial["angle"].items():
        frequency = np.sqrt(GRAVITY / truth.parameters["length"][series])
        modulus = np.sin(angle / 2)
        _, cn, dn, _ = ellipj(frequency * times, modulus**2)
        path = truth.path(series, times)
        assert_allclose(path[:, 0], 2 * np.arcsin(modulus * cn / dn), atol=1e-9)
        # Energy gives the velocity.
        assert_allclose(path[:, 1] ** 2, 2 * frequency**2 * (np.cos(path[:, 0]) - np.cos(angle)), atol=1e-8)


@pytest.mark.parametrize("damping", [0.0, 0.25, 2.0])
def test_a_small_swing_is_a_damped_oscillation(damping):
    *_, truth = make_damped_pendulum(5, damping=damping, random_state=0, return_truth=True)
    small = replace(truth, initial=truth.initial * 1e-4)
    times = np.linspace(0, truth.window, 101)
    for series, angle in small.initial["angle"].items():
        frequency = np.sqrt(GRAVITY / truth.parameters["length"][series] - damping**2 / 4)
        phase, decay = frequency * times, np.exp(-damping / 2 * times)
        expected = angle * decay * (np.cos(phase) + damping / 2 / frequency * np.sin(phase))
        assert_allclose(small.path(series, times)[:, 0], expected, atol=1e-6 * abs(angle))


def test_energy_is_lost_at_the_rate_of_damping_times_velocity_squared(pendulums):
    *_, truth = pendulums
    times = np.linspace(0, 2 * truth.window, 2001)
    for series in range(5):
        angle, velocity = truth.path(series, times).T
        energy = velocity**2 / 2 - GRAVITY / truth.parameters["length"][series] * np.cos(angle)
        assert (np.diff(energy) <= 1e-12).all()
        assert_allclose(energy[-1] - energy[0], -0.25 * simpson(velocity**2, x=times), rtol=1e-8)


def test_pendulums_are_released_at_rest_and_never_go_over_the_top(pendulums):
    *_, truth = make_damped_pendulum(2000, 1, duration=1e-3, random_state=0, return_truth=True)
    assert kstest(truth.initial["angle"], "uniform", args=(-2.5, 5)).pvalue > 0.01
    assert (truth.initial["velocity"] == 0).all()
    X, _, truth = pendulums
    released = truth.initial["angle"].loc[X["series"]].abs()
    assert (np.abs(truth.path(X["series"], X["time"])[:, 0]) <= released).all()


def test_the_length_is_a_static_covariate_that_sets_the_dynamics(pendulums):
    X, _, truth = pendulums
    assert (X.groupby("series")["length"].nunique() == 1).all()
    assert_array_equal(X.groupby("series")["length"].first(), truth.parameters["length"])
    assert X["length"].between(0.5, 1.5).all()
    other = replace(truth, parameters=truth.parameters.assign(length=1.0))
    assert not np.allclose(truth.path(0, 1.0), other.path(0, 1.0), atol=0.05)


def test_with_one_length_there_is_no_column(pendulums):
    X, _, truth = make_damped_pendulum(40, vary_length=False, random_state=0, return_truth=True)
    assert X.columns.tolist() == ["series", "time"]
    assert (truth.parameters["length"] == 1).all()
    assert_frame_equal(truth.initial, pendulums[2].initial)
    assert_array_equal(X["time"], pendulums[0]["time"])


def test_only_angles_may_be_observed(pendulums):
    X, y = make_damped_pendulum(40, observe="angle", random_state=0)
    assert_frame_equal(X, pendulums[0])
    assert_frame_equal(y, pendulums[1][["angle"]])


def test_irregular_times_are_uniform_over_the_window_and_differ_between_series(pendulums):
    X, _, truth = pendulums
    assert kstest(X["time"] / truth.window, "uniform").pvalue > 0.01
    assert X["time"].is_unique


def test_regular_times_are_one_equally_spaced_grid():
    X, _ = make_damped_pendulum(3, 5, duration=2.0, irregular=False, random_state=0)
    assert_allclose(X["time"].to_numpy().reshape(3, 5), np.tile([0, 0.5, 1, 1.5, 2], (3, 1)))


def test_observations_are_the_path_plus_white_noise_of_the_default_size(pendulums):
    X, y, truth = pendulums
    noise = y.to_numpy() - truth.path(X["series"], X["time"])
    n = noise.size
    assert noise.std() == pytest.approx(0.05, abs=4 * 0.05 / np.sqrt(2 * n))
    assert noise.mean() == pytest.approx(0, abs=4 * 0.05 / np.sqrt(n))
    assert np.corrcoef(noise.T)[0, 1] == pytest.approx(0, abs=4 / np.sqrt(n / 2))
    assert kstest(noise.ravel() / 0.05, "norm").pvalue > 0.01


def test_without_noise_observations_are_the_path():
    X, y, truth = make_damped_pendulum(5, 6, noise=0, random_state=0, return_truth=True)
    assert_array_equal(y, truth.path(X["series"], X["time"]))


def test_same_seed_gives_identical_data():
    X, y = make_damped_pendulum(5, random_state=3)
    X_again, y_again = make_damped_pendulum(5, random_state=np.random.RandomState(3))
    assert_frame_equal(X, X_again)
    assert_frame_equal(y, y_again)
    assert not np.allclose(y, make_damped_pendulum(5, random_state=4)[1])


def test_seed_fixes_the_paths_whatever_is_observed_of_them():
    *_, truth = make_damped_pendulum(5, random_state=3, return_truth=True)
    *_, other = make_damped_pendulum(5, 7, noise=1, irregular=False, random_state=3, return_truth=True)
    assert_array_equal(truth.path(range(5), np.arange(5.0)), other.path(range(5), np.arange(5.0)))


def test_path_answers_rows_in_any_order_like_one_row_at_a_time(pendulums):
    X, _, truth = pendulums
    rows = X.sample(20, random_state=0)
    one_by_one = [truth.path(series, time)[0] for series, time in zip(rows["series"], rows["time"], strict=True)]
    assert_array_equal(truth.path(rows["series"], rows["time"]), one_by_one)


def test_path_starts_at_the_release_and_goes_on_beyond_the_window(pendulums):
    *_, truth = pendulums
    assert_array_equal(truth.path(3, 0), truth.initial.loc[[3]])
    inside, beyond = truth.path(3, truth.window), truth.path(3, [truth.window, 10 * truth.window])
    assert_allclose(beyond[:1], inside, rtol=1e-9)
    assert np.abs(beyond[1]).max() < 0.05  # nearly at rest


def test_path_refuses_what_it_cannot_answer(pendulums):
    *_, truth = pendulums
    with pytest.raises(ValueError, match=r"series: no series has the id .*40"):
        truth.path([0, 40], [0.0, 0.0])
    for time in (-1.0, np.nan, np.inf):
        with pytest.raises(ValueError, match=f"times: {time} is not a finite time from 0 on"):
            truth.path([3, 4], [0.0, time])
    with pytest.raises(ValueError, match=r"\[3, 2\]"):
        truth.path([0, 1, 2], [0.0, 1.0])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("n_series", 0),
        ("n_series", 2.5),
        ("n_observations", 0),
        ("duration", 0.0),
        ("duration", np.inf),
        ("noise", -0.1),
        ("noise", np.nan),
        ("damping", -0.1),
        ("vary_length", "yes"),
        ("observe", "velocity"),
        ("irregular", "yes"),
        ("random_state", "seed"),
        ("return_truth", 3),
    ],
)
def test_bad_parameters_are_refused_by_name_and_value(name, value):
    with pytest.raises(ValueError, match=rf"'{name}'.*{value}"):
        make_damped_pendulum(**{name: value})

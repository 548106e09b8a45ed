"""make_spirals against the closed forms of the Neural ODE paper's spirals."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from pandas.testing import assert_frame_equal, assert_series_equal
from scipy.stats import kstest

from skode.datasets import make_spirals

T_MAX = 6 * np.pi
PI = np.pi


@pytest.fixture(scope="module")
def spirals():
    return make_spirals(random_state=0, return_truth=True)


def first_series(truth, direction):
    return truth.direction.index[truth.direction == direction][0]


def test_rows_are_series_by_series_in_time_order():
    X, y = make_spirals(n_series=7, n_observations=11, random_state=0)
    assert X.columns.tolist() == ["series", "time"]
    assert y.columns.tolist() == ["x", "y"]
    assert_array_equal(X["series"], np.repeat(np.arange(7), 11))
    assert X["time"].dtype == np.float64
    assert X["series"].dtype == np.int64
    assert (X.groupby("series")["time"].diff().dropna() >= 0).all()
    assert X.index.equals(y.index)


# Points where the angle is a multiple of pi / 2, so that the spiral can be read off by hand:
# counter-clockwise r = 0.3 t around (5, 0); clockwise r = 15 / angle around (-5, 0), angle = 6 pi + 1 - t.
@pytest.mark.parametrize(
    ("direction", "position", "expected"),
    [
        ("counterclockwise", 0, (5, 0)),
        ("counterclockwise", 2 * PI, (5 + 0.6 * PI, 0)),
        ("counterclockwise", 2.5 * PI, (5, 0.75 * PI)),
        ("counterclockwise", 5 * PI, (5 - 1.5 * PI, 0)),
        ("clockwise", 2 * PI + 1, (-5 + 15 / (4 * PI), 0)),  # angle 4 pi
        ("clockwise", 1.5 * PI + 1, (-5, 15 / (4.5 * PI))),  # angle 4.5 pi
        ("clockwise", 3 * PI + 1, (-5 - 15 / (3 * PI), 0)),  # angle 3 pi
        ("clockwise", 6 * PI, (-5 + 15 * np.cos(1), 15 * np.sin(1))),  # angle 1
    ],
)
def test_path_is_the_closed_form(spirals, direction, position, expected):
    *_, truth = spirals
    series = first_series(truth, direction)
    assert_allclose(truth.path(series, position - truth.start[series]), [expected], atol=1e-12)


def test_path_turns_the_way_its_direction_says_and_moves_outwards(spirals):
    *_, truth = spirals
    times = np.linspace(0, 2 * truth.window, 200)
    for series, direction in truth.direction.items():
        sign, centre = (-1, -5) if direction == "clockwise" else (1, 5)
        x, y = truth.path(series, times).T
        from_centre = (x - centre) + 1j * y
        angle = np.unwrap(np.angle(from_centre))
        assert (sign * np.diff(angle) > 0).all()
        assert (np.diff(np.abs(from_centre)) > 0).all()
        # The clock runs at one radian per unit of time.
        assert_allclose(angle[-1] - angle[0], sign * 2 * truth.window)


def test_path_answers_row_by_row_like_one_row_at_a_time(spirals):
    X, _, truth = spirals
    rows = X.sample(20, random_state=0)
    one_by_one = [truth.path(series, time)[0] for series, time in zip(rows["series"], rows["time"], strict=True)]
    assert_array_equal(truth.path(rows["series"], rows["time"]), one_by_one)


def test_continuation_as_long_as_the_window_lies_on_every_spiral(spirals):
    *_, truth = spirals
    assert truth.window == pytest.approx(T_MAX / 5)
    assert (truth.start + 2 * truth.window <= T_MAX).all()
    times = np.tile(np.linspace(truth.window, 2 * truth.window, 30), len(truth.start))
    series = np.repeat(truth.start.index, 30)
    x, y = truth.path(series, times).T
    position = truth.start.loc[series].to_numpy() + times
    clockwise = (truth.direction.loc[series] == "clockwise").to_numpy()
    radius = np.where(clockwise, np.hypot(x + 5, y), np.hypot(x - 5, y))
    assert_allclose(radius, np.where(clockwise, 15 / (T_MAX + 1 - position), 0.3 * position))


def test_starts_are_uniform_over_the_documented_range():
    *_, truth = make_spirals(2000, 1, random_state=0, return_truth=True)
    assert kstest(truth.start / T_MAX, "uniform", args=(0.1, 0.4)).pvalue > 0.01


def test_irregular_times_are_uniform_over_the_window_and_differ_between_series(spirals):
    X, _, truth = spirals
    assert kstest(X["time"] / truth.window, "uniform").pvalue > 0.01
    assert X["time"].is_unique


def test_regular_times_are_one_equally_spaced_grid():
    X, _ = make_spirals(n_series=3, n_observations=5, irregular=False, random_state=0)
    assert_allclose(X["time"].to_numpy().reshape(3, 5), np.tile(np.linspace(0, T_MAX / 5, 5), (3, 1)))


def test_observations_are_the_path_plus_white_noise_of_the_default_size(spirals):
    X, y, truth = spirals
    noise = y.to_numpy() - truth.path(X["series"], X["time"])
    n = noise.size
    assert noise.std() == pytest.approx(0.3, abs=4 * 0.3 / np.sqrt(2 * n))
    assert noise.mean() == pytest.approx(0, abs=4 * 0.3 / np.sqrt(n))
    assert np.corrcoef(noise.T)[0, 1] == pytest.approx(0, abs=4 / np.sqrt(n / 2))
    assert kstest(noise.ravel() / 0.3, "norm").pvalue > 0.01


def test_without_noise_observations_are_the_path():
    X, y, truth = make_spirals(5, 6, noise=0, random_state=0, return_truth=True)
    assert_array_equal(y, truth.path(X["series"], X["time"]))


@pytest.mark.parametrize(("n_series", "n_clockwise"), [(300, 150), (7, 4), (1, 1)])
def test_directions_are_balanced(n_series, n_clockwise):
    *_, truth = make_spirals(n_series, 1, random_state=0, return_truth=True)
    assert (truth.direction == "clockwise").sum() == n_clockwise
    assert (truth.direction == "counterclockwise").sum() == n_series - n_clockwise


def test_directions_are_not_ordered_by_series_id(spirals):
    *_, truth = spirals
    assert 50 < (truth.direction[:150] == "clockwise").sum() < 100


def test_t_max_scales_the_window_and_moves_the_clockwise_spiral():
    *_, truth = make_spirals(4, 3, t_max=2 * PI, random_state=0, return_truth=True)
    assert truth.window == pytest.approx(2 * PI / 5)
    series = first_series(truth, "clockwise")
    end = truth.path(series, 2 * PI - truth.start[series])
    assert_allclose(end, [(-5 + 15 * np.cos(1), 15 * np.sin(1))])  # angle 1 at the end, whatever t_max


def test_same_seed_gives_identical_data():
    X, y, truth = make_spirals(random_state=3, return_truth=True)
    X_again, y_again = make_spirals(random_state=np.random.RandomState(3))
    assert_frame_equal(X, X_again)
    assert_frame_equal(y, y_again)
    _, y_other = make_spirals(random_state=4)
    assert not np.allclose(y, y_other)
    assert len(truth.direction) == 300


def test_seed_fixes_the_paths_whatever_is_observed_of_them():
    *_, truth = make_spirals(20, random_state=3, return_truth=True)
    *_, other = make_spirals(20, 5, noise=1, irregular=False, random_state=3, return_truth=True)
    assert_series_equal(truth.start, other.start)
    assert_series_equal(truth.direction, other.direction)


def test_path_refuses_an_unknown_series(spirals):
    *_, truth = spirals
    with pytest.raises(ValueError, match=r"series: no series has the id .*300"):
        truth.path([0, 300], [0.0, 0.0])


@pytest.mark.parametrize("time", [-T_MAX, T_MAX, np.nan, np.inf])
def test_path_refuses_a_time_beyond_the_spiral(spirals, time):
    *_, truth = spirals
    with pytest.raises(ValueError, match=rf"times: {time} is not on the spiral of series 4"):
        truth.path([3, 4], [0.0, time])


def test_path_refuses_unequal_lengths(spirals):
    *_, truth = spirals
    with pytest.raises(ValueError, match=r"\[3, 2\]"):
        truth.path([0, 1, 2], [0.0, 1.0])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("n_series", 0),
        ("n_series", 2.5),
        ("n_observations", 0),
        ("n_observations", "many"),
        ("t_max", 0.0),
        ("t_max", np.inf),
        ("noise", -0.1),
        ("noise", np.nan),
        ("irregular", "yes"),
        ("random_state", "seed"),
        ("return_truth", 3),
    ],
)
def test_bad_parameters_are_refused_by_name_and_value(name, value):
    with pytest.raises(ValueError, match=rf"'{name}'.*{value}"):
        make_spirals(**{name: value})

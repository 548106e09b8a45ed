"""make_lotka_volterra against what the equations conserve, their equilibrium, and the laws of its noise."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from pandas.testing import assert_frame_equal
from scipy.integrate import trapezoid
from scipy.stats import chi2, kstest

from skode.datasets import make_lotka_volterra

A, B, C, D = 0.55, 0.028, 0.80, 0.024


@pytest.fixture(scope="module")
def populations():
    return make_lotka_volterra(40, random_state=0, return_truth=True)


def test_rows_are_series_by_series_in_time_order():
    X, y = make_lotka_volterra(n_series=7, n_observations=11, random_state=0)
    assert X.columns.tolist() == ["series", "time"]
    assert y.columns.tolist() == ["prey", "predator"]
    assert_array_equal(X["series"], np.repeat(np.arange(7), 11))
    assert X["series"].dtype == np.int64
    assert X["time"].dtype == np.float64
    assert (X.groupby("series")["time"].diff().dropna() >= 0).all()
    assert X.index.equals(y.index)


def test_what_lotka_and_volterra_conserve_is_constant(populations):
    *_, truth = populations
    times = np.linspace(0, 3 * truth.window, 1001)
    for series in range(10):
        x, y = truth.path(series, times).T
        conserved = D * x - C * np.log(x) + B * y - A * np.log(y)
        assert_allclose(conserved, conserved[0], rtol=0, atol=1e-8)


def test_the_path_has_the_slope_of_the_equations(populations):
    *_, truth = populations
    h, times = 1e-3, np.linspace(0.1, truth.window, 50)
    for series in range(5):
        x, y = truth.path(series, times).T
        slope = (truth.path(series, times + h) - truth.path(series, times - h)) / (2 * h)
        assert_allclose(slope, np.column_stack([A * x - B * x * y, D * x * y - C * y]), rtol=1e-4, atol=1e-4)


def test_the_equilibrium_stays_and_small_cycles_around_it_take_their_period(populations):
    *_, truth = populations
    equilibrium = np.array([C / D, A / B])
    still = replace(truth, initial=truth.initial * 0 + equilibrium)
    assert_allclose(still.path(0, [1.0, 20.0]), [equilibrium, equilibrium], rtol=1e-9)
    nearby = replace(truth, initial=truth.initial * 0 + equilibrium * (1 + 1e-3))
    assert_allclose(nearby.path(0, 2 * np.pi / np.sqrt(A * C)), nearby.initial.loc[[0]], rtol=1e-6)


def test_a_cycles_mean_is_the_equilibrium(populations):
    *_, truth = populations
    for series in range(3):
        x, y = truth.path(series, np.linspace(0, 30, 30_001)).T
        # Successive passages of the prey upwards through its equilibrium, between the grid points next to them.
        up = np.flatnonzero((x[:-1] < C / D) & (x[1:] >= C / D))[:2]
        cycle = slice(up[0], up[1] + 1)
        means = [trapezoid(p[cycle]) / (up[1] - up[0]) for p in (x, y)]
        assert_allclose(means, [C / D, A / B], rtol=1e-3)


def test_initial_populations_are_uniform_over_the_documented_ranges():
    *_, truth = make_lotka_volterra(2000, 1, duration=1e-3, random_state=0, return_truth=True)
    assert kstest(truth.initial["prey"], "uniform", args=(10, 50)).pvalue > 0.01
    assert kstest(truth.initial["predator"], "uniform", args=(5, 35)).pvalue > 0.01
    assert abs(np.corrcoef(truth.initial.T)[0, 1]) < 4 / np.sqrt(2000)


def test_densities_are_the_path_times_lognormal_noise_of_the_default_size(populations):
    X, y, truth = populations
    noise = np.log(y.to_numpy() / truth.path(X["series"], X["time"]))
    n = noise.size
    assert noise.std() == pytest.approx(0.1, abs=4 * 0.1 / np.sqrt(2 * n))
    assert noise.mean() == pytest.approx(0, abs=4 * 0.1 / np.sqrt(n))
    assert np.corrcoef(noise.T)[0, 1] == pytest.approx(0, abs=4 / np.sqrt(n / 2))
    assert kstest(noise.ravel() / 0.1, "norm").pvalue > 0.01


@pytest.mark.parametrize("scale", [0.2, 1.0, 10.0])
def test_counts_have_the_mean_and_variance_of_poissons(scale):
    X, y, truth = make_lotka_volterra(40, observe="counts", scale=scale, random_state=0, return_truth=True)
    assert (y.dtypes == np.int64).all()
    assert (y >= 0).all(axis=None)
    mean = scale * truth.path(X["series"], X["time"])
    standardised = (y.to_numpy() - mean) / np.sqrt(mean)
    n = standardised.size
    assert standardised.mean() == pytest.approx(0, abs=4 / np.sqrt(n))
    # Of a Poisson's standardised square, the mean is 1 and the variance 2 + 1 / mean.
    assert (standardised**2).mean() == pytest.approx(1, abs=4 * np.sqrt((2 + 1 / mean).mean() / n))
    if scale == 10:  # nearly normal
        assert 0.005 < chi2(n).cdf((standardised**2).sum()) < 0.995


def test_without_noise_densities_are_the_path():
    X, y, truth = make_lotka_volterra(5, 6, noise=0, random_state=0, return_truth=True)
    assert_array_equal(y, truth.path(X["series"], X["time"]))


def test_irregular_times_are_uniform_over_the_window_and_differ_between_series(populations):
    X, _, truth = populations
    assert kstest(X["time"] / truth.window, "uniform").pvalue > 0.01
    assert X["time"].is_unique


def test_regular_times_are_one_equally_spaced_grid():
    X, _ = make_lotka_volterra(3, 5, irregular=False, random_state=0)
    assert_allclose(X["time"].to_numpy().reshape(3, 5), np.tile([0, 5, 10, 15, 20], (3, 1)))


def test_same_seed_gives_identical_data():
    for observe in ("density", "counts"):
        X, y = make_lotka_volterra(5, observe=observe, random_state=3)
        X_again, y_again = make_lotka_volterra(5, observe=observe, random_state=np.random.RandomState(3))
        assert_frame_equal(X, X_again)
        assert_frame_equal(y, y_again)
        assert not np.allclose(y, make_lotka_volterra(5, observe=observe, random_state=4)[1])


def test_seed_fixes_the_paths_whatever_is_observed_of_them():
    *_, truth = make_lotka_volterra(5, random_state=3, return_truth=True)
    *_, other = make_lotka_volterra(5, 7, observe="counts", irregular=False, random_state=3, return_truth=True)
    assert_array_equal(truth.path(range(5), np.arange(5.0)), other.path(range(5), np.arange(5.0)))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("n_series", 0),
        ("n_observations", 1.5),
        ("duration", 0.0),
        ("duration", np.inf),
        ("observe", "pelts"),
        ("noise", -0.1),
        ("scale", 0.0),
        ("irregular", "yes"),
        ("random_state", "seed"),
        ("return_truth", 3),
    ],
)
def test_bad_parameters_are_refused_by_name_and_value(name, value):
    with pytest.raises(ValueError, match=rf"'{name}'.*{value}"):
        make_lotka_volterra(**{name: value})

"""Noise with a memory agrees with the dense covariances that it stands for."""

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal

from skode.timeseries.coloured_noise import LARGEST_SHARE, MOST_ROWS, ColouredNoise, LinearisedRows

WHITE, COLOURED, MEMORY = np.array([0.3, 0.5]), np.array([0.8, 0.2]), np.array([0.7, 2.0])
NAN = np.nan
TIMES = np.array([[0.0, 0.1, 0.1, 0.9, 5.0], [-1.0, 0.4, 0.5, NAN, NAN], [2.0, NAN, NAN, NAN, NAN]])
RNG = np.random.default_rng(0)
RESIDUALS = np.where(np.isnan(TIMES)[..., None], NAN, RNG.standard_normal((3, 5, 2)))
RESIDUALS[0, 1, 0] = RESIDUALS[0, 4, 1] = RESIDUALS[1, 2] = NAN  # seen in part, or not at all


def tensors(*arrays):
    return tuple(torch.from_numpy(np.asarray(array)) for array in arrays)


@pytest.fixture
def noise():
    time, residual = tensors(TIMES, RESIDUALS)
    return ColouredNoise(time, ~torch.isnan(residual), *tensors(WHITE, COLOURED, MEMORY))


def covariance(time, output, *, white):
    """Dense covariance of one output's residuals at some times, with the white noise or without."""
    distance = np.abs(time[:, None] - time)
    return COLOURED[output] ** 2 * np.exp(-distance / MEMORY[output]) + white * WHITE[output] ** 2 * np.eye(len(time))


def conditioned(series, output):
    """Mean and covariance of u at all times of a series, given the residuals that are known, by dense algebra."""
    time = TIMES[series][~np.isnan(TIMES[series])]
    residual = RESIDUALS[series, : len(time), output]
    seen = ~np.isnan(residual)
    prior = covariance(time, output, white=False)
    gain = prior[:, seen] @ np.linalg.inv(covariance(time[seen], output, white=True))
    return gain @ residual[seen], prior - gain @ prior[seen]


def test_the_density_is_that_of_the_dense_covariance(noise):
    expected = np.zeros(3)
    for series in range(3):
        for output in range(2):
            residual = RESIDUALS[series, :, output]
            seen = ~np.isnan(residual)
            dense = covariance(TIMES[series, seen], output, white=True)
            expected[series] += multivariate_normal.logpdf(residual[seen], cov=dense)
    copies = torch.from_numpy(np.stack([RESIDUALS, RESIDUALS]))
    np.testing.assert_allclose(noise.log_prob(copies), [expected, expected], rtol=1e-12)


def test_innovations_are_linear_in_residuals(noise):
    a, b = torch.from_numpy(RESIDUALS)[None], torch.from_numpy(RNG.standard_normal((1, 3, 5, 2)))
    np.testing.assert_allclose(noise.whitened(a + 2.0 * b), noise.whitened(a) + 2.0 * noise.whitened(b), atol=1e-12)
    assert (noise.whitened(b)[0][np.isnan(RESIDUALS)] == 0.0).all()


def test_smoothing_is_conditioning(noise):
    mean = noise.smoothed(torch.from_numpy(RESIDUALS)[None])[0]
    for series, n in enumerate([5, 3, 1]):
        for output in range(2):
            expected, dense = conditioned(series, output)
            np.testing.assert_allclose(mean[series, :n, output], expected, atol=1e-12)
            np.testing.assert_allclose(noise.smoothed_variance[series, :n, output], np.diag(dense), atol=1e-12)


def test_draws_have_the_conditioned_mean_and_covariance(noise):
    copies = torch.from_numpy(RESIDUALS).expand(40_000, -1, -1, -1)
    drawn = noise.drawn(copies, torch.Generator().manual_seed(0))
    for series, n in enumerate([5, 3, 1]):
        for output in range(2):
            expected, dense = conditioned(series, output)
            np.testing.assert_allclose(drawn[:, series, :n, output].mean(0), expected, atol=0.02)
            found = np.atleast_2d(np.cov(drawn[:, series, :n, output].T))
            np.testing.assert_allclose(found, dense, atol=0.02)


def test_long_silence_leaves_the_prior(noise):
    time, nothing = torch.tensor([[0.0, 1e9]]).double(), torch.zeros(1, 2, 2, dtype=torch.bool)
    nothing[0, 0] = True
    far = ColouredNoise(time, nothing, *tensors(WHITE, COLOURED, MEMORY))
    assert far.smoothed(torch.ones(1, 1, 2, 2).double())[0, 0, 1].tolist() == [0.0, 0.0]
    np.testing.assert_allclose(far.smoothed_variance[0, 1], COLOURED**2)


# Estimation


def linear_panel(n_series, white, coloured, memory, *, n_rows=12, seed=0):
    """Series ``slope * z + noise`` with one normal z each; times, residuals and slopes as LinearisedRows takes them."""
    rng = np.random.default_rng(seed)
    time = np.sort(rng.uniform(0.0, 4.0, (n_series, n_rows)), axis=1)
    slopes = np.sin(time)[None, ..., None]
    dense = coloured**2 * np.exp(-np.abs(time[:, None] - time[:, :, None]) / memory) + white**2 * np.eye(n_rows)
    noise = np.einsum("nij,nj->ni", np.linalg.cholesky(dense), rng.standard_normal((n_series, n_rows)))
    return time, (slopes[0, ..., 0] * rng.standard_normal((n_series, 1)) + noise)[..., None], slopes


def test_the_likelihood_integrates_states_out():
    slopes = RNG.standard_normal((3, 3, 5, 2))
    for output in range(2):
        expected = 0.0
        for series in range(3):
            seen = ~np.isnan(RESIDUALS[series, :, output])
            dense = covariance(TIMES[series, seen], output, white=True)
            dense += slopes[:, series, seen, output].T @ slopes[:, series, seen, output]
            expected += multivariate_normal.logpdf(RESIDUALS[series, seen, output], cov=dense)
        rows = LinearisedRows(*tensors(TIMES, RESIDUALS, slopes))._of(output)
        parameters = (torch.tensor(x[output]) for x in (WHITE, COLOURED, MEMORY))
        assert float(rows.log_likelihood(*parameters)) == pytest.approx(expected, rel=1e-12)


def test_noise_is_found_again():
    ((share, memory),) = LinearisedRows(*tensors(*linear_panel(400, 0.3, 0.6, 0.8))).likeliest_noise()
    assert share == pytest.approx(0.8, abs=0.03)
    assert memory == pytest.approx(0.8, rel=0.2)


def test_outputs_are_judged_one_by_one():
    time, wandering, slopes = linear_panel(60, 0.3, 0.6, 0.8)
    _, white, _ = linear_panel(60, 0.5, 0.0, 1.0)
    residual, slopes = np.concatenate([white, wandering], axis=2), np.concatenate([slopes, slopes], axis=3)
    alone = LinearisedRows(*tensors(time, wandering, slopes[..., :1])).likeliest_noise()
    assert LinearisedRows(*tensors(time, residual, slopes)).likeliest_noise() == [None, *alone]


@pytest.mark.parametrize("seed", range(3))
def test_white_noise_is_left_white(seed):
    rows = LinearisedRows(*tensors(*linear_panel(100, 0.5, 0.0, 1.0, seed=seed)))
    assert rows.likeliest_noise() == [None]


def test_few_series_or_values_cannot_tell():
    assert LinearisedRows(*tensors(*linear_panel(4, 0.1, 1.0, 1.0))).likeliest_noise() == [None]
    time, residual, slopes = linear_panel(40, 0.1, 1.0, 1.0)
    assert LinearisedRows(*tensors(time, residual, slopes)).likeliest_noise() != [None]
    residual[:, 1:] = NAN
    residual[0] = NAN
    assert LinearisedRows(*tensors(time, residual, slopes)).likeliest_noise() == [None]


def test_some_of_the_noise_is_white():
    ((share, _),) = LinearisedRows(*tensors(*linear_panel(50, 0.0, 1.0, 1.0))).likeliest_noise()
    assert 0.9 < share <= LARGEST_SHARE


@pytest.mark.parametrize("size", [1e8, 1e200])
def test_slopes_of_dynamics_that_explode_tell_nothing(size):
    time, residual, slopes = linear_panel(60, 0.3, 0.6, 0.8, n_rows=1)
    slopes = size * np.random.default_rng(0).standard_normal((4, 60, 1, 1))
    assert LinearisedRows(*tensors(time, residual, slopes)).likeliest_noise() == [None]


def test_parts_are_joined():
    time, residual, slopes = tensors(*linear_panel(40, 0.3, 0.6, 0.8))
    parts = [(time[:30], residual[:30], slopes[:, :30]), (time[30:, :5], residual[30:, :5], slopes[:, 30:, :5])]
    joined = LinearisedRows.joined(LinearisedRows(*part) for part in parts)
    parameters = [torch.tensor(x) for x in (0.3, 0.6, 0.8)]
    expected = sum(float(LinearisedRows(*part)._of(0).log_likelihood(*parameters)) for part in parts)
    assert float(joined._of(0).log_likelihood(*parameters)) == pytest.approx(expected, rel=1e-12)


def test_of_long_series_parts_from_all_over_are_looked_at():
    n = 3 * MOST_ROWS
    time = np.arange(float(n)) * np.ones((50, 1))
    time[0, 10:] = NAN  # one short series
    rows = LinearisedRows(*tensors(time, time[..., None], time[None, ..., None])).shortened()
    assert rows.time.shape == (50, MOST_ROWS)
    assert rows.residual.shape == (50, MOST_ROWS, 1)
    assert rows.slopes.shape == (1, 50, MOST_ROWS, 1)
    np.testing.assert_array_equal(rows.time, rows.residual[..., 0])
    np.testing.assert_array_equal(rows.time[0, :12], [*range(10), NAN, NAN])
    starts = np.sort(rows.time[1:, 0])
    assert (np.diff(rows.time[1:]) == 1.0).all()
    assert starts[0] < 10
    assert starts[-1] > n - MOST_ROWS - 10
    assert np.diff(starts).max() < 10

"""Noise with a memory agrees with the dense covariances that it stands for."""

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal

from skode.timeseries.noise.ornstein_uhlenbeck import ColouredNoise

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
    """Mean and covariance of v at all times of a series, given the residuals that are known, by dense algebra."""
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


COUNTS = np.array([[2.0, 1.0, 3.0, 1.0, 2.0], [1.0, 4.0, 2.0, 0.0, 0.0], [3.0, 0.0, 0.0, 0.0, 0.0]])


def weighted_and_repeated(weights=COUNTS):
    """Noise of weighted slots, that of slots repeated, both with residuals, and where each slot is first repeated."""
    time, residual = tensors(TIMES, RESIDUALS)
    noise = ColouredNoise(time, ~torch.isnan(residual), *tensors(WHITE, COLOURED, MEMORY), torch.from_numpy(weights))
    places = [np.repeat(np.arange(5), row.astype(int)) for row in COUNTS]
    n_slots = max(map(len, places))
    times, residuals = np.full((3, n_slots), NAN), np.full((3, n_slots, 2), NAN)
    for series, slots in enumerate(places):
        times[series, : len(slots)], residuals[series, : len(slots)] = TIMES[series, slots], RESIDUALS[series, slots]
    longer = torch.from_numpy(residuals)
    repeated = ColouredNoise(torch.from_numpy(times), ~torch.isnan(longer), *tensors(WHITE, COLOURED, MEMORY))
    firsts = [[int(np.flatnonzero(slots == slot)[0]) for slot in np.unique(slots)] for slots in places]
    return noise, residual[None], repeated, longer[None], firsts


def test_a_slot_of_weight_k_is_k_residuals_at_one_time():
    noise, residual, repeated, longer, firsts = weighted_and_repeated()
    np.testing.assert_allclose(noise.log_prob(residual), repeated.log_prob(longer), rtol=1e-12)
    smoothed, expected = noise.smoothed(residual)[0], repeated.smoothed(longer)[0]
    for series, places in enumerate(firsts):
        n = len(places)
        np.testing.assert_allclose(smoothed[series, :n], expected[series, places], atol=1e-12)
        np.testing.assert_allclose(
            noise.smoothed_variance[series, :n], repeated.smoothed_variance[series, places], atol=1e-12
        )


def test_a_slot_hardly_weighed_says_nothing_of_the_others():
    weights = COUNTS.copy()
    weights[0, 2] = 1e-12
    noise, residual, *_ = weighted_and_repeated(weights)
    other = residual.clone()
    other[0, 0, 2] = 1.0
    np.testing.assert_allclose(noise.smoothed(other), noise.smoothed(residual), atol=1e-9)


def test_draws_given_weighted_slots_vary_as_the_smoother_says():
    noise, residual, *_ = weighted_and_repeated()
    draws = noise.drawn(residual.expand(20_000, -1, -1, -1), torch.Generator().manual_seed(0))
    filled = ~np.isnan(TIMES)
    np.testing.assert_allclose(draws.mean(0)[filled], noise.smoothed(residual)[0][filled], atol=0.03)
    np.testing.assert_allclose(draws.var(0)[filled], noise.smoothed_variance[filled], atol=0.03)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("n", [1, 2, 300])
def test_series_of_any_length_agree_with_their_dense_covariances(n, weighted):
    rng = np.random.default_rng(1)
    time = rng.uniform(0.0, 5.0, n)
    time[: n // 2] = np.round(time[: n // 2], 1)  # many twice
    time, residual, seen = np.sort(time), rng.standard_normal((n, 2)), rng.uniform(size=(n, 2)) < 0.8
    seen[0] = True
    weights = rng.choice([0.25, 1.0, 3.0], n) if weighted else np.ones(n)
    noise = ColouredNoise(
        *tensors(time[None], seen[None], WHITE, COLOURED, MEMORY), *(tensors(weights[None]) if weighted else ())
    )
    copy = torch.from_numpy(np.where(seen, residual, NAN))[None, None]
    total = 0.0
    for output in range(2):
        some, own = seen[:, output], WHITE[output] ** 2 / weights
        prior = covariance(time, output, white=False)
        dense = prior[np.ix_(some, some)] + np.diag(own[some])
        total += multivariate_normal.logpdf(residual[some, output], cov=dense)
        total -= (0.5 * (weights - 1.0) * np.log(2.0 * np.pi * WHITE[output] ** 2) + 0.5 * np.log(weights))[some].sum()
        gain = prior[:, some] @ np.linalg.inv(dense)
        smoothed, variance = noise.smoothed(copy)[0, 0, :, output], noise.smoothed_variance[0, :, output]
        np.testing.assert_allclose(smoothed, gain @ residual[some, output], atol=1e-10)
        np.testing.assert_allclose(variance, np.diag(prior - gain @ prior[some]), rtol=1e-8)
    np.testing.assert_allclose(noise.log_prob(copy)[0, 0], total, rtol=1e-10)

"""Against the same posterior by dense linear algebra, closed forms and simulated coverage."""

import numpy as np
import pytest

from skode.identification.smoothing import DIFFUSE, smoothed, smoothed_by_size

RNG = np.random.default_rng(0)
TIMES = np.sort(RNG.uniform(0.0, 10.0, 40))


def dense(t, y, ratio, relative=1.0):
    """Posterior mean and variance of values and slopes by Gaussian conditioning, in units of the noise variance."""
    unit = (t[-1] - t[0]) / np.isfinite(y).sum()
    s = (t - t[0]) / unit

    def kernel(a, b, i, j):
        """Covariance of the i-th and j-th derivatives of a twice integrated Brownian motion, plus diffuse starts."""
        low, high = np.minimum(a, b), np.maximum(a, b)
        if i > j:
            return kernel(b, a, j, i)
        first_is_later = a >= b
        d = high - low
        if (i, j) == (0, 0):
            wiener = low**5 / 20 + d * low**4 / 8 + d**2 * low**3 / 12
        elif (i, j) == (0, 1):
            # integral over u up to low of (a - u)^2 / 2 (b - u)
            wiener = np.where(
                first_is_later,
                low**4 / 8 + d * low**3 / 3 + d**2 * low**2 / 4,
                low**4 / 8 + d * low**3 / 6,
            )
        else:
            wiener = low**3 / 3 + d * low**2 / 2
        start = [np.ones_like, lambda x: x, lambda x: x**2 / 2]
        slope = [np.zeros_like, np.ones_like, lambda x: x]
        parts = [start, slope]
        diffuse = sum(f(a) * g(b) for f, g in zip(parts[i], parts[j], strict=True))
        return 10.0**ratio * wiener + DIFFUSE * diffuse

    seen = np.isfinite(y)
    a, b = s[:, None], s[None, seen]
    K = kernel(s[seen][:, None], b, 0, 0) + np.diag(np.broadcast_to(relative, t.shape)[seen])
    found = []
    for i in range(2):
        cross = kernel(b, a, 0, i) if i else kernel(a, b, 0, 0)
        prior = np.array([kernel(x, x, i, i) for x in s])
        solved = np.linalg.solve(K, cross.T)
        found.append((cross @ np.linalg.solve(K, y[seen]), prior - (cross * solved.T).sum(axis=1)))
    return found, unit


@pytest.mark.parametrize("relative", [None, np.linspace(0.2, 1.8, len(TIMES))])
def test_curves_are_those_of_dense_linear_algebra(relative):
    y = np.sin(TIMES) + 0.1 * np.random.default_rng(4).normal(size=len(TIMES)) * np.sqrt(
        1.0 if relative is None else relative
    )
    y[[3, 4, 11]] = np.nan
    curves = smoothed(TIMES[None], y[None], None if relative is None else relative[None])
    seen = np.isfinite(y)
    centre, spread = y[seen].mean(), y[seen].std()
    # The ratio is recovered from the variance of a value: it is the likeliest of a fine grid.
    errors = []
    for ratio in np.linspace(-8.0, 2.0, 401):
        (value, slope), unit = dense(TIMES, (y - centre) / spread, ratio, 1.0 if relative is None else relative)
        errors.append((np.abs(centre + spread * value[0] - curves.mean[0, :, 0]).max(), ratio, slope, unit))
    error, _, slope, unit = min(errors, key=lambda one: one[0])
    assert error < 2e-3
    np.testing.assert_allclose(spread / unit * slope[0], curves.mean[0, :, 1], atol=2e-2)
    variance = slope[1] * (curves.noise[0] / unit) ** 2
    np.testing.assert_allclose(variance, curves.variance[0, :, 1], rtol=0.05)


def test_a_parabola_without_noise_is_met_exactly():
    y = 2.0 - TIMES + 0.3 * TIMES**2
    curves = smoothed(TIMES[None], y[None])
    np.testing.assert_allclose(curves.mean[0, :, 0], y, atol=1e-5)
    np.testing.assert_allclose(curves.mean[0, :, 1], -1.0 + 0.6 * TIMES, atol=1e-4)
    np.testing.assert_allclose(curves.mean[0, :, 2], 0.6, atol=1e-3)


@pytest.mark.parametrize("noise", [0.02, 0.2])
def test_noise_and_errors_are_as_large_as_they_say(noise):
    t = np.tile(np.sort(np.random.default_rng(1).uniform(0.0, 10.0, 100)), (40, 1))
    truth = np.sin(1.5 * t)
    curves = smoothed(t, truth + noise * np.random.default_rng(2).normal(size=t.shape))
    assert np.abs(curves.noise.mean() / noise - 1.0) < 0.05
    for k, exact in enumerate([truth, 1.5 * np.cos(1.5 * t)]):
        z = (curves.mean[..., k] - exact) / np.sqrt(curves.variance[..., k])
        assert 0.6 < np.sqrt((z**2).mean()) < 1.3


def test_units_padding_and_neighbours_play_no_part():
    y = np.sin(TIMES) + 0.1 * np.random.default_rng(3).normal(size=len(TIMES))
    alone = smoothed(TIMES[None], y[None])
    padded_t = np.append(TIMES, [TIMES[-1]] * 5)
    both = smoothed(np.stack([padded_t, 100.0 * padded_t]), np.stack([np.append(y, [np.nan] * 5)] * 2) * [[1.0], [7.0]])
    np.testing.assert_allclose(both.mean[0, : len(y)], alone.mean[0], rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(both.mean[1, : len(y), 1], 0.07 * alone.mean[0, :, 1], rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(both.freedom, alone.freedom[0], rtol=1e-6)


def decays(additive, proportion):
    t = np.tile(np.linspace(0.0, 8.0, 60), (30, 1))
    truth = 4.0 * np.exp(-0.7 * t)
    sigma = np.hypot(additive, proportion * truth)
    return t, truth, truth + sigma * np.random.default_rng(0).normal(size=t.shape)


def test_noise_that_grows_with_the_size_is_told_from_noise_that_does_not():
    t, truth, y = decays(0.0, 0.1)
    curves, plain = smoothed_by_size(t, y), smoothed(t, y)
    assert curves.by_size
    late = t > 3.0  # where values are small, plain curves have errors of the size of early ones
    z, of_plain = (((one.mean[..., 0] - truth) / np.sqrt(one.variance[..., 0]))[late] for one in (curves, plain))
    assert 0.7 < np.sqrt((z**2).mean()) < 1.3
    assert np.sqrt((of_plain**2).mean()) < 0.3
    t, _, y = decays(0.1, 0.0)
    same = smoothed_by_size(t, y)
    assert not same.by_size
    np.testing.assert_array_equal(same.mean, smoothed(t, y).mean)

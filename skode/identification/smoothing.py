r"""Smooth curves through noisy observations, with their derivatives.

Each observed quantity is a three times integrated Wiener process, ``x''' = white noise``, seen at some times through
independent noise. Its mean given the observations is the quintic smoothing spline (G. Wahba, "Improper priors, spline
smoothing and the problem of guarding against model errors in regression", J. R. Stat. Soc. B 40, 1978); as a state
space model it is found in a time that is linear in their number, by Kalman's filter and the smoother of Rauch, Tung and
Striebel (S. Sarkka, A. Solin, "Applied Stochastic Differential Equations", Cambridge, 2019, chapters 6 and 12). The
ratio of the process' intensity to the variance of the noise, which says how smooth it is, has the largest likelihood.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from skode.equations.noise import Combined

#: The state is the value and this many derivatives less one.
ORDER = 3
#: Variance of values and derivatives before anything is seen, in units of the values' own and of the mean distance.
DIFFUSE = 1e6
#: Logarithms (base 10) of the ratios that are tried at first, and how often the grid is refined about the best.
RATIOS, REFINEMENTS = np.linspace(-12.0, 4.0, 17), 3
#: KnownSeries without any noise are taken to have some: a share of the spread.
LEAST_NOISE = 1e-6
#: How often curves are smoothed with noise by the size of those before; updates of its scales.
ROUNDS, SCALE_UPDATES = 3, 100
#: Noise below this share of the size of what is observed is as large as errors of smoothing: it tells nothing.
SMALL_NOISE = 3e-3
#: The least share of an observation's variance that is taken to be left about its curve.
LEAST_LEFT = 0.1


@dataclass(frozen=True)
class Curves:
    """Smoothed quantities, each at times of its own.

    Attributes
    ----------
    mean : ndarray of shape (n_curves, n_times, 3)
        Values, first and second derivatives.
    variance : ndarray of shape (n_curves, n_times, 3)
        Their variances.
    noise : ndarray of shape (n_curves,)
        Standard deviations of the observations.
    leverage : ndarray of shape (n_curves, n_times)
        Derivatives of fitted by observed values.
    loglik : ndarray of shape (n_curves,)
        Logarithms of the likelihood, but for a constant.
    by_size : bool
        Whether noise was taken to grow with the size of what is observed.
    """

    mean: np.ndarray
    variance: np.ndarray
    noise: np.ndarray
    leverage: np.ndarray
    loglik: np.ndarray
    by_size: bool = False

    @property
    def freedom(self) -> np.ndarray:
        """Effective numbers of parameters of the curves, of shape (n_curves,)."""
        return self.leverage.sum(axis=1)


def smoothed(times: np.ndarray, y: np.ndarray, relative: np.ndarray | None = None) -> Curves:
    """Smooth several quantities.

    Parameters
    ----------
    times : ndarray of shape (n_curves, n_times)
        Times, increasing; padded at the end by the last one again.
    y : ndarray of shape (n_curves, n_times)
        Observed values; NaN at times where there is none.
    relative : ndarray of shape (n_curves, n_times) or None
        Relative variances of the observations; None where all have the same.
    """
    seen = np.isfinite(y)
    relative = np.ones_like(y) if relative is None else relative
    counts = np.maximum(seen.sum(axis=1), 1)
    unit = np.maximum((times[:, -1] - times[:, 0]) / counts, 1e-300)
    filled = np.where(seen, y, 0.0)
    centre = filled.sum(axis=1) / counts
    spread = np.sqrt((np.where(seen, y - centre[:, None], 0.0) ** 2).sum(axis=1) / counts)
    spread = np.where(spread > 0.0, spread, 1.0)
    steps = np.diff(times, axis=1, prepend=times[:, :1]) / unit[:, None]
    standard = np.where(seen, (y - centre[:, None]) / spread[:, None], np.nan)
    ratio = _likeliest(steps, standard, relative)
    filtered = _filtered(steps, standard, relative, ratio)
    noise = np.sqrt(filtered.noise_variance)
    mean, covariance = _backward(steps, ratio, filtered)
    variance = np.diagonal(covariance, axis1=2, axis2=3) * filtered.noise_variance[:, None, None]
    leverage = np.where(seen, covariance[..., 0, 0] / relative, 0.0)
    size = spread[:, None, None] / unit[:, None, None] ** np.arange(ORDER)
    mean = size * mean
    mean[..., 0] += centre[:, None]
    loglik = filtered.loglik - np.maximum(counts - ORDER, 1) * np.log(spread)
    return Curves(mean, size**2 * np.maximum(variance, 0.0), spread * noise, leverage, loglik)


def smoothed_by_size(times: np.ndarray, y: np.ndarray) -> Curves:
    """Smooth several quantities whose noise, of two common scales, may grow with their size, where that is likelier.

    Both scales are the likeliest ones for the distances of the observations from the curves of the round before, in
    units of what smoothing leaves of them.
    """
    best, seen, noise = smoothed(times, y), np.isfinite(y), Combined()
    if best.noise.max() < SMALL_NOISE * np.sqrt(np.mean(y[seen] ** 2)):
        return best
    for _ in range(ROUNDS):
        mean, left = best.mean[..., 0], np.sqrt(np.maximum(1.0 - best.leverage, LEAST_LEFT))
        points, centres = (mean + (y - mean) / left)[seen][:, None], mean[seen][:, None]
        least = LEAST_NOISE * np.array([np.abs(centres).max(initial=0.0), 1.0])
        scale = np.maximum(np.sqrt(noise.first_squares(points, centres).mean(axis=0)), least)
        for _ in range(SCALE_UPDATES):
            scale = np.maximum(noise.updated_scale(points, centres, scale), least)
        if not np.isfinite(scale).all():
            break
        variance = noise.spread(mean.reshape(-1, 1), scale).reshape(y.shape) ** 2
        found = smoothed(times, y, variance / variance[seen].mean())
        price = 0.0 if best.by_size else 0.5 * np.log(seen.sum())  # of a second scale (Schwarz 1978)
        if not found.loglik.sum() > best.loglik.sum() + price:
            break
        best = replace(found, by_size=True)
    return best


@dataclass(frozen=True)
class _Filtered:
    """Means and covariances (in units of the noise variance), predicted and updated; and the likelihood."""

    predicted: list[tuple[np.ndarray, np.ndarray]]
    updated: list[tuple[np.ndarray, np.ndarray]]
    noise_variance: np.ndarray
    loglik: np.ndarray


def _likeliest(steps: np.ndarray, y: np.ndarray, relative: np.ndarray) -> np.ndarray:
    """Logarithms of the ratios with the largest likelihood."""
    n = len(y)
    centre, grid = np.zeros(n), RATIOS
    for _ in range(1 + REFINEMENTS):
        tried = centre[:, None] + grid
        own_steps, own_y, own_relative = (np.repeat(x, len(grid), axis=0) for x in (steps, y, relative))
        loglik = _filtered(own_steps, own_y, own_relative, tried.ravel(), keep=False).loglik.reshape(n, -1)
        centre = tried[np.arange(n), np.argmax(loglik, axis=1)]
        width = grid[1] - grid[0]
        grid = np.linspace(-0.75 * width, 0.75 * width, 7)
    return centre


def _transition(h: np.ndarray, ratio: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The transition over time steps, and the covariance of what the noise adds."""
    one, zero = np.ones_like(h), np.zeros_like(h)
    A = np.stack([one, h, h**2 / 2, zero, one, h, zero, zero, one], axis=-1).reshape(-1, 3, 3)
    Q = np.stack([h**5 / 20, h**4 / 8, h**3 / 6, h**4 / 8, h**3 / 3, h**2 / 2, h**3 / 6, h**2 / 2, h], axis=-1).reshape(
        -1, 3, 3
    )
    return A, 10.0 ** ratio[:, None, None] * Q


def _filtered(
    steps: np.ndarray, y: np.ndarray, relative: np.ndarray, ratio: np.ndarray, *, keep: bool = True
) -> _Filtered:
    """Kalman's filter, in units of the noise variance, which is estimated; ``ratio`` is a logarithm."""
    n, n_times = y.shape
    mean, covariance = np.zeros((n, ORDER)), np.tile(DIFFUSE * np.eye(ORDER), (n, 1, 1))
    squares, logs, count = np.zeros(n), np.zeros(n), np.zeros(n)
    predicted, updated = [], []
    for k in range(n_times):
        A, Q = _transition(steps[:, k], ratio)
        mean = (A @ mean[..., None])[..., 0]
        covariance = A @ covariance @ A.swapaxes(1, 2) + Q
        if keep:
            predicted.append((mean, covariance))
        seen = np.isfinite(y[:, k])
        innovation = np.where(seen, y[:, k] - mean[:, 0], 0.0)
        variance = covariance[:, 0, 0] + relative[:, k]
        gain = np.where(seen[:, None], covariance[:, :, 0] / variance[:, None], 0.0)
        # The first three observations only tell where the curve is, which the likelihood must not depend on.
        informed = seen & (count >= ORDER)
        squares += np.where(informed, innovation**2 / variance, 0.0)
        logs += np.where(informed, np.log(variance), 0.0)
        count += seen
        mean = mean + gain * innovation[:, None]
        covariance = covariance - gain[:, :, None] * gain[:, None, :] * variance[:, None, None]
        if keep:
            updated.append((mean, covariance))
    free = np.maximum(count - ORDER, 1.0)
    noise = np.maximum(squares / free, LEAST_NOISE**2)
    return _Filtered(predicted, updated, noise, -0.5 * (free * np.log(noise) + squares / noise + logs))


def _backward(steps: np.ndarray, ratio: np.ndarray, filtered: _Filtered) -> tuple[np.ndarray, np.ndarray]:
    """The smoother of Rauch, Tung and Striebel: means and covariances given all observations."""
    mean, covariance = filtered.updated[-1]
    means, covariances = [mean], [covariance]
    for k in range(len(filtered.updated) - 2, -1, -1):
        A, _ = _transition(steps[:, k + 1], ratio)
        before, before_covariance = filtered.updated[k]
        ahead, ahead_covariance = filtered.predicted[k + 1]
        size = np.sqrt(np.diagonal(ahead_covariance, axis1=1, axis2=2))
        scaled = ahead_covariance / (size[:, :, None] * size[:, None, :])
        gain = np.linalg.solve(scaled, (A @ before_covariance) / size[:, :, None]) / size[:, :, None]
        gain = gain.swapaxes(1, 2)
        mean = before + (gain @ (mean - ahead)[..., None])[..., 0]
        covariance = before_covariance + gain @ (covariance - ahead_covariance) @ gain.swapaxes(1, 2)
        means.append(mean)
        covariances.append(covariance)
    return np.stack(means[::-1], axis=1), np.stack(covariances[::-1], axis=1)

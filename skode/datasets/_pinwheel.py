"""A pinwheel with five arms, and its density by all the points that its twist sends to the same place."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

_N_ARMS = 5
_RADIAL, _TANGENTIAL = 0.3, 0.1  # standard deviations along and across an arm, around (1, 0)
_RATE = 0.25
_SCALE = 2.0

# Beyond this distance before scaling, where the log density is below -270, an arm winds around the origin hundreds
# of times. There the mean over the circle stands for the density: at 8, their logs differ by less than 2 nearly
# everywhere, and by less with the distance.
_FARTHEST = 8.0


def sample_pinwheel(n_samples: int, rng: np.random.RandomState) -> NDArray[np.float64]:
    """Points ``(a, b)`` of an arm, turned clockwise by its angle and by ``rate exp(a)``, and scaled."""
    a, b = rng.normal((1.0, 0.0), (_RADIAL, _TANGENTIAL), (n_samples, 2)).T
    angle = 2 * np.pi / _N_ARMS * rng.randint(_N_ARMS, size=n_samples) + _RATE * np.exp(a)
    cos, sin = np.cos(angle), np.sin(angle)
    return _SCALE * np.column_stack([a * cos + b * sin, b * cos - a * sin])


def pinwheel_log_density(X: NDArray[np.float64]) -> NDArray[np.float64]:
    r"""Log density of :func:`sample_pinwheel`, by change of variables.

    The twist keeps the distance :math:`\rho` from the origin. A point at angle :math:`\psi` comes from those at
    angles :math:`\alpha`, that is from :math:`(a, b) = \rho (\cos\alpha, \sin\alpha)`, with

    .. math:: g(\alpha) = \alpha - r e^{\rho \cos\alpha} \equiv \psi \mod 2\pi / 5,

    where the modulus stands for the five arms, and the determinant of the twist is
    :math:`g'(\alpha) = 1 + r b e^a`.
    """
    rho, psi = np.hypot(*X.T) / _SCALE, np.arctan2(X[:, 1], X[:, 0])
    near = rho <= _FARTHEST
    log_density = np.empty(len(X))
    log_density[near] = _sum_over_preimages(rho[near], psi[near])
    log_density[~near] = _mean_over_circle(rho[~near])
    return log_density - 2 * np.log(_SCALE)


def _twisted(alpha: NDArray, rho: NDArray) -> NDArray:
    """``g``."""
    return alpha - _RATE * np.exp(rho * np.cos(alpha))


def _twisted_slope(alpha: NDArray, rho: NDArray) -> NDArray:
    """``g'``."""
    return 1 + _RATE * rho * np.sin(alpha) * np.exp(rho * np.cos(alpha))


def _sum_over_preimages(rho: NDArray, psi: NDArray) -> NDArray:
    """Log density before scaling."""
    first_turn, second_turn = _turns(rho)
    spacing = 2 * np.pi / _N_ARMS
    log_density = np.full(len(rho), -np.inf)
    # In one period g rises from the second turn to the first, and falls from there to the second again.
    for low in (second_turn - 2 * np.pi, second_turn):
        first = np.floor((_twisted(low, rho) - psi) / spacing).astype(int) + 1
        last = np.floor((_twisted(first_turn, rho) - psi) / spacing).astype(int)
        counts = np.maximum(last - first + 1, 0)
        rows = np.repeat(np.arange(len(rho)), counts)
        rank_in_row = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
        target = psi[rows] + spacing * (first[rows] + rank_in_row)
        np.logaddexp.at(log_density, rows, _log_term(rho[rows], target, low[rows], first_turn[rows]))
    return log_density - np.log(_N_ARMS)


def _log_term(rho: NDArray, target: NDArray, low: NDArray, high: NDArray) -> NDArray:
    """Log of the term of an arm's density from the preimage between ``low`` and ``high``, ``g(alpha) = target``."""
    alpha = _bisect(lambda alpha: _twisted(alpha, rho) - target, low, high)
    with np.errstate(divide="ignore"):  # at a turn the density is infinite
        log_determinant = np.log(np.abs(_twisted_slope(alpha, rho)))
    return _log_normal(rho * np.cos(alpha), rho * np.sin(alpha)) - log_determinant


def _turns(rho: NDArray) -> tuple[NDArray, NDArray]:
    """The angles in (-pi, 0) between which ``g`` falls; twice the same where it only rises."""
    # g' is least where cos(alpha) = rho sin(alpha)^2, and rises to 1 on both sides.
    least = -np.arccos(2 * rho / (1 + np.sqrt(1 + 4 * rho**2)))
    falls = _twisted_slope(least, rho) < 0
    first, second = (
        np.where(falls, _bisect(lambda alpha: _twisted_slope(alpha, rho), least, np.full_like(rho, end)), least)
        for end in (-np.pi, 0.0)
    )
    return first, second


def _bisect(f: Callable[[NDArray], NDArray], low: NDArray, high: NDArray) -> NDArray:
    """Roots of functions that are negative at ``low`` and not at ``high``, elementwise, to rounding."""
    for _ in range(np.finfo(np.float64).nmant + 3):  # angles below 2 pi, which takes 3 bits
        middle = (low + high) / 2
        negative = f(middle) < 0
        low, high = np.where(negative, middle, low), np.where(negative, high, middle)
    return high


def _log_normal(a: NDArray, b: NDArray) -> NDArray:
    """Log density of a point of an arm before the twist."""
    return -0.5 * (((a - 1) / _RADIAL) ** 2 + (b / _TANGENTIAL) ** 2) - np.log(2 * np.pi * _RADIAL * _TANGENTIAL)


def _mean_over_circle(rho: NDArray) -> NDArray:
    """Log of the mean of the density over a circle, before scaling, by Laplace's method around ``b = 0``."""
    shrink = 1 - (1 - 1 / rho) * (_TANGENTIAL / _RADIAL) ** 2
    width = _TANGENTIAL * np.sqrt(2 * np.pi / shrink)
    return _log_normal(rho, np.zeros_like(rho)) + np.log(width / (2 * np.pi * rho))

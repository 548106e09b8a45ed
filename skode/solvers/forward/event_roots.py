"""Zeros of many functions at once, each in the unit interval."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

#: Largest number of evaluations.
MAX_ITERATIONS = 100


def roots(value: Callable[[np.ndarray], np.ndarray], g0: np.ndarray, g1: np.ndarray, crossed: np.ndarray) -> np.ndarray:
    """Where each function that changes its sign is zero, or has just changed it.

    By false position with Illinois' weights (M. Dowell, P. Jarratt, "A modified regula falsi method for computing the
    root of an equation", BIT 11, 1971), every third time by bisection.

    Parameters
    ----------
    value : callable
        The functions' values at one argument each, all of shape (n,).
    g0, g1 : ndarray of shape (n,)
        Their values at 0 and 1.
    crossed : ndarray of bool, of shape (n,)
        Which of them change their signs; the others are evaluated at 1.

    Returns
    -------
    ndarray of shape (n,)
        The upper ends of intervals of a few units in the last place that the zeros lie in; 1 for other functions.
    """
    low, high = np.zeros(len(g0)), np.ones(len(g0))
    g_low, g_high = g0.copy(), g1.copy()
    high[g0 == 0.0] = 0.0
    side = np.zeros(len(g0))
    for i in range(MAX_ITERATIONS):
        open_ = crossed & (high - low > 4 * np.finfo(float).eps) & (g_high != 0.0)
        if not open_.any():
            break
        with np.errstate(all="ignore"):
            secant = high - g_high * (high - low) / (g_high - g_low)
        middle = 0.5 * (low + high)
        usable = np.isfinite(secant) & (secant > low) & (secant < high) & (i % 3 != 2)
        theta = np.where(open_, np.where(usable, secant, middle), 1.0)
        g = value(theta)
        before = np.sign(g) == np.sign(g_low)
        rises, falls = open_ & before, open_ & ~before
        g_high = np.where(rises & (side == 1.0), 0.5 * g_high, g_high)
        g_low = np.where(falls & (side == -1.0), 0.5 * g_low, g_low)
        low, g_low = np.where(rises, theta, low), np.where(rises, g, g_low)
        high, g_high = np.where(falls, theta, high), np.where(falls, g, g_high)
        side = np.where(rises, 1.0, np.where(falls, -1.0, side))
    return high

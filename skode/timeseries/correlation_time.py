r"""How fast series change: the time in which their values lose touch with each other.

The variogram of an output is :math:`\gamma(h) = \frac{1}{2} \mathrm{E} (y(t + h) - y(t))^2` within series (Matheron,
"Principles of geostatistics", Economic Geology 58, 1963). It begins at the variance of the noise, the nugget, and
rises as far as series change. Of a cycle :math:`\sin(\omega t + \phi)` it is :math:`\frac{1}{2} (1 - \cos \omega h)`,
which has risen by half at :math:`\omega h = \pi / 2`.
"""

from __future__ import annotations

import math

import numpy as np

from skode.timeseries.panel import Panel

#: Values of an output that are looked at, at most, and differences of their places in a series.
MOST_VALUES, N_STEPS = 200_000, 64

#: Pairs of values in each bin, at least.
LEAST_IN_BIN = 30

#: Bins of lags, in which lags are spread evenly, up to this share of a typical span.
N_BINS, LONGEST_LAG = 48, 0.5

#: At least this share of the variogram's greatest value must lie above the nugget: else the output is noise.
LEAST_STRUCTURE = 0.2


def correlation_time(panel: Panel, span: float) -> float:
    """Time in which the outputs of typical series change by half of what they change by in the end.

    Parameters
    ----------
    panel : Panel
        The series.
    span : float
        Time from the first to the last row of a typical one.

    Returns
    -------
    float
        In the units of the panel's times: the median over the outputs that change with time; infinite where none do.
    """
    found = [_half_rise(*_pairs(panel, output, LONGEST_LAG * span), span) for output in range(panel.y.shape[1])]
    found = [lag for lag in found if math.isfinite(lag)]
    return float(np.median(found)) if found else math.inf


def _pairs(panel: Panel, output: int, longest: float) -> tuple[np.ndarray, np.ndarray]:
    """Lags and halved squared differences of pairs of values of a series, at lags up to the longest.

    Pairs of the first, second, ... neighbours, then of more and more distant ones.
    """
    seen = np.flatnonzero(~np.isnan(panel.y[:, output]))
    if len(seen) > MOST_VALUES:  # whole series, spread evenly
        share = MOST_VALUES / len(seen)
        chosen = np.diff(np.ceil(np.arange(panel.n_series + 1) * share)) > 0.0
        seen = seen[chosen[panel.codes[seen]]][: 2 * MOST_VALUES]
    codes, time, y = panel.codes[seen], panel.time[seen], panel.y[seen, output]
    longest_series = int(np.bincount(codes).max(initial=1))
    lags, squares = [np.zeros(0)], [np.zeros(0)]
    for step in np.unique(np.geomspace(1, max(longest_series - 1, 1), N_STEPS).round().astype(int)):
        lag = time[step:] - time[:-step]
        near = (codes[step:] == codes[:-step]) & (lag <= longest)
        lags.append(lag[near])
        squares.append(0.5 * (y[step:][near] - y[:-step][near]) ** 2)
    return np.concatenate(lags), np.concatenate(squares)


def _half_rise(lag: np.ndarray, square: np.ndarray, span: float) -> float:
    """The lag at which the variogram has risen to half of its greatest value; infinite where it does not rise."""
    edges = np.linspace(0.0, LONGEST_LAG * span, N_BINS + 1)
    places = np.digitize(lag, edges[1:-1])
    counts = np.bincount(places, minlength=N_BINS)
    filled = counts >= LEAST_IN_BIN
    if filled.sum() < 4:
        return math.inf
    gamma = np.bincount(places, square, minlength=N_BINS)[filled] / counts[filled]
    centres = (np.bincount(places, lag, minlength=N_BINS)[filled]) / counts[filled]
    nugget, highest = gamma[0], gamma.max()
    first = centres[0]
    # The first bin holds what the output changed by within it: the line through the first two leads to lag 0.
    nugget = max(min(nugget, nugget - (gamma[1] - nugget) / (centres[1] - first) * first), 0.0)
    if not highest - nugget > LEAST_STRUCTURE * highest:
        return math.inf
    wanted = nugget + 0.5 * (highest - nugget)
    after = int(np.argmax(gamma >= wanted))
    if after == 0:
        return float(first * (wanted - nugget) / max(gamma[0] - nugget, 1e-300))
    before = after - 1
    share = (wanted - gamma[before]) / (gamma[after] - gamma[before])
    return float(centres[before] + share * (centres[after] - centres[before]))

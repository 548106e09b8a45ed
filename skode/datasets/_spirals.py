"""The two-dimensional spirals of the Neural ODE paper."""

from dataclasses import dataclass
from numbers import Integral, Real

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, validate_params

from skode.datasets._path_arguments import series_and_times

# All lengths below are fractions of t_max. A window of a fifth is what the authors' script observes
# (100 of 500 points).
_WINDOW = 0.2
# Their script also keeps away from both ends. Half a window is enough: near t = 0 the counter-clockwise
# radius vanishes in the noise, and near t = t_max the clockwise radius shoots up from 5 to 15.
_MARGIN = _WINDOW / 2
# The latest start that leaves room for the window, a continuation as long as it, and the margin.
_LATEST_START = 1 - _MARGIN - 2 * _WINDOW

_GROWTH = 0.3  # `b` in the authors' script, whose `a` is 0


@dataclass(frozen=True, eq=False)
class SpiralTruth:
    """The truth behind the noisy observations of :func:`make_spirals`.

    Attributes
    ----------
    direction : Series of shape (n_series,)
        ``"clockwise"`` or ``"counterclockwise"``, indexed by series id.
    start : Series of shape (n_series,)
        Position on the spiral, in [0, t_max], at which the clock of the series reads 0, indexed by
        series id.
    t_max : float
        Where the spirals end.

    """

    direction: pd.Series
    start: pd.Series
    t_max: float

    @property
    def window(self) -> float:
        """Length of the observed window, ``t_max / 5``; twice as long lies on every series' spiral."""
        return _WINDOW * self.t_max

    def path(self, series: ArrayLike, times: ArrayLike) -> NDArray[np.float64]:
        """Noise-free positions, one per row.

        Parameters
        ----------
        series : int or array-like of shape (n_rows,)
            Series ids; a single id stands for all rows.
        times : float or array-like of shape (n_rows,)
            Times on the clock of the row's series, anywhere on its spiral: from ``-start`` to
            ``t_max - start``. Times up to ``2 * window`` suit every series.

        Returns
        -------
        positions : ndarray of shape (n_rows, 2)
            The coordinates x and y.

        Raises
        ------
        ValueError
            If a series id is unknown, a time lies beyond its series' spiral or is NaN, or the lengths differ.

        """
        rows, times = series_and_times(self.start.index, series, times)
        start = self.start.to_numpy()[rows]
        position = start + times
        on_spiral = (position >= 0) & (position <= self.t_max)  # False for NaN
        if not on_spiral.all():
            row = int(np.argmin(on_spiral))
            raise ValueError(
                f"times: {times[row]} is not on the spiral of series {self.start.index[rows[row]]}, whose clock runs "
                f"from {-start[row]} to {self.t_max - start[row]}."
            )
        clockwise = self.direction.to_numpy()[rows] == "clockwise"
        return np.where(clockwise[:, None], _clockwise(position, self.t_max), _counterclockwise(position))


def _clockwise(t: NDArray[np.float64], t_max: float) -> NDArray[np.float64]:
    """Hyperbolic spiral r = 50 b / angle around (-5, 0), with angle = t_max + 1 - t decreasing."""
    angle = t_max + 1 - t
    radius = 50 * _GROWTH / angle
    return np.column_stack([radius * np.cos(angle) - 5, radius * np.sin(angle)])


def _counterclockwise(t: NDArray[np.float64]) -> NDArray[np.float64]:
    """Archimedean spiral r = b angle around (5, 0), with angle = t increasing."""
    radius = _GROWTH * t
    return np.column_stack([radius * np.cos(t) + 5, radius * np.sin(t)])


@validate_params(
    {
        "n_series": [Interval(Integral, 1, None, closed="left")],
        "n_observations": [Interval(Integral, 1, None, closed="left")],
        "t_max": [Interval(Real, 0, None, closed="neither")],
        "noise": [Interval(Real, 0, None, closed="left")],
        "irregular": ["boolean"],
        "random_state": ["random_state"],
        "return_truth": ["boolean"],
    },
    prefer_skip_nested_validation=True,
)
def make_spirals(
    n_series: int = 300,
    n_observations: int = 50,
    *,
    t_max: float = 6 * np.pi,
    noise: float = 0.3,
    irregular: bool = True,
    random_state: int | np.random.RandomState | None = None,
    return_truth: bool = False,
) -> tuple[pd.DataFrame, pd.DataFrame] | tuple[pd.DataFrame, pd.DataFrame, SpiralTruth]:
    r"""Make noisy pieces of two-dimensional spirals, half clockwise and half counter-clockwise.

    The spirals of the Neural ODE paper [1]_, section 5.1, with the formulas of the authors' script
    [2]_. With :math:`b = 0.3` and :math:`0 \le t \le t_{max}`,

    .. math::

        \text{clockwise:} \quad & (r \cos\theta - 5,\; r \sin\theta), \quad
            r = 50 b / \theta, \quad \theta = t_{max} + 1 - t \\
        \text{counter-clockwise:} \quad & (r \cos\theta + 5,\; r \sin\theta), \quad
            r = b \theta, \quad \theta = t

    Each series starts at its own random position on one of the two, uniform between
    ``0.1 * t_max`` and ``0.5 * t_max``, where its own clock reads 0. It is observed in the window
    ``[0, t_max / 5]`` of that clock. A continuation as long as the window, up to ``2 * t_max / 5``,
    lies on every series' spiral, so that extrapolation can be tested.

    Parameters
    ----------
    n_series : int, default=300
        Number of series. If odd, there is one more clockwise series.
    n_observations : int, default=50
        Number of observations per series.
    t_max : float, default=6 * pi
        Where the spirals end: the angle covered, in radians. Also sets the window.
    noise : float, default=0.3
        Standard deviation of the Gaussian noise added to each coordinate.
    irregular : bool, default=True
        If True, the observation times are drawn uniformly from the window, for each series by
        itself. If False, they are equally spaced from 0 to ``t_max / 5`` inclusive.
    random_state : int, RandomState instance or None, default=None
        Determines directions, starts, times and noise. Pass an int for reproducible data. The same
        int gives the same paths whatever ``n_observations``, ``noise`` and ``irregular`` are.
    return_truth : bool, default=False
        Whether to return the noise-free paths too.

    Returns
    -------
    X : DataFrame of shape (n_series * n_observations, 2)
        Columns ``series`` (int, 0 to ``n_series - 1``) and ``time`` (float64), ordered by both.
    y : DataFrame of shape (n_series * n_observations, 2)
        Columns ``x`` and ``y``: the noisy position, one row per row of ``X``.
    truth : SpiralTruth
        Only if ``return_truth`` is True. ``truth.direction`` and ``truth.start`` are Series indexed
        by series id, ``truth.window`` is the length of the window, and ``truth.path(series, times)``
        gives the noise-free positions, of shape (n_rows, 2), at any times.

    Raises
    ------
    ValueError, TypeError
        If a parameter has a wrong type or lies outside its range.

    Notes
    -----
    The authors' script differs in this: it observes 100 points of one grid of 500 that all series
    share, it draws each direction independently, and its starts reach from ``0.2 * t_max`` to
    ``0.8 * t_max``, so that not every series can be continued.

    References
    ----------
    .. [1] Chen, R. T. Q., Rubanova, Y., Bettencourt, J. and Duvenaud, D. (2018). Neural Ordinary
       Differential Equations. Advances in Neural Information Processing Systems 31. arXiv:1806.07366.
    .. [2] https://github.com/rtqichen/torchdiffeq/blob/master/examples/latent_ode.py

    Examples
    --------
    >>> from skode.datasets import make_spirals
    >>> X, y, truth = make_spirals(4, 10, random_state=0, return_truth=True)
    >>> X.shape, y.shape
    ((40, 2), (40, 2))
    >>> truth.direction.value_counts().to_dict()
    {'clockwise': 2, 'counterclockwise': 2}
    >>> truth.path(X["series"], X["time"] + truth.window).shape
    (40, 2)

    """
    rng = check_random_state(random_state)
    ids = pd.RangeIndex(n_series, name="series")
    clockwise = rng.permutation(n_series) % 2 == 0
    truth = SpiralTruth(
        direction=pd.Series(np.where(clockwise, "clockwise", "counterclockwise"), ids, name="direction"),
        start=pd.Series(rng.uniform(_MARGIN, _LATEST_START, n_series) * t_max, ids, name="start"),
        t_max=float(t_max),
    )
    if irregular:
        times = np.sort(rng.uniform(0, truth.window, (n_series, n_observations)), axis=1)
    else:
        times = np.tile(np.linspace(0, truth.window, n_observations), (n_series, 1))

    X = pd.DataFrame({"series": np.repeat(ids, n_observations), "time": times.ravel()})
    positions = truth.path(X["series"], X["time"])
    y = pd.DataFrame(positions + noise * rng.standard_normal(positions.shape), columns=["x", "y"])
    return (X, y, truth) if return_truth else (X, y)

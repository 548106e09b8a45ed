"""Damped pendulums of various lengths."""

from math import sin
from numbers import Integral, Real

import numpy as np
import pandas as pd
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, StrOptions, validate_params

from skode.datasets._ode_series import ODETruth, observation_times

_GRAVITY = 9.81  # m / s^2
_LARGEST_ANGLE = 2.5  # rad; the top is at pi, where a pendulum released at rest would stay
_LENGTHS = (0.5, 1.5)  # m
_COMMON_LENGTH = 1.0  # m


def _pendulum(time: float, state: tuple[float, float], *, length: float, damping: float) -> tuple[float, float]:
    """Rates of change of angle and angular velocity."""
    angle, velocity = state
    return velocity, -_GRAVITY / length * sin(angle) - damping * velocity


@validate_params(
    {
        "n_series": [Interval(Integral, 1, None, closed="left")],
        "n_observations": [Interval(Integral, 1, None, closed="left")],
        "duration": [Interval(Real, 0, None, closed="neither")],
        "noise": [Interval(Real, 0, None, closed="left")],
        "damping": [Interval(Real, 0, None, closed="left")],
        "vary_length": ["boolean"],
        "observe": [StrOptions({"state", "angle"})],
        "irregular": ["boolean"],
        "random_state": ["random_state"],
        "return_truth": ["boolean"],
    },
    prefer_skip_nested_validation=True,
)
def make_damped_pendulum(
    n_series: int = 100,
    n_observations: int = 30,
    *,
    duration: float = 5.0,
    noise: float = 0.05,
    damping: float = 0.25,
    vary_length: bool = True,
    observe: str = "state",
    irregular: bool = True,
    random_state: int | np.random.RandomState | None = None,
    return_truth: bool = False,
) -> tuple[pd.DataFrame, pd.DataFrame] | tuple[pd.DataFrame, pd.DataFrame, ODETruth]:
    r"""Make noisy swings of damped pendulums, each with its own release angle and length.

    The angle :math:`\theta` from the lowest point follows, with no small-angle approximation [1]_,

    .. math:: \ddot\theta = -\frac{g}{\ell} \sin\theta - \gamma \dot\theta, \quad g = 9.81\,\mathrm{m/s^2}.

    Each pendulum is released at rest, at an angle drawn uniformly between -2.5 and 2.5 rad, so that large swings are
    slower than small ones and none goes over the top. Its length is drawn uniformly between 0.5 and 1.5 m and is a
    column of ``X``: a covariate that is constant in a series and changes its dynamics, not its state.

    Parameters
    ----------
    n_series : int, default=100
        Number of pendulums.
    n_observations : int, default=30
        Number of observations per pendulum.
    duration : float, default=5.0
        Length of the observed window, in seconds. A small swing of a pendulum of 1 m takes 2 seconds.
    noise : float, default=0.05
        Standard deviation of the Gaussian noise, in rad on the angle and in rad/s on the velocity.
    damping : float, default=0.25
        The rate :math:`\gamma`, in 1/s.
    vary_length : bool, default=True
        Whether each pendulum has its own length. If False, all are 1 m long and ``X`` has no column ``length``.
    observe : {"state", "angle"}, default="state"
        Whether angle and velocity are observed, or only the angle.
    irregular : bool, default=True
        If True, the observation times are drawn uniformly from the window, for each series by itself. If False,
        they are equally spaced from 0 to ``duration`` inclusive.
    random_state : int, RandomState instance or None, default=None
        Determines angles, lengths, times and noise. Pass an int for reproducible data. The same int gives the same
        release angles and lengths whatever is observed of them.
    return_truth : bool, default=False
        Whether to return the noise-free paths too.

    Returns
    -------
    X : DataFrame of shape (n_series * n_observations, 3 or 2)
        Columns ``series`` (int, 0 to ``n_series - 1``), ``time`` (float64, seconds), ordered by both, and with
        ``vary_length`` ``length`` (float64, metres).
    y : DataFrame of shape (n_series * n_observations, 2 or 1)
        Columns ``angle`` (rad) and, unless ``observe="angle"``, ``velocity`` (rad/s), one row per row of ``X``.
    truth : ODETruth
        Only if ``return_truth`` is True. ``truth.path(series, times)`` gives the noise-free angles and velocities, of
        shape (n_rows, 2), at any times from 0 on. ``truth.initial`` holds the release states and
        ``truth.parameters`` length and damping, indexed by series id.

    Raises
    ------
    ValueError, TypeError
        If a parameter has a wrong type or lies outside its range.

    References
    ----------
    .. [1] S. H. Strogatz, "Nonlinear Dynamics and Chaos", 2nd edition, Westview Press 2015, section 6.7.

    Examples
    --------
    >>> from skode.datasets import make_damped_pendulum
    >>> X, y, truth = make_damped_pendulum(4, 10, random_state=0, return_truth=True)
    >>> X.columns.tolist(), y.columns.tolist()
    (['series', 'time', 'length'], ['angle', 'velocity'])
    >>> truth.path(X["series"], X["time"] + truth.window).shape
    (40, 2)

    """
    rng = check_random_state(random_state)
    ids = pd.RangeIndex(n_series, name="series")
    angles = rng.uniform(-_LARGEST_ANGLE, _LARGEST_ANGLE, n_series)
    lengths = rng.uniform(*_LENGTHS, n_series)  # drawn in any case, so that the other draws stay the same
    if not vary_length:
        lengths = np.full(n_series, _COMMON_LENGTH)
    truth = ODETruth(
        initial=pd.DataFrame({"angle": angles, "velocity": 0.0}, ids),
        parameters=pd.DataFrame({"length": lengths, "damping": float(damping)}, ids),
        window=float(duration),
        vector_field=_pendulum,
    )
    times = observation_times((n_series, n_observations), truth.window, irregular=irregular, rng=rng)

    X = pd.DataFrame({"series": np.repeat(ids, n_observations), "time": times.ravel()})
    if vary_length:
        X["length"] = np.repeat(lengths, n_observations)
    states = truth.path(X["series"], X["time"])
    y = pd.DataFrame(states + noise * rng.standard_normal(states.shape), columns=truth.initial.columns)
    y = y[["angle"]] if observe == "angle" else y
    return (X, y, truth) if return_truth else (X, y)

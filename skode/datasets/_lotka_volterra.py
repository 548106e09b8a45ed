"""Populations of predators and their prey."""

from numbers import Integral, Real

import numpy as np
import pandas as pd
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, StrOptions, validate_params

from skode.datasets._ode_series import ODETruth, observation_times

# The formula's a, b, c, d: per year, and per year and thousand animals.
_PREY_GROWTH, _PREDATION, _PREDATOR_DEATH, _PREDATOR_GROWTH = 0.55, 0.028, 0.80, 0.024

_PREY, _PREDATOR = (10.0, 60.0), (5.0, 40.0)  # ranges of the initial populations, around the equilibrium (33, 20)


def _lotka_volterra(time: float, state: tuple[float, float]) -> tuple[float, float]:
    """Rates of change of prey and predator."""
    prey, predator = state
    return (
        _PREY_GROWTH * prey - _PREDATION * prey * predator,
        _PREDATOR_GROWTH * prey * predator - _PREDATOR_DEATH * predator,
    )


@validate_params(
    {
        "n_series": [Interval(Integral, 1, None, closed="left")],
        "n_observations": [Interval(Integral, 1, None, closed="left")],
        "duration": [Interval(Real, 0, None, closed="neither")],
        "observe": [StrOptions({"density", "counts"})],
        "noise": [Interval(Real, 0, None, closed="left")],
        "scale": [Interval(Real, 0, None, closed="neither")],
        "irregular": ["boolean"],
        "random_state": ["random_state"],
        "return_truth": ["boolean"],
    },
    prefer_skip_nested_validation=True,
)
def make_lotka_volterra(
    n_series: int = 100,
    n_observations: int = 30,
    *,
    duration: float = 20.0,
    observe: str = "density",
    noise: float = 0.1,
    scale: float = 1.0,
    irregular: bool = True,
    random_state: int | np.random.RandomState | None = None,
    return_truth: bool = False,
) -> tuple[pd.DataFrame, pd.DataFrame] | tuple[pd.DataFrame, pd.DataFrame, ODETruth]:
    r"""Make noisy cycles of predators and their prey, each from its own initial populations.

    Prey :math:`x` and predators :math:`y`, in thousands, follow the equations of Lotka and Volterra [1]_,

    .. math:: \dot x = a x - b x y, \quad \dot y = d x y - c y,

    with the rates estimated from the Hudson Bay Company's pelts of hares and lynxes [2]_: :math:`a = 0.55` and
    :math:`c = 0.80` per year, :math:`b = 0.028` and :math:`d = 0.024` per year and thousand. Each series starts at
    10 to 60 thousand prey and 5 to 40 thousand predators, drawn uniformly, and stays on a closed orbit around the
    equilibrium :math:`(c / d, a / b) \approx (33, 20)`: :math:`d x - c \ln x + b y - a \ln y` is constant.

    Parameters
    ----------
    n_series : int, default=100
        Number of series.
    n_observations : int, default=30
        Number of observations per series.
    duration : float, default=20.0
        Length of the observed window, in years. A small cycle takes 9.5 years, a large one more.
    observe : {"density", "counts"}, default="density"
        "density": populations in thousands with lognormal noise. "counts": integers with a Poisson distribution.
    noise : float, default=0.1
        Standard deviation of the Gaussian noise on the logarithm of a population; for ``observe="density"``.
    scale : float, default=1.0
        Animals expected in a count per thousand in the population; for ``observe="counts"``.
    irregular : bool, default=True
        If True, the observation times are drawn uniformly from the window, for each series by itself. If False,
        they are equally spaced from 0 to ``duration`` inclusive.
    random_state : int, RandomState instance or None, default=None
        Determines initial populations, times and noise. Pass an int for reproducible data. The same int gives the
        same paths whatever is observed of them.
    return_truth : bool, default=False
        Whether to return the noise-free paths too.

    Returns
    -------
    X : DataFrame of shape (n_series * n_observations, 2)
        Columns ``series`` (int, 0 to ``n_series - 1``) and ``time`` (float64, years), ordered by both.
    y : DataFrame of shape (n_series * n_observations, 2)
        Columns ``prey`` and ``predator``, one row per row of ``X``: float64, thousands, whose medians are the
        populations; or with ``observe="counts"`` int64, whose means are ``scale`` times the populations.
    truth : ODETruth
        Only if ``return_truth`` is True. ``truth.path(series, times)`` gives the noise-free populations in thousands,
        of shape (n_rows, 2), at any times from 0 on. ``truth.initial`` holds the initial ones, indexed by series id.

    Raises
    ------
    ValueError, TypeError
        If a parameter has a wrong type or lies outside its range.

    References
    ----------
    .. [1] J. D. Murray, "Mathematical Biology I", 3rd edition, Springer 2002, section 3.1.
    .. [2] B. Carpenter, "Predator-Prey Population Dynamics: the Lotka-Volterra model in Stan", Stan case studies 5,
       2018, https://mc-stan.org/users/documentation/case-studies/lotka-volterra-predator-prey.html.

    Examples
    --------
    >>> from skode.datasets import make_lotka_volterra
    >>> X, y = make_lotka_volterra(4, 10, random_state=0)
    >>> X.columns.tolist(), y.columns.tolist()
    (['series', 'time'], ['prey', 'predator'])
    >>> X, counts = make_lotka_volterra(4, 10, observe="counts", random_state=0)
    >>> counts.dtypes.astype(str).tolist()
    ['int64', 'int64']

    """
    rng = check_random_state(random_state)
    ids = pd.RangeIndex(n_series, name="series")
    truth = ODETruth(
        initial=pd.DataFrame(
            {"prey": rng.uniform(*_PREY, n_series), "predator": rng.uniform(*_PREDATOR, n_series)}, ids
        ),
        parameters=pd.DataFrame(index=ids),
        window=float(duration),
        vector_field=_lotka_volterra,
    )
    times = observation_times((n_series, n_observations), truth.window, irregular=irregular, rng=rng)

    X = pd.DataFrame({"series": np.repeat(ids, n_observations), "time": times.ravel()})
    populations = truth.path(X["series"], X["time"])
    if observe == "counts":
        observed = rng.poisson(scale * populations)
    else:
        observed = populations * np.exp(noise * rng.standard_normal(populations.shape))
    y = pd.DataFrame(observed, columns=truth.initial.columns)
    return (X, y, truth) if return_truth else (X, y)

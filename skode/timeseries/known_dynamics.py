"""Dynamics of a latent ODE that are known but for parameters: the user's description, and how it is read."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator

from skode.equations.initial import InitialStates
from skode.equations.parameters import Parameter
from skode.equations.reading import Arguments, Reading, read_model
from skode.equations.sensitivities import SolverSettings
from skode.equations.shooting import Model
from skode.timeseries.likelihoods import Likelihood, Poisson
from skode.timeseries.panel import Panel
from skode.timeseries.units import Units


class KnownDynamics(BaseEstimator):
    r"""Dynamics of :class:`LatentODERegressor` that are known but for parameters and initial states.

    The latent states are those of equations of the user's, :math:`dy/dt = f(t, y, p)`, in the user's units, from the
    first row of each series on. Initial states and parameters of each series are random variables, whose posteriors the
    regressor infers from the series' observations [1]_. Their priors are normal on the whole line; of their logarithms
    above or below a bound; or of their logits between two bounds.

    Parameters
    ----------
    rhs : callable
        ``rhs(t, y, p)``, the right-hand side, made of torch's operations. States ``y`` have the shape
        ``(..., n_states)``, and so has what is returned; ``p`` is a dict of parameters and covariates by name, each a
        tensor that broadcasts against ``y[..., 0]``, and so does the time ``t``. The weights of an ``nn.Module`` are
        trained with the model, on a copy.
    params : dict, default=None
        Parameters by name: a start, or ``(start, low, high)`` with None for no bound. The start is the prior's median.
    states : list of str
        Names of the states.
    initial : dict, list, callable or None, default=None
        Initial states, at the first row of each series: for each state a number that is given; ``(start, low, high)``
        for one that is unknown, of which the start is the prior's median; the name of a parameter or of a column of X;
        None for one that starts from the data, which has to be observed. A dict by states' names (those that are
        missing are None), a list in their order, or ``initial(p)`` of shape ``(..., n_states)``.
    observe : str, list, callable or None, default=None
        Quantities that the outputs in ``y`` observe: states by name; or ``observe(t, y, p)`` of shape ``(...,
        n_outputs)``, their means; None: a read-out that is learnt. A list may have None for outputs whose read-out is
        learnt.
    per_series : list of str or None, default=None
        Parameters of which each series has its own; None: all that are not fixed. Others are shared by all series and
        learnt.
    fixed : list of str, default=()
        Parameters that stay at their starts.
    priors : dict, default=None
        Standard deviations of priors, by names of parameters and states: of the value itself where there are no bounds;
        of its logarithm with one bound (of its distance from it); of its logit between two. The prior of what is named
        here is as given. The others are learnt from the series, where there are five or more: they start from the
        deviations 1 (one bound), 1.5 (two) and the start's absolute value (none). Shared ones have a flat prior on
        the same scale where it is not named.
    doses : dict or None, default=None
        Columns of X that hold doses, which are no covariates, by name: an amount is added to a state at its row's time.
        Of each column the name of the state; ``(state, parameter)`` for an amount that is multiplied by a parameter,
        as a bioavailability; or ``jump(amount, p)``, of shape ``(..., n_states)``, for what is added to all states.
        Where the amount is 0 or NaN there is no dose. What was observed in the row of a dose is from before it, and
        what was observed at its time in rows further down from after it; doses at one time add up. Rows that only tell
        a dose have NaN in y. In ``predict``, ``condition`` and ``forecast`` doses in X are given as well, in place of
        those that ``fit`` saw at the same times.
    interpolation : {"linear", "previous"}, default="linear"
        Covariates between rows: linear, or as in the row before. The solver stops where the latter jump.
    time_unit : str, default="D"
        The unit of time of dates (which count from the first one in ``fit``) and of time differences, as pandas
        writes it. Numbers are taken as they are.

    See Also
    --------
    ODERegressor : Estimates of maximum likelihood, with standard errors, where little is of each series its own.
        Doses and ``interpolation`` are the same there.

    References
    ----------
    .. [1] O. Linial, N. Ravid, D. Eytan, U. Shalit, "Generative ODE Modeling with Known Unknowns", CHIL 2021.

    Examples
    --------
    >>> import numpy as np
    >>> import pandas as pd
    >>> from skode import KnownDynamics, LatentODERegressor
    >>> def decay(t, y, p):
    ...     return -p["rate"][..., None] * y
    >>> rng = np.random.default_rng(0)
    >>> rate, time = rng.uniform(0.3, 1.2, 20), np.linspace(0, 4, 12)
    >>> X = pd.DataFrame({"series": np.repeat(range(20), 12), "time": np.tile(time, 20)})
    >>> y = 5 * np.exp(-np.outer(rate, time)).ravel() + rng.normal(0, 0.1, 240)
    >>> dynamics = KnownDynamics(decay, {"rate": (0.5, 0, None)}, states=["dose"], observe="dose")
    >>> model = LatentODERegressor("series", "time", dynamics=dynamics, max_iter=20, random_state=0).fit(X, y)
    >>> list(model.latent_states().columns)
    ['dose', 'rate']
    >>> bool(np.abs(model.latent_states()["rate"] - rate).max() < 0.1)
    True
    """

    def __init__(
        self,
        rhs: Callable[..., Any],
        params: dict[str, Any] | None = None,
        *,
        states: Any,
        initial: Any = None,
        observe: Any = None,
        per_series: Any = None,
        fixed: Any = (),
        priors: dict[str, float] | None = None,
        doses: dict[str, Any] | None = None,
        interpolation: str = "linear",
        time_unit: str = "D",
    ) -> None:
        self.rhs = rhs
        self.params = params
        self.states = states
        self.initial = initial
        self.observe = observe
        self.per_series = per_series
        self.fixed = fixed
        self.priors = priors
        self.doses = doses
        self.interpolation = interpolation
        self.time_unit = time_unit


@dataclass(frozen=True)
class OutputStatistics:
    """The outputs as the data have them, from which states that they observe start.

    Attributes
    ----------
    names : list
        Their names.
    first, spread : ndarray of shape (n_outputs,)
        Mean of the first values of series, and standard deviation of all values.
    """

    names: list[Any]
    first: np.ndarray
    spread: np.ndarray

    @classmethod
    def of(cls, panel: Panel, units: Units) -> OutputStatistics:
        """Those of a panel, which is standardised."""
        first = np.full((panel.n_series, panel.y.shape[1]), np.nan)
        for output in range(panel.y.shape[1]):
            rows = np.flatnonzero(~np.isnan(panel.y[:, output]))
            codes, places = np.unique(panel.codes[rows], return_index=True)
            first[codes, output] = panel.y[rows[places], output]
        means, spread = units.original(np.nanmean(first, axis=0)), np.nanstd(panel.y, axis=0) * units.y_scale
        return cls(units.output_names, means, np.where(spread > 0.0, spread, 1.0))


@dataclass(frozen=True)
class KnownEquations:
    """Equations as the model has them.

    Attributes
    ----------
    model : Model
        The equations and their unknowns: parameters that are shared, those of each series, free initial states.
    observed : tuple
        For each output the position of the state that it observes, or None where its read-out is learnt; empty where
        all outputs are given by a function, ``model.system.observe``.
    priors : dict of str to float
        Standard deviations that are given, by names of the unknowns.
    spreads : dict of str to float
        Standard deviations that others start from, where the data tell them.
    inputs : tuple of str
        Names of the covariates.
    """

    model: Model
    observed: tuple[int | None, ...]
    priors: dict[str, float]
    spreads: dict[str, float]
    inputs: tuple[str, ...]

    @property
    def initial(self) -> InitialStates:
        """Initial states, as functions of the unknowns."""
        return self.model.initial

    @property
    def shared(self) -> list[Parameter]:
        """Parameters that all series share."""
        return self.model.scales.parameters[: self.model.n_shared]

    @property
    def own(self) -> list[Parameter]:
        """Unknowns of each series: its parameters, then its initial states."""
        return self.model.scales.parameters[self.model.n_shared :]

    @property
    def columns(self) -> list[str]:
        """Names of the states, and of the parameters of each series."""
        return [*self.model.system.states, *self.model.system.names[self.model.n_shared :]]

    @classmethod
    def read(
        cls, given: KnownDynamics, outputs: OutputStatistics, inputs: Sequence[str], likelihood: type[Likelihood]
    ) -> KnownEquations:
        """Equations from the user's description.

        Raises
        ------
        ValueError
            Where it is not as documented; the message names the argument.
        """
        if not callable(given.rhs):
            raise ValueError(f"rhs must be a function rhs(t, y, p), got {given.rhs!r}.")
        params = {} if given.params is None else given.params
        fixed = [given.fixed] if isinstance(given.fixed, str) else list(given.fixed)
        own = given.per_series
        if own is None:
            own = [name for name in params if name not in fixed]
        if given.interpolation not in ("linear", "previous"):
            raise ValueError(f'interpolation must be "linear" or "previous", got {given.interpolation!r}.')
        arguments = Arguments(given.rhs, params, given.states, _no_outputs, given.initial, own, fixed, given.doses)
        reading = read_model(arguments, outputs.names, inputs, SolverSettings("dopri5", 1e-6, 1e-9))
        states = reading.model.system.states
        for name in (*reading.model.system.names, *inputs):
            if name in states:
                raise ValueError(f"states names {name!r}, which is a parameter or a column of X too: rename one.")
        observed, function = _read_observed(given.observe, states, outputs)
        unknowns, spreads = _with_starts(reading, observed, outputs, positive=issubclass(likelihood, Poisson))
        if len(unknowns) == reading.model.n_shared:
            raise ValueError(
                "per_series and initial leave nothing unknown of a series by itself. Name parameters in per_series or "
                "give initial states as (start, low, high); where all is shared, ODERegressor estimates it."
            )
        for unknown in unknowns:
            if unknown.start in (unknown.low, unknown.high):
                state = unknown.name.removeprefix("initial ")
                entry = f"params[{state!r}]" if state == unknown.name else f"initial[{state!r}]"
                raise ValueError(
                    f"{entry} starts at its bound, {unknown.start:g}; a prior needs a median within the bounds."
                )
        system = replace(reading.model.system, observe=function or ())
        scales = type(reading.model.scales)(unknowns)
        model = replace(reading.model, system=system, scales=scales)
        return cls(model, observed, _read_priors(given.priors, model, states), spreads, tuple(inputs))


def _no_outputs(*_: Any) -> None:
    """Stands for ``observe``, which is read here."""


def _read_observed(
    given: Any, states: tuple[str, ...], outputs: OutputStatistics
) -> tuple[tuple[int | None, ...], Callable[..., Any] | None]:
    """The state that each output observes, or a function that gives all of them."""
    if callable(given):
        return (), given
    n_outputs = len(outputs.names)
    if given is None:
        return (None,) * n_outputs, None
    names = [given] if isinstance(given, str) else list(given)
    if unknown := [name for name in names if name is not None and name not in states]:
        raise ValueError(f"observe names {unknown[0]!r}, which is not a state; they are {list(states)}.")
    if len(names) != n_outputs:
        raise ValueError(f"observe has {len(names)} entries, {names}, but y has {n_outputs} outputs.")
    return tuple(None if name is None else states.index(name) for name in names), None


def _with_starts(
    reading: Reading, observed: tuple[int | None, ...], outputs: OutputStatistics, *, positive: bool
) -> tuple[list[Parameter], dict[str, float]]:
    """The unknowns, and spreads by name, with starts from the data where initial states have none."""
    spreads = {}
    unknowns = list(reading.model.scales.parameters)
    states = reading.model.system.states
    first_free = len(reading.model.system.names)
    for place, state in enumerate(reading.free_states, start=first_free):
        if state in reading.told:
            continue
        if state not in observed:
            raise ValueError(
                f"initial has no entry for {states[state]!r}, which is not observed by itself: give a number, or "
                "(start, low, high) of its prior."
            )
        output = observed.index(state)
        start = float(outputs.first[output])
        if positive:
            unknowns[place] = replace(unknowns[place], start=max(start, 0.5), low=0.0)
        else:
            unknowns[place] = replace(unknowns[place], start=start)
            spreads[unknowns[place].name] = float(outputs.spread[output])
    return unknowns, spreads


def _read_priors(given: Any, model: Model, states: tuple[str, ...]) -> dict[str, float]:
    """Standard deviations by names of the unknowns."""
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise ValueError(f"priors must be a dict of names to standard deviations, got {type(given).__name__}.")
    unknowns = [unknown.name for unknown in model.scales.parameters]
    priors = {}
    for name, deviation in given.items():
        unknown = f"initial {name}" if name in states else name
        if unknown not in unknowns:
            known = [one.removeprefix("initial ") for one in unknowns]
            raise ValueError(f"priors names {name!r}, which is not an unknown; they are {known}.")
        number = isinstance(deviation, Real) and not isinstance(deviation, bool)
        if not number or not 0.0 < float(deviation) < math.inf:
            raise ValueError(f"priors[{name!r}] must be a positive standard deviation, got {deviation!r}.")
        priors[unknown] = float(deviation)
    return priors

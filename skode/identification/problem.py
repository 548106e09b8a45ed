"""From observations and an estimator's parameters to the problem that is solved, in standardised units."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from numbers import Integral
from typing import Any

import numpy as np
from torch import nn

from skode.dynamics.sizes import check_sizes
from skode.equations.initial import InitialStates
from skode.equations.layout import Layout
from skode.equations.levenberg_marquardt import Task
from skode.equations.noise import NOISES, Combined, Gaussian
from skode.equations.parameters import Parameter, Scales, known_names, read_parameters
from skode.equations.prior import Prior
from skode.equations.sensitivities import SolverSettings
from skode.equations.shooting import Model
from skode.identification.fields import ModuleField, NetworkField, ParametricField, PolynomialField
from skode.identification.observations import KnownSeries
from skode.identification.states import SmoothedStates
from skode.identification.system import FieldSystem, Units

#: The least noise of a network, in units of the states' spread: how exact it is, at best, with a few hundred weights.
NOISE_OF_NETWORKS = 1e-3
#: Sizes that noise is proportional to are no less than this share of a state's own.
LEAST_SIZE = 0.02
#: More weights than this are too many for steps on exact sensitivities; gradients by the adjoint take their place.
MOST_WEIGHTS = 2000
#: Spreads of states in units of their size, at least, that solves and noise are to resolve.
LEAST_SPREAD = 1e-7


@dataclass(frozen=True)
class FieldArguments:
    """The parameters of the estimator that say what the equations are; see :class:`skode.NeuralODERegressor`."""

    known: Any
    params: Any
    fixed: Any
    order: int
    degree: int
    hidden_layer_sizes: Any
    noise: str


def state_names(outputs: Sequence[Any], order: int) -> tuple[str, ...]:
    """Names of the states: those of the outputs and, for second order, of their derivatives."""
    names = [str(name) for name in outputs]
    return tuple(names if order == 1 else [*names, *(f"d{name}/dt" for name in names)])


def units_of(smooth: SmoothedStates, inputs: np.ndarray, order: int, *, centred: bool) -> Units:
    """Units in which states, their derivatives and inputs are about 1.

    Parameters
    ----------
    smooth : SmoothedStates
        The states.
    inputs : ndarray of shape (n_rows, n_inputs)
        The inputs.
    order : int
        Order of the equations.
    centred : bool
        Whether states have their mean subtracted. Polynomials do not: a sparse one would not stay sparse.
    """
    n = smooth.states.shape[1]
    shift = smooth.states.mean(axis=0) if centred else np.zeros(n)
    shift[n // order :] = 0.0
    input_shift = inputs.mean(axis=0) if centred else np.zeros(inputs.shape[1])
    scale = _size(smooth.states - shift)
    rates = smooth.derivatives / scale[-n // order :]
    fastest = float(np.sqrt((rates**2).mean()))
    span = float(smooth.time.max() - smooth.time.min())
    unit = 1.0 / fastest if fastest > 0.0 else (span or 1.0)
    return Units(shift, scale, input_shift, _size(inputs - input_shift), unit)


def _size(x: np.ndarray) -> np.ndarray:
    size = np.sqrt((x**2).mean(axis=0)) if len(x) else np.ones(x.shape[1])
    return np.where(size > 0.0, size, 1.0)


def new_field(arguments: FieldArguments, kind: Any, n_inputs: int, n_outputs: int) -> ParametricField:
    """A field of a kind: "polynomial", "linear", "mlp" or a module."""
    degree = 1 if kind == "linear" else arguments.degree
    if kind in ("polynomial", "linear"):
        _refuse_too_many(kind, n_outputs * math.comb(n_inputs + degree, degree), n_inputs)
    if isinstance(kind, nn.Module):
        field: ParametricField = ModuleField(kind, n_inputs, n_outputs)
    elif kind == "mlp":
        given = arguments.hidden_layer_sizes
        field = NetworkField(n_inputs, n_outputs, check_sizes((given,) if isinstance(given, Integral) else given))
    else:
        field = PolynomialField(n_inputs, n_outputs, degree)
    return field


def _refuse_too_many(kind: Any, n_weights: int, n_inputs: int) -> None:
    if n_weights > MOST_WEIGHTS:
        raise ValueError(
            f"field={kind!r} has {n_weights} weights for {n_inputs} states and inputs; more than {MOST_WEIGHTS} are "
            "too many for priors of each term. Choose a smaller degree, or field='mlp'."
        )


@dataclass(frozen=True)
class Problem:
    """A field to be fitted.

    Attributes
    ----------
    task : Task
        The problem, in standardised units.
    smooth : SmoothedStates
        Smoothed states, in standardised units.
    parameters : list of Parameter
        Parameters of the known right-hand side, those that are fixed included.
    """

    task: Task
    smooth: SmoothedStates
    parameters: list[Parameter]

    @property
    def has_many_weights(self) -> bool:
        """Whether gradients by the adjoint take the place of exact sensitivities."""
        return self.system.field.n_weights > MOST_WEIGHTS

    @property
    def system(self) -> FieldSystem:
        """The equations."""
        system = self.task.model.system
        assert isinstance(system, FieldSystem)
        return system

    def of_series(self, observations: KnownSeries, layout: Layout, *, linear: bool) -> Problem:
        """The same equations for other series."""
        system = self.system
        smooth = SmoothedStates.of(layout, system.order, by_size=self.task.noise.n_scales > 1)
        inputs = observations.as_inputs(list(system.input_names), system.units.unit, linear=linear)
        task = replace(self.task, layout=standard_layout(layout, system.units), inputs=inputs)
        return Problem(task, standard_states(smooth, system.units), self.parameters)


def pose(
    arguments: FieldArguments,
    kind: Any,
    data: tuple[KnownSeries, Layout, SmoothedStates],
    names: tuple[Sequence[Any], Sequence[str]],
    settings: SolverSettings,
    *,
    linear: bool,
) -> Problem:
    """The problem of fitting a kind of field.

    Parameters
    ----------
    arguments : FieldArguments
        Parameters of the estimator.
    kind : str or Module
        Kind of the field.
    data : tuple of KnownSeries, Layout, SmoothedStates
        Observations, in the user's units.
    names : tuple of two sequences
        Names of the outputs and of the inputs.
    settings : SolverSettings
        How the equations are solved.
    linear : bool
        Whether inputs are linear between rows.
    """
    observations, layout, smooth = data
    outputs, inputs = names
    order, n_outputs = arguments.order, len(outputs)
    states = state_names(outputs, order)
    units = units_of(smooth, observations.inputs, order, centred=not isinstance(kind, str) or kind == "mlp")
    field = new_field(arguments, kind, len(states) + len(inputs), n_outputs)
    parameters = read_parameters(arguments.params or {})
    fixed = known_names(arguments.fixed, [p.name for p in parameters], "fixed")
    if both := [p.name for p in parameters if p.name in inputs]:
        raise ValueError(f"params names {both[0]!r}, which is a column of X too: rename one of them.")
    if parameters and arguments.known is None:
        raise ValueError("params has parameters of a known right-hand side, but known is None.")
    estimated = [p for p in parameters if p.name not in fixed]
    weights = [Parameter(f"w{i}", 0.0) for i in range(field.n_weights)]
    system = FieldSystem(
        rhs=arguments.known,
        observe=tuple(range(n_outputs)),
        states=states,
        names=tuple(p.name for p in [*weights, *estimated]),
        constants={p.name: p.start for p in parameters if p.name in fixed},
        field=field,
        units=units,
        order=order,
        input_names=tuple(inputs),
    )
    if arguments.known is not None:
        given = np.array([p.start for p in estimated])
        system.check_known(smooth.states[0], given, float(smooth.time[0]), observations.inputs[0])
    # Far from 0 compared with their spread, states must be solved, and may be observed, so much more exactly.
    spread = np.minimum(smooth.states.std(axis=0) / units.scale, 1.0)
    finest = float(np.clip(spread.min(initial=1.0), LEAST_SPREAD, 1.0))
    settings = replace(settings, rtol=settings.rtol * finest, atol=settings.atol * finest)
    m = len(system.names)
    starts = [Parameter(f"initial {state}", 0.0) for state in states]
    initial = InitialStates(None, tuple(range(m, m + len(states))))
    scales = Scales([*weights, *estimated, *starts])
    model = Model(system, scales, m, initial, settings)
    groups = np.concatenate([field.groups, np.full(len(estimated), -1)])
    prior = Prior(np.concatenate([np.zeros(field.n_weights), scales.start[field.n_weights : m]]), groups)
    exact = settings.rtol / finest if field.linear else NOISE_OF_NETWORKS
    noise = _noise(arguments.noise, units, n_outputs)
    task = Task(
        model,
        standard_layout(layout, units),
        observations.as_inputs(list(inputs), units.unit, linear=linear),
        noise,
        noise.least_scale(np.maximum(spread[:n_outputs], LEAST_SPREAD), exact),
        prior,
    )
    return Problem(task, standard_states(smooth, units), parameters)


def _noise(name: str, units: Units, n_outputs: int) -> Gaussian:
    """The distribution of the observations in standardised units."""
    if name == "combined":
        offset = units.shift[:n_outputs] / units.scale[:n_outputs]
        return Combined(offset, LEAST_SIZE * np.sqrt(1.0 + offset**2))
    return NOISES[name]


def standard_layout(layout: Layout, units: Units) -> Layout:
    """A layout in standardised units."""
    n, unit = layout.y.shape[1], units.unit
    return replace(
        layout,
        t0=layout.t0 / unit,
        time=layout.time / unit,
        y=np.where(layout.weights > 0.0, (layout.y - units.shift[:n]) / units.scale[:n], 1.0),
        course=replace(
            layout.course,
            spans=layout.course.spans / unit,
            times=layout.course.times / unit,
            stops=layout.course.stops / unit,
        ),
    )


def standard_states(smooth: SmoothedStates, units: Units) -> SmoothedStates:
    """Smoothed states in standardised units."""
    n = smooth.derivatives.shape[1]
    size = units.unit / units.scale[-n:]
    return replace(
        smooth,
        time=smooth.time / units.unit,
        states=units.states(smooth.states),
        derivatives=smooth.derivatives * size,
        variance=smooth.variance * size**2,
        noise=smooth.noise / units.scale[:n],
        nodes=units.states(smooth.nodes),
    )

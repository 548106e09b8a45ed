"""The user's arguments and data, as the fit takes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from skode.equations.columns import read_impulses
from skode.equations.dynamics import System, along
from skode.equations.initial import InitialStates
from skode.equations.parameters import Parameter, Scales, known_names, read_parameters
from skode.equations.sensitivities import SolverSettings
from skode.equations.shooting import Model
from skode.frames import LongRows
from skode.training import as_python


@dataclass(frozen=True)
class Clock:
    """Times as the equations have them.

    Attributes
    ----------
    kind : str
        Type of the time column.
    origin, unit : float
        Where time 0 is, and what 1 is, in the numbers that the column is read as.
    """

    kind: str
    origin: float
    unit: float

    @classmethod
    def of(cls, rows: LongRows, time_unit: str) -> Clock:
        """Numbers as they are; dates from the first one on, and time differences, in units of time."""
        if rows.time_kind == "number":
            return cls("number", 0.0, 1.0)
        origin = float(rows.time.min()) if rows.time_kind.startswith("date") else 0.0
        return cls(rows.time_kind, origin, seconds_of(time_unit))

    def read(self, rows: LongRows, column: Any) -> np.ndarray:
        """Times of rows; ValueError where they are of another type."""
        if rows.time_kind != self.kind:
            raise ValueError(f"The time column {column!r} holds a {rows.time_kind}, but held a {self.kind} in fit.")
        return (rows.time - self.origin) / self.unit


def seconds_of(time_unit: str) -> float:
    """A unit of time in seconds."""
    try:
        seconds = pd.Timedelta(1, unit=time_unit).total_seconds()  # type: ignore[arg-type]
    except ValueError as error:
        raise ValueError(f"time_unit={time_unit!r} is no unit of time of pandas, as 'D', 'h' and 's' are.") from error
    return seconds


@dataclass(frozen=True)
class Arguments:
    """The parameters of the estimator that say what the equations are; see :class:`skode.ODERegressor`."""

    rhs: Any
    params: Any
    states: Any
    observe: Any
    initial: Any
    per_series: Any
    fixed: Any
    doses: Any = None


def state_names(given: Any, outputs: Sequence[Any]) -> tuple[str, ...]:
    """Names of the states; those of the outputs where none are given."""
    if given is None:
        return tuple(str(as_python(name)) for name in outputs)
    names = [given] if isinstance(given, str) else list(given)
    if not names or not all(isinstance(name, str) for name in names) or len({*names}) != len(names):
        raise ValueError(f"states must hold names that differ, got {given!r}.")
    return tuple(names)


def observed(given: Any, states: tuple[str, ...], outputs: Sequence[Any]) -> Any:
    """Observed quantities: a function, or positions of the states."""
    if callable(given):
        return given
    if given is None:
        names = [str(as_python(name)) for name in outputs]
        if {*names} <= {*states}:
            return tuple(states.index(name) for name in names)
        if len(names) == len(states):
            return tuple(range(len(states)))
        raise ValueError(
            f"y has {len(names)} outputs, and there are {len(states)} states, {list(states)}: say which are observed "
            "by observe=, a name, a list of names or a function."
        )
    names = [given] if isinstance(given, str) else list(given)
    if unknown := [name for name in names if name not in states]:
        raise ValueError(f"observe names {unknown[0]!r}, which is not a state; they are {list(states)}.")
    if len(names) != len(outputs):
        raise ValueError(f"observe names {len(names)} states, {names}, but y has {len(outputs)} outputs.")
    return tuple(states.index(name) for name in names)


@dataclass(frozen=True)
class Reading:
    """The equations as they are fitted.

    Attributes
    ----------
    model : Model
        The equations and their unknowns.
    parameters : list of Parameter
        All parameters, those that are fixed included.
    free_states : tuple of int
        The states whose initial values are unknown, in the order of the unknowns.
    told : tuple of int
        Those of them whose start the user gave.
    """

    model: Model
    parameters: list[Parameter]
    free_states: tuple[int, ...]
    told: tuple[int, ...]


def read_model(
    arguments: Arguments, outputs: Sequence[Any], inputs: Sequence[str], settings: SolverSettings
) -> Reading:
    """The equations that an estimator's parameters describe.

    Parameters
    ----------
    arguments : Arguments
        The parameters.
    outputs : sequence
        Names of the outputs.
    inputs : sequence of str
        Names of the input columns.
    settings : SolverSettings
        How equations are solved.
    """
    parameters = read_parameters(arguments.params)
    names = [parameter.name for parameter in parameters]
    if both := [name for name in names if name in inputs]:
        raise ValueError(f"params names {both[0]!r}, which is a column of X too: rename one of them.")
    fixed = known_names(arguments.fixed, names, "fixed")
    own = known_names(arguments.per_series, names, "per_series")
    if both := [name for name in own if name in fixed]:
        raise ValueError(f"fixed and per_series both name {both[0]!r}.")
    shared = [p for p in parameters if p.name not in own and p.name not in fixed]
    estimated = shared + [p for p in parameters if p.name in own]
    states = state_names(arguments.states, outputs)
    system = System(
        rhs=arguments.rhs,
        observe=observed(arguments.observe, states, outputs),
        states=states,
        names=tuple(p.name for p in estimated),
        constants={p.name: p.start for p in parameters if p.name in fixed},
        impulses=read_impulses(arguments.doses, states, names),
    )
    initial, free, told = _initial(arguments.initial, states, [*names, *inputs], len(estimated))
    model = Model(system, Scales(estimated + free), len(shared), initial, settings)
    free_states = tuple(i for i, source in enumerate(initial.sources) if isinstance(source, int))
    return Reading(model, parameters, free_states, told)


def _initial(
    given: Any, states: tuple[str, ...], known: list[str], n_parameters: int
) -> tuple[InitialStates, list[Parameter], tuple[int, ...]]:
    """Initial states, those of them that are unknown, and the positions of these whose start is given."""
    if callable(given):
        return InitialStates(given, ()), [], ()
    if given is None:
        given = {}
    elif not isinstance(given, Mapping):
        entries = list(given) if np.iterable(given) else [given]
        if len(entries) != len(states):
            raise ValueError(f"initial has {len(entries)} entries, and there are {len(states)} states, {list(states)}.")
        given = dict(zip(states, entries, strict=True))
    if unknown := [name for name in given if name not in states]:
        raise ValueError(f"initial names {unknown[0]!r}, which is not a state; they are {list(states)}.")
    sources: list[int | float | str] = []
    free: list[Parameter] = []
    told = []
    for i, state in enumerate(states):
        entry = given.get(state)
        if isinstance(entry, str):
            if entry not in known:
                raise ValueError(
                    f"initial[{state!r}]={entry!r} is neither in params nor a column of X; these are {known}."
                )
            sources.append(entry)
        elif isinstance(entry, Real) and not isinstance(entry, bool):
            if not np.isfinite(float(entry)):
                raise ValueError(f"initial[{state!r}]={entry!r} is not finite.")
            sources.append(float(entry))
        else:
            name = f"initial {state}"
            sources.append(n_parameters + len(free))
            free.append(Parameter(name, 0.0) if entry is None else Parameter.read(name, entry, "initial"))
            told += [] if entry is None else [i]
    return InitialStates(None, tuple(sources)), free, tuple(told)


def check_functions(model: Model, u: np.ndarray, t: float, inputs: Mapping[str, Tensor], n_outputs: int) -> None:
    """See that ``rhs`` and ``observe`` have the right shape, and derivatives that autograd finds.

    Parameters
    ----------
    model : Model
        The equations.
    u : ndarray of shape (n_unknowns,)
        Scaled unknowns of a series.
    t : float
        Its start.
    inputs : dict of str to Tensor of shape (1, 1)
        Its inputs there.
    n_outputs : int
        Number of outputs of y.

    Raises
    ------
    ValueError, TypeError
        Naming ``rhs``, ``observe``, ``initial`` or ``doses``.
    """
    system, n, m = model.system, model.system.n_states, model.n_parameters
    values = torch.from_numpy(model.scales.values(u)[None])
    when = torch.tensor([[t]], dtype=torch.float64)
    with torch.no_grad():
        y0 = model.initial(system, values, inputs)
    known = torch.cat([y0, values[:, :m]], dim=1)
    size = known.abs().clamp_min(1e-3)

    def derivative(known: Tensor) -> Tensor:
        y = known[..., :n]
        before = y.detach().clone()
        value = system.derivative(when, y, system.p(known[..., n:].unbind(-1), inputs))
        if not torch.equal(y.detach(), before):
            raise ValueError("rhs(t, y, p) changes y in place; it must leave y as it is.")
        return value

    def outputs(known: Tensor) -> Tensor:
        value = system.outputs(when, known[..., :n], system.p(known[..., n:].unbind(-1), inputs))
        if value.shape[-1] != n_outputs:
            raise ValueError(f"observe(t, y, p) returns {value.shape[-1]} outputs, but y has {n_outputs}.")
        return value

    if model.initial.function is not None:
        check_derivatives(
            "initial(p)", lambda values: model.initial(system, values, inputs), values, values.abs().clamp_min(1e-3)
        )
    check_derivatives("rhs(t, y, p)", derivative, known, size)
    if callable(system.observe):
        check_derivatives("observe(t, y, p)", outputs, known, size)
    if any(map(callable, system.impulses)):
        amounts = torch.ones(1, 1, len(system.impulses), dtype=torch.float64)
        check_derivatives(
            "A function in doses, jump(amount, p)",
            lambda known: system.jump(
                amounts.expand(*known.shape[:2], -1), system.p(known[..., n:].unbind(-1), inputs)
            ),
            known,
            size,
        )


@torch.no_grad()
def check_derivatives(name: str, function: Any, known: Tensor, size: Tensor) -> None:
    """Compare directional derivatives with differences at three points; refuse those that autograd loses everywhere.

    Refuse values of another dtype, and those that depend on the other rows of a batch, too.

    Parameters
    ----------
    name : str
        The function, as the message names it.
    function : callable
        From (n, k, k) to values (n, k, n_values), of which each row should depend on its own row.
    known, size : Tensor of shape (1, k)
        Where it is looked at, and how large steps are.
    """
    k = known.shape[1]
    _check_rows(name, function, known, size)
    directions = torch.diag_embed(size)
    lost = torch.ones(k, dtype=torch.bool)
    for shift in (0.0, 0.0317, -0.0229):
        primal = (known + shift * size)[:, None].expand(1, k, k).contiguous()
        value, tangent = along(function, primal, directions)
        step = 1e-6
        ahead, behind = function(primal + step * directions), function(primal - step * directions)
        difference = (ahead - behind) / (2.0 * step)
        if not (torch.isfinite(difference).all() and torch.isfinite(tangent).all()):
            return  # what it is there the solves will tell
        noise = 1e-8 * value.abs().amax() / step * 1e-3
        wrong = (tangent - difference).abs() > 1e-2 * (difference.abs() + tangent.abs()).clamp_min(1e-300) + noise
        lost &= wrong.any(dim=2)[0]
    if lost.any():
        raise ValueError(
            f"{name} breaks autograd: its derivatives are not those of the values that it returns. Use torch's "
            "operations on the tensors that it is given, without detach(), item(), float(), NumPy or torch.tensor(...)."
        )


def _check_rows(name: str, function: Any, known: Tensor, size: Tensor) -> None:
    """Refuse values of another dtype than their arguments', and those that depend on other rows of a batch."""
    k = known.shape[1]
    rows = torch.stack([known, known + 0.0317 * size]).expand(2, k, k)
    alone = torch.cat([function(row[None].contiguous()) for row in rows])
    if alone.dtype != known.dtype:
        raise TypeError(f"{name} returned {alone.dtype}; it must return {known.dtype}, as the tensors it is given.")
    rounding = 1e-9 * float(torch.nan_to_num(alone, posinf=0.0, neginf=0.0).abs().amax())
    if not torch.allclose(function(rows.contiguous()), alone, rtol=1e-6, atol=rounding, equal_nan=True):
        raise ValueError(
            f"{name} mixes the samples of a batch: its value for one depends on others. Samples lie along all "
            "dimensions but the last one of y and of what is returned: write y[..., 0], not y[0], and sum over dim=-1 "
            "only."
        )

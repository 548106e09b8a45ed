"""Arguments of a simulation, as users pass them, and its solution."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import torch

from skode.equations.columns import Columns
from skode.equations.dynamics import Driver, System
from skode.equations.inputs import Inputs
from skode.equations.legs import solve_course
from skode.equations.sensitivities import SolverSettings
from skode.equations.shooting import course_from_start
from skode.training import to_pandas


def numbers(given: Any, name: str, *, maybe_missing: bool = False) -> np.ndarray:
    """An argument as float64, all finite but for NaN where these are allowed.

    Raises
    ------
    ValueError
        Naming the argument, where it holds other things than numbers, or rows of different lengths.
    """
    try:
        raw = np.asarray(to_pandas(given, name))
        if raw.dtype.kind in "mMSU":
            raise TypeError
        found = raw.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must hold numbers, in rows of one length, got {given!r}.") from error
    if not (np.isfinite(found) | (np.isnan(found) & maybe_missing)).all():
        raise ValueError(f"{name} holds NaN or infinity.")
    return found


def read_start(y0: Any, states: tuple[str, ...]) -> np.ndarray:
    """Initial states, of shape (n_states,) or (n, n_states)."""
    start = numbers(y0, "y0")
    if start.ndim not in (1, 2) or start.shape[-1] != len(states):
        raise ValueError(
            f"y0 must be of shape ({len(states)},) or (n, {len(states)}), for {list(states)}; got {start.shape}."
        )
    return start


def read_times(times: Any) -> np.ndarray:
    """Times in order, forward or backward."""
    t = numbers(times, "times")
    if t.ndim != 1 or not len(t) or not (np.all(np.diff(t) > 0.0) or np.all(np.diff(t) < 0.0)):
        raise ValueError(f"times must be of one dimension and in order, without repetitions, got {times!r}.")
    return t


def read_values(params: Any, names: list[str]) -> dict[str, float]:
    """Values of parameters by name."""
    if params is None:
        return {}
    if not isinstance(params, Mapping):
        raise ValueError(f"params must be a dict of names to numbers, got {params!r}.")
    if unknown := [name for name in params if name not in names]:
        raise ValueError(f"params names {unknown[0]!r}, which is not a parameter; they are {names}.")
    values = {}
    for name, value in params.items():
        number = numbers(value, f"params[{name!r}]")
        if number.ndim:
            raise ValueError(f"params[{name!r}] must be one number, got {value!r}.")
        values[name] = float(number)
    return values


def read_inputs(inputs: Any, t: np.ndarray, columns: Columns, *, linear: bool) -> Inputs | None:
    """Inputs and doses at times: by name where they have names, else in the order of the columns of X.

    Raises
    ------
    ValueError
        Where they are missing, of another shape, or doses are given to a solution that goes backward.
    """
    wanted = [name for name in columns.names if name != columns.trials]
    if inputs is None and columns.inputs:
        raise ValueError(f"inputs must hold {wanted} at the times.")
    if inputs is None or not wanted:
        if inputs is not None:
            raise ValueError("inputs are given, but the model was fitted without any.")
        return None
    given = to_pandas(inputs, "inputs")
    if isinstance(given, pd.DataFrame) and {*wanted} & {*given.columns}:
        if missing := [name for name in wanted if name not in given.columns]:
            raise ValueError(f"inputs has no column {missing[0]!r}; it must hold {wanted} at the times.")
        given = given[wanted]
    values = numbers(given, "inputs", maybe_missing=True)
    values = values[:, None] if values.ndim == 1 and len(wanted) == 1 else values
    if values.shape != (len(t), len(wanted)):
        raise ValueError(
            f"inputs must be of shape ({len(t)}, {len(wanted)}), for {wanted} at the times; got {values.shape}."
        )
    dosed = np.array([name in columns.doses for name in wanted])
    values = numbers(np.where(np.isnan(values) & dosed, 0.0, values), "inputs")
    columns = replace(columns, names=tuple(wanted), trials=None)
    order, amounts = np.argsort(t), columns.amounts_of(values)
    if len(t) > 1 and t[1] < t[0] and (amounts != 0.0).any():
        raise ValueError("inputs hold a dose, but times go backward: doses are given forward in time.")
    codes = np.zeros(len(t), dtype=np.int64)
    return Inputs.of(
        columns.inputs, codes, t[order], columns.inputs_of(values)[order], linear=linear, amounts=amounts[order]
    )


def simulated(
    system: System,
    settings: SolverSettings,
    values: list[float],
    inputs: Inputs | None,
    start: np.ndarray,
    t: np.ndarray,
) -> np.ndarray:
    """States at times from one or several initial states, of shape (n_times, n_states) or (n, n_times, n_states).

    Parameters
    ----------
    system : System
        The equations.
    settings : SolverSettings
        How they are solved.
    values : list of float
        Estimated parameters.
    inputs : Inputs or None
        Inputs and doses; the state at the time of a dose is that before it.
    start : ndarray of shape (n_states,) or (n, n_states)
        States at the first of the times.
    t : ndarray of shape (n_times,)
        Times in order.
    """
    batch = np.atleast_2d(start)
    n, series = len(batch), np.zeros(len(batch), dtype=np.int64)
    times = np.tile(t, (n, 1))
    before = None
    if inputs is not None and inputs.events is not None:
        before = inputs.events.until(np.zeros(times.shape, dtype=np.int64), times, inclusive=False)
    states, _ = solve_course(
        system,
        settings,
        (torch.tensor([values], dtype=torch.float64).repeat(n, 1), None),
        Driver(inputs, torch.from_numpy(series)),
        torch.from_numpy(np.ascontiguousarray(batch)),
        course_from_start(inputs, series, np.full(n, t[0]), times, before),
    )
    found = states[:, :, 0].numpy()
    return found[0] if start.ndim == 1 else found

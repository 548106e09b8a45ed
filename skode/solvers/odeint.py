"""``odeint``: torchdiffeq's calling convention over the same engine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from skode.solvers.engine import run
from skode.solvers.options import (
    DEFAULT_MAX_STEPS,
    DEFAULT_MEMORY_BUDGET,
    check_adjoint,
    check_count,
    check_monotone,
    check_state,
    check_times,
    step_control,
)
from skode.solvers.tableaus import get_tableau
from skode.solvers.tuple_state import pack, unpacking

OPTIONS = ("first_step", "max_step", "max_num_steps", "step_size", "memory_budget", "seminorm")


def odeint(
    func: Callable[[Tensor, Any], Any],
    y0: Any,
    t: Any,
    *,
    rtol: float = 1e-7,
    atol: float = 1e-9,
    method: str = "dopri5",
    adjoint: str = "discrete",
    options: Mapping[str, Any] | None = None,
) -> Any:
    r"""Solve ``dy/dt = func(t, y)`` from ``y(t[0]) = y0`` and return the states at all times ``t``.

    Parameters
    ----------
    func : callable
        The vector field ``func(t, y)``; see :func:`skode.solvers.solve_ivp`.
    y0 : Tensor, or tuple of Tensor
        The initial state, of any shape, float32 or float64. With a tuple, ``func`` receives and returns tuples.
    t : array-like of shape (n_times,)
        Times, strictly increasing or strictly decreasing; ``t[0]`` is the initial one.
    rtol, atol : float, default=1e-7 and 1e-9
        Relative and absolute tolerance of the local error.
    method : {"dopri5", "tsit5", "bosh3", "euler", "midpoint", "rk4"}, default="dopri5"
        The Runge-Kutta method. The last three step from each time in ``t`` to the next, or by
        ``options={"step_size": ...}``.
    adjoint : {"discrete", "continuous", "backprop"}, default="discrete"
        How gradients are computed; see :func:`skode.solvers.solve_ivp`. ``"continuous"`` is torchdiffeq's
        ``odeint_adjoint``, ``"backprop"`` its ``odeint``.
    options : dict, default=None
        ``first_step``, ``max_step``, ``max_num_steps`` (default 10,000), ``step_size``, ``memory_budget``,
        ``seminorm``: as the parameters of :func:`skode.solvers.solve_ivp`.

    Returns
    -------
    Tensor of shape (n_times, \\*y0.shape), or a tuple of them
        The states.

    Raises
    ------
    SolverError
        Where the solve can't reach the last time.
    ValueError, TypeError
        Where an argument is not as described; the message names it.

    Examples
    --------
    >>> import torch
    >>> from skode.solvers import odeint
    >>> y = odeint(lambda t, y: -y, torch.ones(2), torch.linspace(0, 1, 3))
    >>> print([f"{v:.4f}" for v in y[:, 0].tolist()])
    ['1.0000', '0.6065', '0.3679']
    """
    if isinstance(y0, tuple):
        flat, shapes = pack(y0)
        rates = unpacking(func, shapes)
        y = odeint(rates, flat, t, rtol=rtol, atol=atol, method=method, adjoint=adjoint, options=options)
        pieces = y.split([shape.numel() for shape in shapes], dim=1)
        return tuple(piece.reshape(len(y), *shape) for piece, shape in zip(pieces, shapes, strict=True))

    chosen = dict(options or {})
    unknown = sorted(set(chosen) - set(OPTIONS))
    if unknown:
        raise ValueError(f"options has unknown keys {unknown}; the known ones are {sorted(OPTIONS)}.")
    y0 = check_state(y0)
    tableau = get_tableau(method)
    times, t_tensor = check_times("t", t)
    if times.ndim != 1 or len(times) == 0:
        raise ValueError(f"t must be one-dimensional and not empty, got shape {times.shape}.")
    check_monotone("t", times)
    t0, t1 = float(times[0]), float(times[-1])
    control = step_control(
        tableau,
        t0,
        t1,
        rtol=rtol,
        atol=atol,
        first_step=chosen.get("first_step"),
        max_step=chosen.get("max_step"),
        max_steps=chosen.get("max_num_steps", DEFAULT_MAX_STEPS),
        step_size=chosen.get("step_size"),
        grid=times,
    )
    moving_times = None
    if t_tensor is not None:
        moving = t_tensor.double().cpu()
        moving_times = torch.cat([moving[:1], moving[-1:], moving])
    outputs, _, _ = run(
        func,
        y0,
        (t0, t1),
        tableau=tableau,
        control=control,
        adjoint=check_adjoint(adjoint),
        memory_budget=check_count(
            "options['memory_budget']", chosen.get("memory_budget", DEFAULT_MEMORY_BUDGET), least=0
        ),
        seminorm=bool(chosen.get("seminorm", False)),
        times=np.array(times),
        moving_times=moving_times,
        grid_is_times=not tableau.adaptive and chosen.get("step_size") is None,
    )
    return outputs

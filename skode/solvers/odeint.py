"""``odeint`` and its kin: torchdiffeq's calls over the same engine as :func:`skode.solvers.solve_ivp`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from skode.solvers.arguments.callbacks import callbacks_of
from skode.solvers.arguments.checks import check_adjoint, check_monotone, check_state, check_times
from skode.solvers.arguments.odeint_options import (
    AdjointArguments,
    check_options,
    control_of,
    interpolating,
    known_method,
    supported,
)
from skode.solvers.autocast import solves_outside_autocast
from skode.solvers.dense_output import DenseOutput
from skode.solvers.engine import solve
from skode.solvers.forward.problem import Gradients, Problem, RequestedOutputs, TimeSpan
from skode.solvers.odeint_call import OdeintCall


@solves_outside_autocast
def odeint(
    func: Callable[[Tensor, Any], Any],
    y0: Any,
    t: Any,
    *,
    rtol: Any = 1e-7,
    atol: Any = 1e-9,
    method: str | None = "dopri5",
    adjoint: str = "discrete",
    options: Mapping[str, Any] | None = None,
    event_fn: Callable[[Tensor, Any], Tensor] | None = None,
) -> Any:
    r"""Solve ``dy/dt = func(t, y)`` from ``y(t[0]) = y0`` and return the states at all times ``t``.

    Parameters
    ----------
    func : callable
        The vector field ``func(t, y)``; see :func:`skode.solvers.solve_ivp`.
    y0 : Tensor, or tuple of Tensor
        The initial state, of any shape, float32, float64, complex64 or complex128. With a tuple, ``func`` receives
        and returns tuples; real and complex parts may be mixed.
    t : array-like of shape (n_times,)
        Times, strictly increasing or strictly decreasing; ``t[0]`` is the initial one.
    rtol, atol : float or array-like, default=1e-7 and 1e-9
        Relative and absolute tolerance of the local error: of all elements, or of each where the shape broadcasts to
        that of ``y0``. With a tuple, also a tuple of such tolerances for its parts.
    method : str, default="dopri5"
        A name in :data:`skode.solvers.METHODS`, or ``"scipy_solver"``, with ``options={"solver": "LSODA"}`` for
        example, whose gradient is the continuous adjoint's. Methods of fixed steps step from each time in ``t`` to
        the next, by ``options={"step_size": ...}`` or on ``options={"grid_constructor": ...}``.
    adjoint : {"discrete", "continuous", "backprop"}, default="discrete"
        How gradients are computed; see :func:`skode.solvers.solve_ivp`. ``"continuous"`` is torchdiffeq's
        ``odeint_adjoint``, ``"backprop"`` its ``odeint``.
    options : dict, default=None
        torchdiffeq's ``first_step``, ``min_step``, ``max_step``, ``max_num_steps`` (default 10,000), ``step_t``,
        ``jump_t``, ``norm`` ("rms", "max", "mixed", or a callable over the state; of a tuple of tensors "mixed", its
        default, is the largest of their root mean squares), ``dtype`` (accepted: times are float64 always),
        ``step_size``, ``grid_constructor``, ``perturb``, ``interp`` ("linear" or "cubic", of outputs in fixed steps;
        by default these come off the method's own interpolant), ``solver``; and ``controller``, ``memory_budget``,
        ``seminorm``, ``compile`` as the parameters of :func:`skode.solvers.solve_ivp`.
    event_fn : callable, default=None
        ``event_fn(t, y)``; the solve goes on until one of its elements changes sign, whatever ``t[1]``, which only
        gives the direction. Returns ``(event_t, y)`` then; see :func:`skode.solvers.odeint_event`.

    Returns
    -------
    Tensor of shape (n_times, \*y0.shape), or a tuple of them
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
    return OdeintCall(
        func,
        y0,
        t,
        rtol=rtol,
        atol=atol,
        method=method,
        adjoint=check_adjoint(adjoint),
        options=check_options(options),
        event_fn=event_fn,
    ).solve()


def odeint_adjoint(
    func: Callable[[Tensor, Any], Any],
    y0: Any,
    t: Any,
    *,
    rtol: Any = 1e-7,
    atol: Any = 1e-9,
    method: str | None = "dopri5",
    options: Mapping[str, Any] | None = None,
    event_fn: Callable[[Tensor, Any], Tensor] | None = None,
    adjoint_rtol: float | None = None,
    adjoint_atol: float | None = None,
    adjoint_method: str | None = None,
    adjoint_options: Mapping[str, Any] | None = None,
    adjoint_params: Iterable[Tensor] | None = None,
) -> Any:
    r""":func:`odeint` with the gradient by the adjoint equation, under torchdiffeq's name and with its arguments.

    Parameters
    ----------
    func, y0, t, rtol, atol, method, options, event_fn
        As in :func:`odeint`.
    adjoint_rtol, adjoint_atol : float, default=None
        Tolerances of the adjoint equation; None: those of the solve, of several the smallest.
    adjoint_method : str, default=None
        The method that solves it; None: that of the solve.
    adjoint_options : dict, default=None
        Its ``options``; None, or nothing but a norm: those of the solve. ``norm`` is a callable over the tuple
        ``(t, y, a, *gradients)`` of the adjoint equation's state, where ``t`` is zero and a state that is a tuple is
        taken apart, or ``"seminorm"``. By default it is the largest of the solve's own norm of ``y`` and of ``a`` and
        the root mean squares of the parameters' gradients; the seminorm leaves these out.
    adjoint_params : iterable of Tensor, default=None
        The tensors whose gradients are computed, beside those of ``y0`` and ``t``; None: all that ``func`` is found to
        depend on.

    Returns
    -------
    Tensor of shape (n_times, \*y0.shape), or a tuple of them
        The states; their gradients are those of Chen, Rubanova, Bettencourt, Duvenaud, "Neural Ordinary Differential
        Equations", NeurIPS 2018, appendix C.

    Raises
    ------
    SolverError, ValueError, TypeError
        As :func:`odeint`.
    """
    return OdeintCall(
        func,
        y0,
        t,
        rtol=rtol,
        atol=atol,
        method=method,
        adjoint="continuous",
        options=check_options(options),
        event_fn=event_fn,
        backward=AdjointArguments(adjoint_rtol, adjoint_atol, adjoint_method, adjoint_options, adjoint_params),
    ).solve()


def odeint_dense(
    func: Callable[[Tensor, Tensor], Tensor],
    y0: Tensor,
    t0: Any,
    t1: Any,
    *,
    rtol: Any = 1e-7,
    atol: Any = 1e-9,
    method: str | None = "dopri5",
    options: Mapping[str, Any] | None = None,
) -> DenseOutput:
    r"""Solve ``dy/dt = func(t, y)`` from ``y(t0) = y0`` and return the solution as a function of time.

    Parameters
    ----------
    func, rtol, atol, method, options
        As in :func:`odeint`; ``method`` is one in :data:`skode.solvers.METHODS`.
    y0 : Tensor
        The initial state.
    t0, t1 : float or 0-dimensional Tensor
        The time span. It has no gradient here.

    Returns
    -------
    DenseOutput
        ``solution(t)`` is the state at a time, or the states at several, by the interpolants of the steps (see
        ``options["interp"]``). It is differentiable with respect to ``t``, ``y0`` and the tensors behind ``func``, as
        ``odeint(..., adjoint="backprop")``.

    Raises
    ------
    SolverError, ValueError, TypeError
        As :func:`odeint`.

    Examples
    --------
    >>> import torch
    >>> from skode.solvers import odeint_dense
    >>> solution = odeint_dense(lambda t, y: -y, torch.ones(1), 0.0, 1.0)
    >>> print(f"{solution(0.5).item():.4f}")
    0.6065
    """
    y0 = check_state(y0)
    times, _ = check_times("t0 and t1", [float(t0), float(t1)])
    check_monotone("t0 and t1", times)
    chosen = check_options(options)
    solver = interpolating(known_method(method), chosen)
    control = control_of(solver, func, y0, times, chosen, rtol=rtol, atol=atol)
    problem = Problem(
        func,
        y0,
        TimeSpan(*times.tolist()),
        solver,
        replace(control, callbacks=callbacks_of(func, supported(solver), solver.name)),
        RequestedOutputs(times[1:], dense=True),
        Gradients("backprop", memory_budget=0),
    )
    _, path, _ = solve(problem)
    return DenseOutput(path, float(times[0]), float(times[1]), differentiable=True)


def odeint_event(
    func: Callable[[Tensor, Any], Any],
    y0: Any,
    t0: Any,
    *,
    event_fn: Callable[[Tensor, Any], Tensor],
    reverse_time: bool = False,
    skip: float = 0.0,
    odeint_interface: Callable[..., Any] = odeint,
    **kwargs: Any,
) -> tuple[Tensor, Any]:
    r"""Solve ``dy/dt = func(t, y)`` from ``y(t0) = y0`` until an event, in torchdiffeq's convention.

    Parameters
    ----------
    func, y0
        As in :func:`skode.solvers.odeint`.
    t0 : float or 0-dimensional Tensor
        The initial time.
    event_fn : callable
        ``event_fn(t, y)``; the event is where the first of its elements changes sign. An element that is zero at
        ``t0`` takes the sign that it has right after, and is found where it comes back to zero; while it stays zero it
        plays no part. One that only rounding has put on the other side of zero, as the height of a ball that has just
        bounced, changes its sign at once: see ``skip``.
    reverse_time : bool, default=False
        Whether to go back in time.
    skip : float, default=0.0
        How long after ``t0`` no event is looked for, in the units of ``t``: signs are those at its end. It must be
        shorter than it takes to the event.
    odeint_interface : callable, default=odeint
        The function that solves; for torchdiffeq's users.
    **kwargs
        Its further arguments. ``options={"max_num_steps": ...}`` bounds the search for an event that never comes.

    Returns
    -------
    event_t : Tensor
        The time of the event; differentiable.
    y : Tensor of shape (2, \*y0.shape), or a tuple of them
        The states at ``t0`` and at the event.

    Examples
    --------
    >>> import torch
    >>> from skode.solvers import odeint_event
    >>> rate = torch.tensor(0.5, requires_grad=True)
    >>> t, y = odeint_event(lambda t, y: -rate * y, torch.ones(1), 0.0, event_fn=lambda t, y: y[0] - 0.5)
    >>> t.backward()
    >>> print(f"{t:.3f} {rate.grad:.3f}")  # log(2) / rate, -log(2) / rate^2
    1.386 -2.773

    A ball that has just bounced, which rounding has left below the ground:

    >>> bounced = torch.tensor([-1e-9, 2.0])
    >>> fall = {"event_fn": lambda t, y: y[0], "skip": 1e-3}
    >>> t, y = odeint_event(lambda t, y: torch.stack([y[1], -10 + 0 * y[1]]), bounced, 0.0, **fall)
    >>> print(f"{t:.3f}")  # 2 v / g
    0.400
    """
    if isinstance(skip, bool) or not isinstance(skip, Real) or not 0.0 <= float(skip) < math.inf:
        raise ValueError(f"skip must be a finite number >= 0, the time after t0 without events; got {skip!r}.")
    if torch.as_tensor(t0).numel() != 1:
        raise ValueError(f"t0 must be one number, the initial time; got {t0!r}.")
    direction = -1.0 if reverse_time else 1.0
    start = t0.reshape(()) if isinstance(t0, Tensor) else torch.tensor(float(t0), dtype=torch.float64)
    first = y0
    if skip:
        start = start.double()
        skipped = torch.stack([start, start + direction * skip])
        states, start = odeint_interface(func, y0, skipped, **kwargs), skipped[1]
        y0 = tuple(part[1] for part in states) if isinstance(states, tuple) else states[1]
    t = torch.stack([start, start.detach() + direction])
    event_t, y = odeint_interface(func, y0, t, event_fn=event_fn, **kwargs)
    if not skip:
        return event_t, y
    # The state at t0 rather than that where the search began.
    if isinstance(y, tuple):
        return event_t, tuple(torch.stack([own, part[1]]) for own, part in zip(first, y, strict=True))
    return event_t, torch.stack([first, y[1]])

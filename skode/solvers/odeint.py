"""``odeint``: torchdiffeq's calling convention over the same engine."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import Tensor

from skode.solvers.arguments.callbacks import callbacks_of, carry_over
from skode.solvers.arguments.checks import (
    check_adjoint,
    check_memory_budget,
    check_monotone,
    check_state,
    check_times,
    check_tolerance,
)
from skode.solvers.arguments.complex_state import RealEvent, RealField, as_complex, real_options, real_part_wise
from skode.solvers.arguments.odeint_options import (
    AdjointArguments,
    check_options,
    control_of,
    interpolating,
    known_method,
    supported,
)
from skode.solvers.arguments.tuple_state import (
    event_of_parts,
    norm_of_parts,
    pack,
    tolerance_of_parts,
    unpack,
    unpacking,
)
from skode.solvers.autocast import solves_outside_autocast
from skode.solvers.dense_output import DenseOutput
from skode.solvers.engine import run
from skode.solvers.fields.times import time_dtype_of
from skode.solvers.fields.wide_time import with_wide_time
from skode.solvers.forward.event_gradients import occurrences
from skode.solvers.forward.first_change import FirstChangeFinder
from skode.solvers.forward.problem import AS_FORWARD
from skode.solvers.forward.step_control import StepControl
from skode.solvers.scipy_solver import ScipySolver, odeint_scipy
from skode.solvers.time_gradients import Sides, moved_outputs, moved_start
from skode.solvers.tolerances import Tolerances


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
    return _solve(
        func,
        y0,
        t,
        rtol=rtol,
        atol=atol,
        method=method,
        adjoint=check_adjoint(adjoint),
        options=options,
        event_fn=event_fn,
        backward=AdjointArguments(),
    )


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
    return _solve(
        func,
        y0,
        t,
        rtol=rtol,
        atol=atol,
        method=method,
        adjoint="continuous",
        options=options,
        event_fn=event_fn,
        backward=AdjointArguments(adjoint_rtol, adjoint_atol, adjoint_method, adjoint_options, adjoint_params),
    )


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
    _, path, _ = run(
        func,
        y0,
        (float(times[0]), float(times[1])),
        tableau=solver,
        control=control_of(solver, func, y0, times, chosen, rtol=rtol, atol=atol),
        adjoint="backprop",
        memory_budget=None,
        times=times[1:],
        dense=True,
        callbacks=callbacks_of(func, supported(solver), solver.name),
    )
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
        What solves; for torchdiffeq's users.
    **kwargs
        Passed on to it. ``options={"max_num_steps": ...}`` bounds the search for an event that never comes.

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
    if skip:
        start = start.double()
        skipped = torch.stack([start, start + direction * skip])
        states, start = odeint_interface(func, y0, skipped, **kwargs), skipped[1]
        y0, first = (tuple(s[1] for s in states), y0) if isinstance(states, tuple) else (states[1], y0)
    event_t, y = odeint_interface(
        func, y0, torch.stack([start, start.detach() + direction]), event_fn=event_fn, **kwargs
    )
    if skip:  # the state at t0 rather than that where the search began
        y = (
            tuple(torch.stack([own, part[1]]) for own, part in zip(first, y, strict=True))
            if isinstance(y, tuple)
            else torch.stack([first, y[1]])
        )
    return event_t, y


def _solve(
    func: Any,
    y0: Any,
    t: Any,
    *,
    rtol: Any,
    atol: Any,
    method: Any,
    adjoint: str,
    options: Any,
    event_fn: Any,
    backward: AdjointArguments,
) -> Any:
    """Both of torchdiffeq's calls: checks, and a state that is a tuple as one tensor."""
    chosen = check_options(options)
    settings = {"method": method, "adjoint": adjoint}
    if not isinstance(y0, tuple):
        y0 = check_state(y0)
        if y0.is_complex():
            return _solve_complex(
                func, y0, t, rtol=rtol, atol=atol, options=chosen, event_fn=event_fn, backward=backward, **settings
            )
        if event_fn is None:
            return _at_times(func, y0, t, rtol=rtol, atol=atol, options=chosen, backward=backward, **settings)
        return _until_event(func, y0, t, event_fn, rtol=rtol, atol=atol, options=chosen, backward=backward, **settings)
    flat, parts = pack(y0)
    if method != "scipy_solver" or "norm" in chosen:
        chosen["norm"] = norm_of_parts(chosen.get("norm", "mixed"), parts)
    y = _solve(
        unpacking(func, parts),
        flat,
        t,
        rtol=tolerance_of_parts("rtol", rtol, flat, parts),
        atol=tolerance_of_parts("atol", atol, flat, parts),
        options=chosen,
        event_fn=None if event_fn is None else event_of_parts(event_fn, parts),
        backward=backward.of_parts(parts),
        **settings,
    )
    return unpack(y, parts) if event_fn is None else (y[0], unpack(y[1], parts))


def _solve_complex(
    func: Any, y0: Tensor, t: Any, *, rtol: Any, atol: Any, options: dict, event_fn: Any, **settings: Any
) -> Any:
    """A complex state as one of real and imaginary parts."""

    def of_parts(tolerance: Any) -> Any:
        return torch.as_tensor(tolerance).unsqueeze(-1) if np.ndim(tolerance) else tolerance

    real = RealField(func)
    carry_over(func, real, as_complex)
    y = _solve(
        real,
        real_part_wise(y0),
        t,
        rtol=of_parts(rtol),
        atol=of_parts(atol),
        options=options if settings["method"] == "scipy_solver" else real_options(options, func, y0),
        event_fn=None if event_fn is None else RealEvent(event_fn, "event_fn"),
        **settings,
    )
    return as_complex(y) if event_fn is None else (y[0], as_complex(y[1]))


def _at_times(
    func: Any,
    y0: Tensor,
    t: Any,
    *,
    rtol: Any,
    atol: Any,
    method: Any,
    adjoint: str,
    options: dict,
    backward: AdjointArguments,
) -> Tensor:
    """The states at all times ``t``."""
    times, t_tensor = check_times("t", t)
    if times.ndim != 1 or len(times) == 0:
        raise ValueError(f"t must be one-dimensional and not empty, got shape {times.shape}.")
    check_monotone("t", times)
    moving = None if t_tensor is None else t_tensor.double().cpu()
    if method == "scipy_solver":
        for suffix in ("", "_adjoint"):  # to warn of them
            callbacks_of(func, (), method, suffix=suffix)
        tolerances = Tolerances(check_tolerance("rtol", rtol, y0), check_tolerance("atol", atol, y0))
        forward = ScipySolver.of(options, tolerances)
        outputs = odeint_scipy(
            func,
            y0 if moving is None else moved_start(func, y0, moving[0], "continuous"),
            times,
            solver=forward,
            backward=backward.scipy_solver(forward),
            parameters=backward.tensors(),
        )
        return outputs if moving is None else moved_outputs(func, outputs, moving, "continuous", None, y0)
    tableau = interpolating(known_method(method), options)
    control = control_of(tableau, func, y0, times, options, rtol=rtol, atol=atol)
    way = backward.solve(func, tableau, control, options) if adjoint == "continuous" else AS_FORWARD
    callbacks = callbacks_of(func, supported(tableau), tableau.name)
    func = with_wide_time(func, float(times[0]), float(times[-1]), y0)
    sides = Sides(control.jumps, control.nudged, times[[0, -1]])
    outputs, _, _ = run(
        func,
        y0 if moving is None else moved_start(func, y0, moving[0], adjoint, sides),
        (float(times[0]), float(times[-1])),
        tableau=tableau,
        control=control,
        adjoint=adjoint,
        memory_budget=_memory_budget(options),
        times=np.array(times),
        jump_t=_moving_jumps(options, control),
        compile=bool(options.get("compile", False)),
        parameters=backward.tensors(),
        backward=way,
        callbacks=callbacks,
    )
    return outputs if moving is None else moved_outputs(func, outputs, moving, adjoint, None, y0, sides)


def _until_event(
    func: Any,
    y0: Tensor,
    t: Any,
    event_fn: Any,
    *,
    rtol: Any,
    atol: Any,
    method: Any,
    adjoint: str,
    options: dict,
    backward: AdjointArguments,
) -> tuple[Tensor, Tensor]:
    """The time of the first sign change in an element of ``event_fn``, and the states at the start and there."""
    times, t_tensor = check_times("t", t)
    if times.shape != (2,):
        raise ValueError(f"With event_fn, t must be (t0, t1), where t1 only gives the direction; got {t!r}.")
    check_monotone("t", times)
    if method == "scipy_solver":
        raise ValueError("event_fn needs one of skode.solvers.METHODS: method='scipy_solver' looks for no events.")
    tableau = interpolating(known_method(method), options)
    t0, forever = float(times[0]), math.copysign(math.inf, times[1] - times[0])
    if not tableau.adaptive and options.get("step_size") is None:
        raise ValueError(
            f"event_fn with method={method!r} needs options['step_size']: no end of time is given to divide."
        )
    control = control_of(tableau, func, y0, np.array([t0, forever]), options, rtol=rtol, atol=atol)
    way = backward.solve(func, tableau, control, options) if adjoint == "continuous" else AS_FORWARD
    callbacks = callbacks_of(func, supported(tableau), tableau.name)
    func = with_wide_time(func, t0, forever, y0)
    sides = Sides(control.jumps, control.nudged, np.array([t0, forever]))
    finder = FirstChangeFinder(event_fn, t0, y0.detach(), time_dtype_of(func, y0))
    outputs, path, _ = run(
        func,
        y0 if t_tensor is None else moved_start(func, y0, t_tensor[0].double().cpu(), adjoint, sides),
        (t0, forever),
        tableau=tableau,
        control=control,
        adjoint=adjoint,
        memory_budget=_memory_budget(options),
        times=np.array([t0]),
        jump_t=_moving_jumps(options, control),
        events=finder,
        compile=bool(options.get("compile", False)),
        parameters=backward.tensors(),
        backward=way,
        callbacks=callbacks,
    )
    exact = adjoint == "backprop"
    real_times = torch.from_numpy(path.times)
    (event_t,), (event_y,) = occurrences(finder, func, outputs, real_times, y0, exact=exact, sides=sides)
    return event_t[0], torch.stack([y0, event_y[0]])


def _moving_jumps(options: dict, control: StepControl) -> Tensor | None:
    """The times at which the field jumps, where the solve meets any and they require grad."""
    return check_times("options['jump_t']", options["jump_t"])[1] if control.jumps else None


def _memory_budget(options: dict) -> int | None:
    return check_memory_budget("options['memory_budget']", options.get("memory_budget"))

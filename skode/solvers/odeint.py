"""``odeint``: torchdiffeq's calling convention over the same engine."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import Tensor

from skode.solvers.autocast import solves_outside_autocast
from skode.solvers.complex_state import RealEvent, RealField, as_complex, real_options, real_part_wise
from skode.solvers.engine import run
from skode.solvers.events import occurrences
from skode.solvers.first_change import FirstChangeFinder
from skode.solvers.march import StepControl
from skode.solvers.options import (
    DEFAULT_MAX_STEPS,
    check_adjoint,
    check_memory_budget,
    check_monotone,
    check_state,
    check_times,
    step_control,
)
from skode.solvers.scipy_solver import odeint_scipy
from skode.solvers.tableaus import Method, get_method
from skode.solvers.times import moved_outputs, moved_start
from skode.solvers.tuple_state import event_of_parts, norm_of_parts, pack, unpack, unpacking
from skode.solvers.vector_field import time_dtype_of
from skode.solvers.wide_time import with_wide_time

# torchdiffeq's options, and skode's own.
OPTIONS = (
    *("first_step", "min_step", "max_step", "max_num_steps", "step_t", "jump_t", "norm", "dtype"),
    *("step_size", "grid_constructor", "perturb", "solver"),
    *("controller", "memory_budget", "seminorm", "compile"),
)

# What else torchdiffeq calls its methods.
ALIASES: dict[Any, str] = {None: "dopri5", "fixed_adams": "implicit_adams"}


@solves_outside_autocast
def odeint(
    func: Callable[[Tensor, Any], Any],
    y0: Any,
    t: Any,
    *,
    rtol: float = 1e-7,
    atol: float = 1e-9,
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
    rtol, atol : float, default=1e-7 and 1e-9
        Relative and absolute tolerance of the local error.
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
        ``step_size``, ``grid_constructor``, ``perturb``, ``solver``; and ``controller``, ``memory_budget``,
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
    if not isinstance(options, Mapping | None):
        raise TypeError(f'options must be a dict, such as {{"step_size": 0.1}}, or None; got {options!r}.')
    chosen = dict(options or {})
    unknown = sorted(set(chosen) - set(OPTIONS))
    if unknown:
        raise ValueError(f"options has unknown keys {unknown}; the known ones are {sorted(OPTIONS)}.")
    if isinstance(y0, tuple):
        flat, parts = pack(y0)
        chosen["norm"] = norm_of_parts(chosen.get("norm", "mixed"), parts)
        y = odeint(
            unpacking(func, parts),
            flat,
            t,
            rtol=rtol,
            atol=atol,
            method=method,
            adjoint=adjoint,
            options=chosen,
            event_fn=None if event_fn is None else event_of_parts(event_fn, parts),
        )
        if event_fn is not None:
            return y[0], unpack(y[1], parts)
        return unpack(y, parts)
    y0 = check_state(y0)
    if y0.is_complex():
        y = odeint(
            RealField(func),
            real_part_wise(y0),
            t,
            rtol=rtol,
            atol=atol,
            method=method,
            adjoint=adjoint,
            options=real_options(chosen, func, y0),
            event_fn=None if event_fn is None else RealEvent(event_fn, "event_fn"),
        )
        return as_complex(y) if event_fn is None else (y[0], as_complex(y[1]))
    if event_fn is not None:
        return _until_event(func, y0, t, event_fn, rtol=rtol, atol=atol, method=method, adjoint=adjoint, options=chosen)

    times, t_tensor = check_times("t", t)
    if times.ndim != 1 or len(times) == 0:
        raise ValueError(f"t must be one-dimensional and not empty, got shape {times.shape}.")
    check_monotone("t", times)
    moving_t = None if t_tensor is None else t_tensor.double().cpu()
    if method == "scipy_solver":
        start = y0 if moving_t is None else moved_start(func, y0, moving_t[0], "continuous")
        outputs = odeint_scipy(func, start, times, rtol=rtol, atol=atol, solver=chosen.get("solver", "LSODA"))
        return outputs if moving_t is None else moved_outputs(func, outputs, moving_t, "continuous", None, y0)
    solver = _known_method(method)
    adjoint = check_adjoint(adjoint)
    _refuse_idle(chosen, solver)
    t0, t1 = float(times[0]), float(times[-1])
    grid = times
    if chosen.get("grid_constructor") is not None:
        if chosen.get("step_size") is not None:
            raise ValueError("options must not have both step_size and grid_constructor.")
        grid = _constructed(chosen["grid_constructor"], func, y0, times)
    control = _control(solver, t0, t1, chosen, rtol=rtol, atol=atol, grid=grid)
    func = with_wide_time(func, t0, t1, y0)
    outputs, _, _ = run(
        func,
        y0 if moving_t is None else moved_start(func, y0, moving_t[0], adjoint),
        (t0, t1),
        tableau=solver,
        control=control,
        adjoint=adjoint,
        memory_budget=_memory_budget(chosen),
        seminorm=bool(chosen.get("seminorm", False)),
        times=np.array(times),
        jump_t=_moving_jumps(chosen, control),
        compile=bool(chosen.get("compile", False)),
    )
    return outputs if moving_t is None else moved_outputs(func, outputs, moving_t, adjoint, None, y0)


def odeint_adjoint(
    func: Callable[[Tensor, Any], Any],
    y0: Any,
    t: Any,
    *,
    adjoint_options: Mapping[str, Any] | None = None,
    adjoint_params: Any = None,
    options: Mapping[str, Any] | None = None,
    **kwargs: Any,
) -> Any:
    r""":func:`odeint` with the gradient by the adjoint equation, under torchdiffeq's name and with its arguments.

    The adjoint equation is solved by the method and at the tolerances of the solve itself.

    Parameters
    ----------
    func, y0, t, options, **kwargs
        As in :func:`odeint`.
    adjoint_options : dict, default=None
        ``{"norm": "seminorm"}`` leaves the parameters' gradients out of the error test.
    adjoint_params : ignored
        The tensors behind ``func`` are found without it.

    Returns
    -------
    Tensor of shape (n_times, \*y0.shape), or a tuple of them
        The states; their gradients are those of Chen, Rubanova, Bettencourt, Duvenaud, "Neural Ordinary Differential
        Equations", NeurIPS 2018, appendix C.

    Raises
    ------
    ValueError
        Where ``adjoint_options`` asks for more than the seminorm.
    TypeError
        Where torchdiffeq's ``adjoint_rtol``, ``adjoint_atol`` or ``adjoint_method`` are given.
    SolverError
        As :func:`odeint`.
    """
    if idle := sorted(name for name in kwargs if name.startswith("adjoint")):
        raise TypeError(
            f"odeint_adjoint takes no {', '.join(idle)}: the adjoint equation is solved by the method and at the "
            "tolerances of the solve itself; set these by method, rtol and atol."
        )
    settings = dict(adjoint_options or {})
    seminorm = settings.pop("norm", None)
    if settings or seminorm not in (None, "seminorm"):
        raise ValueError(f'adjoint_options may only be {{"norm": "seminorm"}}, got {adjoint_options!r}.')
    chosen = {**(options or {}), **({"seminorm": True} if seminorm else {})}
    return odeint(func, y0, t, adjoint="continuous", options=chosen, **kwargs)


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


def _until_event(
    func: Any, y0: Any, t: Any, event_fn: Any, *, rtol: Any, atol: Any, method: Any, adjoint: Any, options: dict
) -> tuple[Tensor, Tensor]:
    """The time of the first sign change in an element of ``event_fn``, and the states at the start and there."""
    times, t_tensor = check_times("t", t)
    if times.shape != (2,):
        raise ValueError(f"With event_fn, t must be (t0, t1), where t1 only gives the direction; got {t!r}.")
    check_monotone("t", times)
    solver = _known_method(method)
    adjoint = check_adjoint(adjoint)
    _refuse_idle(options, solver)
    if not solver.adaptive:
        raise ValueError(f"event_fn needs an adaptive method, not {method!r}: no end of time is given to divide.")
    t0, forever = float(times[0]), math.copysign(math.inf, times[1] - times[0])
    func = with_wide_time(func, t0, forever, y0)
    finder = FirstChangeFinder(event_fn, t0, y0.detach(), time_dtype_of(func, y0))
    control = _control(solver, t0, forever, options, rtol=rtol, atol=atol)
    outputs, path, _ = run(
        func,
        y0 if t_tensor is None else moved_start(func, y0, t_tensor[0].double().cpu(), adjoint),
        (t0, forever),
        tableau=solver,
        control=control,
        adjoint=adjoint,
        memory_budget=_memory_budget(options),
        seminorm=bool(options.get("seminorm", False)),
        times=np.array([t0]),
        jump_t=_moving_jumps(options, control),
        events=finder,
        compile=bool(options.get("compile", False)),
    )
    exact = adjoint == "backprop"
    (event_t,), (event_y,) = occurrences(finder, func, outputs, torch.from_numpy(path.times), y0, exact=exact)
    return event_t[0], torch.stack([y0, event_y[0]])


def _control(
    method: Method, t0: float, t1: float, options: dict, *, rtol: Any, atol: Any, grid: np.ndarray | None = None
) -> StepControl:
    """Step control as torchdiffeq's options say."""
    return step_control(
        method,
        t0,
        t1,
        rtol=rtol,
        atol=atol,
        norm=options.get("norm", "rms"),
        controller=options.get("controller", "I"),
        first_step=options.get("first_step"),
        min_step=options.get("min_step") or None,  # torchdiffeq's default is 0
        max_step=None if options.get("max_step") == math.inf else options.get("max_step"),
        max_steps=options.get("max_num_steps", DEFAULT_MAX_STEPS),
        step_size=options.get("step_size"),
        grid=grid,
        step_t=options.get("step_t"),
        jump_t=options.get("jump_t"),
        perturb=bool(options.get("perturb", False)),
    )


def _moving_jumps(options: dict, control: StepControl) -> Tensor | None:
    """The times at which the field jumps, where the solve meets any and they require grad."""
    return check_times("options['jump_t']", options["jump_t"])[1] if control.jumps else None


def _refuse_idle(options: dict, method: Method) -> None:
    """Refuse options that would play no part with this method."""
    idle = {"solver"} | ({"grid_constructor"} if method.adaptive else set())
    if found := sorted(idle & set(options)):
        raise ValueError(f"options {found} play no part with method={method.name!r}.")


def _known_method(name: Any) -> Method:
    """A method by skode's name, or torchdiffeq's."""
    if isinstance(name, str | None):
        name = ALIASES.get(name, name)
    return get_method(name)


def _memory_budget(options: dict) -> int | None:
    return check_memory_budget("options['memory_budget']", options.get("memory_budget"))


def _constructed(constructor: Any, func: Any, y0: Tensor, times: np.ndarray) -> np.ndarray:
    """A grid of steps made by the user's function, checked."""
    made = constructor(func, y0, torch.from_numpy(times).to(y0.device))
    grid, _ = check_times("options['grid_constructor']", made)
    check_monotone("options['grid_constructor']", grid)
    if len(grid) < 2 or not np.isclose(grid[0], times[0]) or not np.isclose(grid[-1], times[-1]):
        raise ValueError(
            f"options['grid_constructor'] must return a grid from {times[0]} to {times[-1]}, got "
            f"{len(grid)} times from {grid[0]} to {grid[-1]}."
        )
    grid[0], grid[-1] = times[0], times[-1]
    return grid

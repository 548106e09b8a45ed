"""``solve_ivp``: initial value problems in SciPy's vocabulary, batched and differentiable."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from skode.solvers.asked import AskedTimes, padded
from skode.solvers.dense_output import DenseOutput
from skode.solvers.engine import run
from skode.solvers.events import Event, EventFinder, as_events, occurrences
from skode.solvers.integrate import Path, index
from skode.solvers.options import (
    DEFAULT_MAX_STEPS,
    DEFAULT_MEMORY_BUDGET,
    check_adjoint,
    check_choice,
    check_count,
    check_state,
)
from skode.solvers.options import step_control as step_control_of
from skode.solvers.own_time import carrying_spans, on_unit_time
from skode.solvers.solution import Solution
from skode.solvers.tableaus import get_method


def solve_ivp(
    func: Callable[[Tensor, Tensor], Tensor],
    t_span: Any,
    y0: Tensor,
    *,
    method: str = "dopri5",
    t_eval: Any = None,
    dense_output: bool = False,
    events: Any = None,
    rtol: float = 1e-3,
    atol: float = 1e-6,
    norm: str | Callable[[Tensor], Tensor] = "rms",
    controller: str | tuple[float, float, float] = "I",
    step_control: str = "shared",
    adjoint: str = "discrete",
    step_size: float | None = None,
    first_step: float | None = None,
    min_step: float | None = None,
    max_step: float | None = None,
    max_steps: int = DEFAULT_MAX_STEPS,
    step_t: Any = None,
    jump_t: Any = None,
    on_failure: str = "raise",
    memory_budget: int = DEFAULT_MEMORY_BUDGET,
    seminorm: bool = False,
    compile: bool = False,
) -> Solution:
    r"""Solve ``dy/dt = func(t, y)``, ``y(t0) = y0`` for a batch, with gradients.

    Parameters
    ----------
    func : callable
        The vector field. ``func(t, y)`` receives a 0-dimensional time (where samples have times of their own: of
        shape ``(batch, 1, ..., 1)``) and a state of ``y0``'s shape, and returns a tensor of that shape, without
        changing ``y`` in place. With ``adjoint="discrete"`` and ``"continuous"`` it is evaluated again for the
        gradient, so it must not be random, nor may what it uses change in between. Modules, functions and closures
        may depend on any tensors: those that require grad are found and differentiated. A field that offers its own
        pullback (see :class:`skode.solvers.OffersPullback`) takes the fast path. With ``step_control="per_sample"``
        it must treat samples independently, and receives those that are still on their way.
    t_span : pair of float, or array-like of shape (2,) or (batch, 2)
        Initial and final time, in either order; per sample where it has two dimensions.
    y0 : Tensor of shape (\\*state) or (batch, \\*state)
        The initial state, float32 or float64.
    method : str, default="dopri5"
        A name in :data:`skode.solvers.METHODS`. Adaptive and explicit: ``adaptive_heun``, ``fehlberg2``, ``bosh3``,
        ``dopri5``, ``tsit5``, ``dopri8``; adaptive and implicit, for stiff problems: ``kvaerno3``, ``kvaerno5``. With
        steps of a fixed size: ``euler``, ``midpoint``, ``heun2``, ``heun3``, ``rk4``, ``explicit_adams``,
        ``implicit_adams``, ``implicit_euler``, ``implicit_midpoint``, ``trapezoid``, ``radauIIA3``, ``radauIIA5``,
        ``gl4``, ``gl6``, ``sdirk2``, ``trbdf2``.
    t_eval : array-like of shape (n_times,) or (batch, n_times), default=None
        Output times inside the time span. One-dimensional: strictly monotone in the direction of the span. Per
        sample: in any order, repeated if need be, padded with NaN. None: the end of every step.
    dense_output : bool, default=False
        Whether to return the solution as a function of time.
    events : callable or sequence of callable, default=None
        ``event(t, y)`` returns a 0-dimensional tensor, for an event of the whole state, or one number per sample;
        its zeros along the solution are found. Attributes ``terminal`` (bool, or after how many occurrences) and
        ``direction`` as in SciPy. Where it is per sample, ``t`` is a column of times.
    rtol, atol : float, default=1e-3 and 1e-6
        The local error of a step is kept below ``atol + rtol * abs(y)`` in the norm.
    norm : {"rms", "max", "mixed"} or callable, default="rms"
        How the elements' errors, in units of the allowed ones, become one number: the root mean square over all
        elements (over those of each sample where steps are per sample), so that with shared steps one hard sample
        among n easy ones may exceed the tolerance by up to ``sqrt(n)``; the largest; the largest over the samples of
        the root mean square within each; or what a callable returns.
    controller : {"I", "PI", "PID"} or tuple of three floats, default="I"
        How the next step size follows from the errors of the last steps: the exponents ``(b1, b2, b3)`` of
        Soderlind's digital filters [4]_.
    step_control : {"shared", "per_sample"}, default="shared"
        One step size for the batch, or one for each sample: then its result does not depend on the batch, and its
        cost is its own. Needs adaptive steps to make a difference.
    adjoint : {"discrete", "continuous", "backprop"}, default="discrete"
        How gradients are computed: exactly, for the computed solution, by a reverse sweep over the steps; by the
        adjoint differential equation, in constant memory, up to the tolerance; by autograd through the solver, the
        one that can be differentiated again.
    step_size : float, default=None
        For fixed-step methods: the largest step; the time span is divided into equal steps.
    first_step : float, default=None
        The size of the first step; chosen by the solver where None.
    min_step : float, default=None
        Steps as short as this are taken whatever their error.
    max_step : float, default=None
        The largest step allowed.
    max_steps : int, default=10_000
        Attempted steps (of a sample) after which the solve is given up.
    step_t, jump_t : array-like, default=None
        Times at which steps must end; at those in ``jump_t`` ``func`` is discontinuous: it is evaluated on the near
        side of them in each step.
    on_failure : {"raise", "nan"}, default="raise"
        Whether a solve that can't go on raises, or answers NaN from there on (for that sample where steps are per
        sample) and says so in ``status`` and ``failures``.
    memory_budget : int, default=2**28
        Bytes of stage activations that ``adjoint="discrete"`` may keep for the backward pass, for a field that
        offers its own pullback; beyond it they are recomputed.
    seminorm : bool, default=False
        Whether ``adjoint="continuous"`` leaves the parameters' gradients out of its error test, which saves steps
        (Kidger et al. 2021).
    compile : bool, default=False
        Whether to compile ``func`` by ``torch.compile``, which takes some seconds once (and, on the CPU, a C++
        compiler); for functions without a pullback of their own.

    Returns
    -------
    Solution
        With ``t``, ``y`` of shape ``t.shape + state``, ``sol``, ``t_events``, ``y_events``, ``nfev``, ``n_accepted``,
        ``n_rejected``, ``status``, ``message``, ``success``.

    Raises
    ------
    SolverError
        :class:`NonFiniteDerivativeError`, :class:`StepSizeUnderflowError`, :class:`MaxStepsError` or
        :class:`ConvergenceError`, where the solve can't reach the end of the time span.
    ValueError, TypeError
        Where an argument is not as described; the message names it.

    Notes
    -----
    Gradients flow to ``y0``, to the tensors behind ``func``, and to ``t_span`` and ``t_eval`` where they are tensors
    that require grad. Output times never move steps: they are read off the interpolant, which is less exact than the
    ends of steps, by much in stiff problems and at tight tolerances: pass times that matter so much as ``step_t`` too.
    ``kvaerno5`` evaluates ``func`` up to 0.23 steps beyond a step's end, also beyond the time span and ``jump_t``.

    References
    ----------
    .. [1] R. T. Q. Chen, Y. Rubanova, J. Bettencourt, D. Duvenaud, "Neural Ordinary Differential Equations",
       NeurIPS 2018.
    .. [2] E. Hairer, S. P. Norsett, G. Wanner, "Solving Ordinary Differential Equations I", Springer, 1993.
    .. [3] P. Kidger, R. T. Q. Chen, T. Lyons, "'Hey, that's not an ODE': Faster ODE Adjoints via Seminorms",
       ICML 2021.
    .. [4] G. Soderlind, "Digital filters in adaptive time-stepping", ACM Trans. Math. Softw. 29, 2003.

    Examples
    --------
    >>> import torch
    >>> from skode.solvers import solve_ivp
    >>> rate = torch.tensor(0.5, requires_grad=True)
    >>> solution = solve_ivp(lambda t, y: -rate * y, (0.0, 2.0), torch.ones(3), t_eval=[1.0, 2.0])
    >>> solution.y.shape
    torch.Size([2, 3])
    >>> solution.y[-1, 0].backward()
    >>> print(f"{rate.grad:.3f}")  # -2 exp(-1)
    -0.736
    """
    y0 = check_state(y0)
    chosen = get_method(method)
    adjoint = check_adjoint(adjoint)
    per_sample = check_choice("step_control", step_control, ["shared", "per_sample"]) == "per_sample"
    if per_sample and y0.ndim < 2:
        raise ValueError(
            f"step_control='per_sample' needs y0 of shape (batch, ...), got {tuple(y0.shape)}: for one number per "
            "sample pass y0[:, None]."
        )
    per_sample = per_sample and chosen.adaptive  # with fixed steps they are the same for all
    asked = AskedTimes(t_span, t_eval, y0)
    if dense_output and (asked.own_time or per_sample):
        raise ValueError("dense_output=True needs one t_span for the whole batch and step_control='shared'.")
    if asked.own_time and asked.eval_t is None and not per_sample:
        raise ValueError("t_eval is needed where t_span is per sample; pass one of shape (batch, n_times).")
    problem = _posed(func, asked, y0, as_events(events), per_sample=per_sample, continuous=adjoint == "continuous")
    control = step_control_of(
        chosen,
        *problem.span,
        rtol=rtol,
        atol=atol,
        norm=norm,
        controller=controller,
        first_step=first_step,
        min_step=min_step,
        max_step=max_step,
        max_steps=max_steps,
        step_size=step_size,
        step_t=step_t,
        jump_t=jump_t,
        per_sample=per_sample,
    )
    if control.landings and (problem.on_unit_time or problem.spans is not None):
        raise ValueError("step_t and jump_t need one t_span for the whole batch, whose times don't require grad.")
    if problem.n_carried:
        tolerances = replace(control.tolerances, norm=_without_last(problem.n_carried, control.tolerances.norm))
        control = replace(control, tolerances=tolerances)
    outputs, path, solved = run(
        problem.func,
        problem.y0,
        problem.span,
        tableau=chosen,
        control=control,
        adjoint=adjoint,
        memory_budget=check_count("memory_budget", memory_budget, least=0),
        seminorm=seminorm,
        times=None if problem.times is None else problem.times.detach().numpy().copy(),
        rows=problem.rows,
        moving_times=problem.moving_times,
        dense=dense_output,
        spans=problem.spans,
        events=problem.finder,
        on_failure=check_choice("on_failure", on_failure, ["raise", "nan"]),
        compile=compile,
    )
    outputs = problem.unpacked(outputs)
    times = problem.real_times(path)
    t, y = _reached(asked, problem, path, outputs, times)
    found = problem.finder and occurrences(problem.finder, func, outputs, times, y0)
    return Solution(
        t=t,
        y=y,
        sol=DenseOutput(path, problem.span[0], path.t_end) if dense_output else None,
        statistics=solved.statistics,
        t_events=found[0] if found else None,
        y_events=found[1] if found else None,
        status=_status(problem, path, solved.failures, len(y0) if y0.ndim else 1, per_sample=per_sample),
        failures=solved.failures if path.failure is None else {-1: path.failure},
    )


@dataclass
class _Posed:
    """A problem as the engine solves it, and the way back from its outputs to what was asked for.

    Attributes
    ----------
    func, y0, span
        What is integrated: over time itself, or over the unit interval of each sample's span.
    times : Tensor of shape (m,), float64, or None
        The output times, flat.
    rows : ndarray of shape (m,) or None
        The samples they belong to.
    present : Tensor of bool, of shape (batch, n_times), or None
        Which of the output times per sample are no padding.
    finder : EventFinder or None
        Looks for events.
    spans : ndarray of shape (batch, 2) or None
        The spans, where the engine is to use them as they are.
    on_unit_time : bool
        Whether time is that of the unit interval.
    n_carried : int
        How many elements of the state carry its span.
    spans_t : Tensor or None
        The spans, for the way back from the unit interval.
    unpack : callable or None
        Takes states with their spans apart.
    moving_times : Tensor or None
        See :func:`skode.solvers.engine.run`.
    """

    func: Callable[..., Tensor]
    y0: Tensor
    span: tuple[float, float]
    times: Tensor | None
    rows: np.ndarray | None
    present: Tensor | None
    finder: EventFinder | None
    spans: np.ndarray | None = None
    on_unit_time: bool = False
    n_carried: int = 0
    spans_t: Tensor | None = None
    unpack: Callable[[Tensor], tuple[Tensor, Tensor]] | None = None
    moving_times: Tensor | None = None

    def unpacked(self, outputs: Tensor) -> Tensor:
        """Outputs as states of the problem that was asked."""
        return outputs if self.unpack is None else self.unpack(outputs)[0]

    def real_times(self, path: Path) -> Tensor:
        """The times of all outputs."""
        times = torch.from_numpy(path.times)
        if not self.on_unit_time:
            return times
        assert self.spans_t is not None
        assert path.rows is not None
        spans = self.spans_t[torch.from_numpy(path.rows)]
        return spans[:, 0] + times * (spans[:, 1] - spans[:, 0])


def _posed(
    func: Any, asked: AskedTimes, y0: Tensor, events: list[Event], *, per_sample: bool, continuous: bool
) -> _Posed:
    """The problem as it is to be solved."""
    n = len(y0) if y0.ndim else 1
    start: Any = asked.span[..., 0]
    if asked.own_time:
        start = torch.from_numpy(start.copy()).to(y0).view(n, *[1] * (y0.ndim - 1))
    finder = EventFinder(events, start, y0.detach(), per_sample=per_sample or asked.own_time) if events else None
    rowwise = per_sample or asked.own_time or (finder is not None and finder.rowwise)
    eval_t = asked.by_sample(n) if rowwise else asked.eval_t
    if finder is not None and not finder.rowwise and eval_t is not None and eval_t.ndim == 2:
        raise ValueError("events of the whole state need a t_eval of one dimension; return one number per sample.")
    if asked.moving and finder is not None and not finder.rowwise:
        raise ValueError(
            "t_span and t_eval must not require grad where there are events of the whole state: return one number per "
            "sample, or use odeint_event, which gives the gradient of t0."
        )
    # Where times move, events of samples have to be found in times that don't.
    unit = (asked.own_time or (asked.moving and finder is not None)) and not per_sample
    # The adjoint equation is solved over one span for all.
    carried = per_sample and (asked.moving or (asked.own_time and continuous))
    problem_func, problem_y0, unpack, span = func, y0, None, asked.span
    if unit or carried:
        spans_t = asked.spans_by_sample(n)
        out_t = torch.empty((n, 0), dtype=torch.float64) if eval_t is None else eval_t
        if unit:
            problem_func, out_t = on_unit_time(func, spans_t, out_t, y0)
        else:
            problem_func, out_t, problem_y0, unpack = carrying_spans(func, spans_t, out_t, y0)
        eval_t = None if eval_t is None else out_t
        span = np.array([0.0, 1.0])
        if finder is not None:
            finder.on_unit_time(spans_t.detach(), unpack)
    present = None if eval_t is None or eval_t.ndim == 1 else ~torch.isnan(eval_t.detach())
    times = eval_t if present is None or eval_t is None else eval_t[present]
    rows = None if present is None else np.nonzero(present.numpy())[0]
    moving = None
    if asked.moving:
        ends = torch.tensor([0.0, 1.0], dtype=torch.float64) if unit or carried else asked.span_t
        known = torch.empty(0, dtype=torch.float64) if times is None else times
        moving = torch.cat([ends, known])
        moving = moving if moving.requires_grad else None
    return _Posed(
        func=problem_func,
        y0=problem_y0,
        span=(0.0, 1.0) if span.ndim == 2 else (float(span[0]), float(span[1])),
        times=times,
        rows=rows,
        present=present,
        finder=finder,
        spans=asked.span if asked.own_time and per_sample and not carried else None,
        on_unit_time=unit or carried,
        n_carried=2 if carried else 0,
        spans_t=asked.spans_by_sample(n) if unit or carried else None,
        unpack=unpack,
        moving_times=moving,
    )


def _without_last(m: int, norm: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """A norm of states without their last m elements."""

    def of_state(x: Tensor) -> Tensor:
        return norm(x[..., :-m])

    return of_state


def _reached(asked: AskedTimes, problem: _Posed, path: Path, outputs: Tensor, times: Tensor) -> tuple[Tensor, Tensor]:
    """Times and states that were asked for, up to terminal events."""
    finder = problem.finder
    if asked.eval_t is not None:
        known = outputs[: path.n_known]
        if problem.present is not None:
            known = padded(known, problem.present)
            if asked.eval_t.ndim == 1:
                known = known.transpose(0, 1)
        t = asked.eval_t.detach()
        if finder is not None and not finder.rowwise:
            kept = int((np.abs(t.numpy() - problem.span[0]) <= abs(finder.stop_times[0] - problem.span[0])).sum())
            t, known = t[:kept], known[:kept]
        return t, known
    # The ends of all steps, and the terminal events that cut the last ones short.
    found = path.readout.found
    positions = np.concatenate(found) if found else np.empty(0, dtype=np.int64)
    rows = None if path.rows is None else path.rows[positions]
    if finder is not None:
        stop = finder.stop_times[0] if rows is None else finder.stop_times[rows]
        start = problem.span[0] if problem.spans is None or rows is None else problem.spans[rows, 0]
        inside = np.abs(path.times[positions] - start) < np.abs(stop - start)
        positions = np.concatenate([positions[inside], finder.stop_positions])
    if path.rows is None:
        return times[positions].detach(), outputs[positions]
    rows = path.rows[positions]
    order = np.lexsort((np.arange(len(rows)), rows))
    counts = np.bincount(rows, minlength=len(problem.y0))
    present = torch.from_numpy(np.arange(int(counts.max(initial=0))) < counts[:, None])
    chosen = positions[order]
    return padded(times[chosen].detach(), present), padded(outputs[index(chosen, outputs)], present)


def _status(problem: _Posed, path: Path, failures: dict, n: int, *, per_sample: bool) -> int | Tensor:
    finder = problem.finder
    if not per_sample and (finder is None or not finder.rowwise):
        if path.failure is not None:
            return -1
        return int(finder is not None and bool(finder.stopped.all()))
    status = torch.zeros(n, dtype=torch.int64) if finder is None else torch.from_numpy(finder.stopped).long()
    if path.failure is not None:
        status[status == 0] = -1
    for sample in failures:
        status[sample] = -1
    return status

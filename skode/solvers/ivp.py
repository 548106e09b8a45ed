"""``solve_ivp``: initial value problems in SciPy's vocabulary, batched and differentiable."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from skode.solvers.arguments.checks import (
    check_adjoint,
    check_choice,
    check_memory_budget,
    check_state,
    check_times,
)
from skode.solvers.arguments.complex_state import RealEvent, RealField, complex_solution, real_norm, real_part_wise
from skode.solvers.arguments.formulation import formulate, moving_times, reached, status_of
from skode.solvers.arguments.requested_times import RequestedTimes
from skode.solvers.arguments.step_arguments import DEFAULT_MAX_STEPS, StepArguments
from skode.solvers.autocast import solves_outside_autocast
from skode.solvers.dense_output import DenseOutput
from skode.solvers.engine import solve
from skode.solvers.fields.samples import Compiled
from skode.solvers.fields.wide_time import with_wide_time
from skode.solvers.forward.event_gradients import occurrences
from skode.solvers.forward.events import as_events
from skode.solvers.forward.problem import BackwardSolve, Gradients, Problem, RequestedOutputs, TimeSpan
from skode.solvers.forward.times_on_device import OutsideError, OwnTimes, times_stay_on_device
from skode.solvers.solution import Solution
from skode.solvers.tableaus import get_method
from skode.solvers.time_gradients import Sides, moved_outputs, moved_start
from skode.solvers.transforms import carries_derivatives


@solves_outside_autocast
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
    memory_budget: int | None = None,
    seminorm: bool = False,
    compile: bool = False,
) -> Solution:
    r"""Solve ``dy/dt = func(t, y)``, ``y(t0) = y0`` for a batch, with gradients.

    Parameters
    ----------
    func : callable
        The vector field. ``func(t, y)`` receives a 0-dimensional time (where samples have times of their own: of
        shape ``(batch, 1, ..., 1)``) and a state of ``y0``'s shape, and returns a tensor of that shape, without
        changing ``y`` in place. With ``adjoint="continuous"``, and with ``"discrete"`` beyond ``memory_budget``, it
        is evaluated again for the gradient, so it must not be random, nor may what it uses change in between.
        Values that it stores elsewhere rather than returns have no part in the solve's gradient.
        Modules, functions and closures may depend on any tensors: those that require grad are found and
        differentiated. A field that offers its own pullback (see :class:`skode.solvers.OffersPullback`) takes the
        fast path. With ``step_control="per_sample"``
        it must treat samples independently, and receives those that are still on their way; what it is on them it
        says by a method ``take(rows)``, where it has data of each sample (see :class:`skode.solvers.TakesSamples`).
    t_span : pair of float, or array-like of shape (2,) or (batch, 2)
        Initial and final time, in either order; per sample where it has two dimensions.
    y0 : Tensor of shape (\*state) or (batch, \*state)
        The initial state, float32, float64, complex64 or complex128. Complex states are solved as pairs of real
        numbers, whose error test takes moduli; gradients follow torch's convention.
    method : str, default="dopri5"
        A name in :data:`skode.solvers.METHODS`, where each method cites its source. Adaptive and explicit are
        ``adaptive_heun``, ``fehlberg2``, ``bosh3``, ``dopri5``, ``tsit5``, ``dopri8``; adaptive and implicit, for
        stiff problems, ``kvaerno3``, ``kvaerno5``; of steps of a fixed size are ``euler``, ``midpoint``, ``heun2``,
        ``heun3``, ``rk4``, ``explicit_adams``, ``implicit_adams``, ``implicit_euler``, ``implicit_midpoint``,
        ``trapezoid``, ``radauIIA3``, ``radauIIA5``, ``gl4``, ``gl6``, ``sdirk2``, ``trbdf2``.
    t_eval : array-like of shape (n_times,) or (batch, n_times), default=None
        Output times inside the time span. One-dimensional: strictly monotone in the direction of the span. Per
        sample: in any order, repeated if need be, padded with NaN. None: the end of every step.
    dense_output : bool, default=False
        Whether to return the solution as a function of time.
    events : callable or sequence of callable, default=None
        ``event(t, y)`` returns a 0-dimensional tensor, for an event of the whole state, or one number per sample;
        its zeros along the solution are found. Attributes ``terminal`` (bool, or after how many occurrences) and
        ``direction`` as in SciPy, by which one that is zero at the start is an event there: that of a ball thrown from
        the ground is left out by ``direction = -1``. Where it is per sample, ``t`` is a column of times.
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
        adjoint differential equation, in constant memory (``kvaerno3``, ``kvaerno5``: with the steps of the solve),
        up to the tolerance; by autograd through the solver, the one that can be differentiated again, and goes with
        forward-mode AD and the transforms of ``torch.func``.
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
    memory_budget : int or None, default=None
        Bytes of stage activations, or of autograd graphs where ``func`` offers no pullback of its own, that
        ``adjoint="discrete"`` may keep for the backward pass; beyond it they are recomputed. None: 2**28, and on a
        GPU a quarter of its memory.
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
    Derivatives with respect to times are the solution's, not those of the steps that approximate it: by an output time
    that of the field there, by ``t_span[0]`` that of the initial state times minus the field there, by a time in
    ``jump_t`` that requires grad what the field jumps by. At a time that is in ``jump_t`` too the field there is that
    before it, at ``t_span[0]`` that after it. Without ``t_eval`` the ends of the first and the last step move with the
    span, those between stay. Where outputs of single samples are at times that require grad, ``func`` must treat
    samples independently.
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
    event_list = as_events(events)
    complex_y0 = y0 if y0.is_complex() else None
    if complex_y0 is not None:
        func, norm, y0 = RealField(func), real_norm(norm, complex_y0), real_part_wise(complex_y0)
        event_list = [replace(event, func=RealEvent(event.func)) for event in event_list]
    steps = StepArguments(
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
    gradients = Gradients(
        adjoint, check_memory_budget("memory_budget", memory_budget, y0.device), BackwardSolve(seminorm=seminorm)
    )
    elsewhere = {
        "events": events,
        "dense": dense_output,
        "per_sample": per_sample,
        "stops": step_t is not None or jump_t is not None,
        "failure": on_failure != "raise",
        "adjoint": adjoint != "discrete" and torch.is_grad_enabled(),
        "compile": compile,
        "complex": complex_y0 is not None,
    }
    if times_stay_on_device(t_span, t_eval, y0, chosen, elsewhere):
        unit_func, own = OwnTimes.of(func, t_span, t_eval, y0)
        try:
            problem = Problem(
                unit_func,
                y0,
                TimeSpan(0.0, 1.0),
                chosen,
                steps.control(chosen, 0.0, 1.0),
                RequestedOutputs(on_device=own),
                gradients,
            )
            outputs, _, solved = solve(problem)
        except OutsideError:
            pass  # what is wrong with the times is said below
        else:
            return Solution(t=t_eval.double().clone(), y=own.shaped(outputs), sol=None, statistics=solved.statistics)
    given = RequestedTimes(t_span, t_eval, y0 if complex_y0 is None else complex_y0)
    if dense_output and (given.own_time or per_sample):
        raise ValueError("dense_output=True needs one t_span for the whole batch and step_control='shared'.")
    if given.own_time and given.eval_t is None and not per_sample:
        raise ValueError("t_eval is needed where t_span is per sample; pass one of shape (batch, n_times).")
    func = with_wide_time(func, given.span[..., 0], given.span[..., 1], y0)
    formulation = formulate(func, given, y0, event_list, per_sample=per_sample)
    control = steps.control(chosen, formulation.span.t0, formulation.span.t1)
    if formulation.unit_spans is not None and not step_t is jump_t is None:
        raise ValueError(
            "step_t and jump_t with a t_span of each sample need step_control='per_sample': with shared steps no step "
            "ends at one time for all."
        )
    sides = Sides(control.stops.jumps, control.stops.nudged, given.span)
    start_t = given.span_t[..., 0] if carries_derivatives(given.span_t) else None
    on_failure = check_choice("on_failure", on_failure, ["raise", "nan"])
    problem = Problem(
        Compiled(formulation.func) if compile else formulation.func,
        y0 if start_t is None else moved_start(func, y0, start_t, adjoint, sides),
        formulation.span,
        chosen,
        control,
        replace(formulation.outputs, dense=dense_output, on_failure=on_failure),
        replace(gradients, jump_t=check_times("jump_t", jump_t)[1] if control.stops.jumps else None),
        formulation.finder,
    )
    outputs, path, solved = solve(problem)
    output_t = moving_times(given, formulation, path)
    if output_t is not None:
        n = len(output_t)
        rows = None if path.rows is None else path.rows[:n]
        moved = moved_outputs(func, outputs[:n], output_t, adjoint, rows, y0, sides)
        outputs = moved if n == len(outputs) else torch.cat([moved, outputs[n:]])
    t, y = reached(given, formulation, path, outputs, len(y0) if y0.ndim else 1)
    found = formulation.finder and occurrences(
        formulation.finder, func, outputs, formulation.real_times(path), y0, exact=adjoint == "backprop", sides=sides
    )
    solution = Solution(
        t=t,
        y=y,
        sol=DenseOutput(path, formulation.span.t0, path.t_end) if dense_output else None,
        statistics=solved.statistics,
        t_events=found[0] if found else None,
        y_events=found[1] if found else None,
        status=status_of(formulation, path, solved.failures, len(y0) if y0.ndim else 1, per_sample=per_sample),
        failures=solved.failures if path.failure is None else {-1: path.failure},
    )
    return solution if complex_y0 is None else complex_solution(solution)

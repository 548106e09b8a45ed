"""``solve_ivp``: initial value problems in SciPy's vocabulary, batched and differentiable."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from skode.solvers.arguments.checks import (
    check_adjoint,
    check_choice,
    check_memory_budget,
    check_state,
)
from skode.solvers.arguments.step_arguments import DEFAULT_MAX_STEPS, StepArguments
from skode.solvers.autocast import solves_outside_autocast
from skode.solvers.forward.events import as_events
from skode.solvers.forward.problem import AS_FORWARD, BackwardSolve, Gradients, RequestedOutputs
from skode.solvers.ivp_call import IvpCall
from skode.solvers.solution import Solution
from skode.solvers.tableaus import get_method


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
        the root mean square within each; or what a callable returns. With ``step_control="per_sample"`` a callable is
        called for one sample after another, unless it has a method ``of_each(x)`` for the norms of all, of shape
        (batch,).
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
    Samples with time spans of their own that share their steps take each step through the same share of their spans:
    sizes of steps (``step_size``, ``first_step``, ``min_step``, ``max_step``) are then shares of the span, not times.
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
    tableau = get_method(method)
    per_sample = check_choice("step_control", step_control, ["shared", "per_sample"]) == "per_sample"
    if per_sample and y0.ndim < 2:
        raise ValueError(
            f"step_control='per_sample' needs y0 of shape (batch, ...), got {tuple(y0.shape)}: for one number per "
            "sample pass y0[:, None]."
        )
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
        per_sample=per_sample and tableau.adaptive,  # with fixed steps they are the same for all
    )
    budget = check_memory_budget("memory_budget", memory_budget, y0.device)
    return IvpCall(
        func,
        t_span,
        y0,
        t_eval,
        tableau,
        steps,
        Gradients(check_adjoint(adjoint), budget, BackwardSolve(seminorm=seminorm) if seminorm else AS_FORWARD),
        RequestedOutputs(dense=dense_output, on_failure=check_choice("on_failure", on_failure, ["raise", "nan"])),
        as_events(events),
        compile,
    ).solve()

"""``solve_ivp``: initial value problems in SciPy's vocabulary, batched and differentiable."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from skode.solvers.dense_output import DenseOutput
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
from skode.solvers.own_time import on_unit_time
from skode.solvers.solution import Solution
from skode.solvers.tableaus import get_tableau


def solve_ivp(
    func: Callable[[Tensor, Tensor], Tensor],
    t_span: Any,
    y0: Tensor,
    *,
    method: str = "dopri5",
    t_eval: Any = None,
    dense_output: bool = False,
    rtol: float = 1e-3,
    atol: float = 1e-6,
    adjoint: str = "discrete",
    step_size: float | None = None,
    first_step: float | None = None,
    max_step: float | None = None,
    max_steps: int = DEFAULT_MAX_STEPS,
    memory_budget: int = DEFAULT_MEMORY_BUDGET,
    seminorm: bool = False,
) -> Solution:
    r"""Solve ``dy/dt = func(t, y)``, ``y(t0) = y0`` for a batch, with gradients.

    Parameters
    ----------
    func : callable
        The vector field. ``func(t, y)`` receives a 0-dimensional time (per-sample spans: of shape
        ``(batch, 1, ..., 1)``) and a state of ``y0``'s shape, and returns a tensor of that shape, without changing
        ``y`` in place. With ``adjoint="discrete"`` and ``"continuous"`` it is evaluated again for the gradient, so it
        must not be random, nor may what it uses change in between. Modules, functions
        and closures may depend on any tensors: those that require grad are found and differentiated. A field that
        offers its own pullback (see :class:`skode.solvers.OffersPullback`) takes the fast path.
    t_span : pair of float, or array-like of shape (2,) or (batch, 2)
        Initial and final time, in either order; per sample where it has two dimensions.
    y0 : Tensor of shape (\\*state) or (batch, \\*state)
        The initial state, float32 or float64.
    method : {"dopri5", "tsit5", "bosh3", "euler", "midpoint", "rk4"}, default="dopri5"
        The Runge-Kutta method; the last three take steps of a fixed size.
    t_eval : array-like of shape (n_times,) or (batch, n_times), default=None
        Output times inside the time span. One-dimensional: strictly monotone in the direction of the span. Per
        sample: in any order, repeated if need be, padded with NaN. None: the end of every step.
    dense_output : bool, default=False
        Whether to return the solution as a function of time.
    rtol, atol : float, default=1e-3 and 1e-6
        The local error of a step is kept below ``atol + rtol * abs(y)`` in the root mean square over all elements of
        the batch, as in torchdiffeq: one hard sample among n easy ones may exceed it by up to ``sqrt(n)``.
    adjoint : {"discrete", "continuous", "backprop"}, default="discrete"
        How gradients are computed: exactly, for the computed solution, by a reverse sweep over the steps; by the
        adjoint differential equation, in constant memory, up to the tolerance; by autograd through the solver.
    step_size : float, default=None
        For fixed-step methods: the largest step; the time span is divided into equal steps.
    first_step : float, default=None
        The size of the first step; chosen by the solver where None.
    max_step : float, default=None
        The largest step allowed.
    max_steps : int, default=10_000
        Attempted steps after which the solve is given up.
    memory_budget : int, default=2**28
        Bytes of stage activations that ``adjoint="discrete"`` may keep for the backward pass, for a field that
        offers its own pullback; beyond it they are recomputed.
    seminorm : bool, default=False
        Whether ``adjoint="continuous"`` leaves the parameters' gradients out of its error test, which saves steps
        (Kidger et al. 2021).

    Returns
    -------
    Solution
        With ``t``, ``y`` of shape ``t.shape + state``, ``sol``, ``nfev``, ``n_accepted``, ``n_rejected``,
        ``status``, ``message``, ``success``.

    Raises
    ------
    SolverError
        :class:`NonFiniteDerivativeError`, :class:`StepSizeUnderflowError` or :class:`MaxStepsError`, where the solve
        can't reach the end of the time span.
    ValueError, TypeError
        Where an argument is not as described; the message names it.

    Notes
    -----
    Gradients flow to ``y0``, to the tensors behind ``func``, and to ``t_span`` and ``t_eval`` where they are tensors
    that require grad. Output times never move steps: they are read off the interpolant.

    References
    ----------
    .. [1] R. T. Q. Chen, Y. Rubanova, J. Bettencourt, D. Duvenaud, "Neural Ordinary Differential Equations",
       NeurIPS 2018.
    .. [2] E. Hairer, S. P. Norsett, G. Wanner, "Solving Ordinary Differential Equations I", Springer, 1993.
    .. [3] P. Kidger, R. T. Q. Chen, T. Lyons, "'Hey, that's not an ODE': Faster ODE Adjoints via Seminorms",
       ICML 2021.

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
    tableau = get_tableau(method)
    adjoint = check_adjoint(adjoint)
    memory_budget = check_count("memory_budget", memory_budget, least=0)
    span, span_tensor = check_times("t_span", t_span)
    if span.shape not in ((2,), (len(y0) if y0.ndim else 0, 2)):
        raise ValueError(
            f"t_span must be a pair (t0, t1), or of shape (batch, 2), got shape {span.shape} for y0 of shape "
            f"{tuple(y0.shape)}."
        )
    if not np.isfinite(span).all():
        raise ValueError(f"t_span contains NaN or infinity: {t_span!r}.")
    times, times_tensor = (None, None) if t_eval is None else check_times("t_eval", t_eval)
    own_time = span.ndim == 2
    if own_time and times is None:
        raise ValueError("t_eval is needed where t_span is per sample; pass one of shape (batch, n_times).")
    if own_time and dense_output:
        raise ValueError("dense_output=True needs one t_span for the whole batch.")
    if times is not None:
        _check_eval_times(times, span, y0)
        if own_time and times.ndim == 1:
            times = np.broadcast_to(times, (len(y0), len(times)))
            times_tensor = None if times_tensor is None else times_tensor.expand(len(y0), -1)

    # The times as the user's differentiable tensors, or as plain numbers where none requires grad.
    moving = span_tensor is not None or times_tensor is not None
    span_t = span_tensor.double().cpu() if span_tensor is not None else torch.from_numpy(span)
    eval_t = times_tensor.double().cpu() if times_tensor is not None else None
    if eval_t is None and times is not None:
        eval_t = torch.from_numpy(np.array(times))
    out_t = torch.empty(0, dtype=torch.float64) if eval_t is None else eval_t
    if own_time:
        func, out_t = on_unit_time(func, span_t, out_t, y0)
        span, span_t = np.array([0.0, 1.0]), torch.tensor([0.0, 1.0], dtype=torch.float64)

    present = ~torch.isnan(out_t.detach())
    flat_t = out_t[present] if out_t.ndim == 2 else out_t
    rows = np.nonzero(present.numpy())[0] if out_t.ndim == 2 else None
    t0, t1 = float(span[0]), float(span[1])
    control = step_control(
        tableau,
        t0,
        t1,
        rtol=rtol,
        atol=atol,
        first_step=first_step,
        max_step=max_step,
        max_steps=max_steps,
        step_size=step_size,
    )
    outputs, path, statistics = run(
        func,
        y0,
        (t0, t1),
        tableau=tableau,
        control=control,
        adjoint=adjoint,
        memory_budget=memory_budget,
        seminorm=seminorm,
        times=None if times is None else flat_t.detach().numpy().copy(),
        rows=rows,
        moving_times=torch.cat([span_t, flat_t]) if moving else None,
        dense=dense_output,
    )
    if out_t.ndim == 2:
        outputs = _padded(outputs, present)
    solution_t = torch.from_numpy(path.times) if eval_t is None else eval_t.detach()
    sol = DenseOutput(path, tableau, t0, t1) if dense_output else None
    return Solution(t=solution_t, y=outputs, sol=sol, statistics=statistics)


def _check_eval_times(times: np.ndarray, span: np.ndarray, y0: Tensor) -> None:
    low, high = span.min(axis=-1), span.max(axis=-1)
    if times.ndim == 1:
        check_monotone("t_eval", times)
        if span.ndim == 1 and len(times) > 1 and (times[-1] - times[0]) * (span[1] - span[0]) < 0:
            raise ValueError("t_eval must be sorted in the direction of t_span.")
        inside = (times >= np.max(low, initial=-np.inf)) & (times <= np.min(high, initial=np.inf))
    elif times.ndim == 2 and y0.ndim and len(times) == len(y0):
        if np.isinf(times).any():
            raise ValueError("t_eval contains infinity (NaN marks padding).")
        inside = np.isnan(times) | ((low <= times.T) & (high >= times.T)).T
    else:
        raise ValueError(
            f"t_eval must be of shape (n_times,) or (batch, n_times), got {times.shape} for y0 of shape "
            f"{tuple(y0.shape)}."
        )
    if not inside.all():
        outside = times[~inside].ravel()[0]
        raise ValueError(f"t_eval must lie inside t_span; {outside} does not.")


def _padded(outputs: Tensor, present: Tensor) -> Tensor:
    r"""Outputs of single samples as one tensor of shape (batch, n_times, \\*state), NaN where there is none."""
    positions = torch.zeros(present.shape, dtype=torch.int64)
    positions[present] = torch.arange(1, len(outputs) + 1)
    positions = positions.to(outputs.device)
    nothing = outputs.new_full((1, *outputs.shape[1:]), torch.nan)
    return torch.cat([nothing, outputs])[positions]

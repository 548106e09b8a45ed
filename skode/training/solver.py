"""The solver as estimators and their objectives use it: settings, counts and error messages in one object."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Self

import torch
from torch import Tensor

from skode.distributed.share import Share
from skode.solvers import (
    ButcherTableau,
    NonFiniteDerivativeError,
    Solution,
    SolverError,
    Statistics,
    get_method,
    solve_ivp,
)
from skode.solvers.tolerances import SharedNorm
from skode.training.failures import ADVICE, in_terms_of_parameters

#: Number of steps that a fixed-step method takes over a unit of time where ``step_size`` is None.
DEFAULT_FIXED_STEPS = 10

#: A solve that needs more steps than this is given up: the dynamics are far from anything that could be learned.
MAX_STEPS = 1000


@dataclass
class Solver:
    """Solves initial value problems with one method and one set of tolerances.

    Parameters
    ----------
    method : str, default="dopri5"
        One of :data:`skode.solvers.METHODS`.
    rtol, atol : float
        Relative and absolute tolerance.
    adjoint : {"discrete", "continuous", "backprop"}, default="discrete"
        How gradients are computed; see :func:`skode.solvers.solve_ivp`.
    step_size : float or None, default=None
        Step size of fixed-step methods; None: a tenth of a unit of time. Adaptive methods ignore it.
    step_control : {"shared", "per_sample"} or None, default=None
        Whether all samples take the same steps. None: they do where gradients are recorded, since shared steps are
        fewer; elsewhere each sample takes its own, so that its solution does not depend on the rest of the batch.
    on_failure : {"raise", "nan"}, default="raise"
        Whether a sample that cannot be solved raises an error or has NaN as its states.
    max_steps : int, default=1000
        Largest number of steps.
    reuse_step_size : bool, default=False
        Whether the first step of a solve is as long as the mean step of the last one. In training most steps then fit
        at once.
    solves : list of Statistics or None, default=None
        Statistics of the solves so far, shared with the solvers made by :meth:`replace`; None: they are not counted.
    share : Share or None, default=None
        The share of a batch that is solved for, where other processes solve for the rest. Steps that all samples take
        are then the same in all processes. Methods that decide by more than the error of a step, and adjoints with
        steps of their own, go without: there each process takes the steps that suit its samples.

    Attributes
    ----------
    first_step : float or None
        First step of the next solve, with ``reuse_step_size``.
    """

    method: str = "dopri5"
    rtol: float = 1e-3
    atol: float = 1e-6
    adjoint: str = "discrete"
    step_size: float | None = None
    step_control: str | None = None
    on_failure: str = "raise"
    max_steps: int = MAX_STEPS
    reuse_step_size: bool = False
    solves: list[Statistics] | None = None
    share: Share | None = None
    first_step: float | None = field(default=None, init=False)

    def replace(self, **options: Any) -> Self:
        """A solver with other options, which counts its solves together with those of this one."""
        return dataclasses.replace(self, **options)

    def counting(self, **options: Any) -> Self:
        """A solver with a count of its own, and other options where given."""
        return dataclasses.replace(self, solves=[], **options)

    def with_share(self, share: Share | None) -> Self:
        """The same solver, which from now on solves for a share of a batch, or for all of it."""
        self.share = share
        return self

    def state(self) -> float | None:
        """First step of the next solve."""
        return self.first_step

    def go_on_from(self, state: float | None) -> None:
        """Set the first step of the next solve."""
        self.first_step = state

    def __call__(
        self,
        func: Callable[[Any, Tensor], Tensor],
        t_span: tuple[float, float] | Tensor,
        y0: Tensor,
        t_eval: Any = None,
        first_step: float | None = None,
    ) -> Solution:
        """Solve ``dy/dt = func(t, y)``; arguments and solution are those of :func:`skode.solvers.solve_ivp`.

        Raises
        ------
        SolverError
            If the problem cannot be solved, with advice on the parameters of estimators.
        """
        method = get_method(self.method)
        adaptive = method.adaptive
        if first_step is None:
            first_step = self.first_step
        step_size = 1.0 / DEFAULT_FIXED_STEPS if self.step_size is None else self.step_size
        step_control = self.step_control or ("shared" if torch.is_grad_enabled() else "per_sample")
        norm: Any = "rms"
        # Newton's iterations are not decided by the error of a step alone.
        explicit = isinstance(method, ButcherTableau) and not method.implicit
        if self.share is not None and step_control == "shared" and self.adjoint != "continuous" and explicit:
            norm = SharedNorm(self.share.total)
        try:
            solution = solve_ivp(
                func,
                t_span,
                y0,
                t_eval=t_eval,
                method=self.method,
                rtol=self.rtol,
                atol=self.atol,
                adjoint=self.adjoint,
                step_size=None if adaptive else step_size,
                first_step=first_step if adaptive else None,
                max_steps=self.max_steps,
                norm=norm,
                step_control=step_control,
                on_failure=self.on_failure,
            )
        except SolverError as error:
            raise in_terms_of_parameters(error, adaptive=adaptive) from None
        except ValueError:
            if bool(torch.isfinite(y0).all()):
                raise
            raise NonFiniteDerivativeError(
                "The state from which the ODE starts is NaN or infinite",
                time=float(t_span[0]) if isinstance(t_span, tuple) else math.nan,
                step_size=math.nan,
                advice=ADVICE[NonFiniteDerivativeError],
            ) from None
        if self.solves is not None:
            self.solves.append(solution.statistics)
        if self.reuse_step_size:
            # Spans of samples are solved as one span of length 1.
            length = abs(t_span[1] - t_span[0]) if isinstance(t_span, tuple) else 1.0
            self.first_step = length / max(solution.statistics.n_accepted, 1)
        return solution

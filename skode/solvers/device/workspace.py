"""The memory that all recordings of one kind of problem read from and write to."""

from __future__ import annotations

import torch
from torch import Tensor

from skode.solvers.device.attempts import Attempts, Moment
from skode.solvers.device.control import Controls
from skode.solvers.device.field_memory import field_inputs
from skode.solvers.device.reverse import ReverseMemory
from skode.solvers.fields.protocols import Field
from skode.solvers.forward.problem import Problem
from skode.solvers.tableaus import runge_kutta


class Workspace:
    """The state, the clock and the inputs of a solve, at addresses that stay the same.

    Parameters
    ----------
    field : Field
        The vector field, over parameters and inputs that stay where they are.
    like : Tensor
        A state.
    problem : Problem
        For the method and the error test.
    direction : float
        1 or -1, the direction of time.
    pullable : bool
        Whether steps are to be pulled back.

    Attributes
    ----------
    moment : Moment
        The present state, first derivative and clock.
    attempts : Attempts
        The arithmetic of a step.
    finds_first_step : bool
        Whether the size of the first step is found by the solver.
    reverse : ReverseMemory
        The memory of the reverse sweep.
    """

    def __init__(self, field: Field, like: Tensor, problem: Problem, direction: float, *, pullable: bool) -> None:
        tableau, control = runge_kutta(problem.tableau), problem.control
        self.field, self.shape, self.device = field, like.shape, like.device
        self.inputs = list(field_inputs(field))
        # Time, size of the next step, ratios of the last two accepted ones, rejected; the end.
        self.clock = torch.zeros(6, dtype=torch.float64, device=like.device)
        self.numbers = torch.zeros(6, dtype=torch.float64, pin_memory=like.device.type == "cuda")
        y = torch.zeros_like(like, memory_format=torch.contiguous_format)
        first = torch.zeros_like(y.view(-1)) if tableau.fsal else None
        *clock, t1 = self.clock.unbind()
        self.moment = Moment(y, first, tuple(clock))  # type: ignore[arg-type]
        controls = Controls.of(control, tableau.error_order, direction)
        self.attempts = Attempts(tableau, field, y, control.tolerances, controls, t1, pullable=pullable)
        self.finds_first_step = control.sizes.first_step is None
        self.reverse = ReverseMemory(y, field.parameters)

    def start(self, y0: Tensor, inputs: list[Tensor], t0: float, first_step: float | None, t1: float) -> None:
        """Begin a solve."""
        # The last copy from these numbers is over: the solve that made it has waited for its outcome.
        for i, number in enumerate((t0, first_step or 0.0, 1.0, 1.0, 0.0, t1)):
            self.numbers[i] = number
        with torch.no_grad():
            self.clock.copy_(self.numbers, non_blocking=True)
            self.moment.y.copy_(y0)
            if inputs:
                torch._foreach_copy_(self.inputs, inputs)

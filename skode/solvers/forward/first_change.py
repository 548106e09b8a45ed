"""The event of torchdiffeq's convention: where the first element of a function changes its sign.

An element that is zero at the start has no sign there. It takes the one that it has soon after, so that a ball thrown
from the ground is found where it comes back; while it stays zero it plays no part, and hides no other element.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from skode.solvers.forward.accepted_step import AcceptedStep
from skode.solvers.forward.events import Event, EventFinder, check_event_value
from skode.solvers.forward.output_times import Positions, Reading

#: Places in a step at which an element that was zero at its start is evaluated for its sign.
LOOKS = (0.01, 0.1, 1.0)


class FirstChangeFinder(EventFinder):
    """Finds the first change of sign, which ends the solve.

    Parameters
    ----------
    event_fn : callable
        ``event_fn(t, y)``, a tensor of any shape.
    t0 : float
        The initial time.
    y0 : Tensor
        The initial state.
    time_dtype : dtype
        The dtype of the times that ``event_fn`` receives.
    """

    def __init__(
        self, event_fn: Callable[[Tensor, Tensor], Tensor], t0: float, y0: Tensor, time_dtype: torch.dtype
    ) -> None:
        self.event_fn = event_fn
        with torch.no_grad():
            start = event_fn(torch.as_tensor(t0, dtype=time_dtype, device=y0.device), y0)
            check_event_value(start)
            self.signs = torch.sign(start)
        self.leaving = torch.zeros_like(self.signs, dtype=torch.bool)  # elements whose sign was found in this step
        super().__init__([Event(self.least, -1.0, 1)], t0, y0, per_sample=False, time_dtype=time_dtype)

    def least(self, t: Tensor, y: Tensor) -> Tensor:
        """The least element, each with the sign that makes it positive at first: zero at the first change of sign."""
        values = self.event_fn(t, y) * self.signs
        none_yet = (self.signs == 0) | (self.leaving & (values.detach() == 0))
        return torch.where(none_yet, torch.inf, values).min()

    def in_step(self, step: AcceptedStep, positions: Positions) -> tuple[list[Reading], np.ndarray]:
        if bool((self.signs == 0).any()):
            self._look_for_signs(step)
        found = super().in_step(step, positions)
        self.leaving = torch.zeros_like(self.leaving)
        return found

    @torch.no_grad()
    def _look_for_signs(self, step: AcceptedStep) -> None:
        """Find the signs of elements that have had none, from their values in this step."""
        for look in LOOKS:
            at: Any = np.array([look])
            t = self._time(step.t + at * (step.t_next - step.t), step.taken.y)
            y = step.taken.y_next.detach() if look == 1.0 else self._state(step, at)
            signs = torch.where(self.signs == 0, torch.sign(self.event_fn(t, y)), self.signs)
            self.leaving |= signs != self.signs
            self.signs = signs

"""A step as it is taken and pulled back: records, and the times of its stages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from skode.solvers.fields.protocols import Tape
from skode.solvers.nearest_time import nearest_time
from skode.solvers.tableaus import ButcherTableau

# A step size is a float, or a column of them where every sample takes its own steps.
StepSize = float | Tensor
# Whether the field is to be evaluated just inside the start and the end of a step, not at them; see `stage_time`.
Edges = tuple[bool | Tensor, bool | Tensor]
NO_EDGES: Edges = (False, False)


@dataclass(slots=True)
class TakenStep:
    """An accepted step, with everything needed to read outputs off it and to pull it back.

    Attributes
    ----------
    t, h : float, or ndarray and column Tensor
        Start and size; of each sample that took the step where steps are per sample.
    y, y_next : Tensor
        The states at its start and end.
    stages : Tensor of shape (s, n)
        The stages' derivatives; a view of the stepper's buffer until ``stepper.accept`` is called.
    tableau : ButcherTableau
        The formula that was used.
    tape : Tape or None
        The evaluations that the step made, where they are kept.
    edges : tuple of two bool
        Whether evaluations at the very start and end are nudged into the step.
    begins : bool
        Whether it took over nothing from the steps before it, though the method would.
    unsolved : ndarray of bool or None
        The blocks of the state (samples, or the whole) whose equations an implicit method did not solve.
    lasting : bool
        Whether its memory is its own for as long as anything refers to its tape.
    place : tuple of (graph, index) or None
        Where it stands in an autograd graph that goes through several steps.
    """

    t: Any
    h: Any
    y: Tensor
    y_next: Tensor
    stages: Tensor | None
    tableau: ButcherTableau
    tape: Tape | None
    edges: Edges = NO_EDGES
    begins: bool = False
    unsolved: np.ndarray | None = None
    lasting: bool = False
    place: tuple[Any, int] | None = None

    def part(self, these: Tensor) -> TakenStep:
        """The same step of some samples only, without its tape."""
        assert self.stages is not None
        stages = self.stages.view(len(self.stages), *self.y.shape)[:, these].flatten(1)
        h = self.h[these] if isinstance(self.h, Tensor) else self.h
        start, end = (edge[these] if isinstance(edge, Tensor) else edge for edge in self.edges)
        return TakenStep(self.t[these], h, self.y[these], self.y_next[these], stages, self.tableau, None, (start, end))


class SeparateStages(TakenStep):
    """A step whose stages are tensors by themselves, stacked as rows only where they are read.

    Those of fixed steps without outputs inside them are not.
    """

    __slots__ = ("_rows", "_separate")
    _rows: Tensor | None
    _separate: list[Tensor]

    @property
    def stages(self) -> Tensor | None:
        """The stages as rows, flattened."""
        if not self._separate:
            return self._rows
        rows = torch.stack(self._separate).view(len(self._separate), -1)
        if torch.is_grad_enabled():  # else without the graph that others may want
            self.stages = rows
        return rows

    @stages.setter
    def stages(self, stages: Any) -> None:
        self._separate, self._rows = (stages, None) if isinstance(stages, list) else ([], stages)


@dataclass(slots=True)
class PulledStep:
    """Cotangents that one step hands back.

    Attributes
    ----------
    y : Tensor
        Of the state at its start.
    carried : Tensor of shape (r, n) or None
        Of the derivatives that it took over from the steps before.
    """

    y: Tensor
    carried: Tensor | None


def changed_field() -> RuntimeError:
    """The error of a field that is not what it was in the solve."""
    return RuntimeError(
        "func(t, y) gave other values when it was evaluated again for the gradient: it is random (dropout in "
        "training mode?) or something that it uses has changed since the solve. adjoint='backprop' "
        "evaluates it only once."
    )


def stage_time(t: Any, h: Any, c: float, edges: Edges, dtype: torch.dtype) -> Any:
    """``t + c h``, or one unit in the last place of the dtype inside the step, so as not to touch a discontinuity.

    ``edges`` says for the start and the end of the step whether it is to be inside: by booleans, or columns of them.
    """
    time = t + c * h
    edge, inwards = (edges[0], 1.0) if c == 0.0 else (edges[1], -1.0) if c == 1.0 else (False, 0.0)
    if edge is False:
        return time
    exact, nudged = nearest_time(time, h * inwards, dtype)
    if isinstance(edge, Tensor):
        return torch.where(edge, nudged, time)
    return time + (nudged - exact) if isinstance(time, Tensor) else float(nudged)

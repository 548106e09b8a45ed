"""The result of :func:`skode.solvers.solve_ivp`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from skode.solvers.dense_output import DenseOutput
from skode.solvers.errors import SolverError
from skode.solvers.statistics import Statistics

MESSAGES = {
    0: "The solver successfully reached the end of the integration interval.",
    1: "A termination event occurred.",
    -1: "The solve could not be finished.",
}


@dataclass(frozen=True)
class Solution:
    r"""The solution of an initial value problem, in SciPy's words.

    Attributes
    ----------
    t : Tensor of shape (n_times,) or (batch, n_times)
        The output times, float64: ``t_eval``, or the ends of all steps (where steps are per sample, of each sample's).
        Padding stays NaN.
    y : Tensor of shape (n_times, \*y0.shape) or (batch, n_times, \*y0.shape[1:])
        The states there, NaN where ``t`` is, and where the solve ended before. Differentiable as ``adjoint`` says.
    sol : DenseOutput or None
        The solution as a function of time, if ``dense_output`` is true.
    statistics : Statistics
        All counts, also those of the backward pass once it has run.
    t_events : list of Tensor, or None
        For each event, the times of its occurrences, of shape (n,), or (batch, n) padded with NaN where it is one of
        samples. Differentiable.
    y_events : list of Tensor, or None
        The states there, of shape (n, \*y0.shape) or (batch, n, \*y0.shape[1:]).
    status : int, or Tensor of shape (batch,)
        0: the end of the time span was reached, 1: a terminal event was met, -1: the solve failed (only with
        ``on_failure="nan"``). Per sample where steps or events are.
    failures : dict
        Why it failed: the error by sample, or for the whole state under the key -1.
    """

    t: Tensor
    y: Tensor
    sol: DenseOutput | None
    statistics: Statistics
    t_events: list[Tensor] | None = None
    y_events: list[Tensor] | None = None
    status: int | Tensor = 0
    failures: dict[int, SolverError] = field(default_factory=dict)

    @property
    def success(self) -> bool | Tensor:
        """Whether the end of the time span, or a terminal event, was reached."""
        return self.status >= 0

    @property
    def message(self) -> str:
        """The status in words; with the reason for the first failure."""
        if self.failures:
            return str(next(iter(self.failures.values())))
        return MESSAGES[int(self.status.max()) if isinstance(self.status, Tensor) else self.status]

    @property
    def nfev(self) -> int | Tensor:
        """Evaluations of ``func`` in the forward solve; those that each sample took part in where steps are its own."""
        return self._count(0, self.statistics.nfev)

    @property
    def n_accepted(self) -> int | Tensor:
        """Accepted steps."""
        return self._count(1, self.statistics.n_accepted)

    @property
    def n_rejected(self) -> int | Tensor:
        """Rejected steps."""
        return self._count(2, self.statistics.n_rejected)

    def _count(self, i: int, whole: int) -> int | Tensor:
        by_sample = self.statistics.by_sample
        return whole if by_sample is None else torch.from_numpy(by_sample[i])


#: A solver of which everything but the field, the span and the state may have been chosen before.
Solve = Callable[..., Solution]

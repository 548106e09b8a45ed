"""What :func:`skode.solvers.solve_ivp` returns."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from skode.solvers.dense_output import DenseOutput
from skode.solvers.statistics import Statistics


@dataclass(frozen=True)
class Solution:
    r"""The solution of an initial value problem, in SciPy's words.

    Attributes
    ----------
    t : Tensor of shape (n_times,) or (batch, n_times)
        The output times, float64: ``t_eval``, or the ends of all steps. Padding stays NaN.
    y : Tensor of shape (n_times, \\*y0.shape) or (batch, n_times, \\*y0.shape[1:])
        The states there, NaN where ``t`` is. Differentiable as ``adjoint`` says.
    sol : DenseOutput or None
        The solution as a function of time, if ``dense_output`` was asked for.
    statistics : Statistics
        All counts, also those of the backward pass once it has run.
    status : int
        0: the end of the time span was reached (a solve that can't get there raises).
    message : str
        The same in words.
    """

    t: Tensor
    y: Tensor
    sol: DenseOutput | None
    statistics: Statistics
    status: int = 0
    message: str = "The solver successfully reached the end of the integration interval."

    @property
    def success(self) -> bool:
        """Whether the end of the time span was reached."""
        return self.status >= 0

    @property
    def nfev(self) -> int:
        """Evaluations of ``func`` in the forward solve."""
        return self.statistics.nfev

    @property
    def n_accepted(self) -> int:
        """Accepted steps."""
        return self.statistics.n_accepted

    @property
    def n_rejected(self) -> int:
        """Rejected steps."""
        return self.statistics.n_rejected

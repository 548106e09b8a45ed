"""Training as its two sides see it: the objective that it minimises, and the record that it leaves."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor

from skode.distributed.share import Share
from skode.training.solver import Solver

#: Why training ended where a user interrupted it.
INTERRUPTED = "interrupted"


class Objective(Protocol):
    """A function to minimise, over batches of samples."""

    @property
    def solver(self) -> Solver | None:
        """The solver, which counts its solves; None where none is needed."""
        ...

    @property
    def parts(self) -> Sequence[Any]:
        """All that training changes: modules, generators, solvers; see :class:`skode.training.parts.Parts`."""
        ...

    def parameters(self) -> Iterable[Tensor]:
        """The tensors to train."""
        ...

    def loss(self, rows: Any, share: Share | None = None) -> Tensor:
        """Mean loss of some samples, given by an ndarray of int, or by a tensor on the parameters' device.

        With a share of them, its part of that mean.
        """
        ...


@dataclass
class TrainingRecord:
    """Curves of training, and how it ended.

    Attributes
    ----------
    loss_curve, validation_scores : list of float
        One value per epoch; scores only where there is a validation set.
    nfe_forward, nfe_backward : list of float
        Mean evaluations of the vector field per solve, per epoch.
    stopped_because : str
        Why training ended.
    converged : bool
        Whether it ended by itself, rather than by ``max_iter``, an interruption or a failure.
    optimizer_state : dict or None
        State of the optimiser, with which training can go on.
    learning_rate : float or None
        Lowered learning rate, where training diverged.
    weights : list of Tensor or None
        The weights in training, where those of the model are their running mean.
    n_updates : int
        Number of updates that the running mean has followed.
    """

    loss_curve: list[float] = field(default_factory=list)
    validation_scores: list[float] = field(default_factory=list)
    nfe_forward: list[float] = field(default_factory=list)
    nfe_backward: list[float] = field(default_factory=list)
    stopped_because: str = "max_iter was reached"
    converged: bool = False
    optimizer_state: dict[int, dict[str, Any]] | None = None
    learning_rate: float | None = None
    weights: list[Tensor] | None = None
    n_updates: int = 0

"""The share of a batch that a process takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from skode.distributed.group import Processes


@dataclass(frozen=True)
class Share:
    """Consecutive samples of a batch.

    Random numbers are drawn for the whole batch in every process, and each takes its share of them: they are those of
    one process.

    Attributes
    ----------
    processes : Processes
        All that share the batch.
    n : int
        Samples of the batch.
    first, stop : int
        Its first sample, and the one after its last.
    counts : bool
        Whether the share counts. A process for which a batch has no sample goes along with the first one, which counts
        for nothing, so that it solves whatever the others do.
    """

    processes: Processes
    n: int
    first: int
    stop: int
    counts: bool = True

    def of(self, x: Any, dim: int = 0) -> Any:
        """The share of a tensor, or of rows to index by."""
        if isinstance(x, Tensor):
            return x.narrow(dim, self.first, self.stop - self.first)
        return x[self.first : self.stop]

    def sum(self, x: Tensor) -> Tensor:
        """The share's part of a sum over all samples."""
        return x.sum() if self.counts else x.sum() * 0.0

    def mean(self, x: Tensor) -> Tensor:
        """The share's part of a mean over all samples, from their values in the first dimension."""
        return self.sum(x) * (1.0 / (self.n * (x.numel() / max(len(x), 1))))

    def total(self, value: float, n: float = 0.0) -> tuple[float, float]:
        """Sums over all processes, which have to call this alike."""
        weight = 1.0 if self.counts else 0.0
        return self.processes.totals(weight * value, weight * n)


def share_of(processes: Processes, n: int) -> Share:
    """The share that this process has of a batch of ``n`` samples: one at least, and as many as others, or one more."""
    first, stop = processes.rank * n // processes.size, (processes.rank + 1) * n // processes.size
    return Share(processes, n, first, stop) if stop > first else Share(processes, n, 0, 1, counts=False)


def of_share(x: Tensor, share: Share | None, dim: int = 0) -> Tensor:
    """The share of a tensor that has all samples of a batch; the tensor where it is not shared."""
    return x if share is None else share.of(x, dim)


def mean_over(x: Tensor, share: Share | None) -> Tensor:
    """The mean over a batch, of which ``x`` has the samples of a share: the share's part of it."""
    return x.mean() if share is None else share.mean(x)


def anywhere(here: bool, solver: Any) -> bool:
    """Whether something is so in this share of a batch, or in that of another process, where the solver has a share.

    Whether something is solved has to be decided alike.
    """
    share = getattr(solver, "share", None)
    return here if share is None else share.total(float(here))[0] > 0.0

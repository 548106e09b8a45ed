"""Solves and their gradients as recordings that serve from solve to solve.

A :class:`Replay` belongs to one kind of problem: a field over parameters that stay where they are in memory, states of
one shape, one method, one error test. A :class:`~skode.solvers.device.bundle.Bundle` is some attempts in a row, in one
CUDA graph with memory of its own; the reverse sweep through them is another. A bundle can be used again when nothing
refers to its steps any longer.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from skode.solvers.device.bundle import Bundle
from skode.solvers.device.reverse import ReverseMemory
from skode.solvers.device.workspace import Workspace
from skode.solvers.fields.protocols import Field
from skode.solvers.forks import Lock
from skode.solvers.forward.problem import Problem


class Replay(Workspace):
    """The recordings of one kind of problem, with the memory that they share.

    Parameters
    ----------
    field, like, problem, direction, pullable
        As of :class:`~skode.solvers.device.workspace.Workspace`.

    Attributes
    ----------
    idle : dict of deque
        The bundles that no solve uses, by their number of attempts and whether they open a solve.
    n_expected : int
        Number of attempts that the next solve begins with.
    nbytes : int
        Memory that the bundles take, about.
    has_served : bool
        Whether a solve has been made by recordings that another one made.
    """

    def __init__(self, field: Field, like: Tensor, problem: Problem, direction: float, *, pullable: bool) -> None:
        super().__init__(field, like, problem, direction, pullable=pullable)
        self.idle: dict[tuple[int, bool], deque[Bundle]] = {}
        self.lock = Lock()
        self.n_expected = 2
        self.nbytes = 0
        self.has_served = False

    def record(self, n: int, *, opens_solve: bool) -> Bundle:
        """A new bundle of n attempts."""
        bundle = Bundle(self, n, opens_solve=opens_solve)
        self.nbytes += bundle.nbytes()
        return bundle

    def ahead(self, n: int, *, opens_solve: bool) -> Lease:
        """Try n steps, after the first evaluation where they open the solve."""
        idle = self.idle.setdefault((n, opens_solve), deque())
        try:
            bundle = idle.popleft()
        except IndexError:
            bundle = self.record(n, opens_solve=opens_solve)
        bundle.forward.replay()
        return Lease(self, bundle, idle)

    def trim(self) -> None:
        """Let go of all but one of the idle bundles of each size."""
        for idle in self.idle.values():
            while len(idle) > 1:
                self.nbytes -= idle.pop().nbytes()

    @contextmanager
    def sweep(self) -> Iterator[ReverseMemory]:
        """While a reverse sweep uses the memory for it."""
        with self.lock, torch.no_grad():
            self.reverse.fresh = True
            yield self.reverse


class Lease:
    """A bundle in use by a solve; it can be used again when this is forgotten."""

    __slots__ = ("bundle", "idle", "replay")

    def __init__(self, replay: Replay, bundle: Bundle, idle: deque[Bundle]) -> None:
        self.replay, self.bundle, self.idle = replay, bundle, idle

    def __del__(self) -> None:
        self.idle.append(self.bundle)


@dataclass(frozen=True)
class ReplayedTape:
    """A step's evaluations, in the memory of a bundle.

    Attributes
    ----------
    lease : Lease
        Keeps the memory.
    index : int
        The number of the step among the bundle's attempts.
    n_slots : int
        Number of evaluations.
    """

    lease: Lease
    index: int
    n_slots: int
    reused = True

    def nbytes(self) -> int:
        bundle = self.lease.bundle
        return bundle.nbytes() // bundle.n

    def release(self) -> None:
        """The memory is given back when nothing refers to it."""

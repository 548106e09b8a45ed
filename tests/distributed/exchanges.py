"""What the updates of a fit exchange with other processes, counted and timed."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

import torch

from skode.distributed.group import Processes
from skode.distributed.scope import joined
from skode.training.updates import Updates
from tests.distributed.fits import TO_ROUNDING

#: Without a warm-up, at whose end there is one more sum, of the noise.
OPTIONS = {"latent": {"warm_up": 0.0}}


@dataclass
class Update:
    """One update of a fit.

    Attributes
    ----------
    seconds, exchanging : float
        How long it took, and how much of that in exchanges.
    solves, attempts : int
        Solves, and steps that they attempted.
    roll_calls : int
        Roll calls.
    exchanges : list of int
        Bytes that this process gave to each exchange, roll calls and others, in order.
    gradient : int
        Bytes of the gradient, of the parameters that have one, and of the loss.
    """

    seconds: float = 0.0
    exchanging: float = 0.0
    solves: int = 0
    attempts: int = 0
    roll_calls: int = 0
    exchanges: list[int] = field(default_factory=list)
    gradient: int = 0


class EnoughError(BaseException):
    """A fit is left after as many updates as were wanted."""


@contextmanager
def recorded(most: float = math.inf) -> Iterator[list[Update]]:
    """The updates of all fits meanwhile, which are left after so many of them."""
    updates: list[Update] = []
    original_update, original_exchange, original_call = Updates._update, Processes._exchange, Processes._roll_call
    under_way: list[Update] = []

    def update(self: Any, rows: Any) -> Any:
        before, own = len(self.solves), Update()
        under_way.append(own)
        began = time.perf_counter()
        loss = original_update(self, rows)
        own.seconds = time.perf_counter() - began
        solves = self.solves[before:]
        own.solves, own.attempts = len(solves), sum(s.n_accepted + s.n_rejected for s in solves)
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        own.gradient = sum(x.nbytes for x in gradients) + gradients[0].element_size()
        updates.append(under_way.pop())
        if len(updates) >= most:
            raise EnoughError
        return loss

    def exchange(self: Any, operation: Any, *args: Any, **kwargs: Any) -> None:
        began = time.perf_counter()
        original_exchange(self, operation, *args, **kwargs)
        if under_way:  # the last tensor is what this process gives
            given = [x for x in args if isinstance(x, torch.Tensor)][-1]
            under_way[-1].exchanges.append(given.nbytes)
            under_way[-1].exchanging += time.perf_counter() - began

    def roll_call(self: Any, *args: Any, **kwargs: Any) -> Any:
        for own in under_way:
            own.roll_calls += 1
        return original_call(self, *args, **kwargs)

    with (
        suppress(EnoughError),
        patch.object(Updates, "_update", update),
        patch.object(Processes, "_exchange", exchange),
        patch.object(Processes, "_roll_call", roll_call),
    ):
        yield updates


def counted(names: list[str]) -> dict[str, list[Update]]:
    """The updates of fits of some names."""
    torch.set_num_threads(1)
    found = {}
    for name in names:
        fit, parameters = TO_ROUNDING[name]
        with warnings.catch_warnings(), recorded() as found[name]:
            warnings.simplefilter("ignore")
            fit(**parameters | OPTIONS.get(name, {}) | {"max_iter": 2})
    return found


def sums() -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Sums over all processes of tensors of several lengths, and what these were in this process."""
    processes = joined()
    assert processes is not None
    generator = torch.Generator().manual_seed(processes.rank)
    found = []
    for sizes in ((1,), (2,), (3, 4), (100, 1, 7), (20_000, 10_000)):
        own = [torch.randn(n, generator=generator, dtype=torch.float64) for n in sizes]
        summed = [x.clone() for x in own]
        processes.sum_up(summed)
        found.append((torch.cat(own), torch.cat(summed)))
    return found


def all_of(names: list[str]) -> tuple[dict[str, list[Update]], Any]:
    """The updates of fits of some names, and sums."""
    return counted(names), sums()

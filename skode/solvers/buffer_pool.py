"""Memory of finished solves, kept for those to come.

Fresh memory costs a page fault for each 4 KB, together as much as the arithmetic on it, and a set of views into it
costs more than the arithmetic of a small problem.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import torch

from skode.solvers.devices import capturing

#: Number of bytes that all pools hold together, at most.
MOST_IDLE_BYTES = 2**27

#: Number of bytes that are kept even for solves that are to keep nothing: those of a small problem, whose memory is
#: quicker to keep than to make again.
LITTLE = 2**18


class BufferPool:
    """A pool of objects by their key. All pools share a number of bytes; those given first make room for new ones."""

    #: Number of bytes that the pools hold together.
    total: ClassVar[int] = 0
    #: The objects that they hold, in the order in which these were given: numbers to pools and keys.
    order: ClassVar[dict[int, tuple[BufferPool, Hashable]]] = {}
    numbers: ClassVar[Iterator[int]] = itertools.count()
    lock: ClassVar[threading.Lock] = threading.Lock()

    def __init__(self) -> None:
        self.idle: dict[Hashable, list[tuple[int, Any]]] = {}

    def acquire(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """An idle object with this key, or a new one. Objects have a method ``nbytes()``."""
        # A capture takes a new object: its graph keeps the addresses.
        if key in self.idle and not capturing():
            with self.lock:
                if key in self.idle:
                    return self._taken(key, -1)
        # Tensors made in inference mode could not be used outside it.
        with torch.inference_mode(False):
            return make()

    def release(self, key: Hashable, memory: Any) -> None:
        """Let others have an object, to which nothing may refer any longer."""
        if capturing():
            return
        with self.lock:
            number = next(self.numbers)
            self.idle.setdefault(key, []).append((number, memory))
            self.order[number] = self, key
            BufferPool.total += memory.nbytes()
            while self.total > MOST_IDLE_BYTES:
                pool, oldest = next(iter(self.order.values()))
                pool._taken(oldest, 0)

    def _taken(self, key: Hashable, position: int) -> Any:
        """One of the idle objects with this key, which leaves the pool."""
        idle = self.idle[key]
        number, memory = idle.pop(position)
        if not idle:
            del self.idle[key]
        del self.order[number]
        BufferPool.total -= memory.nbytes()
        return memory

    @classmethod
    def clear(cls) -> None:
        """Let all pools forget everything."""
        cls.shrink(-1)

    @classmethod
    def shrink(cls, n_bytes: int) -> None:
        """Let go of the objects given last, until the pools hold no more than so many bytes."""
        with cls.lock:
            while cls.order and cls.total > n_bytes:
                pool, key = cls.order[next(reversed(cls.order))]
                pool._taken(key, -1)


@contextmanager
def no_more_idle_memory() -> Iterator[None]:
    """Leave the pools no fuller than they are, or with no more than :data:`LITTLE`."""
    before = BufferPool.total
    try:
        yield
    finally:
        BufferPool.shrink(max(before, LITTLE))


#: What else is kept for solves to come, and can be let go of by ``clear()``.
_OTHERS: list[Any] = []


def also_free(memory: Any) -> None:
    """Let :func:`free_idle_memory` clear this too."""
    _OTHERS.append(memory)


def free_idle_memory() -> None:
    """Let go of the memory of finished solves that is kept for those to come.

    That is up to 128 MiB in all and, on a GPU, the recordings of solves: up to an eighth of its memory.
    """
    BufferPool.clear()
    for memory in _OTHERS:
        memory.clear()

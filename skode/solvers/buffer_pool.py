"""Memory of finished solves, kept for those to come.

Fresh memory costs a page fault for each 4 KB, together as much as the arithmetic on it, and a set of views into it
costs more than the arithmetic of a small problem.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Hashable
from typing import Any, ClassVar

import torch

from skode.solvers.devices import capturing


class BufferPool:
    """A pool of objects by their key, up to a number of bytes; those given first make room for new ones.

    Parameters
    ----------
    most_bytes : int, default=2**26
        Number of bytes that the pool may hold.
    """

    #: All pools there are.
    pools: ClassVar[weakref.WeakSet[BufferPool]] = weakref.WeakSet()

    def __init__(self, most_bytes: int = 2**26) -> None:
        self.pools.add(self)
        self.most_bytes = most_bytes
        self.bytes = 0
        self.idle: dict[Hashable, list[Any]] = {}
        self.lock = threading.Lock()

    def acquire(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """An idle object with this key, or a new one. Objects have a method ``nbytes()``."""
        with self.lock:
            # A capture takes a new object: its graph keeps the addresses.
            idle = None if capturing() else self.idle.get(key)
            if idle:
                taken = idle.pop()
                if not idle:
                    del self.idle[key]
                self.bytes -= taken.nbytes()
                return taken
        # Tensors made in inference mode could not be used outside it.
        with torch.inference_mode(False):
            return make()

    def release(self, key: Hashable, memory: Any) -> None:
        """Let others have an object, to which nothing may refer any longer."""
        if capturing():
            return
        with self.lock:
            self.idle.setdefault(key, []).append(memory)
            self.bytes += memory.nbytes()
            while self.bytes > self.most_bytes:
                oldest = next(iter(self.idle))
                self.bytes -= self.idle[oldest].pop(0).nbytes()
                if not self.idle[oldest]:
                    del self.idle[oldest]

    def clear(self) -> None:
        """Forget everything."""
        with self.lock:
            self.idle, self.bytes = {}, 0


#: What else is kept for solves to come, and can be let go of by ``clear()``.
_OTHERS: list[Any] = []


def also_free(memory: Any) -> None:
    """Let :func:`free_idle_memory` clear this too."""
    _OTHERS.append(memory)


def free_idle_memory() -> None:
    """Let go of the memory of finished solves that is kept for those to come.

    That is up to 64 MB for each of two kinds and, on a GPU, the recordings of solves: up to an eighth of its memory.
    """
    for memory in [*BufferPool.pools, *_OTHERS]:
        memory.clear()

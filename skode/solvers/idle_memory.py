"""Memory of finished solves, kept for those to come.

Fresh memory costs a page fault for each 4 KB, together as much as the arithmetic on it, and a set of views into it
costs more than the arithmetic of a small problem.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any


class IdleMemory:
    """A pool of objects by their key, up to a number of bytes.

    Parameters
    ----------
    most_bytes : int, default=2**26
        What the pool may hold; objects given to it beyond that are left to the garbage collector.
    """

    def __init__(self, most_bytes: int = 2**26) -> None:
        self.most_bytes = most_bytes
        self.bytes = 0
        self.idle: dict[Hashable, list[Any]] = {}

    def take(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """An idle object with this key, or a new one. Objects have a method ``nbytes()``."""
        try:
            # pop is atomic: no other thread gets the same object
            taken = self.idle[key].pop()
        except (KeyError, IndexError):
            return make()
        self.bytes -= taken.nbytes()
        return taken

    def give(self, key: Hashable, memory: Any) -> None:
        """Let others have an object, to which nothing may refer any longer."""
        size = memory.nbytes()
        if self.bytes + size <= self.most_bytes:
            self.bytes += size
            self.idle.setdefault(key, []).append(memory)

    def clear(self) -> None:
        """Forget everything."""
        self.idle, self.bytes = {}, 0

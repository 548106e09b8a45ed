"""Processes that fork while other threads solve.

The child has the memory of its parent, but of its threads only the one that forked: a lock that another thread held
would never be released there, and what that thread was changing stays half changed.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any
from weakref import WeakSet

_locks: WeakSet[Lock] = WeakSet()


class Lock:
    """A lock that the thread holding it may take again, and that is free in a forked child."""

    def __init__(self) -> None:
        self.renew()
        _locks.add(self)

    def renew(self) -> None:
        """Forget who holds it."""
        self._lock = threading.RLock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *exception: Any) -> None:
        self._lock.release()

    def acquire(self, *, blocking: bool) -> bool:
        """Take it, or return False where another thread holds it and ``blocking`` is False."""
        return self._lock.acquire(blocking=blocking)

    def release(self) -> None:
        """Undo :meth:`acquire`."""
        self._lock.release()


def in_forked_children(function: Callable[[], Any]) -> None:
    """Have a function called in each child that this process forks."""
    if hasattr(os, "register_at_fork"):  # systems without it have no forks
        os.register_at_fork(after_in_child=function)


def _renew_locks() -> None:
    for lock in list(_locks):
        lock.renew()


in_forked_children(_renew_locks)

"""Memory of finished solves, kept for those to come.

Fresh memory costs a page fault for each 4 KB, together as much as the arithmetic on it, and a set of views into it
costs more than the arithmetic of a small problem.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import threading
from collections import deque
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import torch

from skode.solvers.devices import capturing
from skode.solvers.forks import in_forked_children

#: Number of bytes that all pools hold together, at most, unless :func:`set_idle_memory_limit` says otherwise.
MOST_IDLE_BYTES = 2**27

#: Number of bytes that are kept even for solves that are to keep nothing: those of a small problem, whose memory is
#: quicker to keep than to make again.
LITTLE = 2**19

#: Bytes, about, of a view into a tensor and into an array, with its places in lists: in memory for small problems they
#: are a hundred times those of the numbers.
TENSOR_VIEW, ARRAY_VIEW = 600, 180


Place = tuple["BufferPool", Hashable]


class BufferPool:
    """A pool of objects by their key. All pools share a number of bytes; those given first make room for new ones."""

    #: Number of bytes that the pools may hold together.
    most: ClassVar[int] = MOST_IDLE_BYTES
    #: Number of bytes that they hold.
    total: ClassVar[int]
    #: Idle objects by number, in the order in which they were given: pool and key, object, and its bytes.
    held: ClassVar[dict[int, tuple[Place, Any, int]]]
    #: The numbers of the objects of each pool and key.
    idle: ClassVar[dict[Place, list[int]]]
    #: Objects that are yet to be put there.
    given: ClassVar[deque[tuple[Place, Any]]]
    lock: ClassVar[threading.Lock]
    numbers: ClassVar[Iterator[int]] = itertools.count()

    @classmethod
    def forget(cls) -> None:
        """Begin with nothing, and with a lock of its own: a forked child has the parent's in whatever state it was."""
        cls.total, cls.held, cls.idle, cls.given, cls.lock = 0, {}, {}, deque(), threading.Lock()

    def acquire(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """An idle object with this key, or a new one. Objects have a method ``nbytes()``, which counts views too."""
        place = self, key
        # A capture takes a new object: its graph keeps the addresses.
        if (place in self.idle or self.given) and not capturing():
            with self.lock:
                self._sort_in()
                if place in self.idle:
                    return self._removed(self.idle[place][-1])
        # Tensors made in inference mode could not be used outside it.
        with torch.inference_mode(False):
            return make()

    def release(self, key: Hashable, memory: Any) -> None:
        """Let others have an object, to which nothing may refer any longer."""
        if capturing():
            return
        self.given.append(((self, key), memory))
        # Without waiting: a garbage collection may call this while its thread has the lock. Whoever has it sorts in.
        if self.lock.acquire(blocking=False):
            try:
                self._sort_in()
            finally:
                self.lock.release()

    @classmethod
    def _sort_in(cls) -> None:
        """Put the objects given to the others, of which those given first go where there are too many."""
        while cls.given:
            place, memory = cls.given.popleft()
            number, nbytes = next(cls.numbers), memory.nbytes()
            cls.held[number] = place, memory, nbytes
            cls.idle.setdefault(place, []).append(number)
            cls.total += nbytes
        while cls.total > cls.most:
            cls._removed(next(iter(cls.held)))

    @classmethod
    def _removed(cls, number: int) -> Any:
        """An object, which leaves its pool."""
        place, memory, nbytes = cls.held.pop(number)
        numbers = cls.idle[place]
        numbers.remove(number)
        if not numbers:
            del cls.idle[place]
        cls.total -= nbytes
        return memory

    @classmethod
    def clear(cls) -> None:
        """Let all pools forget everything."""
        cls.shrink(-1)

    @classmethod
    def shrink(cls, n_bytes: int) -> None:
        """Let go of the objects given last, until the pools hold no more than so many bytes."""
        with cls.lock:
            cls._sort_in()
            while cls.held and cls.total > n_bytes:
                cls._removed(next(reversed(cls.held)))


BufferPool.forget()
in_forked_children(BufferPool.forget)


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


def set_idle_memory_limit(n_bytes: int) -> None:
    """Set how much memory of finished solves is kept for those to come, 128 MiB at first.

    The bound is that of the process, over all solves, estimators and threads. Beyond it, what has not been used for
    longest goes first. Without such memory, solves of a perceptron's ODE with their gradients took 1.6 to 1.8 times as
    long.

    Parameters
    ----------
    n_bytes : int
        Number of bytes, not negative; 0 keeps nothing. Recordings of solves on a GPU are not among them.

    Raises
    ------
    ValueError
        Where ``n_bytes`` is negative.
    """
    if n_bytes < 0:
        raise ValueError(f"n_bytes={n_bytes!r} must not be negative; 0 keeps no memory of finished solves.")
    BufferPool.most = n_bytes
    with BufferPool.lock:
        BufferPool._sort_in()


def free_idle_memory() -> None:
    """Let go of the memory of finished solves that is kept for those to come, and give it back to the system.

    That is up to 128 MiB in all, or what :func:`set_idle_memory_limit` says, and on a GPU the recordings of solves: up
    to an eighth of its memory.
    """
    BufferPool.clear()
    for memory in _OTHERS:
        memory.clear()
    # glibc keeps what is freed below the top of its heap, for whoever asks next.
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None
    if trim is not None:
        trim(0)

"""Which of the processes are alive: each tells it to the store of the process group every second."""

from __future__ import annotations

import threading
import time
from typing import Any

#: Seconds between two signs of life, and after how many of silence a process counts as dead: one whose connection was
#: closed, and one that others wait for. The second is long, since a machine may be busy.
INTERVAL, SILENCE, LONG_SILENCE = 1.0, 4.0, 45.0

KEY = "skode/alive"


class Heartbeats:
    """Signs of life of this process, and those of the others.

    Parameters
    ----------
    store : torch.distributed.Store
        The store that all processes have.
    rank, size : int
        Number of this process, and of all.
    """

    def __init__(self, store: Any, rank: int, size: int) -> None:
        self.rank, self.size = rank, size
        # A client of its own, since one that waits for an answer answers nobody else.
        self._store = store.clone() if hasattr(store, "clone") else store
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._tell(0)
        self._thread = threading.Thread(target=self._beat, name="skode-heartbeats", daemon=True)
        self._thread.start()

    def _beat(self) -> None:
        n = 0
        while not self._ended.wait(INTERVAL):
            n += 1
            try:
                self._tell(n)
            except Exception:  # the process with the store has ended, of which those that wait will hear
                return

    def _tell(self, n: int) -> None:
        with self._lock:
            self._store.set(f"{KEY}/{self.rank}", str(n))

    def _read(self) -> dict[int, bytes]:
        """The last sign of life of each process that has given any."""
        found = {}
        with self._lock:
            for rank in range(self.size):
                if self._store.check([f"{KEY}/{rank}"]):
                    found[rank] = self._store.get(f"{KEY}/{rank}")
        return found

    def silent(self, seconds: float) -> list[int]:
        """Ranks that give no sign of life for some seconds, which this takes; fewer where all do.

        Where the store itself has gone, the process that held it: rank 0, or none where torchrun did.
        """
        try:
            before = self._read()
            until = time.monotonic() + seconds
            silent = [rank for rank in range(self.size) if rank != self.rank]
            while silent and time.monotonic() < until:
                time.sleep(INTERVAL / 4)
                now = self._read()
                silent = [rank for rank in silent if now.get(rank) == before.get(rank)]
            return silent
        except Exception:
            return [0] if self.rank else []

    def end(self) -> None:
        """Give no more signs of life; a thread in the midst of a call into the store would abort an ending process."""
        self._ended.set()
        self._thread.join(SILENCE)

"""Signals that end a fit, held back while it is in the midst of an update."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Interruption:
    """Ctrl-C and SIGTERM in a fit that has a checkpoint: both raise KeyboardInterrupt.

    In a stretch of work that goes from one consistent state to the next they wait for its end and
    :meth:`raise_pending`; a second signal does not wait.

    Attributes
    ----------
    is_pending : bool
        Whether a signal waits.
    """

    def __init__(self) -> None:
        self.is_pending = False
        self._waits = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take the two signals, as far as their actions are the default ones and this is the main thread."""
        taken: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():
            defaults: dict[int, Any] = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
            for number, default in defaults.items():
                if signal.getsignal(number) == default:
                    taken[number] = signal.signal(number, self._on_signal)
        try:
            yield
        finally:
            for number, handler in taken.items():
                signal.signal(number, handler)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Let signals wait for :meth:`raise_pending`."""
        self._waits = True
        try:
            yield
        finally:
            self._waits = False

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold signals back for a short stretch, at whose end one that came is raised, or goes on waiting."""
        before, self._waits = self._waits, True
        try:
            yield
        finally:
            self._waits = before
        if not before:
            self.raise_pending()

    def _on_signal(self, number: int, frame: Any) -> None:
        if self._waits and not self.is_pending:
            self.is_pending = True
        else:
            self.is_pending = False
            raise KeyboardInterrupt

    def raise_pending(self) -> None:
        """Raise KeyboardInterrupt where a signal waits."""
        if self.is_pending:
            self.is_pending = False
            raise KeyboardInterrupt

"""The time of a fit: its limit, its phases, and how long training will still take."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from skode.distributed.scope import in_step
from skode.distributed.work import is_first

#: Number of the last epochs by which the times of those to come are estimated.
RECENT = 12

#: Share of the time of training so far that an estimate of the time after it may take, but for the first.
MOST_ESTIMATING = 0.1


class Stopwatch:
    """The time of a fit, which begins when this is made.

    Parameters
    ----------
    max_time : float or None, default=None
        Seconds that the fit may take; None: there is no limit.
    verbose : bool, default=False
        Whether to print phases and their times.
    before : float, default=0.0
        Seconds that the fit has taken already, in a process that was killed.

    Attributes
    ----------
    after_training : callable or None
        Estimates the seconds that the phases after training take, with the model as it is at the call. None where there
        are no such phases.
    """

    def __init__(self, max_time: float | None = None, *, verbose: bool = False, before: float = 0.0) -> None:
        self.max_time, self.verbose = max_time, verbose
        self.began = self._now() - before
        self.after_training: Callable[[], float] | None = None

    @property
    def elapsed(self) -> float:
        """Seconds since the fit began."""
        return self._now() - self.began

    @staticmethod
    def _now() -> float:
        """The clock, which processes in step read alike."""
        processes = in_step()
        return time.perf_counter() if processes is None else processes.now

    @property
    def left(self) -> float:
        """Seconds up to the limit, infinite where there is none and negative beyond it."""
        return math.inf if self.max_time is None else self.max_time - self.elapsed

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time a phase of the fit other than training.

        Parameters
        ----------
        name : str
            The phase, as it is printed when it begins.
        """
        began = self.elapsed
        if self.verbose:
            say(f"{name} ...", end=" ")
        try:
            yield
        finally:
            if self.verbose:
                say(f"{in_words(self.elapsed - began)}, {in_words(self.elapsed)} in all")


class Pace:
    """How far a run of training has come, by epochs and by time, and how long the rest of it takes.

    Parameters
    ----------
    stopwatch : Stopwatch
        The time of the fit.
    n_epochs : int
        Largest number of epochs.
    share : float, default=1.0
        The run's share of the time that is left now.
    """

    def __init__(self, stopwatch: Stopwatch, n_epochs: int, *, share: float = 1.0) -> None:
        self.stopwatch, self.n_epochs, self.share = stopwatch, n_epochs, share
        self.began = self._epoch_began = stopwatch.elapsed
        self._budget = share * stopwatch.left
        self._closing = self._after = self._estimating = 0.0
        self._seconds: list[float] = []
        if self.is_limited:
            self._estimate_after()

    def state(self) -> dict[str, Any]:
        """All that a run in another process goes on from."""
        names = ("began", "_budget", "_closing", "_after", "_estimating", "_seconds")
        return {name: getattr(self, name) for name in names}

    def go_on_from(self, state: dict[str, Any]) -> None:
        """Go on with a run, whose time is that of the stopwatch."""
        vars(self).update(state)
        self._epoch_began = self.stopwatch.elapsed

    @property
    def is_limited(self) -> bool:
        """Whether time may end the run."""
        return math.isfinite(self._budget)

    @property
    def _for_updates(self) -> float:
        """Seconds of the run in which there may be updates: after them come a validation and the phases of the end."""
        return self._budget - self._closing - self.share * self._after

    @property
    def _elapsed(self) -> float:
        return self.stopwatch.elapsed - self.began

    @property
    def is_over(self) -> bool:
        """Whether the time for updates is used up."""
        return self.is_limited and self._elapsed >= self._for_updates

    def progress(self, by_epochs: float) -> float:
        """The share of training that has been done, from 0 to 1: that of the epochs, or of the time where it is larger.

        Where there is no time for more than one update, that of the epochs.
        """
        if not self.is_limited or self._for_updates <= 0.0:
            return by_epochs
        return min(max(by_epochs, self._elapsed / self._for_updates), 1.0)

    @contextmanager
    def closing(self) -> Iterator[None]:
        """Time the validation at the end of an epoch, for which time is reserved from then on."""
        began = self._elapsed
        yield
        self._closing = max(self._closing, self._elapsed - began)

    def end_epoch(self) -> float:
        """Note that an epoch has ended; returns its seconds."""
        now = self.stopwatch.elapsed
        self._seconds.append(now - self._epoch_began)
        n = len(self._seconds)
        if n & (n - 1) == 0 and (self.is_limited or self.stopwatch.verbose):  # after the first, second, fourth, ...
            self._estimate_after()
        self._epoch_began = self.stopwatch.elapsed
        return self._seconds[-1]

    def _estimate_after(self) -> None:
        """Estimate the time after training anew, unless that would take long beside the training so far."""
        began = self._elapsed
        if self.stopwatch.after_training is None or self._estimating > MOST_ESTIMATING * began:
            return
        self._after = self.stopwatch.after_training()
        processes = in_step()
        if processes is not None:
            self._after = processes.of_first(self._after)
        self._estimating = self._elapsed - began

    @property
    def left(self) -> float:
        """Estimate of the seconds that the fit still takes, the phases after training included."""
        training = seconds_of_epochs(self._seconds, self.n_epochs - len(self._seconds))
        if self.is_limited:
            training = min(training, max(self._for_updates + self._closing - self._elapsed, 0.0))
        return training + self._after


def say(text: str, end: str = "\n") -> None:
    """Print what ``verbose`` is to print; of processes in step, the first does."""
    if is_first():
        print(text, end=end, flush=True)


def seconds_of_epochs(seconds: Sequence[float], n_more: int) -> float:
    """Estimate how long further epochs take, which may get slower from one to the next.

    A line through the times of the last epochs, its slope the median of those between all pairs (Theil, Proceedings of
    the Royal Netherlands Academy of Sciences 53, 1950; Sen, Journal of the American Statistical Association 63, 1968),
    so that single slow epochs don't matter. It rises for as many epochs to come as it is fitted to, and never falls.

    Parameters
    ----------
    seconds : sequence of float
        Times of the epochs so far.
    n_more : int
        Number of epochs to come.

    Returns
    -------
    float
        Seconds in all.

    Examples
    --------
    >>> from skode.training.stopwatch import seconds_of_epochs
    >>> round(seconds_of_epochs([2.0, 2.0, 9.0, 2.0], 10), 6)
    20.0
    >>> round(seconds_of_epochs([1.0, 2.0, 3.0, 4.0], 2), 6)
    11.0
    """
    recent = np.asarray(seconds[-RECENT:])
    n = len(recent)
    if n == 0 or n_more <= 0:
        return 0.0
    at = np.arange(n)
    first, second = np.triu_indices(n, 1)
    slope = max(np.median((recent[second] - recent[first]) / (second - first)), 0.0) if n > 2 else 0.0
    now = np.median(recent - slope * at) + slope * (n - 1)
    ahead = np.minimum(np.arange(1, n_more + 1), n)
    return float(np.sum(now + slope * ahead))


def in_words(seconds: float) -> str:
    """A time as it is printed.

    Examples
    --------
    >>> from skode.training.stopwatch import in_words
    >>> [in_words(seconds) for seconds in (0.125, 42.0, 90.0, 4000.0)]
    ['0.1 s', '42 s', '1 min 30 s', '1 h 07 min']
    """
    if seconds < 9.95:
        return f"{max(seconds, 0.0):.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min"

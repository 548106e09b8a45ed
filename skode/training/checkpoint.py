"""Checkpoints: the progress of a fit in a file, from which the same fit goes on after its process was killed."""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
from sklearn.utils import check_random_state

from skode.distributed.scope import in_step
from skode.distributed.work import by_first, is_first
from skode.persistence.archive import read_archive, write_archive
from skode.persistence.errors import UnreadableFileError
from skode.training.caller import warn_caller
from skode.training.digests import digest
from skode.training.identity import differences, identity
from skode.training.interruption import Interruption

Result = TypeVar("Result")

KIND = "checkpoint"


class Resumable(Protocol):
    """An object whose state can be read and set."""

    def state(self) -> Any: ...

    def go_on_from(self, state: Any) -> None: ...


class Checkpoint:
    """The journal of a fit: the results of its steps that have ended, and the state of the one under way.

    A fit does the same whenever it is given the same parameters, data and random numbers. One that goes on therefore
    runs from its beginning, but steps in the journal answer at once, with random numbers left as they were after them,
    and the step that was under way takes over its state.

    Parameters
    ----------
    path : Path or None, default=None
        The file; None: nothing is written.
    interval : float, default=60.0
        Seconds between two writes at least.

    Attributes
    ----------
    begun_with : dict
        Digests of all that the fit depends on; see :func:`skode.training.identity.identity`.
    seconds_before : float
        Seconds that the fit had taken when it was cut off.
    """

    def __init__(self, path: Path | None = None, interval: float = 60.0) -> None:
        self.path, self.interval = path, interval
        self.processes = in_step()
        self.begun_with: dict[str, list[str]] = {}
        self.seconds_before = 0.0
        self.interruption = Interruption()
        self._random_state: Any = None
        self._done: list[Any] = []
        self._n_run = 0
        self._under_way: Any = None
        self._step: Resumable | None = None
        self._began = self._written = time.monotonic()
        self._is_closed = self._has_ended = False

    @classmethod
    def of(cls, estimator: Any, data: Mapping[str, Any]) -> Checkpoint:
        """The checkpoint of an estimator's fit, with the progress that its file tells of.

        Parameters
        ----------
        estimator : BaseEstimator
            The estimator, before the fit, with ``checkpoint`` and ``checkpoint_interval``.
        data : dict
            Arguments of ``fit``, by name.

        Raises
        ------
        ValueError
            Where the file is of another fit that has not ended, whose differences the message names, or is damaged.
        OSError
            Where its folder can't be written to.
        """
        checkpoint = by_first(lambda: cls._of_file(estimator, data))
        checkpoint.processes = in_step()
        return checkpoint

    @classmethod
    def _of_file(cls, estimator: Any, data: Mapping[str, Any]) -> Checkpoint:
        if estimator.checkpoint is None:
            return cls()
        if not os.fspath(estimator.checkpoint):
            raise ValueError("checkpoint='' is no path; for no checkpoint it must be None.")
        begun_with = identity(estimator, data)
        path = Path(estimator.checkpoint)
        if os.fspath(estimator.checkpoint).endswith(("/", os.sep)) and not path.is_dir():  # meant as a folder
            raise FileNotFoundError(f"checkpoint={estimator.checkpoint!r}: there is no such folder; make it first.")
        if path.is_dir():
            name = digest({name: entry[0] for name, entry in begun_with.items()})[:16]
            path = path / f"{type(estimator).__name__}-{name}.checkpoint"
        elif not path.parent.is_dir():
            raise FileNotFoundError(
                f"checkpoint={str(path)!r}: there is no folder {str(path.parent)!r}. Make it first."
            )
        checkpoint = cls(path, estimator.checkpoint_interval)
        checkpoint.begun_with = begun_with
        if path.exists():
            checkpoint._go_on()
        if not checkpoint._has_ended and not os.access(path.parent, os.W_OK):  # told now, not after the first interval
            raise PermissionError(f"checkpoint={str(path)!r}: the folder {str(path.parent)!r} can't be written to.")
        return checkpoint

    def _go_on(self) -> None:
        """Take over the progress in the file; that of another fit is left where it has ended."""
        assert self.path is not None
        try:
            content = read_archive(self.path, kind=KIND)
        except UnreadableFileError as error:
            raise type(error)(f"checkpoint: {error} Take another path, or delete the file to begin anew.") from error
        different = differences(self.begun_with, content["begun_with"])
        if different and not content["ended"]:
            raise ValueError(
                f"checkpoint={str(self.path)!r} is of another fit, which has not ended: {'; '.join(different)}. Take "
                "another path, or delete the file to begin anew; a folder as checkpoint has a file for each fit."
            )
        if not different:
            self._done, self._under_way = content["done"], content["under_way"]
            self._random_state, self.seconds_before = content["random_state"], content["seconds"]
            self._has_ended = content["ended"]

    @property
    def advice(self) -> str:
        """A sentence on what is in the file; empty without one."""
        return "" if self.path is None else f" The same fit goes on from checkpoint={str(self.path)!r}."

    def random_state(self, seed: Any) -> np.random.RandomState:
        """The random numbers of a fit: of its parameter, or where that is None the ones that it was begun with."""
        rng = check_random_state(seed)
        if self.processes is not None and isinstance(seed, np.random.RandomState):
            rng.set_state(self.processes.broadcast(rng.get_state(legacy=False)))
        if seed is not None or (self.path is None and self.processes is None):
            return rng
        if self._random_state is None:
            self._random_state = by_first(lambda: rng.get_state(legacy=False))
            rng.randint(np.iinfo(np.int32).max)  # those of the next fit are others
        own = np.random.RandomState()
        own.set_state(self._random_state)
        return own

    def step(
        self,
        run: Callable[[], Result],
        *,
        changes: Resumable | None = None,
        under_way: Resumable | None = None,
        by_all: bool = False,
    ) -> Result:
        """Run a step of the fit, or take it from the journal.

        Parameters
        ----------
        run : callable
            Runs it and returns its result.
        changes : object, default=None
            Objects that it changes in place, with methods ``state`` and ``go_on_from``, as :class:`Parts` has them.
        under_way : object, default=None
            The step itself, with the same methods, if it can go on from where it was; it calls :meth:`look` wherever
            its state is one that it can go on from.
        by_all : bool, default=False
            Whether all processes in step are to run it, as they do where it changes anything. False: the first does.
        """
        if changes is None and not by_all:
            run = partial(by_first, run)
        if self.path is None:
            return run()
        if self._n_run < len(self._done):
            result, state = self._done[self._n_run]
            self._n_run += 1
            if changes is not None:
                changes.go_on_from(state)
            return copy.deepcopy(result)
        if self._under_way is not None and under_way is not None:
            under_way.go_on_from(self._under_way)
        self._under_way, self._step = None, under_way
        try:
            result = run()
        except KeyboardInterrupt:
            if under_way is None and not self._is_closed:  # the file may be older than the steps that have ended
                self._write(None)
            raise
        finally:
            self._step = None
        if not self._is_closed:
            # The fit goes on with its result, and may change it.
            self._done.append((copy.deepcopy(result), None if changes is None else changes.state()))
            self._n_run += 1
        self._write_if_due(None)
        return result

    @contextmanager
    def careful(self) -> Iterator[None]:
        """Hold signals back until :meth:`look`: between two of these a step is in no state to go on from."""
        if self.processes is None and (self.path is None or self._step is None):
            yield
        else:
            with self.interruption.waiting():
                yield

    def look(self) -> None:
        """Write the file where it is time to.

        Raises
        ------
        KeyboardInterrupt
            Where a signal came, after the file was written.
        """
        if (self.path is not None and self._step is not None) or self.processes is not None:
            self._write_if_due(self._step)

    def close(self) -> None:
        """Write no more: what comes from now on is not what an undisturbed fit does."""
        self._is_closed = True

    def end(self) -> None:
        """Write that the fit has ended, unless it was interrupted."""
        if self.path is not None and not self._is_closed and not self._has_ended:
            self._write(None, ended=True)

    def _write_if_due(self, under_way: Resumable | None) -> None:
        """Write where the interval is over or a signal waits, which is then raised."""
        is_interrupted = self.interruption.is_pending if self.processes is None else self.processes.interrupted
        is_due = is_interrupted or time.monotonic() - self._written >= self.interval
        if is_due and not self._is_closed and is_first():
            self._write(None if under_way is None else under_way.state())
        if is_interrupted:
            self._is_closed = True
            self.interruption.is_pending = False
            if self.processes is not None:
                self.processes.interrupted = False
            raise KeyboardInterrupt

    def _write(self, under_way: Any, *, ended: bool = False) -> None:
        if self.path is None or not is_first():
            return
        content = {
            "begun_with": self.begun_with,
            "done": self._done,
            "under_way": under_way,
            "random_state": self._random_state,
            "seconds": self.seconds_before + time.monotonic() - self._began,
            "ended": ended,
        }
        try:
            write_archive(self.path, content, kind=KIND)
        except OSError as error:  # of which the fit is not to die
            warn_caller(f"checkpoint={str(self.path)!r} could not be written: {error}", UserWarning)
        self._written = time.monotonic()

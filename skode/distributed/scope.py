"""Which processes a fit is of: those of torchrun or of a process group, or one alone."""

from __future__ import annotations

import atexit
import multiprocessing
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from skode.distributed.group import LONG, Processes, say_that_it_waits
from skode.solvers.forks import in_forked_children

#: Variables of the environment in which torchrun tells a process of the others.
OF_TORCHRUN = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")

#: Variable by which programs that a process starts know that they are none of torchrun's.
OF_PARENT = "SKODE_PROCESS"


@dataclass(frozen=True)
class Scope:
    """The choices of a block of code.

    Attributes
    ----------
    alone : bool
        Whether its fits are of this process alone.
    sharded : bool
        Whether each process has a part of the data.
    in_step : Processes or None
        Processes that do the same now, and share work.
    answers : bool
        Whether an answer of an estimator that begins here is one of all of them.
    """

    alone: bool = False
    sharded: bool = False
    in_step: Processes | None = None
    answers: bool = False


NOTHING = Scope()
_scope: ContextVar[Scope] = ContextVar("skode_distributed_scope", default=NOTHING)


class _Joined:
    """The processes of the default process group, found once for each group."""

    world: Any = None
    processes: Processes | None = None
    #: Whether this process was forked from one of them, and is none itself.
    forked = False


def _note_fork() -> None:
    _Joined.forked = True


in_forked_children(_note_fork)


def in_step() -> Processes | None:
    """The processes that do the same as this one at this point of the program; None where it is alone."""
    return _scope.get().in_step


def answering() -> Processes | None:
    """The processes that share an answer which begins here; None in the midst of one, or of a fit."""
    scope = _scope.get()
    return scope.in_step if scope.answers else None


def is_sharded() -> bool:
    """Whether each process has a part of the data."""
    return _scope.get().sharded


@contextmanager
def alone() -> Iterator[None]:
    """Fit in this process alone, whatever the others do.

    Examples
    --------
    >>> from skode.distributed import alone
    >>> with alone():  # under torchrun too, this would be a fit of its own in each process that gets here
    ...     pass
    """
    with _scoped(Scope(alone=True)):
        yield


@contextmanager
def together(*, sharded: bool = False) -> Iterator[None]:
    """Share predictions, too, and let each process bring a part of the data.

    All processes have to run the block, with the same models and, unless ``sharded``, the same data: those that differ
    are refused. Fits are shared without it.

    Parameters
    ----------
    sharded : bool, default=False
        Whether the data that each process passes to ``fit`` are a part of all. They are put together, in the order of
        the ranks, in each process before the fit; predictions are then each process's own. False: all processes pass
        the same data, and predictions are shared out.

    Raises
    ------
    RuntimeError
        Where this is not one of several processes.

    Examples
    --------
    A script for ``torchrun --nproc-per-node 4``::

        with skode.distributed.together(sharded=True):
            model.fit(X_of_this_process, y_of_this_process)
    """
    processes = joined()
    if processes is None:
        raise RuntimeError(
            "together() is for several processes: start them by torchrun, or initialise a process group "
            "(torch.distributed.init_process_group) of two at least, in the main thread of each."
        )
    with _scoped(Scope(sharded=True) if sharded else Scope(in_step=processes, answers=True)):
        yield


@contextmanager
def fitting(processes: Processes) -> Iterator[None]:
    """A stretch of a fit, or of an answer, in which the processes are in step."""
    with _scoped(Scope(in_step=processes)):
        yield


@contextmanager
def _scoped(scope: Scope) -> Iterator[None]:
    token = _scope.set(scope)
    try:
        yield
    finally:
        _scope.reset(token)


def joined() -> Processes | None:
    """The processes that a fit here is of, this one being one of several; None where it is alone.

    They are those of the default process group of torch.distributed, which is initialised where torchrun has started
    this process. Only fits of the main thread are shared, since others come in any order.
    """
    if _scope.get().alone or threading.current_thread() is not threading.main_thread() or not dist.is_available():
        return None
    if _Joined.forked or (not dist.is_initialized() and (_Joined.world is not None or not _torchrun_started())):
        return None
    if _Joined.world is None or _Joined.world is not dist.group.WORLD:
        waits = threading.Timer(LONG, say_that_it_waits, [os.environ.get("RANK", "")])
        waits.daemon = True
        waits.start()
        try:
            _join()
        finally:
            waits.cancel()
    return _Joined.processes


def _torchrun_started() -> bool:
    """Whether torchrun has started this process, and not a parent of it."""
    if any(name not in os.environ for name in OF_TORCHRUN) or int(os.environ["WORLD_SIZE"]) < 2:
        return False
    parent = os.environ.get(OF_PARENT, str(os.getpid()))
    if multiprocessing.parent_process() is not None or parent != str(os.getpid()):
        return False
    os.environ[OF_PARENT] = parent
    return True


def _join() -> None:
    """Find the processes of the process group, which is initialised where there is none."""
    from torch.distributed.distributed_c10d import _get_default_store

    if not dist.is_initialized():
        n_devices = torch.cuda.device_count()
        if n_devices:
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)) % n_devices)
        each_its_own = n_devices >= int(os.environ.get("LOCAL_WORLD_SIZE", os.environ["WORLD_SIZE"]))
        # NCCL wants a device for each process; gloo carries what is on a device that several share.
        dist.init_process_group("cpu:gloo,cuda:nccl" if each_its_own and dist.is_nccl_available() else "gloo")
        atexit.register(_end)
    _Joined.processes = Processes(_get_default_store()) if dist.get_world_size() > 1 else None
    _Joined.world = dist.group.WORLD
    if _Joined.processes is not None:
        atexit.register(_Joined.processes.end)  # before the group itself


def _end() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()

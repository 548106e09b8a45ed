"""The processes of a fit, in step with each other.

Every exchange between them begins with a roll call, the one short message that all take part in: the sum of a few
numbers, with whether a solve has failed, a process has left the fit by an error, or a signal waits. All processes know
so at the same point of the program, and do the same. A process that is about to leave answers the roll call that the
others are in, whichever that is, and none of them is left waiting.
"""

from __future__ import annotations

import datetime
import pickle
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from skode.distributed.errors import ProcessError, SolveFailedElsewhereError
from skode.distributed.heartbeats import LONG_SILENCE, SILENCE, Heartbeats
from skode.solvers import SolverError

#: Seconds after which a process that waits looks whether the others are alive.
PATIENCE = datetime.timedelta(seconds=5)

#: Seconds after which it says so.
LONG = 60.0

#: Longest time of an exchange; how long processes are waited for is decided by their signs of life.
NEVER = datetime.timedelta(days=30)

#: Bytes up to which two processes exchange a part of a sum directly. Beyond, gloo would now and then send first one way
#: and then the other, while its ring is busy in both.
DIRECT = 2**16


class Processes:
    """All processes that fit together, as one of them sees them.

    Parameters
    ----------
    store : torch.distributed.Store
        Their store.

    Attributes
    ----------
    rank, size : int
        Number of this process, and of all.
    now : float
        The clock of the first process, in seconds, at the last roll call: the same for all, so that what depends on
        time is decided alike.
    interrupted : bool
        Whether, at the last roll call or before, a signal waited in one of them.
    interruption : Interruption or None
        Signals of this process.
    """

    def __init__(self, store: Any) -> None:
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self.now = time.perf_counter()
        self.interrupted = False
        self.interruption: Any = None
        self._broken = ""
        self._group: Any = dist.new_group(backend="gloo", timeout=NEVER)
        self._heartbeats = Heartbeats(store, self.rank, self.size)

    def end(self) -> None:
        """Let go of the threads that carry messages: none is to be left when the interpreter ends."""
        self._heartbeats.end()
        self._broken = "The processes have let go of each other."
        if dist.is_initialized():
            dist.destroy_process_group(self._group)
        self._group = None

    def totals(self, value: float = 0.0, n: float = 0.0) -> tuple[float, float]:
        """Roll call: the sums of two numbers over all processes.

        Raises
        ------
        SolveFailedElsewhereError
            If a solve has failed in another process.
        ProcessError
            If another process has left the fit, or has ended.
        """
        total, n_total, failed, left = self._roll_call(value, n)
        if left:
            self._raise_left()
        if failed:
            raise SolveFailedElsewhereError.new()
        return total, n_total

    @contextmanager
    def solving(self) -> Iterator[None]:
        """Let the others know where a solve of this process fails."""
        try:
            yield
        except SolveFailedElsewhereError:
            raise
        except SolverError:
            _, _, _, left = self._roll_call(failed=True)
            if left:
                self._raise_left()
            raise

    def any(self, here: bool) -> bool:
        """Whether something is so in one process at least."""
        return self.totals(float(here))[0] > 0.0

    def of_first(self, value: float) -> float:
        """A number as it is in the first process."""
        return self.totals(value if self.rank == 0 else 0.0)[0]

    def sum_up(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors by their sums over all processes."""
        flat = torch.cat([x.reshape(-1) for x in tensors])
        if self.totals(flat.numel())[0] != self.size * flat.numel():
            raise ProcessError("The processes have gradients of other sizes: they do not train the same model.")
        part = -(-len(flat) // self.size)
        if flat.is_cuda or self.size == 2 or part * flat.element_size() > DIRECT:
            self._exchange(dist.all_reduce, flat)
        else:
            flat = self._direct_sum(flat, part)
        _spread(flat, tensors)

    def _direct_sum(self, flat: Tensor, part: int) -> Tensor:
        """The sum of a short vector, of which each process adds up one part and sends it to all.

        As many bytes as by gloo's ``all_reduce``, but in two exchanges at whatever size; its messages go around a ring,
        ``2 (size - 1)`` of them one after the other.
        """
        parts = flat.new_zeros(self.size * part)
        parts[: len(flat)] = flat
        received = torch.empty_like(parts)
        self._exchange(dist.all_to_all_single, received, parts)
        own = received.view(self.size, part).sum(0)
        self._exchange(dist.all_to_all_single, received, own.repeat(self.size))
        return received[: len(flat)]

    @torch.no_grad()
    def take_from_first(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors by those of the first process."""
        for dtype in sorted({x.dtype for x in tensors}, key=str):
            some = [x.detach() for x in tensors if x.dtype == dtype]
            self.totals()
            flat = torch.cat([x.reshape(-1) for x in some])
            self._exchange(dist.broadcast, flat, src=0)
            _spread(flat, some)

    def gathered(self, value: Any) -> list[Any]:
        """The values of all processes, any that can be pickled, in the order of their ranks."""
        self.totals()
        return self._gathered(value)

    def broadcast(self, value: Any) -> Any:
        """The value of the first process."""
        return self.gathered(value if self.rank == 0 else None)[0]

    def leave(self, error: BaseException) -> None:
        """Tell the others that this process leaves the fit by an error."""
        if self._broken or isinstance(error, ProcessError):
            return
        try:
            self._roll_call(left=True)
            self._gathered(f"{type(error).__name__}: {error}")
        except Exception:  # they have gone, too
            return

    def _roll_call(
        self, value: float = 0.0, n: float = 0.0, *, failed: bool = False, left: bool = False
    ) -> tuple[float, float, bool, bool]:
        waits = self.interruption is not None and self.interruption.is_pending
        clock = time.perf_counter() if self.rank == 0 else 0.0
        own = torch.tensor([value, n, clock, failed, left, waits], dtype=torch.float64)
        # From each to each at once: a sum by all_reduce goes twice around the ring of all processes.
        all_of_them = torch.empty(self.size * len(own), dtype=torch.float64)
        self._exchange(dist.all_to_all_single, all_of_them, own.repeat(self.size))
        value, n, self.now, n_failed, n_left, n_waits = all_of_them.view(self.size, -1).sum(0).tolist()
        self.interrupted |= n_waits > 0
        return value, n, n_failed > 0, n_left > 0

    def _raise_left(self) -> None:
        """Raise the error of a process that has left the fit."""
        errors = self._gathered(None)
        raise ProcessError("; ".join(f"the fit failed in rank {rank}: {e}" for rank, e in enumerate(errors) if e))

    def _gathered(self, value: Any) -> list[Any]:
        own = torch.frombuffer(bytearray(pickle.dumps(value)), dtype=torch.uint8)
        sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(self.size)]
        self._exchange(dist.all_gather, sizes, torch.tensor([len(own)]))
        longest = max(int(size) for size in sizes)
        padded = torch.cat([own, own.new_zeros(longest - len(own))])
        parts = [torch.empty_like(padded) for _ in sizes]
        self._exchange(dist.all_gather, parts, padded)
        return [pickle.loads(part[: int(size)].numpy().tobytes()) for part, size in zip(parts, sizes, strict=True)]

    def _exchange(self, operation: Any, *args: Any, **kwargs: Any) -> None:
        """Take part in one exchange, during which signals wait."""
        if self._broken:
            raise ProcessError(f"{self._broken} Start all processes again.")
        if isinstance(args[0], Tensor) and args[0].is_cuda and "nccl" in dist.get_backend_config():
            operation(*args, **kwargs)  # in the order of the device's work, which is not waited for here
        else:
            with nullcontext() if self.interruption is None else self.interruption.held():
                self._wait_for(operation(*args, group=self._group, async_op=True, **kwargs))

    def _wait_for(self, work: Any) -> None:
        began, told = time.monotonic(), False
        while True:
            try:
                work.wait(PATIENCE)
                return
            except RuntimeError as error:
                over = work.is_completed()
                # Those that are alive answer at once, so that this takes long only where one is not.
                silent = self._heartbeats.silent(SILENCE if over else LONG_SILENCE)
                if silent or over:
                    self._break(silent, error)
            if not told and time.monotonic() - began > LONG:
                told = True
                say_that_it_waits(self.rank)

    def _break(self, silent: list[int], error: RuntimeError) -> None:
        if silent:
            ranks = ", ".join(f"rank {rank}" for rank in silent)
            self._broken = f"Of {self.size} processes, {ranks} ended or can't be reached any more."
        else:
            self._broken = f"The connection to another process was lost: {str(error).splitlines()[0]}."
        raise ProcessError(
            f"{self._broken} A fit of several processes needs all of them; start it again, where it goes on from its "
            "checkpoint if it has one."
        ) from None


def say_that_it_waits(rank: Any) -> None:
    """Say that this process has waited long."""
    print(
        f"skode: rank {rank} has waited for the other processes for {LONG:.0f} s. They have not come to this point, "
        "and none of them is known to have ended: all processes have to fit the same models in the same order "
        "(or alone, with skode.distributed.alone()).",
        file=sys.stderr,
        flush=True,
    )


def _spread(flat: Tensor, tensors: Sequence[Tensor]) -> None:
    """Copy consecutive elements of a tensor into others."""
    for x, part in zip(tensors, flat.split([x.numel() for x in tensors]), strict=True):
        x.copy_(part.view_as(x))

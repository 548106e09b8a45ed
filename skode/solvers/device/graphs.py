"""Operations that are recorded once and replayed: CUDA graphs."""

from __future__ import annotations

import functools
import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch

from skode.solvers.devices import marked_as_captured
from skode.solvers.forks import Lock

_one_at_a_time = Lock()


class Recording:
    """Operations on memory at fixed addresses, to be run again and again.

    On a CUDA device they are captured as a graph, which takes a few microseconds to launch, whatever their number.
    Elsewhere they are called again.

    Parameters
    ----------
    run : callable
        The operations. They may not wait for the device; they return the tensors that hold their results.
    device : torch.device
        The device that they run on.
    pool : Any
        The pool that memory is taken from, see :func:`new_pool`. Graphs that share a pool may overwrite each other's
        intermediate results, and so must not be those of steps that are kept at the same time.

    Attributes
    ----------
    result : Any
        The value that ``run`` returned.
    """

    def __init__(self, run: Callable[[], Any], device: torch.device, pool: Any) -> None:
        self.run = run
        self.graph: Any = None
        self.result: Any = None
        if device.type == "cuda":
            self.graph, self.result = _captured(run, device, pool)
            del self.run

    def replay(self) -> None:
        """Run the operations again."""
        if self.graph is not None:
            self.graph.replay()
        else:
            with marked_as_captured(), torch.inference_mode(False), torch.no_grad():
                self.result = self.run()


def new_pool(device: torch.device) -> Any:
    """A memory pool for graphs; None on devices without them."""
    return torch.cuda.graph_pool_handle() if device.type == "cuda" else None


def stream_of(device: torch.device) -> int:
    """The present stream of operations."""
    return torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0


@contextmanager
def on_the_side(device: torch.device) -> Iterator[None]:
    """While operations go to the stream that graphs are captured on, in order with those of the present stream."""
    if device.type != "cuda":
        yield
        return
    with _one_at_a_time:  # what another thread puts on that stream would be captured too
        present = torch.cuda.current_stream(device)
        side = _side_stream(device, present.cuda_stream)
        side.wait_stream(present)
        with torch.cuda.stream(side):
            yield
        present.wait_stream(side)


@functools.cache
def _side_stream(device: torch.device, present: int) -> torch.cuda.Stream:
    """A stream to capture on for each stream that graphs are replayed on, as libraries have a workspace for each."""
    return torch.cuda.Stream(device)


def _captured(run: Callable[[], Any], device: torch.device, pool: Any) -> tuple[Any, Any]:
    graph = torch.cuda.CUDAGraph()
    with _one_at_a_time, torch.cuda.device(device), on_the_side(device), marked_as_captured(), _no_collection():
        torch.cuda.current_blas_handle()  # which a thread makes when it first needs it, but can't in a capture
        graph.capture_begin(pool=pool, capture_error_mode="thread_local")
        try:
            result = run()
        except BaseException:
            with suppress(RuntimeError):
                graph.capture_end()
            raise
        graph.capture_end()
    return graph, result


@contextmanager
def _no_collection() -> Iterator[None]:
    """No garbage collection: graphs must not be destroyed while another is captured."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()

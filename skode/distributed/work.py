"""Work that processes in step share out, or leave to the first of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from skode.distributed.scope import alone, in_step
from skode.distributed.share import Share, share_of

Result = TypeVar("Result")


def by_first(work: Callable[[], Result]) -> Result:
    """The result of some work, which the first of the processes in step does alone for all."""
    processes = in_step()
    if processes is None:
        return work()
    result = None
    if processes.rank == 0:
        with alone():
            result = work()
    return processes.broadcast(result)


def shared_out(evaluate: Callable[[Any], tuple[Any, ...]], x: Any, axis: int = 0) -> tuple[Any, ...]:
    """Results for samples, each of which is evaluated by one of the processes in step.

    Parameters
    ----------
    evaluate : callable
        Takes some samples, and returns a tuple of ndarrays or tensors on the CPU with an axis of the samples.
    x : sequence of n samples
        All of them.
    axis : int, default=0
        That axis.

    Returns
    -------
    tuple
        The results for all samples, the same to the bit in all processes.
    """
    processes = in_step()
    n = len(x)
    if processes is None or n == 0:
        return evaluate(x)
    share = share_of(processes, n)
    with processes.solving():
        own = evaluate(x[share.first : share.stop]) if share.counts else ()
    parts = processes.gathered(tuple(part.cpu() if isinstance(part, Tensor) else part for part in own))
    device = getattr(x, "device", "cpu")
    return tuple(_joined(pieces, axis, device) for pieces in zip(*filter(None, parts), strict=True))


def _joined(pieces: tuple[Any, ...], axis: int, device: Any) -> Any:
    if isinstance(pieces[0], Tensor):
        return torch.cat(pieces, axis).to(device)
    return np.concatenate(pieces, axis)


def mean_of_shares(values: Callable[[Share | None], np.ndarray], weights: np.ndarray) -> float:
    """Weighted mean of values of samples, each of which is computed by one of the processes in step.

    Parameters
    ----------
    values : callable
        Values of the samples of a share, or of all where it is None.
    weights : ndarray of shape (n,)
        Weights of all samples.
    """
    processes = in_step()
    if processes is None:
        return float(np.average(values(None), weights=weights))
    share = share_of(processes, len(weights))
    found, own = values(share), share.of(weights)
    total, n = share.total(float(own @ found), float(own.sum()))
    return total / n


@contextmanager
def solving() -> Iterator[None]:
    """A stretch of work that all processes in step do, in which a solve may fail in one of them alone."""
    processes = in_step()
    if processes is None:
        yield
    else:
        with processes.solving():
            yield


def is_first() -> bool:
    """Whether this process is the one that speaks for all in step."""
    processes = in_step()
    return processes is None or processes.rank == 0

"""Fair timing: contenders take turns, so that a noisy machine disturbs them alike."""

from __future__ import annotations

import gc
from collections.abc import Callable, Hashable, Mapping
from time import perf_counter
from typing import Any, TypeVar

import numpy as np

Name = TypeVar("Name", bound=Hashable)
LONGEST_TURN = 1e-2  # seconds for which a fast call is repeated in its turn


def interleaved(
    calls: Mapping[Name, Callable[[], Any]],
    *,
    rounds: int | None = None,
    seconds: float = 20.0,
    most_rounds: int = 200,
    synchronize: Callable[[], Any] = lambda: None,
) -> dict[Name, np.ndarray]:
    """Time several calls in rounds; each round gives every call one turn, in random order.

    Parameters
    ----------
    calls : mapping of hashable to callable
        What to time. Each is called twice before its time counts.
    rounds : int, default=None
        Number of rounds; None: as many as fit in ``seconds``, at least 3 and at most ``most_rounds``.
    seconds : float, default=20.0
        Time to spend where ``rounds`` is None.
    most_rounds : int, default=200
        See ``rounds``.
    synchronize : callable, default=nothing
        Waits for a device; called before the clock starts and before it stops.

    Returns
    -------
    dict of hashable to ndarray of shape (rounds,)
        Seconds per call, round by round: the ratio of two calls is best taken within rounds.
    """
    for call in calls.values():
        call()
    once = {name: _duration(call, synchronize=synchronize) for name, call in calls.items()}
    repeats = {name: int(np.clip(LONGEST_TURN / duration, 1, 20)) for name, duration in once.items()}
    if rounds is None:
        rounds = int(np.clip(seconds / sum(once[name] * repeats[name] for name in once), 3, most_rounds))
    order = np.random.default_rng(0)
    names = list(calls)
    taken: dict[Name, list[float]] = {name: [] for name in names}
    gc.collect()
    gc.freeze()
    for _ in range(rounds):
        gc.collect()
        gc.disable()
        for i in order.permutation(len(names)):
            name = names[i]
            taken[name].append(_duration(calls[name], repeats[name], synchronize))
        gc.enable()
    gc.unfreeze()
    return {name: np.array(durations) for name, durations in taken.items()}


def milliseconds(durations: np.ndarray) -> str:
    """The median, in milliseconds."""
    return f"{1e3 * np.median(durations):.2f}"


def ratio(durations: np.ndarray, reference: np.ndarray) -> str:
    """The median over rounds of ``durations / reference``."""
    return f"{np.median(durations / reference):.2f}"


def _duration(call: Callable[[], Any], repeats: int = 1, synchronize: Callable[[], Any] = lambda: None) -> float:
    """Seconds per call; where a turn has several, after one that finds the caches cold."""
    if repeats > 1:
        call()
    synchronize()
    start = perf_counter()
    for _ in range(repeats):
        call()
    synchronize()
    return (perf_counter() - start) / repeats

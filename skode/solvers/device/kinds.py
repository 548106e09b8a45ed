"""Which kinds of problem have recordings, and how long these are kept."""

from __future__ import annotations

import math
import warnings
import weakref
from collections import OrderedDict, deque
from collections.abc import Hashable
from typing import Any

import torch
from torch import Tensor

from skode.solvers.buffer_pool import also_free
from skode.solvers.device.attempts import FURTHEST
from skode.solvers.device.field_memory import over_own_memory
from skode.solvers.device.graphs import stream_of
from skode.solvers.device.replay import Replay
from skode.solvers.devices import total_memory
from skode.solvers.fields.autograd import AutogradField
from skode.solvers.fields.protocols import Field
from skode.solvers.forks import Lock
from skode.solvers.forward.problem import Problem

#: Number of kinds of problems whose recordings are kept, and of those remembered that have been solved without.
MOST_KINDS, MOST_SEEN = 64, 1024

#: Number of recordings of one model that have not served yet from which on no more are made of it.
MOST_UNUSED = 32

#: Share of a device's memory that recordings may take.
MOST_MEMORY = 1 / 8


class Kinds:
    """The recordings that are kept, least recently used first, and the kinds of problem that have been seen.

    Attributes
    ----------
    kept : OrderedDict of list of Replay
        The recordings that no solve is using, by their kind.
    known : OrderedDict of tuple of two int
        Of each kind, how many attempts its last solve took, 0 where it can't be recorded, and the bytes of the graph of
        an evaluation.
    watched : dict of (int, set)
        Of each model, by the identity of the object whose lifetime is watched: the address of its first parameter, and
        its kinds.
    unused : dict of int
        By the same identity, how many recordings of the model have not served yet.
    """

    def __init__(self) -> None:
        self.kept: OrderedDict[Hashable, list[Replay]] = OrderedDict()
        self.known: OrderedDict[Hashable, tuple[int, int]] = OrderedDict()
        self.watched: dict[int, tuple[int, set[Hashable]]] = {}
        self.unused: dict[int, int] = {}
        self.lock = Lock()

    def seen(self, key: Hashable) -> tuple[int, int]:
        """How many attempts the last solve of a kind took, and bytes of an evaluation; 0 where there are none yet."""
        with self.lock:
            if key in self.known:
                self.known.move_to_end(key)
            return self.known.get(key, (0, 0))

    def note(self, key: Hashable, n_attempts: int, graph_nbytes: int) -> None:
        """Remember how many attempts a solve took that was not recorded."""
        with self.lock:
            if self.known.get(key, (1, 0))[0]:
                self.known[key] = (min(max(n_attempts, 1), FURTHEST), graph_nbytes)
            while len(self.known) > MOST_SEEN:
                self.known.popitem(last=False)

    def watch(self, key: Hashable, field: Field) -> bool:
        """Forget a kind when its model is gone; False where too many recordings of the model have never served.

        They can't serve where something in the model differs from solve to solve.
        """
        thing, where = _watched(field)
        with self.lock:
            before, keys = self.watched.get(id(thing), (where, set()))
            if before != where:  # its parameters have been replaced
                self._drop(keys)
                keys = set()
            if id(thing) not in self.watched:
                weakref.finalize(thing, self.forget, id(thing)).atexit = False
            self.watched[id(thing)] = (where, keys)
            if self.unused.get(id(thing), 0) >= MOST_UNUSED:
                return False
            self.unused[id(thing)] = self.unused.get(id(thing), 0) + 1
            keys.add(key)
            return True

    def take(self, key: Hashable, field: Field) -> Replay | None:
        """Recordings of this kind that no solve is using, for a solve to use."""
        with self.lock:
            idle = self.kept.get(key)
            replay = idle.pop() if idle else None
            if replay is not None and not replay.has_served:
                replay.has_served = True
                thing, _ = _watched(field)
                self.unused[id(thing)] = max(self.unused.get(id(thing), 0) - 1, 0)
            return replay

    def give(self, key: Hashable, replay: Replay) -> None:
        """Keep recordings for the solves to come."""
        with self.lock:
            if not self.known.get(key, (0, 0))[0]:  # its parameters are gone, or there is no memory for it
                return
            self.kept.setdefault(key, []).append(replay)
            self.kept.move_to_end(key)
            memory = total_memory(replay.device)
            most = math.inf if memory is None else memory * MOST_MEMORY
            while len(self.kept) > 1 and (len(self.kept) > MOST_KINDS or self._nbytes() > most):
                self.kept.popitem(last=False)
            if self._nbytes() > most:
                replay.trim()

    def _nbytes(self) -> int:
        return sum(replay.nbytes for idle in list(self.kept.values()) for replay in list(idle))

    def refuse(self, key: Hashable) -> None:
        """Make no recordings of a kind."""
        with self.lock:
            self.known[key] = (0, 0)
            self.kept.pop(key, None)

    def forget(self, thing: int) -> None:
        """Let go of all kinds of a model that no longer exists."""
        with self.lock:
            self.unused.pop(thing, None)
            self._drop(self.watched.pop(thing, (0, set()))[1])

    def _drop(self, keys: set[Hashable]) -> None:
        for key in keys:
            self.kept.pop(key, None)
            self.known.pop(key, None)

    def clear(self) -> None:
        """Forget all recordings."""
        with self.lock:
            self.kept.clear()
            self.unused.clear()


def _watched(field: Field) -> tuple[Any, int]:
    """Object whose lifetime bounds a field's recordings, and the address of its memory."""
    if field.parameters:
        return field.parameters[0], field.parameters[0].data_ptr()
    return getattr(field, "func", field), 0


KINDS = Kinds()
also_free(KINDS)


def replay_key(field: Field, field_key: Hashable, y0: Tensor, problem: Problem, *, pullable: bool) -> Hashable | None:
    """Key shared by the solves that a recording serves; None where a solve can't be recorded."""
    if any(p.device != y0.device or p.dtype != y0.dtype or p.is_inference() for p in field.parameters):
        return None
    if torch.is_autocast_enabled(y0.device.type):
        return None
    control = problem.control
    sizes = control.sizes
    test = (control.tolerances, control.exponents, sizes.min_step, sizes.max_step, sizes.first_step is None)
    state = (tuple(y0.shape), y0.dtype, y0.device, stream_of(y0.device))
    arithmetic = (
        torch.get_default_dtype(),
        torch.get_float32_matmul_precision(),
        torch.backends.cudnn.allow_tf32,
        torch.are_deterministic_algorithms_enabled(),
    )
    return (field_key, problem.tableau.name, test, state, arithmetic, problem.span.t1 > problem.span.t0, pullable)


def take_replay(key: Hashable, field: Field, y0: Tensor, problem: Problem, *, pullable: bool) -> Replay | None:
    """Recordings for a solve; None where it is the first of its kind, or where they can't be made.

    Recording takes about as long as three solves, which many kinds of problem are not worth.
    """
    replay = KINDS.take(key, field)
    n_expected, graph_nbytes = KINDS.seen(key)
    if replay is not None or not n_expected or not KINDS.watch(key, field):
        return replay
    direction = 1.0 if problem.span.t1 > problem.span.t0 else -1.0
    try:
        with torch.inference_mode(False):
            own = over_own_memory(field, graph_nbytes)
            replay = Replay(own, y0, problem, direction, pullable=pullable)
            replay.n_expected = n_expected
            replay.idle[n_expected, True] = deque([replay.record(n_expected, opens_solve=True)])
    except Exception as error:  # whatever a user's module does when it is copied or captured
        KINDS.refuse(key)
        # Modules of users may do what can't be captured; solves need less memory than recordings.
        expected = isinstance(field, AutogradField) or isinstance(error, torch.OutOfMemoryError)
        if not expected:
            warnings.warn(f"A solve could not be captured as CUDA graphs, and runs without: {error}", stacklevel=2)
        return None
    return replay

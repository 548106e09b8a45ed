"""Solves and their gradients as recordings that serve from solve to solve.

A :class:`Replay` belongs to one kind of problem: a field over parameters that stay where they are in memory, states of
one shape, one method, one error test. A :class:`Bundle` is some attempts in a row, in one CUDA graph with memory of
its own; the way back through them is another. Memory is given back when nothing refers to the steps any longer.
"""

from __future__ import annotations

import copy
import functools
import threading
import warnings
import weakref
from collections import OrderedDict, deque
from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from skode.solvers.buffer_pool import also_free
from skode.solvers.device.attempts import FURTHEST, Attempted, Attempts, Moment
from skode.solvers.device.control import Controls
from skode.solvers.device.graphs import Recording, new_pool, on_the_side, stream_of
from skode.solvers.fields.autograd import AutogradField
from skode.solvers.fields.parameters import held_tensors
from skode.solvers.fields.protocols import Tape

#: Kinds of problems whose recordings are kept, and how many are remembered that have been solved without.
MOST_KINDS, MOST_SEEN = 64, 1024

#: Recordings of one model that have not served yet, from which on no more are made of it.
MOST_IDLERS = 32

#: Recordings of ways back through a bundle, from which on they are made for single steps only.
MOST_WAYS_BACK = 32

#: Share of a device's memory that recordings may take.
MOST_MEMORY = 1 / 8

#: What a graph takes beside its tensors, about: the allocator's smallest block.
GRAPH_NBYTES = 2**21


class Replay:
    """Recordings of one kind of problem.

    Parameters
    ----------
    field : Field
        What is integrated, over parameters and inputs that stay where they are.
    like : Tensor
        A state.
    problem : Problem
        For the method and the error test.
    direction : float
        Of time.
    pullable : bool
        Whether steps are to be pulled back.
    """

    def __init__(self, field: Any, like: Tensor, problem: Any, direction: float, *, pullable: bool) -> None:
        tableau, control = problem.tableau, problem.control
        self.field, self.shape, self.device = field, like.shape, like.device
        self.inputs = list(field_inputs(field))
        # Time, size of the next step, ratios of the last two accepted ones, rejected; the end.
        self.clock = torch.zeros(6, dtype=torch.float64, device=like.device)
        self.numbers = torch.zeros(6, dtype=torch.float64, pin_memory=like.device.type == "cuda")
        y = torch.zeros_like(like, memory_format=torch.contiguous_format)
        first = torch.zeros_like(y.view(-1)) if tableau.fsal else None
        *clock, t1 = self.clock.unbind()
        self.moment = Moment(y, first, tuple(clock))  # type: ignore[arg-type]
        controls = Controls.of(control, tableau.error_order, direction)
        self.attempts = Attempts(tableau, field, y, control.tolerances, controls, t1, pullable=pullable)
        self.finds_first_step = control.first_step is None
        self.idle: dict[tuple[int, bool], deque[Bundle]] = {}
        self.reverse = Reverse(self)
        self.lock = threading.RLock()
        self.n_expected = 2
        self.nbytes = 0
        self.has_served = False

    def start(self, y0: Tensor, inputs: list[Tensor], t0: float, first_step: float | None, t1: float) -> None:
        """Begin a solve."""
        # The last copy from these numbers is over: the solve that made it has looked at what came of it.
        for i, number in enumerate((t0, first_step or 0.0, 1.0, 1.0, 0.0, t1)):
            self.numbers[i] = number
        with torch.no_grad():
            self.clock.copy_(self.numbers, non_blocking=True)
            self.moment.y.copy_(y0)
            if inputs:
                torch._foreach_copy_(self.inputs, inputs)

    def ahead(self, n: int, *, opening: bool) -> Lease:
        """Try n steps, after the first evaluation where that is ``opening`` the solve."""
        idle = self.idle.setdefault((n, opening), deque())
        try:
            bundle = idle.popleft()
        except IndexError:
            bundle = Bundle(self, n, opening=opening)
            self.nbytes += bundle.nbytes()
        bundle.forward.replay()
        return Lease(self, bundle, idle)

    def trim(self) -> None:
        """Let go of all but one of the bundles of each size that nobody uses."""
        for idle in self.idle.values():
            while len(idle) > 1:
                self.nbytes -= idle.pop().nbytes()

    @contextmanager
    def sweep(self) -> Iterator[Reverse]:
        """While a reverse sweep uses the memory for it."""
        with self.lock, torch.no_grad():
            self.reverse.fresh = True
            yield self.reverse


class Lease:
    """A bundle in use by a solve; it can be used again when this is forgotten."""

    __slots__ = ("bundle", "idle", "replay")

    def __init__(self, replay: Replay, bundle: Bundle, idle: deque[Bundle]) -> None:
        self.replay, self.bundle, self.idle = replay, bundle, idle

    def __del__(self) -> None:
        self.idle.append(self.bundle)


@dataclass
class Made:
    """Where a bundle's results are.

    Attributes
    ----------
    field : Field
        The field over this solve's inputs, as the way back needs it.
    attempted : list of Attempted
        The attempts.
    tape : Tape
        All evaluations: that of the opening, then those of the attempts.
    logs : Tensor
        The attempts' logs, and the sums of the elements of the last and of the first state.
    """

    field: Any
    attempted: list[Attempted]
    tape: Tape
    logs: Tensor


class Bundle:
    """Some attempts in a row with memory of their own, and the way back through them.

    It does not hold on to the replay, which holds on to it.
    """

    def __init__(self, replay: Replay, n: int, *, opening: bool) -> None:
        self.n, self.opening = n, opening
        self.pool = new_pool(replay.device)
        self.before = int(opening)
        self.n_each = len(replay.attempts.own)
        self.pulled: dict[Hashable, Recording] = {}
        with torch.inference_mode(False), torch.no_grad():
            self.forward = Recording(lambda: self._ahead(replay), replay.device, self.pool)

    @property
    def pulls_together(self) -> bool:
        """Whether steps in a row are pulled back by one recording: while these are few, as rejections part them."""
        return len(self.pulled) < MOST_WAYS_BACK

    @property
    def made(self) -> Made:
        """Where the results are."""
        return self.forward.result

    def nbytes(self) -> int:
        """Memory that it takes, about."""
        made = self.made
        if made is None:  # a recording that has not been made
            return GRAPH_NBYTES
        return made.tape.nbytes() + sum(x.rows.nbytes for x in made.attempted) + GRAPH_NBYTES

    def _ahead(self, replay: Replay) -> Made:
        attempts = replay.attempts
        moment, t1 = replay.moment, attempts.t1
        refresh(replay.field)
        tape = replay.field.tape(moment.y, self.before + self.n * self.n_each, pullable=attempts.pullable)
        if self.opening:
            t, size, last, before, rejected = (x.clone() for x in moment.clock)
            tape.place(0).copy_(moment.y.reshape(-1))
            value = torch.empty_like(moment.y)
            tape.evaluate(0, t, value)
            if replay.finds_first_step:
                size = attempts.first_size(t, moment.y, value, (t1 - t).abs())
            first = None if moment.first is None else value.view(-1)
            moment = Moment(moment.y, first, (t, size, last, before, rejected))
        made = []
        for k in range(self.n):
            attempted, moment = attempts.attempt(moment, tape, self.before + k * self.n_each)
            made.append(attempted)
        sums = [y.sum(dtype=torch.float64).view(1) for y in (moment.y, replay.moment.y)]
        replay.moment.y.copy_(moment.y)
        if replay.moment.first is not None and moment.first is not None:
            replay.moment.first.copy_(moment.first)
        torch.stack(moment.clock, out=replay.clock[:5])
        logs = torch.cat([*(attempted.log for attempted in made), *sums])
        # The next solve, which may come before the way back, has other inputs.
        own = [x.clone() for x in replay.inputs]
        field = over_inputs(replay.field, own) if own else replay.field
        return Made(field, made, tape, logs)

    def pull(self, replay: Replay, steps: Sequence[int], *, carried: bool, given: bool, opening: bool) -> None:
        """Take the cotangents in the memory for reverse sweeps back through some attempts, last to first.

        Parameters
        ----------
        replay : Replay
            Whose it is.
        steps : sequence of int
            The attempts, those that were accepted.
        carried, given : bool
            Whether later steps have taken over a derivative, and whether there are outputs inside the attempts.
        opening : bool
            Whether the first evaluation is next.
        """
        reverse, opening = replay.reverse, opening and replay.moment.first is not None
        kind = (tuple(steps), carried, given, opening, reverse.fresh)
        reverse.fresh = False
        if kind not in self.pulled:
            run = functools.partial(self._back, replay, *kind)
            self.pulled[kind] = reverse.record(run, replay.device, self)
        self.pulled[kind].replay()

    def _back(
        self,
        replay: Replay,
        steps: Sequence[int],
        with_carried: bool,
        with_given: bool,
        opening: bool,
        fresh: bool,
    ) -> None:
        reverse, made = replay.reverse, self.made
        if fresh:
            reverse.gradient.zero_()
        session, lam = made.field.session(), reverse.lam
        carried = reverse.carried if with_carried else None
        from_outputs = reverse.given[len(steps)] if with_given else None
        for i in reversed(range(len(steps))):
            given = None if from_outputs is None else from_outputs[i, :-1]
            lam, carried = replay.attempts.pull(made.attempted[steps[i]], session, lam, carried, given)
            if from_outputs is not None:
                lam = lam + from_outputs[i, -1].view(lam.shape)
        if opening:
            assert carried is not None
            out = torch.empty_like(lam)
            session.pull(made.tape, 0, carried.view(replay.shape), out)
            session.flush(made.tape)
            lam, carried = lam + out, None
        reverse.lam.copy_(lam)
        if carried is not None:
            reverse.carried.copy_(carried)
        reverse.gather(session)


class Reverse:
    """Memory of a reverse sweep.

    Attributes
    ----------
    lam : Tensor
        The state's cotangent.
    carried : Tensor of shape (n,)
        That of the derivative that later steps have taken over.
    given : dict of Tensor of shape (n_steps, s + 1, n)
        What outputs inside some steps ask of their stages and, in the last row, of the state at their start; by the
        number of steps.
    gradient : Tensor
        Of the parameters, one after another, summed over the sweep; ``parts`` are views of it.
    fresh : bool
        Whether nothing has been added to it in this sweep.
    """

    def __init__(self, replay: Replay) -> None:
        y, parameters = replay.moment.y, replay.field.parameters
        self.lam, self.carried = torch.zeros_like(y), torch.zeros_like(y.view(-1))
        self.given: dict[int, Tensor] = {}
        self.shapes, self.sizes = [p.shape for p in parameters], [p.numel() for p in parameters]
        self.gradient = torch.zeros(sum(self.sizes), dtype=y.dtype, device=y.device)
        self.parts = self._split(self.gradient)
        self.fresh = True

    def _split(self, flat: Tensor) -> list[Tensor]:
        return [part.view(shape) for part, shape in zip(flat.split(self.sizes), self.shapes, strict=True)]

    def gradients(self) -> list[Tensor]:
        """The parameters' gradients, in memory of their own."""
        return self._split(torch.zeros_like(self.gradient) if self.fresh else self.gradient.clone())

    def fill(self, lam: Tensor, carried: Tensor | None, given: Tensor | None) -> None:
        """Take over cotangents."""
        for own, value in ((self.lam, lam), (self.carried, carried)):
            if value is not None and value.data_ptr() != own.data_ptr():
                own.copy_(value.view(own.shape))
        if given is not None:
            if len(given) not in self.given:
                with torch.inference_mode(False):
                    self.given[len(given)] = torch.zeros_like(given, memory_format=torch.contiguous_format)
            self.given[len(given)].copy_(given)

    def gather(self, session: Any) -> None:
        """Add a session's gradients."""
        found = zip(self.parts, session.parameter_gradients(), strict=True)
        pairs = [(own, new) for own, new in found if new is not None]
        if pairs:
            torch._foreach_add_([own for own, _ in pairs], [new for _, new in pairs])

    def record(self, run: Any, device: torch.device, bundle: Bundle) -> Recording:
        """Record operations on it, after trying them once where libraries may still get ready."""
        with torch.inference_mode(False), torch.no_grad():
            if not bundle.pulled:
                everything = [self.lam, self.carried, self.gradient]
                before = [x.clone() for x in everything]
                with on_the_side(device):
                    run()
                torch._foreach_copy_(everything, before)
            return Recording(run, device, bundle.pool)


@dataclass(frozen=True)
class ReplayedTape:
    """A step's evaluations: where they are.

    Attributes
    ----------
    lease : Lease
        Keeps the memory.
    index : int
        Which of the bundle's attempts it was.
    n_slots : int
        Number of evaluations.
    """

    lease: Lease
    index: int
    n_slots: int
    reused = True

    def nbytes(self) -> int:
        bundle = self.lease.bundle
        return bundle.nbytes() // bundle.n

    def release(self) -> None:
        """The memory is given back when nothing refers to it."""


def replay_key(field: Any, field_key: Hashable, y0: Tensor, problem: Any, *, pullable: bool) -> Hashable | None:
    """Key shared by the solves that a recording serves; None where a solve can't be recorded."""
    if any(p.device != y0.device or p.dtype != y0.dtype or p.is_inference() for p in field.parameters):
        return None
    if torch.is_autocast_enabled(y0.device.type):
        return None
    control = problem.control
    test = (control.tolerances, control.exponents, control.min_step, control.max_step, control.first_step is None)
    state = (tuple(y0.shape), y0.dtype, y0.device, stream_of(y0.device))
    arithmetic = (
        torch.get_default_dtype(),
        torch.get_float32_matmul_precision(),
        torch.backends.cudnn.allow_tf32,
        torch.are_deterministic_algorithms_enabled(),
    )
    return (field_key, problem.tableau.name, test, state, arithmetic, problem.t1 > problem.t0, pullable)


def take_replay(key: Hashable, field: Any, y0: Tensor, problem: Any, *, pullable: bool) -> Replay | None:
    """Recordings for a solve; None where it is the first of its kind, or where they can't be made.

    Recording takes about as long as three solves, which many kinds of problem are not worth.
    """
    replay = KINDS.take(key, field)
    n_expected, graph_nbytes = KINDS.seen(key)
    if replay is not None or not n_expected or not KINDS.watch(key, field):
        return replay
    direction = 1.0 if problem.t1 > problem.t0 else -1.0
    try:
        with torch.inference_mode(False):
            own = over_own_memory(field, graph_nbytes)
            replay = Replay(own, y0, problem, direction, pullable=pullable)
            replay.n_expected = n_expected
            bundle = Bundle(replay, n_expected, opening=True)
    except Exception as error:  # whatever a user's module does when it is copied or captured
        KINDS.refuse(key)
        # Modules of users may do what can't be captured; solves need less memory than recordings.
        expected = isinstance(field, AutogradField) or isinstance(error, torch.OutOfMemoryError)
        if not expected:
            warnings.warn(f"A solve could not be captured as CUDA graphs, and runs without: {error}", stacklevel=2)
        return None
    replay.idle[bundle.n, True] = deque([bundle])
    replay.nbytes += bundle.nbytes()
    return replay


def over_own_memory(field: Any, graph_nbytes: int) -> Any:
    """The same field over other tensors for its parameters and inputs: the parameters' memory, and a copy of inputs.

    So nothing keeps the parameters themselves, nor autograd's notes on them.
    """
    if isinstance(field, AutogradField):
        module: Any = field.func
        same: dict[int, Any] = {id(x): x for x in held_tensors(module)}
        same |= {id(p): _alias(p, wanted=p.requires_grad) for p in module.parameters()}
        own = tuple(same[id(p)] for p in field.parameters)
        # A copy, as others may evaluate the module itself at the same time.
        return AutogradField(copy.deepcopy(module, same), own, graph_nbytes=graph_nbytes)
    func = field.func.over([_alias(p) for p in field.parameters])
    inputs: list[Tensor] = getattr(func, "inputs", list)()
    own = type(field)(func)
    return over_inputs(own, [x.clone() for x in inputs]) if inputs else own


def over_inputs(field: Any, inputs: Sequence[Tensor]) -> Any:
    """The same field over other inputs."""
    return type(field)(field.func.with_inputs(*inputs))


def _alias(parameter: Tensor, *, wanted: bool = True) -> Tensor:
    """The same memory without its history and its count of changes."""
    return parameter.data.requires_grad_(wanted)


def field_inputs(field: Any) -> list[Tensor]:
    """Tensors besides the parameters that a field depends on, other ones in each solve."""
    return getattr(getattr(field, "func", field), "inputs", list)()


def refresh(field: Any) -> None:
    """Compute anew what a field has computed from its parameters."""
    again = getattr(getattr(field, "func", field), "refresh", None)
    if again is not None:
        again()


class Kinds:
    """The recordings that are kept, least recently used first, and the kinds of problem that have been seen."""

    def __init__(self) -> None:
        self.kept: OrderedDict[Hashable, list[Replay]] = OrderedDict()
        # How many attempts the last solve took, 0 where it can't be recorded, and bytes of an evaluation's graph.
        self.known: OrderedDict[Hashable, tuple[int, int]] = OrderedDict()
        # Of each model, by what is watched of it: where its first parameter is, its kinds, and how many recordings
        # of it have not served yet.
        self.watched: dict[int, tuple[int, set[Hashable]]] = {}
        self.idlers: dict[int, int] = {}
        self.lock = threading.RLock()

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

    def watch(self, key: Hashable, field: Any) -> bool:
        """Forget a kind when its model is gone; False where too many have been recorded of it in vain.

        These never served, because something in the model is another in every solve.
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
            if self.idlers.get(id(thing), 0) >= MOST_IDLERS:
                return False
            self.idlers[id(thing)] = self.idlers.get(id(thing), 0) + 1
            keys.add(key)
            return True

    def take(self, key: Hashable, field: Any) -> Replay | None:
        """Recordings of this kind that no solve is using."""
        with self.lock:
            idle = self.kept.get(key)
            replay = idle.pop() if idle else None
            if replay is not None and not replay.has_served:
                replay.has_served = True
                thing, _ = _watched(field)
                self.idlers[id(thing)] = max(self.idlers.get(id(thing), 0) - 1, 0)
            return replay

    def give(self, key: Hashable, replay: Replay) -> None:
        """Let the solves to come have them."""
        with self.lock:
            if not self.known.get(key, (0, 0))[0]:  # its parameters are gone, or there is no memory for it
                return
            self.kept.setdefault(key, []).append(replay)
            self.kept.move_to_end(key)
            most = _most_bytes(replay.device)
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
        """Let go of all kinds of a model that is gone."""
        with self.lock:
            self.idlers.pop(thing, None)
            self._drop(self.watched.pop(thing, (0, set()))[1])

    def _drop(self, keys: set[Hashable]) -> None:
        for key in keys:
            self.kept.pop(key, None)
            self.known.pop(key, None)

    def clear(self) -> None:
        """Forget all recordings."""
        with self.lock:
            self.kept.clear()
            self.idlers.clear()


def _watched(field: Any) -> tuple[Any, int]:
    """Object whose lifetime bounds a field's recordings, and the address of its memory."""
    if field.parameters:
        return field.parameters[0], field.parameters[0].data_ptr()
    return field.func, 0


def _most_bytes(device: torch.device) -> float:
    if device.type != "cuda":
        return float("inf")
    return torch.cuda.get_device_properties(device).total_memory * MOST_MEMORY


KINDS = Kinds()
also_free(KINDS)

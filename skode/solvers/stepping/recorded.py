"""Explicit steps over a field that autograd differentiates: one graph for several steps, not one an evaluation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from skode.solvers.cached import cached
from skode.solvers.fields.autograd import AutogradField
from skode.solvers.fields.times import time_dtype_of
from skode.solvers.statistics import Statistics
from skode.solvers.stepping.buffers import StageBuffers
from skode.solvers.stepping.coefficients import combined, terms_of
from skode.solvers.stepping.step import NO_EDGES, Edges, PulledStep, SeparateStages, StepSize, TakenStep, stage_time
from skode.solvers.tableaus import ButcherTableau
from skode.solvers.tolerances import Tolerances

#: Number of evaluations after which a new graph begins. A call of autograd costs as much as two small evaluations,
#: whatever its graph; and a graph's memory is let go of as a whole, once it has been pulled back.
MOST_EVALUATIONS = 64


@dataclass(slots=True)
class RecordedStep:
    """A step within a graph; the part of a :class:`skode.solvers.fields.protocols.Tape` that records of solves need.

    Attributes
    ----------
    leaves : list of Tensor
        What the graph begins with: the state at the start of its first step and, where the method takes over its first
        stage, that stage.
    opens : bool
        Whether it is the first step of its graph.
    y_next : Tensor
        The state at its end.
    stages : list of Tensor
        The stages' derivatives; without the last where nothing uses it.
    n_slots : int
        Number of evaluations that the step has made.
    slot_nbytes : int
        Memory that an evaluation with its graph takes.
    """

    leaves: list[Tensor]
    opens: bool
    y_next: Tensor
    stages: list[Tensor]
    n_slots: int
    slot_nbytes: int
    reused = False

    def nbytes(self) -> int:
        """Memory that it holds."""
        return self.n_slots * self.slot_nbytes

    def release(self) -> None:
        """Nothing of it is used again."""


class RecordedGraph:
    """The steps that one graph goes through: how to record it again, for a second backward pass.

    Parameters
    ----------
    first : Tensor or None
        The first stage of its first step, where the method takes that over.

    Attributes
    ----------
    steps : list of (t, h, y, edges)
        The accepted steps, as :meth:`RecordedStepper.attempt` takes them, and the one tried last.
    """

    def __init__(self, first: Tensor | None) -> None:
        self.first = first
        self.steps: list[tuple[Any, StepSize, Tensor, Edges]] = []


class RecordedStepper:
    """Takes explicit steps of one method over one field, recorded by autograd where they are kept.

    A :class:`skode.solvers.stepping.stepper.ReversibleStepper` and an
    :class:`skode.solvers.stepping.stepper.AdaptiveStepper`, with the parameters and attributes of
    :class:`skode.solvers.stepping.ExplicitStepper`.

    Notes
    -----
    A step begins the graph anew where a discontinuity of the field, or steps of single samples, come between, and
    after :data:`MOST_EVALUATIONS`. Pulling back a step that does not begin its graph only takes note of its
    cotangents: they reach the state at its start inside the graph, and the first step of the graph pulls all of them
    at once.
    """

    needs_stages = False

    def __init__(
        self,
        tableau: ButcherTableau,
        field: AutogradField,
        like: Tensor,
        statistics: Statistics,
        tolerances: Tolerances,
        *,
        keep: bool = False,
    ) -> None:
        self.tableau = tableau
        self.field: Any = field
        self.like = like
        self.statistics = statistics
        self.tolerances = tolerances
        self.keep = keep
        self.time_dtype = time_dtype_of(field, like)
        self.shape = like.shape
        self.terms = terms_of(tableau)
        self.n_carried = int(tableau.fsal)
        self.n_own = tableau.n_stages - self.n_carried
        self.keeps_first = bool(self.n_carried)
        self.memory = StageBuffers.like(tableau.n_stages + 1, like)
        self.values = self.memory.values  # the stages of steps that are not kept
        self.known: Tensor | None = None  # the first stage of the next step, without a graph, where it is known
        self.made = self.values  # the stages of the step just tried
        # Of steps that are kept: their graph, the number of its accepted steps, what it begins with, and the state that
        # it has come to, in the graph and as the solve has it. The first stage of the next step is there where it is
        # known.
        self.graph: RecordedGraph | None = None
        self.n_accepted = 0
        self.leaves: list[Tensor] = []
        self.state: Tensor | None = None
        self.at: Tensor | None = None
        self.first: Tensor | None = None
        self.tried: tuple[TakenStep, RecordedStep] | None = None
        # The cotangent that is answered where it reaches the state inside the graph.
        self.zero: Tensor | None = None
        # The steps of a graph that has been recorded again, until they are pulled back.
        self.again: tuple[RecordedGraph | None, list[RecordedStep]] = (None, [])

    def start(self, f0: Tensor) -> None:
        """Begin a solve with the derivative ``f0`` at the initial state."""
        if self.n_carried or not self.keep:
            self.known = f0

    def attempt(self, t: Any, h: StepSize, y: Tensor, edges: Edges = NO_EDGES) -> TakenStep:
        """Try a step of size ``h`` from ``(t, y)``. A second try from the same state uses its first stage again."""
        if not self.keep:
            y_next, self.made = self._plain(t, h, y, edges), self.values
            return TakenStep(t, h, y, y_next, self.memory.stages, self.tableau, None, edges)
        if y is not self.at:
            self._begin(RecordedGraph(self.known if self.n_carried else None), y)
        assert self.graph is not None
        record = self._record(t, h, edges)
        self.first, self.made = record.stages[0], record.stages  # the first is that of the next attempt too
        taken = SeparateStages(t, h, y, record.y_next.detach(), record.stages, self.tableau, record, edges)  # type: ignore[arg-type]
        self.graph.steps[self.n_accepted :] = [(t, h, y, edges)]
        taken.place = self.graph, self.n_accepted
        self.tried = taken, record
        return taken

    def error(self, step: TakenStep) -> Tensor:
        """The estimated local error of the step just tried."""
        return combined(None, self.made, self.terms.e, step.h)

    def accept(self) -> None:
        """Move on from the step just tried."""
        tried, self.tried, self.at, self.known = self.tried, None, None, None
        if self.n_carried:
            last = self.made[-1]
            self.known = self.values[0].copy_(last) if self.made is self.values else last.detach()
        if tried is None or self.graph is None:
            return
        taken, record = tried
        self.n_accepted += 1
        if not isinstance(taken.h, Tensor) and (self.n_accepted + 1) * self.n_own <= MOST_EVALUATIONS:
            self._go_on(record)
            self.at = taken.y_next

    def accept_some(self, moved: Tensor) -> None:
        """Move on with some samples, given as a column of booleans; the others try again."""
        first, last = self.made[0].detach(), self.made[-1].detach()
        self.at = self.tried = None
        self.known = torch.where(moved, last, first) if self.n_carried else None

    def part(self, step: TakenStep, these: Tensor) -> TakenStep:
        """The step just tried, of some samples only."""
        return step.part(these)

    def restart(self, t: Any, h: Any, y: Tensor, edges: Edges) -> None:
        """Evaluate the first stage anew, after a discontinuity of the field."""
        self.at = None
        if self.n_carried:
            self.statistics.nfev += 1
            self.known = self.field(stage_time(t, h, 0.0, edges, self.time_dtype), y)

    def restart_some(self, t: Any, h: Tensor, y: Tensor, edges: Edges) -> None:
        """The same for the samples marked in the first of ``edges``."""
        self.at = None
        if self.n_carried:
            assert self.known is not None
            self.statistics.nfev += 1
            value = self.field(stage_time(t, h, 0.0, edges, self.time_dtype), y)
            self.known = torch.where(torch.as_tensor(edges[0]), value, self.known)

    def stop_keeping(self) -> None:
        """Record no graphs from here on; the step just tried is not kept either."""
        if self.tried is not None:
            self.tried[0].place = None
        self.keep = False
        self._forget()

    def release(self) -> None:
        """Let others have the memory: the stepper, and the stages of the steps it took, are not used any longer."""
        self._forget()
        self.memory.release()

    def take(self, these: Tensor) -> Self:
        """The same over some samples only."""
        field = self.field.take(these)
        other = type(self)(self.tableau, field, self.like[these], self.statistics, self.tolerances, keep=self.keep)
        other.known = None if self.known is None else self.known[these]
        return other

    def remake(self, step: TakenStep, first: Tensor | None, *, last_is_used: bool) -> Tensor:
        """Evaluate a step's stages again, in a graph that can be pulled back; returns the state at its end."""
        if step.place is not None:  # with the steps before it, for the same sums of gradients
            graph, index = step.place
            if self.again[0] is not graph:
                self.again = graph, self._recorded_again(graph, index + 1)
            record = self.again[1][index]
            del self.again[1][index:]
        else:
            if self.n_carried and first is None:
                first = self.field(stage_time(step.t, step.h, 0.0, step.edges, self.time_dtype), step.y)
            self._begin(RecordedGraph(first if self.n_carried else None), step.y)
            record = self._record(step.t, step.h, step.edges, last_is_used=last_is_used)
        self._forget()
        step.tape = record  # type: ignore[assignment]
        return record.y_next.detach()

    def pull(
        self,
        step: TakenStep,
        session: Any,
        cotangent: Tensor,
        carried: Tensor | None,
        given: Tensor | None,
    ) -> PulledStep:
        """The vector-Jacobian product of a step; see :meth:`skode.solvers.stepping.ExplicitStepper.pull`."""
        record: Any = step.tape
        if cotangent is not self.zero or cotangent._version:  # outputs may have added to it in place
            session.give(record.y_next, cotangent)
        if given is not None:
            for stage, of_outputs in zip(record.stages, given, strict=True):
                session.give(stage, of_outputs.view(self.shape))
        if carried is not None and carried is not self.nothing:
            session.give(record.stages[-1], carried.view(self.shape))
        if not record.opens:
            if self.zero is None or self.zero._version:
                self.zero = torch.zeros_like(step.y)
            return PulledStep(self.zero, self.nothing if self.n_carried else None)
        pulled = session.pull_given(record.leaves)
        # A copy, as autograd may answer two questions by one tensor, and the state's cotangent is added to in place.
        return PulledStep(pulled[0], pulled[1].reshape(1, -1).clone() if self.n_carried else None)

    @cached
    def nothing(self) -> Tensor:
        """Stands for the cotangent of a stage that was taken over inside the graph."""
        return self.like.new_zeros((1, self.like.numel()))

    def _begin(self, graph: RecordedGraph, y: Tensor) -> None:
        """Let the next step, from this state, be the first of a graph."""
        self.graph, self.n_accepted, self.at = graph, 0, y
        self.state, self.first = y.detach().requires_grad_(), None
        self.leaves = [self.state]
        if graph.first is not None:
            self.first = graph.first.detach().view(self.shape).requires_grad_()
            self.leaves.append(self.first)

    def _go_on(self, record: RecordedStep) -> None:
        """Let the next step go on with the graph of this one."""
        self.state, self.first = record.y_next, record.stages[-1] if self.n_carried else None

    def _record(self, t: Any, h: StepSize, edges: Edges, *, last_is_used: bool = True) -> RecordedStep:
        """A step from the state that the graph has come to."""
        state, first, field, terms, c = self.state, self.first, self.field, self.terms, self.tableau.c
        assert state is not None
        exact, last = edges is NO_EDGES, self.tableau.n_stages - 1
        y, stages = state, [] if first is None else [first]
        with torch.enable_grad():
            for i in range(len(stages), self.tableau.n_stages):
                if i:
                    y = combined(state, stages, terms.a[i], h)
                    if i == last and self.n_carried and not last_is_used:
                        break
                self.statistics.nfev += 1
                time = t + c[i] * h if exact else stage_time(t, h, c[i], edges, self.time_dtype)
                stages.append(field.recorded(time, y))
            y_next = y if self.n_carried else combined(state, stages, terms.b, h)
        return RecordedStep(self.leaves, state is self.leaves[0], y_next, stages, self.n_own, field.graph_nbytes)

    def _plain(self, t: Any, h: StepSize, y: Tensor, edges: Edges) -> Tensor:
        """Take a step without a graph; returns the state at its end."""
        values, field, terms, c, state = self.values, self.field, self.terms, self.tableau.c, y
        exact = edges is NO_EDGES
        for i in range(self.tableau.n_stages):
            if i:
                state = combined(y, values, terms.a[i], h)
            elif self.known is not None:
                if self.known is not values[0]:
                    values[0].copy_(self.known)
                continue
            self.statistics.nfev += 1
            time = t + c[i] * h if exact else stage_time(t, h, c[i], edges, self.time_dtype)
            values[i].copy_(field(time, state))  # whose memory may be used for its next value
        self.known = values[0]
        return state if self.n_carried else combined(y, values, terms.b, h)

    def _recorded_again(self, graph: RecordedGraph, n_steps: int) -> list[RecordedStep]:
        """The first steps of a graph, recorded once more."""
        records: list[RecordedStep] = []
        for t, h, y, edges in graph.steps[:n_steps]:
            if records:
                self._go_on(records[-1])
            else:
                self._begin(graph, y)
            records.append(self._record(t, h, edges))
        return records

    def _forget(self) -> None:
        """Hold on to no graph."""
        self.graph = self.at = self.state = self.first = self.tried = None
        self.leaves = []

"""Some attempts in a row as one recording with memory of its own, and the reverse sweep through them as others."""

from __future__ import annotations

import functools
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from skode.solvers.device.attempts import Attempted, Moment
from skode.solvers.device.field_memory import over_inputs, refresh
from skode.solvers.device.graphs import Recording, new_pool
from skode.solvers.device.workspace import Workspace
from skode.solvers.fields.protocols import Field, Tape

#: Number of recordings of reverse sweeps through a bundle from which on they are made for single steps only.
MOST_WAYS_BACK = 32

#: Bytes that a graph takes beside its tensors, about: the allocator's smallest block.
GRAPH_NBYTES = 2**21


@dataclass
class Results:
    """Where the results of a bundle are.

    Attributes
    ----------
    field : Field
        The field over this solve's inputs, as the way back needs it.
    attempted : list of Attempted
        The attempts.
    tape : Tape
        All evaluations: the first one of the solve where the bundle opens it, then those of the attempts.
    logs : Tensor
        The attempts' logs, and the sums of the elements of the last and of the first state.
    """

    field: Field
    attempted: list[Attempted]
    tape: Tape
    logs: Tensor


class Bundle:
    """Some attempts in a row with memory of their own, and the reverse sweep through them.

    A bundle does not hold on to the workspace, whose owner holds on to the bundle.

    Parameters
    ----------
    workspace : Workspace
        Where the attempts begin, and leave the state that they have come to.
    n : int
        Number of attempts.
    opens_solve : bool
        Whether the first evaluation of the solve comes before them, and the size of the first step if it is not given.

    Attributes
    ----------
    slots_per_attempt : int
        Number of evaluations of an attempt.
    forward : Recording
        The attempts.
    backward : dict of Recording
        Reverse sweeps, by the steps that they go through and the cotangents that there are.
    """

    def __init__(self, workspace: Workspace, n: int, *, opens_solve: bool) -> None:
        self.n, self.opens_solve = n, opens_solve
        self.pool = new_pool(workspace.device)
        self.slots_per_attempt = len(workspace.attempts.own)
        self.backward: dict[Hashable, Recording] = {}
        with torch.inference_mode(False), torch.no_grad():
            self.forward = Recording(lambda: self._attempt(workspace), workspace.device, self.pool)

    @property
    def pulls_together(self) -> bool:
        """Whether steps in a row are pulled back by one recording: while these are few, as rejections part them."""
        return len(self.backward) < MOST_WAYS_BACK

    @property
    def results(self) -> Results:
        """Where the results are."""
        return self.forward.result

    def nbytes(self) -> int:
        """Bytes of memory that the bundle takes, about."""
        results = self.results
        if results is None:  # a recording that has not been made
            return GRAPH_NBYTES
        return results.tape.nbytes() + sum(x.rows.nbytes for x in results.attempted) + GRAPH_NBYTES

    def _attempt(self, workspace: Workspace) -> Results:
        attempts = workspace.attempts
        moment, t1 = workspace.moment, attempts.t1
        refresh(workspace.field)
        n_opening = int(self.opens_solve)
        n_slots = n_opening + self.n * self.slots_per_attempt
        tape = workspace.field.tape(moment.y, n_slots, pullable=attempts.pullable)
        if self.opens_solve:
            t, size, last, before, rejected = (x.clone() for x in moment.clock)
            tape.place(0).copy_(moment.y.reshape(-1))
            value = torch.empty_like(moment.y)
            tape.evaluate(0, t, value)
            if workspace.finds_first_step:
                size = attempts.first_size(t, moment.y, value, (t1 - t).abs())
            first = None if moment.first is None else value.view(-1)
            moment = Moment(moment.y, first, (t, size, last, before, rejected))
        made = []
        for k in range(self.n):
            attempted, moment = attempts.attempt(moment, tape, n_opening + k * self.slots_per_attempt)
            made.append(attempted)
        sums = [y.sum(dtype=torch.float64).view(1) for y in (moment.y, workspace.moment.y)]
        workspace.moment.y.copy_(moment.y)
        if workspace.moment.first is not None and moment.first is not None:
            workspace.moment.first.copy_(moment.first)
        torch.stack(moment.clock, out=workspace.clock[:5])
        logs = torch.cat([*(attempted.log for attempted in made), *sums])
        # The next solve, which may come before the reverse sweep, has other inputs.
        own = [x.clone() for x in workspace.inputs]
        field = over_inputs(workspace.field, own) if own else workspace.field
        return Results(field, made, tape, logs)

    def pull(self, workspace: Workspace, steps: Sequence[int], *, carried: bool, given: bool, opening: bool) -> None:
        """Take the cotangents in the reverse sweep's memory back through some attempts, last to first.

        Parameters
        ----------
        workspace : Workspace
            The workspace that the bundle was made with.
        steps : sequence of int
            The attempts, which were all accepted.
        carried, given : bool
            Whether later steps have taken over a derivative, and whether there are outputs inside the attempts.
        opening : bool
            Whether the first evaluation of the solve is pulled back too.
        """
        reverse, opening = workspace.reverse, opening and workspace.moment.first is not None
        kind = (tuple(steps), carried, given, opening, reverse.fresh)
        reverse.fresh = False
        if kind not in self.backward:
            run = functools.partial(self._pull, workspace, *kind)
            self.backward[kind] = reverse.record(run, workspace.device, self.pool, warm_up=not self.backward)
        self.backward[kind].replay()

    def _pull(
        self,
        workspace: Workspace,
        steps: Sequence[int],
        with_carried: bool,
        with_given: bool,
        opening: bool,
        fresh: bool,
    ) -> None:
        reverse, results = workspace.reverse, self.results
        if fresh:
            reverse.gradient.zero_()
        session, lam = results.field.session(), reverse.lam
        carried = reverse.carried if with_carried else None
        from_outputs = reverse.given[len(steps)] if with_given else None
        for i in reversed(range(len(steps))):
            given = None if from_outputs is None else from_outputs[i, :-1]
            lam, carried = workspace.attempts.pull(results.attempted[steps[i]], session, lam, carried, given)
            if from_outputs is not None:
                lam = lam + from_outputs[i, -1].view(lam.shape)
        if opening:
            assert carried is not None
            out = torch.empty_like(lam)
            session.pull(results.tape, 0, carried.view(workspace.shape), out)
            session.flush(results.tape)
            lam, carried = lam + out, None
        reverse.lam.copy_(lam)
        if carried is not None:
            reverse.carried.copy_(carried)
        reverse.gather(session)

"""The discrete adjoint: the exact gradient of the computed solution, by a reverse sweep over the accepted steps.

No autograd graph of the solve exists, at most those of single evaluations. Each step is a few matrix-vector products
and one vector-Jacobian product per stage; see :meth:`skode.solvers.stepping.ExplicitStepper.pull` for the formula and
its sources. Step sizes count as constants of the solution.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from skode.solvers.device import ReplayedTape
from skode.solvers.fields.autograd import AutogradField
from skode.solvers.fields.parameters import held_tensors
from skode.solvers.fields.protocols import Field, Session, Tape
from skode.solvers.fields.times import time_dtype_of
from skode.solvers.first_order import first_order
from skode.solvers.forks import Lock
from skode.solvers.forward.accepted_step import AcceptedStep
from skode.solvers.forward.output_times import Reading
from skode.solvers.forward.outputs import weights_tensor
from skode.solvers.forward.run import Path, Run
from skode.solvers.indexing import entries, index
from skode.solvers.integrate import integrate, start_time
from skode.solvers.statistics import Statistics
from skode.solvers.stepping import ExplicitStepper, PulledStep, new_stepper
from skode.solvers.stepping.step import changed_field, stage_time
from skode.solvers.stepping.stepper import ReversibleStepper


def solve(run: Run, y0: Tensor, func: Any) -> tuple[Tensor, Path]:
    """Solve with gradients by the discrete adjoint; see :mod:`skode.solvers.adjoints`."""
    holder: list[Path] = []
    jump_times = None if run.jumps is None else run.jumps.times
    outputs = _DiscreteAdjoint.apply(run, holder, y0, jump_times, *run.field.parameters)
    return outputs, holder[0]


class _DiscreteAdjoint(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, run: Run, holder: list[Path], y0: Tensor, jumps: Tensor | None, *parameters: Tensor):
        start = y0.detach().clone() if run.outputs.dense else y0.detach()
        path = integrate(run, start, record=True, keep_stages=run.outputs.dense)
        holder.append(path)
        # The node must not hold on to the outputs, which hold on to it: neither would be freed.
        outputs, path.outputs = path.outputs, path.outputs.detach()
        ctx.run, ctx.path, ctx.lock = run, path, Lock()
        # Saved only so that autograd notices if one of them is changed in place before the backward pass.
        ctx.save_for_backward(y0, jumps, *parameters)
        ctx.versions = _versions(run)
        return outputs

    @staticmethod
    @first_order
    def backward(ctx: Any, grad_outputs: Tensor):
        y0, *_ = ctx.saved_tensors
        if any(tensor._version != version for tensor, version in ctx.versions):
            raise RuntimeError(
                "A tensor that func(t, y) reads has been modified by an inplace operation since the solve that is "
                "differentiated. Change it after backward(), or solve with adjoint='backprop'."
            )
        sweep = ReverseSweep(ctx.run, ctx.path, grad_outputs)
        with ctx.lock:  # the path's tapes are let go on the way; threads may share a graph
            grad_y0, grad_parameters = sweep.sweep(y0)
        return (None, None, grad_y0, sweep.grad_jumps, *grad_parameters)


class ReverseSweep:
    """The reverse sweep over one recorded path.

    Parameters
    ----------
    run : Run
        The solve.
    path : Path
        Its recorded solution.
    grad_outputs : Tensor
        Cotangents of the outputs.

    Attributes
    ----------
    grad_jumps : Tensor or None
        The gradient of the times at which the field jumps, where these require grad.
    """

    def __init__(self, run: Run, path: Path, grad_outputs: Tensor) -> None:
        self.run = run
        self.path = path
        self.grad_outputs = grad_outputs
        self.session: Session = run.field.session()
        self.steppers: dict[torch.Size, ReversibleStepper] = {}
        opening = run.recordings.opening
        self.opening = opening[0] if opening else None  # keeps the recording of the first evaluation
        self.grad_jumps = None if run.jumps is None else torch.zeros_like(run.jumps.times)
        self.remakes = False  # whether the field has been evaluated again

    def sweep(self, y0: Tensor) -> tuple[Tensor, list[Tensor | None]]:
        """Sweep from the end to the start; returns the cotangents of ``y0`` and of the parameters."""
        replay = self.run.recordings.replay
        if replay is None:
            return self._sweep(y0), list(self.session.parameter_gradients())
        with replay.sweep() as reverse:
            cotangent = self._sweep(y0).clone()
            recorded, rest = reverse.gradients(), self.session.parameter_gradients()
            return cotangent, [a if b is None else a.add_(b) for a, b in zip(recorded, rest, strict=True)]

    def _sweep(self, y0: Tensor) -> Tensor:
        # Of the state of all samples, and of the derivatives that steps take over from those before them.
        cotangent, carried = torch.zeros_like(y0), None
        n = len(self.path.steps)
        read = None if self.path.reading is None else self.path.reading.pull(self.grad_outputs)
        while n > 0:
            n -= 1
            step = self.path.steps[n]
            rows, lam, kappa = step.samples, cotangent, carried
            if rows is not None:
                lam = cotangent[rows]
                kappa = None if carried is None else carried[:, rows].flatten(1)
            if self.grad_jumps is not None:
                self._pull_jumps(step, lam)
            for reading in step.readings:
                if reading.at_end:
                    self._add(lam, reading)
            replayed = isinstance(step.taken.tape, ReplayedTape)
            given = self._given(step) if read is None else None if replayed else read[n]
            if replayed:
                n, pulled = self._replay(n, lam, kappa, given, read)
                given = None
            else:
                pulled = self._pull(step, n, lam, kappa, None if given is None else given[:-1])
            lam = pulled.y if given is None else pulled.y + given[-1].view(pulled.y.shape)
            if rows is None:
                cotangent, carried = lam, pulled.carried
            else:
                cotangent[rows] = lam
                if pulled.carried is not None:
                    if carried is None:
                        carried = lam.new_zeros((len(pulled.carried), *y0.shape))
                    carried[:, rows] = pulled.carried.view(-1, *lam.shape)
        if carried is not None and self.run.control.per_sample:
            cotangent = self._pull_first_stages(y0.detach(), cotangent, carried)
        for reading in self.path.start:
            self._add(cotangent, reading)
        for stepper in self.steppers.values():
            stepper.release()
        return cotangent

    def _pull(self, step: AcceptedStep, n: int, lam: Tensor, kappa: Tensor | None, given: Tensor | None) -> PulledStep:
        run, taken = self.run, step.taken
        stepper = self._stepper(taken.y, step.samples)
        # The last stage of the last step is used by outputs inside the step alone.
        last_is_used = given is not None or kappa is not None or not stepper.keeps_first or stepper.needs_stages
        if taken.tape is None:
            self._remake(stepper, step, last_is_used=last_is_used)
        assert taken.tape is not None
        run.statistics.nfev_backward += taken.tape.n_slots - (not last_is_used)
        pulled = stepper.pull(taken, self.session, lam, kappa, given)
        # A second backward pass, which few ask for, evaluates the field again.
        tape, taken.tape = taken.tape, None
        tape.release()
        if step.opens is not False and stepper.keeps_first:
            self._pull_opening(step, pulled, first=step is self.path.steps[0])
        return pulled

    def _pull_jumps(self, step: AcceptedStep, cotangent: Tensor) -> None:
        """Add to the jumps at a step's end the part of the cotangent of the state there, of all that comes later."""
        jumps, y = self.run.jumps, step.taken.y_next
        assert jumps is not None
        assert self.grad_jumps is not None
        for t, samples in jumps.at(step.t_next):
            these: Any = ... if samples is None else index(samples, y)
            rows = None if step.samples is None else step.samples[these]
            numbers = None if rows is None else rows.cpu().numpy()
            jumps.pull(self.grad_jumps, self._field(rows), t, y[these], cotangent[these], numbers)

    def _replay(
        self, n: int, lam: Tensor, kappa: Tensor | None, given: Tensor | None, read: Tensor | None
    ) -> tuple[int, PulledStep]:
        """Pull step n by a recording, and with it those before it whose outputs, if any, are all known in ``read``.

        Returns the last of them pulled; what else is returned is overwritten by the next recording.
        """
        steps, replay, statistics = self.path.steps, self.run.recordings.replay, self.run.statistics
        tape: Any = steps[n].taken.tape
        lease, last = tape.lease, n
        together = given is None and lease.bundle.pulls_together
        while together and n > 0 and not steps[n - 1].readings and _is_before(steps[n - 1], steps[n]):
            n -= 1
        if read is not None:
            given = read[n : last + 1]
        elif given is not None:
            given = given[None]
        takes_over = replay.moment.first is not None
        opening = n == 0 and takes_over and lease is self.opening
        n_slots = tape.n_slots
        unused = takes_over and kappa is None and given is None
        statistics.nfev_backward += n_slots * (last - n + 1) - unused + opening
        replay.reverse.fill(lam, None if kappa is None else kappa[0], given)
        tapes: list[Any] = [step.taken.tape for step in steps[n : last + 1]]
        indices = [tape.index for tape in tapes]
        lease.bundle.pull(replay, indices, carried=kappa is not None, given=given is not None, opening=opening)
        carried = replay.reverse.carried[None] if takes_over and not opening else None
        pulled = PulledStep(replay.reverse.lam, carried)
        if n == 0 and takes_over and not opening:
            self._pull_opening(steps[0], pulled, first=True)
        return n, pulled

    def _pull_opening(self, step: AcceptedStep, pulled: PulledStep, *, first: bool) -> None:
        """Pull first stages that were evaluated anew, rather than taken over from the step before."""
        taken, carried = step.taken, pulled.carried
        assert carried is not None
        everywhere = step.opens is True
        here: Any = ... if everywhere else torch.from_numpy(step.opens).to(carried.device)
        y, kappa = taken.y[here], carried[0].view(taken.y.shape)[here]
        rows = step.samples if everywhere or step.samples is None else step.samples[here]
        time = stage_time(taken.t, taken.h, 0.0, taken.edges, time_dtype_of(self.run.field, taken.y))
        tape = self._opening_tape(time if everywhere else time[here], y, rows, first=first and everywhere)
        grad_y = torch.empty_like(y, memory_format=torch.contiguous_format)
        self.session.pull(tape, 0, kappa, grad_y)
        self.session.flush(tape)
        tape.release()
        pulled.y[here] += grad_y
        if everywhere:
            pulled.carried = None
        else:
            carried[0].view(taken.y.shape)[here] = 0.0

    def _pull_first_stages(self, y0: Tensor, cotangent: Tensor, carried: Tensor) -> Tensor:
        """Pull the samples' very first stages, which all are evaluations at the start."""
        tape = self._opening_tape(self._start_time(y0), y0, None, first=True)
        grad_y = torch.empty_like(y0)
        self.session.pull(tape, 0, carried[0].contiguous(), grad_y)
        self.session.flush(tape)
        tape.release()
        return cotangent + grad_y

    def _start_time(self, y0: Tensor) -> Any:
        return start_time(self.run.problem, self.run.field, y0)

    def _opening_tape(self, t: Any, y: Tensor, rows: Tensor | None, *, first: bool) -> Tape:
        """A tape with the evaluation at ``(t, y)``: that of the solve where it is its first, and is still there."""
        self.run.statistics.nfev_backward += 1
        tape = None
        if first:
            tape, self.run.tape0 = self.run.tape0, None
        if tape is None:
            tape = self._field(rows).tape(y, 1, pullable=True)
            tape.place(0).copy_(y.reshape(-1))
            tape.evaluate(0, t, torch.empty_like(y, memory_format=torch.contiguous_format))
        return tape

    def _remake(self, stepper: ReversibleStepper, step: AcceptedStep, *, last_is_used: bool) -> None:
        """Evaluate the step again, and see that the field answers as before."""
        taken = step.taken
        if isinstance(self.run.field, AutogradField) and not self.remakes:
            self.run.field.evaluated_again()
            self.remakes = True
        first = step.first if taken.stages is None else taken.stages[0]
        self.run.statistics.nfev_backward += bool(first is None and stepper.n_carried)
        again = stepper.remake(taken, first, last_is_used=last_is_used)
        # Rounding may differ between two evaluations, by threads for example; a dropout mask differs by much more.
        tolerance = torch.finfo(again.dtype).eps ** 0.5
        size, off = torch.linalg.vector_norm(taken.y_next), torch.linalg.vector_norm(again - taken.y_next)
        if not bool(off <= tolerance * (size + again.numel() ** 0.5)):
            raise changed_field()

    def _stepper(self, y: Tensor, rows: Tensor | None) -> ReversibleStepper:
        """A stepper for states like this one, of these samples."""
        run, field = self.run, self._field(rows)
        if y.shape not in self.steppers:
            new: Any = ExplicitStepper if self.path.ahead else new_stepper
            self.steppers[y.shape] = new(run.tableau, field, y, Statistics(), tolerances=run.control.tolerances)
        stepper = self.steppers[y.shape]
        stepper.field = field
        return stepper

    def _field(self, rows: Tensor | None) -> Field:
        """The vector field of these samples."""
        return self.run.field if rows is None else self.run.field.take(rows)

    def _given(self, step: AcceptedStep) -> Tensor | None:
        """Cotangents that the outputs inside a step give its stages and the state at its start, of shape (s + 1, n).

        Of ``y(theta_j) = y + h sum_i b_i(theta_j) k_i`` these are ``h sum_j b_i(theta_j) ybar_j`` and ``sum_j ybar_j``.
        """
        total, taken = None, step.taken
        for reading in step.readings:
            if reading.at_end:
                continue
            h, rows = taken.h, None if reading.rows is None else index(reading.rows, self.grad_outputs)
            if rows is not None and isinstance(h, Tensor):
                h = h.reshape(-1)[rows, None]
            weights = weights_tensor(taken.tableau, reading.theta, self.grad_outputs).mul_(h)
            weights = nn.functional.pad(weights, (0, 1), value=1.0)
            ybar = entries(self.grad_outputs, reading.positions)[..., None].flatten(1)
            if rows is None:
                part = weights.t() @ ybar
            else:
                per_entry = (weights[..., None] * ybar[:, None]).flatten(1)
                part = per_entry.new_zeros((taken.y.shape[0], per_entry.shape[1])).index_add_(0, rows, per_entry)
                part = part.view(len(part), weights.shape[1], ybar.shape[1]).transpose(0, 1).flatten(1)
            total = part if total is None else total + part
        return total

    def _add(self, cotangent: Tensor, reading: Reading) -> None:
        """Add output cotangents to those of the state that the outputs start from."""
        given = entries(self.grad_outputs, reading.positions)
        if reading.rows is None:
            cotangent += given.sum(0)
        else:
            cotangent.index_add_(0, index(reading.rows, self.grad_outputs), given)


def _versions(run: Run) -> list[tuple[Tensor, int]]:
    """Counts of changes of the tensors that a recorded module reads besides its parameters.

    Recordings read them again, and autograd does not know that they do.
    """
    if run.recordings.replay is None or not isinstance(run.field, AutogradField):
        return []
    return [(tensor, tensor._version) for tensor in held_tensors(run.field.func) if not tensor.requires_grad]


def _is_before(step: AcceptedStep, later: AcceptedStep) -> bool:
    """Whether two steps were recorded together, the one right after the other."""
    tape, next_tape = step.taken.tape, later.taken.tape
    return (
        isinstance(tape, ReplayedTape)
        and isinstance(next_tape, ReplayedTape)
        and tape.lease is next_tape.lease
        and tape.index == next_tape.index - 1
    )

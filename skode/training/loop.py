"""The one training loop: Adam over mini-batches, with stopping, recovery and interruption.

It follows ``sklearn.neural_network.MLPClassifier`` where that has a rule: an epoch counts as no improvement when the
loss (or, with a validation score, that score) is not better than the best so far by ``tol``, and after
``n_iter_no_change`` such epochs training stops.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor

from skode.distributed.work import solving
from skode.solvers import SolverError, Statistics
from skode.training.caller import warn_caller
from skode.training.checkpoint import Checkpoint
from skode.training.order import AllRows, Order
from skode.training.parts import Parts, global_generators
from skode.training.progress import epoch_line, time_so_far
from skode.training.record import INTERRUPTED, Objective, TrainingRecord
from skode.training.settings import TrainingSettings
from skode.training.stopwatch import Pace, Stopwatch, say
from skode.training.updates import DivergedError, Updates, brief

MAX_RECOVERIES = 5
RECOVERY_FACTOR = 0.3

#: Attributes of training that are its progress as they are.
PROGRESS = (
    "learning_rate",
    "diverged",
    "recoveries",
    "n_updates",
    "sound",
    "least",
    "are_sound",
    "first_loss",
    "last_loss",
    "best",
    "best_weights",
    "averaged",
    "n_no_change",
)


@dataclass
class _Epoch:
    """An epoch under way.

    Attributes
    ----------
    number : int
        Its number, from 0.
    start : list of Tensor
        The weights at its beginning.
    random_state : dict
        State of the source of the samples' order at its beginning; None before that.
    total : float or Tensor
        Sum of the losses so far.
    n_drawn, n_batches : int
        Samples and updates so far.
    """

    number: int
    start: list[Tensor] = field(default_factory=list)
    random_state: Any = None
    total: Any = 0.0
    n_drawn: int = 0
    n_batches: int = 0


def train(
    objective: Objective,
    samples: int | Order,
    settings: TrainingSettings,
    rng: np.random.RandomState,
    *,
    validate: Callable[[], float] | None = None,
    on_epoch: Callable[[TrainingRecord], bool] | None = None,
    parts: Sequence[Any] = (),
) -> TrainingRecord:
    """Minimise an objective.

    Parameters
    ----------
    objective : Objective
        The function to minimise; its parameters are changed in place.
    samples : int or Order
        Samples to draw batches from: their number, where they are in memory.
    settings : TrainingSettings
        How to train.
    rng : RandomState
        Source of the order of the samples.
    validate : callable, default=None
        Returns a held-out score, higher is better. If given, it decides when to stop, and the best weights win.
    on_epoch : callable, default=None
        Called after each epoch with the record so far; training stops if it returns True.
    parts : sequence, default=()
        Objects that ``on_epoch`` changes, for checkpoints; see :class:`skode.training.parts.Parts`.

    Returns
    -------
    TrainingRecord
        Curves and how it ended.

    Warns
    -----
    ConvergenceWarning
        Where ``max_iter`` or the time limit came first, or where training diverged and had to be set back.
    """
    training = _Training(objective, samples, settings, rng, validate, on_epoch)
    training.outside = Parts([*objective.parts, rng, *global_generators(training.device), *parts])
    return training.checkpoint.step(training.run, changes=training.outside, under_way=training)


def train_epoch(
    objective: Objective,
    n_samples: int,
    settings: TrainingSettings,
    rng: np.random.RandomState,
    record: TrainingRecord | None,
) -> TrainingRecord:
    """Go on for one epoch from a record, or begin; returns the record of all epochs so far.

    With ``settings.averaging`` the objective's parameters are, before and after, the running mean of the weights that
    are trained, which the record has.
    """
    parameters = [p for p in objective.parameters() if p.requires_grad]
    mean = [p.detach().clone() for p in parameters] if settings.averaging else None
    if mean is not None and record is not None and record.weights is not None:
        _copy(record.weights, parameters)
    training = _Training(
        objective, n_samples, replace(settings, max_iter=1, schedule="constant", n_iter_no_change=None), rng, None, None
    )
    training.averaged = mean
    if record is not None:
        training.continue_from(record)
    record = training.run(complete=False)
    if training.averaged is not None:
        record.n_updates += training.n_updates
        record.weights = [p.detach().clone() for p in parameters]
        _copy(training.averaged, parameters)
    return record


@torch.no_grad()
def _copy(values: Sequence[Tensor], parameters: Sequence[Tensor]) -> None:
    for parameter, value in zip(parameters, values, strict=True):
        parameter.copy_(value)


class _Training(Updates):
    def __init__(
        self,
        objective: Objective,
        samples: int | Order,
        settings: TrainingSettings,
        rng: np.random.RandomState,
        validate: Callable[[], float] | None,
        on_epoch: Callable[[TrainingRecord], bool] | None,
    ) -> None:
        super().__init__(objective, settings, averages=bool(settings.averaging) and validate is not None)
        self.order = AllRows(int(samples)) if isinstance(samples, int | np.integer) else samples
        self.n_samples = len(self.order)
        self.rng = rng
        self.validate = validate
        self.on_epoch = on_epoch
        self.record = TrainingRecord()
        self.recoveries: list[str] = []
        # The weights at the start of the epoch with the least loss, all of whose solves went well.
        self.sound, self.least = self._snapshot(), math.inf
        self.best = -math.inf
        self.best_weights = self._snapshot()
        self.n_no_change = 0
        stopwatch = settings.stopwatch or Stopwatch(verbose=settings.verbose)
        self.pace = Pace(stopwatch, settings.max_iter, share=settings.time_share)
        self.out_of_time = False
        self.complete = True
        self.checkpoint = settings.checkpoint or Checkpoint()
        self.outside = Parts([])
        self.epoch = _Epoch(0)

    def state(self) -> dict[str, Any]:
        """All that the training of a checkpoint goes on from."""
        state = {name: getattr(self, name) for name in PROGRESS}
        state["outside"], state["optimizer"] = self.outside.state(), self.optimizer.state()
        state["schedule"] = (self.schedule.progress, self.schedule.stage)
        state["pace"], state["record"] = self.pace.state(), vars(self.record)
        state["epoch"] = vars(self.epoch)
        state["solves"] = [(s.nfev, s.nfev_backward) for s in self.solves]
        return state

    def go_on_from(self, state: dict[str, Any]) -> None:
        for name in PROGRESS:
            setattr(self, name, self._on_device(state[name]))
        self.outside.go_on_from(state["outside"])
        self.schedule.progress, self.schedule.stage = state["schedule"]
        self.optimizer = self._new_optimizer()
        self.optimizer.go_on_from(state["optimizer"])
        self.pace.go_on_from(state["pace"])
        self.record = TrainingRecord(**state["record"])
        self.epoch = _Epoch(**{name: self._on_device(value) for name, value in state["epoch"].items()})
        self.solves[:] = [Statistics(nfev=nfev, nfev_backward=backward) for nfev, backward in state["solves"]]
        if self.settings.verbose:
            say(f"Going on from a checkpoint after {len(self.record.loss_curve)} epochs.")

    def continue_from(self, record: TrainingRecord) -> None:
        """Take over the curves, the optimiser's moments and, where it had to be lowered, the learning rate."""
        self.is_first, self.n_before = not record.loss_curve, record.n_updates
        self.record = replace(record, stopped_because=TrainingRecord.stopped_because, converged=False)
        if record.learning_rate is not None and record.learning_rate < self.learning_rate:
            self.learning_rate = record.learning_rate
            self.optimizer = self._new_optimizer()
        if record.optimizer_state is not None:
            self.optimizer.go_on_from(record.optimizer_state)

    def run(self, *, complete: bool = True) -> TrainingRecord:
        """All epochs; a warning that ``max_iter`` came first only where they were to be ``complete``."""
        record, settings, self.complete = self.record, self.settings, complete
        try:
            if self.pace.is_limited and self.validate is not None:
                with self.pace.closing():
                    self._validated()  # to know how long it takes
            with self.checkpoint.careful():
                if self.processes is not None:  # weights that a user's module began with may differ
                    self.processes.take_from_first([*self.parameters, *self.best_weights, *self.sound])
                self._epochs()
        except KeyboardInterrupt:
            self.checkpoint.close()
            record.stopped_because = INTERRUPTED
            warn_caller(
                f"Training interrupted by user; the estimator keeps what it has learned.{self.checkpoint.advice}",
                UserWarning,
            )
        if self.validate is not None and math.isfinite(self.best):
            self._restore(self.best_weights)
        else:
            self._see_that_it_is_usable()
        self._warn()
        if settings.verbose and complete:
            say(
                f"{settings.phase or 'Training'} ended after {len(record.loss_curve)} epochs: {record.stopped_because}."
            )
        record.optimizer_state = self.optimizer.state()
        record.learning_rate = self.learning_rate if self.recoveries else record.learning_rate
        return record

    def _epochs(self) -> None:
        record, settings = self.record, self.settings
        for number in range(self.epoch.number, settings.max_iter):
            if self.epoch.random_state is None:
                self.epoch = _Epoch(number, self._snapshot(), self.rng.get_state(legacy=False))
                self.solves.clear()
            epoch = self.epoch
            try:
                self._epoch(epoch)
            except DivergedError as diverged:
                self.epoch = _Epoch(number + 1)
                if not self._recover(number, str(diverged)):
                    return
                continue
            self.epoch = _Epoch(number + 1)
            if record.loss_curve[-1] < self.least:
                self.sound, self.least = epoch.start, record.loss_curve[-1]
            if self._finished():
                return
            if self.out_of_time or (self.pace.is_over and number + 1 < settings.max_iter):
                self._end_by_time()
                return
            self.checkpoint.look()
        if settings.schedule == "cosine":
            record.stopped_because, record.converged = "the learning rate has come down to 0", True

    def _epoch(self, epoch: _Epoch) -> None:
        settings, record = self.settings, self.record
        n_in_epoch = self.n_samples * settings.passes
        for rows in itertools.islice(self._batches(), epoch.n_batches, None):
            self._follow_schedule(self.pace.progress((epoch.number + epoch.n_drawn / n_in_epoch) / settings.max_iter))
            epoch.total += self._update(rows) * len(rows)
            epoch.n_drawn += len(rows)
            epoch.n_batches += 1
            self.checkpoint.look()
            if self.pace.is_over and epoch.n_drawn < n_in_epoch:
                self.out_of_time = True
                break
        self._look()
        if self.processes is not None:  # whose processors may round differently
            self.processes.take_from_first(self.parameters)
        solves = self.solves
        record.loss_curve.append(float(epoch.total) / epoch.n_drawn)
        record.nfe_forward.append(self._mean([s.nfev for s in solves]))
        record.nfe_backward.append(self._mean([s.nfev_backward for s in solves]))

    def _mean(self, counts: list[int]) -> float:
        """The mean of numbers of solves; 0 where there are none."""
        if self.processes is None:
            return float(np.mean(counts)) if counts else 0.0
        total, n = self.processes.totals(sum(counts), len(counts))
        return total / max(n, 1.0)

    def _batches(self) -> Iterator[Any]:
        """The rows of the updates of an epoch, from its beginning on."""
        if self.epoch.n_batches:  # of an epoch that goes on
            self.rng.set_state(self.epoch.random_state)
        for _ in range(self.settings.passes):
            rng = self.rng if self.settings.shuffle else None
            device = None if self.diverged is None else self.device
            yield from self.order.batches(self.settings.batch_size, rng, device)

    def _end_by_time(self) -> None:
        """Note that the time limit came first. A schedule that has followed the time is at its end all the same."""
        record, settings = self.record, self.settings
        self.out_of_time = True
        record.stopped_because = f"max_time={self.pace.stopwatch.max_time} was reached"
        if settings.schedule == "cosine" and self.n_updates * settings.batch_size >= self.n_samples * settings.passes:
            record.stopped_because += ", over which the learning rate has come down to 0"
            record.converged = True

    def _finished(self) -> bool:
        """Account for an epoch; whether it was the last."""
        record, settings = self.record, self.settings
        with self.pace.closing():
            score = self._scored()
            stopped = self.on_epoch is not None and self.on_epoch(record)
            if self.processes is not None:
                stopped = self.processes.any(stopped)
        seconds = self.pace.end_epoch()
        if settings.verbose:
            say(self._line(score if self.validate is not None else None, seconds))
        if stopped:
            record.stopped_because, record.converged = "a callback stopped it", True
            return True
        if settings.n_iter_no_change is not None and self.n_no_change >= settings.n_iter_no_change:
            what = "validation score" if self.validate is not None else "training loss"
            record.stopped_because = (
                f"the {what} did not improve by more than tol={settings.tol} for "
                f"{settings.n_iter_no_change} consecutive epochs"
            )
            record.converged = True
            return True
        return False

    def _scored(self) -> float:
        """The score of an epoch, held-out or the negative loss; its weights are kept where it is the best."""
        record, settings = self.record, self.settings
        if self.validate is not None:
            score = self._validated()
            record.validation_scores.append(score)
        else:
            score = -record.loss_curve[-1]
        better = score > self.best + settings.tol or self.schedule.progress < settings.warm_up
        self.n_no_change = 0 if better else self.n_no_change + 1
        if score > self.best and self.schedule.progress >= settings.warm_up:
            self.best = score
            if self.validate is not None:
                self.best_weights = self._snapshot() if self.averaged is None else [w.clone() for w in self.averaged]
        return score

    def _line(self, score: float | None, seconds: float) -> str:
        """The line to print for the epoch that has just ended."""
        record, settings, pace = self.record, self.settings, self.pace
        line = epoch_line(
            len(record.loss_curve),
            settings.max_iter if self.complete else None,
            record.loss_curve[-1],
            score=score,
            nfe=(record.nfe_forward[-1], record.nfe_backward[-1]) if self.solves else None,
            seconds=seconds,
            phase=settings.phase,
        )
        return f"{line}; {time_so_far(pace.stopwatch.elapsed, pace.left if self.complete else None)}"

    def _validated(self) -> float:
        """The held-out score, of the weights' running mean where there is one."""
        assert self.validate is not None
        present = self._snapshot() if self.averaged is not None else None
        if self.averaged is not None:
            self._restore(self.averaged)
        try:
            with solving():
                score = self.validate()
            return score if self.processes is None else self.processes.of_first(score)
        except SolverError:
            return -math.inf
        finally:
            if present is not None:
                self._restore(present)

    def _see_that_it_is_usable(self) -> None:
        """Go back to sound weights if training has made things worse and the last ones can't be evaluated."""
        went_well = self.n_updates > 1 and not self.recoveries and bool(self.last_loss < self.first_loss)
        if self.are_sound or went_well:
            return
        self.solves.clear()
        try:
            with torch.no_grad():
                batches = self.order.batches(self.settings.batch_size, None)
                losses = [self.objective.loss(rows).item() for rows in batches]
            reason = None if math.isfinite(sum(losses)) else "the loss of the last weights is not finite"
        except SolverError as error:
            reason = brief(error)
        if reason is not None:
            self._restore(self.sound)
            if self.averaged is not None:
                self.averaged = self._snapshot()
            self.learning_rate *= RECOVERY_FACTOR
            self.recoveries.append(f"after the last iteration: {reason}")

    def _recover(self, epoch: int, reason: str) -> bool:
        """Go back to sound weights and learn more slowly; False where that has been tried enough."""
        self._restore(self.sound)
        if self.averaged is not None:
            self.averaged = self._snapshot()
        if self.diverged is not None:
            self.diverged = torch.zeros_like(self.diverged)
        self.are_sound = True
        self.recoveries.append(f"iteration {epoch + 1}: {reason}")
        if self.settings.verbose:
            say(f"Epoch {epoch + 1} diverged ({reason}); going back to the weights of before.")
        if len(self.recoveries) > MAX_RECOVERIES:
            self.record.stopped_because = "training diverged again and again"
            return False
        self.learning_rate *= RECOVERY_FACTOR
        self.optimizer = self._new_optimizer()
        return True

    def _warn(self) -> None:
        if self.recoveries:
            learned = "estimator is usable" if self.record.loss_curve else "estimator has learned nothing"
            warn_caller(
                f"Training diverged {len(self.recoveries)} time(s) ({self.recoveries[-1]}). The best weights of "
                f"before were restored and learning_rate_init was lowered to {self.learning_rate:.3g}; the {learned}. "
                f"Lower learning_rate_init (it was {self.settings.learning_rate:.3g}).",
                ConvergenceWarning,
            )
        elif self.complete and self.out_of_time and not self.record.converged:
            warn_caller(
                f"max_time={self.pace.stopwatch.max_time} ended training in epoch {len(self.record.loss_curve)} of "
                f"{self.settings.max_iter}, and the optimization hasn't converged yet. Raise max_time.",
                ConvergenceWarning,
            )
        elif self.complete and self.record.stopped_because == "max_iter was reached":
            advice = "Raise max_iter or tol" + (", or set early_stopping=True." if self.validate is None else ".")
            warn_caller(
                f"Maximum iterations ({self.settings.max_iter}) reached and the optimization hasn't converged yet. "
                + advice,
                ConvergenceWarning,
            )

"""The one training loop: Adam over mini-batches, with stopping, recovery and interruption.

It follows ``sklearn.neural_network.MLPClassifier`` where that has a rule: an epoch counts as no improvement when the
loss (or, with a validation score, that score) is not better than the best so far by ``tol``, and after
``n_iter_no_change`` such epochs training stops.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor

from skode.solvers import SolverError, Statistics
from skode.solvers.devices import is_asynchronous
from skode.training.adam import Adam
from skode.training.caller import warn_caller
from skode.training.gradients import clip, clip_without_waiting
from skode.training.optimizer import Optimizer
from skode.training.progress import epoch_line, time_so_far
from skode.training.record import INTERRUPTED, Objective, TrainingRecord
from skode.training.schedule import Schedule
from skode.training.settings import TrainingSettings
from skode.training.soap import SOAP
from skode.training.stopwatch import Pace, Stopwatch

MAX_RECOVERIES = 5
RECOVERY_FACTOR = 0.3

#: Updates between two looks at whether training on a device that is not to be waited for has diverged.
LOOK_EVERY = 64


class _DivergedError(Exception):
    """A batch's loss or gradient was not finite, or its solve failed."""


def train(
    objective: Objective,
    n_samples: int,
    settings: TrainingSettings,
    rng: np.random.RandomState,
    *,
    validate: Callable[[], float] | None = None,
    on_epoch: Callable[[TrainingRecord], bool] | None = None,
) -> TrainingRecord:
    """Minimise an objective.

    Parameters
    ----------
    objective : Objective
        The function to minimise; its parameters are changed in place.
    n_samples : int
        Samples to draw batches from.
    settings : TrainingSettings
        How to train.
    rng : RandomState
        Source of the order of the samples.
    validate : callable, default=None
        Returns a held-out score, higher is better. If given, it decides when to stop, and the best weights win.
    on_epoch : callable, default=None
        Called after each epoch with the record so far; training stops if it returns True.

    Returns
    -------
    TrainingRecord
        Curves and how it ended.

    Warns
    -----
    ConvergenceWarning
        Where ``max_iter`` or the time limit came first, or where training diverged and had to be set back.
    """
    return _Training(objective, n_samples, settings, rng, validate, on_epoch).run()


def train_epoch(
    objective: Objective,
    n_samples: int,
    settings: TrainingSettings,
    rng: np.random.RandomState,
    record: TrainingRecord | None,
) -> TrainingRecord:
    """Go on for one epoch from a record, or begin; returns the record of all epochs so far."""
    training = _Training(
        objective, n_samples, replace(settings, max_iter=1, schedule="constant", n_iter_no_change=None), rng, None, None
    )
    if record is not None:
        training.go_on_from(record)
    return training.run(complete=False)


class _Training:
    def __init__(
        self,
        objective: Objective,
        n_samples: int,
        settings: TrainingSettings,
        rng: np.random.RandomState,
        validate: Callable[[], float] | None,
        on_epoch: Callable[[TrainingRecord], bool] | None,
    ) -> None:
        self.objective = objective
        # Statistics of the solves of this epoch.
        solver = objective.solver
        self.solves: list[Statistics] = [] if solver is None or solver.solves is None else solver.solves
        self.n_samples = n_samples
        self.settings = settings
        self.rng = rng
        self.validate = validate
        self.on_epoch = on_epoch
        self.parameters = [p for p in objective.parameters() if p.requires_grad]
        self.learning_rate = settings.learning_rate
        self.device = self.parameters[0].device if self.parameters else torch.device("cpu")
        # Where the device is not to be waited for: whether a loss or a gradient was not finite since the last look.
        self.diverged = torch.zeros((), device=self.device) if is_asynchronous(self.device) else None
        self.schedule = Schedule(settings)
        self.optimizer = self._new_optimizer()
        self.record = TrainingRecord()
        self.recoveries: list[str] = []
        self.n_updates = 0
        # The weights at the start of the epoch with the least loss, all of whose solves went well.
        self.sound, self.least, self.are_sound = self._snapshot(), math.inf, True
        self.first_loss: Any = math.nan
        self.last_loss: Any = math.nan
        self.best = -math.inf
        self.best_weights = self._snapshot()
        # The running mean of the weights, where validation is to look at that.
        self.averaged = self._snapshot() if settings.averaging and validate is not None else None
        self.n_no_change = 0
        stopwatch = settings.stopwatch or Stopwatch(verbose=settings.verbose)
        self.pace = Pace(stopwatch, settings.max_iter, share=settings.time_share)
        self.out_of_time = False
        self.complete = True

    def go_on_from(self, record: TrainingRecord) -> None:
        """Take over the curves, the optimiser's moments and, where it had to be lowered, the learning rate."""
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
            for epoch in range(settings.max_iter):
                start = self._snapshot()
                try:
                    self._epoch(epoch)
                except _DivergedError as diverged:
                    if not self._recover(epoch, str(diverged)):
                        break
                    continue
                if record.loss_curve[-1] < self.least:
                    self.sound, self.least = start, record.loss_curve[-1]
                if self._finished():
                    break
                if self.out_of_time or (self.pace.is_over and epoch + 1 < settings.max_iter):
                    self._end_by_time()
                    break
            else:
                if settings.schedule == "cosine":
                    record.stopped_because, record.converged = "the learning rate has come down to 0", True
        except KeyboardInterrupt:
            record.stopped_because = INTERRUPTED
            warn_caller("Training interrupted by user; the estimator keeps what it has learned.", UserWarning)
        if self.validate is not None and math.isfinite(self.best):
            self._restore(self.best_weights)
        else:
            self._see_that_it_is_usable()
        self._warn()
        if settings.verbose and complete:
            print(
                f"{settings.phase or 'Training'} ended after {len(record.loss_curve)} epochs: "
                f"{record.stopped_because}.",
                flush=True,
            )
        record.optimizer_state = self.optimizer.state()
        record.learning_rate = self.learning_rate if self.recoveries else record.learning_rate
        return record

    def _epoch(self, epoch: int) -> None:
        settings, record = self.settings, self.record
        total: Any = 0.0
        n_drawn = 0
        n_in_epoch = self.n_samples * settings.passes
        self.solves.clear()
        for rows in self._batches():
            self._follow_schedule(self.pace.progress((epoch + n_drawn / n_in_epoch) / settings.max_iter))
            total += self._update(rows) * len(rows)
            n_drawn += len(rows)
            if self.pace.is_over and n_drawn < n_in_epoch:
                self.out_of_time = True
                break
        self._look()
        solves = self.solves
        record.loss_curve.append(float(total) / n_drawn)
        record.nfe_forward.append(float(np.mean([s.nfev for s in solves])) if solves else 0.0)
        record.nfe_backward.append(float(np.mean([s.nfev_backward for s in solves])) if solves else 0.0)

    def _batches(self) -> Iterator[Any]:
        """The rows of the updates of an epoch."""
        for _ in range(self.settings.passes):
            order: Any = self.rng.permutation(self.n_samples) if self.settings.shuffle else np.arange(self.n_samples)
            if self.diverged is not None:
                order = torch.from_numpy(order).to(self.device)
            for first in range(0, self.n_samples, self.settings.batch_size):
                yield order[first : first + self.settings.batch_size]

    def _follow_schedule(self, progress: float) -> None:
        """Set the learning rate, and in a new stage the penalty, for a moment of training, counted from 0 to 1."""
        if self.settings.on_progress is not None:
            self.settings.on_progress(progress)
        if self.schedule.follow(progress):
            self.optimizer = self._new_optimizer()
        if self.schedule.is_cosine:
            self.optimizer.learning_rate = self.learning_rate * self.schedule.factor

    def _update(self, rows: Any) -> Any:
        """One step of Adam; returns the loss before it, a number or a tensor on a device not to be waited for."""
        self.optimizer.clear()
        try:
            loss = self.objective.loss(rows)
            value: Any = loss.item() if self.diverged is None else loss.detach()
            if self.diverged is not None or math.isfinite(value):
                loss.backward()
        except SolverError as error:
            if self.n_updates == 0 and not self.record.loss_curve:
                raise  # the model can't be evaluated as it was built: training is not to blame
            self._look()  # that may be why
            raise _DivergedError(_brief(error)) from error
        if self.diverged is None:
            self._check_and_clip(value)
        else:
            self._note_and_clip(value)
        self.optimizer.step()
        if self.averaged is not None:
            # In the beginning over as many updates as there are, so that the first weights don't linger.
            share = min(self.settings.averaging, (1.0 + self.n_updates) / (10.0 + self.n_updates))
            torch._foreach_lerp_(self.averaged, [p.detach() for p in self.parameters], 1.0 - share)
        if not self.n_updates:
            self.first_loss = value
        self.last_loss = value
        self.are_sound = False
        self.n_updates += 1
        if self.n_updates % LOOK_EVERY == 0:
            self._look()
        return value

    def _check_and_clip(self, value: float) -> None:
        """Refuse a loss or a gradient that is not finite, and shorten one that is too long."""
        if not math.isfinite(value):
            raise _DivergedError(f"the loss became {value}")
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        if not clip(gradients, self.device, self.settings.max_grad_norm):
            raise _DivergedError("the gradient became infinite or NaN")

    def _note_and_clip(self, value: Tensor) -> None:
        """The same without waiting: from the first such update on the optimiser leaves all weights as they are."""
        assert self.diverged is not None
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        norm = clip_without_waiting(gradients, self.device, self.settings.max_grad_norm)
        self.diverged = torch.maximum(self.diverged, 1.0 - torch.isfinite(norm + value).to(self.diverged))
        self.optimizer.found_inf = self.diverged

    def _look(self) -> None:
        """See whether an update since the last look has diverged; the one place where the device is waited for."""
        if self.diverged is not None and self.diverged.item():
            self.diverged = torch.zeros_like(self.diverged)
            raise _DivergedError("the loss or its gradient became infinite or NaN")

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
        seconds = self.pace.end_epoch()
        if settings.verbose:
            print(self._line(score if self.validate is not None else None, seconds), flush=True)
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
            return self.validate()
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
                rows = np.arange(self.n_samples)
                size = self.settings.batch_size
                losses = [self.objective.loss(rows[i : i + size]).item() for i in range(0, self.n_samples, size)]
            reason = None if math.isfinite(sum(losses)) else "the loss of the last weights is not finite"
        except SolverError as error:
            reason = _brief(error)
        if reason is not None:
            self._restore(self.sound)
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
            print(f"Epoch {epoch + 1} diverged ({reason}); going back to the weights of before.")
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

    def _new_optimizer(self) -> Optimizer:
        """The optimiser, with scikit-learn's L2 penalty, divided by the size of a batch."""
        settings = self.settings
        kind: type[Optimizer] = SOAP if settings.optimizer == "soap" else Adam
        return kind(self.parameters, self.learning_rate, self.schedule.alpha / settings.batch_size)

    def _snapshot(self) -> list[Tensor]:
        return [p.detach().clone() for p in self.parameters]

    @torch.no_grad()
    def _restore(self, weights: list[Tensor]) -> None:
        for parameter, value in zip(self.parameters, weights, strict=True):
            parameter.copy_(value)


def _brief(error: SolverError) -> str:
    """The reason of a failed solve, without the advice: in training that is to lower the learning rate."""
    return f"{error.reason} at t={error.time:.6g}"

"""Updates of weights: the gradient of a batch, its checks, and the step of the optimiser."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from skode.distributed.group import Processes
from skode.distributed.scope import in_step
from skode.distributed.share import share_of
from skode.solvers import SolverError, Statistics
from skode.solvers.devices import is_asynchronous
from skode.training.adam import Adam
from skode.training.gradients import clip, clip_without_waiting
from skode.training.optimizer import Optimizer
from skode.training.record import Objective
from skode.training.schedule import Schedule
from skode.training.settings import TrainingSettings
from skode.training.soap import SOAP

#: Updates between two looks at whether training on a device that is not to be waited for has diverged.
LOOK_EVERY = 64


class DivergedError(Exception):
    """A batch's loss or gradient was not finite, or its solve failed."""


class Updates:
    """Weights in training, and the updates of them.

    Parameters
    ----------
    objective : Objective
        The function to minimise.
    settings : TrainingSettings
        How to train.
    averages : bool
        Whether there is a running mean of the weights.

    Attributes
    ----------
    n_updates : int
        Number of updates so far.
    first_loss, last_loss : float or Tensor
        Losses before the first and the last of them.
    are_sound : bool
        Whether the weights are ones that a whole epoch went well with.
    is_first : bool
        Whether nothing was trained before this.
    n_before : int
        Number of updates that the running mean of the weights has followed before these.
    """

    is_first = True
    n_before = 0

    def __init__(self, objective: Objective, settings: TrainingSettings, *, averages: bool) -> None:
        self.objective, self.settings = objective, settings
        self.processes = in_step()
        # Statistics of the solves of this epoch.
        solver = objective.solver
        self.solves: list[Statistics] = [] if solver is None or solver.solves is None else solver.solves
        self.parameters = [p for p in objective.parameters() if p.requires_grad]
        self.learning_rate = settings.learning_rate
        self.device = self.parameters[0].device if self.parameters else torch.device("cpu")
        # Where the device is not to be waited for: whether a loss or a gradient was not finite since the last look.
        self.diverged = torch.zeros((), device=self.device) if is_asynchronous(self.device) else None
        self.schedule = Schedule(settings)
        self.optimizer = self._new_optimizer()
        self.n_updates = 0
        self.are_sound = True
        self.first_loss: Any = math.nan
        self.last_loss: Any = math.nan
        # The running mean of the weights, where validation is to look at that.
        self.averaged = self._snapshot() if averages else None

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
            value = self._gradient(rows) if self.processes is None else self._shared_gradient(rows, self.processes)
        except SolverError as error:
            if self.n_updates == 0 and self.is_first:
                raise  # the model can't be evaluated as it was built: training is not to blame
            self._look()  # that may be why
            raise DivergedError(brief(error)) from error
        if self.diverged is None:
            self._check_and_clip(value)
        else:
            self._note_and_clip(value)
        self.optimizer.step()
        if self.averaged is not None:
            # In the beginning over as many updates as there are, so that the first weights don't linger.
            n = self.n_before + self.n_updates
            share = min(self.settings.averaging, (1.0 + n) / (10.0 + n))
            torch._foreach_lerp_(self.averaged, [p.detach() for p in self.parameters], 1.0 - share)
        if not self.n_updates:
            self.first_loss = value
        self.last_loss = value
        self.are_sound = False
        self.n_updates += 1
        if self.n_updates % LOOK_EVERY == 0:
            self._look()
        return value

    def _gradient(self, rows: Any) -> Any:
        """Compute the gradient of a batch; returns its loss."""
        loss = self.objective.loss(rows)
        value: Any = loss.item() if self.diverged is None else loss.detach()
        if self.diverged is not None or math.isfinite(value):
            loss.backward()
        return value

    def _shared_gradient(self, rows: Any, processes: Processes) -> Any:
        """The same where this process takes a share of the batch: the sum of what all of them compute."""
        with processes.solving():
            loss = self.objective.loss(rows, share_of(processes, len(rows)))
            loss.backward()
        value = loss.detach().clone()
        processes.sum_up([*(p.grad for p in self.parameters if p.grad is not None), value])
        return value.item() if self.diverged is None else value

    def _check_and_clip(self, value: float) -> None:
        """Refuse a loss or a gradient that is not finite, and shorten one that is too long."""
        if not math.isfinite(value):
            raise DivergedError(f"the loss became {value}")
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        if not clip(gradients, self.device, self.settings.max_grad_norm):
            raise DivergedError("the gradient became infinite or NaN")

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
            raise DivergedError("the loss or its gradient became infinite or NaN")

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

    def _on_device(self, value: Any) -> Any:
        """A value of a checkpoint, whose tensors are on the CPU, where training is."""
        if isinstance(value, list):
            return [self._on_device(own) for own in value]
        return value.to(self.device) if isinstance(value, Tensor) else value


def brief(error: SolverError) -> str:
    """The reason of a failed solve, without the advice: in training that is to lower the learning rate."""
    return f"{error.reason} at t={error.time:.6g}"

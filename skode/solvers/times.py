"""Derivatives with respect to times: how outputs and steps move when the user's times do.

The user's times reach the engine as one tensor ``[t0, t1, *output_times]``. Step boundaries are functions of it: they
stretch with the time span, ``t_n = t0 + s_n (t1 - t0)`` with constant ``s_n``, or, where a fixed-step method steps
from output time to output time, are the output times. Under this rule the computed solution has an exact derivative
with respect to every time, which autograd through the solver and the reverse sweep both find.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from skode.solvers.integrate import Path, Problem, index
from skode.solvers.march import Clock


class TimeGradients:
    """Gathers the times' gradients during a reverse sweep.

    Parameters
    ----------
    problem : Problem
        What was solved.
    path : Path
        Its solution, recorded with its stages.
    """

    def __init__(self, problem: Problem, path: Path) -> None:
        self.problem = problem
        self.path = path
        self.nodes = np.zeros(len(path.steps) + 1)
        self.outputs = np.zeros(len(path.times))

    def add_step(self, n: int, grad_t: float, grad_h: float) -> None:
        """Cotangents of step n's start and size: ``h = t_{n+1} - t_n``."""
        self.nodes[n] += grad_t - grad_h
        self.nodes[n + 1] += grad_h

    def add_outputs(self, grad_outputs: Tensor) -> None:
        """Outputs move along the solution, ``dy/dt = sum_i b_i'(theta) k_i``, when their own times do."""
        if self.problem.times is None or self.problem.grid_is_times:
            return
        per_sample = self.problem.control.per_sample
        if per_sample:  # their first steps may be taken in different rounds
            self._add_start(grad_outputs)
        for n, step in enumerate(self.path.steps):
            # Those at the initial time lie at the start of the first step.
            tableau, stages = step.taken.tableau, step.taken.stages
            n_rows = len(step.taken.y) if step.taken.y.ndim else 1
            for reading in [*(self.path.start if n == 0 and not per_sample else []), *step.readings]:
                theta = reading.theta
                moved = self._along(grad_outputs, reading, stages, tableau.interpolation_weight_slopes(theta), n_rows)
                self.outputs[reading.positions] += moved
                if per_sample:
                    continue
                if reading.at_end:
                    self.nodes[n + 1] -= moved.sum()
                    continue
                scaled = self._along(grad_outputs, reading, stages, tableau.interpolation_weights(theta), n_rows)
                self.add_step(n, -moved.sum(), float((scaled - theta * moved).sum()))

    def _add_start(self, grad_outputs: Tensor) -> None:
        """The same for outputs of single samples at their initial times, where the slope is that of the field."""
        for reading in self.path.start:
            assert reading.rows is not None
            given = grad_outputs[index(reading.positions, grad_outputs)]
            rates = self.problem.f0[index(reading.rows, grad_outputs)]
            self.outputs[reading.positions] += (given * rates).flatten(1).sum(1).double().cpu().numpy()

    def gathered(self) -> Tensor:
        """The gradient of ``[t0, t1, *output_times]``, in float64 as the times are."""
        start = end = 0.0
        outputs = self.outputs[: 0 if self.problem.times is None else len(self.problem.times)]
        if self.problem.grid_is_times:
            outputs = outputs + self.nodes
        elif not self.problem.control.per_sample:
            span = self.problem.t1 - self.problem.t0
            reached = [step.t for step in self.path.steps]
            s = np.array([(t - self.problem.t0) / span for t in reached] + [1.0]) if reached else np.zeros(1)
            start, end = float(self.nodes @ (1 - s)), float(self.nodes @ s)
        return torch.tensor([start, end, *outputs], dtype=torch.float64)

    def _along(
        self, grad_outputs: Tensor, reading: Any, stages: Tensor | None, weights: np.ndarray, n_rows: int
    ) -> np.ndarray:
        """``g_j . sum_i w_ji k_i`` for each output j of a reading."""
        assert stages is not None
        given = grad_outputs[index(reading.positions, grad_outputs)][..., None].flatten(1)
        w = torch.from_numpy(weights).to(stages)
        if reading.rows is None:
            moved = (given * (w @ stages)).sum(1)
        else:
            own = stages.view(len(stages), n_rows, -1)[:, index(reading.rows, stages)]
            moved = torch.einsum("qf,qs,sqf->q", given, w, own)
        return moved.double().cpu().numpy()


class TensorClock(Clock):
    """Times and step sizes as tensors that carry the derivative with respect to the user's times."""

    def __init__(self, problem: Problem, times: Tensor) -> None:
        self.t0, self.t1 = problem.t0, problem.t1
        self.start, self.end = times[0], times[1]
        self.node: dict[float, Tensor] = {}
        if problem.grid_is_times and problem.times is not None:
            self.node = dict(zip(problem.times.tolist(), times[2:], strict=True))

    def at(self, t: float) -> Tensor:
        if self.node:
            return self.node[t]
        if t == self.t0 or math.isinf(self.t1):
            return self.start + (t - self.t0)
        return self.start + (t - self.t0) / (self.t1 - self.t0) * (self.end - self.start)

    def between(self, t: float, t_next: float, h: float) -> Tensor:
        if self.node:
            return self.node[t_next] - self.node[t]
        if math.isinf(self.t1):
            return torch.tensor(h, dtype=torch.float64)
        return h / (self.t1 - self.t0) * (self.end - self.start)

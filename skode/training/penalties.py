"""Penalties that keep an ODE easy to solve, added up over the solves of training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from skode.distributed.share import Share, mean_over, of_share
from skode.dynamics.energies import EnergyField
from skode.solvers import METHODS, Solution, local_error
from skode.training.solver import Solver


@dataclass(frozen=True)
class Regularisation:
    """Strengths of the penalties on a solve; none where all are 0.

    Attributes
    ----------
    kinetic_energy : float
        Of the integral of ``|f|^2 / d`` over time (Finlay, Jacobsen, Nurbekyan, Oberman, "How to train your neural
        ODE: the world of Jacobian and kinetic regularization", ICML 2020).
    jacobian_norm : float
        Of the integral of ``|eps^T df/dz|^2 / d``, with one random ``eps`` for each solve, whose mean is the squared
        Frobenius norm of the Jacobian per dimension (the same).
    local_error : float
        Of the sum of the steps' error estimates, itself estimated from one step at a random time (Pal, Ma, Shah,
        Rackauckas, "Opening the blackbox: accelerating neural differential equations by regularizing internal solver
        heuristics", ICML 2021; Pal, Edelman, Rackauckas, "Locally regularized neural differential equations", ICML
        2023).
    steer : float
        By how much the end time 1 varies at random from solve to solve, to either side (Ghosh, Behl, Dupont, Torr,
        Namboodiri, "STEER: simple temporal regularization for neural ODEs", NeurIPS 2020).
    """

    kinetic_energy: float = 0.0
    jacobian_norm: float = 0.0
    local_error: float = 0.0
    steer: float = 0.0

    def __bool__(self) -> bool:
        return bool(self.kinetic_energy or self.jacobian_norm or self.local_error or self.steer)


class PenalisedSolver:
    """A solver that adds up penalties along its solves, whose end time may vary.

    Parameters
    ----------
    solver : Solver
        The solver.
    regularisation : Regularisation
        Strengths of the penalties.
    generator : torch.Generator
        Source of the noise and of random times.
    weights : Tensor of shape (n,) or None
        The samples' weights, of mean 1; all 1 where None.
    share : Share or None, default=None
        The share of a batch that the samples are.

    Attributes
    ----------
    penalty : Tensor or float
        Sum of the penalties over all solves so far.
    """

    def __init__(
        self,
        solver: Solver,
        regularisation: Regularisation,
        generator: torch.Generator,
        weights: Tensor | None = None,
        share: Share | None = None,
    ) -> None:
        self.solver, self.regularisation = solver, regularisation
        self.generator, self.weights, self.share = generator, weights, share
        self.penalty: Any = 0.0

    def __call__(
        self, field: nn.Module, t_span: tuple[float, float], y0: Tensor, t_eval: Sequence[float], first_step: float
    ) -> Solution:
        chosen = self.regularisation
        start, end = t_span
        if chosen.steer:
            end += (end - start) * chosen.steer * (2.0 * self._uniform() - 1.0)
        inside = start + (end - start) * self._uniform() if chosen.local_error else None
        times = (end,) if inside is None else (inside, end)
        measured = bool(chosen.kinetic_energy or chosen.jacobian_norm)
        if measured:
            shape = (len(y0) if self.share is None else self.share.n, *y0.shape[1:])
            noise = (
                torch.randint(0, 2, shape, generator=self.generator, device=self.generator.device).to(y0) * 2.0 - 1.0
            )
            noise = of_share(noise, self.share)
            energies = EnergyField(field, y0.shape, noise if chosen.jacobian_norm else None)
            z = torch.cat([y0.flatten(1), y0.new_zeros((len(y0), energies.n_energies))], dim=1)
            solution = self.solver(energies, (start, end), z, t_eval=times, first_step=end - start)
            states = solution.y[..., : -energies.n_energies].reshape(-1, *y0.shape)
            strengths = solution.y.new_tensor([chosen.kinetic_energy, chosen.jacobian_norm][: energies.n_energies])
            self.penalty = self.penalty + self._mean(solution.y[-1][:, -energies.n_energies :] @ strengths)
        else:
            solution = self.solver(field, (start, end), y0, t_eval=times, first_step=end - start)
            states = solution.y
        if inside is not None and METHODS[self.solver.method].adaptive:
            n_steps = max(solution.statistics.n_accepted, 1)
            h = (end - start) / n_steps
            error = local_error(field, inside, h, states[0], method=self.solver.method)
            # The root's derivative at 0 is infinite.
            square = self._mean(error.flatten(1).square().mean(1))
            if self.share is None:
                size = torch.sqrt(square + 1e-12)
            else:  # a part of the root, with the part of its derivative that is due to these samples
                part = 1e-12 * len(error) / self.share.n if self.share.counts else 0.0
                root = math.sqrt(self.share.processes.totals(square.item() + part)[0])
                size = 0.5 * (square + square.detach() + 2.0 * part) / root
            self.penalty = self.penalty + chosen.local_error * n_steps * size
        return replace(solution, y=states[-1:])

    def _mean(self, x: Tensor) -> Tensor:
        """The weighted mean over samples, or a share's part of it."""
        return mean_over(x if self.weights is None else x * self.weights, self.share)

    def _uniform(self) -> float:
        return float(torch.rand((), generator=self.generator, dtype=torch.float64, device=self.generator.device))

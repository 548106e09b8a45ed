"""Objectives of training: the likelihood, through the solver, or flow matching, without; and the validation score."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from skode.density.flow import Flow, Measured
from skode.distributed.share import Share, mean_over, of_share
from skode.distributed.work import mean_of_shares
from skode.training import Solver, as_index, to_numpy


class Likelihood:
    """Mean negative log-likelihood, and the penalties that keep the dynamics easy to solve.

    Parameters
    ----------
    flow : Flow
        The flow to train.
    x : Tensor of shape (n, d)
        The data.
    weights : Tensor of shape (n,)
        Their weights, of mean 1.
    solver : Solver
        The solver.
    kinetic_energy, jacobian_norm : float
        Strengths of penalties on ``int |f|^2 dt`` and ``int |eps^T df/dz|^2 dt``, in nats (Finlay et al., ICML 2020).
    estimate : bool
        Whether the divergence is estimated.
    generator : torch.Generator
        Source of the noise of estimates.
    """

    def __init__(
        self,
        flow: Flow,
        x: Tensor,
        weights: Tensor,
        solver: Solver,
        *,
        kinetic_energy: float,
        jacobian_norm: float,
        estimate: bool,
        generator: torch.Generator,
    ) -> None:
        self.flow, self.x, self.weights, self.generator = flow, x, weights, generator
        self.solver = solver.counting(reuse_step_size=True)
        strengths = [strength for strength in (kinetic_energy, jacobian_norm) if strength > 0]
        self.measured = Measured(estimate=estimate, energy=kinetic_energy > 0, jacobian=jacobian_norm > 0)
        # The integrals are means over dimensions.
        self.strengths = flow.n_features * flow.log_scale.new_tensor(strengths)

    @property
    def parts(self) -> Sequence[Any]:
        return self.flow, self.generator, self.solver

    def parameters(self) -> Iterable[Tensor]:
        return self.flow.parameters()

    def loss(self, rows: np.ndarray | Tensor, share: Share | None = None) -> Tensor:
        chosen = of_share(as_index(rows, self.x.device), share)
        x, measured = self.x[chosen], self.measured
        if measured.estimate or measured.jacobian:
            shape = (len(rows), self.flow.n_features)
            noise = torch.randint(0, 2, shape, generator=self.generator, device=self.generator.device).to(x) * 2.0 - 1.0
            measured = replace(measured, noise=of_share(noise, share))
        log_prob, integrals = self.flow.log_prob(x, self.solver.with_share(share), measured=measured)
        return mean_over(self.weights[chosen] * (integrals @ self.strengths - log_prob), share)


class FlowMatching:
    """Mean squared distance of the field from the velocities of straight paths between noise and data.

    With ``z_t = (1 - t) z_0 + t x`` of a standard normal ``z_0``, the field that is nearest to ``x - z_0`` in the mean
    is one that carries the noise to the data (Lipman, Chen, Ben-Hamu, Nickel, Le, "Flow matching for generative
    modeling", ICLR 2023; Liu, Gong, Liu, "Flow straight and fast", ICLR 2023). No solve is needed.

    Parameters
    ----------
    flow, x, weights, generator : Any
        As for :class:`Likelihood`.
    """

    solver = None

    def __init__(self, flow: Flow, x: Tensor, weights: Tensor, generator: torch.Generator) -> None:
        self.flow, self.x, self.weights, self.generator = flow, x, weights, generator

    @property
    def parts(self) -> Sequence[Any]:
        return self.flow, self.generator

    def parameters(self) -> Iterable[Tensor]:
        return self.flow.field.parameters()

    def loss(self, rows: np.ndarray | Tensor, share: Share | None = None) -> Tensor:
        chosen = of_share(as_index(rows, self.x.device), share)
        x, n = self.x[chosen], len(rows)
        z = of_share(self._random(torch.randn, (n, self.flow.n_features), x), share)
        z = z * self.flow.log_scale.detach().exp()
        t = of_share(self._random(torch.rand, (n, 1), x), share)
        velocity = x - z
        off = self.flow.field(t, z + t * velocity) - velocity
        return mean_over(self.weights[chosen] * off.square().sum(1), share)

    def _random(self, source: Callable[..., Tensor], shape: Sequence[int], like: Tensor) -> Tensor:
        """Random numbers that are the same in all dtypes."""
        return source(shape, generator=self.generator, dtype=torch.float64, device=self.generator.device).to(like)


class ValidationScore:
    """Mean log-density of samples held out, by a flow in training.

    Parameters
    ----------
    flow : Flow
        The flow.
    x : Tensor of shape (n, d)
        The samples.
    weights : ndarray of shape (n,)
        Their weights in the mean.
    solver : Solver
        The solver.
    """

    def __init__(self, flow: Flow, x: Tensor, weights: np.ndarray, solver: Solver) -> None:
        self.flow, self.x, self.weights, self.solver = flow, x, weights, solver

    def __call__(self) -> float:
        self.flow.eval()
        mean = mean_of_shares(self._log_prob, self.weights)
        self.flow.train()
        return mean

    def _log_prob(self, share: Share | None) -> np.ndarray:
        with torch.no_grad():
            return to_numpy(self.flow.log_prob(of_share(self.x, share), self.solver.with_share(share))[0])

"""The objective of training, the conditional likelihood, and the validation score."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from skode.conditional.flow import ConditionalDensity
from skode.distributed.share import Share, mean_over, of_share
from skode.distributed.work import mean_of_shares
from skode.training import Solver, as_index, to_numpy


class ConditionalLikelihood:
    """Mean negative log-likelihood of targets given features, with the penalty on paths' kinetic energy.

    Parameters
    ----------
    density : ConditionalDensity
        The density to train.
    x, y : Tensor of shape (n, n_context) and (n, n_outputs)
        Standardised features and targets.
    weights : Tensor of shape (n,)
        Weights, of mean 1.
    solver : Solver
        The solver.
    kinetic_energy : float
        Strength of the penalty, in nats.
    """

    def __init__(
        self, density: ConditionalDensity, x: Tensor, y: Tensor, weights: Tensor, solver: Solver, kinetic_energy: float
    ) -> None:
        self.density, self.x, self.y, self.weights = density, x, y, weights
        self.solver = solver.counting(reuse_step_size=True)
        # The integral is a mean over dimensions.
        self.strength = density.n_outputs * kinetic_energy

    @property
    def parts(self) -> Sequence[Any]:
        return self.density, self.solver

    def parameters(self) -> Iterable[Tensor]:
        return self.density.parameters()

    def loss(self, rows: np.ndarray | Tensor, share: Share | None = None) -> Tensor:
        chosen = of_share(as_index(rows, self.x.device), share)
        log_prob, energy = self.density.log_prob(
            self.x[chosen], self.y[chosen], self.solver.with_share(share), energy=self.strength > 0.0
        )
        penalty = self.strength * energy[:, 0] if self.strength else 0.0
        return mean_over(self.weights[chosen] * (penalty - log_prob), share)


def conditional_score(density: ConditionalDensity, x: Tensor, y: Tensor, weights: np.ndarray, solver: Solver) -> float:
    """Mean log-density of targets held out, of a density in training."""

    def log_prob(share: Share | None) -> np.ndarray:
        with torch.no_grad():
            own = of_share(x, share), of_share(y, share)
            return to_numpy(density.log_prob(*own, solver.with_share(share))[0])

    return mean_of_shares(log_prob, weights)

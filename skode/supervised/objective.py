"""The objective that ODE-Nets are trained by: a weighted mean loss, with penalties along the solves."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from skode.distributed.share import Share, mean_over, of_share
from skode.supervised.odenet import Network
from skode.training import PenalisedSolver, Regularisation, Solver, SparseFeatures, as_index

#: The loss of each sample, of shape (n,), from outputs and targets.
Losses = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Samples:
    """Samples as a network takes them: tensors, or of a table in blocks what is indexed as these are.

    Attributes
    ----------
    x : Tensor or SparseFeatures of shape (n, n_features)
        Scaled features.
    y : Tensor of shape (n,) or (n, n_outputs)
        Encoded targets.
    weights : Tensor of shape (n,)
        Weights, of mean 1.
    """

    x: Tensor | SparseFeatures
    y: Tensor
    weights: Tensor


class SupervisedObjective:
    """The weighted mean loss of a network over batches of samples, with random changes of its inputs.

    Parameters
    ----------
    network : Network
        The network to train.
    samples : Samples
        The samples to train on.
    losses : callable
        The loss of each sample, of shape (n,), from outputs and targets; such as :func:`squared_errors`.
    solver : Solver
        Solves the network's ODEs, and counts its solves.
    regularisation : Regularisation
        Strengths of the penalties along the solves.
    augmented : callable
        Changes a batch of features at random, drawing from a generator.
    dropout : float
        Probability with which a feature is set to 0.
    generator : torch.Generator
        Source of random numbers, on the samples' device.
    """

    def __init__(
        self,
        network: Network,
        samples: Samples,
        losses: Losses,
        solver: Solver,
        *,
        regularisation: Regularisation,
        augmented: Callable[[Tensor, torch.Generator], Tensor],
        dropout: float,
        generator: torch.Generator,
    ) -> None:
        self.network, self.samples, self.losses, self.solver = network, samples, losses, solver
        self.regularisation, self.augmented, self.dropout = regularisation, augmented, dropout
        self.generator = generator

    @property
    def parts(self) -> Sequence[Any]:
        """All that training changes."""
        return self.network, self.generator

    def parameters(self) -> Iterable[Tensor]:
        """The network's parameters."""
        return self.network.parameters()

    def loss(self, rows: np.ndarray | Tensor, share: Share | None = None) -> Tensor:
        """Mean loss of some samples, given by their positions, with the penalties along their solves."""
        chosen = as_index(rows, self.samples.x.device)
        x = self.augmented(self.samples.x[chosen], self.generator)
        if self.dropout:
            kept = torch.empty(x.shape, device=x.device).bernoulli_(1.0 - self.dropout, generator=self.generator)
            x = x * kept.div_(1.0 - self.dropout).to(x)
        x, chosen = of_share(x, share), of_share(chosen, share)
        weights = self.samples.weights[chosen]
        outputs, penalty = self._solved(x, weights, share)
        return mean_over(weights * self.losses(outputs, self.samples.y[chosen]), share) + penalty

    def _solved(self, x: Tensor, weights: Tensor, share: Share | None) -> tuple[Tensor, Any]:
        """Outputs, and the penalties along the solves behind them."""
        solver = self.solver.with_share(share)
        if not self.regularisation or not torch.is_grad_enabled():
            return self.network.outputs(x, solver)[0], 0.0
        penalised = PenalisedSolver(solver, self.regularisation, self.generator, weights, share)
        return self.network.outputs(x, penalised)[0], penalised.penalty


def cross_entropies(outputs: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of each sample, from logits of shape (n, n_classes) and classes of shape (n,)."""
    return functional.cross_entropy(outputs, targets, reduction="none")


def binary_cross_entropies(outputs: Tensor, targets: Tensor) -> Tensor:
    """Sum of the labels' cross-entropies, from logits and targets 0 or 1, both of shape (n, n_labels)."""
    return functional.binary_cross_entropy_with_logits(outputs, targets, reduction="none").sum(1)


def squared_errors(outputs: Tensor, targets: Tensor) -> Tensor:
    """Half the mean squared error of each sample, from predictions and targets of shape (n, n_outputs)."""
    return (outputs - targets).square().mean(1) / 2

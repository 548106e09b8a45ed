"""Networks that are trained on some of a fit's samples, to be judged by the others."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from skode.supervised.inputs import Inputs
from skode.supervised.objective import Samples, SupervisedObjective
from skode.supervised.strength import parts
from skode.training import new_generator, row_groups, to_tensor


@dataclass(frozen=True)
class Table:
    """The samples of a fit, as tensors are made of them.

    Attributes
    ----------
    estimator : ODENetEstimator
        The estimator, with its scaler.
    inputs : Inputs
        Tables or images.
    X : ndarray or sparse matrix of shape (n, n_columns)
        Features.
    targets : ndarray of shape (n, ...)
        Encoded targets.
    dtype, device
        Of the tensors.
    """

    estimator: Any
    inputs: Inputs
    X: Any
    targets: np.ndarray
    dtype: torch.dtype
    device: torch.device

    def samples(self, rows: np.ndarray, weights: np.ndarray) -> Samples:
        """Samples at some positions, with weights of mean 1."""
        w = to_tensor(weights / weights.mean(), self.dtype, self.device)
        x = self.inputs.features(self.estimator.scaler_, self.X[rows], self.dtype, self.device)
        return Samples(x, self.estimator._as_tensor(self.targets[rows], w), w)


@dataclass(frozen=True)
class Trials:
    """Networks like that of a fit, each to be trained on some of its distinct samples.

    Attributes
    ----------
    table : Table
        The samples.
    rows, weights : ndarray of shape (n,)
        Positions of those that the fit is of, and their weights.
    rng : RandomState
        Source of initial weights and draws.
    """

    table: Table
    rows: np.ndarray
    weights: np.ndarray
    rng: np.random.RandomState

    @property
    def groups(self) -> np.ndarray:
        """Numbers of the rows, equal where their features are."""
        return row_groups(self.table.X[self.rows])

    @property
    def strata(self) -> np.ndarray | None:
        """Classes of the rows, where there are any."""
        return self.table.estimator._strata(self.table.targets[self.rows])

    def parts(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Positions among the rows of those to train on and of those held out; see :func:`strength.parts`."""
        return parts(self.groups, self.strata)

    def trial(self, kept: np.ndarray, held_out: np.ndarray) -> tuple[SupervisedObjective, Samples]:
        """The objective of an untrained network on some rows, and the samples held out."""
        table, estimator = self.table, self.table.estimator
        network = table.inputs.network(table.X.shape[1], estimator.n_outputs_, new_generator(self.rng))
        network.to(device=table.device, dtype=table.dtype)
        own = table.samples(self.rows[kept], self.weights[kept])
        objective = estimator._objective(network, own, table.inputs, new_generator(self.rng, table.device))
        return objective, table.samples(self.rows[held_out], self.weights[held_out])

    def begun(self, kept: np.ndarray, held_out: np.ndarray) -> tuple[SupervisedObjective, Callable[[], float]]:
        """The same with the loss on the samples held out in their place."""
        objective, others = self.trial(kept, held_out)
        return objective, lambda: self.table.estimator._held_out_loss(objective.network, others)

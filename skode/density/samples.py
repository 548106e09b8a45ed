"""Distinct samples that a flow is trained on, with their weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import numpy as np
from sklearn.model_selection import train_test_split
from torch import Tensor

from skode.training import distinct, to_tensor
from skode.training.order import AllRows, Order


@dataclass(frozen=True)
class Samples:
    """Distinct samples and their weights.

    Attributes
    ----------
    points : ndarray of shape (n_samples, n_features)
        The samples.
    weights : ndarray of shape (n_samples,)
        The number of times that each counts, not necessarily whole.
    """

    points: np.ndarray
    weights: np.ndarray

    @classmethod
    def distinct(cls, X: np.ndarray, weights: np.ndarray, *, shuffle: bool) -> Self:
        """Samples with those of equal values merged.

        They are in the order given where all weights are equal, or without ``shuffle``; else in that of their values,
        so that a sample given twice and one of weight two come to the same place. Neither order depends on units.
        """
        rows, weights = distinct(X, np.zeros(len(X)), weights)
        by_values = shuffle and (weights != weights[0]).any()
        order = np.lexsort(X[rows].T[::-1]) if by_values else np.argsort(rows)
        return cls(X[rows[order]], weights[order])

    def __len__(self) -> int:
        return len(self.points)

    @property
    def size(self) -> float:
        """The sum of the weights, or the number of samples if that is larger."""
        return max(self.weights.sum(), len(self))

    def training(self, in_flow: Callable[[np.ndarray], np.ndarray], like: Tensor) -> tuple[Order, Tensor, Tensor]:
        """Order, points of the flow and weights of mean 1, in the dtype and on the device of a tensor."""
        x = to_tensor(in_flow(self.points), like.dtype, like.device)
        return AllRows(len(self)), x, to_tensor(self.weights / self.weights.mean(), like.dtype, like.device)

    def split(self, fraction: float, rng: np.random.RandomState) -> tuple[Self, Self]:
        """Samples to train on, and a fraction held out.

        Raises
        ------
        ValueError
            If none are left to train on, in terms of the estimators' parameters.
        """
        try:
            kept, held_out = train_test_split(np.arange(len(self)), test_size=fraction, random_state=rng)
        except ValueError as error:
            raise ValueError(
                f"early_stopping=True can't set aside validation_fraction={fraction} of {len(self)} samples that "
                "differ, for none are left to train on: lower validation_fraction, or set early_stopping=False."
            ) from error
        return self._at(kept), self._at(held_out)

    def _at(self, rows: np.ndarray) -> Self:
        return type(self)(self.points[rows], self.weights[rows])

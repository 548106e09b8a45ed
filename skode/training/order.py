"""In which order training goes through samples."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
import torch


class Order(Protocol):
    """Samples to draw batches from."""

    def __len__(self) -> int:
        """Number of samples."""
        ...

    def batches(
        self, size: int, rng: np.random.RandomState | None, device: torch.device | None = None
    ) -> Iterator[Any]:
        """Positions of the samples of each batch, each sample once.

        Parameters
        ----------
        size : int
            Samples in a batch; the last may have fewer.
        rng : RandomState or None
            Source of the order; None: as they are.
        device : torch.device or None
            A device that is not to be waited for, on which positions are wanted.
        """
        ...


class AllRows:
    """Samples in memory, any of which may follow another.

    Parameters
    ----------
    n_samples : int
        Their number.
    """

    def __init__(self, n_samples: int) -> None:
        self.n_samples = n_samples

    def __len__(self) -> int:
        return self.n_samples

    def batches(
        self, size: int, rng: np.random.RandomState | None, device: torch.device | None = None
    ) -> Iterator[Any]:
        """A permutation, cut into batches."""
        order: Any = np.arange(self.n_samples) if rng is None else rng.permutation(self.n_samples)
        if device is not None:
            order = torch.from_numpy(order).to(device)
        for first in range(0, self.n_samples, size):
            yield order[first : first + size]

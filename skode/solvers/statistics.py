"""Counts of the work of a solve."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np


@dataclass
class Statistics:
    """Counts of one solve and of the gradient computed from it.

    Attributes
    ----------
    nfev : int
        Evaluations of ``func`` in the forward solve, those of rejected steps included.
    n_accepted, n_rejected : int
        Steps of the forward solve; over all samples where steps are per sample.
    nfev_backward : int
        Vector-Jacobian products of ``func`` made for gradients, and evaluations where it had to be evaluated again
        for them and no product was wanted; 0 until ``backward`` is called.
    by_sample : ndarray of int, of shape (3, n_samples), or None
        Where steps are per sample: the evaluations that each sample took part in, its accepted and rejected steps.
    """

    nfev: int = 0
    n_accepted: int = 0
    n_rejected: int = 0
    nfev_backward: int = 0
    by_sample: np.ndarray | None = field(default=None, repr=False)

    def count_round(self, samples: np.ndarray, good: np.ndarray, evaluations: int) -> None:
        """Count one attempt of some samples, which was good for some of them."""
        assert self.by_sample is not None
        self.by_sample[0, samples] += evaluations
        self.by_sample[1, samples] += good
        self.by_sample[2, samples] += ~good
        self.n_accepted += int(good.sum())
        self.n_rejected += int((~good).sum())

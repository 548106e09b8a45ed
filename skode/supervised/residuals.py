"""How far predictions of numbers are off, by residuals of samples that networks like the fitted one have not seen.

Intervals are those of split conformal prediction (Lei, G'Sell, Rinaldo, Tibshirani, Wasserman, "Distribution-free
predictive inference for regression", JASA 2018), with weights, except that the fitted network has been trained on all
samples.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Residuals:
    """Residuals of samples held out.

    Attributes
    ----------
    sizes : ndarray of shape (n, n_outputs)
        Their absolute values.
    weights : ndarray of shape (n,)
        Weights of the samples; those of n samples without weights are 1.
    """

    sizes: np.ndarray
    weights: np.ndarray

    @property
    def standard_deviation(self) -> np.ndarray:
        """Root of the weighted mean square, of shape (n_outputs,)."""
        return np.sqrt(np.average(self.sizes**2, axis=0, weights=self.weights))

    def half_width(self, level: float) -> np.ndarray:
        """Half the width of intervals that hold a share ``level`` of new targets, of shape (n_outputs,).

        Of n residuals it is the ``ceil(level * (n + 1))``-th smallest, or the largest where there are too few for that.
        """
        order = np.argsort(self.sizes, axis=0)
        sizes = np.take_along_axis(self.sizes, order, axis=0)
        below = np.cumsum(self.weights[order], axis=0)
        enough = below >= level * (self.weights.sum() + 1.0) * (1.0 - 1e-12)
        enough[-1] = True
        return np.take_along_axis(sizes, enough.argmax(axis=0)[None], axis=0)[0]

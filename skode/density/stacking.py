"""Convex stacks of densities, of the weights that give samples left out of their fits the largest likelihood."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from scipy.special import logsumexp

from skode.density.gaussianisation import Gaussianisation
from skode.density.gaussians import Gaussians
from skode.density.mixtures import MOST_VALIDATED, WIDEST, Candidate, Validation

#: Samples that the prior on the weights is worth, the least number of samples that densities are stacked for, and the
#: least weight of a density that is kept.
PRIOR, LEAST_SAMPLES, LEAST_WEIGHT = 1.0, 20, 1e-3


def stacking_weights(logs: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The weights of densities in a convex stack.

    They maximise the likelihood of samples that none of the densities was fitted to, under a Dirichlet prior of one
    sample (Smyth and Wolpert, "Linearly combining density estimators via stacking", Machine Learning 36, 1999).

    Parameters
    ----------
    logs : ndarray of shape (n, k)
        Log-densities of the samples under each.
    weights : ndarray of shape (n,)
        The samples' weights, of mean 1.

    Returns
    -------
    ndarray of shape (k,)
        The weights, which add up to 1.
    """
    # Where all underflow the sample says nothing.
    logs = np.maximum(logs - np.maximum(logs.max(1, keepdims=True), -np.finfo(np.float64).max), -700.0)
    densities, k = np.exp(logs), logs.shape[1]
    found = np.full(k, 1.0 / k)
    for _ in range(1000):
        shares = densities * found
        shares *= (weights / shares.sum(1))[:, None]
        new = (shares.sum(0) + PRIOR / k) / (weights.sum() + PRIOR)
        if np.abs(new - found).max() < 1e-6:
            return new
        found = new
    return found


@dataclass(frozen=True)
class Partners:
    """Gaussian mixtures and kernel densities, stacked by cross-validation.

    Attributes
    ----------
    scalers : list of Gaussianisation
        The maps from data space to the spaces of the densities, one of each.
    densities : list of Gaussians
        The densities that have a weight.
    shares : ndarray of shape (len(densities),)
        Their weights, which add up to 1.
    left_out : ndarray of shape (n_validated,)
        The stack's log-densities of the first samples, in data space, each by fits to others.
    """

    scalers: list[Gaussianisation]
    densities: list[Gaussians]
    shares: np.ndarray
    left_out: np.ndarray

    @classmethod
    def fit(
        cls,
        X: np.ndarray,
        weights: np.ndarray,
        spaces: Sequence[tuple[Gaussianisation, Sequence[str]]],
        seed: int,
        *,
        out_of_time: Callable[[], bool],
    ) -> Partners | None:
        """A kernel density and mixtures in each space, or None where there is no time for any.

        Parameters
        ----------
        X : ndarray of shape (n, d)
            Samples; the first are those of the cross-validation.
        weights : ndarray of shape (n,)
            Their weights, of mean 1.
        spaces : sequence of tuple
            Maps to the spaces, each with the types of covariance of the mixtures there.
        seed : int
            Source of the folds and starts.
        out_of_time : callable
            Whether no more of them are wanted.
        """
        scalers: list[Gaussianisation] = []
        densities: list[Gaussians] = []
        logs: list[np.ndarray] = []
        few = X[:MOST_VALIDATED]
        for scaler, kinds in spaces:
            log_det = scaler.log_det(few)
            validation = Validation(scaler.transform(X), weights, seed)
            fits: list[Callable[[], Candidate]] = [validation.kernel]
            if X.shape[1] <= WIDEST:
                fits += [partial(validation.mixture, kind) for kind in kinds]
            for fit in fits:
                if out_of_time():
                    break
                candidate = fit()
                scalers.append(scaler)
                densities.append(candidate.density)
                logs.append(candidate.left_out + log_det)
        if not logs:
            return None
        columns = np.stack(logs, axis=1)
        shares = stacking_weights(columns, weights[: len(few)])
        kept = np.flatnonzero(shares > LEAST_WEIGHT)
        shares = shares[kept] / shares[kept].sum()
        left_out = logsumexp(columns[:, kept] + np.log(shares), axis=1)
        return cls([scalers[k] for k in kept], [densities[k] for k in kept], shares, left_out)

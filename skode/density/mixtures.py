"""Gaussian mixtures and kernel densities of weighted samples, with what they give samples that they were not fitted to.

The mixtures' own few lines of expectation and maximisation are here because scikit-learn's ``GaussianMixture`` takes no
sample weights.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.spatial.distance import cdist
from scipy.special import logsumexp
from sklearn.cluster import KMeans
from sklearn.model_selection import KFold
from sklearn.utils.extmath import row_norms

from skode.density.gaussians import Gaussians

#: Numbers of components and bandwidths, in spreads of the data, that are compared.
COMPONENTS = (1, 2, 3, 4, 6, 8, 12, 16, 24)
BANDWIDTHS = np.geomspace(0.03, 2.0, 13)[::-1]

#: Types of covariance that are compared, in the terms of ``GaussianMixture``, with their largest number of components.
COVARIANCES = {"full": 24, "tied": 8, "diag": 24}

#: Parts of the cross-validation, the number of rows that it takes at most, and the least number for a component.
FOLDS, MOST_VALIDATED, LEAST_ROWS = 5, 2000, 5

#: Number of columns beyond which there are no mixtures, whose covariances would take long, but kernel densities only.
WIDEST = 100

#: Rows that a mixture is fitted to at most, and those that a kernel density consists of.
MOST_FITTED, MOST_KERNELS = 20_000, 5000

#: Expectation and maximisation end after so many rounds, or where the likelihood rises by less; as ``GaussianMixture``.
ROUNDS, LEAST_GAIN, LEAST_VARIANCE = 100, 1e-3, 1e-6


@dataclass(frozen=True)
class Candidate:
    """A density with the log-densities of samples left out of its fits.

    Attributes
    ----------
    density : Gaussians
        The density, of all samples.
    left_out : ndarray of shape (n,)
        Log-densities of the first samples in turn, by fits to the others of these.
    """

    density: Gaussians
    left_out: np.ndarray


class Validation:
    """A cross-validation of mixtures and kernel densities.

    Parameters
    ----------
    Z : ndarray of shape (n, d)
        Samples, of about unit spread. The first :data:`MOST_VALIDATED` are those of the cross-validation.
    weights : ndarray of shape (n,)
        Their weights, of mean 1.
    seed : int
        Source of the folds and starts.
    """

    def __init__(self, Z: np.ndarray, weights: np.ndarray, seed: int) -> None:
        self.Z, self.weights, self.seed = Z, weights, seed
        self.few, self.few_weights = Z[:MOST_VALIDATED], weights[:MOST_VALIDATED]
        n_folds = min(FOLDS, len(self.few))
        self.folds = list(KFold(n_folds, shuffle=True, random_state=seed).split(self.few))
        self._clusters: dict[tuple[int, int], np.ndarray] = {}

    def kernel(self) -> Candidate:
        """The kernel density of the best bandwidth, tried from wide to narrow as long as they get better."""
        few, few_weights, Z = self.few, self.few_weights, self.Z
        squares = [cdist(few[test], few[train], "sqeuclidean") for train, test in self.folds]
        best, best_score, bandwidth = np.empty(0), -np.inf, BANDWIDTHS[0]
        for h in BANDWIDTHS:
            left_out = np.empty(len(few))
            for (train, test), distances in zip(self.folds, squares, strict=True):
                shares = few_weights[train] / few_weights[train].sum()
                left_out[test] = logsumexp(-0.5 * distances / h**2, b=shares, axis=1)
            left_out -= few.shape[1] * np.log(h * np.sqrt(2.0 * np.pi))
            score = np.average(left_out, weights=few_weights)
            if not score > best_score:
                break
            best, best_score, bandwidth = left_out, score, h
        n = len(Z)
        kept = np.random.RandomState(self.seed).permutation(n)[:MOST_KERNELS] if n > MOST_KERNELS else slice(None)
        covariance = bandwidth**2 * np.eye(Z.shape[1])
        shares = self.weights[kept] / self.weights[kept].sum()
        return Candidate(Gaussians(shares, Z[kept], covariance[None]), best)

    def mixture(self, kind: str) -> Candidate:
        """The mixture of the best number of components; more are tried until two numbers in a row were no better."""
        few, few_weights = self.few, self.few_weights
        best, best_score, n_components, worse = np.empty(0), -np.inf, 1, 0
        for n in COMPONENTS:
            if n > 1 and n > min(COVARIANCES[kind], len(few) * (1.0 - 1.0 / FOLDS) / LEAST_ROWS):
                break
            left_out = np.empty(len(few))
            for fold, (train, test) in enumerate(self.folds):
                density = expectation_maximisation(few[train], few_weights[train], self._start(fold, n), kind)
                left_out[test] = density.log_prob(torch.from_numpy(few[test])).numpy()
            score = np.average(left_out, weights=few_weights)
            worse = 0 if score > best_score else worse + 1
            if score > best_score:
                best, best_score, n_components = left_out, score, n
            if worse == 2:
                break
        Z, weights = self.Z[:MOST_FITTED], self.weights[:MOST_FITTED]
        labels = clusters(Z, weights, n_components, self.seed)
        return Candidate(expectation_maximisation(Z, weights, labels, kind), best)

    def _start(self, fold: int, n_components: int) -> np.ndarray:
        """Clusters of the samples of a fold, the same for all types of covariance."""
        key = fold, n_components
        if key not in self._clusters:
            train = self.folds[fold][0]
            self._clusters[key] = clusters(self.few[train], self.few_weights[train], n_components, self.seed)
        return self._clusters[key]


def clusters(Z: np.ndarray, weights: np.ndarray, n_clusters: int, seed: int) -> np.ndarray:
    """Labels of samples by k-means."""
    if n_clusters == 1:
        return np.zeros(len(Z), dtype=np.int64)
    return KMeans(n_clusters, n_init=1, random_state=seed).fit(Z, sample_weight=weights).labels_


def expectation_maximisation(Z: np.ndarray, weights: np.ndarray, labels: np.ndarray, kind: str) -> Gaussians:
    """A Gaussian mixture of weighted samples, by expectation and maximisation from clusters.

    Dempster, Laird, Rubin, Journal of the Royal Statistical Society B 39, 1977; a weight counts its sample so often.

    Parameters
    ----------
    Z : ndarray of shape (n, d)
        The samples.
    weights : ndarray of shape (n,)
        Their weights.
    labels : ndarray of int of shape (n,)
        The clusters that the samples are in at the start, counted from 0.
    kind : {"full", "tied", "diag"}
        Type of covariance.
    """
    shares = weights / weights.sum()
    n_components = labels.max() + 1
    responsibilities = np.eye(n_components)[labels]
    last = -np.inf
    for _ in range(ROUNDS):
        sizes, means, covariances = _maximised(Z, shares[:, None] * responsibilities, kind)
        if n_components == 1:
            break
        joint = np.log(sizes) + _log_normal(Z, means, covariances)
        log_density = logsumexp(joint, axis=1)
        responsibilities = np.exp(joint - log_density[:, None])
        likelihood = shares @ log_density
        if likelihood - last < LEAST_GAIN:
            break
        last = likelihood
    return Gaussians(sizes / sizes.sum(), means, covariances)


def _maximised(Z: np.ndarray, masses: np.ndarray, kind: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weights, means and covariances of components with shares of the samples."""
    d = Z.shape[1]
    sizes = masses.sum(0) + 10.0 * np.finfo(np.float64).eps
    means = masses.T @ Z / sizes[:, None]
    if kind == "tied":
        total = (Z * masses.sum(1)[:, None]).T @ Z - (means * sizes[:, None]).T @ means
        covariances = total[None] / sizes.sum()
    elif kind == "diag":
        squares = masses.T @ Z**2 / sizes[:, None] - means**2
        covariances = np.maximum(squares, 0.0)[:, :, None] * np.eye(d)
    else:
        off = Z - means[:, None]
        covariances = (off * masses.T[:, :, None]).transpose(0, 2, 1) @ off / sizes[:, None, None]
    return sizes, means, covariances + LEAST_VARIANCE * np.eye(d)


def _log_normal(Z: np.ndarray, means: np.ndarray, covariances: np.ndarray) -> np.ndarray:
    """Log-densities of samples under each component, of shape (n, n_components)."""
    roots = np.linalg.cholesky(covariances)
    off = (Z - means[:, None]) @ np.linalg.inv(roots).transpose(0, 2, 1)
    squares = np.stack([row_norms(part, squared=True) for part in off], axis=1)
    log_roots = np.log(np.diagonal(roots, axis1=1, axis2=2)).sum(1)
    return -0.5 * squares - log_roots - 0.5 * Z.shape[1] * np.log(2.0 * np.pi)

"""Mixtures of normal densities: Gaussian mixtures and kernel densities, with the path of densities that leads there."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn


class Gaussians(nn.Module):
    """A mixture of normal densities, of a few components or of one around each sample.

    Parameters
    ----------
    weights : ndarray of shape (n_components,)
        Weights of the components, which add up to 1.
    means : ndarray of shape (n_components, d)
        Their means.
    covariances : ndarray of shape (n_components, d, d) or (1, d, d)
        Their covariances; one where all have the same.
    """

    log_weights: Tensor
    means: Tensor
    axes: Tensor
    variances: Tensor

    def __init__(self, weights: np.ndarray, means: np.ndarray, covariances: np.ndarray) -> None:
        super().__init__()
        variances, axes = np.linalg.eigh(covariances)
        arrays = {"log_weights": np.log(weights), "means": means, "axes": axes, "variances": variances}
        for name, array in arrays.items():
            self.register_buffer(name, torch.tensor(array, dtype=torch.float64))

    def log_prob(self, z: Tensor, t: float = 1.0) -> Tensor:
        """Log-densities at a time, of shape (n,).

        Between a standard normal ``z_0`` and an ``x`` of the mixture, independent of each other, lies
        ``z_t = (1 - t) z_0 + t x``, whose density is again a mixture of normal ones: the probability path of flow
        matching (Lipman et al., ICLR 2023).
        """
        variances = (1.0 - t) ** 2 + t**2 * self.variances
        means = t * self.means
        if len(self.axes) == 1:
            scaled = self.axes[0] / variances[0].sqrt()
            # Not by products, whose differences lose digits where kernels are narrow.
            mode = "donot_use_mm_for_euclid_dist"
            squares = torch.cdist(z @ scaled, means @ scaled, compute_mode=mode).square()
        else:
            off = (z - means[:, None]) @ self.axes
            squares = (off.square() / variances[:, None]).sum(2).T
        constant = self.log_weights - 0.5 * variances.log().sum(1) - 0.5 * z.shape[1] * math.log(2.0 * math.pi)
        return torch.logsumexp(constant - 0.5 * squares, dim=1)

    def sample(self, n_samples: int, rng: np.random.RandomState) -> np.ndarray:
        """Draws, of shape (n_samples, d)."""
        weights, means, axes, variances = (
            buffer.cpu().double().numpy() for buffer in (self.log_weights.exp(), self.means, self.axes, self.variances)
        )
        chosen = rng.choice(len(weights), n_samples, p=weights / weights.sum())
        noise = rng.standard_normal((n_samples, means.shape[1]))
        covariance = chosen if len(axes) > 1 else np.zeros(n_samples, dtype=np.int64)
        points = np.empty_like(noise)
        for k in np.unique(covariance):
            rows = covariance == k
            points[rows] = noise[rows] * np.sqrt(variances[k]) @ axes[k].T
        return points + means[chosen]

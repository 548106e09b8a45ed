"""Densities on a grid."""

import numpy as np


class Quadrature:
    """The fitted density on a fine grid over a wide box (trapezoidal rule)."""

    def __init__(self, estimator, box=((-3.0, 4.0), (-2.5, 3.0)), n=281):
        self.x, self.y = (np.linspace(*side, n) for side in box)
        points = np.stack(np.meshgrid(self.x, self.y, indexing="ij"), axis=-1).reshape(-1, 2)
        self.log_density = estimator.score_samples(points).reshape(n, n)
        self.density = np.exp(self.log_density)

    def total(self):
        return np.trapezoid(np.trapezoid(self.density, self.y, axis=1), self.x)

    def marginal_cdf(self, axis):
        along, across = (self.x, self.y) if axis == 0 else (self.y, self.x)
        marginal = np.trapezoid(self.density, across, axis=1 - axis)
        cdf = np.concatenate([[0], np.cumsum((marginal[1:] + marginal[:-1]) / 2 * np.diff(along))])
        return lambda value: np.interp(value, along, cdf / cdf[-1])

    def draw(self, n_samples, rng):
        """Points drawn from the gridded density, jittered within their cells."""
        mass = self.density.ravel() / self.density.sum()
        cells = rng.choice(len(mass), n_samples, p=mass)
        i, j = np.unravel_index(cells, self.density.shape)
        jitter = rng.uniform(-0.5, 0.5, (n_samples, 2)) * [self.x[1] - self.x[0], self.y[1] - self.y[0]]
        return np.column_stack([self.x[i], self.y[j]]) + jitter

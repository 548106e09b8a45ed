r"""Distributions of observations about the solution, as the fit by least squares needs them.

A distribution enters by the score and the information of a mean, ``s = d log p(y | m) / dm`` and a positive ``i``:
the residual ``-s / sqrt(i)`` with the slope ``sqrt(i)`` has the same gradient as the log-likelihood, and Gauss-Newton
steps on it are those of Fisher scoring (iteratively reweighted least squares; P. J. Green, "Iteratively reweighted
least squares for maximum likelihood estimation", J. R. Stat. Soc. B 46, 1984).
"""

from __future__ import annotations

import numpy as np
from scipy.special import betaln, gammaln, xlog1py, xlogy


class Gaussian:
    """Normal noise of one standard deviation for each output."""

    #: Whether the standard deviation is estimated.
    scaled = True
    #: Whether what the squared scale is the mean of depends on the scale.
    iterated = False
    #: Ratio of the expected information to that of normal noise of the same scale.
    efficiency = 1.0
    #: Scales of each output: arrays of scales hold the first ones of all outputs, then the second ones.
    n_scales = 1
    #: How many of these are estimated, where any are.
    n_estimated = 1

    def of(self, rows: np.ndarray) -> Gaussian:
        """Distribution of some of the rows, where rows differ in it."""
        return self

    def check(self, y: np.ndarray) -> None:
        """Refuse observed values that can't come from the distribution."""

    def size(self, mean: np.ndarray) -> np.ndarray:
        """Observations' expectations in units of the outputs, as ``y`` holds them."""
        return np.ones_like(mean)

    def interior(self, y: np.ndarray) -> np.ndarray:
        """Means near observed values, from which a fit may start: where the loss of no observation is infinite."""
        return y

    def residuals(self, y: np.ndarray, mean: np.ndarray, scale: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Residuals and their slopes by the mean."""
        return (mean - y) / scale, np.broadcast_to(1.0 / scale, mean.shape)

    def loss(self, y: np.ndarray, mean: np.ndarray, scale: np.ndarray) -> np.ndarray:
        """Negative log-densities."""
        return 0.5 * ((mean - y) / scale) ** 2 + np.log(scale) + 0.5 * np.log(2.0 * np.pi)

    def squares(self, y: np.ndarray, mean: np.ndarray, scale: np.ndarray) -> np.ndarray:
        """Terms whose mean is the squared scale."""
        return (mean - y) ** 2

    def least_scale(self, size: np.ndarray, tolerance: float) -> np.ndarray:
        """The least scales that solutions of a relative tolerance resolve, for outputs of a size."""
        return tolerance * size

    def first_squares(self, y: np.ndarray, mean: np.ndarray) -> np.ndarray:
        """Terms whose mean over observations is the squared scale that a fit starts with."""
        return self.residuals(y, mean, np.ones_like(mean))[0] ** 2

    def shares(self, mean: np.ndarray, scale: np.ndarray) -> np.ndarray:
        """Weights with which the terms of the squared scales are averaged."""
        return np.ones_like(mean)

    def updated_scale(self, y: np.ndarray, mean: np.ndarray, scale: np.ndarray) -> np.ndarray:
        """Scales of larger likelihood, by all observations."""
        shares = self.shares(mean, scale)
        updated: np.ndarray = np.sqrt((shares * self.squares(y, mean, scale)).sum(axis=0) / shares.sum(axis=0))
        return updated

    def spread(self, mean: np.ndarray, scale: np.ndarray) -> np.ndarray:
        """Standard deviations of observations with these means."""
        return np.broadcast_to(scale, mean.shape)


class Student(Gaussian):
    """Student's t with 4 degrees of freedom: outliers lose their weight.

    K. L. Lange, R. J. A. Little, J. M. G. Taylor, "Robust statistical modeling using the t distribution", JASA 84,
    1989; the scale is updated as in their EM algorithm.
    """

    dof = 4.0
    iterated = True
    efficiency = (dof + 1.0) / (dof + 3.0)

    def _weights(self, y: np.ndarray, mean: np.ndarray, scale: np.ndarray) -> np.ndarray:
        return (self.dof + 1.0) / (self.dof + ((mean - y) / scale) ** 2)

    def residuals(self, y: np.ndarray, mean: np.ndarray, scale: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        root = np.sqrt(self._weights(y, mean, scale))
        return root * (mean - y) / scale, root / scale

    def loss(self, y: np.ndarray, mean: np.ndarray, scale: np.ndarray) -> np.ndarray:
        nu = self.dof
        constant = gammaln(nu / 2.0) - gammaln((nu + 1.0) / 2.0) + 0.5 * np.log(nu * np.pi) + np.log(scale)
        return constant + 0.5 * (nu + 1.0) * np.log1p(((mean - y) / scale) ** 2 / nu)

    def squares(self, y: np.ndarray, mean: np.ndarray, scale: np.ndarray) -> np.ndarray:
        return self._weights(y, mean, scale) * (mean - y) ** 2

    def spread(self, mean: np.ndarray, scale: np.ndarray) -> np.ndarray:
        return np.broadcast_to(scale * np.sqrt(self.dof / (self.dof - 2.0)), mean.shape)


class Combined(Gaussian):
    r"""Normal noise with an additive and a proportional part: the variance is ``a^2 + b^2 m^2`` where the mean is m.

    The mean is in the variance too: with ``r = (y - m) / sigma`` and the slope ``q = b^2 m / sigma`` of the standard
    deviation, score and information are

    .. math:: s = \frac{r + q (r^2 - 1)}{\sigma}, \qquad i = \frac{1 + 2 q^2}{\sigma^2}

    (M. Davidian, D. M. Giltinan, "Nonlinear Models for Repeated Measurement Data", Chapman and Hall, 1995, chapter 2;
    J. C. Pinheiro, D. M. Bates, "Mixed-Effects Models in S and S-PLUS", Springer, 2000, section 5.2). Both variances
    are updated as by C. Fevotte, N. Bertin, J.-L. Durrieu, "Nonnegative matrix factorization with the Itakura-Saito
    divergence", Neural Computation 21, 2009: each is the average of its terms, weighted by its shares in the
    observations' variances.

    Parameters
    ----------
    offset : float or ndarray of shape (n_outputs,)
        Added to a mean, it gives the size ``m`` that noise is proportional to.
    least : float or ndarray of shape (n_outputs,)
        The least such size: noise is proportional to the root of ``m^2`` and its square.
    """

    iterated = True
    n_scales = n_estimated = 2

    def __init__(self, offset: float | np.ndarray = 0.0, least: float | np.ndarray = 0.0) -> None:
        self.offset, self.least = offset, least

    def _deviation(self, mean: np.ndarray, scale: np.ndarray) -> np.ndarray:
        """Standard deviations."""
        additive, proportional = np.split(scale, 2, axis=-1)
        return np.sqrt(additive**2 + proportional**2 * ((mean + self.offset) ** 2 + self.least**2))

    def residuals(self, y: np.ndarray, mean: np.ndarray, scale: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        sigma, proportional = self._deviation(mean, scale), np.split(scale, 2, axis=-1)[1]
        r, q = (y - mean) / sigma, proportional**2 * (mean + self.offset) / sigma
        root = np.sqrt(1.0 + 2.0 * q**2)
        return -(r + q * (r**2 - 1.0)) / root, root / sigma

    def loss(self, y: np.ndarray, mean: np.ndarray, scale: np.ndarray) -> np.ndarray:
        return super().loss(y, mean, self._deviation(mean, scale))

    def squares(self, y: np.ndarray, mean: np.ndarray, scale: np.ndarray) -> np.ndarray:
        standardised = (y - mean) / self._deviation(mean, scale)
        return scale**2 * np.concatenate([standardised, standardised], axis=-1) ** 2

    def shares(self, mean: np.ndarray, scale: np.ndarray) -> np.ndarray:
        additive = (np.split(scale, 2, axis=-1)[0] / self._deviation(mean, scale)) ** 2
        return np.concatenate([additive, 1.0 - additive], axis=-1)

    def first_squares(self, y: np.ndarray, mean: np.ndarray) -> np.ndarray:
        half, size = 0.5 * (y - mean) ** 2, ((mean + self.offset) ** 2 + self.least**2).mean(axis=0)
        return np.concatenate([half, half / np.where(size > 0.0, size, 1.0)], axis=-1)

    def least_scale(self, size: np.ndarray, tolerance: float) -> np.ndarray:
        return tolerance * np.concatenate([size, np.ones_like(size)])

    def spread(self, mean: np.ndarray, scale: np.ndarray) -> np.ndarray:
        return self._deviation(mean, scale)


class Proportional(Combined):
    """Normal noise whose standard deviation is a share of the mean; its additive part stays at the least there is."""

    n_estimated = 1

    def squares(self, y: np.ndarray, mean: np.ndarray, scale: np.ndarray) -> np.ndarray:
        squares = super().squares(y, mean, scale)
        squares[..., : mean.shape[-1]] = 0.0
        return squares


class LogNormal(Gaussian):
    """Logarithms are normal about the logarithm of the solution, which is the median of what is observed."""

    def check(self, y: np.ndarray) -> None:
        if (y <= 0.0).any():
            raise ValueError(f"y holds {y.min():g}; with noise='lognormal' it must be positive.")

    def residuals(self, y: np.ndarray, mean: np.ndarray, scale: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.log(mean / y) / scale, 1.0 / (scale * mean)

    def loss(self, y: np.ndarray, mean: np.ndarray, scale: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore", divide="ignore"):
            return super().loss(np.log(y), np.log(mean), scale) + np.log(y)

    def squares(self, y: np.ndarray, mean: np.ndarray, scale: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.log(mean / y) ** 2

    def least_scale(self, size: np.ndarray, tolerance: float) -> np.ndarray:
        return np.full(len(size), tolerance)

    def spread(self, mean: np.ndarray, scale: np.ndarray) -> np.ndarray:
        return mean * np.sqrt(np.expm1(scale**2) * np.exp(scale**2))


class Poisson(Gaussian):
    """Counts, whose variance is their mean."""

    scaled = False

    def check(self, y: np.ndarray) -> None:
        if (y < 0.0).any() or (y != np.round(y)).any():
            wrong = y[(y < 0.0) | (y != np.round(y))][0]
            raise ValueError(f"y holds {wrong:g}; with noise='poisson' it must hold counts.")

    def interior(self, y: np.ndarray) -> np.ndarray:
        return np.maximum(y, 0.5)

    def residuals(self, y: np.ndarray, mean: np.ndarray, scale: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        with np.errstate(invalid="ignore", divide="ignore"):
            return (mean - y) / np.sqrt(mean), 1.0 / np.sqrt(mean)

    def loss(self, y: np.ndarray, mean: np.ndarray, scale: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore", divide="ignore"):
            return mean - y * np.log(mean) + gammaln(y + 1.0)

    def spread(self, mean: np.ndarray, scale: np.ndarray) -> np.ndarray:
        return np.sqrt(np.maximum(mean, 0.0))


#: Probabilities of the solution may be this far outside of 0 and 1, and count as this far inside.
LEAST_PROBABILITY = 1e-9
#: Variance of a success over the number of trials, at least, in the information of a probability near 0 or 1.
LEAST_VARIANCE = 0.01


class Binomial(Gaussian):
    """Counts of successes among numbers of trials; the solution is the probability of one.

    Rows hold shares of successes, so that they are in units of the solution.

    Parameters
    ----------
    trials : ndarray of shape (n_rows, n_outputs)
        Numbers of trials.
    """

    scaled = False

    def __init__(self, trials: np.ndarray) -> None:
        self.trials = trials

    def of(self, rows: np.ndarray) -> Binomial:
        return Binomial(self.trials[rows])

    def check(self, y: np.ndarray) -> None:
        """Refuse counts (rather than shares) that are none."""
        wrong = (y < 0.0) | (y != np.round(y)) | (y > self.trials)
        if wrong.any():
            i = np.flatnonzero(wrong)[0]
            raise ValueError(
                f"y holds {y[i]:g}; with noise='binomial' it must hold counts, from 0 to the number of trials, here "
                f"{self.trials[i]:g}."
            )

    def size(self, mean: np.ndarray) -> np.ndarray:
        return np.broadcast_to(self.trials, mean.shape)

    def interior(self, y: np.ndarray) -> np.ndarray:
        return (self.trials * y + 0.5) / (self.trials + 1.0)

    @staticmethod
    def _inside(mean: np.ndarray) -> np.ndarray:
        probability = np.clip(mean, LEAST_PROBABILITY, 1.0 - LEAST_PROBABILITY)
        return np.where(np.abs(mean - probability) <= 2.0 * LEAST_PROBABILITY, probability, np.nan)

    def residuals(self, y: np.ndarray, mean: np.ndarray, scale: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        q, n = self._inside(mean), self.trials
        variance = q * (1.0 - q)
        # Where no failures (or successes) are left to come the information has no bound: one row would outweigh all
        # others. The residual has the gradient of the likelihood with any.
        with np.errstate(invalid="ignore", divide="ignore"):
            root = np.sqrt(n / np.maximum(variance, LEAST_VARIANCE / np.maximum(n, 1.0)))
            return np.where(n > 0.0, n * (q - y) / (variance * root), 0.0), root

    def loss(self, y: np.ndarray, mean: np.ndarray, scale: np.ndarray) -> np.ndarray:
        q, n = self._inside(mean), self.trials
        ways = -betaln(n * y + 1.0, n * (1.0 - y) + 1.0) - np.log1p(n)  # logarithm of the binomial coefficient
        return -n * (xlogy(y, q) + xlog1py(1.0 - y, -q)) - ways

    def spread(self, mean: np.ndarray, scale: np.ndarray) -> np.ndarray:
        return np.sqrt(self.trials * np.clip(mean * (1.0 - mean), 0.0, None))


NOISES: dict[str, Gaussian] = {
    "gaussian": Gaussian(),
    "student": Student(),
    "proportional": Proportional(),
    "combined": Combined(),
    "lognormal": LogNormal(),
    "poisson": Poisson(),
}

#: Names of all distributions.
NOISE_NAMES = (*NOISES, "binomial")

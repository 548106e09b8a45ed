"""Likelihoods: distributions of ``y`` with parameter ``eta``, the output of the decoder.

Beside their densities they give the score ``d log p / d eta`` and the Fisher information ``E[(d log p / d eta)^2]``,
from which the posterior of a latent state is found by scoring.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from skode.distributed.share import Share
from skode.timeseries.noise.ornstein_uhlenbeck import ColouredNoise

#: Logarithms of rates are kept below this, lest one step of training that is too long leads to infinity.
LARGEST_LOG = 30.0

#: Given means of probabilities and counts are kept this far from 0, and probabilities from 1.
LEAST_MEAN = 1e-6

#: Largest count; rates reach to ``exp(LARGEST_LOG)``, ten times as far.
LARGEST_COUNT = 1e12


#: Standard deviation, of standardised outputs, that noise is held at in the beginning of training.
HELD_NOISE = 0.3


class Likelihood(nn.Module):
    """The distribution of each output, independent given ``eta``; where y is NaN nothing was observed.

    Attributes
    ----------
    standardised : bool
        Whether outputs are to be standardised.
    discrete : bool
        Whether outputs are whole numbers.
    """

    standardised = False
    discrete = True

    def __init__(self, n_outputs: int) -> None:
        super().__init__()
        self.n_outputs = n_outputs

    @staticmethod
    def check(y: np.ndarray) -> None:
        """Refuse values that can't be observed, by ValueError."""

    @staticmethod
    def start(y: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """The ``eta`` that suits the mean of each output, of shape (n_outputs,), in rows of some weights."""
        return _mean(y, weights)

    def log_prob(self, eta: Tensor, y: Tensor, added: Tensor | None = None) -> Tensor:
        """Log-density of each value; 0 where nothing was observed.

        ``added`` is a variance beside that of the distribution itself; only normal ones have such.
        """
        observed = ~torch.isnan(y)
        return self._log_prob(eta, torch.where(observed, y, self._usual(eta)), added) * observed

    def score(self, eta: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Score and Fisher information of each value; 0 where nothing was observed."""
        observed = ~torch.isnan(y)
        score, information = self._score(eta, torch.where(observed, y, self._usual(eta)))
        return score * observed, information * observed

    def mean(self, eta: Tensor) -> Tensor:
        """Mean of each output."""
        raise NotImplementedError

    def link(self, mean: Tensor) -> Tensor:
        """The ``eta`` of which outputs have a mean; one that no output can have counts as the nearest that can."""
        raise NotImplementedError

    def variance(self, eta: Tensor) -> Tensor:
        """Variance of each output about its mean."""
        raise NotImplementedError

    @property
    def is_held(self) -> bool:
        """Whether the noise is held."""
        return False

    def hold(self) -> None:
        """Hold the noise, where there is any, at :data:`HELD_NOISE` in training."""

    def release(self, eta: Tensor, y: Tensor, share: Share | None = None) -> None:
        """Let the noise be learnt again, where it was held: from the spread of residuals on, all of the batch."""

    def cdf(self, eta: Tensor, y: Tensor, added: Tensor | None = None) -> Tensor:
        """Probability of each output to be no larger than ``y``; ``added`` as in :meth:`log_prob`."""
        raise NotImplementedError

    @property
    def has_memory(self) -> bool:
        """Whether part of the noise has a memory."""
        return False

    def coloured_noise(self, time: Tensor, observed: Tensor, weights: Tensor | None = None) -> ColouredNoise | None:
        """The noise at given times, if part of it has a memory; see :class:`ColouredNoise`."""
        return None

    def sample(self, eta: Tensor, generator: torch.Generator) -> Tensor:
        """Draws of the outputs."""
        raise NotImplementedError

    def _log_prob(self, eta: Tensor, y: Tensor, added: Tensor | None) -> Tensor:
        raise NotImplementedError

    def _score(self, eta: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        raise NotImplementedError

    def _usual(self, eta: Tensor) -> Tensor:
        """A value that can be observed, to stand where none was."""
        return torch.zeros_like(eta)


class Gaussian(Likelihood):
    """``y ~ N(eta, sigma^2)``, with one ``sigma`` for each output.

    In training the noise is white. Part of what predictions are made with may have a memory.

    Attributes
    ----------
    log_noise : nn.Parameter of shape (n_outputs,)
        ``log sigma`` of the white noise; outputs are standardised, and it starts at their spread.
    coloured, memory : Tensor of shape (n_outputs,)
        Standard deviation of the noise with a memory, 0 if there is none, and that memory.
    """

    standardised = True
    discrete = False
    coloured: Tensor
    memory: Tensor

    def __init__(self, n_outputs: int) -> None:
        super().__init__(n_outputs)
        self.log_noise = nn.Parameter(torch.zeros(n_outputs))
        self.register_buffer("coloured", torch.zeros(n_outputs))
        self.register_buffer("memory", torch.ones(n_outputs))

    @torch.no_grad()
    def colour(self, output: int, share: float, memory: float) -> None:
        """Give a share of the variance of one output's noise, so far white, a memory."""
        sigma = torch.exp(self.log_noise[output])
        self.coloured[output], self.memory[output] = sigma * math.sqrt(share), memory
        self.log_noise[output] = torch.log(sigma * math.sqrt(1.0 - share))

    @property
    def is_held(self) -> bool:
        return not self.log_noise.requires_grad

    @torch.no_grad()
    def hold(self) -> None:
        if not self.is_held:
            self.log_noise.requires_grad_(False).fill_(math.log(HELD_NOISE))

    @torch.no_grad()
    def release(self, eta: Tensor, y: Tensor, share: Share | None = None) -> None:
        if not self.is_held:
            return
        squares = ((y - eta) ** 2).flatten(0, -2)
        if share is None:
            variance = squares.nanmean(0)  # NaN of an output that was not observed
        else:
            total, n = squares.nansum(0) * share.counts, (~torch.isnan(squares)).sum(0).to(squares) * share.counts
            share.processes.sum_up([total, n])
            variance = total / n
        self.log_noise.copy_(torch.where(variance > 0.0, 0.5 * torch.log(variance), self.log_noise))
        self.log_noise.requires_grad_(True)

    @torch.no_grad()
    def whiten(self) -> None:
        """Take all noise for white."""
        self.log_noise.copy_(0.5 * torch.log(torch.exp(2.0 * self.log_noise) + self.coloured**2))
        self.coloured.zero_()

    @torch.no_grad()
    def widen(self, factor: float) -> None:
        """Multiply the standard deviations of all noise."""
        self.log_noise.add_(math.log(factor))
        self.coloured.mul_(factor)

    @property
    def has_memory(self) -> bool:
        return bool((self.coloured > 0.0).any())

    def mean(self, eta: Tensor) -> Tensor:
        return eta

    def link(self, mean: Tensor) -> Tensor:
        return mean

    def variance(self, eta: Tensor) -> Tensor:
        return torch.exp(2.0 * self.log_noise).expand_as(eta)

    def cdf(self, eta: Tensor, y: Tensor, added: Tensor | None = None) -> Tensor:
        variance = self.variance(eta)
        return torch.special.ndtr((y - eta) / torch.sqrt(variance if added is None else variance + added))

    def coloured_noise(self, time: Tensor, observed: Tensor, weights: Tensor | None = None) -> ColouredNoise | None:
        if not self.has_memory:
            return None
        white = torch.exp(self.log_noise.detach())
        return ColouredNoise(time, observed, white, self.coloured, self.memory, weights)

    def sample(self, eta: Tensor, generator: torch.Generator) -> Tensor:
        noise = torch.randn(eta.shape, generator=generator, dtype=eta.dtype).to(eta.device)
        return eta + torch.exp(self.log_noise) * noise

    def _log_prob(self, eta: Tensor, y: Tensor, added: Tensor | None) -> Tensor:
        log_std = self.log_noise if added is None else 0.5 * torch.log(torch.exp(2.0 * self.log_noise) + added)
        residual = (y - eta) * torch.exp(-log_std)
        return -0.5 * residual**2 - log_std - 0.5 * math.log(2 * math.pi)

    def _score(self, eta: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        precision = torch.exp(-2.0 * self.log_noise)
        return (y - eta) * precision, precision.expand_as(eta)


class Bernoulli(Likelihood):
    """``y`` is 1 with probability ``1 / (1 + exp(-eta))``, else 0."""

    @staticmethod
    def check(y: np.ndarray) -> None:
        seen = y[~np.isnan(y)]
        if not np.isin(seen, (0.0, 1.0)).all():
            raise ValueError(
                f"likelihood='bernoulli' takes values 0 and 1, but y holds {seen[~np.isin(seen, (0.0, 1.0))][0]:g}."
            )

    @staticmethod
    def start(y: np.ndarray, weights: np.ndarray) -> np.ndarray:
        seen = weights @ ~np.isnan(y)
        ones = weights @ np.nan_to_num(y)
        return np.log((ones + 0.5) / (seen - ones + 0.5))

    def mean(self, eta: Tensor) -> Tensor:
        return torch.sigmoid(eta)

    def link(self, mean: Tensor) -> Tensor:
        return torch.logit(mean, eps=LEAST_MEAN)

    def variance(self, eta: Tensor) -> Tensor:
        p = torch.sigmoid(eta)
        return p * (1.0 - p)

    def cdf(self, eta: Tensor, y: Tensor, added: Tensor | None = None) -> Tensor:
        return torch.where(y >= 1.0, 1.0, torch.where(y >= 0.0, torch.sigmoid(-eta), 0.0))

    def sample(self, eta: Tensor, generator: torch.Generator) -> Tensor:
        return torch.bernoulli(torch.sigmoid(eta).cpu(), generator=generator).to(eta.device)

    def _log_prob(self, eta: Tensor, y: Tensor, added: Tensor | None) -> Tensor:
        return y * eta - nn.functional.softplus(eta)

    def _score(self, eta: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        p = torch.sigmoid(eta)
        return y - p, p * (1.0 - p)


class Poisson(Likelihood):
    """``y`` is a count of mean ``exp(eta)``, with ``eta`` kept below :data:`LARGEST_LOG`."""

    @staticmethod
    def check(y: np.ndarray) -> None:
        seen = y[~np.isnan(y)]
        wrong = seen[(seen < 0) | (seen != np.floor(seen))]
        if len(wrong):
            raise ValueError(f"likelihood='poisson' takes counts 0, 1, 2, ..., but y holds {wrong[0]:g}.")
        if len(seen) and seen.max() > LARGEST_COUNT:
            raise ValueError(f"likelihood='poisson' takes counts up to {LARGEST_COUNT:g}, but y holds {seen.max():g}.")

    @staticmethod
    def start(y: np.ndarray, weights: np.ndarray) -> np.ndarray:
        return np.log(_mean(y, weights) + 1e-3)

    def mean(self, eta: Tensor) -> Tensor:
        return torch.exp(eta.clamp_max(LARGEST_LOG))

    def link(self, mean: Tensor) -> Tensor:
        return torch.log(mean.clamp_min(LEAST_MEAN))

    def variance(self, eta: Tensor) -> Tensor:
        return self.mean(eta)

    def cdf(self, eta: Tensor, y: Tensor, added: Tensor | None = None) -> Tensor:
        # The incomplete gamma function, which is smooth in y between counts.
        return torch.where(y > -1.0, torch.special.gammaincc((y + 1.0).clamp_min(1e-30), self.mean(eta)), 0.0)

    def sample(self, eta: Tensor, generator: torch.Generator) -> Tensor:
        return torch.poisson(self.mean(eta).cpu(), generator=generator).to(eta.device)

    def _log_prob(self, eta: Tensor, y: Tensor, added: Tensor | None) -> Tensor:
        return y * eta - self.mean(eta) - torch.lgamma(y + 1.0)

    def _score(self, eta: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        rate = self.mean(eta)
        return y - rate, rate


def _mean(y: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted mean of each output where it was observed."""
    return weights @ np.nan_to_num(y) / (weights @ ~np.isnan(y))


LIKELIHOODS: dict[str, type[Likelihood]] = {"gaussian": Gaussian, "bernoulli": Bernoulli, "poisson": Poisson}

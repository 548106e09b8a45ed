"""Distributions of outputs as mixtures over draws of latent states: quantiles, and the CRPS of observations."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from skode.timeseries.likelihoods import Bernoulli, Likelihood, Poisson
from skode.timeseries.predictive import Prediction

#: Halvings of a bracket: of floats to their precision, of counts to one, as they are below 2^44.
MOST_HALVINGS = 60

#: Counts at which the spread of a mixture is summed, at most; where there are more, in equal strides.
MOST_COUNTS = 512

#: Counts are summed over means +- so many standard deviations, and as many more.
REACH = 9.0


def quantile(likelihood: Likelihood, prediction: Prediction, probability: float) -> Tensor:
    """The least value that an output stays below or at with a probability, of shape (n_rows, n_outputs).

    It is found by bisection of the mixture's distribution function. By the inequality of Cantelli it lies between
    ``m - s sqrt((1 - p) / p)`` and ``m + s sqrt(p / (1 - p))``, with the mean m and the standard deviation s.
    """
    eta, added = torch.nan_to_num(prediction.eta), prediction.coloured
    means = likelihood.mean(eta)
    mean = prediction.mean(means)
    variance = prediction.mean(likelihood.variance(eta) + (means - mean) ** 2)
    std = torch.sqrt(variance if added is None else variance + added)
    low = mean - std * math.sqrt((1.0 - probability) / probability)
    high = mean + std * math.sqrt(probability / (1.0 - probability))
    if likelihood.discrete:
        low, high = torch.floor(low) - 1.0, torch.ceil(high) + 1.0
    for _ in range(MOST_HALVINGS):
        middle = 0.5 * (low + high)
        middle = torch.floor(middle) if likelihood.discrete else middle
        reached = prediction.mean(likelihood.cdf(eta, middle, added)) >= probability
        low, high = torch.where(reached, low, middle), torch.where(reached, middle, high)
    return high


def crps(likelihood: Likelihood, prediction: Prediction, y: Tensor) -> Tensor:
    r"""Continuous ranked probability score of observations; NaN where there is none.

    .. math::

        \int (F(x) - 1\{x \ge y\})^2 \, dx = \mathrm{E}|Y - y| - \frac{1}{2} \mathrm{E}|Y - Y'|

    with :math:`Y, Y'` independent of the distribution function F (T. Gneiting, A. E. Raftery, "Strictly proper scoring
    rules, prediction, and estimation", JASA 102, 2007). Of normal mixtures both are sums over draws (E. P. Grimit,
    T. Gneiting, V. J. Berrocal, N. A. Johnson, "The continuous ranked probability score for circular variables and its
    application to mesoscale forecast ensemble verification", Q. J. R. Meteorol. Soc. 132, 2006); of counts the second
    is :math:`2 \sum_k F(k) (1 - F(k))`.

    Parameters
    ----------
    likelihood : Likelihood
        The outputs' distribution in each draw.
    prediction : Prediction
        The draws.
    y : Tensor of shape (n_rows, n_outputs)
        Values; NaN where nothing was observed.

    Returns
    -------
    Tensor of shape (n_rows, n_outputs)
    """
    eta, weights, observed = torch.nan_to_num(prediction.eta), prediction.weights[..., None], ~torch.isnan(y)
    value = torch.nan_to_num(y)
    if isinstance(likelihood, Bernoulli):
        score = (prediction.mean(likelihood.mean(eta)) - value) ** 2
    elif isinstance(likelihood, Poisson):
        rate = likelihood.mean(eta)
        at, below = likelihood.cdf(eta, value), likelihood.cdf(eta, value - 1.0)
        error = (value - rate) * (2.0 * at - 1.0) + 2.0 * rate * (at - below)
        score = (weights * error).sum(0) - _spread_of_counts(likelihood, prediction, rate)
    else:
        variance = likelihood.variance(eta)
        variance = variance if prediction.coloured is None else variance + prediction.coloured
        score = (weights * _absolute(value - eta, variance)).sum(0)
        for one, its_variance, weight in zip(eta, variance, weights, strict=True):
            score = score - 0.5 * weight * (weights * _absolute(one - eta, its_variance + variance)).sum(0)
    return torch.where(observed, score, torch.nan)


def _absolute(mean: Tensor, variance: Tensor) -> Tensor:
    """``E |X|`` of normal X."""
    std = torch.sqrt(variance)
    z = mean / std
    density = torch.exp(-0.5 * z**2) / math.sqrt(2.0 * math.pi)
    return 2.0 * std * density + mean * (2.0 * torch.special.ndtr(z) - 1.0)


def _spread_of_counts(likelihood: Likelihood, prediction: Prediction, rate: Tensor) -> Tensor:
    """``E |Y - Y'| / 2`` of mixtures of counts, of shape (n_rows, n_outputs)."""
    counts = prediction.weights[..., None] > 0
    reach = REACH * torch.sqrt(rate) + REACH
    first = torch.where(counts, rate - reach, torch.inf).amin(0).clamp_min(0.0).floor()
    last = torch.where(counts, rate + reach, -torch.inf).amax(0).ceil()
    stride = ((last - first + 1.0) / MOST_COUNTS).clamp_min(1.0)
    total = torch.zeros_like(first)
    for i in range(int(min(MOST_COUNTS, float((last - first).max()) + 1.0))):
        # The middle of a stride; of strides of one the count itself. Beyond the last all terms vanish.
        at = first + i * stride + 0.5 * (stride - 1.0)
        below = prediction.mean(likelihood.cdf(torch.log(rate), at))
        total = total + stride * below * (1.0 - below)
    return total

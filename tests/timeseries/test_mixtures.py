"""Quantiles and the CRPS of mixtures over draws."""

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.optimize import brentq
from scipy.stats import bernoulli, norm, poisson

from skode.timeseries.likelihoods import Bernoulli, Gaussian, Poisson
from skode.timeseries.mixtures import MOST_COUNTS, crps, quantile
from skode.timeseries.predictive import Prediction

N_DRAWS, N_ROWS, N_OUTPUTS = 5, 7, 2


def prediction(eta, coloured=None):
    """Weighted draws; one without weight is NaN, as one that could not be solved."""
    weights = np.random.default_rng(1).dirichlet(np.ones(len(eta) - 1), eta.shape[1]).T
    weights, eta = np.vstack([weights, np.zeros(eta.shape[1])]), eta.copy()
    eta[-1] = np.nan
    as_tensor = torch.from_numpy
    rest = None if coloured is None else as_tensor(coloured)
    return Prediction(np.arange(eta.shape[1]), as_tensor(eta), as_tensor(eta), None, as_tensor(weights), rest)


def etas(scale=1.0, seed=0):
    return scale * np.random.default_rng(seed).standard_normal((N_DRAWS, N_ROWS, N_OUTPUTS))


def gaussian():
    likelihood = Gaussian(N_OUTPUTS).double()
    with torch.no_grad():
        likelihood.log_noise.copy_(torch.tensor([-1.0, 0.5]))
    return likelihood


def normal_cdf(found, likelihood, row, output):
    weights, eta = found.weights[:-1, row].numpy(), found.eta[:-1, row, output].numpy()
    std = np.sqrt(np.exp(2 * likelihood.log_noise[output].item()) + found.coloured[row, output].item())
    return lambda x: weights @ norm.cdf(x, eta, std)


@pytest.fixture
def of_normals():
    return gaussian(), prediction(etas(2.0), np.random.default_rng(2).uniform(0, 1, (N_ROWS, N_OUTPUTS)))


@torch.no_grad()
@pytest.mark.parametrize("p", [0.005, 0.5, 0.95])
def test_quantiles_of_normal_mixtures(of_normals, p):
    found = quantile(*of_normals, p)
    for row in range(N_ROWS):
        for output in range(N_OUTPUTS):
            cdf = normal_cdf(of_normals[1], of_normals[0], row, output)
            root = brentq(lambda x: cdf(x) - p, -50, 50, xtol=1e-12)  # noqa: B023
            assert found[row, output].item() == pytest.approx(root, abs=1e-8)


@torch.no_grad()
@pytest.mark.parametrize("p", [0.01, 0.4, 0.99])
@pytest.mark.parametrize("scale", [1.0, 8.0])
def test_quantiles_of_counts_are_the_least_that_reach_the_probability(p, scale):
    likelihood, of = Poisson(N_OUTPUTS), prediction(etas(scale) + 2.0)
    found = quantile(likelihood, of, p)
    cdf = (of.weights[:-1, :, None].numpy() * poisson.cdf(found.numpy(), np.exp(of.eta[:-1].numpy()))).sum(0)
    below = (of.weights[:-1, :, None].numpy() * poisson.cdf(found.numpy() - 1, np.exp(of.eta[:-1].numpy()))).sum(0)
    assert (found == torch.floor(found)).all()
    assert (found >= 0).all()
    assert (cdf >= p - 1e-12).all()
    assert (below < p).all()


@torch.no_grad()
def test_quantiles_of_binary_outputs():
    of = prediction(etas(3.0))
    p = (of.weights[:-1, :, None] * torch.sigmoid(of.eta[:-1])).sum(0)
    assert 0 < (p > 0.4).sum() < p.numel()
    assert torch.equal(quantile(Bernoulli(N_OUTPUTS), of, 0.6), (p > 0.4).double())


@torch.no_grad()
def test_crps_of_normal_mixtures_is_the_integral(of_normals):
    y = np.random.default_rng(3).normal(0, 3, (N_ROWS, N_OUTPUTS))
    y[2, 1] = np.nan
    found = crps(*of_normals, torch.from_numpy(y)).numpy()
    assert np.isnan(found[2, 1])
    assert np.isnan(found).sum() == 1
    for row, output in [(0, 0), (1, 1), (5, 0)]:
        cdf, at = normal_cdf(of_normals[1], of_normals[0], row, output), y[row, output]
        low, high = quad(lambda x: cdf(x) ** 2, -40, at)[0], quad(lambda x: (1 - cdf(x)) ** 2, at, 40)[0]  # noqa: B023
        assert found[row, output] == pytest.approx(low + high, rel=1e-6)


@torch.no_grad()
@pytest.mark.parametrize(("shift", "rel"), [(1.0, 1e-10), (9.0, 1e-5)], ids=["few", "many"])
def test_crps_of_counts_is_the_sum(shift, rel):
    of = prediction(etas(0.7) + shift)
    rates = np.exp(of.eta[:-1].numpy())
    y = np.random.default_rng(4).poisson(rates[0]).astype(float)
    counts = np.arange(int(3 * rates.max() + 100))
    assert (len(counts) > 3 * MOST_COUNTS) == (shift == 9.0)  # summed in strides
    found = crps(Poisson(N_OUTPUTS), of, torch.from_numpy(y)).numpy()
    for row, output in [(0, 0), (3, 1)]:
        cdf = of.weights[:-1, row].numpy() @ poisson.cdf(counts, rates[:, row, output, None])
        exact = ((cdf - (counts >= y[row, output])) ** 2).sum()
        assert found[row, output] == pytest.approx(exact, rel=rel)


@torch.no_grad()
def test_crps_of_binary_outputs_is_the_square():
    of, y = prediction(etas()), np.random.default_rng(5).integers(0, 2, (N_ROWS, N_OUTPUTS)).astype(float)
    p = (of.weights[:-1, :, None] * torch.sigmoid(of.eta[:-1])).sum(0).numpy()
    exact = (bernoulli.cdf(0, p) - (y <= 0)) ** 2
    np.testing.assert_allclose(crps(Bernoulli(N_OUTPUTS), of, torch.from_numpy(y)), exact)

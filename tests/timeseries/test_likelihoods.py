import math

import numpy as np
import pytest
import torch
from torch import distributions

from skode.timeseries.likelihoods import LIKELIHOODS, Bernoulli, Gaussian, Poisson

KINDS = sorted(LIKELIHOODS)
N_DRAWS = 200_000


def likelihood_of(kind, n_outputs=2):
    likelihood = LIKELIHOODS[kind](n_outputs).double()
    if kind == "gaussian":
        with torch.no_grad():
            likelihood.log_noise.copy_(torch.linspace(-1.0, 0.5, n_outputs))
    return likelihood


def reference(likelihood, eta):
    """The same distribution as torch has it."""
    if isinstance(likelihood, Gaussian):
        return distributions.Normal(eta, likelihood.log_noise.exp().detach())
    if isinstance(likelihood, Bernoulli):
        return distributions.Bernoulli(logits=eta)
    return distributions.Poisson(eta.exp())


@pytest.fixture
def eta():
    return torch.randn(7, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 1.5


def observed(likelihood, eta, seed=1):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return reference(likelihood, eta).sample()


def test_the_table_names_all():
    assert {"gaussian": Gaussian, "bernoulli": Bernoulli, "poisson": Poisson} == LIKELIHOODS
    assert [kind for kind in KINDS if LIKELIHOODS[kind].standardised] == ["gaussian"]


@pytest.mark.parametrize("kind", KINDS)
def test_log_densities_are_those_of_torchs_distributions(kind, eta):
    likelihood = likelihood_of(kind)
    y = observed(likelihood, eta)
    torch.testing.assert_close(
        likelihood.log_prob(eta, y), reference(likelihood, eta).log_prob(y), rtol=1e-12, atol=1e-12
    )


@pytest.mark.parametrize("kind", KINDS)
def test_mean_and_variance_are_those_of_torchs_distributions(kind, eta):
    likelihood = likelihood_of(kind)
    torch.testing.assert_close(likelihood.mean(eta), reference(likelihood, eta).mean, rtol=1e-12, atol=1e-12)
    variance = likelihood.variance(eta)
    assert variance.shape == eta.shape
    torch.testing.assert_close(variance.detach(), reference(likelihood, eta).variance, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_the_score_is_the_derivative_of_the_log_density(kind, eta):
    likelihood = likelihood_of(kind)
    y = observed(likelihood, eta)
    leaf = eta.clone().requires_grad_()
    (expected,) = torch.autograd.grad(likelihood.log_prob(leaf, y).sum(), leaf)
    score, _ = likelihood.score(eta, y)
    torch.testing.assert_close(score.detach(), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_the_information_is_the_expected_square_of_the_score(kind):
    likelihood = likelihood_of(kind, 1)
    eta = torch.tensor([[-1.0], [0.3], [1.5]], dtype=torch.float64)
    if kind == "gaussian":  # E[(y - eta)^2] / sigma^4 by Gauss-Hermite quadrature
        nodes, weights = np.polynomial.hermite_e.hermegauss(20)
        sigma = likelihood.log_noise.exp().item()
        values, probabilities = torch.as_tensor(nodes)[:, None, None] * sigma + eta, weights / math.sqrt(2 * math.pi)
    else:  # a sum over all that can be observed
        counts = torch.arange(2 if kind == "bernoulli" else 80, dtype=torch.float64)
        values = counts[:, None, None].expand(-1, *eta.shape)
        probabilities = None
    score, information = likelihood.score(eta.expand(len(values), -1, -1), values)
    if probabilities is None:
        weight = reference(likelihood, eta).log_prob(values).exp()
    else:
        weight = torch.as_tensor(probabilities)[:, None, None]
    expected = (weight * score**2).sum(0)
    torch.testing.assert_close(information[0].detach(), expected.detach(), rtol=1e-9, atol=1e-10)
    assert (information.std(0) < 1e-12).all()  # whatever was observed


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_not_observed_counts_for_nothing(kind, eta):
    likelihood = likelihood_of(kind)
    y = observed(likelihood, eta)
    y[::2, 0] = torch.nan
    missing = torch.isnan(y)
    leaf = eta.clone().requires_grad_()
    density = likelihood.log_prob(leaf, y)
    score, information = likelihood.score(eta, y)
    for values in (density, score, information):
        assert (values[missing] == 0).all()
        assert (values[~missing] != 0).all()
    density.sum().backward()
    assert (leaf.grad[missing] == 0).all()
    assert torch.isfinite(leaf.grad).all()
    for parameter in likelihood.parameters():
        assert torch.isfinite(parameter.grad).all()


@pytest.mark.parametrize("kind", KINDS)
def test_draws_have_the_mean_and_the_variance(kind):
    likelihood = likelihood_of(kind)
    eta = torch.tensor([[-1.0, 0.7]], dtype=torch.float64)
    with torch.no_grad():
        drawn = likelihood.sample(eta.expand(N_DRAWS, 1, 2), torch.Generator().manual_seed(0))
        assert drawn.dtype == torch.float64
        expected, variance = likelihood.mean(eta), likelihood.variance(eta)
    error = (variance / N_DRAWS).sqrt()
    assert ((drawn.mean(0) - expected).abs() < 4 * error).all()
    torch.testing.assert_close(drawn.var(0), variance, rtol=0.03, atol=0.0)
    type(likelihood).check(drawn.numpy())  # what is drawn can be observed


@pytest.mark.parametrize("kind", KINDS)
def test_draws_come_from_the_generator_alone(kind, eta):
    likelihood = likelihood_of(kind)
    state = torch.get_rng_state()
    first, second = (likelihood.sample(eta, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), state)


def test_extreme_parameters_give_finite_log_densities():
    eta = torch.tensor([[-800.0, 800.0]], dtype=torch.float64)
    density = Bernoulli(2).log_prob(eta, torch.tensor([[0.0, 1.0]], dtype=torch.float64))
    torch.testing.assert_close(density, torch.zeros_like(density))
    density = Bernoulli(2).log_prob(eta, torch.tensor([[1.0, 0.0]], dtype=torch.float64))
    torch.testing.assert_close(density, torch.full_like(density, -800.0))


@pytest.mark.parametrize("bad", [0.5, -1.0, 2.0])
def test_bernoulli_takes_zeros_and_ones_only(bad):
    Bernoulli.check(np.array([[0.0, 1.0], [np.nan, 1.0]]))
    with pytest.raises(ValueError, match=f"bernoulli.*holds {bad:g}"):
        Bernoulli.check(np.array([[0.0, bad], [np.nan, 1.0]]))


@pytest.mark.parametrize("bad", [0.5, -1.0, -0.5])
def test_poisson_takes_counts_only(bad):
    Poisson.check(np.array([[0.0, 17.0], [np.nan, 1.0]]))
    with pytest.raises(ValueError, match=f"poisson.*holds {bad:g}"):
        Poisson.check(np.array([[0.0, bad], [np.nan, 1.0]]))


def test_gaussian_takes_anything():
    Gaussian.check(np.array([[-0.5, 1e9, np.nan]]))


@pytest.mark.parametrize("kind", KINDS)
def test_training_starts_at_the_mean_of_each_output(kind):
    rng = np.random.RandomState(0)
    y = rng.randint(0, 2, (400, 2)).astype(float)
    y[:300, 1] = 1.0
    y[::5, 0] = np.nan
    likelihood = likelihood_of(kind)
    start = torch.from_numpy(likelihood.start(y, np.ones(len(y))))
    assert start.shape == (2,)
    np.testing.assert_allclose(likelihood.mean(start).detach(), np.nanmean(y, axis=0), atol=0.005)


@pytest.mark.parametrize("kind", KINDS)
def test_it_starts_finite_where_all_is_zero(kind):
    assert np.isfinite(LIKELIHOODS[kind].start(np.zeros((5, 2)), np.ones(5))).all()


@pytest.mark.parametrize("kind", KINDS)
def test_the_link_is_the_inverse_of_the_mean(kind, eta):
    likelihood = likelihood_of(kind)
    torch.testing.assert_close(likelihood.link(likelihood.mean(eta)), eta, rtol=1e-4, atol=1e-4)
    impossible = likelihood.link(torch.tensor([-3.0, 0.0], dtype=torch.float64))
    assert torch.isfinite(impossible).all()
    if kind != "gaussian":
        torch.testing.assert_close(likelihood.mean(impossible), torch.full((2,), 1e-6, dtype=torch.float64))

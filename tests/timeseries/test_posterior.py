from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.linalg import expm
from scipy.stats import multivariate_normal

from skode.timeseries import footprint
from skode.timeseries.encoders import GRUEncoder
from skode.timeseries.latent_ode import FIRST_RATE, LatentODE
from skode.timeseries.likelihoods import LIKELIHOODS
from skode.timeseries.panel import Panel
from skode.timeseries.posterior import Inference, Posterior, _jointly, _truncated, infer, linearised_rows, normal_draws
from skode.timeseries.tensors import PanelTensors
from skode.training import Solver

#: Values at these times, and questions between and after them.
TIMES, QUERY = [0.0, 0.6, 1.1, 2.0], [0.0, 0.3, 1.5, 3.0]


def model_of(latent_size, *, likelihood="gaussian", process=False, hidden=(6,), n_outputs=1, n_covariates=0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    module = LatentODE(
        n_covariates,
        latent_size=latent_size,
        hidden_layer_sizes=hidden,
        activation="tanh",
        encoder=GRUEncoder(n_outputs, n_covariates, 5, latent_size, generator),
        likelihood=LIKELIHOODS[likelihood](n_outputs),
        process=process,
        generator=generator,
    ).double()
    if likelihood == "gaussian":
        with torch.no_grad():
            module.likelihood.log_noise.fill_(-1.0)
    return module


def linear_model(latent_size=3, n_outputs=2, n_covariates=0):
    module = model_of(latent_size, hidden=(), n_outputs=n_outputs, n_covariates=n_covariates)
    with torch.no_grad():
        module.decoder.bent.weight.zero_()
        module.field.layers[0].bias.copy_(torch.linspace(-0.3, 0.4, latent_size))
    return module


def panel_of(*series, n_outputs=1, n_covariates=0):
    """Series of (times, values)."""
    ids = np.repeat(np.arange(len(series)), [len(times) for times, _ in series])
    time = np.concatenate([times for times, _ in series]).astype(float)
    y = np.concatenate([np.reshape(values, (-1, n_outputs)) for _, values in series]).astype(float)
    return Panel.of(ids, time, np.zeros((len(time), n_covariates)), y)


def tensors(panel):
    return PanelTensors.of(panel.observed(), 1.0, torch.float64, torch.device("cpu"), panel)


def random_panel(n=5, n_outputs=1, seed=0):
    rng = np.random.RandomState(seed)
    lengths = rng.randint(2, 9, n)
    return panel_of(
        *[(np.append(0.0, np.sort(rng.uniform(0, 3, m - 1))), rng.normal(size=(m, n_outputs))) for m in lengths],
        n_outputs=n_outputs,
    )


# Normal posteriors, in closed form


def closed_form(module, times, y):
    """Mean and covariance of z(0) for a linear model: ``z(t) = E(t) z0 + s(t)``, ``y = A z + b + noise``."""
    noise = np.exp(module.likelihood.log_noise.detach().numpy())
    precision, linear = np.eye(module.latent_size), np.zeros(module.latent_size)
    for slope, offset, value in zip(*linear_outputs(module, times), y, strict=True):
        seen = ~np.isnan(value)
        scaled = slope[seen] / noise[seen, None] ** 2
        precision += scaled.T @ slope[seen]
        linear += scaled.T @ (value - offset)[seen]
    covariance = np.linalg.inv(precision)
    return covariance @ linear, covariance


@pytest.mark.parametrize("still", [False, True], ids=["linear dynamics", "no dynamics"])
def test_of_a_linear_model_the_posterior_is_exact(still, tight_solver):
    module = linear_model()
    with torch.no_grad():
        module.likelihood.log_noise.copy_(torch.tensor([-1.0, 0.3]))
        if still:
            for parameter in module.field.parameters():
                parameter.zero_()
    panel = random_panel(6, 2)
    panel.y[::4, 1] = np.nan
    found = infer(module, panel, tensors, tight_solver, 16, refined=True)
    assert found.n_of_prior == 4
    z0 = found.draws(normal_draws(16, found.mean.shape[1])).numpy()
    for i in range(6):
        rows = panel.codes == i
        mean, covariance = closed_form(module, panel.since_origin()[rows], panel.y[rows])
        np.testing.assert_allclose((found.factor[i] @ found.factor[i].T).numpy(), covariance, atol=1e-4)
        np.testing.assert_allclose(found.mean[i], mean, atol=1e-4)
        # A quarter of the draws are the prior's: importances are those beside the mixture.
        exact = multivariate_normal(mean, covariance).logpdf(z0[:, i])
        prior = multivariate_normal(np.zeros_like(mean)).logpdf(z0[:, i])
        weights = np.exp(exact - np.logaddexp(np.log(0.75) + exact, np.log(0.25) + prior))
        np.testing.assert_allclose(np.exp(found.log_weights[:, i].numpy()), weights / weights.sum(), atol=1e-3)


def test_of_a_linear_model_with_coloured_noise_the_posterior_is_exact(tight_solver):
    module = linear_model()
    white, coloured, memory = np.array([0.3, 0.8]), np.array([0.7, 0.0]), np.array([0.5, 1.0])
    with torch.no_grad():
        for name, values in (("log_noise", np.log(white)), ("coloured", coloured), ("memory", memory)):
            getattr(module.likelihood, name).copy_(torch.from_numpy(values))
    panel = random_panel(6, 2)
    panel.y[::4, 1] = np.nan
    found = infer(module, panel, tensors, tight_solver, 16, refined=True)
    rows = linearised_rows(module, panel, tensors, tight_solver)
    evidence = np.zeros(2)
    for i in range(6):
        times, y = panel.since_origin()[panel.codes == i], panel.y[panel.codes == i]
        slopes, offset = linear_outputs(module, times)
        distance = np.abs(times[:, None] - times)
        noise = np.zeros((*y.shape, *y.shape))
        for j in range(2):
            noise[:, j, :, j] = coloured[j] ** 2 * np.exp(-distance / memory[j]) + white[j] ** 2 * np.eye(len(times))
        seen = ~np.isnan(y)
        noise = noise[seen][:, seen]
        scaled = slopes[seen].T @ np.linalg.inv(noise)
        covariance = np.linalg.inv(np.eye(3) + scaled @ slopes[seen])
        np.testing.assert_allclose(found.mean[i], covariance @ scaled @ (y - offset)[seen], atol=1e-4)
        np.testing.assert_allclose(found.factor[i] @ found.factor[i].T, covariance, atol=1e-4)
        dense = noise + slopes[seen] @ slopes[seen].T
        for j, mine in enumerate(np.nonzero(seen)[1] == np.arange(2)[:, None]):
            evidence[j] += multivariate_normal.logpdf(y[seen][mine], offset[seen][mine], dense[np.ix_(mine, mine)])
    for j in range(2):
        parameters = (torch.tensor(x[j]) for x in (white, coloured, memory))
        assert float(rows._of(j).log_likelihood(*parameters)) == pytest.approx(evidence[j], abs=1e-3)


def linear_outputs(module, times):
    """Slopes, of shape (n_times, n_outputs, latent_size), and offsets of what a linear model says at times."""
    k = module.latent_size
    weight, bias = (p.detach().numpy() for p in module.field.parameters())
    decoder = module.decoder.linear.weight.detach().numpy()
    shift = module.decoder.linear.bias.detach().numpy() + module.decoder.bent.bias.detach().numpy()
    whole = [expm(np.block([[weight, bias[:, None]], [np.zeros((1, k + 1))]]) * t) for t in times]
    return np.stack([decoder @ w[:k, :k] for w in whole]), np.stack([decoder @ w[:k, k] + shift for w in whole])


@pytest.mark.parametrize("scale", [1e-3, 30.0])
def test_it_is_exact_however_sharp_or_surprising_the_data_are(scale, tight_solver):
    """With noise of a thousandth, or values thirty deviations off, the encoder's answer is far away."""
    module = linear_model(2, 1)
    if scale < 1:
        with torch.no_grad():
            module.likelihood.log_noise.fill_(np.log(scale))
    panel = panel_of((TIMES, [[1.0], [0.5], [-0.3], [0.8]]))
    panel = Panel(panel.ids, panel.origins, panel.codes, panel.time, panel.covariates, panel.y * max(scale, 1.0))
    found = infer(module, panel, tensors, tight_solver, 16, refined=True)
    mean, covariance = closed_form(module, panel.time, panel.y)
    deviation = np.sqrt(np.diag(covariance))
    assert (np.abs(found.mean[0].numpy() - mean) < 0.05 * deviation).all()
    np.testing.assert_allclose(found.factor[0] @ found.factor[0].T, covariance, rtol=1e-3, atol=1e-9)


# Other posteriors, by brute force


class BruteForce:
    """The posterior of z(0) on a grid, for one series.

    Attributes
    ----------
    z0, weights : ndarray
        Points, and their probabilities.
    """

    def __init__(self, hand, latent_size, times, y, process=False):
        axis = np.linspace(-6, 6, 2401 if latent_size == 1 else 121)
        self.z0 = np.stack(np.meshgrid(*[axis] * latent_size, indexing="ij"), axis=-1).reshape(-1, latent_size)
        log_joint = hand.log_likelihood(self.z0, times, y) - 0.5 * (self.z0**2).sum(1)
        if process:
            # by Simpson's rule, all points at once
            fine = np.linspace(0, times[-1], 401)
            rates = np.exp(
                [
                    hand.decoder(t, z, "rate")[:, 0]
                    for t, z in zip(fine, hand.path(self.z0, fine).swapaxes(0, 1), strict=True)
                ]
            )
            weights = np.ones(401)
            weights[1:-1:2], weights[2:-1:2] = 4, 2
            log_joint -= weights @ rates * fine[1] / 3
            at_events = hand.path(self.z0, times).swapaxes(0, 1)
            log_joint += sum(hand.decoder(t, z, "rate")[:, 0] for t, z in zip(times[1:], at_events[1:], strict=True))
        self.weights = np.exp(log_joint - log_joint.max())
        self.weights /= self.weights.sum()
        self.hand = hand

    def moments(self, times):
        """Mean and standard deviation of what is predicted at times."""
        eta = self.hand.eta(self.z0, times)
        means = self.hand.mean(eta)
        mean = np.einsum("n,nto->to", self.weights, means)
        spread = self.hand.variance(eta) + (means - mean) ** 2
        return mean, np.sqrt(np.einsum("n,nto->to", self.weights, spread))

    def log_density(self, times, y):
        density = np.exp(self.hand.log_prob(self.hand.eta(self.z0, times), y).sum(-1))
        return np.log(self.weights @ density)


VALUES = {"gaussian": [[0.9], [0.4], [-0.2], [1.1]], "bernoulli": [[1], [1], [0], [1]], "poisson": [[0], [2], [1], [4]]}


def predicted(module, found, query, solver, n_draws):
    """Mean, standard deviation and log-density of questions, by the posterior's weighted draws."""
    z0 = found.draws(normal_draws(n_draws, module.latent_size))
    times = torch.tensor([query], dtype=torch.float64)
    with torch.no_grad():
        states = module.path(z0, times, torch.tensor([[0.0, max(query)]], dtype=torch.float64), None, solver)
        eta = module.decoder(states, torch.empty(len(query), 0, dtype=torch.float64))[:, 0]
        weights = found.log_weights.exp()[:, 0, None, None]
        means, likelihood = module.likelihood.mean(eta), module.likelihood
        mean = (weights * means).sum(0)
        std = (weights * (likelihood.variance(eta) + (means - mean) ** 2)).sum(0).sqrt()
    return mean.numpy(), std.numpy(), eta


@pytest.mark.parametrize("likelihood", sorted(VALUES))
@pytest.mark.parametrize(("latent_size", "n_draws"), [(1, 256), (2, 512)])
def test_predictions_are_those_of_brute_force(likelihood, latent_size, n_draws, by_hand, tight_solver):
    module = model_of(latent_size, likelihood=likelihood, seed=3)
    assert_like_brute_force(module, likelihood, n_draws, by_hand, tight_solver, accuracy=0.01)


@pytest.mark.parametrize("scale", [1.0, 1.5])
def test_a_posterior_much_wider_than_its_shape_at_the_mode_is_covered(scale, by_hand, tight_solver):
    """A growing latent state seen through a sigmoid: steep on one side of the mode, flat on the other."""
    module = model_of(1, likelihood="bernoulli", seed=1)
    with torch.no_grad():
        for parameter in (*module.field.parameters(), module.decoder.bent.weight):
            parameter.mul_(scale)
    assert_like_brute_force(module, "bernoulli", 256, by_hand, tight_solver, accuracy=0.05)


def assert_like_brute_force(module, likelihood, n_draws, by_hand, solver, *, accuracy):
    values = np.array(VALUES[likelihood], dtype=float)
    found = infer(module, panel_of((TIMES, values)), tensors, solver, n_draws, refined=True)
    brute = BruteForce(by_hand(module), module.latent_size, TIMES, values)
    mean, std, eta = predicted(module, found, QUERY, solver, n_draws)
    expected_mean, expected_std = brute.moments(QUERY)
    np.testing.assert_array_less(np.abs(mean - expected_mean), accuracy * expected_std)
    np.testing.assert_allclose(std, expected_std, rtol=accuracy)
    y = torch.from_numpy(np.broadcast_to(values[:1], (len(QUERY), 1)).copy())
    with torch.no_grad():
        by_draw = module.likelihood.log_prob(eta, y).sum(-1) + found.log_weights[:, :1]
    density = torch.logsumexp(by_draw, 0)
    np.testing.assert_allclose(density, brute.log_density(QUERY, y.numpy()), atol=accuracy)


@pytest.mark.parametrize("latent_size", [1, 2])
def test_times_as_data_inform_the_posterior(latent_size, by_hand, tight_solver):
    module = model_of(latent_size, process=True, seed=2)
    with torch.no_grad():
        module.likelihood.log_noise.fill_(0.0)
        module.log_intensity.linear.bias.fill_(1.0)
        module.log_intensity.linear.weight.mul_(3.0)
        module.field.layers[-1].weight.div_(FIRST_RATE)
    times, values = [0.0, 0.1, 0.15, 0.3, 0.4, 2.0], np.full((6, 1), np.nan)
    values[0] = 0.2
    values[1:] = 0.0
    found = infer(module, panel_of((times, values)), tensors, tight_solver, 512, refined=True)
    brute = BruteForce(by_hand(module), latent_size, times, values, process=True)
    mean, std, _ = predicted(module, found, QUERY, tight_solver, 512)
    expected_mean, expected_std = brute.moments(QUERY)
    np.testing.assert_allclose(mean, expected_mean, atol=0.015 * float(expected_std.max()))
    np.testing.assert_allclose(std, expected_std, rtol=0.02)
    ignorant = BruteForce(by_hand(module), latent_size, times, values).moments(QUERY)[0]
    assert np.abs(ignorant - expected_mean).max() > 0.02 * expected_std.max()  # the test would see it


# What can go wrong


def test_a_series_that_cannot_be_solved_falls_back_and_leaves_the_others_alone():
    solver = Solver(max_steps=300, step_control="per_sample")
    module = linear_model(2, 1)
    with torch.no_grad():
        module.field.layers[0].weight.copy_(1000.0 * torch.eye(2))
    near, far = ([0.0, 0.001], [[0.5], [0.4]]), ([0.0, 5.0], [[0.5], [0.4]])
    both = infer(module, panel_of(near, far), tensors, solver, 8, refined=True)
    alone = infer(module, panel_of(near), tensors, solver, 8, refined=True)
    for part in (both.mean, both.factor, both.log_weights):
        assert torch.isfinite(part).all()
    torch.testing.assert_close(both.mean[:1], alone.mean, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(both.factor[:1], alone.factor, rtol=1e-6, atol=1e-8)
    unrefined = infer(module, panel_of(near, far), tensors, solver, 8, refined=False)
    torch.testing.assert_close(both.mean[1], unrefined.mean[1])
    torch.testing.assert_close(both.log_weights[:, 1].exp(), torch.full((8,), 1 / 8, dtype=torch.float64))


def test_the_posterior_of_one_series_does_not_depend_on_the_others(tight_solver):
    module, panel = model_of(2), random_panel(5)
    together = infer(module, panel, tensors, tight_solver, 8, refined=True)
    for i in range(5):
        alone = infer(module, panel.take(np.array([i])), tensors, tight_solver, 8, refined=True)
        torch.testing.assert_close(alone.mean[0], together.mean[i], rtol=1e-6, atol=1e-7)
        torch.testing.assert_close(alone.factor[0], together.factor[i], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(alone.log_weights[:, 0], together.log_weights[:, i], rtol=1e-5, atol=1e-5)


def test_blocks_change_nothing(tight_solver, monkeypatch):
    module, panel = model_of(2), random_panel(7)
    together = infer(module, panel, tensors, tight_solver, 8, refined=True)
    monkeypatch.setattr(footprint, "MOST_NUMBERS", 1)
    apart = infer(module, panel, tensors, tight_solver, 8, refined=True)
    torch.testing.assert_close(apart.mean, together.mean, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(apart.log_weights, together.log_weights, rtol=1e-5, atol=1e-5)


def test_a_series_without_observations_has_the_prior(tight_solver):
    module, panel = model_of(2), random_panel(3)
    panel = panel.without(panel.codes == 1)
    found = infer(module, panel, tensors, tight_solver, 8, refined=True)
    assert not found.mean[1].any()
    assert torch.equal(found.factor[1], torch.eye(2, dtype=torch.float64))
    assert found.mean[0].any()
    nothing = infer(module, panel.without(panel.codes >= 0), tensors, tight_solver, 8, refined=True)
    assert not nothing.mean.any()


def test_unrefined_it_is_the_encoders(tight_solver):
    module, panel = model_of(2), random_panel(3)
    found = infer(module, panel, tensors, tight_solver, 8, refined=False)
    with torch.no_grad():
        mean, std = module.posterior(tensors(panel), tight_solver)
    torch.testing.assert_close(found.mean, mean)
    torch.testing.assert_close(found.factor, torch.diag_embed(std))
    np.testing.assert_allclose(found.log_weights, -np.log(8))


def test_the_mode_is_at_least_as_likely_as_the_encoders_mean(by_hand, tight_solver):
    module, panel = model_of(2), random_panel(6)
    hand = by_hand(module)
    values = []
    for refined in (True, False):
        found = infer(module, panel, tensors, tight_solver, 8, refined=refined)
        for i in range(6):
            rows = panel.codes == i
            z = found.mean[[i]].numpy()
            values.append(hand.log_likelihood(z, panel.since_origin()[rows], panel.y[rows])[0] - 0.5 * (z**2).sum())
    assert (np.array(values[:6]) >= np.array(values[6:])).all()


def test_rows_before_a_series_start_are_taken_in(tight_solver):
    """As when a known series is conditioned on earlier rows: its start stays where it was."""
    module = linear_model(2, 1)
    known = panel_of((TIMES, [[1.0], [0.5], [-0.3], [0.8]]))
    joined = known.joined(panel_of(([-0.5], [[0.2]])))
    found = infer(module, joined, tensors, tight_solver, 8, refined=True)
    mean, covariance = closed_form(module, joined.since_origin(), joined.y)
    np.testing.assert_allclose(found.mean[0], mean, atol=0.05 * np.sqrt(np.diag(covariance)).min())


# Parts


def test_draws_have_the_posteriors_moments():
    generator = torch.Generator().manual_seed(0)
    mean = torch.randn(3, 2, generator=generator, dtype=torch.float64)
    factor = torch.randn(3, 2, 2, generator=generator, dtype=torch.float64)
    found = Posterior(mean, factor, torch.zeros(4, 3, dtype=torch.float64))
    for noise in (normal_draws(4096, 2), torch.randn(100_000, 3, 2, generator=generator, dtype=torch.float64)):
        drawn = found.draws(noise)
        assert drawn.shape == (len(noise), 3, 2)
        torch.testing.assert_close(drawn.mean(0), mean, rtol=0.03, atol=0.03)
        for i in range(3):
            torch.testing.assert_close(torch.cov(drawn[:, i].T), factor[i] @ factor[i].T, rtol=0.03, atol=0.03)


def test_take_gives_the_prior_for_series_unknown():
    found = Posterior(torch.ones(2, 1), 2 * torch.ones(2, 1, 1), torch.log(torch.tensor([[0.2, 0.5], [0.8, 0.5]])))
    found = Posterior(found.mean.double(), found.factor.double(), found.log_weights.double())
    taken = found.take(np.array([-1, 1, 0, -1]))
    assert taken.mean[:, 0].tolist() == [0, 1, 1, 0]
    assert taken.factor[:, 0, 0].tolist() == [1, 2, 2, 1]
    np.testing.assert_allclose(taken.log_weights[0].exp(), [0.5, 0.5, 0.2, 0.5], rtol=1e-6)
    assert found.mean.tolist() == [[1], [1]]


@pytest.mark.parametrize("n_draws", [1, 2, 8, 100, 512])
def test_normal_draws_are_the_same_at_each_call(n_draws):
    state = np.random.get_state()[1].copy()
    torch_state = torch.get_rng_state()
    first = normal_draws(n_draws, 3)
    assert first.shape == (n_draws, 3)
    assert torch.equal(first, normal_draws(n_draws, 3))
    assert torch.isfinite(first).all()
    np.testing.assert_array_equal(np.random.get_state()[1], state)
    assert torch.equal(torch.get_rng_state(), torch_state)
    if n_draws == 512:
        assert first.mean(0).abs().max() < 0.01
        torch.testing.assert_close(torch.cov(first.T), torch.eye(3, dtype=torch.float64), rtol=0, atol=0.03)


def test_no_draw_rules_alone():
    log_weights = torch.tensor([[0.0, 0.0, -torch.inf], [50.0, 0.5, -torch.inf], [torch.nan, 1.0, torch.nan]])
    log_weights = torch.cat([log_weights.double(), torch.zeros(13, 3, dtype=torch.float64)])
    log_weights[3:, 2] = -torch.inf
    weights = _truncated(log_weights).exp()
    torch.testing.assert_close(weights.sum(0), torch.ones(3, dtype=torch.float64))
    assert weights[2, 0] == 0
    # none above sqrt(16) times the mean of 1/16 before they are normalised
    torch.testing.assert_close(
        weights[1, 0] / weights[0, 0], torch.exp(torch.tensor(50.0 - np.log(16) + np.log(4))).double()
    )
    expected = torch.softmax(log_weights[:, 1], 0)
    torch.testing.assert_close(weights[:, 1], expected)
    torch.testing.assert_close(weights[:, 2], torch.full((16,), 1 / 16, dtype=torch.float64))


@pytest.mark.parametrize(
    ("likelihood", "coloured"), [("gaussian", False), ("gaussian", True), ("bernoulli", False), ("poisson", False)]
)
def test_a_row_of_weight_k_is_k_rows_to_the_posterior(likelihood, coloured, tight_solver):
    module = model_of(2, likelihood=likelihood, process=True)
    if coloured:
        module.likelihood.colour(0, 0.6, 0.5)
    panel = random_panel(2)
    if likelihood != "gaussian":
        panel = replace(panel, y=(panel.y > 0).astype(float))
    counts = np.random.RandomState(1).randint(1, 4, len(panel.time))
    rows = np.repeat(np.arange(len(counts)), counts)
    repeated = Panel.of(panel.codes[rows], panel.time[rows], panel.covariates[rows], panel.y[rows])
    z = torch.tensor([[0.3, -0.5], [0.1, 0.8]], dtype=torch.float64)
    # Log-density, gradient and information, by which the mode and the shape there are found.
    found, expected, once = (
        Inference(module, tensors(given), tight_solver, 8)._local(z)
        for given in (replace(panel, weights=counts.astype(float)), repeated, panel)
    )
    for part, other, unweighted in zip(found, expected, once, strict=True):
        torch.testing.assert_close(part, other, rtol=1e-5, atol=1e-6)
        assert not torch.allclose(part, unweighted, rtol=1e-2)


@pytest.mark.parametrize("settings", [{}, {"method": "rk4", "step_size": 0.1}, {"method": "kvaerno5"}], ids=str)
@pytest.mark.parametrize("n_covariates", [0, 2])
def test_copies_solved_as_one_sample_are_those_solved_alone(settings, n_covariates):
    """Each series keeps its own covariates, also when others have left the batch."""
    module, rng = model_of(2, n_covariates=n_covariates), np.random.RandomState(0)
    lengths = (6, 2, 4, 1)
    ids = np.repeat(np.arange(len(lengths)), lengths)
    time = np.concatenate([np.linspace(0.0, n - 1.0, n) for n in lengths])
    panel = Panel.of(ids, time, rng.normal(size=(len(ids), n_covariates)), rng.normal(size=(len(ids), 1)))
    series = PanelTensors.of(panel, 1.0, torch.float64, torch.device("cpu"))
    z0 = torch.randn(3, len(lengths), 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    solver = Solver(rtol=1e-8, atol=1e-8, **settings)
    with torch.no_grad():
        alone = module.path(z0, series.time, series.reach, series, solver)
        together = module.path(z0, series.time, series.reach, series, _jointly(solver, len(lengths)))
    kinks = 2e-5 if n_covariates else 1e-6  # paths have them between rows, where steps differ
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=kinks, equal_nan=True)
    assert torch.isfinite(alone).any()


def test_the_search_ends_where_the_solvers_error_hides_what_is_left_to_gain():
    """A parabola with an error on top of it, and a gradient that always promises a little more."""
    tried = []

    class Rough(Inference):
        def __init__(self):
            pass

        def _local(self, z):
            tried.append(z)
            error = 0.2 * torch.sin(1e5 * z.sum(1))
            value = -2.0 * ((z - 1.0) ** 2).sum(1) + error
            return value, 4.0 * (1.0 - z) + 0.3, 4.0 * torch.eye(1, dtype=z.dtype).expand(len(z), 1, 1)

    for start in torch.linspace(-3.0, 3.0, 12, dtype=torch.float64):
        tried.clear()
        mode, _, _ = Rough().mode(start.reshape(1, 1))
        assert abs(float(mode) - 1.0) < 0.4
        assert len(tried) <= 4

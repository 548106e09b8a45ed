import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.distributions import Normal, kl_divergence

from skode.timeseries.elbo import HELD, SHORTEST_PART, ELBOSettings, NegativeELBO
from skode.timeseries.encoders import GRUEncoder
from skode.timeseries.latent_ode import LatentODE
from skode.timeseries.likelihoods import HELD_NOISE, Gaussian
from skode.timeseries.panel import Panel
from skode.timeseries.tensors import PanelTensors
from skode.training import Solver

LATENT = 2
ALL = np.arange(3)


@pytest.fixture
def model():
    generator = torch.Generator().manual_seed(0)
    module = LatentODE(
        0,
        latent_size=LATENT,
        hidden_layer_sizes=(6,),
        activation="silu",
        encoder=GRUEncoder(2, 0, 5, LATENT, generator),
        likelihood=Gaussian(2),
        process=False,
        generator=generator,
    ).double()
    with torch.no_grad():
        module.likelihood.log_noise.copy_(torch.tensor([-1.0, 0.5]))
    return module


@pytest.fixture
def panel():
    rng = np.random.RandomState(0)
    y = rng.normal(size=(12, 2))
    y[1, 0] = y[4, 1] = np.nan
    y[6] = np.nan
    series = np.array([0, 1, 0, 1, 1, 2, 0, 1, 0, 2, 2, 1])
    return Panel.of(series, np.sort(rng.uniform(0, 5, 12)), np.empty((12, 0)), y)


def tensors(panel):
    return PanelTensors.of(panel.observed(), 2.0, torch.float64, torch.device("cpu"), panel)


def bound_of(model, panel, solver, *, iwae=False, n_samples=1, annealing=0, forecasting=0.0, hindcasting=0.0, seed=0):
    settings = ELBOSettings(iwae, n_samples, annealing, forecasting, hindcasting)
    return NegativeELBO(model, panel, tensors, solver, settings, torch.Generator().manual_seed(seed))


def noise_of(n_samples=1, seed=0):
    """The draws of a bound without forecasting."""
    return torch.randn(n_samples, 3, LATENT, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def pieces(model, panel, noise, by_hand, solver):
    """Posterior, and log-likelihoods by SciPy's paths, of shape (n_samples, n_series)."""
    series, hand = tensors(panel), by_hand(model)
    with torch.no_grad():
        mean, std = model.posterior(series, solver)
    z0 = mean + std * noise
    log_likelihood = np.empty(z0.shape[:2])
    for i in range(3):
        filled = series.filled[i]
        log_likelihood[:, i] = hand.log_likelihood(z0[:, i], series.time[i, filled], series.y[i, filled].numpy())
    return mean, std, z0, torch.from_numpy(log_likelihood), int((~torch.isnan(series.y)).sum())


@pytest.mark.parametrize("n_samples", [1, 3])
def test_the_elbo_is_likelihood_minus_divergence_per_value(model, panel, by_hand, tight_solver, n_samples):
    loss = bound_of(model, panel, tight_solver, n_samples=n_samples).loss(ALL)
    mean, std, _, log_likelihood, n_values = pieces(model, panel, noise_of(n_samples), by_hand, tight_solver)
    divergence = kl_divergence(Normal(mean, std), Normal(0.0, 1.0)).sum()
    assert n_values == 24 - 4
    expected = (divergence - log_likelihood.mean(0).sum()) / n_values
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("n_samples", [1, 4])
def test_the_importance_weighted_bound_is_the_mean_weights_logarithm(model, panel, by_hand, tight_solver, n_samples):
    loss = bound_of(model, panel, tight_solver, iwae=True, n_samples=n_samples).loss(ALL)
    mean, std, z0, log_likelihood, n_values = pieces(model, panel, noise_of(n_samples), by_hand, tight_solver)
    log_weights = log_likelihood + (Normal(0.0, 1.0).log_prob(z0) - Normal(mean, std).log_prob(z0)).sum(-1)
    expected = -(torch.logsumexp(log_weights, 0) - math.log(n_samples)).sum() / n_values
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


LOOSE = Solver(rtol=1e-4, atol=1e-4, step_control="shared")


@torch.no_grad()
def test_more_weighted_draws_give_a_tighter_bound(model, panel):
    def mean_loss(**settings):
        bound = bound_of(model, panel, LOOSE, **settings)
        return np.mean([bound.loss(ALL).item() for _ in range(30)])

    elbo = mean_loss(n_samples=20)
    few, many = mean_loss(iwae=True, n_samples=4), mean_loss(iwae=True, n_samples=60)
    assert elbo > few + 0.05
    assert few > many


def test_one_weighted_draw_estimates_the_elbo(model, panel):
    with torch.no_grad():
        single = bound_of(model, panel, LOOSE, iwae=True)
        losses = np.array([single.loss(ALL).item() for _ in range(200)])
        elbo = np.array([bound_of(model, panel, LOOSE, n_samples=50, seed=s).loss(ALL).item() for s in range(8)])
    error = np.hypot(losses.std() / np.sqrt(200), elbo.std() / np.sqrt(8))
    assert abs(losses.mean() - elbo.mean()) < 4 * error


@pytest.mark.parametrize("iwae", [False, True])
def test_the_divergences_weight_rises_to_one(model, panel, by_hand, tight_solver, iwae):
    bound = bound_of(model, panel, tight_solver, iwae=iwae, annealing=0.8)
    mean, std, z0, log_likelihood, n_values = pieces(model, panel, noise_of(), by_hand, tight_solver)
    if iwae:
        penalty = (Normal(mean, std).log_prob(z0) - Normal(0.0, 1.0).log_prob(z0)).sum()
    else:
        penalty = kl_divergence(Normal(mean, std), Normal(0.0, 1.0)).sum()
    for progress, weight in ((0.0, 0.0), (0.2, 0.25), (0.4, 0.5), (0.8, 1.0), (1.0, 1.0)):
        bound.follow(progress)
        bound.generator.manual_seed(0)
        with torch.no_grad():  # without gradients it is the bound itself
            whole = bound.loss(ALL).item()
        bound.generator.manual_seed(0)
        loss = bound.loss(ALL).item()
        assert whole == pytest.approx((penalty - log_likelihood.sum()).item() / n_values, rel=1e-5)
        assert loss == pytest.approx((weight * penalty - log_likelihood.sum()).item() / n_values, rel=1e-5)


class Reader(torch.nn.Module):
    """Writes down what an encoder is given to read."""

    def __init__(self, encoder):
        super().__init__()
        self.encoder, self.read = encoder, []

    def forward(self, series, solver):
        self.read.append(series.lengths.tolist())
        return self.encoder(series, solver)


@pytest.mark.parametrize("forecasting", [0.0, 0.5, 1.0])
def test_forecasting_shows_the_encoder_a_beginning_in_its_share_of_updates(model, panel, tight_solver, forecasting):
    model.encoder = reader = Reader(model.encoder)
    bound = bound_of(model, panel, tight_solver, forecasting=forecasting)
    whole = tensors(panel).lengths.tolist()
    with torch.no_grad():
        for _ in range(60):
            bound.loss(ALL)
    read = np.array(reader.read)
    shortest = np.floor(SHORTEST_PART * np.array(whole)) + 1  # shares just above it
    assert (read >= shortest).all()
    assert (read <= whole).all()
    share = np.mean((read < whole).any(1))
    if forecasting == 0:
        assert share == 0
    elif forecasting == 1:
        assert share > 0.8
        assert (read.min(0) == shortest).all()  # and series have beginnings of their own
        assert len({tuple(row) for row in read}) > 5
    else:
        assert 0.25 < share < 0.65


def test_the_bound_with_a_beginning_is_of_all_values(model, panel, by_hand, tight_solver):
    """It is the posterior that knows less; what it has to explain is the whole of the series."""

    class Blind(torch.nn.Module):
        def forward(self, series, solver):
            zeros = torch.zeros(len(series.y), LATENT, dtype=torch.float64)
            return zeros, torch.full_like(zeros, 1e-9)

    model.encoder = Blind()
    hand, series = by_hand(model), tensors(panel)
    expected = sum(
        hand.log_likelihood(
            np.zeros((1, LATENT)), series.time[i, series.filled[i]], series.y[i, series.filled[i]].numpy()
        )
        for i in range(3)
    )[0]
    divergence = 3 * LATENT * (0.5 * (1e-18 - 1) - math.log(1e-9))
    loss = bound_of(model, panel, tight_solver, forecasting=1.0).loss(ALL)
    assert loss.item() == pytest.approx((divergence - expected) / 20, rel=1e-5)


@pytest.fixture
def long_panel():
    """Three series of twenty rows at times 0 to 19, whose values are those of the times."""
    time = np.tile(np.arange(20.0), 3)
    return Panel.of(np.repeat(np.arange(3), 20), time, np.empty((60, 0)), np.column_stack([time, -time]))


@pytest.mark.parametrize(("progress", "length"), [(0.0, 4), (0.25, 11), (0.49, 20), (0.5, 20), (1.0, 20)])
def test_a_warm_up_is_of_windows_that_grow(model, long_panel, tight_solver, progress, length):
    decoded = []

    def decode(z0, rows, solver):
        decoded.append(rows)
        return type(model).decode(model, z0, rows, solver)

    model.decode = decode
    bound = bound_of(model, long_panel, tight_solver)
    bound.settings = replace(bound.settings, warm_up=0.5)
    bound.follow(progress)
    for _ in range(12):
        bound.loss(ALL)
    starts = []
    for rows in decoded:
        series = rows.series
        assert series.filled.sum(1).tolist() == [length] * 3
        times = series.y[:, :length, 0].numpy()  # which the values tell
        np.testing.assert_allclose(np.diff(times, axis=1), 1.0)
        np.testing.assert_allclose(series.time[:, 0], model.lead if progress < 0.5 else 0.0)
        starts.extend(times[:, 0])
    assert len(set(starts)) > 5 if length < 15 else max(starts) <= 20 - length
    with torch.no_grad():  # without gradients it is the bound itself
        bound.loss(ALL)
    assert decoded[-1].series.filled.sum() == 60


def test_the_noise_is_held_in_the_first_part_of_a_warm_up(model, panel, tight_solver):
    bound = bound_of(model, panel, tight_solver)
    bound.settings = replace(bound.settings, warm_up=0.5)
    noise = model.likelihood.log_noise
    bound.loss(ALL).backward()
    assert noise.grad is None
    np.testing.assert_allclose(noise.detach().exp(), HELD_NOISE)
    with torch.no_grad():  # as it is where training ends there
        bound.loss(ALL)
    bound.follow(1.01 * HELD * 0.5)
    spread = []

    def decode(z0, rows, solver):
        output = type(model).decode(model, z0, rows, solver)
        spread.append(np.sqrt(np.nanmean((rows.y - output.eta[0]).detach().numpy() ** 2, axis=0)))
        return output

    model.decode = decode
    bound.loss(ALL).backward()
    np.testing.assert_allclose(noise.detach().exp(), spread[0], rtol=1e-6)
    assert (noise.grad != 0.0).all()
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_a_batch_is_of_the_series_asked_for(model, panel, tight_solver):
    def blocks_loss(rows):
        return bound_of(model, panel.take(np.array(rows)), tight_solver).loss(np.arange(len(rows))).item()

    assert bound_of(model, panel, tight_solver).loss(np.array([2, 0])).item() == pytest.approx(
        blocks_loss([2, 0]), rel=1e-6
    )
    assert blocks_loss([2, 0]) != pytest.approx(blocks_loss([1, 0]), rel=1e-3)


def test_tensors_made_batch_by_batch_give_the_same_bound(model, panel, tight_solver, monkeypatch):
    at_once = bound_of(model, panel, tight_solver)
    monkeypatch.setattr("skode.timeseries.elbo.MOST_PADDED", 0)
    by_batch = bound_of(model, panel, tight_solver)
    for batch in ([2, 0], [1], [0, 1, 2]):
        losses = [bound.loss(np.array(batch)).item() for bound in (at_once, by_batch)]
        assert losses[0] == pytest.approx(losses[1], rel=1e-12)


def test_gradients_reach_every_weight_and_solves_are_counted(model, panel, tight_solver):
    bound = bound_of(model, panel, tight_solver, forecasting=0.5)
    bound.loss(ALL).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name
    assert len(bound.solver.solves) == 1
    assert {id(p) for p in bound.parameters()} == {id(p) for p in model.parameters()}


def test_weights_multiply_the_likelihood_and_what_it_is_divided_by(model, panel, tight_solver, monkeypatch):
    mean, std = torch.full((3, LATENT), 0.3).double(), torch.full((3, LATENT), 0.7).double()
    monkeypatch.setattr(model, "posterior", lambda *args: (mean, std))  # so that the divergence is one number
    divergence = float(kl_divergence(Normal(mean, std), Normal(0.0, 1.0)).sum())
    n_values = int((~np.isnan(panel.y)).sum())
    likelihoods = []
    for weight in (None, 0.25, 1.0, 3.0):
        weights = None if weight is None else np.full(len(panel.time), weight)
        loss = float(bound_of(model, replace(panel, weights=weights), tight_solver).loss(ALL).detach())
        likelihoods.append((divergence - loss * (weight or 1.0) * n_values) / (weight or 1.0))
    np.testing.assert_allclose(likelihoods, likelihoods[0], rtol=1e-9)


def test_a_row_of_weight_k_is_k_rows_to_the_bound(model, panel, tight_solver, monkeypatch):
    mean, std = torch.full((3, LATENT), 0.3).double(), torch.full((3, LATENT), 0.7).double()
    monkeypatch.setattr(model, "posterior", lambda *args: (mean, std))
    counts = np.arange(12) % 3 + 1
    rows = np.repeat(np.arange(12), counts)
    repeated = Panel.of(panel.codes[rows], panel.time[rows], panel.covariates[rows], panel.y[rows])
    found, expected = (
        float(bound_of(model, given, tight_solver, iwae=True, n_samples=3).loss(ALL).detach())
        for given in (replace(panel, weights=counts.astype(float)), repeated)
    )
    assert found == pytest.approx(expected, rel=1e-9)

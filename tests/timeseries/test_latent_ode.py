import numpy as np
import pytest
import torch
from torch.distributions import Normal, kl_divergence

from skode.solvers import solve_ivp
from skode.timeseries.latent_ode import LatentODE, PanelTensors
from skode.timeseries.panel import Panel

LATENT = 3


def solve(field, span, y0, t_eval):
    return solve_ivp(field, span, y0, t_eval=t_eval, rtol=1e-9, atol=1e-10)


@pytest.fixture
def model():
    return LatentODE(
        2,
        1,
        latent_size=LATENT,
        hidden_layer_sizes=(6,),
        activation="tanh",
        encoder_size=5,
        generator=torch.Generator().manual_seed(0),
    ).double()


@pytest.fixture
def panel():
    rng = np.random.RandomState(0)
    y = rng.normal(size=(7, 2))
    y[1, 0] = y[4, 1] = np.nan
    return Panel.of(np.array([0, 1, 0, 1, 1, 2, 0]), rng.uniform(0, 5, 7), rng.normal(size=(7, 1)), y)


@pytest.fixture
def batch(panel):
    return PanelTensors.of(panel, 2.0, torch.float64, torch.device("cpu"))


def test_tensors_hold_each_series_in_its_first_slots(panel, batch):
    assert batch.lengths.tolist() == [3, 3, 1]
    assert batch.filled.sum(1).tolist() == [3, 3, 1]
    np.testing.assert_allclose(batch.time[batch.filled], panel.since_origin() / 2.0)
    np.testing.assert_array_equal(batch.y[batch.filled], panel.y)
    np.testing.assert_array_equal(batch.covariates[batch.filled], panel.covariates)
    assert torch.isnan(batch.y[~batch.filled]).all()
    assert not batch.covariates[~batch.filled].any()


def test_time_stays_in_double_precision(panel):
    batch = PanelTensors.of(panel, 2.0, torch.float32, torch.device("cpu"))
    assert batch.time.dtype == torch.float64
    assert batch.y.dtype == torch.float32


def test_log_likelihood_is_the_normals(model):
    generator = torch.Generator().manual_seed(1)
    mean, y = torch.randn(2, 6, 2, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        model.log_noise.copy_(torch.tensor([-1.0, 0.5]))
    expected = Normal(mean, model.log_noise.exp()).log_prob(y)
    torch.testing.assert_close(model.log_likelihood(mean, y), expected, rtol=1e-12, atol=1e-12)


def test_values_not_observed_have_no_likelihood_and_no_gradient(model):
    mean = torch.zeros(2, 2, dtype=torch.float64, requires_grad=True)
    y = torch.tensor([[1.0, torch.nan], [torch.nan, torch.nan]], dtype=torch.float64)
    density = model.log_likelihood(mean, y)
    assert density[torch.isnan(y)].tolist() == [0, 0, 0]
    density.sum().backward()
    assert (mean.grad != 0).tolist() == [[True, False], [False, False]]
    assert torch.isfinite(model.log_noise.grad).all()


def test_path_follows_the_latent_dynamics_at_each_series_own_times(model, batch):
    z0 = torch.randn(3, LATENT, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    with torch.no_grad():
        states = model.path(z0, batch.time, solve, [], torch.nan_to_num(batch.time).amax(1))
        for i, time in enumerate(batch.time):
            for slot in torch.nonzero(batch.filled[i]).reshape(-1):
                end = float(time[slot])
                alone = z0[i] if end == 0 else solve(model.field, (0.0, end), z0[[i]], (end,)).y[-1, 0]
                torch.testing.assert_close(states[i, slot], alone, rtol=1e-6, atol=1e-7)


def test_the_bound_is_likelihood_minus_divergence_per_value(model, batch):
    noise = torch.randn(3, LATENT, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    with torch.no_grad():
        loss = model.negative_elbo(batch, noise, solve, [])
        mean, std = model.posterior(batch)
        states = model.path(mean + std * noise, batch.time, solve, [], torch.nan_to_num(batch.time).amax(1))
        predicted = model.decoder(torch.cat([states, batch.covariates], dim=-1))
        seen = ~torch.isnan(batch.y)
        density = Normal(predicted[seen], model.log_noise.exp().expand_as(batch.y)[seen]).log_prob(batch.y[seen])
        divergence = kl_divergence(Normal(mean, std), Normal(0.0, 1.0)).sum()
    assert seen.sum() == 12
    torch.testing.assert_close(loss, (divergence - density.sum()) / 12, rtol=1e-9, atol=1e-9)


def test_gradients_of_the_bound_reach_every_weight(model, batch):
    noise = torch.zeros(3, LATENT, dtype=torch.float64)
    model.negative_elbo(batch, noise, solve, []).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


def test_a_solve_is_counted(model, batch):
    solves = []
    model.negative_elbo(batch, torch.zeros(3, LATENT, dtype=torch.float64), solve, solves)
    assert len(solves) == 1
    assert solves[0].nfev > 0

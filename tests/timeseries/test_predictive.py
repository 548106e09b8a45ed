import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.exceptions import ConvergenceWarning

from skode.solvers import SolverError
from skode.timeseries import footprint
from skode.timeseries.encoders import GRUEncoder
from skode.timeseries.latent_ode import HORIZON, LatentODE
from skode.timeseries.likelihoods import Gaussian
from skode.timeseries.panel import Panel
from skode.timeseries.posterior import Posterior, normal_draws
from skode.timeseries.predictive import Prediction, Predictive, log_mean_density
from skode.timeseries.tensors import PanelTensors
from skode.training import Solver

LATENT, N_DRAWS = 2, 8


def model_of(n_covariates=0, hidden=(6,)):
    generator = torch.Generator().manual_seed(0)
    return LatentODE(
        n_covariates,
        latent_size=LATENT,
        hidden_layer_sizes=hidden,
        activation="silu",
        encoder=GRUEncoder(2, n_covariates, 5, LATENT, generator),
        likelihood=Gaussian(2),
        process=True,
        generator=generator,
    ).double()


def tensors(panel, known):
    return PanelTensors.of(panel, 1.0, torch.float64, torch.device("cpu"), known)


def panel_of(ids, time, covariates=None, origins=None):
    """Sorted by series, then time."""
    codes, names = pd.factorize(np.asarray(ids))
    covariates = np.zeros((len(time), 0)) if covariates is None else np.asarray(covariates, dtype=float)
    origins = np.zeros(len(names)) if origins is None else np.asarray(origins, dtype=float)
    return Panel(
        pd.Index(names), origins, codes, np.asarray(time, dtype=float), covariates, np.full((len(time), 2), np.nan)
    )


def posterior_of(n_series, seed=0):
    generator = torch.Generator().manual_seed(seed)
    found = Posterior.prior(n_series, LATENT, N_DRAWS)
    found.mean.copy_(torch.randn(n_series, LATENT, generator=generator))
    found.factor.mul_(0.3)
    found.log_weights.copy_(torch.log_softmax(torch.randn(N_DRAWS, n_series, generator=generator).double(), 0))
    return found


def answered(module, query, solver, *, known=None, posterior=None, noise=None):
    """States, eta, log rates, weights of all rows."""
    known = query.take(np.array([], dtype=int)) if known is None else known
    posterior = posterior_of(query.n_series) if posterior is None else posterior
    noise = normal_draws(N_DRAWS, LATENT) if noise is None else noise
    predictive = Predictive(module, tensors, solver)
    positions = known.ids.get_indexer(query.ids)
    parts = list(predictive.predictions(query, known, positions, posterior, noise))
    rows = np.concatenate([part.rows for part in parts])
    assert sorted(rows) == list(range(len(query.time)))
    back = np.argsort(rows)
    return [
        torch.cat([getattr(part, name) for part in parts], dim=1)[:, back]
        for name in ("states", "eta", "log_rate", "weights")
    ]


QUERY = (["a", "a", "a", "b", "c", "c"], [-1.5, 0.0, 5.0, 2.0, -0.5, 9.0])


def test_answers_are_scipys_paths_from_the_draws_before_and_after_the_start(by_hand, tight_solver):
    module, query = model_of(), panel_of(*QUERY)
    states, eta, log_rate, weights = answered(module, query, tight_solver)
    posterior, hand = posterior_of(3), by_hand(module)
    backward = by_hand(module)
    backward.layers[-1] = tuple(-part for part in backward.layers[-1])
    z0 = posterior.draws(normal_draws(N_DRAWS, LATENT)).numpy()
    for row, (code, t) in enumerate(zip(query.codes, query.time, strict=True)):
        expected = (hand if t >= 0 else backward).path(z0[:, code], [abs(t)])[:, 0]
        np.testing.assert_allclose(states[:, row], expected, rtol=1e-6, atol=1e-7)
        np.testing.assert_allclose(eta[:, row].detach(), hand.decoder(t, expected), rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(
            log_rate[:, row].detach(), hand.decoder(t, expected, "rate")[:, 0], rtol=1e-5, atol=1e-6
        )
        np.testing.assert_allclose(weights[:, row], posterior.log_weights[:, code].exp(), rtol=1e-10)


def test_time_counts_from_each_series_start(tight_solver):
    module = model_of()
    at_zero = answered(module, panel_of(*QUERY), tight_solver)[0]
    later = panel_of(QUERY[0], np.add(QUERY[1], [10, 10, 10, 20, 30, 30]), origins=[10, 20, 30])
    torch.testing.assert_close(answered(module, later, tight_solver)[0], at_zero, rtol=1e-7, atol=1e-8)


def test_each_series_may_have_noise_of_its_own(tight_solver):
    module, query, posterior = model_of(), panel_of(*QUERY), posterior_of(3)
    noise = torch.randn(N_DRAWS, 3, LATENT, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    states = answered(module, query, tight_solver, noise=noise)[0]
    torch.testing.assert_close(states[:, 1], posterior.draws(noise)[:, 0], rtol=1e-9, atol=1e-10)
    alone = answered(
        module, panel_of(["b"], [2.0]), tight_solver, posterior=posterior.take(np.array([1])), noise=noise[:, 1:2]
    )
    torch.testing.assert_close(alone[0][:, 0], states[:, 3], rtol=1e-7, atol=1e-8)


def test_blocks_change_nothing(tight_solver, monkeypatch):
    module, query = model_of(), panel_of(*QUERY)
    together = answered(module, query, tight_solver)
    monkeypatch.setattr(footprint, "MOST_NUMBERS", 1)
    for part, expected in zip(answered(module, query, tight_solver), together, strict=True):
        torch.testing.assert_close(part, expected, rtol=1e-7, atol=1e-8)


def test_within_a_horizon_an_answer_does_not_depend_on_other_times_to_the_bit():
    loose = Solver(rtol=1e-2, atol=1e-2, step_control="per_sample")
    module, posterior = model_of(), posterior_of(1)
    alone = answered(module, panel_of(["a"], [1.0]), loose, posterior=posterior)[0]
    both = answered(module, panel_of(["a", "a"], [1.0, 0.99 * HORIZON]), loose, posterior=posterior)[0]
    assert torch.equal(alone[:, 0], both[:, 0])


def test_covariates_are_known_from_what_is_known_and_what_is_asked(by_hand, tight_solver):
    module = model_of(n_covariates=1)
    known = panel_of(["b", "a", "a"], [0.0, 0.0, 2.0], [[9.0], [1.0], [-1.0]])
    query = panel_of(["new", "a", "a"], [1.0, 1.0, 3.0], [[0.5], [2.0], [1.0]])
    posterior = posterior_of(2)
    states, eta, _, _ = answered(module, query, tight_solver, known=known, posterior=posterior)
    z0 = posterior.draws(normal_draws(N_DRAWS, LATENT)).numpy()
    hand = by_hand(module, lambda t: [np.interp(t, [0.0, 1.0, 2.0, 3.0], [1.0, 2.0, -1.0, 1.0])])
    np.testing.assert_allclose(states[:, 1:], hand.path(z0[:, 1], [1.0, 3.0], max_step=0.01), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(eta[:, 2].detach(), hand.decoder(3.0, states[:, 2].numpy()), rtol=1e-6)
    fresh = by_hand(module, lambda t: [0.5])
    np.testing.assert_allclose(states[:, 0], fresh.path(z0[:, 0], [1.0])[:, 0], rtol=1e-5, atol=1e-6)


# Noise with a memory


def coloured_noise_case():
    """A model, a query, an observed panel, and the posterior; nothing of the second series was observed."""
    module = model_of()
    with torch.no_grad():
        module.likelihood.log_noise.copy_(torch.tensor([0.3, 0.5]).log())
        module.likelihood.coloured.copy_(torch.tensor([0.9, 0.0]))
        module.likelihood.memory.fill_(0.8)
    known = panel_of(["z", "a", "a", "a"], [0.0, 0.2, 1.0, 3.0])
    known.y[:] = [[5.0, 5.0], [1.0, -1.0], [np.nan, 0.5], [-0.7, 2.0]]
    query = panel_of(["b", "a", "a", "a", "a"], [1.0, 0.0, 1.0, 2.0, 4.0])
    query.y[:] = 9.0  # is not to be known
    return module, query, known, posterior_of(2)


def test_noise_with_a_memory_is_conditioned_on_what_is_known(tight_solver):
    module, query, known, posterior = coloured_noise_case()
    predictive = Predictive(module, tensors, tight_solver)
    noise = normal_draws(N_DRAWS, LATENT)
    (found,) = predictive.predictions(query, known, known.ids.get_indexer(query.ids), posterior, noise)
    module.likelihood.coloured.zero_()
    white = answered(module, query, tight_solver, posterior=posterior)[1]
    at_known = answered(module, known.take(np.array([1])), tight_solver, posterior=posterior.take(np.array([1])))[1]
    times, seen = np.array([0.0, 1.0, 2.0, 4.0]), np.array([0.2, 3.0])  # of the first output
    across = 0.81 * np.exp(-np.abs(times[:, None] - seen) / 0.8)
    dense = 0.81 * np.exp(-np.abs(seen[:, None] - seen) / 0.8) + 0.09 * np.eye(2)
    gain = torch.from_numpy(across @ np.linalg.inv(dense))
    residual = torch.tensor([1.0, -0.7]) - at_known[:, [0, 2], 0]
    torch.testing.assert_close(found.eta[:, 1:, 0], white[:, 1:, 0] + residual @ gain.T, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(found.eta[..., 1], white[..., 1])
    torch.testing.assert_close(found.eta[:, 0], white[:, 0])
    expected = torch.tensor(0.81) - (gain * torch.from_numpy(across)).sum(1)
    torch.testing.assert_close(found.coloured[1:, 0], expected, rtol=1e-6, atol=1e-6)
    assert found.coloured[0].tolist() == pytest.approx([0.81, 0.0])
    assert found.rows.tolist() == [0, 1, 2, 3, 4]


def test_known_rows_that_no_draw_reaches_tell_nothing():
    module = growing()
    with torch.no_grad():
        module.likelihood.coloured.fill_(1.0)
    known, query = panel_of(["a", "a"], [0.0, 30.0]), panel_of(["a"], [0.001])
    known.y[:] = 1.0
    positions, noise = np.zeros(1, dtype=int), normal_draws(N_DRAWS, LATENT)
    posterior, predictive = posterior_of(1), Predictive(module, tensors, QUICK)
    (found,) = predictive.predictions(query, known, positions, posterior, noise)
    (expected,) = predictive.predictions(
        query, known.take(np.array([0])).until(np.array([False, True])), positions, posterior, noise
    )
    torch.testing.assert_close(found.eta, expected.eta)
    assert torch.isfinite(found.eta).all()


def test_paths_of_noise_with_a_memory_have_its_mean_and_variance(tight_solver):
    module, query, known, posterior = coloured_noise_case()
    predictive = Predictive(module, tensors, tight_solver)
    n = 4000
    noise = torch.zeros(n, LATENT, dtype=torch.float64)
    many = Posterior(posterior.mean, posterior.factor, torch.full((n, 2), -np.log(n), dtype=torch.float64))
    positions = known.ids.get_indexer(query.ids)
    (mean,) = predictive.predictions(query, known, positions, many, noise)
    (drawn,) = predictive.predictions(query, known, positions, many, noise, torch.Generator().manual_seed(0))
    assert drawn.coloured is None
    np.testing.assert_allclose(drawn.eta.mean(0), mean.eta[0], atol=0.06)
    np.testing.assert_allclose(drawn.eta.var(0), mean.coloured, atol=0.06)


# Draws that cannot be solved


def growing():
    """``dz/dt = 100 z``: overflows unless z(0) is 0."""
    module = model_of(hidden=())
    with torch.no_grad():
        module.field.layers[0].weight.copy_(100.0 * torch.eye(LATENT))
    return module


QUICK = Solver(max_steps=200, step_control="per_sample")


def test_draws_that_cannot_be_solved_are_left_out_with_a_warning():
    posterior = posterior_of(2)
    posterior.mean.zero_()
    noise = normal_draws(N_DRAWS, LATENT)
    noise[:3] = 0.0  # these stay where they are
    posterior.factor[1].zero_()  # and so do all of this series
    with pytest.warns(ConvergenceWarning, match="could not be solved as far as the times of X"):
        _, _, _, weights = answered(
            growing(), panel_of(["a", "b"], [30.0, 30.0]), QUICK, posterior=posterior, noise=noise
        )
    assert not weights[3:, 0].any()
    kept = posterior.log_weights.exp()
    torch.testing.assert_close(weights[:3, 0], kept[:3, 0] / kept[:3, 0].sum())
    torch.testing.assert_close(weights[:, 1], kept[:, 1])


def test_where_none_can_be_solved_the_solver_says_why():
    with pytest.raises(SolverError):
        answered(growing(), panel_of(["a"], [30.0]), QUICK, posterior=posterior_of(1))


def test_means_ignore_draws_without_weight():
    weights = torch.tensor([[0.25], [0.75], [0.0]])
    answer = Prediction(np.zeros(1, dtype=int), torch.zeros(3, 1, 1), torch.zeros(3, 1, 2), None, weights)
    values = torch.tensor([[[1.0, 2.0]], [[3.0, 4.0]], [[torch.nan, torch.inf]]])
    torch.testing.assert_close(answer.mean(values), torch.tensor([[2.5, 3.5]]))
    torch.testing.assert_close(answer.mean(values[..., 0]), torch.tensor([2.5]))


# Densities


def test_a_draw_without_weight_may_be_nan():
    log_prob = torch.log(torch.tensor([[[0.5]], [[torch.nan]], [[0.1]]], dtype=torch.float64))
    weights = torch.tensor([[0.25], [0.0], [0.75]], dtype=torch.float64)
    assert float(log_mean_density(log_prob, weights).exp()) == pytest.approx(0.25 * 0.5 + 0.75 * 0.1)

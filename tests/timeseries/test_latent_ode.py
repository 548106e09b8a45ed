from dataclasses import replace

import numpy as np
import pytest
import torch

from skode.timeseries.decoder import Decoder
from skode.timeseries.encoders import GRUEncoder
from skode.timeseries.latent_ode import DecoderOutput, LatentODE
from skode.timeseries.likelihoods import LIKELIHOODS
from skode.timeseries.panel import Panel
from skode.timeseries.rows import Rows
from skode.timeseries.tensors import PanelTensors
from skode.training import Solver

LATENT = 3
CPU = torch.device("cpu")


def model_of(n_covariates=1, likelihood="gaussian", process=False, activation="silu", n_outputs=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return LatentODE(
        n_covariates,
        latent_size=LATENT,
        hidden_layer_sizes=(6,),
        activation=activation,
        encoder=GRUEncoder(n_outputs, n_covariates, 5, LATENT, generator),
        likelihood=LIKELIHOODS[likelihood](n_outputs),
        process=process,
        generator=generator,
    ).double()


def panel_of(n_covariates=1, likelihood="gaussian"):
    rng = np.random.RandomState(0)
    y = rng.normal(size=(9, 2)) if likelihood == "gaussian" else rng.randint(0, 2, (9, 2)).astype(float)
    y[1, 0] = y[4, 1] = np.nan
    y[6] = np.nan
    times = np.sort(rng.uniform(0, 5, 9))
    return Panel.of(np.array([0, 1, 0, 1, 1, 2, 0, 1, 0]), times, rng.normal(size=(9, n_covariates)), y)


def tensors_of(panel):
    return PanelTensors.of(panel.observed(), 2.0, torch.float64, CPU, panel)


def initial(n_copies=2, n=3):
    return torch.randn(n_copies, n, LATENT, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def known_by_hand(panel, code):
    """A series' covariates over scaled time, by NumPy."""
    rows = panel.codes == code
    time, values = panel.since_origin()[rows] / 2.0, panel.covariates[rows]
    return lambda t: np.array([np.interp(t, time, column) for column in values.T])


def test_a_readout_is_linear_plus_one_hidden_layer():
    decoder = Decoder(3, 2, 4, torch.Generator().manual_seed(0)).double()
    z = torch.randn(5, 7, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    u = torch.randn(7, 1, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    x = torch.cat([z, u.expand(5, 7, 1)], dim=-1)
    hidden = x @ decoder.hidden.weight.T + decoder.hidden.bias
    expected = decoder.linear(x) + (hidden * torch.sigmoid(hidden)) @ decoder.bent.weight.T + decoder.bent.bias
    torch.testing.assert_close(decoder(z, u), expected, rtol=1e-12, atol=1e-12)
    without = Decoder(2, 2, 4, torch.Generator().manual_seed(0)).double()
    assert without(z, torch.empty(7, 0, dtype=torch.float64)).shape == (5, 7, 2)


def test_a_readout_goes_on_linearly_far_out():
    decoder = Decoder(2, 1, 4, torch.Generator().manual_seed(0)).double()
    far = torch.tensor([[1.0, -2.0]], dtype=torch.float64)
    none = torch.empty(1, 0, dtype=torch.float64)
    steps = [decoder(far * scale, none) for scale in (1e3, 2e3, 3e3)]
    torch.testing.assert_close(steps[2] - steps[1], steps[1] - steps[0], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("activation", ["silu", "tanh"])
@pytest.mark.parametrize("n_covariates", [0, 1])
def test_paths_are_those_of_scipy_at_each_series_own_times(n_covariates, activation, by_hand, tight_solver):
    model, panel = model_of(n_covariates, activation=activation), panel_of(n_covariates)
    series, z0 = tensors_of(panel), initial()
    with torch.no_grad():
        solver = tight_solver.counting()
        states = model.path(z0, series.time, series.reach, series, solver)
    assert states.shape == (2, 3, series.time.shape[1], LATENT)
    assert len(solver.solves) == 1
    for i in range(3):
        filled = series.filled[i]
        expected = by_hand(model, known_by_hand(panel, i)).path(z0[:, i], series.time[i, filled], max_step=0.01)
        np.testing.assert_allclose(states[:, i, filled], expected, rtol=1e-5, atol=1e-6)
        assert torch.isnan(states[:, i, ~filled]).all()


@pytest.mark.parametrize("likelihood", ["gaussian", "bernoulli", "poisson"])
@pytest.mark.parametrize("n_covariates", [0, 1])
def test_the_log_likelihood_is_that_of_scipys_paths(likelihood, n_covariates, by_hand, tight_solver):
    model, panel = model_of(n_covariates, likelihood), panel_of(n_covariates, likelihood)
    if likelihood == "gaussian":
        with torch.no_grad():
            model.likelihood.log_noise.copy_(torch.tensor([-1.0, 0.5]))
    series, z0 = tensors_of(panel), initial()
    rows = Rows(series, process=False)
    with torch.no_grad():
        found = model.log_likelihood(model.decode(z0, rows, tight_solver), rows)
    assert found.shape == (2, 3)
    for i in range(3):
        hand = by_hand(model, known_by_hand(panel, i))
        expected = hand.log_likelihood(
            z0[:, i], series.time[i, series.filled[i]], series.y[i, series.filled[i]].numpy()
        )
        np.testing.assert_allclose(found[:, i], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("n_covariates", [0, 1])
def test_times_are_a_poisson_process(n_covariates, by_hand, tight_solver):
    model, panel = model_of(n_covariates, process=True), panel_of(n_covariates)
    if n_covariates:  # static, so that the intensity is smooth and the quadrature exact
        first = panel.covariates[np.searchsorted(panel.codes, panel.codes)]
        panel = Panel(panel.ids, panel.origins, panel.codes, panel.time, first, panel.y)
    plain = model_of(n_covariates)
    plain.load_state_dict(model.state_dict(), strict=False)
    panel = panel.starting(0.3)  # and later than the latent state's start
    series, z0 = tensors_of(panel), initial()
    rows, without = Rows(series, process=True), Rows(series, process=False)
    with torch.no_grad():
        found = model.log_likelihood(model.decode(z0, rows, tight_solver), rows)
        values = plain.log_likelihood(plain.decode(z0, without, tight_solver), without)
    for i in range(3):
        hand, times = by_hand(model, known_by_hand(panel, i)), series.time[i, series.filled[i]].numpy()
        for k in range(2):
            expected = hand.log_process(z0[k, i], times, panel.windows()[i] / 2.0)
            assert float(found[k, i] - values[k, i]) == pytest.approx(expected, abs=1e-4)


def test_the_quadratures_weights_sum_to_the_spans():
    series = tensors_of(panel_of().starting(0.3))
    rows = Rows(series, process=True)
    first, last = series.window.unbind(1)
    torch.testing.assert_close(rows.node_weights.sum(1), last - first)
    # of a polynomial exactly
    integral = (rows.node_weights * rows.node_times**3).sum(1)
    torch.testing.assert_close(integral, (last**4 - first**4) / 4)


def test_rows_and_nodes_are_found_again_among_the_states():
    series = tensors_of(panel_of())
    rows = Rows(series, process=True)
    states = rows.times[None, :, :, None].expand(2, -1, -1, LATENT)
    at_rows, at_nodes = rows.taken(states)
    torch.testing.assert_close(at_rows[0, :, 0], series.time[series.filled])
    torch.testing.assert_close(at_nodes[1, :, :, 2], rows.node_times)
    assert (torch.diff(torch.nan_to_num(rows.times, nan=torch.inf), dim=1).nan_to_num() >= 0).all()


def test_covariates_at_nodes_are_those_of_the_paths():
    panel = panel_of()
    rows = Rows(tensors_of(panel), process=True)
    for i in range(3):
        expected = [known_by_hand(panel, i)(t) for t in rows.node_times[i].numpy()]
        np.testing.assert_allclose(rows.node_covariates[i], expected, rtol=1e-9, atol=1e-12)


def test_sums_are_over_each_series_rows():
    series = tensors_of(panel_of())
    rows = Rows(series, process=False)
    values = torch.arange(2.0 * len(rows.y)).view(2, -1)
    expected = [[float(v[rows.filled[0] == i].sum()) for i in range(3)] for v in values]
    assert rows.summed(values).tolist() == expected


def test_rows_hold_what_was_observed():
    panel = panel_of()
    rows = Rows(tensors_of(panel), process=True)
    seen = panel.observed()
    np.testing.assert_array_equal(rows.y, seen.y)
    np.testing.assert_array_equal(rows.covariates, seen.covariates)
    np.testing.assert_array_equal(rows.filled[0], seen.codes)
    starts = panel.windows()[seen.codes, 0]
    np.testing.assert_array_equal(rows.timed, seen.since_origin() > starts)


def test_an_event_of_high_intensity_is_likelier():
    model, series = model_of(process=True), tensors_of(panel_of())
    rows = Rows(series, process=True)
    eta = torch.zeros(1, len(rows.y), 2, dtype=torch.float64)
    low = torch.zeros(1, len(rows.y), dtype=torch.float64)
    at_nodes = torch.zeros(1, 3, rows.node_times.shape[1], dtype=torch.float64)
    with torch.no_grad():
        gain = model.log_likelihood(DecoderOutput(eta, low + 1, at_nodes), rows) - model.log_likelihood(
            DecoderOutput(eta, low, at_nodes), rows
        )
        loss = model.log_likelihood(DecoderOutput(eta, low, at_nodes + np.log(2)), rows) - model.log_likelihood(
            DecoderOutput(eta, low, at_nodes), rows
        )
    events = (series.time > series.window[:, :1]).sum(1).double()
    torch.testing.assert_close(gain[0], events)
    torch.testing.assert_close(loss[0], series.window[:, 0] - series.window[:, 1])


@pytest.mark.parametrize("n_covariates", [0, 1])
def test_gradients_reach_every_weight(n_covariates, tight_solver):
    model, series = model_of(n_covariates, process=True), tensors_of(panel_of(n_covariates))
    rows = Rows(series, process=True)
    mean, std = model.posterior(series, tight_solver)
    z0 = mean[None] + std * initial(1)
    model.log_likelihood(model.decode(z0, rows, tight_solver), rows).sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize("n_covariates", [0, 1])
def test_gradients_are_those_of_differences(n_covariates):
    solver = Solver(method="rk4", step_size=0.1)  # whose steps do not depend on the weights
    model, series = model_of(n_covariates), tensors_of(panel_of(n_covariates))
    rows, z0 = Rows(series, process=False), initial()

    def total():
        return model.log_likelihood(model.decode(z0, rows, solver), rows).sum()

    total().backward()
    for weight in (model.field.layers[0].weight, model.decoder.bent.weight):
        gradient = weight.grad[0, -1].item()
        with torch.no_grad():
            around = []
            for step in (1e-4, -2e-4):
                weight[0, -1] += step
                around.append(total().item())
            weight[0, -1] += 1e-4
        assert (around[0] - around[1]) / 2e-4 == pytest.approx(gradient, rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("process", [False, True])
@pytest.mark.parametrize("likelihood", sorted(LIKELIHOODS))
def test_a_row_of_weight_k_is_k_rows_at_one_time(likelihood, process, tight_solver):
    model, panel = model_of(likelihood=likelihood, process=process), panel_of(likelihood=likelihood)
    counts = np.array([2, 1, 3, 1, 2, 1, 4, 2, 1])
    rows = np.repeat(np.arange(9), counts)
    repeated = Panel.of(panel.codes[rows], panel.time[rows], panel.covariates[rows], panel.y[rows])
    found, expected = (
        model.log_likelihood(model.decode(initial(), rows, tight_solver), rows)
        for rows in (
            Rows(tensors_of(replace(panel, weights=counts.astype(float))), process=process),
            Rows(tensors_of(repeated), process=process),
        )
    )
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)

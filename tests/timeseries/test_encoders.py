from dataclasses import replace

import pytest
import torch
from torch import nn

from skode.solvers import solve_ivp
from skode.timeseries.encoders import ENCODERS, GRUEncoder, ODERNNEncoder, RNNEncoder
from skode.timeseries.tensors import PanelTensors

OUTPUTS, COVARIATES, HIDDEN, LATENT = 2, 1, 5, 3
KINDS = sorted(ENCODERS)


@pytest.fixture(params=KINDS)
def encoder(request):
    return encoder_of(ENCODERS[request.param])


def encoder_of(kind):
    return kind(OUTPUTS, COVARIATES, HIDDEN, LATENT, torch.Generator().manual_seed(0)).double()


def series(length, seed=0):
    generator = torch.Generator().manual_seed(seed)
    time = torch.rand(length, generator=generator, dtype=torch.float64).cumsum(0)
    y = torch.randn(length, OUTPUTS, generator=generator, dtype=torch.float64)
    covariates = torch.randn(length, COVARIATES, generator=generator, dtype=torch.float64)
    return time, y, covariates


def batch(*members, slots=None):
    lengths = torch.tensor([len(time) for time, _, _ in members])
    slots = max(int(lengths.max()), 1) if slots is None else slots
    padded = []
    for part, filler in enumerate((torch.nan, torch.nan, 0.0)):  # as PanelTensors are
        shape = (len(members), slots, *members[0][part].shape[1:])
        whole = torch.full(shape, filler, dtype=torch.float64)
        for i, member in enumerate(members):
            whole[i, : lengths[i]] = member[part]
        padded.append(whole)
    window = torch.stack([torch.zeros(len(members)), torch.nan_to_num(padded[0]).amax(1)], dim=1)
    return PanelTensors(*padded, lengths, window, None)


def rows_read(time, y, covariates):
    """What is read of a series, last observation first, row by row."""
    rows = []
    for i in reversed(range(len(time))):
        gap = time[i + 1] - time[i] if i + 1 < len(time) else 0.0 * time[i]
        observed = (~torch.isnan(y[i])).double()
        times = torch.asinh(torch.stack([time[i], gap]))
        rows.append(torch.cat([torch.nan_to_num(y[i]), observed, times, covariates[i]]))
    return torch.stack(rows)


def answer(encoder, state):
    mean, log_std = encoder.head(state).chunk(2, dim=-1)
    return mean, log_std.exp()


# Any encoder


def test_a_series_without_observations_gives_the_prior(encoder, tight_solver):
    mean, std = encoder(batch(series(0)), tight_solver)
    assert not mean.any()
    assert (std == 1).all()


def test_an_empty_series_changes_nothing_for_the_others(encoder, tight_solver):
    mean, std = encoder(batch(series(4), series(0), series(2, 1)), tight_solver)
    assert not mean[1].any()
    assert (std[1] == 1).all()
    alone = encoder(batch(series(2, 1)), tight_solver)
    torch.testing.assert_close((mean[2:], std[2:]), alone, rtol=1e-7, atol=1e-8)


def test_an_empty_series_has_no_part_in_the_gradient(encoder, tight_solver):
    def gradients(*members):
        mean, std = encoder(batch(*members), tight_solver)
        return torch.autograd.grad((mean + std).sin().sum(), list(encoder.parameters()))

    torch.testing.assert_close(gradients(series(4), series(0)), gradients(series(4)), rtol=1e-6, atol=1e-9)


def test_a_series_has_one_posterior_alone_or_in_a_batch(encoder, tight_solver):
    members = [series(4), series(7, 1), series(1, 2)]
    mean, std = encoder(batch(*members, slots=9), tight_solver)
    for i, member in enumerate(members):
        alone = encoder(batch(member), tight_solver)
        torch.testing.assert_close((mean[[i]], std[[i]]), alone, rtol=1e-7, atol=1e-8)


def test_rows_beyond_the_length_are_not_read(encoder, tight_solver):
    whole = batch(series(6), series(4, 1))
    beginning = replace(whole, lengths=torch.tensor([3, 2]))
    short = batch(*[tuple(part[:n] for part in member) for member, n in ((series(6), 3), (series(4, 1), 2))])
    torch.testing.assert_close(encoder(beginning, tight_solver), encoder(short, tight_solver), rtol=1e-7, atol=1e-8)


def test_the_order_of_series_does_not_matter(encoder, tight_solver):
    forth = encoder(batch(series(4), series(7, 1)), tight_solver)
    back = encoder(batch(series(7, 1), series(4)), tight_solver)
    torch.testing.assert_close(forth[0], back[0].flip(0), rtol=1e-7, atol=1e-8)


def test_a_missing_value_is_not_the_same_as_zero(encoder, tight_solver):
    time, y, covariates = series(4)
    zero, missing = y.clone(), y.clone()
    zero[2, 0], missing[2, 0] = 0.0, torch.nan
    as_zero = encoder(batch((time, zero, covariates)), tight_solver)
    as_missing = encoder(batch((time, missing, covariates)), tight_solver)
    assert torch.isfinite(as_missing[0]).all()
    assert (as_zero[0] - as_missing[0]).abs().max() > 1e-6


@pytest.mark.parametrize("part", [0, 1, 2], ids=["time", "y", "covariates"])
def test_everything_observed_reaches_the_posterior(encoder, tight_solver, part):
    members = list(series(4))
    before, _ = encoder(batch(tuple(members)), tight_solver)
    members[part] = members[part] * 1.5
    after, _ = encoder(batch(tuple(members)), tight_solver)
    assert (before - after).abs().max() > 1e-6


def test_the_standard_deviation_stays_within_its_bounds(encoder, tight_solver):
    with torch.no_grad():
        encoder.head.bias[LATENT:] = torch.tensor([-1e6, 0.0, 1e6], dtype=torch.float64)
    _, std = encoder(batch(series(4)), tight_solver)
    assert (std > 0).all()
    assert std.max() <= torch.e


@pytest.mark.parametrize("kind", KINDS)
def test_initial_weights_come_from_the_generator_alone(kind):
    before = torch.get_rng_state()
    first, second = (ENCODERS[kind](2, 1, 5, 3, torch.Generator().manual_seed(3)) for _ in range(2))
    assert all(torch.equal(p, q) for p, q in zip(first.parameters(), second.parameters(), strict=True))
    assert all(torch.isfinite(p).all() and (p != 0).any() for p in first.parameters() if p.ndim > 1)
    assert torch.equal(before, torch.get_rng_state())


def test_gradients_reach_all_weights(encoder, tight_solver):
    mean, std = encoder(batch(series(4), series(0)), tight_solver)
    (mean.sum() + std.log().sum()).backward()
    for name, p in encoder.named_parameters():
        assert p.grad is not None, name
        assert torch.isfinite(p.grad).all(), name
        assert (p.grad != 0).any(), name


def test_an_enormous_gap_gives_a_finite_posterior(encoder, tight_solver):
    time, y, covariates = series(3)
    time = time + torch.tensor([0.0, 0.0, 1e3], dtype=torch.float64)
    mean, std = encoder(batch((time, y, covariates)), tight_solver)
    assert torch.isfinite(mean).all()
    assert torch.isfinite(std).all()


# Recurrent networks


@pytest.mark.parametrize(("kind", "network"), [(GRUEncoder, nn.GRU), (RNNEncoder, nn.RNN)])
def test_a_recurrent_network_reads_the_series_backward(kind, network, tight_solver):
    encoder = encoder_of(kind)
    members = [series(5), series(3, 1)]
    members[0][1][2, 1] = torch.nan
    by_hand = network(2 * OUTPUTS + 2 + COVARIATES, HIDDEN, batch_first=True, dtype=torch.float64)
    by_hand.load_state_dict(encoder.cell.state_dict())
    mean, std = encoder(batch(*members), tight_solver)
    for i, member in enumerate(members):
        _, last = by_hand(rows_read(*member)[None])
        expected = answer(encoder, last[0])
        torch.testing.assert_close((mean[[i]], std[[i]]), expected, rtol=1e-10, atol=1e-12)


# The ODE-RNN


def cells_run(encoder, member, evolve):
    """The state after all rows; ``evolve`` takes it over a gap."""
    time = member[0]
    state = torch.zeros(1, HIDDEN, dtype=torch.float64)
    for i, row in enumerate(rows_read(*member)):
        last = len(time) - 1 - i
        if i > 0:
            state = evolve(state, float(time[last + 1] - time[last]))
        state = encoder.cell(row[None], state)
    return state


def test_without_dynamics_an_ode_rnn_is_its_cell(tight_solver):
    encoder = encoder_of(ODERNNEncoder)
    with torch.no_grad():
        for parameter in encoder.field.parameters():
            parameter.zero_()
    members = [series(5), series(3, 1), series(1, 2)]
    mean, std = encoder(batch(*members), tight_solver)
    for i, member in enumerate(members):
        expected = answer(encoder, cells_run(encoder, member, lambda state, gap: state))
        torch.testing.assert_close((mean[[i]], std[[i]]), expected, rtol=1e-10, atol=1e-12)


def test_an_ode_rnn_follows_its_dynamics_between_observations(tight_solver):
    encoder = encoder_of(ODERNNEncoder)
    members = [series(5), series(3, 1), series(1, 2)]

    def evolve(state, gap):
        return solve_ivp(encoder.field, (0.0, gap), state, rtol=1e-10, atol=1e-11).y[-1]

    mean, std = encoder(batch(*members), tight_solver)
    for i, member in enumerate(members):
        expected = answer(encoder, cells_run(encoder, member, evolve))
        torch.testing.assert_close((mean[[i]], std[[i]]), expected, rtol=1e-6, atol=1e-7)


def test_observations_at_one_time_need_no_solve(tight_solver):
    encoder = encoder_of(ODERNNEncoder)
    _, y, covariates = series(4)
    member = (torch.ones(4, dtype=torch.float64), y, covariates)
    solver = tight_solver.counting()
    mean, std = encoder(batch(member), solver)
    assert not solver.solves
    expected = answer(encoder, cells_run(encoder, member, lambda state, gap: state))
    torch.testing.assert_close((mean, std), expected, rtol=1e-10, atol=1e-12)


def test_some_observations_at_one_time(tight_solver):
    encoder = encoder_of(ODERNNEncoder)
    time, y, covariates = series(4)
    time = torch.tensor([0.0, 0.5, 0.5, 2.0], dtype=torch.float64)

    def evolve(state, gap):
        return solve_ivp(encoder.field, (0.0, gap), state, rtol=1e-10, atol=1e-11).y[-1] if gap else state

    mean, std = encoder(batch((time, y, covariates), series(4, 1)), tight_solver)
    expected = answer(encoder, cells_run(encoder, (time, y, covariates), evolve))
    torch.testing.assert_close((mean[:1], std[:1]), expected, rtol=1e-6, atol=1e-7)


def test_solves_are_counted(tight_solver):
    solver = tight_solver.counting()
    encoder_of(ODERNNEncoder)(batch(series(4), series(2, 1)), solver)
    assert len(solver.solves) == 3
    assert all(s.nfev > 0 for s in solver.solves)


def test_weights_of_one_are_none(encoder, tight_solver):
    given = batch(series(4), series(2, seed=1))
    ones = replace(given, weights=given.filled.double())
    for found, expected in zip(encoder(ones, tight_solver), encoder(given, tight_solver), strict=True):
        assert torch.equal(found, expected)


def test_values_of_a_row_hardly_weighed_do_not_matter(encoder, tight_solver):
    given = batch(series(4))
    weights = torch.tensor([[1.0, 1e-12, 1.0, 2.0]], dtype=torch.float64)
    other = given.y.clone()
    other[0, 1] += 3.0
    first, second = (encoder(replace(given, y=y, weights=weights), tight_solver)[0] for y in (given.y, other))
    torch.testing.assert_close(first, second, rtol=0.0, atol=1e-9)
    heavier = replace(given, weights=torch.tensor([[1.0, 1.0, 1.0, 5.0]], dtype=torch.float64))
    assert not torch.allclose(encoder(heavier, tight_solver)[0], encoder(given, tight_solver)[0])


def test_an_encoder_may_answer_in_other_coordinates(encoder):
    shift, factor = torch.tensor([0.3, -1.0, 0.0]).double(), torch.tensor([0.5, 1.2, 1.0]).double()
    read = batch(series(4), series(2, seed=1))
    with torch.no_grad():
        mean, std = encoder(read, solve_ivp)
        encoder.rescale(shift, factor)
        other_mean, other_std = encoder(read, solve_ivp)
    torch.testing.assert_close(other_mean, factor * mean + shift)
    torch.testing.assert_close(other_std, factor * std)

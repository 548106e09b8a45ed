import pytest
import torch

from skode.timeseries.encoders import RecurrentEncoder

OUTPUTS, COVARIATES, LATENT = 2, 1, 3


@pytest.fixture
def encoder():
    return RecurrentEncoder(OUTPUTS, COVARIATES, 5, LATENT, torch.Generator().manual_seed(0)).double()


def series(length, seed=0):
    generator = torch.Generator().manual_seed(seed)
    time = torch.rand(length, generator=generator, dtype=torch.float64).cumsum(0)
    y = torch.randn(length, OUTPUTS, generator=generator, dtype=torch.float64)
    covariates = torch.randn(length, COVARIATES, generator=generator, dtype=torch.float64)
    return time, y, covariates


def batch(*members, slots=None, filler=0.0):
    lengths = torch.tensor([len(time) for time, _, _ in members])
    slots = max(int(lengths.max()), 1) if slots is None else slots
    padded = []
    for part in range(3):
        shape = (len(members), slots, *members[0][part].shape[1:])
        whole = torch.full(shape, filler, dtype=torch.float64)
        for i, member in enumerate(members):
            whole[i, : lengths[i]] = member[part]
        padded.append(whole)
    return *padded, lengths


def test_a_series_without_observations_gives_the_prior(encoder):
    mean, std = encoder(*batch(series(0)))
    assert not mean.any()
    assert (std == 1).all()


def test_an_empty_series_changes_nothing_for_the_others(encoder):
    mean, std = encoder(*batch(series(4), series(0), series(2, 1)))
    assert not mean[1].any()
    assert (std[1] == 1).all()
    alone = encoder(*batch(series(2, 1)))
    torch.testing.assert_close((mean[2:], std[2:]), alone, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("filler", [0.0, 7.0])
def test_a_series_has_one_posterior_alone_or_in_a_batch(encoder, filler):
    members = [series(4), series(7, 1), series(1, 2)]
    mean, std = encoder(*batch(*members, slots=9, filler=filler))
    for i, member in enumerate(members):
        alone = encoder(*batch(member))
        torch.testing.assert_close((mean[[i]], std[[i]]), alone, rtol=1e-10, atol=1e-10)


def test_the_order_of_series_does_not_matter(encoder):
    forth = encoder(*batch(series(4), series(7, 1)))
    back = encoder(*batch(series(7, 1), series(4)))
    torch.testing.assert_close(forth[0], back[0].flip(0), rtol=1e-12, atol=1e-12)


def test_a_missing_value_is_not_the_same_as_zero(encoder):
    time, y, covariates = series(4)
    zero, missing = y.clone(), y.clone()
    zero[2, 0], missing[2, 0] = 0.0, torch.nan
    as_zero, as_missing = encoder(*batch((time, zero, covariates))), encoder(*batch((time, missing, covariates)))
    assert torch.isfinite(as_missing[0]).all()
    assert (as_zero[0] - as_missing[0]).abs().max() > 1e-6


@pytest.mark.parametrize("part", [0, 1, 2], ids=["time", "y", "covariates"])
def test_everything_observed_reaches_the_posterior(encoder, part):
    members = list(series(4))
    before, _ = encoder(*batch(tuple(members)))
    members[part] = members[part] * 1.5
    after, _ = encoder(*batch(tuple(members)))
    assert (before - after).abs().max() > 1e-6


def test_the_standard_deviation_stays_within_its_bounds(encoder):
    time, y, covariates = series(4)
    with torch.no_grad():
        encoder.head.bias[LATENT:] = torch.tensor([-1e6, 0.0, 1e6], dtype=torch.float64)
    _, std = encoder(*batch((time, y, covariates)))
    assert (std > 0).all()
    assert std.max() <= torch.e


def test_initial_weights_come_from_the_generator_alone():
    before = torch.get_rng_state()
    first, second = (RecurrentEncoder(2, 1, 5, 3, torch.Generator().manual_seed(3)) for _ in range(2))
    assert all(torch.equal(p, q) for p, q in zip(first.parameters(), second.parameters(), strict=True))
    assert torch.equal(before, torch.get_rng_state())


def test_gradients_reach_all_weights(encoder):
    mean, std = encoder(*batch(series(4), series(0)))
    (mean.sum() + std.log().sum()).backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in encoder.parameters())

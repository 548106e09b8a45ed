"""Recursions in blocks agree with themselves a slot at a time, in longer numbers."""

import numpy as np
import pytest
import torch

from skode.timeseries.noise.scans import AffineScan, filtered_variances, in_blocks

LENGTHS = [1, 2, 3, 4, 7, 16, 50, 1000]


def values_of(n_slots, seed=0):
    """A generator of numbers of shape (..., 3 series, n_slots, 2 outputs) between 0 and 1."""
    rng = np.random.default_rng(seed)
    return lambda *copies: rng.uniform(size=(*copies, 3, n_slots, 2))


def one_by_one(factors, terms):
    """The affine recursion, slot by slot in long double."""
    x, so_far = np.zeros_like(terms[:, :, 0], dtype=np.longdouble), []
    for slot in range(terms.shape[2]):
        x = factors[:, slot] * x + terms[:, :, slot]
        so_far.append(x)
    return np.stack(so_far, axis=2)


@pytest.mark.parametrize("n_slots", LENGTHS)
def test_blocks_are_copies_filled_up_with_zeros(n_slots):
    values = torch.from_numpy(values_of(n_slots)(4))
    blocks = in_blocks(values)
    flat = blocks.flatten(2, 3)
    assert flat[:, :, :n_slots].equal(values)
    assert not flat[:, :, n_slots:].any()
    assert max(blocks.shape[2:4]) <= 2 + np.sqrt(n_slots) * 1.5
    flat += 1.0
    assert values.max() <= 1.0


@pytest.mark.parametrize("n_slots", LENGTHS)
@pytest.mark.parametrize("kind", ["any", "nearly one", "vanishing", "often zero"])
def test_affine_recursions(n_slots, kind):
    values = values_of(n_slots)
    factors, terms = values(), values(5) - 0.3
    if kind == "nearly one":
        factors = 1.0 - 1e-6 * factors
    elif kind == "vanishing":
        factors *= 1e-200  # products of two are 0
    elif kind == "often zero":
        factors[factors < 0.3] = 0.0
    found = AffineScan(torch.from_numpy(factors))(torch.from_numpy(terms)).numpy()
    expected = one_by_one(factors, terms)
    assert found.shape == terms.shape
    scale = one_by_one(factors, np.abs(terms))  # sums of terms of both signs may cancel
    assert (np.abs(found - expected) <= 1e-13 * scale).all()


def test_a_scan_leaves_its_terms_alone_and_can_be_used_again():
    values = values_of(50)
    scan, terms = AffineScan(torch.from_numpy(values())), torch.from_numpy(values(2))
    before = terms.clone()
    first = scan(terms)
    assert terms.equal(before)
    assert scan(terms).equal(first)


@pytest.mark.parametrize("n_slots", LENGTHS)
def test_variances_of_a_filter(n_slots):
    values = values_of(n_slots, seed=1)
    gaps = np.where(values() < 0.2, 0.0, 10.0 ** (8.0 * values() - 6.0))  # equal times, close ones and far ones
    variance, white = np.array([0.7, 0.0]), 10.0 ** (12.0 * values() - 6.0)
    white[values() < 0.3] = np.inf
    kept, added = np.exp(-gaps), -np.expm1(-2.0 * gaps) * variance
    kept[:, 0], added[:, 0] = 0.0, variance
    known, expected = np.zeros((3, 2), dtype=np.longdouble), []
    for slot in range(n_slots):
        before = kept[:, slot] ** 2 * known + added[:, slot]
        known = before / (1.0 + before / white[:, slot])
        expected.append(known)
    found = filtered_variances(*(torch.from_numpy(x) for x in (kept, added, white))).numpy()
    np.testing.assert_allclose(found, np.stack(expected, axis=1).astype(np.float64), rtol=1e-12)
    assert (found[..., 0] > 0.0).all()
    assert (found[..., 1] == 0.0).all()

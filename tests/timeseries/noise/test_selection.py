"""The noise of rows that are linear in their series' initial states is found again."""

from unittest import mock

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal

from skode.timeseries.noise import selection
from skode.timeseries.noise.selection import LARGEST_SHARE, MOST_ROWS, LinearisedRows, may_have_memory
from skode.timeseries.panel import Panel

NAN = np.nan


def tensors(*arrays):
    return tuple(torch.from_numpy(np.asarray(array)) for array in arrays)


def linear_panel(n_series, white, coloured, memory, *, n_rows=12, seed=0):
    """Series ``slope * z + noise`` with one normal z each; times, residuals and slopes as LinearisedRows takes them."""
    rng = np.random.default_rng(seed)
    time = np.sort(rng.uniform(0.0, 4.0, (n_series, n_rows)), axis=1)
    slopes = np.sin(time)[None, ..., None]
    dense = coloured**2 * np.exp(-np.abs(time[:, None] - time[:, :, None]) / memory) + white**2 * np.eye(n_rows)
    noise = np.einsum("nij,nj->ni", np.linalg.cholesky(dense), rng.standard_normal((n_series, n_rows)))
    return time, (slopes[0, ..., 0] * rng.standard_normal((n_series, 1)) + noise)[..., None], slopes


def test_the_likelihood_integrates_states_out():
    rng = np.random.default_rng(0)
    time = np.array([[0.0, 0.1, 0.1, 5.0], [-1.0, 0.4, 0.5, NAN], [2.0, NAN, NAN, NAN], [0.0, 1.0, NAN, NAN]])
    residual = np.where(np.isnan(time)[..., None], NAN, rng.standard_normal((4, 4, 2)))
    residual[0, 1, 0] = residual[1, 0, 1] = residual[3] = NAN  # seen in part, or not at all
    slopes = rng.standard_normal((3, 4, 4, 2))
    white, coloured, memory = 0.3, 0.8, 0.7
    rows = LinearisedRows(*tensors(time, residual, slopes))
    for output in range(2):
        expected = 0.0
        for series in range(3):
            seen = ~np.isnan(residual[series, :, output])
            distance = np.abs(time[series, seen, None] - time[series, seen])
            dense = coloured**2 * np.exp(-distance / memory) + white**2 * np.eye(seen.sum())
            dense += slopes[:, series, seen, output].T @ slopes[:, series, seen, output]
            expected += multivariate_normal.logpdf(residual[series, seen, output], cov=dense)
        found = rows._of(output).log_likelihood(*tensors(white, coloured, memory))
        assert float(found) == pytest.approx(expected, rel=1e-12)


def test_noise_is_found_again():
    ((share, memory),) = LinearisedRows(*tensors(*linear_panel(400, 0.3, 0.6, 0.8))).likeliest_noise()
    assert share == pytest.approx(0.8, abs=0.03)
    assert memory == pytest.approx(0.8, rel=0.2)


def test_outputs_are_judged_one_by_one():
    time, wandering, slopes = linear_panel(60, 0.3, 0.6, 0.8)
    _, white, _ = linear_panel(60, 0.5, 0.0, 1.0)
    residual, slopes = np.concatenate([white, wandering], axis=2), np.concatenate([slopes, slopes], axis=3)
    alone = LinearisedRows(*tensors(time, wandering, slopes[..., :1])).likeliest_noise()
    assert LinearisedRows(*tensors(time, residual, slopes)).likeliest_noise() == [None, *alone]


@pytest.mark.parametrize("seed", range(3))
def test_white_noise_is_left_white(seed):
    rows = LinearisedRows(*tensors(*linear_panel(100, 0.5, 0.0, 1.0, seed=seed)))
    assert rows.likeliest_noise() == [None]


def test_few_series_or_values_cannot_tell():
    assert LinearisedRows(*tensors(*linear_panel(4, 0.1, 1.0, 1.0))).likeliest_noise() == [None]
    time, residual, slopes = linear_panel(40, 0.1, 1.0, 1.0)
    assert LinearisedRows(*tensors(time, residual, slopes)).likeliest_noise() != [None]
    residual[:, 1:] = NAN
    residual[0] = NAN
    assert LinearisedRows(*tensors(time, residual, slopes)).likeliest_noise() == [None]


def test_some_of_the_noise_is_white():
    ((share, _),) = LinearisedRows(*tensors(*linear_panel(50, 0.0, 1.0, 1.0))).likeliest_noise()
    assert 0.9 < share <= LARGEST_SHARE


@pytest.mark.parametrize("size", [1e8, 1e200])
def test_slopes_of_dynamics_that_explode_tell_nothing(size):
    time, residual, slopes = linear_panel(60, 0.3, 0.6, 0.8, n_rows=1)
    slopes = size * np.random.default_rng(0).standard_normal((4, 60, 1, 1))
    assert LinearisedRows(*tensors(time, residual, slopes)).likeliest_noise() == [None]


def test_parts_are_joined():
    time, residual, slopes = tensors(*linear_panel(40, 0.3, 0.6, 0.8))
    parts = [(time[:30], residual[:30], slopes[:, :30]), (time[30:, :5], residual[30:, :5], slopes[:, 30:, :5])]
    joined = LinearisedRows.joined(LinearisedRows(*part) for part in parts)
    parameters = tensors(0.3, 0.6, 0.8)
    expected = sum(float(LinearisedRows(*part)._of(0).log_likelihood(*parameters)) for part in parts)
    assert float(joined._of(0).log_likelihood(*parameters)) == pytest.approx(expected, rel=1e-12)


def test_of_long_series_parts_from_all_over_are_looked_at():
    n = 3 * MOST_ROWS
    time = np.arange(float(n)) * np.ones((50, 1))
    time[0, 10:] = NAN  # one short series
    rows = LinearisedRows(*tensors(time, time[..., None], time[None, ..., None])).shortened()
    assert rows.time.shape == (50, MOST_ROWS)
    assert rows.residual.shape == (50, MOST_ROWS, 1)
    assert rows.slopes.shape == (1, 50, MOST_ROWS, 1)
    np.testing.assert_array_equal(rows.time, rows.residual[..., 0])
    np.testing.assert_array_equal(rows.time[0, :12], [*range(10), NAN, NAN])
    starts = np.sort(rows.time[1:, 0])
    assert (np.diff(rows.time[1:]) == 1.0).all()
    assert starts[0] < 10
    assert starts[-1] > n - MOST_ROWS - 10
    assert np.diff(starts).max() < 10


def test_a_row_of_weight_k_is_k_rows():
    time, residual, slopes = linear_panel(60, 0.3, 0.6, 0.8, n_rows=8)
    counts = np.random.default_rng(1).integers(1, 4, time.shape).astype(float)
    n_slots = int(counts.sum(1).max())
    times, residuals, of_slots = (
        np.full((60, n_slots), NAN),
        np.full((60, n_slots, 1), NAN),
        np.zeros((1, 60, n_slots, 1)),
    )
    for series, n in enumerate(counts.astype(int)):
        slots, filled = np.repeat(np.arange(8), n), slice(n.sum())
        times[series, filled], residuals[series, filled] = time[series, slots], residual[series, slots]
        of_slots[0, series, filled] = slopes[0, series, slots]
    weighted = LinearisedRows(*tensors(time, residual, slopes, counts))
    repeated = LinearisedRows(*tensors(times, residuals, of_slots))
    for white, coloured, memory in [(0.3, 0.8, 0.7), (1.2, 0.1, 3.0)]:
        found, expected = (
            float(rows._of(0).log_likelihood(*tensors(white, coloured, memory))) for rows in (weighted, repeated)
        )
        assert found == pytest.approx(expected, rel=1e-10)
    np.testing.assert_allclose(weighted.likeliest_noise(), repeated.likeliest_noise(), rtol=1e-6)
    joined = LinearisedRows.joined([weighted, weighted])
    assert float(joined._of(0).log_likelihood(*tensors(0.3, 0.8, 0.7))) == pytest.approx(
        2 * float(weighted._of(0).log_likelihood(*tensors(0.3, 0.8, 0.7))), rel=1e-12
    )


@pytest.mark.parametrize(
    ("n_series", "n_rows", "weight", "enough"),
    [(5, 8, 1.0, True), (4, 30, 1.0, False), (5, 7, 1.0, False), (5, 7, 2.0, True)],
)
def test_whether_there_are_enough_values_is_told_in_advance(n_series, n_rows, weight, enough):
    """By the same numbers by which the search itself gives up."""
    codes = np.repeat(np.arange(n_series + 1), n_rows)
    y = np.zeros((len(codes), 2))
    y[:, 0], y[codes == n_series] = NAN, NAN  # an output, and a series, that were never observed
    times, weights = np.tile(np.arange(float(n_rows)), n_series + 1), np.full(len(codes), weight)
    panel = Panel.of(codes, times, np.zeros((len(codes), 0)), y, weights)
    assert may_have_memory(panel) == enough
    with mock.patch.object(selection, "minimize", side_effect=RuntimeError("searched")):
        shape = (n_series, n_rows)
        seen = np.concatenate([np.full((*shape, 1), NAN), np.zeros((*shape, 1))], axis=2)
        rows = LinearisedRows(
            *tensors(times.reshape(-1, n_rows)[:-1], seen, np.ones((1, *shape, 2)), np.full(shape, weight))
        )
        if enough:
            with pytest.raises(RuntimeError, match="searched"):
                rows.likeliest_noise()
        else:
            assert rows.likeliest_noise() == [None, None]

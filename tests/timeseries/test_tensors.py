from dataclasses import replace

import numpy as np
import pytest
import torch

from skode.timeseries.panel import Panel
from skode.timeseries.tensors import PanelTensors

CPU = torch.device("cpu")


@pytest.fixture
def panel():
    rng = np.random.RandomState(0)
    y = rng.normal(size=(7, 2))
    y[1, 0] = y[4, 1] = np.nan
    return Panel.of(np.array([0, 1, 0, 1, 1, 2, 0]), rng.uniform(0, 5, 7), rng.normal(size=(7, 1)), y)


@pytest.fixture
def batch(panel):
    return PanelTensors.of(panel, 2.0, torch.float64, CPU)


def test_tensors_hold_each_series_in_its_first_slots(panel, batch):
    assert batch.lengths.tolist() == [3, 3, 1]
    assert batch.filled.sum(1).tolist() == [3, 3, 1]
    assert batch.filled[2].tolist() == [True, False, False]
    np.testing.assert_allclose(batch.time[batch.filled], panel.since_origin() / 2.0)
    np.testing.assert_array_equal(batch.y[batch.filled], panel.y)
    np.testing.assert_array_equal(batch.covariates[batch.filled], panel.covariates)
    assert torch.isnan(batch.y[~batch.filled]).all()
    assert not batch.covariates[~batch.filled].any()


def test_time_stays_in_double_precision(panel):
    batch = PanelTensors.of(panel, 2.0, torch.float32, CPU)
    assert batch.time.dtype == batch.paths.times.dtype == torch.float64
    assert batch.y.dtype == batch.covariates.dtype == batch.paths.values.dtype == torch.float32


def test_series_reach_to_their_last_times_and_back_to_those_before_the_start(panel, batch):
    np.testing.assert_allclose(batch.reach[:, 1], panel.windows()[:, 1] / 2.0)
    assert not batch.reach[:, 0].any()
    later = PanelTensors.of(panel.starting(-1.0), 2.0, torch.float64, CPU)
    np.testing.assert_allclose(later.reach[:, 0], -0.5)
    np.testing.assert_allclose(batch.window, panel.windows() / 2.0)


def test_a_series_without_rows_has_a_slot_and_no_time(panel):
    unseen = panel.without(panel.codes == 1).observed()
    batch = PanelTensors.of(unseen, 2.0, torch.float64, CPU)
    assert batch.lengths.tolist() == [3, 0, 1]
    assert not batch.filled[1].any()
    assert not batch.reach[1].any()


def test_a_panel_without_rows_is_one_of_empty_slots(panel):
    batch = PanelTensors.of(panel.without(panel.codes >= 0).observed(), 2.0, torch.float64, CPU)
    assert batch.time.shape == (3, 1)
    assert not batch.filled.any()


def test_without_covariates_there_are_no_paths(panel):
    bare = Panel.of(panel.codes, panel.time, np.empty((7, 0)), panel.y)
    batch = PanelTensors.of(bare, 2.0, torch.float64, CPU)
    assert batch.paths is None
    assert batch.covariates.shape == (3, 3, 0)
    assert batch.take(torch.tensor([1])).paths is None


def test_covariates_are_known_from_rows_at_which_nothing_was_observed(panel):
    missing = panel.without(np.arange(7) == 1)
    batch = PanelTensors.of(missing.observed(), 2.0, torch.float64, CPU, missing)
    assert batch.lengths.tolist() == [2, 3, 1]
    np.testing.assert_allclose(batch.window, panel.windows() / 2.0)  # watched all the same
    times = torch.from_numpy(panel.since_origin() / 2.0)[:, None]
    at_all_rows = batch.paths.at(torch.from_numpy(panel.codes), times)
    np.testing.assert_allclose(at_all_rows, panel.covariates, rtol=1e-12)


def test_take_gives_those_series(batch):
    taken = batch.take(torch.tensor([2, 0]))
    for name in ("time", "y", "covariates", "lengths", "filled", "reach", "window"):
        torch.testing.assert_close(getattr(taken, name), getattr(batch, name)[[2, 0]], rtol=0, atol=0, equal_nan=True)
    t = torch.tensor([[0.3], [0.4]], dtype=torch.float64)
    both = torch.tensor([0, 1])
    assert torch.equal(taken.paths.at(both, t), batch.paths.at(torch.tensor([2, 0]), t))


def test_trimmed_to_the_longest_series(batch):
    assert batch.trimmed() is batch
    last = batch.take(torch.tensor([2])).trimmed()
    for name in ("time", "y", "covariates"):
        assert torch.equal(getattr(last, name), getattr(batch, name)[2:, :1])
    nothing = replace(batch, lengths=torch.zeros(3, dtype=torch.int64)).trimmed()
    assert nothing.time.shape == (3, 1)


@pytest.mark.parametrize(
    ("share", "lengths"),
    [([0.0, 0.0, 0.0], [1, 1, 1]), ([0.5, 0.34, 1.0], [2, 2, 1]), ([1.0, 1 / 3, 0.1], [3, 1, 1])],
)
def test_a_beginning_is_a_share_of_the_rows_and_at_least_one(batch, share, lengths):
    beginning = batch.beginning(torch.tensor(share, dtype=torch.float64))
    assert beginning.lengths.tolist() == lengths
    assert batch.lengths.tolist() == [3, 3, 1]
    assert torch.equal(beginning.filled, batch.filled)  # the other slots stay


def test_the_beginning_of_nothing_is_nothing(panel):
    batch = PanelTensors.of(panel.without(panel.codes == 1).observed(), 2.0, torch.float64, CPU)
    assert batch.beginning(torch.ones(3, dtype=torch.float64)).lengths.tolist() == [3, 0, 1]
    assert batch.beginning(torch.zeros(3, dtype=torch.float64)).lengths.tolist() == [1, 0, 1]


def test_an_ending_is_the_last_rows_in_the_first_slots(batch):
    share = torch.tensor([0.5, 0.34, 1.0], dtype=torch.float64)
    ending = batch.ending(share)
    assert ending.lengths.tolist() == [2, 2, 1]
    for i, n in enumerate(ending.lengths.tolist()):
        length = int(batch.lengths[i])
        for name in ("time", "y", "covariates"):
            found, whole = getattr(ending, name)[i, :n], getattr(batch, name)[i, length - n : length]
            torch.testing.assert_close(found, whole, rtol=0, atol=0, equal_nan=True)
    assert ending.filled.sum(1).tolist() == [2, 2, 1]


def test_weights_are_in_the_slots_of_their_rows(panel):
    weights = np.arange(7.0) + 1.0
    weighted = replace(panel, weights=weights)
    batch = PanelTensors.of(weighted, 2.0, torch.float64, CPU)
    of_row = dict(zip(weighted.y[:, 0], weights, strict=True))

    def follows(part):
        for y, weight in zip(part.y[..., 0].flatten(), part.weights.flatten(), strict=True):
            assert float(weight) == of_row.get(float(y), 0.0) or bool(torch.isnan(y))

    share = torch.full((3,), 0.5, dtype=torch.float64)
    for part in (batch, batch.take(torch.tensor([2, 0])), batch.ending(share), batch.beginning(share), batch.trimmed()):
        follows(part)
    alone = batch.take(torch.tensor([2])).trimmed()
    assert alone.weights.shape == alone.time.shape
    assert PanelTensors.of(panel, 2.0, torch.float64, CPU).weights is None


def test_an_excerpt_is_the_rows_of_a_window_and_nothing_else(panel):
    weighted = replace(panel, weights=np.arange(1.0, 8.0))
    batch = PanelTensors.of(weighted, 2.0, torch.float64, CPU)
    excerpt = batch.excerpt(torch.tensor([0.6, 0.3, 1.0]), torch.tensor([0.0, 1.0, 0.5]))
    assert excerpt.lengths.tolist() == [2, 1, 1]
    assert excerpt.filled.sum(1).tolist() == [2, 1, 1]
    for i, rows in enumerate([slice(1, 3), slice(0, 1), slice(0, 1)]):  # the last two of three, the first, the only one
        n = rows.stop - rows.start
        for name in ("time", "y", "covariates", "weights"):
            torch.testing.assert_close(getattr(excerpt, name)[i, :n], getattr(batch, name)[i, rows], equal_nan=True)
        assert not excerpt.weights[i, n:].any()
        times = excerpt.time[i, :n]
        assert excerpt.window[i].tolist() == [times[0], times[-1]]
    whole = batch.excerpt(torch.ones(3), torch.zeros(3))
    for name in ("time", "y", "covariates", "weights", "window", "lengths"):
        torch.testing.assert_close(getattr(whole, name), getattr(batch, name), equal_nan=True)

"""Sizes that the data decide, and those that the user does."""

import numpy as np
import pytest

from skode.timeseries.panel import Panel
from skode.timeseries.sizes import MANY_VALUES, MOST_UPDATES, choose_sizes

AUTO = dict.fromkeys(("latent_size", "hidden_layer_sizes", "encoder_size", "batch_size", "max_iter"), "auto")


def panel_of(n_series, n_rows, n_outputs, seen=1.0):
    y = np.zeros((n_series * n_rows, n_outputs))
    y[np.arange(y.shape[0]) >= seen * y.shape[0]] = np.nan
    series, time = np.repeat(np.arange(n_series), n_rows), np.tile(np.arange(n_rows, dtype=float), n_series)
    return Panel.of(series, time, np.zeros((len(time), 0)), y)


@pytest.mark.parametrize(("n_outputs", "expected"), [(1, 4), (2, 6), (5, 12), (7, 16), (20, 16)])
def test_states_by_outputs(n_outputs, expected):
    assert choose_sizes(panel_of(30, 8, n_outputs), **AUTO).latent_size == expected


def test_units_by_observed_values():
    few, many = (choose_sizes(panel_of(n, 16, 1), **AUTO) for n in (MANY_VALUES // 16 - 1, MANY_VALUES // 16))
    assert (few.hidden_layer_sizes, few.encoder_size) == ((32, 32), 32)
    assert (many.hidden_layer_sizes, many.encoder_size) == ((64, 64), 64)
    missing = choose_sizes(panel_of(MANY_VALUES // 16, 16, 1, seen=0.5), **AUTO)
    assert missing.encoder_size == 32


@pytest.mark.parametrize("n_series", [1, 3, 40, 1000])
def test_updates_by_observed_values(n_series):
    sizes = choose_sizes(panel_of(n_series, 30, 1), **AUTO)
    n_batches = -(-n_series // sizes.batch_size)
    assert sizes.n_updates == sizes.max_iter * sizes.passes * n_batches
    assert sizes.passes * n_batches >= 2
    assert sizes.n_updates <= MOST_UPDATES
    assert sizes.max_iter >= 250


def test_numbers_stay():
    given = {"latent_size": 3, "hidden_layer_sizes": (7,), "encoder_size": 5, "batch_size": 1000, "max_iter": 2}
    sizes = choose_sizes(panel_of(30, 8, 2), **given)
    assert sizes.batch_size == 30
    assert given | {"batch_size": 30} == {name: getattr(sizes, name) for name in given}
    assert str(sizes).startswith("latent_size=3, hidden_layer_sizes=(7,), encoder_size=5")

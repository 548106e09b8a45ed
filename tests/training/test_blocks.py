"""Samples of tables in blocks: each once an epoch, and those that were asked for."""

import numpy as np
import pytest
import torch

from skode.io import ArrayTable
from skode.training import blocks as module
from skode.training.blocks import BlockSamples, drawn_rows


def values(table):
    def load(start, stop):
        rows = table.read(start, stop)
        loaded.append(start)
        return torch.from_numpy(rows), torch.arange(start, stop)

    loaded = []
    return load, loaded


def in_blocks(n_rows=50, block_rows=8, left_out=()):
    table = ArrayTable(np.arange(n_rows * 2.0).reshape(-1, 2), block_rows=block_rows)
    load, loaded = values(table)
    return BlockSamples(table, load, torch.device("cpu"), np.array(left_out, dtype=np.int64)), loaded


@pytest.fixture(autouse=True)
def small_pools(monkeypatch):
    monkeypatch.setattr(module, "POOL_BYTES", 20 * 16)


@pytest.mark.parametrize("left_out", [(), (0, 7, 8, 9, 49), range(8, 16), range(1, 50)])
@pytest.mark.parametrize(("n_rows", "block_rows"), [(50, 8), (50, 50), (50, 1), (50, 7)])
@pytest.mark.parametrize("size", [1, 6, 50, 100])
def test_every_row_comes_once_an_epoch(n_rows, block_rows, size, left_out):
    samples, _ = in_blocks(n_rows, block_rows, left_out)
    rng = np.random.RandomState(0)
    expected = np.setdiff1d(np.arange(n_rows), left_out)
    assert len(samples) == len(expected)
    for source in (rng, rng, None):
        batches = list(samples.batches(size, source))
        assert [len(batch) for batch in batches[:-1]] == [size] * (len(batches) - 1)
        assert len(batches) == -(-len(expected) // size)
        np.testing.assert_array_equal(np.sort(np.concatenate(batches)), expected)


def test_orders_differ_between_epochs_and_mix_blocks():
    samples, _ = in_blocks()
    rng = np.random.RandomState(0)
    first, second = (np.concatenate(list(samples.batches(6, rng))) for _ in range(2))
    assert (first != second).any()
    assert len(np.unique(first[:6] // 8)) > 1
    np.testing.assert_array_equal(np.concatenate(list(samples.batches(6, None))), np.arange(50))


@pytest.mark.parametrize("size", [6, 16, 23, 50])
def test_tensors_are_those_of_the_rows_and_each_block_is_read_once_an_epoch(size):
    samples, loaded = in_blocks()
    rng = np.random.RandomState(1)
    x, place = samples.parts(2)
    for _ in range(3):
        loaded.clear()
        for rows in samples.batches(size, rng):
            chosen = torch.from_numpy(rows)
            np.testing.assert_array_equal(place[chosen], rows)
            np.testing.assert_array_equal(x[chosen][:, 0], 2.0 * rows)
        if size < 16:  # batches of more rows than a pool holds need several at once
            assert sorted(loaded) == [*range(0, 50, 8)]


def test_a_share_of_the_last_batch_is_not_read_again():
    samples, loaded = in_blocks()
    x, place = samples.parts(2)
    for rows in samples.batches(17, np.random.RandomState(0)):
        chosen = torch.from_numpy(rows)
        assert len(x[chosen]) == len(rows)
        loaded.clear()
        for share in (chosen[:5], chosen[5:], chosen.flip(0)):
            np.testing.assert_array_equal(place[share], share)
        assert not loaded
    np.testing.assert_array_equal(place[torch.tensor([int(rows[0]), 3])], [rows[0], 3])


def test_a_pool_is_bounded():
    samples, _ = in_blocks(block_rows=4)
    pools = list(samples._pools(np.arange(len(samples.ends))))
    assert [len(pool) for pool in pools] == [5, 5, 3]
    samples, _ = in_blocks(block_rows=25)  # larger than a pool: two are there all the same
    assert list(samples._pools(np.arange(2))) == [[0, 1]]


def test_an_epoch_that_goes_on_reads_what_it_skips_only_where_a_batch_needs_it():
    samples, loaded = in_blocks()
    batches = list(samples.batches(6, np.random.RandomState(2)))
    for n_skipped in range(len(batches)):
        fresh, loaded = in_blocks()
        x, _ = fresh.parts(2)
        for number, rows in enumerate(fresh.batches(6, np.random.RandomState(2))):
            np.testing.assert_array_equal(rows, batches[number])
            if number >= n_skipped:
                chosen = torch.from_numpy(rows)
                np.testing.assert_array_equal(x[chosen][:, 1], 2.0 * rows + 1.0)
        assert len(loaded) <= 7 + 2


def drawn(n_rows, n_columns=1):
    return drawn_rows(ArrayTable(np.broadcast_to(0.0, (n_rows, n_columns))), np.random.RandomState(0))


def test_rows_are_drawn_without_replacement_and_in_order(monkeypatch):
    np.testing.assert_array_equal(drawn(10), np.arange(10))
    monkeypatch.setattr(module, "MOST_DRAWN", 30)
    for n in (31, 100, 10_000):
        rows = drawn(n)
        assert len(np.unique(rows)) == 30
        assert (np.diff(rows) > 0).all()
        assert 0 <= rows[0] <= rows[-1] < n


def test_rows_that_are_drawn_have_a_bounded_number_of_bytes():
    assert len(drawn(10**6)) == 100_000
    assert len(drawn(10**6, 100)) == 2**25 // 800
    assert len(drawn(10**6, 10**5)) == 1000
    assert len(drawn(900, 10**5)) == 900

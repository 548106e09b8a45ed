"""Arrays on disk in blocks, and which memory maps are taken for these."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from joblib import Parallel, delayed
from scipy.sparse import csr_array

from skode.io import ArrayTable
from skode.io import arrays as module
from skode.io.sources import as_block_table


@pytest.fixture
def memmap(tmp_path):
    np.save(tmp_path / "x.npy", np.arange(60.0).reshape(20, 3))
    return np.load(tmp_path / "x.npy", mmap_mode="r")


def test_rows_are_those_of_the_array(memmap):
    table = ArrayTable(memmap, block_rows=6)
    assert table.ends.tolist() == [6, 12, 18, 20]
    np.testing.assert_array_equal(np.asarray(table), memmap)
    np.testing.assert_array_equal(table.read(4, 15), memmap[4:15])
    np.testing.assert_array_equal(table.take(np.array([0, 5, 6, 19])), memmap[[0, 5, 6, 19]])
    assert not isinstance(table.read(0, 3), np.memmap)


def test_a_block_has_a_bounded_number_of_bytes(monkeypatch, memmap):
    monkeypatch.setattr(module, "BLOCK_BYTES", 100)
    assert ArrayTable(memmap).ends[0] == 4
    monkeypatch.setattr(module, "BLOCK_BYTES", 1)
    assert ArrayTable(memmap).ends[0] == 1


@pytest.mark.parametrize("n_rows", [0, 1, 6, 7])
def test_few_rows(n_rows):
    table = ArrayTable(np.ones((n_rows, 2)), block_rows=6)
    assert np.asarray(table).shape == (n_rows, 2)
    assert table.ends.tolist() == [[], [1], [6], [6, 7]][[0, 1, 6, 7].index(n_rows)]


def test_wrong_arrays_are_refused():
    with pytest.raises(ValueError, match=r"array must have rows and columns.*\(2, 2, 2\)"):
        ArrayTable(np.ones((2, 2, 2)))
    with pytest.raises(ValueError, match="names must be one for each column"):
        ArrayTable(np.ones((2, 2)), names=["a"])


def _is_block_table(data):
    return as_block_table(data) is not None


def test_large_memmaps_of_the_users_are_read_in_blocks(memmap, monkeypatch):
    assert not _is_block_table(memmap)
    monkeypatch.setattr(module, "SMALL_BYTES", 100)
    assert _is_block_table(memmap)
    assert _is_block_table(memmap[3:, :2])
    assert not _is_block_table(memmap[:4])
    assert not _is_block_table(memmap[:, 0])
    assert not _is_block_table(memmap * 2)
    assert not _is_block_table(np.asarray(memmap))


def test_arrays_that_joblib_hands_to_its_workers_are_arrays():
    def seen(data):
        module.SMALL_BYTES = 100
        return isinstance(data, np.memmap), _is_block_table(data)

    # 16 bytes and more go through a file.
    found = Parallel(n_jobs=2, max_nbytes=16)(delayed(seen)(np.ones((50, 3))) for _ in range(2))
    assert found == [(True, False)] * 2


def resident(path):
    """MiB of a file's pages in this process's memory."""
    mapped = re.search(rf"{re.escape(str(path))}\n.*?Rss:\s+(\d+) kB", Path("/proc/self/smaps").read_text(), re.DOTALL)
    return int(mapped.group(1)) / 1024


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="memory is told by Linux")
@pytest.mark.parametrize("columns", [slice(None), slice(1, 3)])
def test_pages_that_were_read_are_given_back(tmp_path, columns):
    path = tmp_path / "x.npy"
    np.save(path, np.ones((2**20, 4)))  # 32 MiB
    array = np.load(path, mmap_mode="r")[:, columns]
    table = ArrayTable(array)
    for bounds in table.bounds():
        assert table.read(*bounds).min() == 1.0
    assert resident(path) < 4.0
    assert array.min() == 1.0
    assert resident(path) > 30.0


@pytest.mark.parametrize("mode", ["r+", "c"])
def test_what_was_written_to_a_map_stays(tmp_path, mode):
    np.save(tmp_path / "x.npy", np.zeros((5000, 3)))
    array = np.load(tmp_path / "x.npy", mmap_mode=mode)
    array[:] = 7.0
    table = ArrayTable(array)
    for _ in range(2):
        np.testing.assert_array_equal(np.asarray(table), np.full((5000, 3), 7.0))
    np.testing.assert_array_equal(ArrayTable(array[::-1]).read(0, 10), np.full((10, 3), 7.0))


@pytest.mark.parametrize("rows", [[19, 0, 7, 7, 5], []])
def test_rows_are_taken_in_the_order_asked_for(memmap, rows):
    np.testing.assert_array_equal(ArrayTable(memmap, block_rows=6).take(rows), memmap[np.array(rows, dtype=int)])


@pytest.mark.parametrize(
    ("rows", "error"), [([-1], "from 0 to 19"), ([20], "from 0 to 19"), (np.ones(20, bool), r"np\.flatnonzero\(mask\)")]
)
def test_rows_that_are_not_there_are_refused(memmap, rows, error):
    with pytest.raises(IndexError, match=error):
        ArrayTable(memmap, block_rows=6).take(rows)


@pytest.mark.parametrize("block_rows", [0, -1, 2.5])
def test_blocks_have_rows(memmap, block_rows):
    with pytest.raises(ValueError, match="block_rows must be a whole number of rows"):
        ArrayTable(memmap, block_rows=block_rows)


@pytest.mark.parametrize(
    ("array", "error"),
    [
        ([[1.0]], "got a list"),
        (pd.DataFrame({"a": [1.0]}), r"np\.asarray"),
        (csr_array(np.ones((2, 2))), "got a csr_array"),
        (torch.ones(2, 2), "dtype of NumPy's"),
        (np.zeros(3, [("a", "f8"), ("b", "f4")]), r"array has fields, \['a', 'b'\]"),
    ],
)
def test_what_is_no_array_is_told(array, error):
    with pytest.raises(ValueError, match=error):
        ArrayTable(array)


def test_names_differ():
    with pytest.raises(ValueError, match="names must differ"):
        ArrayTable(np.ones((2, 2)), names=["a", "a"])

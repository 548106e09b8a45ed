"""Arrays on disk: NumPy's memory maps, and whatever else is sliced as an array."""

from __future__ import annotations

import mmap
import os
from collections.abc import Sequence
from numbers import Integral
from typing import Any

import numpy as np
from scipy.sparse import issparse

from skode.io.blocks import BlockTable, even_ends

#: Bytes in a block: few enough for many blocks to be shuffled together, enough for a disk to read at its full speed.
BLOCK_BYTES = 2**18

#: Pages are given back from a multiple of so many bytes on.
AROUND = 2**21

#: Memory maps of up to so many bytes are taken for arrays.
SMALL_BYTES = 2**26


class ArrayTable(BlockTable):
    """An array that lies on disk, such as a ``numpy.memmap``, an HDF5 data set of h5py or an array of zarr.

    Estimators take memory maps of more than 64 MiB for such tables by themselves.

    Parameters
    ----------
    array : array-like of shape (n_rows, n_columns) or (n_rows,)
        It has ``shape`` and ``dtype``, and rows are read as ``array[start:stop]``.
    names : sequence of str, default=None
        Names of the columns.
    block_rows : int, default=None
        Rows that are read at a time; None: as many as make up 256 KiB.

    Raises
    ------
    ValueError
        Where the array has neither one dimension nor two, or has fields, ``names`` are not one for each column or not
        different, or ``block_rows`` is no whole number.

    Examples
    --------
    >>> import numpy as np
    >>> from skode.io import ArrayTable
    >>> ArrayTable(np.zeros((1000, 3)), block_rows=300)
    ArrayTable of shape (1000, 3) and dtype float64 in 4 blocks
    """

    def __init__(self, array: Any, names: Sequence[str] | None = None, *, block_rows: int | None = None) -> None:
        if not hasattr(array, "shape") or not hasattr(array, "dtype") or issparse(array):
            raise ValueError(
                f"array must have shape and dtype, and give rows as array[start:stop]; got a {type(array).__name__}. "
                "Pass what is in memory to the estimator as it is, or its numbers, such as np.asarray(array)."
            )
        shape = tuple(int(n) for n in array.shape)
        if len(shape) not in (1, 2):
            raise ValueError(f"array must have rows and columns, or be one column; it has the shape {shape}.")
        if names is not None and len(names) != (shape[1] if len(shape) == 2 else 1):
            raise ValueError(f"names must be one for each column of an array of shape {shape}; got {list(names)}.")
        if names is not None and len(set(names)) < len(names):
            raise ValueError(f"names must differ; got {list(names)}.")
        if block_rows is not None and (not isinstance(block_rows, Integral) or block_rows < 1):
            raise ValueError(f"block_rows must be a whole number of rows, 1 at least; got {block_rows!r}.")
        dtype = _numpy_dtype(array)
        if block_rows is None:
            block_rows = max(BLOCK_BYTES // max(int(np.prod(shape[1:])) * dtype.itemsize, 1), 1)
        super().__init__(shape, dtype, even_ends(shape[0], block_rows), names)
        self.array = array

    def read(self, start: int, stop: int) -> np.ndarray:
        """Rows as a copy in memory; of a memory map pages that were read are given back to the system."""
        rows = np.asarray(self.array[start:stop])
        copy = np.array(rows)
        if isinstance(self.array, np.memmap):
            _give_back(self.array, rows)
        return copy


def _numpy_dtype(array: Any) -> np.dtype:
    try:
        dtype = np.dtype(array.dtype)
    except TypeError as error:
        raise ValueError(
            f"array must have a dtype of NumPy's; that of a {type(array).__name__} is {array.dtype}. Pass "
            "np.asarray(array)."
        ) from error
    if dtype.names is not None:
        raise ValueError(
            f"array has fields, {list(dtype.names)}, rather than columns: pass one of them, as "
            f"array[{dtype.names[0]!r}], or numpy.lib.recfunctions.structured_to_unstructured(array) as it is."
        )
    return dtype


def _give_back(array: np.memmap, rows: np.ndarray) -> None:
    """Take the pages of some rows out of this process's memory; the file, and changes to it, stay as they are."""
    pages = getattr(array, "_mmap", None)
    can = hasattr(mmap, "MADV_DONTNEED") and rows.size and min(rows.strides) >= 0
    # Changes to a copy on write are in these pages only.
    if pages is None or not can or array.mode not in ("r", "r+", "w+"):
        return
    first = rows.ctypes.data - np.frombuffer(pages, dtype=np.uint8).ctypes.data
    last = first + int(np.dot(np.array(rows.shape) - 1, rows.strides)) + rows.itemsize
    first -= first % AROUND  # with pages that the system has read around them
    pages.madvise(mmap.MADV_DONTNEED, first, last - first)


def is_large_memmap(data: Any) -> bool:
    """Whether data are a memory map of the user's that is to be read in blocks.

    A map whose memory was taken over by joblib, which hands arrays to its workers in this way, is an array: fits in a
    search's workers are then those of one process.
    """
    if not isinstance(data, np.memmap) or getattr(data, "_mmap", None) is None or data.nbytes <= SMALL_BYTES:
        return False
    folders = os.fspath(getattr(data, "filename", None) or "").split(os.sep)
    return data.ndim == 2 and not any(folder.startswith("joblib_memmapping_folder_") for folder in folders)

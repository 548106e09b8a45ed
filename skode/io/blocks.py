"""The protocol of tables that are read a block of rows at a time."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd


class BlockTable(ABC):
    """A table, or a column of one, whose rows are read in blocks and never all at once.

    Estimators take one wherever they take an array with as many rows. A new kind of table says in its constructor how
    many rows and columns there are and where its blocks end, and defines :meth:`read`.

    Parameters
    ----------
    shape : tuple of int
        (n_rows, n_columns); of a column (n_rows,).
    dtype : dtype
        The dtype of what is read: for a table with columns of several dtypes one that holds them all, float64 where
        that is no floating-point dtype, and object where some columns hold no numbers.
    ends : array-like of int of shape (n_blocks,)
        For each block the number of rows up to its end, rising to n_rows. Reading a part of a block may cost as much as
        reading all of it.
    names : sequence of str, default=None
        Names of the columns, if they have any.

    Attributes
    ----------
    shape, dtype, ends, names
        As given; ``ends`` is an ndarray of int64, ``names`` a tuple or None.

    Examples
    --------
    A table of several arrays, each of which is a block:

    >>> import numpy as np
    >>> from skode.io import BlockTable
    >>> class Stacked(BlockTable):
    ...     def __init__(self, arrays):
    ...         self.arrays, ends = arrays, np.cumsum([len(array) for array in arrays])
    ...         super().__init__((int(ends[-1]), arrays[0].shape[1]), arrays[0].dtype, ends)
    ...
    ...     def read(self, start, stop):
    ...         first, last = np.searchsorted(self.ends, [start, stop - 1], side="right")
    ...         return np.concatenate(self.arrays[first : last + 1])[start - self.starts[first] :][: stop - start]
    >>> table = Stacked([np.zeros((3, 2)), np.ones((4, 2))])
    >>> table.read(2, 4)
    array([[0., 0.],
           [1., 1.]])
    >>> table.take(np.array([0, 6]))
    array([[0., 0.],
           [1., 1.]])
    """

    def __init__(self, shape: tuple[int, ...], dtype: Any, ends: Any, names: Sequence[str] | None = None) -> None:
        self.shape, self.dtype = shape, np.dtype(dtype)
        self.ends: np.ndarray = np.asarray(ends, dtype=np.int64)
        self.names = None if names is None else tuple(names)

    @abstractmethod
    def read(self, start: int, stop: int) -> np.ndarray:
        """Rows ``start`` to ``stop`` as an array in memory, of shape (stop - start, n_columns) or (stop - start,)."""

    @property
    def ndim(self) -> int:
        """2, or 1 for a column."""
        return len(self.shape)

    @property
    def starts(self) -> np.ndarray:
        """The first rows of the blocks."""
        return np.concatenate([np.zeros(1, np.int64), self.ends])[: len(self.ends)]

    def __len__(self) -> int:
        return self.shape[0]

    def bounds(self) -> Iterator[tuple[int, int]]:
        """First and last row, exclusive, of each block, in order."""
        return zip(self.starts.tolist(), self.ends.tolist(), strict=True)

    def take(self, rows: Any) -> np.ndarray:
        """Some rows, given by their positions, in the order of these; each block is read once.

        Parameters
        ----------
        rows : array-like of int of shape (n,)
            Positions from 0 on, in any order.

        Returns
        -------
        values : ndarray of shape (n, n_columns) or (n,)
            The rows.

        Raises
        ------
        IndexError
            Where they are not whole numbers, such as a mask, or there are no such rows.
        """
        rows = np.asarray(rows)
        if not len(rows):
            return np.empty((0, *self.shape[1:]), self.dtype)
        if rows.ndim != 1 or rows.dtype.kind not in "iu":
            raise IndexError(
                "rows must be positions, which are whole numbers in one dimension; those of a mask are "
                f"np.flatnonzero(mask). Got {rows.dtype} of shape {rows.shape}."
            )
        if rows.min() < 0 or rows.max() >= len(self):
            raise IndexError(f"rows must be from 0 to {len(self) - 1}; got {rows.min()} to {rows.max()}.")
        blocks = np.searchsorted(self.ends, rows, side="right")
        order = np.argsort(blocks, kind="stable")
        parts = []
        for block in np.unique(blocks).tolist():
            start, end = int(self.starts[block]), int(self.ends[block])
            parts.append(self.read(start, end)[rows[blocks == block] - start])
        return np.concatenate(parts)[np.argsort(order)]

    def frame(self, start: int, stop: int) -> Any:
        """Rows as a DataFrame, where columns have names, or as an array."""
        values = self.read(start, stop) if stop > start else np.empty((0, *self.shape[1:]), self.dtype)
        return values if self.names is None else pd.DataFrame(values, columns=list(self.names))

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        """All of it in memory: for columns, and tables that are small after all."""
        if copy is False:
            raise ValueError("A table that is read in blocks becomes an array by a copy only.")
        if not len(self):
            return np.empty(self.shape, self.dtype if dtype is None else dtype)
        return np.asarray(np.concatenate([self.read(*bounds) for bounds in self.bounds()]), dtype=dtype)

    def __repr__(self) -> str:
        return f"{type(self).__name__} of shape {self.shape} and dtype {self.dtype} in {len(self.ends)} blocks"


def even_ends(n_rows: int, rows_in_block: int) -> np.ndarray:
    """Ends of blocks of equal size, but for the last."""
    return np.minimum(np.arange(rows_in_block, n_rows + rows_in_block, rows_in_block), n_rows)


def common_dtype(types: Sequence[np.dtype]) -> np.dtype:
    """A dtype for a table: as NumPy has it, but a floating-point one, for what is missing."""
    if any(dtype.kind == "O" for dtype in types):
        return np.dtype(object)
    common = np.result_type(*types) if types else np.dtype(np.float64)
    return common if common in (np.float32, np.float64) else np.dtype(np.float64)

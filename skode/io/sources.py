"""Which data that users pass are read in blocks."""

from __future__ import annotations

from typing import Any

import numpy as np

from skode.io.arrays import ArrayTable, is_large_memmap
from skode.io.blocks import BlockTable
from skode.io.parquet import ParquetTable, is_dataset


def as_block_table(data: Any) -> BlockTable | None:
    """Data as a table that is read in blocks; None for those that are taken into memory, such as arrays and frames."""
    if isinstance(data, BlockTable):
        return data
    if is_large_memmap(data):
        return ArrayTable(data)
    return ParquetTable(data) if is_dataset(data) else None


def as_features(X: Any) -> BlockTable | None:
    """Features as a table that is read in blocks; None for those that are taken into memory.

    Raises
    ------
    ValueError
        Where they are a column.
    """
    table = as_block_table(X)
    if table is not None and table.ndim != 2:
        raise ValueError(
            f"X is a column of shape {table.shape}, but features are a table: choose columns by a list of names, as in "
            'table[["size"]], or pass array[:, None].'
        )
    return table


def in_memory(data: Any) -> Any:
    """Tables and columns that are read in blocks as a frame or an array; all else, and memory maps, as it is."""
    table = ParquetTable(data) if is_dataset(data) else data
    if not isinstance(table, BlockTable):
        return data
    return np.asarray(table) if table.ndim == 1 else table.frame(0, len(table))

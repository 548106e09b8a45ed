"""Parquet: a file, a folder of files, or a data set of pyarrow's, whose blocks are the groups of rows in the files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from typing import Any, Self

import numpy as np
import pandas as pd

from skode.io.blocks import BlockTable, common_dtype


class ParquetTable(BlockTable):
    """A table in Parquet, read a group of rows at a time by pyarrow.

    Columns are chosen as in pandas: ``table["price"]`` is a column, for ``y``; ``table[["size", "age"]]`` is a table of
    some and ``table.drop("price")`` of the others, for ``X``. Nothing but the files' metadata is read before a fit.

    Memory grows with the groups of rows, which pyarrow makes of up to a million rows: write files with
    ``row_group_size=100_000`` or fewer (``frame.to_parquet(path, row_group_size=100_000)``).

    Parameters
    ----------
    source : str, path-like or pyarrow.dataset.Dataset
        A file; a folder, of which all files make up the table, in the order of their names; or a data set of pyarrow's.
    columns : list of str or str, default=None
        The columns; one by its name is a column rather than a table. None: all, without an index of pandas'.

    Raises
    ------
    ValueError
        Where there is no such column, or one is chosen twice; where there are no files; and in reading, where a file
        has columns of other types.
    ImportError
        Where pyarrow is not installed.

    Examples
    --------
    >>> import tempfile
    >>> import pandas as pd
    >>> from skode.io import ParquetTable
    >>> path = tempfile.mkdtemp() + "/homes.parquet"
    >>> pd.DataFrame({"size": [60.0, 90.0], "age": [3, 20], "price": [1.0, 2.0]}).to_parquet(path)
    >>> table = ParquetTable(path)
    >>> table.drop("price")
    ParquetTable of shape (2, 2) and dtype float64 in 1 blocks
    >>> table["price"]
    ParquetTable of shape (2,) and dtype float64 in 1 blocks
    """

    def __init__(self, source: Any, columns: Sequence[str] | str | None = None) -> None:
        self.dataset = _opened(source)
        known = self.dataset.schema.names
        if columns is None:
            index = _index_of_pandas(self.dataset.schema)
            chosen = [name for name in known if name not in index]
        else:
            chosen = [columns] if isinstance(columns, str) else list(columns)
        if absent := [name for name in chosen if name not in known]:
            raise ValueError(f"There are no columns {absent} in the table; it has {known}.")
        if len(set(chosen)) < len(chosen):
            raise ValueError(f"columns must be chosen once each; got {chosen}.")
        self.is_column = isinstance(columns, str)
        #: The files' groups of rows, with the number of rows of each.
        self._groups = [(group, n) for group, n in _groups_of_rows(self.dataset) if n]
        ends = np.cumsum([n for _, n in self._groups], dtype=np.int64)
        types = [_numpy_dtype(self.dataset.schema.field(name).type) for name in chosen]
        n_rows = int(ends[-1]) if len(ends) else 0
        if self.is_column:
            super().__init__((n_rows,), types[0], ends, chosen)
        else:
            super().__init__((n_rows, len(chosen)), common_dtype(types), ends, chosen)
        self._last: tuple[int, Any] | None = None

    def __getitem__(self, columns: str | list[str]) -> Self:
        """A column by its name, or a table of some by a list of names."""
        names = columns if isinstance(columns, str | list | tuple | np.ndarray | pd.Index) else [columns]
        if not all(isinstance(name, str) for name in names):
            raise TypeError(
                "A ParquetTable's columns are chosen by name, as table['size'] or table[['size', 'age']], and it has "
                "no rows by index: table.take(positions) gives some. scikit-learn's searches and splitters take arrays."
            )
        return type(self)(self.dataset, columns)

    def drop(self, columns: str | Sequence[str]) -> Self:
        """The table without a column, or without some."""
        assert self.names is not None
        without = [columns] if isinstance(columns, str) else list(columns)
        if absent := [name for name in without if name not in self.names]:
            raise ValueError(f"There are no columns {absent} in the table; it has {list(self.names)}.")
        return type(self)(self.dataset, [name for name in self.names if name not in without])

    @cached_property
    def not_numbers(self) -> dict[str, str]:
        """The columns that hold no numbers, with their types."""
        fields = [self.dataset.schema.field(name) for name in self.names or ()]
        return {field.name: str(field.type) for field in fields if _numpy_dtype(field.type).kind == "O"}

    def read(self, start: int, stop: int) -> np.ndarray:
        """Rows in memory; the last group of rows is kept, so that one that is read in parts is read once."""
        parts = [self._values(part) for part in self._parts(start, stop)]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def frame(self, start: int, stop: int) -> Any:
        """Rows as a DataFrame, in which categories are such."""
        if self.is_column or not self.not_numbers or stop <= start:
            return super().frame(start, stop)
        import pyarrow as pa

        return pa.concat_tables(self._parts(start, stop)).to_pandas(date_as_object=False, ignore_metadata=True)

    def _parts(self, start: int, stop: int) -> list[Any]:
        """Rows as tables of arrow's, one of each group."""
        first, last = np.searchsorted(self.ends, [start, stop - 1], side="right")
        parts = []
        for group in range(int(first), int(last) + 1):
            offset = max(start - int(self.starts[group]), 0)
            parts.append(self._group(group).slice(offset, min(stop, int(self.ends[group])) - start))
            start += len(parts[-1])
        return parts

    def _group(self, number: int) -> Any:
        last = self._last
        if last is None or last[0] != number:
            last = self._last = None  # before there is another
            columns, schema = list(self.names or ()), self.dataset.schema
            group = self._groups[number][0]
            try:
                table = group.to_table(columns=columns, schema=schema, use_threads=False)
            except (ValueError, TypeError, NotImplementedError) as error:  # as those of arrow are
                if differing := _differing(group.physical_schema, schema, columns):
                    raise ValueError(
                        f"{getattr(group, 'path', 'A file')} has columns of other types than the table, which has "
                        f"those of the first file: {differing}. Write the files with one schema, or give that: "
                        "ParquetTable(pyarrow.dataset.dataset(path, schema=schema))."
                    ) from error
                raise
            last = number, table
            self._last = last  # of which other threads may read meanwhile
        return last[1]

    def _values(self, table: Any) -> np.ndarray:
        if self.is_column:
            return _values(table.column(0))
        values = np.empty(table.shape, self.dtype)
        for j, column in enumerate(table.columns):
            values[:, j] = _values(column)
        return values

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_last": None}


def is_dataset(data: Any) -> bool:
    """Whether data are a data set of pyarrow's; without importing it."""
    return type(data).__module__.startswith("pyarrow._dataset") and hasattr(data, "get_fragments")


def _opened(source: Any) -> Any:
    if is_dataset(source):
        return source
    try:
        from pyarrow import dataset
    except ImportError as error:
        raise ImportError('Parquet needs pyarrow: pip install "skode[parquet]".') from error
    opened = dataset.dataset(source, format="parquet", partitioning="hive")
    if not opened.schema.names:
        raise ValueError(f"There are no files of Parquet with columns in {source}.")
    return opened


def _differing(own: Any, schema: Any, columns: Sequence[str]) -> str:
    """The columns that a file has in other types than the table has; "" where there are none."""
    both = [name for name in columns if name in own.names and own.field(name).type != schema.field(name).type]
    return ", ".join(f"{name!r} of {own.field(name).type} and not {schema.field(name).type}" for name in both)


def _groups_of_rows(dataset: Any) -> list[tuple[Any, int]]:
    """The parts of a data set that can be read by themselves; of formats other than Parquet these are the files."""
    groups = []
    for fragment in dataset.get_fragments():
        if hasattr(fragment, "split_by_row_group"):
            parts = fragment.split_by_row_group()
            groups += [(part, part.row_groups[0].num_rows) for part in parts]
        else:
            groups.append((fragment, fragment.count_rows()))
    return groups


def _index_of_pandas(schema: Any) -> set[str]:
    """The columns in which pandas has kept an index."""
    metadata = (schema.metadata or {}).get(b"pandas")
    found = [] if metadata is None else json.loads(metadata).get("index_columns", [])
    return {name for name in found if isinstance(name, str)}


def _numpy_dtype(kind: Any) -> np.dtype:
    """The dtype of values of a type of arrow's; object for what is no number."""
    from pyarrow import types

    if types.is_boolean(kind) or types.is_integer(kind) or types.is_floating(kind):
        return np.dtype(kind.to_pandas_dtype())
    return np.dtype(np.float64 if types.is_decimal(kind) else object)


def _values(column: Any) -> np.ndarray:
    """A column in NumPy: missing numbers as NaN, other missing values as None."""
    from pyarrow import types

    if types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if types.is_decimal(column.type):
        column = column.cast("float64")
    return np.asarray(column.to_numpy())

"""Collections of dask, and these as tables that are read a partition at a time."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pandas as pd

from skode.io.blocks import BlockTable, common_dtype


def is_dask(data: Any) -> bool:
    """Whether data are an array, a frame or a column of dask, which is not imported to tell."""
    if not hasattr(type(data), "__dask_graph__"):
        return False
    array, frame = sys.modules.get("dask.array"), sys.modules.get("dask.dataframe")
    return (array is not None and isinstance(data, array.Array)) or (
        frame is not None and isinstance(data, frame.DataFrame | frame.Series)
    )


def is_frame(data: Any) -> bool:
    """Whether a dask collection is a frame or a column of one, rather than an array."""
    return hasattr(data, "divisions")


def to_parts(data: Any) -> list[Any]:
    """The partitions of a dask array or frame, all columns in each, as delayed arrays or frames."""
    if is_frame(data):
        return list(data.to_delayed())
    if data.ndim > 1:
        data = data.rechunk(dict.fromkeys(range(1, data.ndim), -1))
    return list(data.to_delayed().ravel())


class PartitionTable(BlockTable):
    """A dask array or frame, or a column, of which one partition is in memory at a time.

    The lengths of partitions are computed where they are not known. A partition is computed each time that it is read:
    by the cluster, where there is a client, from which it comes into this process.

    Parameters
    ----------
    data : dask array or frame
        The rows.

    Raises
    ------
    ValueError
        Where an array has neither one dimension nor two.
    """

    def __init__(self, data: Any) -> None:
        if data.ndim not in (1, 2):
            raise ValueError(
                f"A dask array must have rows and columns, or be one column; it has {data.ndim} dimensions."
            )
        parts, lengths = to_parts(data), _lengths(data)
        self._parts = [part for part, length in zip(parts, lengths, strict=True) if length]
        self._is_frame = is_frame(data)
        dtype, names = data.dtype if not self._is_frame else None, None
        if self._is_frame:
            meta = data._meta.to_frame() if data.ndim == 1 else data._meta
            types = [_numpy_dtype(kind) for kind in meta.dtypes]
            dtype = types[0] if data.ndim == 1 else common_dtype(types)
            names = None if data.ndim == 1 else list(data.columns)
        super().__init__((sum(lengths), *data.shape[1:]), dtype, np.cumsum([n for n in lengths if n]), names)
        #: The last partition that was read, which may be read in parts.
        self._last: tuple[int, Any] | None = None

    def read(self, start: int, stop: int) -> np.ndarray:
        """Rows in memory."""
        values = [self._values(part) for part in self._read(start, stop)]
        if len(values) == 1:
            return values[0]
        return np.concatenate(values) if values else np.empty((0, *self.shape[1:]), self.dtype)

    def frame(self, start: int, stop: int) -> Any:
        """Rows as a DataFrame, in which categories are such; of an array as an array."""
        if not self._is_frame or self.ndim == 1 or stop <= start:
            return super().frame(start, stop)
        return pd.concat(self._read(start, stop), ignore_index=True)

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_last": None}

    def _read(self, start: int, stop: int) -> list[Any]:
        """The rows in each of the partitions that have some."""
        found = []
        for number, (first, end) in enumerate(self.bounds()):
            if first < stop and end > start:
                part = self._partition(number)
                found.append(part[max(start - first, 0) : stop - first])
        return found

    def _partition(self, number: int) -> Any:
        if self._last is None or self._last[0] != number:
            self._last = None  # before there is another
            self._last = number, self._parts[number].compute()
        return self._last[1]

    def _values(self, part: Any) -> np.ndarray:
        if not self._is_frame:
            return np.array(part, dtype=self.dtype)
        if self.ndim == 1 and isinstance(part.dtype, pd.CategoricalDtype):
            return np.asarray(part)  # of the categories' dtype
        if self.dtype == object:
            return part.to_numpy(dtype=object)
        return part.to_numpy(dtype=self.dtype, na_value=np.nan if self.dtype.kind == "f" else 0)


def _lengths(data: Any) -> list[int]:
    """Number of rows of each partition."""
    if not is_frame(data) and not np.isnan(data.chunks[0]).any():
        return [int(n) for n in data.chunks[0]]
    import dask

    rows = data.index if is_frame(data) else data
    return list(dask.compute(*[dask.delayed(len)(part) for part in to_parts(rows)]))


def _numpy_dtype(dtype: Any) -> np.dtype:
    """The dtype of a column's values: of numbers that may be missing float64, object for what is no number."""
    if isinstance(dtype, np.dtype) and dtype.kind in "biuf":
        return dtype
    of = pd.api.types
    return np.dtype(np.float64 if of.is_numeric_dtype(dtype) or of.is_bool_dtype(dtype) else object)

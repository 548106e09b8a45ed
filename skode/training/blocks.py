"""Training on tables that are read in blocks: the order of rows, and their tensors, a pool of blocks at a time."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import numpy as np
import torch
from sklearn.utils.random import sample_without_replacement
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from skode.io.blocks import BlockTable
from skode.io.sources import as_features
from skode.training.checks import in_rows

Method = TypeVar("Method", bound=Callable[..., Any])

#: Bytes of the blocks whose rows are shuffled together, and the least number of these blocks.
POOL_BYTES, LEAST_BLOCKS = 2**25, 2

#: Rows of a table that stand for all where a method needs some in memory: so many at most, and no more than make up so
#: many bytes, unless these are very few.
MOST_DRAWN, DRAWN_BYTES, LEAST_DRAWN = 100_000, 2**25, 1000

#: Rows of these that are held out at most.
MOST_HELD_OUT = 20_000

#: Rows by which names and types of columns are checked.
FIRST_ROWS = 100

#: Bytes that are read at a time for answers, about.
ANSWER_BYTES = 2**23


class BlockSamples:
    """Samples of a table that is read in blocks, as tensors when they are indexed.

    An epoch takes blocks in random order, as many as :data:`POOL_BYTES` hold, at least :data:`LEAST_BLOCKS`, shuffles
    the rows of these together, and goes on to the next. No more than one such pool is in memory.

    Parameters
    ----------
    table : BlockTable
        The table.
    load : callable
        ``load(start, stop)`` returns tensors of the rows from ``start`` to ``stop``, on the CPU.
    device : torch.device
        Where tensors are wanted.
    left_out : ndarray of int
        Positions of rows that are not trained on, rising.
    """

    def __init__(
        self,
        table: BlockTable,
        load: Callable[[int, int], tuple[Tensor, ...]],
        device: torch.device,
        left_out: np.ndarray,
    ) -> None:
        self.load, self.device, self.left_out = load, device, left_out
        self.starts, self.ends = table.starts, table.ends
        self.n_samples = len(table) - len(left_out)
        self.pool_rows = max(POOL_BYTES // max(_row_bytes(table), 1), 1)
        #: The blocks that come next, and those that are there: first rows in the pool by block, -1 of others; tensors.
        self._next: list[int] = []
        self._places = np.full(len(self.ends), -1)
        self._tensors: tuple[Tensor, ...] = ()
        #: The last rows indexed, as they were given and as an array, and their tensors.
        self._last: tuple[Any, np.ndarray, tuple[Tensor, ...]] = None, np.empty(0, dtype=np.int64), ()

    def __len__(self) -> int:
        return self.n_samples

    def batches(
        self, size: int, rng: np.random.RandomState | None, device: torch.device | None = None
    ) -> Iterator[Any]:
        """Positions of the samples of each batch: of one pool after the other, shuffled within them."""
        left = np.empty(0, dtype=np.int64)
        n_blocks = len(self.ends)
        for pool in self._pools(np.arange(n_blocks) if rng is None else rng.permutation(n_blocks)):
            rows = np.concatenate([self._rows(block) for block in pool])
            rows = np.concatenate([left, rows if rng is None else rng.permutation(rows)])
            self._next = pool
            whole = len(rows) - len(rows) % size
            for first in range(0, whole, size):
                yield rows[first : first + size]
            left = rows[whole:]
        if len(left):
            yield left

    def _pools(self, blocks: np.ndarray) -> Iterator[list[int]]:
        pool: list[int] = []
        n_rows = 0
        for block in blocks.tolist():
            n = int(self.ends[block] - self.starts[block])
            if len(pool) >= LEAST_BLOCKS and n_rows + n > self.pool_rows:
                yield pool
                pool, n_rows = [], 0
            pool.append(block)
            n_rows += n
        if pool:
            yield pool

    def _rows(self, block: int) -> np.ndarray:
        """Positions of the samples of a block."""
        start, end = self.starts[block], self.ends[block]
        first, last = np.searchsorted(self.left_out, [start, end])
        return np.delete(np.arange(start, end), self.left_out[first:last] - start)

    def parts(self, n: int) -> list[SamplesPart]:
        """Each of the n tensors by itself."""
        return [SamplesPart(self, k) for k in range(n)]

    def at(self, rows: Any) -> tuple[Tensor, ...]:
        """The tensors of some samples, by their positions."""
        given, last, tensors = self._last
        if given is rows:  # each of the tensors is indexed by itself
            return tensors
        positions = rows.cpu().numpy() if isinstance(rows, Tensor) else np.asarray(rows)
        if (places := self._places_in(last, positions)) is not None:  # as where a process takes a share of a batch
            return tuple(tensor[places] for tensor in tensors)
        self._last = rows, positions, tuple(tensor.to(self.device) for tensor in self._gathered(positions))
        return self._last[2]

    def _places_in(self, last: np.ndarray, positions: np.ndarray) -> Tensor | None:
        """Places of rows in the last batch; None where some are of another."""
        if not len(positions) or positions[0] not in last:
            return None
        order = np.argsort(last)
        places = order[np.minimum(np.searchsorted(last, positions, sorter=order), len(last) - 1)]
        return torch.from_numpy(places).to(self.device) if (last[places] == positions).all() else None

    def _gathered(self, rows: np.ndarray) -> tuple[Tensor, ...]:
        blocks = np.searchsorted(self.ends, rows, side="right")
        found, absent = self._in_pool(rows, blocks)
        pieces, order = [found], [np.flatnonzero(~absent)]
        if absent.any():
            rest = np.flatnonzero(absent)
            if not all(self._places[block] >= 0 for block in self._next):
                self._read_pool()
            found, absent = self._in_pool(rows[rest], blocks[rest])
            pieces.append(found)
            order.append(rest[~absent])
            # Left over from a pool that this process has not read: the fit goes on from a checkpoint.
            for block in np.unique(blocks[rest[absent]]).tolist():
                own = rest[absent & (blocks[rest] == block)]
                start = int(self.starts[block])
                tensors = self.load(start, int(self.ends[block]))
                pieces.append(tuple(tensor[torch.from_numpy(rows[own] - start)] for tensor in tensors))
                order.append(own)
        pieces = [piece for piece in pieces if piece and len(piece[0])]
        if len(pieces) == 1:
            return pieces[0]
        back = torch.from_numpy(np.argsort(np.concatenate(order), kind="stable"))
        return tuple(torch.cat(tensors)[back] for tensors in zip(*pieces, strict=True))

    def _in_pool(self, rows: np.ndarray, blocks: np.ndarray) -> tuple[tuple[Tensor, ...], np.ndarray]:
        """The tensors of the rows that the pool has, and which of them it has not."""
        absent = self._places[blocks] < 0
        here = ~absent
        places = torch.from_numpy(self._places[blocks[here]] + rows[here] - self.starts[blocks[here]])
        return tuple(tensor[places] for tensor in self._tensors), absent

    def _read_pool(self) -> None:
        """Have the pool that comes next in memory, in place of the one that is there."""
        self._places[:], self._tensors = -1, ()
        total, first = sum(int(self.ends[block] - self.starts[block]) for block in self._next), 0
        for block in self._next:
            tensors = self.load(int(self.starts[block]), int(self.ends[block]))
            if not self._tensors:
                self._tensors = tuple(tensor.new_empty((total, *tensor.shape[1:])) for tensor in tensors)
            for pool, tensor in zip(self._tensors, tensors, strict=True):
                pool[first : first + len(tensor)] = tensor
            self._places[block] = first
            first += len(tensors[0])


class SamplesPart:
    """One of the tensors of samples in blocks, such as their features, indexed as a tensor is.

    Parameters
    ----------
    samples : BlockSamples
        The samples.
    number : int
        Which of their tensors.
    """

    def __init__(self, samples: BlockSamples, number: int) -> None:
        self.samples, self.number, self.device = samples, number, samples.device

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, rows: Any) -> Tensor:
        return self.samples.at(rows)[self.number]


def drawn_rows(table: BlockTable, rng: np.random.RandomState) -> np.ndarray:
    """Positions of the rows of a table that are taken into memory, rising: all of few, :data:`MOST_DRAWN` of many."""
    most = min(MOST_DRAWN, max(DRAWN_BYTES // max(_row_bytes(table), 1), LEAST_DRAWN))
    if len(table) <= most:
        return np.arange(len(table))
    return np.sort(sample_without_replacement(len(table), most, random_state=rng)).astype(np.int64)


def _row_bytes(table: BlockTable) -> int:
    return table.dtype.itemsize * int(np.prod(table.shape[1:]))


def by_blocks(method: Method) -> Method:
    """Let an answer of an estimator about samples take a table that is read in blocks; it is an array in memory.

    The estimator's ``_rows_at_once`` is the number of samples that it computes together. Blocks are multiples of it, so
    that answers are those for an array.
    """

    @functools.wraps(method)
    def answering(self: Any, X: Any, *args: Any, **kwargs: Any) -> Any:
        table = as_features(X)
        if table is None:
            return method(self, X, *args, **kwargs)
        check_is_fitted(self)
        together = self._rows_at_once()
        size = max(ANSWER_BYTES // max(_row_bytes(table) * together, 1), 1) * together
        starts = range(0, max(len(table), 1), size)
        answers = []
        for start in starts:
            stop = min(start + size, len(table))
            with in_rows(start, stop):
                answers.append(method(self, table.frame(start, stop), *args, **kwargs))
        if isinstance(answers[0], tuple):
            return tuple(np.concatenate(part) for part in zip(*answers, strict=True))
        return np.concatenate(answers)

    return answering  # type: ignore[return-value]

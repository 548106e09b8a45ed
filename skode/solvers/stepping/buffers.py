"""The memory of a step: its stages, and their cotangents, with the views into it that its products need."""

from __future__ import annotations

import math
from typing import Self

import torch
from torch import Tensor

from skode.solvers.buffer_pool import TENSOR_VIEW, BufferPool


class _Buffers:
    """Rows of flattened states, with the views that steps need of them.

    Parameters
    ----------
    key : tuple
        The kind, the number of rows, and the states' shape, dtype and device.
    """

    pool = BufferPool()

    def __init__(self, key: tuple) -> None:
        self.key = key
        _, n_rows, self.shape, dtype, device = key
        self.all = torch.empty((n_rows, math.prod(self.shape)), dtype=dtype, device=device)
        self.values = [row.view(self.shape) for row in self.all.unbind()]

    @classmethod
    def like(cls, n_rows: int, like: Tensor) -> Self:
        key = (cls, n_rows, like.shape, like.dtype, like.device)
        return cls.pool.acquire(key, lambda: cls(key))

    def release(self) -> None:
        self.pool.release(self.key, self)

    def nbytes(self) -> int:
        return self.all.nbytes + 2 * len(self.all) * TENSOR_VIEW


class StageBuffers(_Buffers):
    """The stages of a step, and below them its error; column j < i of ``earlier[i]`` is stage j."""

    def __init__(self, key: tuple) -> None:
        super().__init__(key)
        self.stages = self.all[:-1]
        self.error = self.all[-1], self.values.pop()
        self.earlier = [self.stages[:i].t() for i in range(len(self.stages) + 1)]


class ReverseBuffers(_Buffers):
    """Cotangents of a step of s stages: row i < s of ``pulled`` is ``ybar_i``, row s is ``lam``."""

    def __init__(self, key: tuple) -> None:
        super().__init__(key)
        self.pulled, self.rows = self.all, self.values
        self.later = [self.pulled[i + 1 :].t() for i in range(len(self.pulled) - 1)]

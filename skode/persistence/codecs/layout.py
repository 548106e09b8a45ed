"""How arrays and tensors lie in memory.

Products and sums round differently over transposed memory, so that predictions are the same to the bit only where an
array lies as it did.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from skode.persistence.errors import DamagedFileError


def order_of(shape: Sequence[int], strides: Sequence[int]) -> list[int] | None:
    """The dimensions from the slowest to the fastest, if so they lie without gaps; None: in their own order."""
    order = sorted(range(len(shape)), key=lambda i: (-strides[i], i))
    if order == sorted(order):
        return None
    expected = 1
    for i in reversed(order):
        if shape[i] != 1 and strides[i] != expected:
            return None
        expected *= shape[i]
    return order


def original(order: Any, n_dimensions: int) -> list[int]:
    """The places of dimensions in an order, by which they are brought back."""
    if not isinstance(order, list) or sorted(order) != list(range(n_dimensions)):
        raise DamagedFileError("dimensions have no order")
    return sorted(range(n_dimensions), key=order.__getitem__)

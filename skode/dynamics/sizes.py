"""Checks of the sizes of a field's state and layers."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

import numpy as np


def check_size(name: str, value: Any) -> int:
    """A size as an int; ValueError, which names it, where it is not a whole number of 1 or more."""
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name} must be an integer > 0, got {value!r}.")
    return int(value)


def check_sizes(sizes: Any, name: str = "hidden_layer_sizes") -> tuple[int, ...]:
    """Widths of hidden layers as a tuple of ints; ValueError where they are no sequence of positive integers."""
    if isinstance(sizes, Iterable) and not isinstance(sizes, str):
        widths = tuple(sizes)
        if all(isinstance(n, int | np.integer) and not isinstance(n, bool) and n > 0 for n in widths):
            return tuple(int(n) for n in widths)
    raise ValueError(f"{name} must be a sequence of integers > 0, such as (64,) or (64, 64); got {sizes!r}.")


#: Bytes that training holds for each weight in single precision: the weight, its gradient, Adam's two moments, and the
#: four copies that it may be restored from.
BYTES_OF_WEIGHT = 32


def check_memory(*shape: int) -> None:
    """Raise an error for weights that cannot be trained in this machine's memory, before it is filled with them.

    Operating systems promise more memory than the machine has, and end the process that comes to use it.

    Raises
    ------
    MemoryError
        With the size of the weights.
    """
    needed = BYTES_OF_WEIGHT
    for n in shape:
        needed *= n
    if needed > (size := physical_memory()):
        raise MemoryError(
            f"weights of shape {shape} take {needed / 2**30:,.0f} GiB in training, and there are {size / 2**30:,.0f}"
        )


def physical_memory() -> float:
    """Bytes of this machine's memory; infinite where the system does not say."""
    try:
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (AttributeError, ValueError, OSError):  # on Windows, and where the names are not known
        return float("inf")

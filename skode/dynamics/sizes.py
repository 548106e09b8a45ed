"""Sizes of a field's state and layers, as a user gives them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np


def checked_size(name: str, value: Any) -> int:
    """A size as an int; ValueError, which names it, where it is not a whole number of 1 or more."""
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name} must be an integer > 0, got {value!r}.")
    return int(value)


def checked_sizes(hidden_layer_sizes: Any) -> tuple[int, ...]:
    """Widths of hidden layers as a tuple of ints; ValueError where they are anything else."""
    if isinstance(hidden_layer_sizes, Iterable) and not isinstance(hidden_layer_sizes, str):
        sizes = tuple(hidden_layer_sizes)
        if all(isinstance(n, int | np.integer) and not isinstance(n, bool) and n > 0 for n in sizes):
            return tuple(int(n) for n in sizes)
    raise ValueError(
        f"hidden_layer_sizes must be a sequence of integers > 0, such as (64,) or (64, 64); got {hidden_layer_sizes!r}."
    )

"""States that are tuples of tensors, as one flat tensor."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from skode.solvers.callbacks import carry_over
from skode.solvers.step_size import rms_norm


def pack(parts: Sequence[Tensor]) -> tuple[Tensor, list[torch.Size]]:
    """One flat tensor from several, and their shapes; they must share dtype and device."""
    if not parts or not all(isinstance(part, Tensor) for part in parts):
        raise TypeError(f"y0 must hold torch tensors, got {[type(part).__name__ for part in parts]}.")
    if len({(part.dtype, part.device) for part in parts}) > 1:
        raise TypeError(f"The tensors in y0 must share dtype and device, got {[part.dtype for part in parts]}.")
    return torch.cat([part.reshape(-1) for part in parts]), [part.shape for part in parts]


def unpacking(func: Callable[[Tensor, Any], Any], shapes: Sequence[torch.Size]) -> Callable[[Tensor, Tensor], Tensor]:
    """``func`` over tuples as a function over the flat state."""

    def flat_func(t: Tensor, y: Tensor) -> Tensor:
        rates = func(t, parts_of(y, shapes))
        expected = [tuple(shape) for shape in shapes]
        if not isinstance(rates, tuple | list) or not all(isinstance(rate, Tensor) for rate in rates):
            raise TypeError(f"func(t, y) must return a tuple of tensors, as y is, got {rates!r}.")
        returned = [tuple(rate.shape) for rate in rates]
        if returned != expected:
            raise ValueError(f"func(t, y) returned tensors of shapes {returned} for a state of shapes {expected}.")
        return torch.cat([rate.reshape(-1) for rate in rates])

    carry_over(func, flat_func, lambda y: parts_of(y, shapes))
    return flat_func


def unpack(y: Tensor, shapes: Sequence[torch.Size]) -> tuple[Tensor, ...]:
    """The tensors behind flat states of shape (n_times, size)."""
    pieces = y.split([shape.numel() for shape in shapes], dim=1)
    return tuple(piece.reshape(len(y), *shape) for piece, shape in zip(pieces, shapes, strict=True))


def parts_of(y: Tensor, shapes: Sequence[torch.Size]) -> tuple[Tensor, ...]:
    """The tensors behind one flat state."""
    pieces = y.split([shape.numel() for shape in shapes])
    return tuple(piece.view(shape) for piece, shape in zip(pieces, shapes, strict=True))


def event_of_parts(event_fn: Callable[[Tensor, Any], Tensor], shapes: Sequence[torch.Size]) -> Any:
    """An event function over tuples as one over the flat state."""
    return lambda t, y: event_fn(t, parts_of(y, shapes))


def norm_of_parts(norm: Any, shapes: Sequence[torch.Size]) -> Any:
    """A norm over tuples as one over the flat state; ``"mixed"`` is the largest of the parts' root mean squares."""
    if norm == "mixed":
        return lambda x: torch.stack([rms_norm(part) for part in parts_of(x, shapes)]).max()
    return (lambda x: norm(parts_of(x, shapes))) if callable(norm) else norm


def tolerance_of_parts(name: str, tolerance: Any, y0: Tensor, shapes: Sequence[torch.Size]) -> Any:
    """A tolerance of each part as one of each element of the flat state; one for all stays what it is."""
    if (isinstance(tolerance, Tensor | np.ndarray) and tolerance.ndim == 0) or not hasattr(tolerance, "__len__"):
        return tolerance
    if len(tolerance) != len(shapes):
        raise ValueError(f"{name} must be one number, or one for each of y0's {len(shapes)} parts; got {tolerance!r}.")
    each = [torch.as_tensor(part).to(y0) for part in tolerance]
    try:
        return torch.cat([part.expand(shape).reshape(-1) for part, shape in zip(each, shapes, strict=True)])
    except RuntimeError as error:
        raise ValueError(f"{name} must broadcast part by part to y0's shapes {list(map(tuple, shapes))}.") from error

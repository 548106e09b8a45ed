"""States that are tuples of tensors, as one flat tensor."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from skode.solvers.arguments.callbacks import carry_over
from skode.solvers.tolerances import rms_norm


@dataclass(frozen=True)
class Part:
    """One of the tensors of a tuple.

    Attributes
    ----------
    shape : torch.Size
        Its shape.
    dtype : torch.dtype
        Its dtype. The flat tensor is complex where any part is; imaginary parts of real ones are zero there.
    """

    shape: torch.Size
    dtype: torch.dtype

    def of(self, piece: Tensor, *batch: int) -> Tensor:
        """The part, from its piece of flat states, which may be several."""
        piece = piece.real if piece.is_complex() and not self.dtype.is_complex else piece
        return piece.reshape((*batch, *self.shape))


def pack(tensors: Sequence[Tensor]) -> tuple[Tensor, list[Part]]:
    """One flat tensor from several, and its parts; they must share device and dtype, up to real and complex."""
    if not tensors or not all(isinstance(tensor, Tensor) for tensor in tensors):
        raise TypeError(f"y0 must hold torch tensors, got {[type(tensor).__name__ for tensor in tensors]}.")
    if len({(tensor.dtype.to_real(), tensor.device) for tensor in tensors}) > 1:
        raise TypeError(f"The tensors in y0 must share dtype and device, got {[tensor.dtype for tensor in tensors]}.")
    flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
    return flat, [Part(tensor.shape, tensor.dtype) for tensor in tensors]


def unpacking(func: Callable[[Tensor, Any], Any], parts: Sequence[Part]) -> Callable[[Tensor, Tensor], Tensor]:
    """``func`` over tuples as a function over the flat state."""
    expected = [tuple(part.shape) for part in parts]

    def flat_func(t: Tensor, y: Tensor) -> Tensor:
        rates = func(t, parts_of(y, parts))
        if not isinstance(rates, tuple | list) or not all(isinstance(rate, Tensor) for rate in rates):
            raise TypeError(f"func(t, y) must return a tuple of tensors, as y is, got {rates!r}.")
        returned = [tuple(rate.shape) for rate in rates]
        if returned != expected:
            raise ValueError(f"func(t, y) returned tensors of shapes {returned} for a state of shapes {expected}.")
        if y.is_complex() and any(
            rate.is_complex() != part.dtype.is_complex for rate, part in zip(rates, parts, strict=True)
        ):
            raise TypeError(
                f"func(t, y) returned tensors of {[rate.dtype for rate in rates]} for a state of "
                f"{[part.dtype for part in parts]}; they must be the same."
            )
        return torch.cat([rate.reshape(-1) for rate in rates])

    carry_over(func, flat_func, lambda y: parts_of(y, parts))
    return flat_func


def unpack(y: Tensor, parts: Sequence[Part]) -> tuple[Tensor, ...]:
    """The tensors behind flat states of shape (n_times, size)."""
    pieces = y.split([part.shape.numel() for part in parts], dim=1)
    return tuple(part.of(piece, len(y)) for piece, part in zip(pieces, parts, strict=True))


def parts_of(y: Tensor, parts: Sequence[Part]) -> tuple[Tensor, ...]:
    """The tensors behind one flat state."""
    pieces = y.split([part.shape.numel() for part in parts])
    return tuple(part.of(piece) for piece, part in zip(pieces, parts, strict=True))


def event_of_parts(event_fn: Callable[[Tensor, Any], Tensor], parts: Sequence[Part]) -> Any:
    """An event function over tuples as one over the flat state."""
    return lambda t, y: event_fn(t, parts_of(y, parts))


def norm_of_parts(norm: Any, parts: Sequence[Part]) -> Any:
    """A norm over tuples as one over the flat state; ``"mixed"`` is the largest of the parts' root mean squares."""
    if norm == "mixed":
        return lambda x: torch.stack([rms_norm(part) for part in parts_of(x, parts)]).max()
    return (lambda x: norm(parts_of(x, parts))) if callable(norm) else norm


def tolerance_of_parts(name: str, tolerance: Any, y0: Tensor, parts: Sequence[Part]) -> Any:
    """A tolerance of each part as one of each element of the flat state; one for all stays what it is."""
    if (isinstance(tolerance, Tensor | np.ndarray) and tolerance.ndim == 0) or not hasattr(tolerance, "__len__"):
        return tolerance
    if len(tolerance) != len(parts):
        raise ValueError(f"{name} must be one number, or one for each of y0's {len(parts)} parts; got {tolerance!r}.")
    each = [torch.as_tensor(one).to(y0.device, y0.dtype.to_real()) for one in tolerance]
    try:
        return torch.cat(
            [tolerance.expand(part.shape).reshape(-1) for tolerance, part in zip(each, parts, strict=True)]
        )
    except RuntimeError as error:
        raise ValueError(
            f"{name} must broadcast part by part to y0's shapes {[tuple(part.shape) for part in parts]}."
        ) from error

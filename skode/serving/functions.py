"""Functions that runtimes of ONNX do not have in double precision, by others."""

from __future__ import annotations

import torch
from torch import Tensor


def asinh(x: Tensor) -> Tensor:
    """Inverse hyperbolic sine, ``sign(x) log(1 + |x| + x^2 / (1 + sqrt(1 + x^2)))``, exact to rounding."""
    size = x.abs()
    # x^2 / (1 + sqrt(1 + x^2)) without the square, which may overflow
    return x.sign() * torch.log1p(size + size * (size / (1.0 + hypot1(x))))


def hypot1(x: Tensor) -> Tensor:
    """``sqrt(1 + x^2)``, which does not overflow where the square would."""
    size, is_large = x.abs(), x.abs() > 1.0
    by_large = size * torch.sqrt(1.0 + torch.where(is_large, 1.0 / size, 0.0).square())
    return torch.where(is_large, by_large, torch.sqrt(1.0 + torch.where(is_large, 0.0, size).square()))

"""Gradients of first order only: to differentiate them again is an error, never a silent zero."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def first_order(backward: Callable[..., tuple]) -> Callable[..., tuple]:
    """Make a ``backward`` one whose results can't be differentiated again.

    Unlike torch's ``once_differentiable`` this also holds where no cotangent requires grad, as in a penalty on the
    gradient of a loss, and for every input of the node.
    """

    @functools.wraps(backward)
    def wrapper(ctx: Any, *cotangents: Tensor) -> tuple:
        with torch.no_grad():
            gradients = backward(ctx, *cotangents)
        if not torch.is_grad_enabled():  # create_graph=False
            return gradients
        origins = [x for x in (*cotangents, *ctx.saved_tensors) if x is not None and x.requires_grad]
        return tuple(None if gradient is None else _NoFurther.apply(gradient, *origins) for gradient in gradients)

    return wrapper


class _NoFurther(torch.autograd.Function):
    """A gradient as it is, which depends on its origins in a way that is not known."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, *origins: Tensor) -> Tensor:
        return gradient.clone()

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor):
        raise RuntimeError(
            "This gradient can't be differentiated again. Only adjoint='backprop' gives derivatives of second order of "
            "a solve; the encoders of time series have none."
        )

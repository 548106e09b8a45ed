"""Gradients of first order only: to differentiate them again is an error, never a silent zero."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from skode.solvers.autocast import outside_autocast
from skode.solvers.transforms import has_tangent, in_dual_level, is_mapped, is_transformed


def first_order(backward: Callable[..., tuple]) -> Callable[..., tuple]:
    """Make a ``backward`` one whose results can't be differentiated again.

    Unlike torch's ``once_differentiable`` this also holds where no cotangent requires grad, as in a penalty on the
    gradient of a loss, and for every input of the node.
    """

    @functools.wraps(backward)
    def wrapper(ctx: Any, *cotangents: Tensor) -> tuple:
        check_not_transformed(cotangents)
        with torch.no_grad(), outside_autocast(cotangents[0].device):
            gradients = backward(ctx, *cotangents)
        if not torch.is_grad_enabled():  # create_graph=False
            return gradients
        origins = [x for x in (*cotangents, *ctx.saved_tensors) if x is not None and x.requires_grad]
        return tuple(None if gradient is None else _NoFurther.apply(gradient, *origins) for gradient in gradients)

    return wrapper


def check_not_transformed(cotangents: Sequence[Tensor]) -> None:
    """Refuse several cotangents at once, and those that carry tangents: a sweep gives one gradient, as numbers."""
    given = [cotangent for cotangent in cotangents if isinstance(cotangent, Tensor)]
    if any(is_transformed(cotangent) or is_mapped(cotangent) for cotangent in given):
        raise RuntimeError(
            "This gradient can't be computed for several cotangents at once (vectorize=True, is_grads_batched=True, "
            "torch.func.vmap): pass vectorize=False, or solve with adjoint='backprop'."
        )
    if in_dual_level() and any(map(has_tangent, given)):
        raise RuntimeError(
            "This gradient can't be differentiated again by forward-mode AD: solve with adjoint='backprop'."
        )


def once_differentiable(x: Tensor) -> Tensor:
    """The same tensor, whose gradient can't be differentiated again."""
    return _Once.apply(x)


class _Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.clone()

    @staticmethod
    @first_order
    def backward(ctx: Any, cotangent: Tensor) -> tuple:
        return (cotangent.clone(),)

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor) -> Tensor:
        return tangent.clone()


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

"""Derivatives that are taken on the way forward: dual tensors of forward-mode AD, and the transforms of ``torch.func``.

Only a solve whose operations autograd sees (``adjoint="backprop"``) can be transformed. The numbers that steps depend
on are then read off the tensors behind the transforms: with ``vmap`` a step is as small as the worst of the states
that are mapped over needs it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd import forward_ad

from skode.solvers.fields.autograd import evaluated
from skode.solvers.fields.parameters import held_tensors
from skode.solvers.fields.times import time_tensor
from skode.solvers.forks import Lock

#: To be held in a level of forward-mode AD, of which a process has one for all of its threads.
DUAL_LEVEL = Lock()

FORWARD_MODE = "forward-mode AD"
TORCH_FUNC = "a transform of torch.func (vmap, grad, jacrev, ...)"


@contextmanager
def no_derivatives() -> Iterator[None]:
    """Where neither a graph is recorded nor tangents are carried on."""
    with torch.no_grad(), forward_ad._set_fwd_grad_enabled(False):
        yield


def is_transformed(tensor: Tensor) -> bool:
    """Whether a tensor stands for others inside a transform of ``torch.func``."""
    return torch._C._functorch.is_functorch_wrapped_tensor(tensor)


def untransformed(tensor: Tensor) -> Tensor:
    """The tensor behind all transforms of ``torch.func``, with their dimensions in front, without its graph."""
    while is_transformed(tensor):
        tensor = torch._C._functorch.get_unwrapped(tensor)
    with torch._C._DisableFuncTorch():
        return tensor.detach()


def numbers(tensor: Tensor) -> np.ndarray:
    """A tensor as numbers, whatever differentiates it."""
    if not torch._C._are_functorch_transforms_active():
        return tensor.detach().cpu().numpy()
    plain = untransformed(tensor)
    with torch._C._DisableFuncTorch():  # inside a transform even a copy would be a part of it
        return plain.cpu().numpy()


def is_mapped(tensor: Tensor) -> bool:
    """Whether ``vmap`` maps over a tensor, that of vectorized Jacobians included."""
    while is_transformed(tensor) and not torch._C._functorch.is_batchedtensor(tensor):
        tensor = torch._C._functorch.get_unwrapped(tensor)
    return is_transformed(tensor) or torch._C._functorch.is_legacy_batchedtensor(tensor)


def in_dual_level() -> bool:
    """Whether tensors may carry tangents of forward-mode AD at present."""
    return forward_ad._current_level >= 0


def has_tangent(tensor: Tensor) -> bool:
    """Whether a tensor carries a tangent of forward-mode AD."""
    try:
        return forward_ad.unpack_dual(tensor).tangent is not None
    except RuntimeError:  # one of torch.autograd.functional.jacobian(vectorize=True), which can't be taken apart
        return True


def carries_derivatives(tensor: Tensor) -> bool:
    """Whether derivatives with respect to a tensor may be wanted, in whichever way."""
    return tensor.requires_grad or is_transformed(tensor) or (in_dual_level() and has_tangent(tensor))


def transform_of(func: Any, t: Any, y: Tensor, times: Tensor | None) -> str | None:
    """Name of what differentiates or maps a solve on its way forward; None where nothing does.

    Parameters
    ----------
    func : callable or None
        The vector field, where the computation involves it.
    t : float or Tensor
        The initial time.
    y : Tensor
        The initial state.
    times : Tensor or None
        Times that carry derivatives.
    """
    if torch._C._are_functorch_transforms_active():
        return TORCH_FUNC
    if not in_dual_level():
        return None
    known = [y, *([] if times is None else [times]), *([] if func is None else held_tensors(func))]
    if any(map(has_tangent, known)):
        return FORWARD_MODE
    if func is None:
        return None
    with torch.no_grad():
        value = evaluated(func, time_tensor(t, y), y)  # what it keeps where it is not found
    return FORWARD_MODE if isinstance(value, Tensor) and has_tangent(value) else None


def check_adjoint_of_transform(transform: str, adjoint: str) -> None:
    """Refuse a way to gradients that does not go with a transform."""
    if adjoint != "backprop":
        raise TypeError(
            f"The solve is inside {transform}, which adjoint={adjoint!r} gives no derivatives for: pass "
            "adjoint='backprop', or take gradients by backward() or torch.autograd.grad."
        )

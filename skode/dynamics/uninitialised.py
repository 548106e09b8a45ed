"""Layers whose weights are yet to be drawn."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import nn

Layer = TypeVar("Layer", bound=nn.Module)


def uninitialised(kind: type[Layer], *args: Any, **kwargs: Any) -> Layer:
    """A layer without submodules, its weights not initialised and torch's global random state left alone.

    As ``torch.nn.utils.skip_init``, which loads torch's compiler for that, half a second long.

    Parameters
    ----------
    kind : type
        Class of the layer.
    *args, **kwargs
        Arguments of its constructor.
    """
    layer = kind(*args, device="meta", **kwargs)
    for name, parameter in list(layer.named_parameters(recurse=False)):
        setattr(layer, name, nn.Parameter(torch.empty(parameter.shape)))
    return layer

"""Matrix products by the library that is the faster one for their size.

torch multiplies float32 matrices on the CPU by MKL, which on some processors reaches half of what oneDNN, part of
torch as well, does; on others the two are alike. oneDNN costs some 10 us more per call, so that it only pays for
larger products. The choice depends on sizes alone, so that results can be repeated.
"""

from __future__ import annotations

import torch
from torch import Tensor

# Multiply-adds from which on oneDNN's product is faster (measured on a Zen 4 core: 22 us against 23 us).
WORTHWHILE = 2**20

_ONEDNN = getattr(torch.ops.mkldnn, "_linear_pointwise", None) if torch.backends.mkldnn.is_available() else None


def worthwhile(rows: int, like: Tensor, weight: Tensor) -> bool:
    """Whether a product of ``rows`` rows with a weight is one for oneDNN."""
    return (
        _ONEDNN is not None
        and like.dtype == torch.float32
        and like.device.type == "cpu"
        and rows * weight.numel() > WORTHWHILE
        and bool(torch.backends.mkldnn.enabled)
    )


def large_linear(out: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    """``x W^T + b`` into ``out`` by oneDNN, without autograd, where :func:`worthwhile`."""
    assert _ONEDNN is not None
    out.copy_(_ONEDNN(x, weight, bias, "none", [], ""))


def add_outer(total: Tensor, left: Tensor, right: Tensor) -> None:
    """Add ``left^T right``, a sum over the rows of both, to ``total``."""
    if worthwhile(len(left), left, total):
        assert _ONEDNN is not None
        total.add_(_ONEDNN(left.t(), right.t(), None, "none", [], ""))
    else:
        total.addmm_(left.t(), right)

"""Matrix products in the layout, and by the library, that is the fastest on this processor.

MKL takes up to six times as long for a product of few columns if these are not contiguous.

torch multiplies float32 matrices on the CPU by MKL, which on some processors reaches half the speed of oneDNN, part of
torch as well; on others the two are alike (103 and 108 GFLOP/s on a Zen 4 core). One timed trial per process, at first
use, finds out which. oneDNN costs some 10 us more per call, and copies, so that it multiplies larger matrices only.
"""

from __future__ import annotations

import functools
import math
from time import perf_counter

import torch
from torch import Tensor

# Multiply-adds from which on oneDNN's product is the faster one where it reaches twice MKL's speed (23 against 22 us).
WORTHWHILE = 2**20
# Measured ratios are about 1 or about 2: a threshold far from both gives the same choice every time.
FASTER = 1.45

# Columns up to which the layout matters (measured: 8 do, 16 don't).
NARROW = 8

_ONEDNN = getattr(torch.ops.mkldnn, "_linear_pointwise", None) if torch.backends.mkldnn.is_available() else None


@functools.cache
def onednn_is_faster() -> bool:
    """Whether oneDNN multiplies two matrices of 512 x 256 and 256 x 256 much faster than MKL."""
    if _ONEDNN is None:
        return False
    x, weight = (torch.ones(n, 256, dtype=torch.float32, device="cpu") for n in (512, 256))
    durations: dict[str, list[float]] = {"mkl": [], "onednn": []}
    with torch.no_grad():
        for _ in range(7):
            start = perf_counter()
            torch.mm(x, weight)
            between = perf_counter()
            _ONEDNN(x, weight, None, "none", [], "")
            durations["mkl"].append(between - start)
            durations["onednn"].append(perf_counter() - between)
    return min(durations["mkl"]) > FASTER * min(durations["onednn"])


def worthwhile(like: Tensor, *sizes: int) -> bool:
    """Whether a product of matrices like this one, of so many rows, inner and outer columns, is one for oneDNN."""
    return (
        math.prod(sizes) > WORTHWHILE
        and like.dtype == torch.float32
        and like.device.type == "cpu"
        and bool(torch.backends.mkldnn.enabled)
        and onednn_is_faster()
    )


def large_linear(out: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    """``x W^T + b`` into ``out`` by oneDNN, without autograd, where :func:`worthwhile`."""
    assert _ONEDNN is not None
    out.copy_(_ONEDNN(x, weight, bias, "none", [], ""))


def as_right_factor(weight: Tensor) -> Tensor:
    """The same matrix in the layout that suits ``x @ weight``."""
    return weight.t().contiguous().t() if 1 < weight.shape[1] <= NARROW else weight


def as_transposed(weight: Tensor) -> Tensor:
    """``weight^T`` in the layout that suits ``x @ weight^T``: a view on CPUs.

    On a GPU the product of 256 x 32 and 32 x 128 numbers, with a bias, takes 3 us of a contiguous one and 15 of a view.
    """
    return weight.t() if weight.device.type == "cpu" else weight.t().contiguous()


def outer(left: Tensor, right: Tensor) -> Tensor:
    """``left^T right``, a sum over the rows of both."""
    if right.shape[1] < left.shape[1]:
        return outer(right, left).t()
    if worthwhile(left, *left.shape, right.shape[1]):
        assert _ONEDNN is not None
        return _ONEDNN(left.t(), right.t(), None, "none", [], "")
    return torch.mm(left.t(), right)

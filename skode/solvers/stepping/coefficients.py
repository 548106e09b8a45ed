"""A tableau's coefficients as tensors, and as the terms of sums."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad

from skode.solvers.tableaus import ButcherTableau

#: The terms of a sum of stages: which stage, and its weight.
Terms = tuple[tuple[int, float], ...]


class TableauTensors:
    """A tableau's coefficients in the state's dtype, as a step's matrix-vector products need them."""

    def __init__(self, tableau: ButcherTableau, dtype: torch.dtype, device: torch.device) -> None:
        def tensor(values: Any) -> Tensor:
            return torch.tensor(values, dtype=dtype, device=device)

        s = tableau.n_stages
        full = [row + (0.0,) * (s - len(row)) for row in tableau.a]
        a, self.b = tensor(full), tensor(tableau.b)
        self.e = tensor(tableau.e) if tableau.e is not None else None
        self.full = a
        self.a = [a[i, :i].contiguous() for i in range(s)]
        # Column i of [a; b] below the diagonal: the weights with which later stages and the result use stage i.
        self.uses = [torch.cat([a[i + 1 :, i], self.b[i : i + 1]]) for i in range(s)]


@functools.cache
def tableau_tensors(tableau: ButcherTableau, dtype: torch.dtype, device: torch.device) -> TableauTensors:
    """The coefficients of a method, made once for each dtype and device."""
    # Tensors made in inference mode, or inside a transform of torch.func, could not be used outside.
    with torch.inference_mode(False), torch._C._DisableFuncTorch():
        return TableauTensors(tableau, dtype, device)


class TableauTerms(NamedTuple):
    """The coefficients that are not zero: of the stages, the result, and the error (none of a fixed-step method)."""

    a: tuple[Terms, ...]
    b: Terms
    e: Terms


@functools.cache
def terms_of(tableau: ButcherTableau) -> TableauTerms:
    """A method's coefficients as the terms of sums."""

    def terms(weights: Sequence[float]) -> Terms:
        return tuple((j, weight) for j, weight in enumerate(weights) if weight)

    return TableauTerms(tuple(map(terms, tableau.a)), terms(tableau.b), terms(tableau.e or ()))


def combined(y: Tensor | None, stages: Sequence[Tensor], terms: Terms, h: float | Tensor) -> Tensor:
    """``y + h sum_j w_j k_j``, one term after another: of small tensors the quickest, also for autograd to record.

    Parameters
    ----------
    y : Tensor or None
        The state; None: zero.
    stages : sequence of Tensor
        The derivatives ``k_j``, of the state's shape.
    terms : sequence of (j, w_j)
        The terms of the sum, one at least.
    h : float or Tensor
        The step size, of all samples, or a column with that of each.
    """
    if isinstance(h, Tensor):
        moved = combined(None, stages, terms, 1.0) * h
        return moved if y is None else y + moved
    if forward_ad._current_level >= 0:  # where vmap maps over tangents too, torch can't multiply by numbers
        weights = stages[0].new_tensor([weight for _, weight in terms])
        rows = torch.stack([stages[j].reshape(-1) for j, _ in terms])
        moved = h * (weights @ rows).view(stages[0].shape)
        return moved if y is None else y + moved
    for j, weight in terms:
        y = stages[j] * (h * weight) if y is None else torch.add(y, stages[j], alpha=h * weight)
    assert y is not None
    return y

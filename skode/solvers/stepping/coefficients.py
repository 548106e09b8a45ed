"""A tableau's coefficients as tensors."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from skode.solvers.tableaus import ButcherTableau


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

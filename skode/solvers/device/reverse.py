"""The memory of a reverse sweep by recordings: cotangents and gradients at addresses that stay the same."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from skode.solvers.device.graphs import Recording, on_the_side
from skode.solvers.fields.protocols import Session


class ReverseMemory:
    """Memory of a reverse sweep.

    Parameters
    ----------
    like : Tensor
        A state.
    parameters : sequence of Tensor
        The field's parameters.

    Attributes
    ----------
    lam : Tensor
        The state's cotangent.
    carried : Tensor of shape (n,)
        The cotangent of the derivative that later steps have taken over.
    given : dict of Tensor of shape (n_steps, s + 1, n)
        The cotangents that outputs inside some steps give their stages and, in the last row, the state at their start;
        by the number of steps.
    gradient : Tensor
        The parameters' gradients, one after another, summed over the sweep.
    parts : list of Tensor
        Views of ``gradient`` in the parameters' shapes.
    fresh : bool
        Whether nothing has been added to ``gradient`` in this sweep.
    """

    def __init__(self, like: Tensor, parameters: Sequence[Tensor]) -> None:
        self.lam, self.carried = torch.zeros_like(like), torch.zeros_like(like.view(-1))
        self.given: dict[int, Tensor] = {}
        self.shapes, self.sizes = [p.shape for p in parameters], [p.numel() for p in parameters]
        self.gradient = torch.zeros(sum(self.sizes), dtype=like.dtype, device=like.device)
        self.parts = self._split(self.gradient)
        self.fresh = True

    def _split(self, flat: Tensor) -> list[Tensor]:
        return [part.view(shape) for part, shape in zip(flat.split(self.sizes), self.shapes, strict=True)]

    def gradients(self) -> list[Tensor]:
        """The parameters' gradients, in memory of their own."""
        return self._split(torch.zeros_like(self.gradient) if self.fresh else self.gradient.clone())

    def fill(self, lam: Tensor, carried: Tensor | None, given: Tensor | None) -> None:
        """Copy cotangents of the state, of the derivative taken over and of outputs to where recordings read them."""
        for own, value in ((self.lam, lam), (self.carried, carried)):
            if value is not None and value.data_ptr() != own.data_ptr():
                own.copy_(value.view(own.shape))
        if given is not None:
            if len(given) not in self.given:
                with torch.inference_mode(False):
                    self.given[len(given)] = torch.zeros_like(given, memory_format=torch.contiguous_format)
            self.given[len(given)].copy_(given)

    def gather(self, session: Session) -> None:
        """Add a session's gradients."""
        found = zip(self.parts, session.parameter_gradients(), strict=True)
        pairs = [(own, new) for own, new in found if new is not None]
        if pairs:
            torch._foreach_add_([own for own, _ in pairs], [new for _, new in pairs])

    def record(self, run: Callable[[], Any], device: torch.device, pool: Any, *, warm_up: bool) -> Recording:
        """Record operations on this memory; to warm up, try them once before, as libraries may still get ready."""
        with torch.inference_mode(False), torch.no_grad():
            if warm_up:
                everything = [self.lam, self.carried, self.gradient]
                before = [x.clone() for x in everything]
                with on_the_side(device):
                    run()
                torch._foreach_copy_(everything, before)
            return Recording(run, device, pool)

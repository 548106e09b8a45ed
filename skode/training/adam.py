"""Adam, the optimiser of most training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from skode.training.optimizer import Optimizer

BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-8


class Adam(Optimizer):
    """Adam (Kingma and Ba, ICLR 2015) with an L2 penalty on weights, not on biases, by torch's fused kernel.

    Updates are those of ``torch.optim.Adam(..., fused=True)``, which is slower for small networks, and whose
    first instance in a process loads torch's compiler, for a second.
    """

    def __init__(self, parameters: Sequence[Tensor], learning_rate: float, decay: float = 0.0) -> None:
        weights, others = ([p for p in parameters if (p.ndim > 1) == wanted] for wanted in (True, False))
        super().__init__([*weights, *others], learning_rate, decay)
        # Decays, with the parameters' positions.
        n, n_weights = len(self.parameters), len(weights)
        self.groups = [(decay, range(n_weights)), (0.0, range(n_weights, n))] if decay else [(0.0, range(n))]
        self._moments: dict[int, tuple[Tensor, Tensor, Tensor]] = {}  # first, second, number of steps; by position

    @torch.no_grad()
    def step(self) -> None:
        for decay, positions in self.groups:
            some = [i for i in positions if self.parameters[i].grad is not None]
            if not some:
                continue
            moments = [self._moments.get(i) or self._begun(i) for i in some]
            first, second, steps = (list(part) for part in zip(*moments, strict=True))
            torch._foreach_add_(steps, 1)
            parameters: list[Any] = [self.parameters[i] for i in some]
            torch._fused_adam_(
                parameters,
                [p.grad for p in parameters],
                first,
                second,
                [],
                steps,
                lr=self.learning_rate,
                beta1=BETA_1,
                beta2=BETA_2,
                weight_decay=decay,
                eps=EPSILON,
                amsgrad=False,
                maximize=False,
                found_inf=self.found_inf,
            )
            if self.found_inf is not None:
                torch._foreach_sub_(steps, [self.found_inf] * len(steps))

    def _begun(self, i: int) -> tuple[Tensor, Tensor, Tensor]:
        """The moments of a parameter before its first step."""
        p = self.parameters[i]
        steps = torch.zeros((), dtype=torch.float32, device=p.device)
        self._moments[i] = moments = (torch.zeros_like(p), torch.zeros_like(p), steps)
        return moments

    def state(self) -> dict[int, dict[str, Any]]:
        names = ("exp_avg", "exp_avg_sq", "step")
        return {i: dict(zip(names, moments, strict=True)) for i, moments in self._moments.items()}

    def go_on_from(self, state: dict[int, dict[str, Any]]) -> None:
        for i, own in state.items():
            like = self.parameters[i]
            moments = (own[name].to(device=like.device, dtype=like.dtype) for name in ("exp_avg", "exp_avg_sq"))
            first, second = (moment.clone(memory_format=torch.preserve_format) for moment in moments)
            self._moments[i] = (first, second, own["step"].to(device=like.device, copy=True))

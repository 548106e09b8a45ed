r"""The conditional density: location, scale and correlations that depend on features, and a flow of what is left.

With :math:`m(x)` and a lower triangular matrix :math:`L(x)` of a perceptron, and :math:`u(t)` the flow given x from a
normal density at :math:`t = 0` to the residuals at :math:`t = 1`,

.. math::

    y = m(x) + L(x) u(1), \qquad
    \log p(y | x) = \log N(u(0); 0, \sigma^2) - \int_0^1 \mathrm{tr} \frac{\partial f}{\partial u}(t, u(t); x) \, dt
    - \sum_j \log L_{jj}(x)

The base's standard deviations :math:`\sigma` are 1 in training.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

from skode.density.fields import spread
from skode.dynamics.conditional import ConditionalMLPField
from skode.dynamics.mlp import affine
from skode.solvers.solution import Solve

#: Logarithms of scales lie between minus and plus this many.
MOST_LOG_SCALE = 7.0


@dataclass(frozen=True)
class Normal:
    """Normal densities of samples, ``y = m + L u`` of a standard normal ``u``.

    Attributes
    ----------
    m : Tensor of shape (n, d)
        Means.
    log_scale : Tensor of shape (n, d)
        Logarithms of the diagonal of ``L``.
    below : Tensor of shape (n, d, d)
        The entries below the diagonal, 0 elsewhere; None where d is 1.
    """

    m: Tensor
    log_scale: Tensor
    below: Tensor | None

    def standardised(self, y: Tensor) -> Tensor:
        """``u`` of ``y``."""
        off = y - self.m
        if self.below is None:
            return off * torch.exp(-self.log_scale)
        return torch.linalg.solve_triangular(self._factor(self.below), off[..., None], upper=False)[..., 0]

    def of(self, u: Tensor) -> Tensor:
        """``y`` of ``u``."""
        if self.below is None:
            return self.m + u * torch.exp(self.log_scale)
        return self.m + (self._factor(self.below) @ u[..., None])[..., 0]

    def _factor(self, below: Tensor) -> Tensor:
        return below + torch.diag_embed(torch.exp(self.log_scale))


class ConditionalDensity(nn.Module):
    """Density of standardised targets given standardised features.

    Parameters
    ----------
    n_outputs, n_context : int
        Numbers of targets and of columns of features.
    hidden : tuple of int
        Widths of the hidden layers of the flow's field.
    activation : str
        Their activation.
    location : tuple of int
        Widths of the hidden layers of the perceptron for location and scale.
    generator : torch.Generator
        Source of the initial weights.
    """

    def __init__(
        self,
        n_outputs: int,
        n_context: int,
        hidden: tuple[int, ...],
        activation: str,
        location: tuple[int, ...],
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.n_outputs = n_outputs
        self.field = ConditionalMLPField(n_outputs, n_context, hidden, activation, generator)
        first: nn.Linear = self.field.layers[0]  # type: ignore[assignment]
        spread(first, n_outputs, generator)
        with torch.no_grad():  # as much of all context together as of one column
            first.weight[:, n_outputs:-1] /= math.sqrt(n_context)
        self.base_scale = nn.Buffer(torch.ones(n_outputs))
        self.linear = affine(n_context, n_outputs, generator)
        layers: list[nn.Module] = []
        n_of_normal = 2 * n_outputs + n_outputs * (n_outputs - 1) // 2
        for m, n in pairwise((n_context, *location, n_of_normal)):
            layers += [affine(m, n, generator), nn.SiLU()]
        self.location = nn.Sequential(*layers[:-1])
        nn.init.zeros_(layers[-2].weight)  # type: ignore[arg-type]

    def start_from(self, weight: np.ndarray, bias: np.ndarray, scale: np.ndarray) -> None:
        """Take location and scale from a linear model: its weights, intercepts, and errors' standard deviations."""
        last: nn.Linear = self.location[-1]  # type: ignore[assignment]
        raw, d = np.clip(np.log(scale) / MOST_LOG_SCALE, -0.9, 0.9), self.n_outputs
        with torch.no_grad():
            self.linear.weight.copy_(torch.from_numpy(weight))
            self.linear.bias.copy_(torch.from_numpy(bias))
            last.bias[d : 2 * d] = torch.from_numpy(MOST_LOG_SCALE * np.arctanh(raw))

    def normal(self, x: Tensor) -> Normal:
        """Location, scale and correlations."""
        d = self.n_outputs
        m, raw, entries = self.location(x).split([d, d, d * (d - 1) // 2], dim=1)
        log_scale = MOST_LOG_SCALE * torch.tanh(raw / MOST_LOG_SCALE)
        below = None
        if d > 1:
            row, column = torch.tril_indices(d, d, -1, device=x.device)
            below = x.new_zeros(len(x), d, d).index_put(
                (torch.arange(len(x), device=x.device)[:, None], row, column), entries
            )
        return Normal(self.linear(x) + m, log_scale, below)

    def log_prob(self, x: Tensor, y: Tensor, solver: Solve, *, energy: bool = False) -> tuple[Tensor, Tensor]:
        """Log-densities of targets of shape (n, n_outputs), and kinetic energies of paths, of shape (n, 0 or 1)."""
        end, normal = self._pulled(x, y, solver, energy=energy)
        d, scale = self.n_outputs, self.base_scale
        base = -0.5 * ((end[:, :d] / scale).square().sum(1) + d * math.log(2.0 * math.pi)) - torch.log(scale).sum()
        # Backward in time the integrals come with the other sign.
        return base - end[:, d] - normal.log_scale.sum(1), -end[:, d + 1 :]

    def pull(self, x: Tensor, y: Tensor, solver: Solve) -> Tensor:
        """Points of the base that are carried to targets, in units of a standard normal density."""
        return self._pulled(x, y, solver)[0][:, : self.n_outputs] / self.base_scale

    def _pulled(self, x: Tensor, y: Tensor, solver: Solve, *, energy: bool = False) -> tuple[Tensor, Normal]:
        """The joint states at ``t = 0``, and location and scale."""
        normal = self.normal(x)
        u = normal.standardised(y)
        flow = self.field.flow(x, energy=energy)
        start = torch.cat([u, u.new_zeros(len(u), flow.n_columns)], dim=1)
        return solver(flow, (1.0, 0.0), start, t_eval=(0.0,)).y[-1], normal

    def push(self, x: Tensor, base: Tensor, solver: Solve) -> Tensor:
        """Targets that points of the standard normal density, of shape (n, n_outputs), are carried to."""
        flow = self.field.flow(x)
        start = torch.cat([base * self.base_scale, base.new_zeros(len(base), 1)], dim=1)
        end = solver(flow, (0.0, 1.0), start, t_eval=(1.0,)).y[-1]
        return self.normal(x).of(end[:, : self.n_outputs])

"""Unknowns of single series as normal variables: the population they are drawn from, and unknowns that all share."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from skode.equations.parameters import FURTHEST_LOG, Parameter


class Bounds(nn.Module):
    r"""Values within bounds, as functions of numbers without bounds; 0 is where the search starts.

    With the start :math:`s` they are :math:`s + u` without bounds, :math:`l + (s - l) e^u` above :math:`l`,
    :math:`h - (h - s) e^{-u}` below :math:`h`, and between both :math:`l + (h - l) / (1 + e^{-u} (h - s) / (s - l))`.
    All of them increase with :math:`u`, so that the median of a value is that of :math:`u`, transformed.

    Parameters
    ----------
    parameters : sequence of Parameter
        Names, starts and bounds.
    """

    start: Tensor
    low: Tensor
    high: Tensor

    def __init__(self, parameters: Sequence[Parameter]) -> None:
        super().__init__()
        self.names = [parameter.name for parameter in parameters]
        for bound in ("start", "low", "high"):
            values = [getattr(parameter, bound) for parameter in parameters]
            self.register_buffer(bound, torch.tensor(values, dtype=torch.float64))

    def forward(self, u: Tensor) -> Tensor:
        """Values of shape (..., n)."""
        has_low, has_high = torch.isfinite(self.low), torch.isfinite(self.high)
        low, high = torch.where(has_low, self.low, self.start - 1.0), torch.where(has_high, self.high, self.start + 1.0)
        up = torch.exp(u.clamp(-FURTHEST_LOG, FURTHEST_LOG))
        above = low + (self.start - low) * up
        below = high - (high - self.start) / up
        between = low + (high - low) / (1.0 + (high - self.start) / (self.start - low) / up)
        one_sided = torch.where(has_low, above, torch.where(has_high, below, self.start + u))
        return torch.where(has_low & has_high, between, one_sided)


def usual_spread(parameter: Parameter) -> float:
    """Standard deviation of ``u`` where none is given: a factor of e, an interval nearly evenly, or 100 %."""
    n_bounds = math.isfinite(parameter.low) + math.isfinite(parameter.high)
    return (abs(parameter.start) or 1.0, 1.0, 1.5)[n_bounds]


class Population(nn.Module):
    r"""Normal distributions of what each series has of its own, and values of what all series share.

    A number of a series is :math:`T(m + s z)` with :math:`z \sim N(0, 1)`, where :math:`T` keeps it within its bounds
    (:class:`Bounds`). :math:`m` and :math:`s` are learnt, but for those that are given. The log-density of a learnt
    :math:`s` is :math:`\log s`, the limit of a gamma distribution of shape 2, which keeps it from vanishing (Y. Chung,
    S. Rabe-Hesketh, V. Dorie, A. Gelman, J. Liu, "A nondegenerate penalized likelihood estimator for variance
    parameters in multilevel models", Psychometrika 78, 2013).

    Parameters
    ----------
    own, shared : sequence of Parameter
        Numbers of each series, and those of all of them.
    priors : dict of str to float
        Standard deviations :math:`s` that are given, by name.
    spreads : dict of str to float
        Those that others start from, by name; :func:`usual_spread` where there is none.
    learns : bool
        Whether the others are learnt.

    Attributes
    ----------
    location, log_ratio : nn.Parameter of shape (n_own,)
        :math:`m / s_0` and :math:`\log(s / s_0)`, where :math:`s_0` is the spread to start with.
    shared_location : nn.Parameter of shape (n_shared,)
        Shared numbers before they are bounded, likewise.
    """

    own: Bounds
    shared: Bounds
    spread: Tensor
    shared_spread: Tensor
    learnt: Tensor
    shared_given: Tensor

    def __init__(
        self,
        own: Sequence[Parameter],
        shared: Sequence[Parameter],
        priors: dict[str, float],
        spreads: dict[str, float],
        *,
        learns: bool,
    ) -> None:
        super().__init__()
        self.own, self.shared = Bounds(own), Bounds(shared)
        known = {**spreads, **priors}
        for name, some in (("spread", own), ("shared_spread", shared)):
            values = [known.get(p.name, usual_spread(p)) for p in some]
            self.register_buffer(name, torch.tensor(values, dtype=torch.float64))
        self.register_buffer("learnt", torch.tensor([learns and p.name not in priors for p in own], dtype=torch.bool))
        self.register_buffer("shared_given", torch.tensor([p.name in priors for p in shared], dtype=torch.bool))
        self.location, self.log_ratio = (nn.Parameter(torch.zeros(len(own))) for _ in range(2))
        self.shared_location = nn.Parameter(torch.zeros(len(shared)))

    def own_values(self, z: Tensor) -> Tensor:
        """Values of series of shape (..., n_own), from standard normal variables."""
        location, log_ratio = (torch.where(self.learnt, x, x.detach()) for x in (self.location, self.log_ratio))
        return self.own(self.spread * (location + torch.exp(log_ratio) * z))

    def shared_values(self, shift: Tensor | None = None) -> Tensor:
        """Values of what is shared, of shape (n_shared,), or (..., n_shared) for shifts of ``shared_location``."""
        location = self.shared_location if shift is None else self.shared_location + shift
        return self.shared(self.shared_spread * location)

    def log_hyperprior(self) -> Tensor:
        """Log-density of spreads and shared numbers, up to a constant."""
        squares = torch.where(self.shared_given, self.shared_location**2, 0.0).sum()
        return torch.where(self.learnt, self.log_ratio, 0.0).sum() - 0.5 * squares

    @torch.no_grad()
    def quantiles(self, z: float) -> np.ndarray:
        """Values that a share of the series lies below, of shape (n_own,): that which is below ``z`` normally."""
        return self.own_values(torch.full_like(self.spread, z)).double().cpu().numpy()

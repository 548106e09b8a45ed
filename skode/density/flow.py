"""The continuous normalizing flow: a normal density, carried by an ODE."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from skode.dynamics import flow_field
from skode.solvers.solution import Solve


@dataclass(frozen=True)
class Measured:
    """Integrals along paths that are computed beside the change of log-density.

    Attributes
    ----------
    noise : Tensor of shape (n, d) or None
        The noise of estimates, the same for the whole solve.
    estimate : bool
        Whether the divergence is estimated with the noise rather than exact.
    energy, jacobian : bool
        Whether to integrate the kinetic energy, and the norm of the Jacobian.
    """

    noise: Tensor | None = None
    estimate: bool = False
    energy: bool = False
    jacobian: bool = False


class Flow(nn.Module):
    """A normal density of independent components at ``t = 0``, carried by an ODE to the data's at ``t = 1``.

    Parameters
    ----------
    field : nn.Module
        The dynamics ``f(t, z)``, each row by itself.
    n_features : int
        Their dimension.

    Attributes
    ----------
    log_scale : nn.Parameter of shape (n_features,)
        Logarithms of the base density's standard deviations, which are trained as well.
    beside : nn.ModuleList
        Densities that an estimator mixes with the flow's, of which the methods here know nothing.
    """

    #: A number, or a tensor of one in exported flows, whose graphs round numbers to single precision.
    log_2pi: float | Tensor = math.log(2.0 * math.pi)

    def __init__(self, field: nn.Module, n_features: int) -> None:
        super().__init__()
        self.field = field
        self.n_features = n_features
        self.log_scale = nn.Parameter(torch.zeros(n_features))
        self.beside = nn.ModuleList()

    def log_prob(
        self,
        x: Tensor,
        solver: Solve,
        *,
        t: float = 1.0,
        measured: Measured | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Log-densities at a time, and integrals along the paths.

        ``log p_t(x) = log p_0(z(0)) - int_0^t tr(df/dz) ds`` along the path with ``z(t) = x``, solved backward.

        Parameters
        ----------
        x : Tensor of shape (n, d)
            Points.
        solver : callable
            The solver, a :class:`skode.training.Solver`.
        t : float, default=1.0
            The time of the density.
        measured : Measured, default=None
            The integrals wanted; none where None.

        Returns
        -------
        log_prob : Tensor of shape (n,)
            Log-densities.
        integrals : Tensor of shape (n, k)
            Mean squares over the dimensions, integrated over time.
        """
        measured = measured or Measured()
        joint = flow_field(
            self.field,
            noise=measured.noise,
            estimate=measured.estimate,
            energy=measured.energy,
            jacobian=measured.jacobian,
        )
        if t == 0.0:
            return self.base_log_prob(x), x.new_zeros(len(x), joint.n_columns - 1)
        start = torch.cat([x, x.new_zeros(len(x), joint.n_columns)], dim=1)
        end, d = solver(joint, (t, 0.0), start, t_eval=(0.0,)).y[-1], self.n_features
        # Backward in time the integrals come with the other sign.
        return self.base_log_prob(end[:, :d]) - end[:, d], -end[:, d + 1 :]

    def base_log_prob(self, z: Tensor) -> Tensor:
        """Log-densities of the base."""
        standard = z * torch.exp(-self.log_scale)
        return -0.5 * standard.square().sum(1) - self.log_scale.sum() - 0.5 * self.n_features * self.log_2pi

    def push(self, base: Tensor, solver: Solve) -> Tensor:
        """Standard normal points, of shape (n, d), scaled and carried to ``t = 1``."""
        z = base * torch.exp(self.log_scale)
        return solver(self.field, (0.0, 1.0), z, t_eval=(1.0,)).y[-1]

    def pull(self, x: Tensor, solver: Solve) -> Tensor:
        """Points at ``t = 1`` carried back, and scaled to standard normal ones: the inverse of :meth:`push`."""
        return self.paths(x, solver, (0.0,))[0] * torch.exp(-self.log_scale)

    def paths(self, x: Tensor, solver: Solve, times: Sequence[float]) -> Tensor:
        """Positions at earlier times of points at ``t = 1``, of shape (n_times, n, d); times are in falling order."""
        if times[0] == 1.0:
            later = self.paths(x, solver, times[1:]) if len(times) > 1 else x.new_empty((0, *x.shape))
            return torch.cat([x[None], later])
        return solver(self.field, (1.0, min(times)), x, t_eval=tuple(times)).y

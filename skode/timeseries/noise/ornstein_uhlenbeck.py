r"""Residuals of a series: noise with a memory, beside noise without.

The residual of each output is :math:`v(t) + e`, where :math:`v` is an Ornstein-Uhlenbeck process, of covariance
:math:`s^2 \exp(-|t - t'| / \tau)`, and :math:`e` is white noise. Such errors are usual in mixed models of irregularly
timed series: Jones, Boadi-Boateng, "Unequally spaced longitudinal data with AR(1) serial correlation", Biometrics 47,
1991. As :math:`v` is a Markov process, what it says costs a pass over the rows: Kalman's filter ("A new approach to
linear filtering and prediction problems", Journal of Basic Engineering 82, 1960), and the smoother of Rauch, Tung,
Striebel, "Maximum likelihood estimates of linear dynamic systems", AIAA Journal 3, 1965.

A row of weight :math:`w` stands for :math:`w` residuals :math:`r` at one time, of one :math:`v` and white noise
:math:`e` of their own. Of :math:`v` they say what one with white noise of variance :math:`\sigma^2 / w` says,

.. math:: w \log N(r; v, \sigma^2)
    = \log N(r; v, \sigma^2 / w) - \tfrac{w - 1}{2} \log(2 \pi \sigma^2) - \tfrac12 \log w.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from skode.solvers.cached import cached
from skode.timeseries.noise.scans import AffineScan, filtered_variances

#: Stands for variances of 0, which noise of no variance has, where they are divided by.
TINY = torch.finfo(torch.float64).tiny


class ColouredNoise:
    """Residuals of series at the times of slots, observed in some of them.

    Parameters
    ----------
    time : Tensor of shape (n_series, n_slots), float64
        Times in ascending order; NaN in empty slots, which are the last ones.
    observed : Tensor of bool, of shape (n_series, n_slots, n_outputs)
        Where residuals are known.
    white, coloured, memory : Tensor of shape (n_outputs,)
        Standard deviations of both kinds of noise, and the time in which correlations fall by a factor of e.
    weights : Tensor of shape (n_series, n_slots), default=None
        For how many residuals each slot stands; None: one.
    """

    def __init__(
        self,
        time: Tensor,
        observed: Tensor,
        white: Tensor,
        coloured: Tensor,
        memory: Tensor,
        weights: Tensor | None = None,
    ) -> None:
        self.observed = observed
        self.variance = coloured.double() ** 2
        #: Of the white noise in each slot, of shape (n_series, n_slots, n_outputs).
        self.white = white.double().expand(observed.shape)
        #: Log-density of the residuals that a slot stands for, less that of one, per slot.
        self.beyond: Tensor | None = None
        if weights is not None:
            w = torch.where(observed, weights.double()[..., None], 1.0)
            self.beyond = repeated_log_density(self.white, w)
            self.white = self.white / w.sqrt()
        gaps = torch.nan_to_num(torch.diff(time, dim=1), nan=math.inf)[..., None] / memory.double()
        #: Correlations of v with that of the slot before; 0 where there is none.
        self.kept = torch.zeros(*time.shape, len(white), dtype=torch.float64, device=time.device)
        self.kept[:, 1:] = torch.exp(-gaps)
        #: Variance that v takes on since the slot before.
        self.added = self.variance.expand(observed.shape).clone()
        self.added[:, 1:] *= -torch.expm1(-2.0 * gaps)
        #: Variances of v given the slots so far, and given those before; of the innovations; and the gains of v.
        self.after = filtered_variances(self.kept, self.added, torch.where(observed, self.white**2, math.inf))
        self.before = self.added.clone()
        self.before[:, 1:] += self.kept[:, 1:] ** 2 * self.after[:, :-1]
        total = self.before + self.white**2
        self.innovations = torch.where(observed, total, 1.0)
        self.gains = torch.where(observed, self.before / total, 0.0)

    def whitened(self, residual: Tensor) -> Tensor:
        """Innovations in their standard deviations, of shape (n_copies, n_series, n_slots, n_outputs) as residuals.

        Linear in the residuals; 0 where these are not known.
        """
        return torch.where(self.observed, (residual - self._filtered(residual)[0]) / self.innovations.sqrt(), 0.0)

    def log_prob(self, residual: Tensor) -> Tensor:
        """Log-density of each series' residuals, of shape (n_copies, n_series)."""
        constant = torch.where(self.observed, 0.5 * torch.log(2.0 * math.pi * self.innovations), 0.0)
        if self.beyond is not None:
            constant = constant - self.beyond
        return -(0.5 * self.whitened(residual) ** 2 + constant).sum((-1, -2))

    def smoothed(self, residual: Tensor) -> Tensor:
        """Mean of v in each slot, given all residuals."""
        ahead, mean = self._filtered(residual)
        mean[:, :, :-1] -= self._back * ahead[:, :, 1:]
        return self._backward(mean.flip(2)).flip(2)

    @cached
    def smoothed_variance(self) -> Tensor:
        """Variance of v in each slot given all residuals, of shape (n_series, n_slots, n_outputs)."""
        # Rauch's P + J^2 (next one's - next before), where P - J^2 (next before) = P (next added) / (next before).
        own = self.after.clone()
        own[:, :-1] *= self.added[:, 1:] / self.before[:, 1:].clamp_min(TINY)
        return AffineScan(_ending_in_zero(self._back**2).flip(1))(own.flip(1)[None])[0].flip(1)

    def drawn(self, residual: Tensor, generator: torch.Generator) -> Tensor:
        """Draws of v in each slot, given all residuals, one for each copy.

        A path without conditions is corrected by what its own residuals would have led to (Matheron's rule:
        Journel, Huijbregts, Mining Geostatistics, 1978).
        """
        shape = (2, *residual.shape)
        noise = torch.randn(shape, generator=generator, dtype=torch.float64).to(residual.device)
        prior = AffineScan(self.kept)(self.added.sqrt() * noise[0])
        return prior + self.smoothed(residual - prior - self.white * noise[1])

    def _filtered(self, residual: Tensor) -> tuple[Tensor, Tensor]:
        """Means of v in each slot, given the residuals of those before, and of those so far."""
        mean = self._forward(torch.where(self.observed, self.gains * residual, 0.0))
        ahead = torch.zeros_like(mean)
        torch.mul(self.kept[:, 1:], mean[:, :, :-1], out=ahead[:, :, 1:])
        return ahead, mean

    @cached
    def _forward(self) -> AffineScan:
        """Means given the slots so far, from gains times residuals."""
        return AffineScan(self.kept * (1.0 - self.gains))

    @cached
    def _backward(self) -> AffineScan:
        """Means given all slots, the last one first, from what each mean is beyond its share of the next."""
        return AffineScan(_ending_in_zero(self._back).flip(1))

    @cached
    def _back(self) -> Tensor:
        """Gain of each slot's mean from the next one's."""
        return self.kept[:, 1:] * self.after[:, :-1] / self.before[:, 1:].clamp_min(TINY)


def _ending_in_zero(values: Tensor) -> Tensor:
    """Values of shape (n_series, n_slots - 1, n_outputs), and 0 in the last slot."""
    return torch.cat([values, values.new_zeros(len(values), 1, values.shape[2])], dim=1)


def repeated_log_density(white: Tensor, weights: Tensor) -> Tensor:
    """The log-density of so many equal residuals, less that of one with the white noise of their mean."""
    return -0.5 * (weights - 1.0) * torch.log(2.0 * math.pi * white**2) - 0.5 * torch.log(weights)

"""Noise with a memory as a graph; see :mod:`skode.timeseries.noise.ornstein_uhlenbeck`."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from skode.timeseries.likelihoods import Gaussian


class ExportedNoise(NamedTuple):
    """Residuals of series in slots: of each what the filter and the smoother need.

    Attributes
    ----------
    observed : Tensor of bool, of shape (n_series, n_slots, n_outputs)
        Where residuals are known.
    kept : Tensor of shape (n_series, n_slots, n_outputs)
        Correlation of the noise with that of the slot before.
    innovations, gains : Tensor of the same shape
        Variances of the innovations, and the filter's gains.
    back, own : Tensor of the same shape
        Gain of each slot's mean from the next one's, and the variance that is left where that one is known.
    """

    observed: Tensor
    kept: Tensor
    innovations: Tensor
    gains: Tensor
    back: Tensor
    own: Tensor

    @classmethod
    def of(cls, likelihood: Gaussian, time: Tensor, observed: Tensor) -> ExportedNoise:
        """At times of shape (n_series, n_slots) in ascending order, NaN in empty slots."""
        variance, white = likelihood.coloured.square(), torch.exp(2.0 * likelihood.log_noise)
        gaps = (time - earlier(time[..., None])[..., 0])[..., None] / likelihood.memory
        follows = (places_of(time[..., None]) > 0) & ~torch.isnan(gaps)
        kept = torch.where(follows, torch.exp(-gaps), 0.0)
        added = torch.where(follows, -variance * torch.expm1(-2.0 * gaps), variance)
        before = variances_before(kept, added, observed, white)
        total = before + white
        after = torch.where(observed, before * white / total, before)
        innovations, gains = torch.where(observed, total, 1.0), torch.where(observed, before / total, 0.0)
        tiny = torch.finfo(time.dtype).tiny
        share = later(added / before.clamp(min=tiny), 1.0)
        back = later(kept / before.clamp(min=tiny), 0.0) * after
        return cls(observed, kept, innovations, gains, back, after * share)

    def whitened(self, residual: Tensor) -> Tensor:
        """Innovations in their standard deviations, of shape (n_copies, n_series, n_slots, n_outputs) as residuals."""
        ahead, _ = self._filtered(residual)
        return torch.where(self.observed, (residual - ahead) / self.innovations.sqrt(), 0.0)

    def log_prob(self, whitened: Tensor) -> Tensor:
        """Log-density of each series' residuals, by their innovations, of shape (n_copies, n_series)."""
        constant = torch.where(self.observed, 0.5 * torch.log(2.0 * math.pi * self.innovations), 0.0)
        return -(0.5 * whitened.square() + constant).sum((-1, -2))

    def smoothed(self, residual: Tensor) -> tuple[Tensor, Tensor]:
        """Mean of the noise in each slot given all residuals, and its variance, (n_series, n_slots, n_outputs)."""
        ahead, mean = self._filtered(residual)
        following = later(ahead.flatten(0, 1), 0.0).unflatten(0, (ahead.shape[0], -1))
        terms = mean - self.back * following
        mean = recursion(self.back.flip(1), terms.flip(2)).flip(2)
        return mean, recursion(self.back.square().flip(1), self.own.flip(1)[None])[0].flip(1)

    def _filtered(self, residual: Tensor) -> tuple[Tensor, Tensor]:
        """Means in each slot, given the residuals of those before, and of those so far."""
        terms = torch.where(self.observed, self.gains * residual, 0.0)
        mean = recursion(self.kept * (1.0 - self.gains), terms)
        n_copies = mean.shape[0]
        ahead = self.kept * earlier(mean.flatten(0, 1)).unflatten(0, (n_copies, -1))
        return ahead, mean


def variances_before(kept: Tensor, added: Tensor, observed: Tensor, white: Tensor) -> Tensor:
    """Variances in each slot given those before it: the Riccati equation, slot by slot."""
    places = places_of(kept)
    n_slots = places.max() + 1

    def goes_on(i: Tensor, after: Tensor, found: Tensor) -> Tensor:
        return i < n_slots

    def following(i: Tensor, after: Tensor, found: Tensor) -> tuple[Tensor, ...]:
        here = i.view(1)
        before = added.index_select(1, here)[:, 0] + kept.index_select(1, here)[:, 0].square() * after
        seen = observed.index_select(1, here)[:, 0]
        after = torch.where(seen, before * white / (before + white), before)
        return i + 1, after, torch.where(places == i, before[:, None], found)

    start = torch.zeros_like(places[0, 0, 0]), torch.zeros_like(kept[:, 0]), torch.zeros_like(kept)
    return torch.while_loop(goes_on, following, start)[2]


def recursion(factors: Tensor, terms: Tensor) -> Tensor:
    """All ``x_k = a_k x_(k-1) + b_k`` from 0, of terms of shape (n_copies, n_series, n_slots, n_outputs)."""
    places = places_of(factors)
    n_slots = places.max() + 1
    factors, terms = factors.clone(), terms.clone()

    def goes_on(i: Tensor, last: Tensor, found: Tensor) -> Tensor:
        return i < n_slots

    def following(i: Tensor, last: Tensor, found: Tensor) -> tuple[Tensor, ...]:
        here = i.view(1)
        last = factors.index_select(1, here)[:, 0] * last + terms.index_select(2, here)[:, :, 0]
        return i + 1, last, torch.where(places == i, last[:, :, None], found)

    start = torch.zeros_like(places[0, 0, 0]), torch.zeros_like(terms[:, :, 0]), torch.zeros_like(terms)
    return torch.while_loop(goes_on, following, start)[2]


def places_of(values: Tensor) -> Tensor:
    """Numbers of the slots of values of shape (n_series, n_slots, n_outputs), of shape (1, n_slots, 1)."""
    return (torch.cumsum(torch.ones_like(values[:1, :, :1], dtype=torch.float64), dim=1) - 1.0).long()


def earlier(values: Tensor) -> Tensor:
    """Values of shape (n_series, n_slots, size) of the slots before; in the first slot its own."""
    return values.index_select(1, (places_of(values)[0, :, 0] - 1).clamp(min=0))


def later(values: Tensor, behind: float) -> Tensor:
    """Values of the next slots, and a number in the last one."""
    places = places_of(values)
    last = places.max()
    following = values.index_select(1, torch.minimum(places[0, :, 0] + 1, last))
    return torch.where(places == last, behind, following)

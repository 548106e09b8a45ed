"""Posteriors of initial states as graphs; see :mod:`skode.timeseries.posterior`."""

from __future__ import annotations

import math
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from skode.timeseries.exported.model import ExportedModel
from skode.timeseries.exported.noise import ExportedNoise
from skode.timeseries.exported.series import Course, Slots
from skode.timeseries.likelihoods import Gaussian, Poisson
from skode.timeseries.posterior import (
    DIFFERENCE,
    DOUBTFUL_RISE,
    LARGEST_DAMPING,
    LEAST_DAMPING,
    MAX_SCORING_STEPS,
    PRIOR_SHARE,
    SCORING_TOLERANCE,
)


class Search(NamedTuple):
    """The search for the modes under way.

    Attributes
    ----------
    steps : Tensor of int64
        Number of evaluations so far.
    z, value, gradient, information : Tensor of shape (n_series, ...)
        Where it stands, with the log-density, its gradient and the information there.
    damping : Tensor of shape (n_series,)
        Damping of the next step.
    going, settled, fresh : Tensor of bool, of shape (n_series,)
        Series that go on; those whose last step has shown that there is hardly anything to gain; and those of which
        nothing has been evaluated yet.
    """

    steps: Tensor
    z: Tensor
    value: Tensor
    gradient: Tensor
    information: Tensor
    damping: Tensor
    going: Tensor
    settled: Tensor
    fresh: Tensor


class ExportedPosterior(nn.Module):
    """Draws of initial states with their weights.

    Parameters
    ----------
    model : ExportedModel
        The model.
    noise : Tensor of shape (n_draws, latent_size)
        Standard normal draws.
    refined : bool
        Whether to go beyond the encoder's posterior.
    """

    noise: Tensor
    numbers: Tensor
    unit: Tensor

    def __init__(self, model: ExportedModel, noise: Tensor, *, refined: bool) -> None:
        super().__init__()
        self.model, self.refined = model, refined
        self.likelihood = model.module.likelihood
        self.n_draws, self.n_of_prior = len(noise), int(len(noise) * PRIOR_SHARE) if refined else 0
        numbers = (DIFFERENCE, SCORING_TOLERANCE, DOUBTFUL_RISE, LEAST_DAMPING, 0.2, 5.0)
        self.register_buffer("noise", noise.double())
        self.register_buffer("numbers", torch.tensor(numbers, dtype=torch.float64))
        self.register_buffer("unit", torch.eye(noise.shape[1], dtype=torch.float64))

    def forward(self, rows: Slots, course: Course | None) -> tuple[Tensor, Tensor]:
        """Initial states of shape (n_draws, n_series, latent_size), and logarithms of weights, (n_draws, n_series)."""
        mean, std = self.model.encoder(rows)
        uniform = torch.zeros_like(mean[:, 0]).expand(self.n_draws, -1) - math.log(self.n_draws)
        if not self.refined:
            return mean + std * self.noise[:, None], uniform
        observed, noise = ~torch.isnan(rows.y), None
        if self.model.has_memory:
            noise = ExportedNoise.of(cast(Gaussian, self.likelihood), rows.time, observed)
        rows = rows._replace(time=torch.where(observed.any(2), rows.time, torch.nan))
        found = self.search(mean, rows, course, noise)
        sound = torch.isfinite(found.value)
        mean = torch.where(sound[:, None], found.z, mean)
        lower = cholesky(torch.where(sound[:, None, None], found.information, self.unit))
        sound = sound & torch.isfinite(lower.flatten(1)).all(1)
        # inv(C) with C C^T the covariance, and C.
        inverse = torch.where(sound[:, None, None], lower.mT, self.unit / std[:, None])
        factor = torch.where(
            sound[:, None, None],
            inverse_of_lower(torch.where(sound[:, None, None], lower, self.unit)).mT,
            self.unit * std[:, None],
        )
        draws = mean + (self.noise[:, None, None] @ factor.mT)[:, :, 0]
        prior = self.noise[:, None].expand_as(draws)
        z0 = torch.cat([draws[: self.n_draws - self.n_of_prior], prior[self.n_draws - self.n_of_prior :]])
        from_mode = ((z0 - mean)[..., None, :] @ inverse.mT)[..., 0, :]
        log_volume = -torch.log(torch.diagonal(inverse, dim1=1, dim2=2)).sum(1)
        log_q = torch.logaddexp(
            math.log1p(-PRIOR_SHARE) - 0.5 * from_mode.square().sum(-1) - log_volume,
            math.log(PRIOR_SHARE) - 0.5 * z0.square().sum(-1),
        )
        end = reach_of(rows)
        eta = self.model.read_out(self.model.states(z0, rows.time, end, course), rows.covariates)
        log_weights = self.log_joint(z0, eta, rows, noise) - log_q
        # A series without observations has the prior.
        known = observed.any(2).any(1)
        return torch.where(known[:, None], z0, prior), torch.where(known, truncated(log_weights), uniform)

    def log_joint(self, z0: Tensor, eta: Tensor, rows: Slots, noise: ExportedNoise | None) -> Tensor:
        """``log p(observations, z(0))`` up to a constant, of shape (n_copies, n_series)."""
        observed = ~torch.isnan(rows.y)
        y = torch.where(observed, rows.y, 0.0)
        if noise is not None:
            return noise.log_prob(noise.whitened(y - eta)) - 0.5 * z0.square().sum(-1)
        if isinstance(self.likelihood, Poisson):  # without the constant, a factorial
            log_prob = y * eta - self.likelihood.mean(eta)
        else:
            log_prob = self.likelihood._log_prob(eta, y, None)
        return torch.where(observed, log_prob, 0.0).sum((-1, -2)) - 0.5 * z0.square().sum(-1)

    def local(
        self, z: Tensor, rows: Slots, course: Course | None, noise: ExportedNoise | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Log-density, its gradient and information at ``z``; see :class:`skode.timeseries.posterior.Inference`."""
        copies = torch.cat([z[None], z + (self.numbers[0:1] * self.unit)[:, None]])
        states = self.model.states_together(copies, rows.time, reach_of(rows), course)
        eta = self.model.read_out(states, rows.covariates)
        observed = ~torch.isnan(rows.y)
        y, slopes = torch.where(observed, rows.y, 0.0), (eta[1:] - eta[0]) / self.numbers[0:1]
        slopes = torch.where(observed & torch.isfinite(slopes), slopes, 0.0)
        if noise is None:
            score, information = self.likelihood._score(eta[0], y)
            score, information = (torch.where(observed, x, 0.0).flatten(1) for x in (score, information))
            value = self.log_joint(z[None], eta[:1], rows, None)[0]
        else:
            whitened = noise.whitened(torch.cat([(y - eta[0])[None], slopes]))
            value = noise.log_prob(whitened[:1])[0] - 0.5 * z.square().sum(-1)
            slopes, score = whitened[1:], whitened[0].flatten(1)
            information = torch.ones_like(score)
        slopes = slopes.flatten(2)
        gradient = (slopes * score).sum(2).T - z
        by_series = slopes.transpose(0, 1)
        total = (by_series * information[:, None]) @ by_series.mT + self.unit
        sound = torch.isfinite(value) & torch.isfinite(total.flatten(1)).all(1)
        return (
            torch.where(sound, value, torch.nan),
            torch.where(sound[:, None], gradient, 0.0),
            torch.where(sound[:, None, None], total, 0.0),
        )

    def search(self, z: Tensor, rows: Slots, course: Course | None, noise: ExportedNoise | None) -> Search:
        """The modes; from the prior's mean where the start can't be solved from."""
        off = torch.zeros_like(z[:, 0], dtype=torch.bool)
        start = Search(
            torch.zeros((), dtype=torch.int64, device=z.device),
            z.clone(),
            torch.full_like(z[:, 0], torch.nan),
            torch.zeros_like(z),
            self.unit.expand(z.shape[0], -1, -1).clone(),
            torch.zeros_like(z[:, 0]) + self.numbers[3:4],
            ~off,
            off,
            ~off,
        )

        def goes_on(*now: Tensor) -> Tensor:
            # One evaluation at the start, and perhaps one at the prior's mean.
            return (now[0] < MAX_SCORING_STEPS + 2) & now[6].any()

        def following(*now: Tensor) -> tuple[Tensor, ...]:
            return tuple(x.contiguous() for x in self.step(Search(*now), rows, course, noise))

        return Search(*torch.while_loop(goes_on, following, tuple(start)))

    def step(self, now: Search, rows: Slots, course: Course | None, noise: ExportedNoise | None) -> Search:
        """One step of damped scoring; see :meth:`skode.timeseries.posterior.Inference.mode`."""
        _, tolerance, doubtful, least, less, more = self.numbers.split(1)
        diagonal = self.unit * now.information
        step = solved(now.information + now.damping[:, None, None] * diagonal, now.gradient)
        rise = (step * now.gradient).sum(1)
        ending = ~now.fresh & now.going & ((rise <= tolerance) | now.settled)
        going = now.going & (now.fresh | (torch.isfinite(rise) & (now.damping < LARGEST_DAMPING)))
        # The last step, which is as good as undamped, is still to be taken.
        step = torch.where(ending[:, None], solved(now.information, now.gradient), step)
        tried = torch.where((going & ~now.fresh)[:, None], now.z + step, now.z)
        value, gradient, information = self.local(tried, rows, course, noise)
        gain = value - now.value
        better = going & ((gain > 0) | (now.fresh & torch.isfinite(value)))
        lost = now.fresh & ~torch.isfinite(value)
        again = lost & (now.steps == 0)
        settled = (gain.abs() <= tolerance) | ((gain <= 0) & (rise <= doubtful))
        damping = torch.maximum(now.damping * torch.where(better, less, more), least)
        return Search(
            now.steps + 1,
            torch.where(again[:, None], 0.0, torch.where(better[:, None], tried, now.z)),
            torch.where(better, value, now.value),
            torch.where(better[:, None], gradient, now.gradient),
            torch.where(better[:, None, None], information, now.information),
            torch.where(now.fresh, now.damping, damping),
            going & ~ending & ~(lost & ~again),
            (now.fresh & now.settled) | (~now.fresh & settled),  # runtimes choose between numbers only
            again,
        )


def reach_of(rows: Slots) -> Tensor:
    """How far each series reaches on from its start, of shape (n_series,)."""
    return torch.where(torch.isnan(rows.time), 0.0, rows.time).amax(1).clamp(min=0.0)


def truncated(log_weights: Tensor) -> Tensor:
    """See :func:`skode.timeseries.posterior._truncated`."""
    n = log_weights.shape[0]
    log_weights = torch.where(torch.isnan(log_weights), -torch.inf, log_weights)
    lost = torch.isneginf(log_weights).all(0)
    log_weights = torch.where(lost, 0.0, log_weights)
    log_mean = torch.logsumexp(log_weights, 0) - math.log(n)
    log_weights = torch.minimum(log_weights, log_mean + 0.5 * math.log(n))
    return log_weights - torch.logsumexp(log_weights, 0)


def cholesky(matrix: Tensor) -> Tensor:
    """Lower factors of matrices of shape (n, d, d), column by column, for ONNX has no operation; NaN where none."""
    d = matrix.shape[1]
    below = torch.tril(torch.ones(d, d, dtype=matrix.dtype, device=matrix.device))
    columns: list[Tensor] = []
    for j in range(d):
        column = matrix[:, :, j]
        if columns:
            known = torch.stack(columns, dim=2)
            column = column - (known @ known[:, j, :, None])[..., 0]
        columns.append(below[:, j] * column / torch.sqrt(column[:, j : j + 1]))
    return torch.stack(columns, dim=2)


def inverse_of_lower(lower: Tensor) -> Tensor:
    """Inverses of lower factors, by substitution of all columns at once."""
    unit = torch.eye(lower.shape[1], dtype=lower.dtype, device=lower.device).expand_as(lower)
    rows: list[Tensor] = []
    for i in range(lower.shape[1]):
        row = unit[:, i]
        if rows:
            row = row - (lower[:, i, :i, None] * torch.stack(rows, dim=1)).sum(1)
        rows.append(row / lower[:, i, i, None])
    return torch.stack(rows, dim=1)


def solved(matrix: Tensor, vector: Tensor) -> Tensor:
    """Solutions of positive definite systems; NaN where there is none."""
    inverse = inverse_of_lower(cholesky(matrix))
    return (inverse.mT @ (inverse @ vector[..., None]))[..., 0]

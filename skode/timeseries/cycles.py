r"""Calendar cycles of known periods in the outputs of a latent model.

With the harmonics :math:`c(t)`, sines and cosines of absolute time, the parameters of the outputs' distributions are

.. math::

    \eta_k = g_k(z(t), u(t)) + \sum_h c_h(t) \big( a_{kh} + s_{kh} b_{kh} + (G_{kh})^T z(t) \big),
    \qquad b_{kh} \sim N(0, 1)

with a of all series, b each series' own, a vector beside its latent initial state, and G for amplitudes that change
with the state. It is a linear mixed model (N. M. Laird, J. H. Ware, "Random-effects models for longitudinal data",
Biometrics 38, 1982) beside the dynamics; where training starts, a and s are those of that model with levels and slopes
in place of dynamics, by the EM algorithm, its variances by the faster fixed point of D. J. C. MacKay ("Bayesian
interpolation", Neural Computation 4, 1992).
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from skode.frames import read_span
from skode.solvers.devices import is_asynchronous
from skode.solvers.solution import Solve
from skode.timeseries.latent_ode import LatentModel, SizeOfWork
from skode.timeseries.likelihoods import Likelihood
from skode.timeseries.tensors import PanelTensors

#: Harmonics of each period.
N_HARMONICS = 3

#: Standard deviations of a level and of a slope over a series' span, in standardised outputs: as good as unknown.
LOOSE = 3.0

#: Passes of the EM algorithm.
N_PASSES = 30

#: Amplitudes are series' own where there are so many series, and their variance is this share of what is left or more,
#: and so many of its standard errors.
FEWEST_SERIES, LEAST_VARIANCE, CLEAR = 5, 0.02, 2.5


@dataclass(frozen=True)
class Cycles:
    """Sines and cosines of times.

    Attributes
    ----------
    frequencies : tuple of float
        Their frequencies, per unit of time.
    """

    frequencies: tuple[float, ...]

    @classmethod
    def of(cls, estimator: Any, time_kind: str) -> Cycles | None:
        """The first harmonics of the periods that a latent ODE's estimator was given; None where it was given none.

        Raises
        ------
        ValueError
            If a period does not suit the times, or is not positive, or the model can't have cycles.
        """
        if estimator.periods is None or not len(estimator.periods):
            return None
        if estimator.dynamics is not None:
            raise ValueError("periods are for dynamics that are learnt: equations may have cycles of the time t.")
        if estimator.observation_times == "poisson":
            raise ValueError('periods are cycles of outputs, which observation_times="poisson" does not go with.')
        lengths = [read_span("periods", period, time_kind, estimator.time) for period in estimator.periods]
        # A harmonic that two periods have counts once.
        frequencies = {float(f"{k / length:.12g}") for length in lengths for k in range(1, N_HARMONICS + 1)}
        return cls(tuple(sorted(frequencies)))

    @property
    def n_columns(self) -> int:
        """Number of sines and cosines."""
        return 2 * len(self.frequencies)

    def at(self, times: np.ndarray) -> np.ndarray:
        """Their values, of shape (n_times, n_columns)."""
        phases = 2.0 * np.pi * times[:, None] * np.array(self.frequencies)
        return np.concatenate([np.sin(phases), np.cos(phases)], axis=1)


class CyclicModel(LatentModel):
    """A latent model with cycles in its outputs.

    Parameters
    ----------
    inner : LatentModel
        The model without them.
    n_columns : int
        Number of sines and cosines, the last of the covariates at rows.
    series : PanelTensors
        The series that it will be trained on.
    """

    outputs: Tensor
    columns: Tensor
    level: Tensor

    def __init__(self, inner: LatentModel, n_columns: int, series: PanelTensors) -> None:
        super().__init__()
        self.inner, self.n_columns = inner, n_columns
        self.process, self.lead, self.likelihood = inner.process, inner.lead, inner.likelihood
        n_outputs, likelihood = self.likelihood.n_outputs, copy.deepcopy(inner.likelihood).double().cpu()
        series = _in_double(series)
        level = likelihood.start(*(x.flatten(0, 1).numpy() for x in (series.y, _row_weights(series))))
        effects = Effects.none(torch.from_numpy(level), n_outputs, n_columns).fitted(likelihood, series)
        outputs, columns = torch.nonzero(effects.spread > 0.0, as_tuple=True)
        self.register_buffer("outputs", outputs)
        self.register_buffer("columns", columns)
        self.register_buffer("level", effects.level.float())
        self.common = nn.Parameter(effects.common.float())
        self.log_spread = nn.Parameter(torch.log(effects.spread[outputs, columns]).float())
        self.log_rest = nn.Parameter(torch.log(effects.rest).float())
        self.by_state = nn.Parameter(torch.zeros(n_outputs, n_columns, inner.latent_size))
        self.latent_size = inner.latent_size + len(outputs)
        self.encoder = inner.encoder

    def effects(self) -> Effects:
        """The cycles that all series have, and the spread of their own."""
        spread = torch.zeros_like(self.common).index_put((self.outputs, self.columns), torch.exp(self.log_spread))
        return Effects(self.level, self.common, spread, torch.exp(self.log_rest))

    def posterior(self, series: PanelTensors, solver: Solve) -> tuple[Tensor, Tensor]:
        effects, own = self.effects(), self._without_cycles(series)
        cycles = series.covariates[..., -self.n_columns :]
        mean, variance = effects.posterior(self.likelihood, series, cycles)
        found = effects.eta(mean, cycles)
        level = self.level.expand_as(found)
        y = series.y - (self.likelihood.mean(level + found) - self.likelihood.mean(level))
        z_mean, z_std = self.inner.posterior(replace(own, y=y), solver)
        mean, std = (x[:, self.outputs, self.columns] for x in (mean, torch.sqrt(variance)))
        return torch.cat([z_mean, mean], dim=1), torch.cat([z_std, std], dim=1)

    def path(self, z0: Tensor, times: Tensor, reach: Tensor, series: PanelTensors, solver: Solve) -> Tensor:
        z, own = z0.split([self.inner.latent_size, len(self.outputs)], dim=-1)
        series = self._without_cycles(series)
        if len(z) > 1 and not is_asynchronous(z.device):
            # Copies that differ in amplitudes alone are one to the dynamics, as in slopes they mostly are.
            differ = (z != z[:1]).flatten(1).any(1)
            differ[0] = True
            place = torch.where(differ, torch.cumsum(differ, 0) - 1, 0)
            states = self.inner.path(z[differ], times, reach, series, solver)[place]
        else:
            states = self.inner.path(z, times, reach, series, solver)
        return torch.cat([states, own[:, :, None].expand(-1, -1, states.shape[2], -1)], dim=-1)

    def read_out(self, states: Tensor, covariates: Tensor) -> Tensor:
        n_own = len(self.outputs)
        z, own = states.split([states.shape[-1] - n_own, n_own], dim=-1)
        n_given = covariates.shape[-1] - self.n_columns
        given, cycles = covariates.split([n_given, self.n_columns], dim=-1)
        eta = self.inner.read_out(z, given)
        slopes = torch.einsum("okh,...o->...kh", self.by_state.movedim(2, 0), z[..., : self.inner.latent_size])
        eta = eta + ((self.common + slopes) * cycles[..., None, :]).sum(-1)
        parts = own * torch.exp(self.log_spread) * cycles[..., self.columns]
        return eta.index_add(-1, self.outputs, parts)

    def size_of_work(self) -> SizeOfWork:
        inner = self.inner.size_of_work()
        return replace(
            inner,
            state=inner.state + len(self.outputs),
            read_out=inner.read_out + self.common.numel() + len(self.outputs),
        )

    def _without_cycles(self, series: PanelTensors) -> PanelTensors:
        return replace(series, covariates=series.covariates[..., : -self.n_columns], observations=None)


@dataclass(frozen=True)
class Effects:
    """Amplitudes of cycles in a mixed model, in which levels and slopes of series stand for all else.

    Attributes
    ----------
    level : Tensor of shape (n_outputs,)
        The ``eta`` of a series without cycles.
    common, spread : Tensor of shape (n_outputs, n_columns)
        Amplitudes that all series have, and standard deviations of each series' own.
    rest : Tensor of shape (n_outputs,)
        Variance of what is left, in units of the likelihood's (1 where outputs are standardised).
    """

    level: Tensor
    common: Tensor
    spread: Tensor
    rest: Tensor

    @classmethod
    def none(cls, level: Tensor, n_outputs: int, n_columns: int) -> Effects:
        """Those that an estimation starts from."""
        zeros = level.new_zeros(n_outputs, n_columns)
        return cls(level, zeros, zeros + 1.0, level.new_ones(n_outputs))

    def eta(self, own: Tensor, cycles: Tensor) -> Tensor:
        """What cycles add at rows, of shape (n_series, n_slots, n_outputs)."""
        return torch.einsum("nkh,nsh->nsk", self.common + self.spread * own, cycles)

    def posterior(self, likelihood: Likelihood, series: PanelTensors, cycles: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance of each series' own amplitudes, of shape (n_series, n_outputs, n_columns)."""
        response, weight = self._working(likelihood, series)
        mean, covariance, _ = self._solved(response, weight, series, cycles)
        n_own = cycles.shape[-1]
        return mean[..., :n_own], torch.diagonal(covariance, dim1=-2, dim2=-1)[..., :n_own]

    def fitted(self, likelihood: Likelihood, series: PanelTensors) -> Effects:
        """The likeliest; own amplitudes only where there are enough series, and they clearly differ."""
        n_columns = self.common.shape[1]
        cycles, effects = series.covariates[..., -n_columns:], self
        response, weight = self._working(likelihood, series, scaled=False)
        counts = (_row_weights(series)[..., None] * (weight > 0.0)).sum((0, 1)).clamp_min(1e-12)
        seen = (weight > 0.0).any(1)
        n_seen = seen.sum(0).clamp_min(1)
        several = n_seen >= FEWEST_SERIES
        for _ in range(N_PASSES):
            mean, covariance, design = effects._solved(response, weight / effects.rest, series, cycles)
            own = mean[..., :n_columns] * effects.spread
            left = response - torch.einsum("nsj,nkj->nsk", design, effects._scaled(mean))
            left = left - torch.einsum("kh,nsh->nsk", effects.common, cycles)
            scale = effects._scaled(torch.ones_like(mean))
            scaled = covariance * scale[..., None] * scale[..., None, :]
            wide = torch.einsum("nsi,nkij,nsj->nsk", design, scaled, design)
            rest = (weight * (left**2 + wide)).sum((0, 1)) / counts
            shift = (own * seen[..., None]).sum(0) / n_seen[:, None]
            known = 1.0 - torch.diagonal(covariance, dim1=-2, dim2=-1)[..., :n_columns]
            squares = (((own - shift) ** 2) * seen[..., None]).sum(0)
            spread = torch.sqrt(squares / (known * seen[..., None]).sum(0).clamp_min(1e-6))
            spread = torch.where(several[:, None], spread.clamp(1e-4, 10.0), effects.spread)
            effects = Effects(self.level, effects.common + shift, spread, rest.clamp_min(1e-6))
        # Variances of amplitudes, and the standard error of these where they are 0, from what a series tells of one.
        variance, data = effects.spread**2, torch.where(seen[..., None], (1.0 - known) / known, torch.nan)
        error = variance * data.nanmedian(0)[0] * torch.sqrt(2.0 / n_seen[:, None])
        least = torch.maximum(LEAST_VARIANCE * effects.rest[:, None], CLEAR * torch.nan_to_num(error))
        clear = several[:, None] & (variance >= least)
        return replace(effects, spread=torch.where(clear, effects.spread, 0.0))

    def _working(self, likelihood: Likelihood, series: PanelTensors, *, scaled: bool = True) -> tuple[Tensor, Tensor]:
        """Linearised observations about the level, and their weights: 0 where nothing was observed."""
        level = self.level.expand_as(series.y)
        if likelihood.standardised:
            observed = ~torch.isnan(series.y)
            response, weight = torch.where(observed, series.y - level, 0.0), observed.to(series.y)
        else:
            score, weight = likelihood.score(level, series.y)
            response = torch.where(weight > 0.0, score / weight.clamp_min(1e-12), 0.0)
        weight = weight * _row_weights(series)[..., None]
        return response, weight / self.rest if scaled else weight

    def _scaled(self, mean: Tensor) -> Tensor:
        """Coefficients of the design, from those in units of their prior."""
        loose = self.spread.new_full((len(self.spread), 2), LOOSE)
        return mean * torch.cat([self.spread, loose], dim=1)

    def _solved(
        self, response: Tensor, weight: Tensor, series: PanelTensors, cycles: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Mean and covariance of own amplitudes, levels and slopes, in units of their priors; and their design."""
        since = torch.where(series.filled, series.time, torch.inf).amin(1, keepdim=True)
        time = torch.nan_to_num(torch.nan_to_num(series.time) - since, posinf=0.0, neginf=0.0)
        time = torch.where(series.filled, time, 0.0)
        time = (time / time.amax(1, keepdim=True).clamp_min(1e-12) - 0.5).to(cycles)
        design = torch.cat([cycles, torch.ones_like(time)[..., None], time[..., None]], dim=-1)
        left = response - torch.einsum("kh,nsh->nsk", self.common, cycles)
        scale = self._scaled(torch.ones(len(self.spread), design.shape[-1]).to(self.spread))
        products = torch.einsum("nsi,nsk,nsj->nkij", design, weight, design) * scale[:, :, None] * scale[:, None]
        unit = torch.eye(design.shape[-1]).to(products)
        covariance = torch.cholesky_inverse(torch.linalg.cholesky(products + unit))
        moments = torch.einsum("nsi,nsk->nki", design, weight * left) * scale
        return (covariance @ moments[..., None])[..., 0], covariance, design


def _in_double(series: PanelTensors) -> PanelTensors:
    """The same on the CPU, as far as it is read here."""
    weights = None if series.weights is None else series.weights.double().cpu()
    y, covariates = series.y.double().cpu(), series.covariates.double().cpu()
    return replace(series, time=series.time.cpu(), y=y, covariates=covariates, weights=weights)


def _row_weights(series: PanelTensors) -> Tensor:
    """Weights of the slots; 0 where there is no row."""
    return series.filled.to(series.y) if series.weights is None else series.weights

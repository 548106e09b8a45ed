"""The method ``export`` of ``LatentODERegressor``, and the program that it writes."""

from __future__ import annotations

import copy
from typing import Any, cast

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

from skode.serving import Exports, Input, Program, TracedSolver
from skode.timeseries.cycles import CyclicModel
from skode.timeseries.exported.model import ExportedModel
from skode.timeseries.exported.noise import ExportedNoise
from skode.timeseries.exported.posterior import ExportedPosterior
from skode.timeseries.exported.series import Course, ExportedUnits, Slots, in_order
from skode.timeseries.latent_ode import LatentModel, LatentODE
from skode.timeseries.likelihoods import Gaussian
from skode.timeseries.panel import Panel
from skode.timeseries.posterior import Posterior, normal_draws
from skode.timeseries.units import Units
from skode.training import of_one_model

#: Series, known rows and times that graphs are made by: different numbers, so that none is taken for another.
EXAMPLE_SIZES = (3, 5, 7)


class ExportsLatentODE(Exports):
    """Export of conditioning and prediction."""

    module_: LatentModel
    context_: Panel
    posterior_: Posterior
    _units: Units
    _refined: bool

    def export(self, path: Any, format: str = "onnx", *, method: str = "predict") -> None:
        """Write predictions of new series to a file that runs without this package.

        It answers as ``condition(X, y).predict(X_new, return_std=True)`` does for series that the model does not know.
        Inputs are float64, of any number of series, rows and times, at least one of each (a series without known rows
        has NaN), in the units of ``fit`` (dates as seconds since 1970, in UTC where they have a time zone; differences
        as seconds):

        - ``known_times`` of shape (n_series, n_known): times of known rows in ascending order, behind the last one NaN;
        - ``known_y`` of shape (n_series, n_known, n_outputs): values, NaN where nothing was observed;
        - ``times`` of shape (n_series, n_times): times to predict at, in any order; NaN: none;
        - ``known_covariates`` of shape (n_series, n_known, n_covariates) and ``covariates`` of shape (n_series,
          n_times, n_covariates), where ``fit`` had covariates.

        Outputs are ``y_mean`` and ``y_std``, of shape (n_series, n_times, n_outputs). The posterior of each series is
        found as ``condition`` finds it, refined where ``posterior="laplace"``; equal rows of one series count each.
        Series that can't be solved are answered by NaN, and so are those with an infinite value or with known times
        that are not in ascending order.

        Parameters
        ----------
        path : str or path-like
            The file. One that is there is replaced once the new one is whole.
        format : {"onnx", "torch"}, default="onnx"
            ONNX, or a program of ``torch.export`` (a ``.pt2`` file).
        method : {"predict"}, default="predict"
            The method.

        Raises
        ------
        NotFittedError
            Before ``fit``.
        ImportError
            Where a package is missing; the message says which.
        ValueError
            Where the solver's ``method`` is implicit or one of Adams', or the model has what can't be exported:
            ``dynamics`` of one's own, ``periods``, times as data together with ``posterior="laplace"``, an encoder of
            one's own.
        """
        self._program(method).write(path, format)

    @of_one_model
    def _program(self, method: str = "predict") -> Program:
        """The program of the method."""
        check_is_fitted(self)
        if method != "predict":
            raise ValueError(f"method={method!r} can't be exported; choose 'predict'.")
        self._check_exportable()
        (n, n_known, n_times), units = EXAMPLE_SIZES, self._units
        times = torch.arange(float(n_known + n_times), dtype=torch.float64).expand(n, -1) * units.time_scale
        known, new = times[:, :n_known].clone(), times[:, n_known:].clone()
        y = torch.zeros(n, n_known, len(units.output_names), dtype=torch.float64)
        inputs = [
            Input("known_times", known, ("n_series", "n_known")),
            Input("known_y", y, ("n_series", "n_known", None)),
            Input("times", new, ("n_series", "n_times")),
        ]
        if units.n_covariates:
            some = torch.zeros(n, n_known, units.n_covariates, dtype=torch.float64)
            others = torch.zeros(n, n_times, units.n_covariates, dtype=torch.float64)
            inputs.append(Input("known_covariates", some, ("n_series", "n_known", None)))
            inputs.append(Input("covariates", others, ("n_series", "n_times", None)))
        described = {
            **self._description(method),
            "posterior": "laplace" if self._refined else "encoder",
            "output_names": [str(name) for name in units.output_names],
            "time_kind": units.time_kind,
        }
        return Program(ExportedLatentODE(self), tuple(inputs), ("y_mean", "y_std"), described)

    def _check_exportable(self) -> None:
        """Raise a ValueError for what can't be exported."""
        module, reason = self.module_, None
        if isinstance(module, CyclicModel):
            reason = "its cycles (periods) are a mixed model of their own beside the dynamics"
        elif not isinstance(module, LatentODE):
            reason = "its dynamics are functions of one's own"
        elif module.process and self._refined:
            reason = 'observation_times="poisson" enters the refined posterior: fit with posterior="encoder"'
        if reason is not None:
            raise ValueError(f"The model can't be exported: {reason}.")


class ExportedLatentODE(nn.Module):
    """Predictions of new series, from their known rows."""

    def __init__(self, estimator: Any) -> None:
        super().__init__()
        module, units = copy.deepcopy(estimator.module_).double(), estimator._units
        self.units = ExportedUnits(units, float(np.median(estimator.context_.origins)))
        self.model = ExportedModel(module, TracedSolver(estimator._solver()))
        noise = normal_draws(estimator.posterior_.n_draws, module.latent_size)
        self.posterior = ExportedPosterior(self.model, noise, refined=estimator._refined)
        self.lead, self.horizon = module.lead, module.horizon

    def forward(
        self,
        known_times: Tensor,
        known_y: Tensor,
        times: Tensor,
        known_covariates: Tensor | None = None,
        covariates: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        if known_covariates is None or covariates is None:
            known_covariates, covariates = known_times[..., None][..., :0], times[..., None][..., :0]
        origins = self.units.origins(known_times)
        known = self.units.slots(known_times, known_y, known_covariates, origins)
        new = self.units.slots(times, None, covariates, origins)
        z0, log_weights = self.posterior(known, self.model.course(known))
        eta, sound, coloured = self.read_out(z0, new, known)
        weights = torch.softmax(torch.where(sound, log_weights[..., None], -torch.inf), dim=0)[..., None]
        likelihood = self.model.module.likelihood
        means = likelihood.mean(eta)
        mean = weighted(weights, means)
        variance = weighted(weights, likelihood.variance(eta) + (means - mean).square())
        if coloured is not None:
            variance = variance + coloured
        # Infinite values would count as not observed, which only NaN says, and the encoder reads rows in their order.
        units, ordered = self.units, torch.where(torch.isnan(known_times), torch.inf, known_times)
        falling = (ordered.sort(dim=1).values != ordered).any(1)
        answerable = ~torch.isinf(known_y).any(2).any(1) & ~falling
        reached = sound.any(0)[..., None] & answerable[:, None, None]
        mean, std = mean * units.y_scale + units.y_shift, variance.sqrt() * units.y_scale
        return torch.where(reached, mean, torch.nan), torch.where(reached, std, torch.nan)

    def read_out(self, z0: Tensor, new: Slots, known: Slots) -> tuple[Tensor, Tensor, Tensor | None]:
        """Parameters of the distributions of new rows, whether they could be solved, and the variance beside.

        With a noise that has a memory what it was at known rows tells of what it is at others.
        """
        course, likelihood = self.model.course(known, new), self.model.module.likelihood
        if not self.model.has_memory:
            states = self.states(z0, new.time, course)
            return self.model.read_out(states, new.covariates), torch.isfinite(states).all(-1), None
        nothing = torch.full_like(new.time, torch.nan)[..., None].expand(-1, -1, known.y.shape[2])
        time = torch.cat([new.time, torch.where((~torch.isnan(known.y)).any(2), known.time, torch.nan)], dim=1)
        order = torch.argsort(torch.where(torch.isnan(time), torch.inf, time), dim=1)
        time, y = time.gather(1, order), in_order(torch.cat([nothing, known.y], dim=1), order)
        states = self.states(z0, time, course)
        eta = self.model.read_out(states, in_order(torch.cat([new.covariates, known.covariates], dim=1), order))
        residual = y - eta
        noise = ExportedNoise.of(cast(Gaussian, likelihood), time, torch.isfinite(residual).any(0))
        mean, variance = noise.smoothed(torch.where(torch.isfinite(residual), residual, 0.0))
        place = torch.argsort(order, dim=1)[:, : new.time.shape[1]]
        sound = torch.isfinite(states).all(-1).gather(2, place.expand(states.shape[0], -1, -1))
        places = place[..., None].expand(-1, -1, eta.shape[3])
        eta = (eta + mean).gather(2, places.expand(eta.shape[0], -1, -1, -1))
        return eta, sound, variance.gather(1, places)

    def states(self, z0: Tensor, times: Tensor, course: Course | None) -> Tensor:
        """See :meth:`skode.timeseries.predictive.Predictive._states`."""
        known = torch.where(torch.isnan(times), 0.0, times)
        first, last = known.amin(1).clamp(max=0.0), known.amax(1).clamp(min=0.0)
        lead, horizon = self.lead, self.horizon
        forward = torch.ceil((last - lead) / horizon - 1e-9).clamp(min=1.0) * horizon + lead
        backward = torch.floor(first / horizon) * horizon
        # Both sides of the start in one solve, as copies.
        n_copies = z0.shape[0]
        sides = torch.where(torch.stack([times >= 0.0, times < 0.0]), times, torch.nan)
        ends = torch.stack([torch.maximum(forward, last), backward])
        sides, ends = sides.repeat_interleave(n_copies, 0), ends.repeat_interleave(n_copies, 0)
        ahead, before = self.model.states(z0.repeat(2, 1, 1), sides, ends, course).unflatten(0, (2, n_copies)).unbind(0)
        return torch.where((times < 0.0)[..., None], before, ahead)


def weighted(weights: Tensor, values: Tensor) -> Tensor:
    """See :meth:`skode.timeseries.predictive.Prediction.mean`."""
    counts = weights > 0.0
    mean = torch.where(counts, weights * values, 0.0).sum(0)
    least, most = torch.where(counts, values, torch.inf).amin(0), torch.where(counts, values, -torch.inf).amax(0)
    return torch.minimum(torch.maximum(mean, least), most)

"""The posterior predictive of a latent ODE: predictions at any time of any series."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor

from skode.distributed.scope import in_step
from skode.distributed.work import shared_out
from skode.solvers import SolverError
from skode.timeseries.footprint import Footprint
from skode.timeseries.latent_ode import LatentModel
from skode.timeseries.panel import Panel
from skode.timeseries.posterior import Posterior, normal_draws
from skode.timeseries.query import Query
from skode.timeseries.tensors import PanelTensors
from skode.training import Solver, new_generator, to_numpy, warn_caller

#: Standardised predictions beyond this are warned of.
FAR = 1e6


@dataclass(frozen=True)
class Prediction:
    """Draws of latent states and of distributions of outputs at some rows.

    Attributes
    ----------
    rows : ndarray of int, of shape (n_rows,)
        Which rows.
    states : Tensor of shape (n_draws, n_rows, latent_size)
        Latent states.
    eta : Tensor of shape (n_draws, n_rows, n_outputs)
        Parameters of the outputs' distributions.
    log_rate : Tensor of shape (n_draws, n_rows) or None
        Logarithm of the intensity of times, per unit of scaled time.
    weights : Tensor of shape (n_draws, n_rows)
        Of the draws; they sum to 1.
    coloured : Tensor of shape (n_rows, n_outputs) or None
        Variance of the noise with a memory, given what is known; its mean is in ``eta``.
    """

    rows: np.ndarray
    states: Tensor
    eta: Tensor
    log_rate: Tensor | None
    weights: Tensor
    coloured: Tensor | None = None

    def mean(self, values: Tensor) -> Tensor:
        """Over draws, of values of shape (n_draws, n_rows, ...)."""
        weights = self.weights.view(*self.weights.shape, *[1] * (values.ndim - 2))
        counts = weights > 0
        mean = torch.where(counts, weights * values, 0.0).sum(0)
        # Weights sum to 1 but for rounding: a mean of probabilities must not exceed the largest.
        most, least = (torch.where(counts, values, edge) for edge in (-torch.inf, torch.inf))
        return mean.clamp(least.amin(0), most.amax(0))


class Predictive:
    """Latent states of series at any time, by draws of the initial states.

    Parameters
    ----------
    module : LatentModel
        The model.
    tensors : callable
        Turns a panel, and the panel from which covariates are known, into tensors in the model's units.
    solver : Solver
        The solver.
    """

    def __init__(
        self,
        module: LatentModel,
        tensors: Callable[[Panel, Panel], PanelTensors],
        solver: Solver,
    ) -> None:
        self.module, self.tensors, self.solver = module, tensors, solver
        self.footprint = Footprint.of(module, solver.method)

    def predictions(
        self,
        query: Panel,
        known: Panel,
        positions: np.ndarray,
        posterior: Posterior,
        noise: Tensor,
        generator: torch.Generator | None = None,
        only: np.ndarray | None = None,
    ) -> Iterator[Prediction]:
        """Predictions, in blocks of series.

        Parameters
        ----------
        query : Panel
            The rows to predict at, sorted by series, then time.
        known : Panel
            All rows of which covariates or outputs are known.
        positions : ndarray of int, of shape (query.n_series,)
            Each series' position in ``known``; -1 where it is not there.
        posterior : Posterior
            Of the series in ``query``.
        noise : Tensor
            Noise that the draws are made from; see :meth:`Posterior.draws`.
        generator : torch.Generator, default=None
            Source of paths of the noise that has a memory; None: its mean, and its variance beside.
        only : ndarray of int, default=None
            The series to predict for; None: all of them.
        """
        n_lost = 0
        only = np.arange(query.n_series) if only is None else only
        for places in self.footprint.blocks(len(noise), *(lengths[only] for lengths in self._lengths(query, known))):
            block = only[places]
            prediction, lost = self._predicted(
                query.take(block),
                known.take(positions[block][positions[block] >= 0]),
                posterior.take(block),
                noise if noise.ndim == 2 else noise[:, torch.from_numpy(block)],
                generator,
            )
            n_lost += lost
            yield replace(prediction, rows=query.rows_of(block))
        if n_lost:
            warn_caller(
                f"The dynamics of {n_lost} draws of latent states could not be solved as far as the times of X; these "
                "draws were left out. Ask for times closer to the data, or train on longer series.",
                ConvergenceWarning,
            )

    def gather(
        self,
        quantity: Callable[[Prediction], Tensor],
        query: Query,
        posterior: Posterior,
        *,
        noise: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> np.ndarray:
        """A quantity of the predictions at all rows, of shape (n, n_rows, ...), in the order of the user's rows.

        Parameters
        ----------
        quantity : callable
            Of a prediction, whose rows are positions among the user's rows, a tensor of shape (n, rows of the
            prediction, ...).
        query : Query
            The rows.
        posterior : Posterior
            Of the series in the query.
        noise : Tensor, default=None
            Source of the latent states, of which as many are solved at once as memory allows: the quantity has an
            entry for each. None: the draws that predictions are averaged over.
        generator : torch.Generator, default=None
            Source of paths of the noise that has a memory; None: its mean and variance.
        """
        if noise is None:
            draws = normal_draws(posterior.n_draws, self.module.latent_size)
            if generator is None and in_step() is not None:
                return self._gather_shared_out(quantity, query, posterior, draws)
            return _in_order(query, _values(quantity, query, self._predictions_at(query, posterior, draws, generator)))
        parts = []
        for some in noise.split(self.n_draws_at_once(query.panel, query.known)):
            uniform = torch.full((len(some), query.panel.n_series), -np.log(len(some)), dtype=torch.float64)
            equal = Posterior(posterior.mean, posterior.factor, uniform)
            predictions = self._predictions_at(query, equal, some, generator)
            parts.append(_in_order(query, _values(quantity, query, predictions)))
        return np.concatenate(parts)

    def _gather_shared_out(
        self, quantity: Callable[[Prediction], Tensor], query: Query, posterior: Posterior, draws: Tensor
    ) -> np.ndarray:
        """The same where each of some processes predicts for a part of the series."""

        def of_series(series: np.ndarray) -> tuple[np.ndarray, ...]:
            own = self.predictions(query.panel, query.known, query.positions, posterior, draws, only=series)
            rows, parts = zip(*_values(quantity, query, own), strict=True)
            return np.concatenate(rows), np.concatenate(parts, axis=1).swapaxes(0, 1)

        rows, values = shared_out(of_series, np.arange(query.panel.n_series))
        return _in_order(query, [(rows, values.swapaxes(0, 1))])

    def _predictions_at(
        self, query: Query, posterior: Posterior, noise: Tensor, generator: torch.Generator | None
    ) -> Iterator[Prediction]:
        return self.predictions(query.panel, query.known, query.positions, posterior, noise, generator)

    def moments(
        self, query: Query, posterior: Posterior, *, with_std: bool = False
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Means, and with ``with_std`` standard deviations, of the outputs: of shape (n_rows, n_outputs).

        Warns
        -----
        ConvergenceWarning
            If standardised means are beyond :data:`FAR`.
        """
        likelihood = self.module.likelihood

        def moments(prediction: Prediction) -> Tensor:
            means = likelihood.mean(prediction.eta)
            mean = prediction.mean(means)
            if not with_std:
                return mean[None]
            variance = prediction.mean(likelihood.variance(prediction.eta) + (means - mean) ** 2)
            return torch.stack([mean, variance if prediction.coloured is None else variance + prediction.coloured])

        mean, *variance = self.gather(moments, query, posterior)
        if likelihood.standardised and (np.abs(mean) > FAR).any():
            warn_caller(
                f"Some predictions are more than {FAR:g} standard deviations of y from its mean: the dynamics explode "
                "so far from the data. Ask for times closer to the data, or train on longer series.",
                ConvergenceWarning,
            )
        return mean, np.sqrt(variance[0]) if with_std else None

    def log_density(self, query: Query, posterior: Posterior, y: np.ndarray) -> np.ndarray:
        """Log predictive densities of rows, of shape (n_rows,), for values of shape (n_rows, n_outputs)."""
        likelihood, values = self.module.likelihood, torch.from_numpy(y)

        def log_density(prediction: Prediction) -> Tensor:
            own = values[torch.from_numpy(prediction.rows)].to(prediction.eta)
            log_prob = likelihood.log_prob(prediction.eta, own, prediction.coloured)
            return log_mean_density(log_prob, prediction.weights)[None]

        return self.gather(log_density, query, posterior)[0]

    def samples(self, query: Query, posterior: Posterior, n_samples: int, rng: np.random.RandomState) -> np.ndarray:
        """Draws of the outputs, of shape (n_samples, n_rows, n_outputs); rows of a series lie on one path in each."""
        generator = new_generator(rng)
        noise = rng.standard_normal((n_samples, query.panel.n_series, self.module.latent_size))
        return self.gather(
            lambda prediction: self._drawn(prediction, generator),
            query,
            posterior,
            noise=torch.from_numpy(noise),
            generator=generator,
        )

    def samples_of_prior(self, panel: Panel, known: Panel, rng: np.random.RandomState) -> np.ndarray:
        """One draw of the outputs of new series, of shape (n_rows, n_outputs).

        Parameters
        ----------
        panel : Panel
            Their rows.
        known : Panel
            The observations that the model is conditioned on, of other series.
        rng : RandomState
            Source of the draws.
        """
        n, size = panel.n_series, self.module.latent_size
        noise = torch.from_numpy(rng.standard_normal((1, n, size)))
        generator, draws = new_generator(rng), np.empty(panel.y.shape)
        nowhere = np.full(n, -1)
        for prediction in self.predictions(panel, known, nowhere, Posterior.prior(n, size, 1), noise, generator):
            draws[prediction.rows] = to_numpy(self._drawn(prediction, generator)[0])
        return draws

    def _drawn(self, prediction: Prediction, generator: torch.Generator) -> Tensor:
        """Draws of the outputs; NaN where the dynamics could not be solved."""
        drawn = self.module.likelihood.sample(torch.nan_to_num(prediction.eta), generator)
        return torch.where(torch.isnan(prediction.eta), torch.nan, drawn)

    def n_draws_at_once(self, query: Panel, known: Panel) -> int:
        """How many draws of the longest series stay within the memory bound; one at least."""
        n_rows, n_knots = self._lengths(query, known)
        return self.footprint.n_copies(int(n_rows.max(initial=0)), int(n_knots.max(initial=0)))

    def _lengths(self, query: Panel, known: Panel) -> tuple[np.ndarray, np.ndarray]:
        """Of each series, rows that are solved for, and rows from which covariates are known."""
        both, _ = query.beside(known)
        n_own, n_all = (np.bincount(panel.codes, minlength=query.n_series) for panel in (query, both))
        return n_all if self.module.likelihood.has_memory else n_own, n_all

    @torch.no_grad()
    def _predicted(
        self, query: Panel, known: Panel, posterior: Posterior, noise: Tensor, generator: torch.Generator | None
    ) -> tuple[Prediction, int]:
        likelihood = self.module.likelihood
        query = query.after(known)
        panel, is_query = query, np.ones(len(query.time), dtype=bool)
        if likelihood.has_memory:
            # The values in the query are not known, whatever its panel says.
            panel, is_query = query.without(is_query).beside(known.observed())
        if panel.covariates.shape[1] or panel.doses is not None:
            known = known.joined(query)
            series = self.tensors(panel, known.take(known.ids.get_indexer(query.ids)))
        else:
            series = self.tensors(panel, panel)
        z0 = posterior.draws(noise).to(series.y)
        states = self._states(z0, series, on_failure="nan")
        codes, places = (torch.from_numpy(x).to(states.device) for x in (panel.codes, panel.slots()[1]))
        states, covariates = states[:, codes, places], series.covariates[codes, places]
        eta, coloured = self.module.read_out(states, covariates), None
        if likelihood.has_memory:
            rest, coloured = self._coloured(series, codes, places, eta, generator)
            eta = eta + rest
        log_rate = None
        if self.module.process:
            log_rate = self.module.log_rate(states, covariates)
        log_weights = posterior.log_weights.to(states.device)[:, codes]
        sound = torch.isfinite(states).all(-1)
        rows = torch.from_numpy(np.flatnonzero(is_query)).to(states.device)
        states, eta, log_weights, sound = (x[:, rows] for x in (states, eta, log_weights, sound))
        if not bool(sound.any(0).all()):
            self._say_why(z0, series)
        weights = torch.softmax(torch.where(sound, log_weights, -torch.inf), dim=0)
        n_lost = int((~sound).any(1).sum())
        log_rate = None if log_rate is None else log_rate[:, rows]
        coloured = None if coloured is None else coloured[rows]
        return Prediction(np.flatnonzero(is_query), states, eta, log_rate, weights, coloured), n_lost

    def _coloured(
        self, series: PanelTensors, codes: Tensor, places: Tensor, eta: Tensor, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor | None]:
        """Mean and variance of the noise that has a memory at all rows; or draws of it, without a variance."""
        residual = torch.full((len(eta), *series.y.shape), torch.nan, dtype=torch.float64, device=eta.device)
        residual[:, codes, places] = (series.y[codes, places] - eta).double()
        # Rows that can't be reached tell nothing. A draw that can't reach one that others can has hardly a weight.
        observed = torch.isfinite(residual).any(0)
        residual = torch.nan_to_num(residual, posinf=0.0, neginf=0.0)
        noise = self.module.likelihood.coloured_noise(series.time, observed, series.weights)
        assert noise is not None
        if generator is not None:
            return noise.drawn(residual, generator)[:, codes, places].to(eta), None
        variance = noise.smoothed_variance[codes, places].to(eta)
        return noise.smoothed(residual)[:, codes, places].to(eta), variance

    def _say_why(self, z0: Tensor, series: PanelTensors) -> None:
        """Raise what keeps all draws from being solved."""
        try:
            self._states(z0, series, on_failure="raise")
        except SolverError as error:
            raise type(error)(
                "The dynamics could not be solved as far as the times of X, by any draw of a latent state: "
                f"{error.reason}",
                time=error.time,
                step_size=error.step_size,
                advice="Times here count time_scale_ from a series' start. Ask for times closer to the data.",
            ) from error

    def _states(self, z0: Tensor, series: PanelTensors, *, on_failure: str) -> Tensor:
        """Latent states at times before and after the start; NaN in empty slots.

        Each series is solved to a whole number of horizons, so that a prediction does not depend on which other times
        within them are wanted, and beyond them only as much as the solver's accuracy.
        """
        lead, horizon = self.module.lead, self.module.horizon
        # Forward, whole horizons from the first row on, and at least one; the margin is for rounding at a last row.
        forward = ((series.reach[:, 1] - lead) / horizon - 1e-9).ceil().clamp_min(1.0) * horizon + lead
        backward = (series.reach[:, 0] / horizon).floor() * horizon
        reach = torch.stack([backward, torch.maximum(forward, series.reach[:, 1])], dim=1)
        return self.module.path(z0, series.time, reach, series, self.solver.replace(on_failure=on_failure))


def _values(
    quantity: Callable[[Prediction], Tensor], query: Query, predictions: Iterable[Prediction]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Positions among the user's rows, and a quantity of the predictions there, of shape (n, n_rows, ...)."""
    for part_of_all in predictions:
        prediction = replace(part_of_all, rows=query.order[part_of_all.rows])
        yield prediction.rows, to_numpy(quantity(prediction)).astype(np.float64)


def _in_order(query: Query, parts: Iterable[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """Values at all rows of a query, in the order of the user's rows."""
    gathered: np.ndarray | None = None
    for rows, part in parts:
        if gathered is None:
            gathered = np.empty((len(part), len(query.order), *part.shape[2:]))
        gathered[:, rows] = part
    assert gathered is not None
    return gathered


def log_mean_density(log_prob: Tensor, weights: Tensor) -> Tensor:
    """Logarithm of the rows' densities, averaged over draws; draws without weight may be NaN.

    Parameters
    ----------
    log_prob : Tensor of shape (n_draws, n_rows, n_outputs)
        Log-density of each value under each draw.
    weights : Tensor of shape (n_draws, n_rows)
        Of the draws; they sum to 1.
    """
    by_draw = torch.where(weights > 0, log_prob.sum(-1), 0.0) + torch.log(weights)
    return torch.logsumexp(by_draw, dim=0)

"""Validation by forecasts of the last rows of some series, which are set aside in training."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import torch

from skode.distributed.work import by_first
from skode.timeseries.encoders.base import with_observations
from skode.timeseries.footprint import Footprint
from skode.timeseries.latent_ode import LatentModel
from skode.timeseries.likelihoods import Gaussian
from skode.timeseries.panel import Panel
from skode.timeseries.predictive import Prediction, log_mean_density
from skode.timeseries.rows import Rows
from skode.timeseries.tensors import PanelTensors
from skode.training import Solver

#: Of a series of which rows are set aside, at least this share is, if there are many.
LONGEST_TAIL = 1 / 3

#: Fewer observed rows than this are all trained on.
FEWEST_ROWS = 20

#: Factors by which the noise may be raised.
WIDER = np.geomspace(1.0, 4.0, 29)


def last_rows(panel: Panel, fraction: float, rng: np.random.RandomState) -> np.ndarray:
    """Which rows are set aside, as a mask: about ``fraction`` of those observed.

    A third of the rows of every series chosen; where there are few series, a smaller share of all of them. None
    where there are few rows, or a series has no more than one.
    """
    aside = np.zeros(len(panel.time), dtype=bool)
    observed = np.flatnonzero(~np.isnan(panel.y).all(axis=1))
    if len(observed) < FEWEST_ROWS:
        return aside
    codes = panel.codes[observed]
    lengths = np.bincount(codes, minlength=panel.n_series)
    places = np.arange(len(codes)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    many = panel.n_series * fraction >= 1.0
    share = max(LONGEST_TAIL, fraction) if many else fraction
    n_chosen = round(panel.n_series * fraction / share) if many else panel.n_series
    chosen = np.zeros(panel.n_series, dtype=bool)
    chosen[rng.permutation(panel.n_series)[: max(n_chosen, 1)]] = True
    tails = np.minimum(np.ceil(share * lengths), np.maximum(lengths - 1, 0))
    aside[observed[chosen[codes] & (places >= (lengths - tails)[codes])]] = True
    return aside


def forecast_density(
    module: LatentModel,
    known: Panel,
    aside: Panel,
    tensors: Callable[[Panel], PanelTensors],
    solver: Solver,
) -> Callable[[], float]:
    """The mean log-density of the rows set aside, given the others, by the encoder's mean: a function to call anew.

    In the mean a row of weight two counts twice.

    Parameters
    ----------
    module : LatentModel
        The model, as it is at the time of the call.
    known, aside : Panel
        The rows trained on and those set aside, of the same series.
    tensors : callable
        Turns a panel's observed rows into tensors in the model's units.
    solver : Solver
        The solver.
    """
    some = np.unique(aside.observed().codes)
    lengths = np.bincount(aside.beside(known)[0].codes, minlength=aside.n_series)
    parts = []
    for places in Footprint.of(module, solver.method).blocks(1, lengths[some]):
        context, query = (tensors(panel.take(some[places])) for panel in (known, aside))
        parts.append((with_observations(context), Rows(query, process=False)))
    # Shared steps are the faster ones; the mean over series needn't be of solutions that depend on no other series.
    solver = solver.replace(step_control="shared")
    n_values = aside.row_weights() @ (~np.isnan(aside.y)).sum(1)

    @torch.no_grad()
    def density() -> float:
        total = 0.0
        for context, rows in parts:
            query = rows.series
            mean, _ = module.posterior(context, solver)
            states = module.path(mean[None], query.time, query.reach, query, solver)
            eta = module.read_out(rows.taken(states)[0], rows.covariates)
            total += float(rows.weighted(module.likelihood.log_prob(eta, rows.y).sum(-1)).sum())
        return total / n_values

    return density


def widen_noise(likelihood: Gaussian, aside: Panel, predictions: Iterable[Prediction]) -> None:
    """Raise the noise to what the rows set aside call for, where that is more than was learned.

    Weights that were fitted to the other rows make these look more certain than any row to come.

    Parameters
    ----------
    likelihood : Gaussian
        Whose noise is raised, by the factor of :data:`WIDER` at which the rows are most likely.
    aside : Panel
        The rows set aside.
    predictions : iterable of Prediction
        Predictions of them, given the others.
    """
    likelihood.widen(by_first(lambda: _wider_by(likelihood, aside, predictions)))


@torch.no_grad()
def _wider_by(likelihood: Gaussian, aside: Panel, predictions: Iterable[Prediction]) -> float:
    """The factor at which the rows set aside are most likely."""
    variance = torch.exp(2.0 * likelihood.log_noise)
    densities, row_weights = np.zeros(len(WIDER)), aside.row_weights()
    for prediction in predictions:
        values, w = (torch.from_numpy(x[prediction.rows]).to(prediction.eta) for x in (aside.y, row_weights))
        coloured = 0.0 if prediction.coloured is None else prediction.coloured
        for i, factor in enumerate(WIDER):
            added = factor**2 * (variance + coloured) - variance
            by_row = log_mean_density(likelihood.log_prob(prediction.eta, values, added), prediction.weights)
            densities[i] += float((w * by_row).sum())
    return float(WIDER[int(np.argmax(densities))])

"""From the parameters of a latent ODE's estimator, and its series, to a model whose weights are drawn."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from skode.timeseries.cycles import CyclicModel
from skode.timeseries.encoders import ENCODERS
from skode.timeseries.known_dynamics import KnownEquations, OutputStatistics
from skode.timeseries.known_ode import MOST_SERIES, Conversion, KnownODE
from skode.timeseries.latent_ode import LatentModel, LatentODE
from skode.timeseries.likelihoods import LIKELIHOODS
from skode.timeseries.panel import Panel
from skode.timeseries.sizes import Sizes, choose_sizes


def chosen_sizes(estimator: Any, panel: Panel) -> Sizes:
    """The sizes of an estimator's parameters, with those for a panel in place of "auto"."""
    return choose_sizes(
        panel,
        latent_size=estimator.latent_size,
        hidden_layer_sizes=estimator._hidden_layers_or_auto(),
        encoder_size=estimator.encoder_size,
        batch_size=estimator.batch_size,
        max_iter=estimator.max_iter,
    )


def new_model(estimator: Any, panel: Panel, generator: torch.Generator) -> LatentModel:
    """A model of an estimator's parameters, ``sizes_`` and units.

    Parameters
    ----------
    estimator : LatentODERegressor
        The estimator.
    panel : Panel
        The series that it will be trained on, from which read-outs start.
    generator : torch.Generator
        Source of the weights.
    """
    kind = _learnt_model if estimator.dynamics is None else _known_model
    return kind(estimator, panel, generator)


def _learnt_model(estimator: Any, panel: Panel, generator: torch.Generator) -> LatentModel:
    n_outputs, n_covariates, sizes = panel.y.shape[1], panel.covariates.shape[1], estimator.sizes_
    likelihood = LIKELIHOODS[estimator.likelihood]
    encoder = ENCODERS[estimator.encoder](n_outputs, n_covariates, sizes.encoder_size, sizes.latent_size, generator)
    module = LatentODE(
        n_covariates,
        latent_size=sizes.latent_size,
        hidden_layer_sizes=sizes.hidden_layer_sizes,
        activation=estimator.activation,
        encoder=encoder,
        likelihood=likelihood(n_outputs),
        process=estimator.observation_times == "poisson",
        generator=generator,
    )
    module.start_read_outs(panel, estimator.time_scale_)
    if estimator._units.cycles is None:
        return module
    return CyclicModel(module, estimator._units.cycles.n_columns, estimator._tensors_for(module)(panel))


def _known_model(estimator: Any, panel: Panel, generator: torch.Generator) -> KnownODE:
    """The model with equations of the user's, in float64."""
    assert estimator.dynamics is not None
    n_outputs, units, likelihood = panel.y.shape[1], estimator._units, LIKELIHOODS[estimator.likelihood]
    inputs = estimator._input_names() if units.columns is None else units.columns.inputs
    n_read = len(inputs) + len(units.doses)
    equations = KnownEquations.read(estimator.dynamics, OutputStatistics.of(panel, units), inputs, likelihood)
    size = len(equations.own)
    module = KnownODE(
        equations,
        Conversion.of(units, n_outputs),
        encoder=ENCODERS[estimator.encoder](n_outputs, n_read, estimator.sizes_.encoder_size, size, generator),
        likelihood=likelihood(n_outputs),
        process=estimator.observation_times == "poisson",
        width=max(estimator.sizes_.hidden_layer_sizes, default=estimator.sizes_.encoder_size),
        n_series=panel.n_series,
        generator=generator,
    ).double()
    series = estimator._tensors_for(module)(panel.take(np.arange(min(panel.n_series, MOST_SERIES))))
    module.check(series)
    module.measure(series, estimator._solver())
    module.start_read_outs(panel, estimator.time_scale_)
    return module

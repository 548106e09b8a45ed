"""Sizes of a latent ODE, and of its training, that the data decide where the user leaves them to it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from skode.timeseries.panel import Panel

#: Latent states: two for each output, for a value and a rate, and two for what makes series differ; from 4 to 16.
STATES_PER_OUTPUT, SPARE_STATES, FEWEST_STATES, MOST_STATES = 2, 2, 4, 16

#: Hidden units of dynamics, read-out and encoder: 32, or 64 from so many observed values on.
FEW_UNITS, MANY_UNITS, MANY_VALUES = 32, 64, 2**13

#: Series in a batch: a fifth of all, at most so many.
BATCHES, LARGEST_BATCH = 5, 50

#: Updates in an epoch, at least; where there are fewer batches an epoch goes over them more than once.
LEAST_UPDATES = 2

#: Updates in all: so many times the root of the number of observed values, at most the last number, but those of
#: 250 epochs at least where these are no more.
UPDATES_PER_ROOT, MOST_UPDATES, EPOCHS = 20, 6_000, 250


@dataclass(frozen=True)
class Sizes:
    """Sizes with numbers in place of "auto".

    Attributes
    ----------
    latent_size : int
        Size of the latent state.
    hidden_layer_sizes : tuple of int
        Widths of the hidden layers of the latent vector field.
    encoder_size : int
        Size of the encoder's state.
    batch_size : int
        Series in a batch.
    max_iter : int
        Largest number of epochs.
    passes : int
        How often an epoch goes over all series.
    n_updates : int
        Updates in all epochs.
    """

    latent_size: int
    hidden_layer_sizes: tuple[int, ...]
    encoder_size: int
    batch_size: int
    max_iter: int
    passes: int
    n_updates: int

    @property
    def widest(self) -> int:
        """Units of the widest layer."""
        return max(self.encoder_size, *self.hidden_layer_sizes, 1)

    def of_model(self, training: Sizes) -> Sizes:
        """These sizes of a model, with batches and epochs of others."""
        return replace(
            training,
            latent_size=self.latent_size,
            hidden_layer_sizes=self.hidden_layer_sizes,
            encoder_size=self.encoder_size,
        )

    def __str__(self) -> str:
        return (
            f"latent_size={self.latent_size}, hidden_layer_sizes={self.hidden_layer_sizes}, "
            f"encoder_size={self.encoder_size}, batch_size={self.batch_size}, max_iter={self.max_iter}"
        )


def choose_sizes(
    panel: Panel, *, latent_size: Any, hidden_layer_sizes: Any, encoder_size: Any, batch_size: Any, max_iter: Any
) -> Sizes:
    """Sizes for a panel: those that are numbers as they are, those that are "auto" by its outputs, values and series.

    Parameters
    ----------
    panel : Panel
        The series that a model is fitted to.
    latent_size, encoder_size, batch_size, max_iter : int or "auto"
        The estimator's parameters.
    hidden_layer_sizes : tuple of int, or "auto"
        The same.

    Notes
    -----
    A state that follows an ODE of first order in each of the outputs needs a state for each; one of second order, or
    outputs that are seen without their rates, needs two. Parameters in which series differ are states that do not
    change.
    """
    n_outputs = panel.y.shape[1]
    n_values = int((~np.isnan(panel.y)).sum())
    units = MANY_UNITS if n_values >= MANY_VALUES else FEW_UNITS
    if latent_size == "auto":
        wanted = STATES_PER_OUTPUT * n_outputs + SPARE_STATES
        latent_size = min(max(wanted, FEWEST_STATES), MOST_STATES)
    if batch_size == "auto":
        batch_size = min(max(panel.n_series // BATCHES, 1), LARGEST_BATCH)
    batch_size = min(batch_size, panel.n_series)
    n_batches = math.ceil(panel.n_series / batch_size)
    passes = math.ceil(LEAST_UPDATES / n_batches)
    if max_iter == "auto":
        in_epoch = passes * n_batches
        n_updates = min(max(UPDATES_PER_ROOT * math.sqrt(n_values), EPOCHS * in_epoch), MOST_UPDATES)
        max_iter = max(round(n_updates / in_epoch), 1)
    return Sizes(
        latent_size=int(latent_size),
        hidden_layer_sizes=(units, units) if isinstance(hidden_layer_sizes, str) else hidden_layer_sizes,
        encoder_size=int(units if encoder_size == "auto" else encoder_size),
        batch_size=int(batch_size),
        max_iter=int(max_iter),
        passes=passes,
        n_updates=int(max_iter) * passes * n_batches,
    )

"""Training of a latent ODE that goes on from call to call, over series that come in parts."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, Self

import numpy as np
from sklearn.base import _fit_context

from skode.timeseries.absurd_times import check_absurd_times
from skode.timeseries.after_training import AfterTraining
from skode.timeseries.building import chosen_sizes
from skode.timeseries.likelihoods import Gaussian
from skode.timeseries.panel import Panel
from skode.training import Stopwatch, array_api_fit, draft, whole, worthwhile_threads


class IncrementalLatentODE(AfterTraining):
    """Base of the latent ODE's estimator: training that goes on from call to call."""

    #: Updates that a fit to the series of the first call would make, of which the warm-up is a share; 0 after ``fit``.
    _n_planned = 0

    @_fit_context(prefer_skip_nested_validation=True)
    @array_api_fit
    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Train by one pass over series, going on from the last call of this method or of ``fit``.

        The first call makes the model, with sizes that are "auto" by its series, and learns from them the units of
        times, covariates and outputs, which stay: it should hold a fair draw of the series. Series are to be whole;
        those of later calls may be the same or new ones.

        The learning rate is constant, and the model's weights are the running mean of those in training over the last
        hundred updates or so. The warm-up is over the first updates: as many, as in a fit to the series of the first
        call with ``max_iter="auto"`` (or with the number given). No rows are set aside for ``early_stopping``. The
        noise with a memory is estimated anew from the series of each call.

        Afterwards the model is conditioned on the series of this call, and on no others: posteriors of before are
        those of other weights. :meth:`condition` brings earlier series back, without training.

        Parameters
        ----------
        X, y, sample_weight
            As in :meth:`fit`.

        Returns
        -------
        self : LatentODERegressor
            The model.

        Raises
        ------
        ValueError
            Where X or y are not as in ``fit``, or at a later call not as at the first one; where parameters of the
            network have changed; and with ``dynamics``, whose population is learnt from all series at once.
        """
        X, y, sample_weight = whole(X, y, sample_weight)
        data = {"X": X, "y": y, "sample_weight": sample_weight}
        with draft(self, changed_in_place=("module_", "_record"), data=data, shared=True, partial=True) as new:
            new._learn_partially(X, y, sample_weight)
        return self

    def _learn_partially(self: Any, X: Any, y: Any, sample_weight: Any) -> None:
        if self.dynamics is not None:
            raise ValueError(
                "dynamics: the population of known dynamics is learnt from all series at once, so that partial_fit "
                "can't go on with it. Call fit with all series, or set dynamics=None."
            )
        stopwatch = self._stopwatch()
        wanted = self._architecture()
        first = self._is_first_fit(wanted, goes_on=True)
        rows, values, weights = self._read_all(X, y, sample_weight, first=first, partial=True)
        self._refined = self.posterior == "laplace"
        rng = self._random_state_of_call()
        device, dtype = self._device_and_dtype(X, first=first)
        if first:
            panel = self._build(rows, values, weights, y, rng)
            self._built_from, self._record, self._n_planned = wanted, None, self.sizes_.n_updates
        else:
            panel = self._units.panel(rows, values, weights)
            self.sizes_ = self.sizes_.of_model(chosen_sizes(self, panel))
            if isinstance(self.module_.likelihood, Gaussian):
                self.module_.likelihood.whiten()
        check_absurd_times(rows, None if first else self._units.span)
        self.module_.to(device=device, dtype=self._training_dtype(dtype))
        self.context_ = panel
        with worthwhile_threads(self.sizes_.batch_size * self.sizes_.widest):
            self._pass_over(panel, rng, stopwatch)
        self.module_.to(dtype)
        self._learn_the_rest(panel, panel, None, stopwatch)
        self.posterior_ = self._inferred(panel, self.n_draws)

    def _pass_over(self: Any, panel: Panel, rng: np.random.RandomState, stopwatch: Stopwatch) -> None:
        """The updates of a call, which belong to the warm-up as long as that lasts."""
        n_planned = self._n_planned
        warm_up = self.warm_up if n_planned and self._learns_outputs_alone else 0.0
        objective, settings = self._bound_of(panel, warm_up, rng), self._settings_of(panel, stopwatch)
        n_before = 0 if self._record is None else self._record.n_updates
        n_updates = settings.passes * math.ceil(panel.n_series / settings.batch_size)

        def follow(progress: float) -> None:
            objective.follow((n_before + progress * n_updates) / n_planned if n_planned else 1.0)

        self._fit_partially(objective, panel.n_series, rng, replace(settings, on_progress=follow))
        likelihood = self.module_.likelihood
        if likelihood.is_held:
            objective.end()
            # The weights in training go on from there as well.
            for weight, parameter in zip(self._record.weights, objective.parameters(), strict=True):
                if parameter is likelihood.log_noise:
                    weight.copy_(parameter.detach())

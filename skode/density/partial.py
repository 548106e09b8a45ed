"""Training of a density that goes on from call to call, over data that come in parts."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from sklearn.base import _fit_context

from skode.density.columns import check_columns
from skode.density.fields import new_field
from skode.density.fitted import FittedDensity
from skode.density.flow import Flow
from skode.density.gaussianisation import Gaussianisation
from skode.density.samples import Samples
from skode.density.settings import auto_batch_size
from skode.density.tables import Categories
from skode.io.sources import in_memory
from skode.training import (
    array_api_fit,
    check_data,
    check_weights,
    draft,
    new_generator,
    users_field,
    whole,
    worthwhile_threads,
)

#: Gradients longer than this are shortened to it.
MAX_GRAD_NORM = 1.0

#: Share of the past in the running mean of the weights. It varies less from update to update than the weights
#: themselves, and follows single samples less.
AVERAGING = 0.99


@dataclass(frozen=True)
class SomeOfMany(Samples):
    """Samples of one call.

    Attributes
    ----------
    total : float
        The size of the samples of all calls so far.
    """

    total: float

    @property
    def size(self) -> float:
        return self.total


class IncrementalDensity(FittedDensity):
    """Base of the estimator: training that goes on from call to call."""

    n_samples_seen_: int

    _architecture: Any
    _continuous: Any
    _fit_dequantiser: Any
    _match: Any
    _objectives: Any

    @_fit_context(prefer_skip_nested_validation=True)
    @array_api_fit
    def partial_fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        """Train by one pass over samples, going on from the last call of this method or of ``fit``.

        The first call makes the flow, and learns from its samples which variables are discrete, the values and
        categories these have, and the map to the space of the flow, all of which stay. It should hold a fair draw of
        the data: the rows of a file that is sorted should be shuffled.

        The learning rate is constant, and the density is that of the running mean of the weights over the last hundred
        updates or so, which follows data that change. It is the flow's alone, for nothing is set aside for
        ``early_stopping`` or ``stacking``; where ``fit`` was before, the densities beside the flow and their weights
        stay as they were. ``batch_size="auto"`` and ``kinetic_energy="auto"`` count the samples of all calls, and
        ``matching_iter`` epochs of flow matching begin the first one. ``max_iter``, ``tol``, ``n_iter_no_change`` and
        ``checkpoint`` are not read.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Samples, two at least at the first call.
        y : None
            Ignored; here for scikit-learn's conventions.
        sample_weight : array-like of shape (n_samples,), default=None
            The number of times that each sample counts beside the others of this call, as in ``fit``.

        Returns
        -------
        self : CNFDensityEstimator
            The estimator.

        Raises
        ------
        ValueError
            Where X is not as in ``fit``, or at a later call not as at the first one; where parameters of the flow have
            changed; and where ``contamination`` is a number, since that is a share of all samples at once.
        """
        X, sample_weight = whole(X, sample_weight)
        data = {"X": X, "sample_weight": sample_weight}
        with draft(self, changed_in_place=("module_", "_record"), data=data, shared=True, partial=True) as new:
            new._learn_partially(X, sample_weight)
        return self

    def _learn_partially(self: Any, X: Any, sample_weight: Any) -> None:
        if self.contamination != "auto":
            raise ValueError(
                f"contamination={self.contamination} is a share of all samples, of which partial_fit sees some: set "
                "contamination='auto', or compare score_samples with a threshold of your own."
            )
        stopwatch = self._stopwatch()
        hidden = self._hidden_layers()
        built_from = self._architecture(hidden)
        first = self._is_first_fit(built_from, goes_on=True)
        given = X = in_memory(X)
        if first:
            self._categories = None if self.categorical_features is None else Categories.find(X)
        X = X if self._categories is None else self._categories.numbers(X)
        X = check_data(self, X, dtype=[np.float64, np.float32], ensure_min_samples=2 if first else 1, reset=first)
        weights = check_weights(in_memory(sample_weight), X)
        if first:
            self._dequantiser = self._fit_dequantiser(X, weights, given)
        rng = self._random_state_of_call()
        points, names = self._continuous(X, copy.deepcopy(rng))
        samples = Samples.distinct(points, weights, shuffle=self.shuffle)
        device, dtype = self._device_and_dtype(X, first=first)
        if first:
            check_columns(samples.points, samples.weights, names)
            field = new_field(self.field, points.shape[1], hidden, self.activation, new_generator(rng))
            self.scaler_ = Gaussianisation.fit(samples.points, samples.weights, marginals=self.marginals)
            self.module_ = Flow(field, points.shape[1])
            self._built_from, self._record, self.n_samples_seen_ = built_from, None, 0
            self._set_alone()
        self.n_samples_seen_ = round(getattr(self, "n_samples_seen_", 0) + samples.size)
        self._offset = []
        module, beside = self.module_, self.module_.beside
        del module.beside  # which training has no part in, and which keep their dtype
        module.to(device=device, dtype=self._training_dtype(dtype))
        n, auto = len(samples), auto_batch_size(self.n_samples_seen_)
        widest = max(module.n_features, *hidden, 1)
        with (
            users_field(self.field, rng, f"(n, {points.shape[1]})"),
            worthwhile_threads(self._batch_size(n, auto) * widest),
        ):
            module.train()
            # Steps are shared with gradients and without, as in fit.
            solver = self._solver().replace(step_control="shared")
            some = SomeOfMany(samples.points, samples.weights, self.n_samples_seen_)
            order, matching, likelihood = self._objectives(some, solver, rng)
            if first and self.matching_iter and self.objective == "likelihood":
                self.matching_curve_ = self._match(matching, order, rng, auto, stopwatch).loss_curve
            objective = matching if self.objective == "flow_matching" else likelihood
            if self._record is not None and len(self._record.weights) != len(list(objective.parameters())):
                # Of another objective, which trains other tensors.
                self._record = replace(self._record, optimizer_state=None, weights=None)
            settings = self._settings(n, auto, max_grad_norm=MAX_GRAD_NORM, averaging=AVERAGING, stopwatch=stopwatch)
            self._fit_partially(objective, n, rng, settings)
        module.beside = beside
        module.to(dtype).eval()

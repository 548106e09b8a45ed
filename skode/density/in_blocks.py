"""The fit of the density to tables that are read in blocks.

Means and covariances are learned block by block, and training reads a pool of blocks at a time. Rows that are drawn
stand for all where many are needed at once: which columns are discrete and how often their values come, Johnson's
distributions, the rows held out, the densities beside the flow, and the threshold of anomalies. Equal rows are not
merged.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.utils import check_array
from torch import Tensor

from skode.density.columns import check_columns
from skode.density.fields import new_field
from skode.density.flow import Flow
from skode.density.gaussianisation import Gaussianisation, Johnson
from skode.density.moments import Moments
from skode.density.samples import Samples
from skode.density.tables import Categories
from skode.io import BlockTable
from skode.training import (
    BlockSamples,
    check_argument,
    check_data,
    check_weights,
    drawn_rows,
    in_rows,
    new_generator,
    to_tensor,
    users_field,
)
from skode.training.blocks import FIRST_ROWS, MOST_HELD_OUT


@dataclass
class Source:
    """Checked rows of a table, block by block, as numbers and as points of continuous variables.

    Attributes
    ----------
    model : CNFDensityEstimator
        The estimator, of which categories and discrete variables are known.
    table : BlockTable
        The table.
    dtype : dtype
        Of the numbers.
    sample_weight : ndarray of shape (n,) or None
        The samples' weights.
    seed : int
        Source of places in the cells of discrete values, which are the same whenever a block is read.
    left_out : ndarray of int
        Rows not to train on, rising.
    """

    model: Any
    table: BlockTable
    dtype: np.dtype
    sample_weight: np.ndarray | None
    seed: int
    left_out: np.ndarray

    def numbers(self, start: int, stop: int) -> np.ndarray:
        """All rows from one to another."""
        categories, table = self.model._categories, self.table
        values = table.read(start, stop) if categories is None else categories.numbers(table.frame(start, stop))
        with in_rows(start, stop), check_argument("X"):
            return check_array(values, dtype=self.dtype, input_name="X", estimator=self.model)

    def points(self, start: int, stop: int) -> np.ndarray:
        """The same rows as points of continuous variables; ``start`` is that of a block."""
        return self.model._continuous(self.numbers(start, stop), np.random.RandomState([self.seed, start]))[0]

    def weights(self, start: int, stop: int) -> np.ndarray:
        """Their weights."""
        return np.ones(stop - start) if self.sample_weight is None else self.sample_weight[start:stop]

    def some(self, rows: np.ndarray, read: Callable[[int, int], np.ndarray]) -> np.ndarray:
        """Some rows, rising, of what ``read`` returns."""
        parts = []
        for start, stop in self.table.bounds():
            first, last = np.searchsorted(rows, [start, stop])
            if last > first:
                parts.append(read(start, stop)[rows[first:last] - start])
        return np.concatenate(parts)


class SamplesInBlocks:
    """Samples that a flow is trained on, as :class:`Samples`."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.n_samples = len(source.table) - len(source.left_out)
        of_blocks = (source.weights(*bounds).sum() for bounds in source.table.bounds())
        left_out = source.left_out
        without = len(left_out) if source.sample_weight is None else source.sample_weight[left_out].sum()
        self.total = float(sum(of_blocks) - without)

    def __len__(self) -> int:
        return self.n_samples

    @property
    def size(self) -> float:
        """The sum of the weights, or the number of samples if that is larger."""
        return max(self.total, len(self))

    def training(self, in_flow: Callable[[np.ndarray], np.ndarray], like: Tensor) -> tuple[BlockSamples, Any, Any]:
        """Order, points of the flow and weights of mean 1, in the dtype and on the device of a tensor."""
        source, mean = self.source, self.total / self.n_samples

        def load(start: int, stop: int) -> tuple[Tensor, ...]:
            cpu = torch.device("cpu")
            points = to_tensor(in_flow(source.points(start, stop)), like.dtype, cpu)
            return points, to_tensor(source.weights(start, stop) / mean, like.dtype, cpu)

        samples = BlockSamples(source.table, load, like.device, source.left_out)
        x, weights = samples.parts(2)
        return samples, x, weights


def learn_in_blocks(model: Any, X: BlockTable, y: Any, sample_weight: Any) -> None:
    """Fit a density, the draft of a fit, to a table."""
    stopwatch = model._stopwatch()
    hidden = model._hidden_layers()
    built_from = model._architecture(hidden)
    first = model._is_first_fit(built_from, goes_on=model.warm_start)
    with stopwatch.phase("Reading the table"):
        source, head = _checked(model, X, sample_weight, first=first)
        rng = model._checkpoint.random_state(model.random_state)
        rows = drawn_rows(X, rng)
        rows = rows[~np.isin(rows, source.left_out)]
        few, weights = source.some(rows, source.numbers), source.some(rows, source.weights)
        if first:
            model._dequantiser = model._fit_dequantiser(few, weights, head)
        source.seed = copy.deepcopy(rng).randint(2**31 - 1)
        points = source.some(rows, source.points)
        names = model._continuous(few[:1], np.random.RandomState(0))[1]
        check_columns(points, weights, names)
        if first:
            model.scaler_ = _gaussianisation(model, source, points, weights)
    device, dtype = model._device_and_dtype(few, first=first)
    if first:
        field = new_field(model.field, points.shape[1], hidden, model.activation, new_generator(rng))
        model.module_ = Flow(field, points.shape[1])
        model._built_from = built_from
    model.module_.to(device=device, dtype=model._training_dtype(dtype))
    with users_field(model.field, rng, f"(n, {points.shape[1]})"):
        model.module_.train()
        held_out, is_held_out = None, np.zeros(len(rows), dtype=bool)
        if model.early_stopping:
            n_samples = len(X) - len(source.left_out)
            n_held_out = min(math.ceil(model.validation_fraction * n_samples), MOST_HELD_OUT, len(rows) - 1)
            is_held_out[rng.permutation(len(rows))[:n_held_out]] = True
            held_out = Samples(points[is_held_out], weights[is_held_out])
            source.left_out = np.union1d(source.left_out, rows[is_held_out])
        known = Samples(points[~is_held_out], weights[~is_held_out])
        beside = model._beside(known, held_out, copy.deepcopy(rng), stopwatch)
        model._set_alone()
        model._train(SamplesInBlocks(source), held_out, rng, dtype, model._task(X, y, sample_weight), stopwatch)
    model.module_.to(dtype).eval()
    if held_out is not None and beside is not None:
        model._stack(beside, held_out)
    model._set_offset(few, weights)


def _checked(model: Any, X: BlockTable, sample_weight: Any, *, first: bool) -> tuple[Source, Any]:
    """The table, of which names and types of columns and the number of rows are checked; and its first rows."""
    head = X.frame(0, min(len(X), FIRST_ROWS))
    if first:
        model._categories = None if model.categorical_features is None else _categories(X, head)
    numbers = head if model._categories is None else model._categories.numbers(head)
    with in_rows(0, len(head)):
        numbers = check_data(model, numbers, dtype=[np.float64, np.float32], ensure_min_samples=2, reset=first)
    weights = None if sample_weight is None else check_weights(sample_weight, X)
    without = np.empty(0, dtype=np.int64) if weights is None else np.flatnonzero(weights == 0.0)
    return Source(model, X, numbers.dtype, weights, 0, without), head


def _categories(X: BlockTable, head: Any) -> Categories | None:
    """The columns of categories, of which the values are found in all rows."""
    found = Categories.find(head)
    if found is None:
        return None
    values: dict[Any, set[Any]] = {name: set() for name in found.values}
    for start, stop in X.bounds():
        frame = X.frame(start, stop)
        for name, known in values.items():
            known.update(frame[name].dropna().unique())
    every = {name: pd.Index(sorted(known)) for name, known in values.items()}
    template = found.template
    for name, own in every.items():
        if isinstance(template[name].dtype, pd.CategoricalDtype):
            template[name] = template[name].astype(pd.CategoricalDtype(own))
    return Categories(template, every)


def _gaussianisation(model: Any, source: Source, points: np.ndarray, weights: np.ndarray) -> Gaussianisation:
    """The map to the space of the flow: of all rows, but for Johnson's distributions."""
    n_samples = len(source.table) - len(source.left_out)
    if len(points) == n_samples:
        return Gaussianisation.fit(points, weights, marginals=model.marginals)
    johnson = Johnson.chosen(points.astype(np.float64), weights, model.marginals)
    moments = Moments(points.shape[1])
    for start, stop in source.table.bounds():
        bent = johnson.transform(source.points(start, stop).astype(np.float64))
        moments.add(bent, source.weights(start, stop))
    return Gaussianisation.of_moments(johnson, moments)

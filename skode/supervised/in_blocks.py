"""The fit of ODE-Nets to tables that are read in blocks.

The steps are those of a fit in memory (``base.py``). Scales, classes and categories are learned block by block, and
training reads a pool of blocks at a time. Rows that are drawn stand for all where many are needed at once: the
search for the penalty's strength, the rows held out, and residuals. Equal rows are not merged.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.sparse import issparse
from sklearn.utils import check_array, check_consistent_length
from torch import Tensor

from skode.io import ArrayTable, BlockTable
from skode.supervised.columns import MOST_CATEGORIES, CategoricalFeatures, Columns
from skode.supervised.objective import Samples
from skode.supervised.trials import Table, Trials
from skode.training import (
    INTERRUPTED,
    BlockSamples,
    TrainingRecord,
    categorical_positions,
    check_argument,
    check_data,
    check_missing_labels,
    check_weights,
    drawn_rows,
    in_rows,
    new_generator,
    to_pandas,
    to_tensor,
    users_field,
)
from skode.training.blocks import FIRST_ROWS, MOST_HELD_OUT


@dataclass
class Source:
    """Checked and encoded rows of a table, block by block.

    Attributes
    ----------
    model : ODENetEstimator
        The estimator, of which categories are known.
    X, y : BlockTable
        Features and targets.
    dtype : dtype
        Of the features.
    sample_weight : ndarray of shape (n,) or None
        The samples' weights.
    factors : ndarray of shape (n_classes,) or None
        By what these are multiplied, by class.
    left_out : ndarray of int
        Rows not to learn from, rising.
    """

    model: Any
    X: BlockTable
    y: BlockTable
    dtype: np.dtype
    sample_weight: np.ndarray | None
    factors: np.ndarray | None
    left_out: np.ndarray

    def features(self, start: int, stop: int) -> np.ndarray:
        """Features of all rows from one to another."""
        has_codes = self.model._categories.encoder is not None
        values = self.model._categories.encoded(self.X.frame(start, stop)) if has_codes else self.X.read(start, stop)
        finite = self.model._input_checks(values)["ensure_all_finite"]
        with in_rows(start, stop), check_argument("X"):
            return check_array(values, dtype=self.dtype, ensure_all_finite=finite, input_name="X", estimator=self.model)

    def raw_targets(self, start: int, stop: int) -> np.ndarray:
        """Targets as they are given; labels in one column as those of one dimension."""
        y = self.y.read(start, stop)
        return y[:, 0] if y.ndim == 2 and y.shape[1] == 1 and not self.model._y_is_numeric else y

    def targets(self, start: int, stop: int) -> np.ndarray:
        """Targets, encoded."""
        with in_rows(start, stop):
            return self.model._encode(self.raw_targets(start, stop), first=False)

    def blocks_of_raw_targets(self) -> Iterator[np.ndarray]:
        """Targets of all rows as they are given, of which labels are checked to be there."""
        for start, stop in self.X.bounds():
            y = self.raw_targets(start, stop)
            with in_rows(start, stop):
                if not self.model._y_is_numeric:
                    check_missing_labels(y)
            yield y

    def weights(self, start: int, stop: int, targets: np.ndarray) -> np.ndarray:
        """Weights of rows with these targets."""
        weights = np.ones(stop - start) if self.sample_weight is None else self.sample_weight[start:stop]
        return weights if self.factors is None else weights * self.factors[targets]

    def blocks_of_features(self) -> Iterator[np.ndarray]:
        """Features of the rows to learn from."""
        for start, stop in self.X.bounds():
            if len(kept := self._kept(start, stop)):
                yield self.features(start, stop)[kept]

    def blocks_of_targets(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Targets and weights of the rows to learn from."""
        for start, stop in self.X.bounds():
            if len(kept := self._kept(start, stop)):
                targets = self.targets(start, stop)
                yield targets[kept], self.weights(start, stop, targets)[kept]

    def _kept(self, start: int, stop: int) -> np.ndarray:
        first, last = np.searchsorted(self.left_out, [start, stop])
        return np.delete(np.arange(stop - start), self.left_out[first:last] - start)

    def some(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Features, targets and weights of some rows, rising."""
        features, targets, weights = [], [], []
        for start, stop in self.X.bounds():
            first, last = np.searchsorted(rows, [start, stop])
            if last > first:
                own, encoded = rows[first:last] - start, self.targets(start, stop)
                features.append(self.features(start, stop)[own])
                targets.append(encoded[own])
                weights.append(self.weights(start, stop, encoded)[own])
        return np.concatenate(features), np.concatenate(targets), np.concatenate(weights)

    def tensors(
        self, start: int, stop: int, *, inputs: Any, mean_weight: float, dtype: torch.dtype
    ) -> tuple[Tensor, ...]:
        """Rows as a network takes them: features, targets, weights."""
        targets = self.targets(start, stop)
        w = to_tensor(self.weights(start, stop, targets) / mean_weight, dtype, torch.device("cpu"))
        X = self.model._columns.expanded(self.features(start, stop))
        return inputs.features(self.model.scaler_, X, dtype, w.device), self.model._as_tensor(targets, w), w


def learn_in_blocks(model: Any, X: BlockTable, y: Any, sample_weight: Any) -> None:
    """Fit an ODE-Net, the draft of a fit, to a table."""
    stopwatch = model._stopwatch()
    inputs = model._inputs()
    first = model._is_first_fit(inputs.architecture.effective(), goes_on=model.warm_start)
    model._check_parameters(inputs)
    with stopwatch.phase("Reading the table"):
        source = _checked(model, X, y, sample_weight, first=first)
        inputs.check_size(X.shape[1])
        rng = model._checkpoint.random_state(model.random_state)
        rows, held_out = _drawn(source, rng)
        if first:
            model._columns = Columns.of(source.blocks_of_features(), X.shape[1], model._categories.positions)
        model._prepare(source.blocks_of_targets(), first=first)
        total = sum(float(weights.sum()) for _, weights in source.blocks_of_targets())
        if total <= 0.0:
            raise ValueError(f"class_weight={model.class_weight!r} and sample_weight leave no sample any weight.")
        known, targets, weights = source.some(rows)
        known = model._columns.expanded(known)
        if first:
            blocks = zip(source.blocks_of_features(), source.blocks_of_targets(), strict=True)
            model.scaler_ = inputs.fitted_scaler((model._columns.expanded(block), w) for block, (_, w) in blocks)
    device, dtype = model._device_and_dtype(known, first=first)
    training_dtype = model._training_dtype(dtype)
    if first:
        model.module_ = inputs.network(known.shape[1], model.n_outputs_, new_generator(rng))
        model._built_from = inputs.architecture.effective()
        model._record = None
    if first or model.dtype is not None:
        model.module_.set_autocast(model.dtype == "bfloat16")
    model.module_.to(device=device, dtype=training_dtype)

    n = len(X) - len(source.left_out)
    load = functools.partial(source.tensors, inputs=inputs, mean_weight=total / n, dtype=training_dtype)
    samples = BlockSamples(X, load, device, source.left_out)
    parts: list[Any] = samples.parts(3)
    objective = model._objective(model.module_, Samples(*parts), inputs, new_generator(rng, device))
    table = Table(model, inputs, known, targets, training_dtype, device)
    validate = None
    if len(own := np.flatnonzero(held_out & (weights > 0.0))):
        validate = functools.partial(model._validation_score, table.samples(own, weights[own]))
    few, few_weights = model._merged(known, targets, weights, np.flatnonzero(~held_out & (weights > 0.0)))
    trials = Trials(table, few, few_weights, np.random.RandomState(rng.randint(np.iinfo(np.int32).max)))
    settings = model._settings(n, inputs.auto_batch_size(n), alpha=0.0, stopwatch=stopwatch)
    with users_field(model.field, rng, model._state_shape()):
        weighs = min(settings.batch_size, max(total, n))
        settings, interrupted = model._with_strength(settings, weighs, trials, first=first, partial=False)
        model.module_.train()
        if interrupted is not None:
            model._keep(TrainingRecord(stopped_because=interrupted.stopped_because))
        else:
            task = model._task(X, y, sample_weight)
            record = model._fit_module(objective, samples, rng, settings, task=task, dtype=dtype, validate=validate)
            model._record = record
            if record.stopped_because != INTERRUPTED:
                model._calibrate(trials, settings)
        model.module_.eval()


def _checked(model: Any, X: BlockTable, y: Any, sample_weight: Any, *, first: bool) -> Source:
    """The table with its targets, of which names and types of columns, numbers of rows and targets are checked."""
    targets = None if y is None else as_column(y)
    head = X.frame(0, min(len(X), FIRST_ROWS))
    if first:
        model._categories = _categories(model, X, head)
    n_head = 0 if targets is None else min(len(head), len(targets))
    y_head = targets.read(0, n_head) if targets is not None and n_head else targets
    checks = model._input_checks(head)
    numbers = model._categories.encoded(head)
    with in_rows(0, len(head)):
        numbers, _ = check_data(
            model, numbers, y_head, **checks, multi_output=True, y_numeric=model._y_is_numeric, reset=first
        )
    check_consistent_length(X, targets)
    weights = None if sample_weight is None else check_weights(sample_weight, X)
    without = np.empty(0, dtype=np.int64) if weights is None else np.flatnonzero(weights == 0.0)
    assert targets is not None  # which check_data has seen to
    source = Source(model, X, targets, numbers.dtype, weights, None, without)
    brief = model._in_brief(source.blocks_of_raw_targets())
    model._encode(brief[:, None] if targets.ndim > brief.ndim else brief, first=first)  # which warns of a column
    source.factors = model._class_factors(source.targets(*bounds) for bounds in X.bounds())
    return source


def as_column(y: Any) -> BlockTable:
    """Targets as a column, or a table, that is read in blocks; those in memory as they are there."""
    if isinstance(y, BlockTable):
        return y
    y = to_pandas(y, "y")
    with check_argument("y"):
        return ArrayTable(y.toarray() if issparse(y) else y if isinstance(y, np.memmap) else np.asarray(y))


def _categories(model: Any, X: BlockTable, head: Any) -> CategoricalFeatures:
    """The categorical features, of whose values each is found."""
    images = model.image_shape is not None
    positions = categorical_positions(head, None if images else model.categorical_features)
    if not len(positions):
        return model._categorical(head)
    values: dict[int, set[Any]] = {int(position): set() for position in positions}
    for start, stop in X.bounds():
        frame = pd.DataFrame(X.frame(start, stop))
        for position, known in values.items():
            if len(known) <= MOST_CATEGORIES:  # beyond which an error is raised
                known.update(frame.iloc[:, position].dropna().unique())
    n = max(len(known) for known in values.values())
    every = pd.DataFrame(head).reindex(range(n))
    for position, known in values.items():
        column: Any = pd.Series([*known, *[None] * (n - len(known))], dtype=object)
        is_category = isinstance(every.dtypes.iloc[position], pd.CategoricalDtype)
        every.isetitem(position, column.astype("category") if is_category else column)
    return model._categorical(every)


def _drawn(source: Source, rng: np.random.RandomState) -> tuple[np.ndarray, np.ndarray]:
    """Rows to have in memory, and which of them are held out: these are not to be learned from."""
    model, n = source.model, len(source.X)
    rows = drawn_rows(source.X, rng)
    rows = rows[~np.isin(rows, source.left_out)]
    held_out = np.zeros(len(rows), dtype=bool)
    if model.early_stopping:
        n_samples = n - len(source.left_out)
        model._check_split_sizes(n_samples, 1)
        n_held_out = min(math.ceil(model.validation_fraction * n_samples), MOST_HELD_OUT, len(rows) - 1)
        held_out[rng.permutation(len(rows))[:n_held_out]] = True
        source.left_out = np.union1d(source.left_out, rows[held_out])
    return rows, held_out

"""The base of ``ODENetClassifier`` and ``ODENetRegressor``: one network, trained and evaluated in the same way."""

from __future__ import annotations

import copy
import dataclasses
import functools
import math
import warnings
from collections.abc import Iterable, Iterator
from numbers import Integral, Real
from typing import Any, Self

import numpy as np
import torch
from scipy.sparse import issparse
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from sklearn.utils._param_validation import Interval, StrOptions
from torch import Tensor, nn

from skode.distributed.work import shared_out, solving
from skode.dynamics.fields import FIELDS
from skode.io.sources import as_features, in_memory
from skode.solvers import ButcherTableau, SolverError, get_method
from skode.supervised.columns import CategoricalFeatures, Columns
from skode.supervised.fitted import FittedODENet
from skode.supervised.in_blocks import learn_in_blocks
from skode.supervised.inputs import Inputs, check_two_dimensional
from skode.supervised.objective import Losses, Samples, SupervisedObjective
from skode.supervised.odenet import Network
from skode.supervised.strength import DECAYS, best_strength, up_to
from skode.supervised.trials import Table, Trials
from skode.training import (
    COMMON_CONSTRAINTS,
    INTERRUPTED,
    Regularisation,
    TrainingRecord,
    TrainingSettings,
    check_column_names,
    check_data,
    check_weights,
    distinct,
    draft,
    new_generator,
    to_pandas,
    train,
    users_field,
    whole,
)
from skode.training.settings import Choices

#: Most updates of an epoch over the copies of few samples.
MOST_UPDATES = 20

#: ``alpha="auto"`` of images, and where training begins by ``partial_fit``.
FIXED_ALPHA = 1.0

SUPERVISED_CONSTRAINTS: dict[str, list[Any]] = {
    **COMMON_CONSTRAINTS,
    "alpha": [StrOptions({"auto"}), Interval(Real, 0, None, closed="left")],
    "categorical_features": ["array-like", StrOptions({"from_dtype"}), None],
    "state_size": [Interval(Integral, 1, None, closed="left"), None],
    "augment_dim": [Interval(Integral, 0, None, closed="left")],
    "field": [StrOptions(set(FIELDS)), nn.Module, None],
    "image_shape": [tuple, list, None],
    "image_shift": [Interval(Real, 0, None, closed="left")],
    "n_blocks": [Interval(Integral, 1, None, closed="left")],
    "time_dependent": ["boolean"],
    "evolving_weights": ["boolean"],
    "input_dropout": [Interval(Real, 0, 1, closed="left")],
    "kinetic_energy": [Interval(Real, 0, None, closed="left")],
    "jacobian_norm": [Interval(Real, 0, None, closed="left")],
    "local_error": [Interval(Real, 0, None, closed="left")],
    "steer": [Interval(Real, 0, 1, closed="left")],
    "dtype": [Choices({"bfloat16", "float32", "float64"}), None],
}


class ODENetEstimator(FittedODENet):
    """Base of the estimators whose hidden layers are the solution of a neural ODE.

    Subclasses define their targets: see :meth:`_encode`, :meth:`_losses` and :meth:`_score`.
    """

    input_dropout: float
    kinetic_energy: float
    jacobian_norm: float
    local_error: float
    steer: float
    categorical_features: Any
    random_state: Any
    early_stopping: bool
    validation_fraction: float
    dtype: str | None

    module_: Network
    n_outputs_: int

    def _encode(self, y: np.ndarray, *, first: bool, classes: Any = None) -> np.ndarray:
        """Targets as numbers, of shape (n,) or (n, n_outputs); if first, the attributes that describe them are set."""
        raise NotImplementedError

    def _prepare(self, parts: Iterable[tuple[np.ndarray, np.ndarray]], *, first: bool) -> None:
        """Learn from the encoded targets that are trained on and their weights, before the network is made."""

    def _in_brief(self, parts: Iterator[np.ndarray]) -> np.ndarray:
        """Targets that :meth:`_encode` learns as much from as from all of those in several parts."""
        return next(parts)

    def _class_factors(self, parts: Iterable[np.ndarray]) -> np.ndarray | None:
        """Factors of the weights by class, from encoded targets in several parts; None where there are none."""
        return None

    def _calibrate(self, trials: Trials, settings: TrainingSettings) -> None:
        """Learn from samples held out how far predictions are off, where that is wanted."""

    def _weights(self, targets: np.ndarray, sample_weight: np.ndarray) -> np.ndarray:
        """The samples' weights in training."""
        return sample_weight

    def _as_tensor(self, targets: np.ndarray, like: Tensor) -> Tensor:
        """Encoded targets as the loss takes them."""
        raise NotImplementedError

    def _losses(self) -> Losses:
        """The function that computes each sample's loss."""
        raise NotImplementedError

    def _score(self, outputs: Tensor, targets: Tensor, weights: Tensor) -> float:
        """The validation score; higher is better."""
        raise NotImplementedError

    def _strata(self, targets: np.ndarray) -> np.ndarray | None:
        """Strata of the validation split; None: it is not stratified."""
        return None

    def _fit(self, X: Any, y: Any, sample_weight: Any, *, partial: bool = False, classes: Any = None) -> Self:
        changed = ("module_", "scaler_", "_record") if partial or self.warm_start else ()
        X, y, sample_weight = whole(X, y, sample_weight)
        data = {"X": X, "y": y, "sample_weight": sample_weight} | ({"classes": classes} if partial else {})
        table = None if partial else as_features(X)
        with draft(self, changed_in_place=changed, data=data, shared=True, partial=partial) as new:
            if table is not None:
                learn_in_blocks(new, table, y, sample_weight)
            else:
                X, y = in_memory(X), in_memory(y)
                new._learn(X, y, in_memory(sample_weight), partial=partial, classes=classes)
        return self

    def _learn(self, X: Any, y: Any, sample_weight: Any, *, partial: bool, classes: Any) -> None:
        stopwatch = self._stopwatch()
        inputs = self._inputs()
        first = self._is_first_fit(inputs.architecture.effective(), goes_on=self.warm_start or partial)
        self._check_parameters(inputs)
        given = X
        X, y = self._checked_samples(X, y, first=first)
        inputs.check_size(X.shape[1])
        task = self._task(X if self._categories.encoder is None else given, y, sample_weight)
        sample_weight = check_weights(sample_weight, X)
        targets = self._encode(y, first=first, classes=classes)
        weights = self._weights(targets, sample_weight)
        rng = self._checkpoint.random_state(self.random_state)
        rows, held_out = self._parts(targets, weights, rng, validated=self.early_stopping and not partial)
        rows, own_weights = self._merged(X, targets, weights, rows)
        every = self._merged(X, targets, weights, np.flatnonzero(weights)) if len(held_out) else (rows, own_weights)
        if first:
            self._columns = Columns.of([X[rows]], X.shape[1], self._categories.positions)
        X = self._columns.expanded(X)
        self._prepare([(targets[rows], own_weights)], first=first)
        device, dtype = self._device_and_dtype(X, first=first)
        training_dtype = self._training_dtype(dtype)
        if first:
            self.scaler_ = inputs.fitted_scaler([(X[rows], own_weights)])
            self.module_ = inputs.network(X.shape[1], self.n_outputs_, new_generator(rng))
            self._built_from = inputs.architecture.effective()
            self._record = None
        elif partial:
            inputs.update_scaler(self.scaler_, X[rows], own_weights)
        if first or self.dtype is not None:
            self.module_.set_autocast(self.dtype == "bfloat16")
        self.module_.to(device=device, dtype=training_dtype)

        table = Table(self, inputs, X, targets, training_dtype, device)
        objective = self._objective(self.module_, table.samples(rows, own_weights), inputs, new_generator(rng, device))
        validate = None
        if len(held_out):
            validate = functools.partial(self._validation_score, table.samples(held_out, weights[held_out]))
        weighs, passes = self._for_merged(own_weights, inputs, partial=partial)
        settings = self._settings(
            len(rows), inputs.auto_batch_size(len(rows)), alpha=0.0, passes=passes, stopwatch=stopwatch
        )
        trials = Trials(table, rows, own_weights, np.random.RandomState(rng.randint(np.iinfo(np.int32).max)))
        with users_field(self.field, rng, self._state_shape()):
            settings, interrupted = self._with_strength(settings, weighs, trials, first=first, partial=partial)
            self.module_.train()
            untrained = copy.deepcopy(self.module_) if validate is not None and self.max_time is None else None
            if interrupted is not None:
                self._keep(TrainingRecord(stopped_because=interrupted.stopped_because))
            elif partial:
                self._fit_partially(objective, len(rows), rng, settings)
                self.module_.to(dtype)
            else:
                self._record = self._fit_module(
                    objective, len(rows), rng, settings, task=task, dtype=dtype, validate=validate
                )
                if untrained is not None and self._record.stopped_because != INTERRUPTED:
                    self.module_ = untrained
                    generator = new_generator(trials.rng, device)
                    objective = self._objective(untrained, table.samples(*every), inputs, generator)
                    self._record = self._refit(objective, len(every[0]), trials.rng, settings)
                    self.module_.to(dtype)
                self._calibrate(trials, settings)
            self.module_.eval()

    def _with_strength(
        self, settings: TrainingSettings, weighs: float, trials: Trials, *, first: bool, partial: bool
    ) -> tuple[TrainingSettings, TrainingRecord | None]:
        """Settings with the strength of the L2 penalty, and the record of a search that the user interrupted.

        ``weighs`` is the weight of a batch, by which ``alpha`` is divided.
        """
        if self.alpha == "auto" and self.image_shape is None and first and not partial:
            place, interrupted = best_strength(trials.groups, trials.strata, trials.begun, settings, trials.rng)
            self.alpha_ = DECAYS[place] * weighs
            return up_to(place, settings), interrupted
        if self.alpha != "auto":
            self.alpha_ = float(self.alpha)
        elif first:
            self.alpha_ = FIXED_ALPHA
        return dataclasses.replace(settings, alpha=self.alpha_ * settings.batch_size / weighs), None

    def _refit(
        self, objective: SupervisedObjective, n_samples: int, rng: np.random.RandomState, settings: TrainingSettings
    ) -> TrainingRecord:
        """Train on all samples for as many epochs as were best on those held out."""
        n_best = int(np.argmax(self.validation_scores_)) + 1 if self.validation_scores_ else settings.max_iter
        settings = dataclasses.replace(
            settings,
            batch_size=min(settings.batch_size, n_samples),
            max_iter=n_best,
            n_iter_no_change=None,
            phase="Training on all samples",
        )
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Maximum iterations", ConvergenceWarning)  # which was the aim
            return train(objective, n_samples, settings, rng)

    def _check_parameters(self, inputs: Inputs) -> None:
        """Raise a ValueError where parameters contradict each other."""
        inputs.architecture.check()
        inputs.check(dtype=self.dtype)
        method = get_method(self.method)
        if self.local_error and (not isinstance(method, ButcherTableau) or not method.adaptive or method.implicit):
            raise ValueError(
                f"local_error={self.local_error} needs an adaptive explicit method such as dopri5, not {self.method!r}."
            )

    def _checked_samples(self, X: Any, y: Any, *, first: bool) -> tuple[Any, np.ndarray]:
        """X and y as scikit-learn checks them, y dense."""
        check_two_dimensional(X, type(self).__name__)
        X = to_pandas(X)
        check_column_names(X)
        if first:
            self._categories = self._categorical(X)
        X, y = check_data(
            self,
            self._categories.encoded(X),
            y,
            **self._input_checks(X),
            multi_output=True,
            y_numeric=self._y_is_numeric,
            reset=first,
        )
        return X, y.toarray() if issparse(y) else y

    def _categorical(self, X: Any) -> CategoricalFeatures:
        """The categorical features of X; images and sparse features have none."""
        by_dtype = isinstance(self.categorical_features, str)
        if self.categorical_features is not None and not by_dtype and self.image_shape is not None:
            raise ValueError("categorical_features is for tables, but image_shape is given; set it to None.")
        of_numbers = self.image_shape is not None or issparse(X)
        return CategoricalFeatures.found(X, None if of_numbers else self.categorical_features)

    def _parts(
        self, targets: np.ndarray, weights: np.ndarray, rng: np.random.RandomState, *, validated: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        """Positions of the samples to train on and of those held out; samples of weight 0 are in neither part."""
        rows = np.flatnonzero(weights)
        return self._split(rows, targets, rng) if validated else (rows, rows[:0])

    def _merged(
        self, X: Any, targets: np.ndarray, weights: np.ndarray, rows: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Positions of the distinct samples among ``rows``, and the sums of their copies' weights."""
        chosen, own_weights = distinct(X[rows], targets[rows], weights[rows])
        if not self.shuffle:
            order = np.argsort(chosen)
            chosen, own_weights = chosen[order], own_weights[order]
        return rows[chosen], own_weights

    def _objective(
        self, network: Network, samples: Samples, inputs: Inputs, generator: torch.Generator
    ) -> SupervisedObjective:
        return SupervisedObjective(
            network,
            samples,
            self._losses(),
            self._solver().counting(),
            regularisation=Regularisation(self.kinetic_energy, self.jacobian_norm, self.local_error, self.steer),
            augmented=inputs.augmented,
            dropout=self.input_dropout,
            generator=generator,
        )

    def _validation_score(self, samples: Samples) -> float:
        """The score of the network in training on samples held out."""
        return self._score(self._evaluated(self.module_, samples), samples.y, samples.weights)

    def _held_out_loss(self, network: Network, samples: Samples) -> float:
        """Sum of the weighted losses of a network in training on samples held out; infinite where a solve fails."""
        try:
            with solving():
                losses = self._losses()(self._evaluated(network, samples), samples.y)
        except SolverError:
            return math.inf
        return float((samples.weights * losses).sum())

    def _evaluated(self, network: Network, samples: Samples) -> Tensor:
        """Outputs of a network in training."""
        network.eval()
        solver = self._solver()
        (outputs,) = shared_out(
            lambda some: (torch.cat(list(self._each(some, lambda x: network.outputs(x, solver)[0]))),), samples.x
        )
        network.train()
        return outputs

    def _state_shape(self) -> str:
        """Shape of the ODE's states, as error messages write it."""
        size = (self.state_size or self.scaler_.n_features_in_) + self.augment_dim
        return f"(n, {size}{self._inputs().state_dims})"

    def _for_merged(self, weights: np.ndarray, inputs: Inputs, *, partial: bool) -> tuple[float, int]:
        """Weight of a batch, by which ``alpha`` is divided, and passes over the distinct samples in an epoch.

        Weights that are whole numbers count as numbers of copies: of a few samples with many copies an epoch makes as
        many updates as if these differed, up to a bound.
        """
        n = len(weights)
        total = max(weights.sum(), n)
        copies = round(total) if (weights == np.round(weights)).all() else n
        auto = inputs.auto_batch_size if self.batch_size == "auto" else lambda _: int(self.batch_size)
        batch = auto(round(total))
        n_updates = min(math.ceil(copies / auto(copies)), MOST_UPDATES)
        passes = max(1, round(n_updates / math.ceil(n / auto(n))))
        return (batch if partial else min(batch, total)), passes

    def _split(
        self, rows: np.ndarray, targets: np.ndarray, rng: np.random.RandomState
    ) -> tuple[np.ndarray, np.ndarray]:
        """Rows to train on and rows to hold out."""
        strata = self._strata(targets[rows])
        self._check_split_sizes(len(rows), 1 if strata is None else len(np.unique(strata)))
        kept, held_out = train_test_split(rows, test_size=self.validation_fraction, random_state=rng, stratify=strata)
        return kept, held_out

    def _cannot_set_aside(self, n: int, reason: str) -> ValueError:
        return ValueError(
            f"early_stopping=True can't set aside validation_fraction={self.validation_fraction} of {n} samples: "
            f"{reason}."
        )

    def _check_split_sizes(self, n: int, n_strata: int) -> None:
        """Raise a ValueError where a part of n samples would be too small, with a fraction that would do."""
        n_held_out = math.ceil(self.validation_fraction * n)
        least, most = max(n_strata, 2), n - n_strata
        if least <= n_held_out <= most:
            return
        each = f", one at least of each of the {n_strata} classes" if n_strata > 1 else ""
        if n_held_out < least:
            reason = f"two at least are needed to score{each}"
        else:
            reason = f"too few are left to train on{each}"
        advice = ""
        if least <= most:
            change, bound, end = ("raise", least, "more") if n_held_out < least else ("lower", most, "less")
            # In the middle between two numbers of samples, so that rounding does not matter.
            fraction = round((bound - 0.5) / n, len(str(n)))
            advice = f", or {change} validation_fraction to {fraction} or {end}"
        raise self._cannot_set_aside(n, f"{reason}. Set early_stopping=False{advice}")

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.input_tags.allow_nan = self.image_shape is None
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

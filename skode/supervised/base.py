"""The base of ``ODENetClassifier`` and ``ODENetRegressor``: one network, trained and evaluated in the same way."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from numbers import Integral, Real
from typing import Any, Self, TypeVar

import numpy as np
import torch
from scipy.sparse import issparse
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.model_selection import train_test_split
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

from skode.dynamics.fields import FIELDS
from skode.solvers import ButcherTableau, Solution, SolverError, get_method
from skode.solvers.devices import is_asynchronous
from skode.supervised.architecture import Architecture
from skode.supervised.inputs import Inputs, check_two_dimensional, inputs_of
from skode.supervised.objective import Losses, Samples, SupervisedObjective
from skode.supervised.odenet import Network
from skode.training import (
    AUTO_BATCH_SIZE,
    COMMON_CONSTRAINTS,
    NeuralODEEstimator,
    Regularisation,
    SparseFeatures,
    array_api,
    check_argument,
    check_data,
    check_labels,
    check_numeric_targets,
    check_squares,
    check_unit_times,
    check_weights,
    distinct,
    new_generator,
    resolve_device,
    rollback,
    to_numpy,
    to_pandas,
    to_tensor,
    users_field,
)
from skode.training.settings import Choices

Result = TypeVar("Result")

#: Largest number of values of the widest layer that predictions compute at once: more take as long, and more memory.
BLOCK, BLOCK_ON_GPU = 2**19, 2**24

SUPERVISED_CONSTRAINTS: dict[str, list[Any]] = {
    **COMMON_CONSTRAINTS,
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


class ODENetEstimator(ClassNamePrefixFeaturesOutMixin, TransformerMixin, NeuralODEEstimator):
    """Base of the estimators whose hidden layers are the solution of a neural ODE.

    Subclasses define their targets: see :meth:`_encode`, :meth:`_losses` and :meth:`_score`.
    """

    activation: str
    state_size: int | None
    augment_dim: int
    field: nn.Module | str | None
    image_shape: Any
    image_shift: float
    n_blocks: int
    time_dependent: bool
    evolving_weights: bool
    input_dropout: float
    kinetic_energy: float
    jacobian_norm: float
    local_error: float
    steer: float
    random_state: Any
    early_stopping: bool
    validation_fraction: float
    dtype: str | None

    module_: Network
    n_outputs_: int

    def _encode(self, y: np.ndarray, *, first: bool, classes: Any = None) -> np.ndarray:
        """Targets as numbers, of shape (n,) or (n, n_outputs); if first, the attributes that describe them are set."""
        raise NotImplementedError

    def _prepare(self, targets: np.ndarray, weights: np.ndarray, *, first: bool) -> None:
        """Learn from the encoded targets that are trained on, before the network is made."""

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
        with rollback(self, changed_in_place=changed):
            return self._fitted(X, y, sample_weight, partial=partial, classes=classes)

    def _fitted(self, X: Any, y: Any, sample_weight: Any, *, partial: bool, classes: Any) -> Self:
        stopwatch = self._stopwatch()
        inputs = self._inputs()
        first = self._is_first_fit(inputs.architecture.effective(), goes_on=self.warm_start or partial)
        self._check_parameters(inputs)
        X, y = self._checked_samples(X, y, first=first)
        inputs.check_size(X.shape[1])
        task = self._task(X, y, sample_weight)
        sample_weight = check_weights(sample_weight, X)
        targets = self._encode(y, first=first, classes=classes)
        weights = self._weights(targets, sample_weight)
        rng = check_random_state(self.random_state)
        rows, held_out = self._parts(targets, weights, rng, validated=self.early_stopping and not partial)
        n_given = len(rows)
        rows, own_weights = self._merged(X, targets, weights, rows)
        self._prepare(targets[rows], own_weights, first=first)
        device, dtype = self._device_and_dtype(X, first=first)
        training_dtype = self._training_dtype(dtype)
        if first:
            self.scaler_ = inputs.fitted_scaler(X[rows], own_weights)
            self.module_ = inputs.network(X.shape[1], self.n_outputs_, new_generator(rng))
            self._built_from = inputs.architecture.effective()
            self._record = None
        elif partial:
            inputs.update_scaler(self.scaler_, X[rows], own_weights)
        if first or self.dtype is not None:
            self.module_.set_autocast(self.dtype == "bfloat16")
        self.module_.to(device=device, dtype=training_dtype)

        def samples(rows: np.ndarray, weights: np.ndarray) -> Samples:
            w = to_tensor(weights / weights.mean(), training_dtype, device)
            x = inputs.features(self.scaler_, X[rows], training_dtype, device)
            return Samples(x, self._as_tensor(targets[rows], w), w)

        objective = self._objective(samples(rows, own_weights), inputs, new_generator(rng, device))
        validate = None
        if len(held_out):
            validate = functools.partial(self._validation_score, samples(held_out, weights[held_out]))
        alpha, passes = self._for_merged(own_weights, n_given, partial=partial)
        with users_field(self.field, rng, self._state_shape()):
            self.module_.train()
            settings = self._settings(len(rows), alpha=alpha, passes=passes, stopwatch=stopwatch)
            if partial:
                self._fit_partially(objective, len(rows), rng, settings)
                self.module_.to(dtype)
            else:
                self._record = self._fit_module(
                    objective, len(rows), rng, settings, task=task, dtype=dtype, validate=validate
                )
            self.module_.eval()
        return self

    def _inputs(self) -> Inputs:
        """Tables or images, as the parameters say now."""
        architecture = Architecture(
            state_size=self.state_size,
            augment_dim=self.augment_dim,
            image_shape=None if self.image_shape is None else tuple(self.image_shape),
            n_blocks=self.n_blocks,
            field=self.field,
            hidden_layer_sizes=self._hidden_layers(),
            activation=self.activation,
            time_dependent=self.time_dependent,
            evolving_weights=self.evolving_weights,
        )
        return inputs_of(architecture, self.image_shift)

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
        X, y = check_data(
            self,
            X,
            y,
            accept_sparse="csr",
            dtype=[np.float64, np.float32],
            multi_output=True,
            y_numeric=self._y_is_numeric,
            reset=first,
        )
        return X, y.toarray() if issparse(y) else y

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

    def _objective(self, samples: Samples, inputs: Inputs, generator: torch.Generator) -> SupervisedObjective:
        return SupervisedObjective(
            self.module_,
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
        self.module_.eval()
        outputs = torch.cat([outputs for outputs, _ in self._each(samples.x, self._outputs())])
        score = self._score(outputs, samples.y, samples.weights)
        self.module_.train()
        return score

    def _state_shape(self) -> str:
        """Shape of the ODE's states, as error messages write it."""
        size = (self.state_size or self.n_features_in_) + self.augment_dim
        return f"(n, {size}{self._inputs().state_dims})"

    def _for_merged(self, weights: np.ndarray, n_given: int, *, partial: bool) -> tuple[float, int]:
        """Strength of the L2 penalty, and passes over the distinct samples in an epoch.

        The penalty is divided by the weight of a batch, and an epoch makes as many updates, as if all samples differed.
        """
        batch = AUTO_BATCH_SIZE if self.batch_size == "auto" else int(self.batch_size)
        n = len(weights)
        weighs = batch if partial else min(batch, max(weights.sum(), n))
        passes = max(1, round(math.ceil(n_given / batch) / math.ceil(n / batch)))
        return self.alpha * self._batch_size(n, AUTO_BATCH_SIZE) / weighs, passes

    _y_is_numeric = False

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

    def _outputs(self) -> Callable[[Tensor], tuple[Tensor, list[Solution]]]:
        """The function from features to the network's outputs and the solves behind them."""
        solver = self._solver()
        return lambda x: self.module_.outputs(x, solver)

    def _checked(self, X: Any) -> Tensor | SparseFeatures:
        """Features as the fitted network takes them."""
        check_is_fitted(self, "module_")
        check_two_dimensional(X, type(self).__name__)
        X = check_data(self, X, accept_sparse="csr", dtype=[np.float64, np.float32], reset=False)
        device = resolve_device(self.device)
        self.module_.to(device)  # it may have been fitted on another
        return self._inputs().features(self.scaler_, X, self.module_.head.weight.dtype, device)

    def _predicted(self, X: Any) -> tuple[Tensor, np.ndarray]:
        """The network's outputs for X, and the evaluations of the vector field that each sample took."""
        outputs, counts = [], []
        for part, solutions in self._each(self._checked(X), self._outputs()):
            outputs.append(part)
            counts.append(np.sum([evaluations(solution, len(part)) for solution in solutions], axis=0))
        return torch.cat(outputs), np.concatenate(counts)

    def _each(self, x: Tensor | SparseFeatures, function: Callable[[Tensor], Result]) -> Iterator[Result]:
        """Apply a function to samples in blocks, which bounds its memory.

        Every sample takes separate steps, so that results do not depend on the division into blocks.
        """
        most = BLOCK_ON_GPU if is_asynchronous(x.device) else BLOCK
        n = max(most // max(self.module_.width, *self._hidden_layers(), 1), 1)
        for first in range(0, len(x), n):
            try:
                with torch.no_grad():
                    result = function(x[first : first + n])
            except SolverError as error:
                if error.sample is None:
                    raise
                raise type(error)(
                    error.reason,
                    time=error.time,
                    step_size=error.step_size,
                    advice=error.advice,
                    sample=first + error.sample,
                ) from None
            yield result

    def _scored(self, score: Callable[..., float], X: Any, y: Any, sample_weight: Any) -> float:
        """A score by scikit-learn, of targets and weights that are checked as in ``fit``; errors name the argument."""
        weights = None if sample_weight is None else check_weights(sample_weight, X)
        y = to_pandas(y, "y")
        with check_argument("y"), check_squares("y"):
            if not issparse(y) and np.ndim(y):  # scikit-learn raises errors for other types
                y = check_numeric_targets(y, type(self).__name__) if self._y_is_numeric else check_labels(y)
            return float(score(X, y, sample_weight=weights))

    @array_api
    def transform(self, X: Any) -> np.ndarray:
        """The state at the end of the ODE (of images, normalised and rectified), which outputs are affine functions of.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)
            Features.

        Returns
        -------
        ndarray of shape (n_samples, n_states)
            The states.
        """
        solver = self._solver()

        def features(x: Tensor) -> np.ndarray:
            return to_numpy(self.module_.features(self.module_.solutions(x, solver)[-1].y[-1]))

        return np.concatenate(list(self._each(self._checked(X), features)))

    @array_api
    def trajectory(self, X: Any, t: Any) -> np.ndarray:
        """The hidden state along depth, of the last ODE where there are several.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)
            Features.
        t : array-like of shape (n_times,)
            Depths between 0, the network's input, and 1, its output; strictly increasing.

        Returns
        -------
        ndarray of shape (n_samples, n_times, n_states), or (n_samples, n_times, channels, height, width)
            The states ``z(t)``.

        Raises
        ------
        ValueError
            Where ``t`` is not as described.
        """
        x, times, solver = self._checked(X), check_unit_times(t).tolist(), self._solver()

        def states(x: Tensor) -> np.ndarray:
            return to_numpy(self.module_.solutions(x, solver, times)[-1].y.transpose(0, 1))

        return np.concatenate(list(self._each(x, states)))

    @property
    def _n_features_out(self) -> int:
        return self.module_.size

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags


def evaluations(solution: Solution, n: int) -> np.ndarray:
    """Evaluations of the vector field that each of n samples took."""
    by_sample = solution.statistics.by_sample
    return np.full(n, solution.nfev) if by_sample is None else by_sample[0]

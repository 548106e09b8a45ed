"""What ``ODENetClassifier`` and ``ODENetRegressor`` share: the same network, trained and evaluated in the same way."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
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
from skode.solvers.solution import Solve
from skode.supervised.conv_odenet import ConvODENet
from skode.supervised.odenet import ODENet
from skode.training import (
    AUTO_BATCH_SIZE,
    COMMON_CONSTRAINTS,
    NeuralODEEstimator,
    PenalisedSolver,
    Regularisation,
    Solver,
    SparseFeatures,
    array_api,
    as_index,
    check_argument,
    check_data,
    check_labels,
    check_numeric_targets,
    check_squares,
    check_unit_times,
    check_weights,
    distinct,
    field_is_theirs,
    fitted_on,
    fitted_scaler,
    new_generator,
    resolve_device,
    rollback,
    shifted,
    standardised,
    to_numpy,
    to_pandas,
    to_tensor,
)
from skode.training.settings import Choices

Answer = TypeVar("Answer")

#: Standardised features are squashed smoothly into (-CLIP, CLIP), as Holzmueller et al. (2024) do.
CLIP = 3.0

#: Numbers of the widest layer that are computed at once in answers: more take as long, and more memory.
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


#: What a network is built from, and cannot be changed once it is; and what only its built-in field is built from.
ARCHITECTURE = ("state_size", "augment_dim", "image_shape", "n_blocks", "field")
FIELD_ARCHITECTURE = ("hidden_layer_sizes", "activation", "time_dependent", "evolving_weights")


class ODENetEstimator(ClassNamePrefixFeaturesOutMixin, TransformerMixin, NeuralODEEstimator):
    """Base of the estimators whose hidden layers are the solution of a neural ODE.

    Subclasses say what their targets are: see :meth:`_encode`, :meth:`_losses` and :meth:`_score`.
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

    module_: ODENet | ConvODENet
    n_outputs_: int

    def _encode(self, y: np.ndarray, *, first: bool, classes: Any = None) -> np.ndarray:
        """Targets as numbers, of shape (n,) or (n, n_outputs); learns what there is to learn about them if first."""
        raise NotImplementedError

    def _prepare(self, targets: np.ndarray, weights: np.ndarray, *, first: bool) -> None:
        """Learn from the encoded targets that are trained on, before the network is made."""

    def _weights(self, targets: np.ndarray, sample_weight: np.ndarray) -> np.ndarray:
        """The samples' weights in training."""
        return sample_weight

    def _as_tensor(self, targets: np.ndarray, like: Tensor) -> Tensor:
        """Encoded targets as :meth:`_losses` takes them."""
        raise NotImplementedError

    def _losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The loss of each sample, of shape (n,)."""
        raise NotImplementedError

    def _score(self, outputs: Tensor, targets: Tensor, weights: Tensor) -> float:
        """The validation score; higher is better."""
        raise NotImplementedError

    def _strata(self, targets: np.ndarray) -> np.ndarray | None:
        """By what to stratify the validation split."""
        return None

    def _fit(self, X: Any, y: Any, sample_weight: Any, *, partial: bool = False, classes: Any = None) -> Self:
        changed = ("module_", "scaler_", "_record") if partial or self.warm_start else ()
        with rollback(self, changed_in_place=changed):
            return self._fitted(X, y, sample_weight, partial=partial, classes=classes)

    def _fitted(self, X: Any, y: Any, sample_weight: Any, *, partial: bool, classes: Any) -> Self:
        hidden = self._hidden_layers()
        self._check_penalties()
        self._check_dtype()
        built_from = self._architecture(hidden)
        first = self._is_first_fit(built_from, goes_on=self.warm_start or partial)
        self._refuse_stacked_images(X)
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
        y = y.toarray() if issparse(y) else y
        task = self._task(X, y, sample_weight)
        if self.image_shape is not None:
            self._checked_image_shape(X.shape[1])
        sample_weight = check_weights(sample_weight, X)
        targets = self._encode(y, first=first, classes=classes)
        weights = self._weights(targets, sample_weight)
        rng = check_random_state(self.random_state)
        rows = np.flatnonzero(weights)
        held_out = rows[:0]
        if self.early_stopping and not partial:
            rows, held_out = self._split(rows, targets, rng)
        n_given = len(rows)
        chosen, own_weights = distinct(X[rows], targets[rows], weights[rows])
        if not self.shuffle:
            order = np.argsort(chosen)
            chosen, own_weights = chosen[order], own_weights[order]
        rows = rows[chosen]
        self._prepare(targets[rows], own_weights, first=first)
        device, dtype = self._device_and_dtype(X, first=first)
        train_in = self._training_dtype(dtype)
        if first:
            self.scaler_ = fitted_scaler(*self._to_scale(X[rows], own_weights))
            self.module_ = self._network(X.shape[1], hidden, new_generator(rng))
            self._built_from = built_from
            self._record = None
        elif partial:
            to_scale, its_weights = self._to_scale(X[rows], own_weights)
            fitted_on(self.scaler_, to_scale, its_weights)
        if (first or self.dtype is not None) and isinstance(self.module_, ConvODENet):
            self.module_.set_autocast(self.dtype == "bfloat16")
        self.module_.to(device=device, dtype=train_in)

        def tensors(rows: np.ndarray, weights: np.ndarray) -> tuple[Tensor | SparseFeatures, Tensor, Tensor]:
            w = to_tensor(weights / weights.mean(), train_in, device)
            return self._features(X[rows], train_in, device), self._as_tensor(targets[rows], w), w

        objective = _Objective(self, *tensors(rows, own_weights), rng)
        validate = None
        if len(held_out):
            x, y_held_out, w = tensors(held_out, weights[held_out])

            def validate() -> float:
                self.module_.eval()
                score = self._score(torch.cat([outputs for outputs, _ in self._each(x, self._outputs)]), y_held_out, w)
                self.module_.train()
                return score

        alpha, passes = self._for_merged(own_weights, n_given, partial=partial)
        with self._own_random_state(rng, needed=isinstance(self.field, nn.Module)), self._field_explained():
            self.module_.train()
            if partial:
                self._fit_partially(objective, len(rows), rng, alpha=alpha, passes=passes)
                self.module_.to(dtype)
            else:
                settings = self._settings(len(rows), alpha=alpha, passes=passes)
                self._record = self._fit_module(
                    objective, len(rows), rng, settings, task=task, dtype=dtype, validate=validate
                )
            self.module_.eval()
        return self

    def _field_explained(self) -> AbstractContextManager[None]:
        """Errors from inside a field of the user's own say how it is called."""
        if not isinstance(self.field, nn.Module):
            return nullcontext()
        size = (self.state_size or self.n_features_in_) + self.augment_dim
        images = ", height, width" if self.image_shape is not None else ""
        return field_is_theirs(self.field, f"(n, {size}{images})")

    def _for_merged(self, weights: np.ndarray, n_given: int, *, partial: bool) -> tuple[float, int]:
        """Strength of the L2 penalty, and passes over the distinct samples in an epoch.

        The penalty is divided by what a batch weighs, and an epoch makes as many updates, as if all samples differed.
        """
        batch = AUTO_BATCH_SIZE if self.batch_size == "auto" else int(self.batch_size)
        n = len(weights)
        weighs = batch if partial else min(batch, max(weights.sum(), n))
        passes = max(1, round(math.ceil(n_given / batch) / math.ceil(n / batch)))
        return self.alpha * self._batch_size(n, AUTO_BATCH_SIZE) / weighs, passes

    def _architecture(self, hidden: tuple[int, ...]) -> dict[str, Any]:
        """What the network is built from, or is to be."""
        built_in = not isinstance(self.field, nn.Module)
        own = {name: getattr(self, name) for name in FIELD_ARCHITECTURE} if built_in else {}
        if own:
            own["hidden_layer_sizes"] = hidden
        if self.image_shape is not None:
            own.pop("activation", None)
        built_from = {name: getattr(self, name) for name in ARCHITECTURE} | own
        built_from["image_shape"] = None if self.image_shape is None else tuple(self.image_shape)
        return built_from

    def _check_penalties(self) -> None:
        """Refuse a penalty on error estimates that the method does not make."""
        method = get_method(self.method)
        if self.local_error and (not isinstance(method, ButcherTableau) or not method.adaptive or method.implicit):
            raise ValueError(
                f"local_error={self.local_error} needs an adaptive explicit method such as dopri5, not {self.method!r}."
            )

    def _check_dtype(self) -> None:
        """Refuse bfloat16 for what is no image."""
        if self.dtype == "bfloat16" and self.image_shape is None:
            raise ValueError(
                "dtype='bfloat16' is for images, given by image_shape=(channels, height, width): the states of tables "
                "are small, and would lose precision for no speed. Set dtype='float32'."
            )

    _y_is_numeric = False

    def _network(self, n_features: int, hidden: tuple[int, ...], generator: torch.Generator) -> ODENet | ConvODENet:
        if self.field is not None and self.evolving_weights:
            raise ValueError("evolving_weights=True is for the built-in fields; a field of your own may do it itself.")
        if isinstance(self.field, str) and not self.time_dependent:
            raise ValueError(f"time_dependent=False needs field=None: field={self.field!r} depends on time.")
        if self.image_shape is not None:
            if isinstance(self.field, str):
                raise ValueError(f"field={self.field!r} is not for images; pass a module, or None for convolutions.")
            return ConvODENet(
                self._checked_image_shape(n_features),
                self.n_outputs_,
                n_channels=int(self.state_size or 0),
                augment_dim=self.augment_dim,
                n_blocks=self.n_blocks,
                hidden_layer_sizes=hidden,
                time_dependent=self.time_dependent,
                evolving_weights=self.evolving_weights,
                field=self.field,
                generator=generator,
            )
        for name, is_set in (("n_blocks", self.n_blocks > 1), ("image_shift", self.image_shift)):
            if is_set:
                given = f"{name}={getattr(self, name)}"
                raise ValueError(f"{given} is for images; pass image_shape=(channels, height, width).")
        options = {
            "hidden_layer_sizes": hidden,
            "activation": self.activation,
            "time_dependent": self.time_dependent,
        }
        return ODENet(
            n_features,
            self.n_outputs_,
            state_size=self.state_size,
            augment_dim=self.augment_dim,
            field=copy.deepcopy(self.field),
            evolving_weights=self.evolving_weights,
            field_options=options,
            generator=generator,
        )

    def _checked_image_shape(self, n_features: int) -> tuple[int, int, int]:
        shape = tuple(self.image_shape)
        whole = all(isinstance(n, int | np.integer) and n > 0 for n in shape)
        if len(shape) != 3 or not whole or math.prod(shape) != n_features:
            raise ValueError(
                f"image_shape={self.image_shape!r} must be (channels, height, width) with a product of {n_features}, "
                "the number of features."
            )
        if self.state_size is None:
            raise ValueError("image_shape needs a state_size, the number of channels.")
        return shape

    def _refuse_stacked_images(self, X: Any) -> None:
        """Refuse images that are not rows of pixels."""
        shape = getattr(X, "shape", ())
        if len(shape) > 2:
            raise ValueError(
                f"X has shape {tuple(shape)}, but {type(self).__name__} takes one row per sample: dim {len(shape)} "
                "while dim <= 2 is required. Pass images as rows of pixels, X.reshape(len(X), -1), and their shape by "
                "image_shape=(channels, height, width)."
            )

    def _split(
        self, rows: np.ndarray, targets: np.ndarray, rng: np.random.RandomState
    ) -> tuple[np.ndarray, np.ndarray]:
        """Rows to train on and rows to hold out."""
        strata = self._strata(targets[rows])
        self._refuse_too_small_a_split(len(rows), 1 if strata is None else len(np.unique(strata)))
        kept, held_out = train_test_split(rows, test_size=self.validation_fraction, random_state=rng, stratify=strata)
        return kept, held_out

    def _cannot_set_aside(self, n: int, reason: str) -> ValueError:
        return ValueError(
            f"early_stopping=True can't set aside validation_fraction={self.validation_fraction} of {n} samples: "
            f"{reason}."
        )

    def _refuse_too_small_a_split(self, n: int, n_strata: int) -> None:
        """Refuse a split of n samples of which a part is smaller than it must be, with the fractions that are not."""
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

    def _to_scale(self, X: Any, weights: np.ndarray) -> tuple[Any, np.ndarray]:
        """What the scaler is fitted to: features, or all pixels of images as one."""
        if self.image_shape is None:
            return X, weights
        pixels = X.reshape(-1, 1)
        return pixels.tocsr() if issparse(X) else pixels, np.repeat(weights, X.shape[1])

    def _scaled(self, X: np.ndarray) -> np.ndarray:
        """Features standardised, and squashed smoothly so that no outlier is far from the rest.

        All pixels of images are brought to the same scale.
        """
        if self.image_shape is not None:
            return standardised(self.scaler_, X.reshape(-1, 1)).reshape(X.shape)
        z = standardised(self.scaler_, X)
        return z / np.hypot(1.0, z / CLIP)

    def _features(self, X: Any, dtype: torch.dtype, device: torch.device) -> Tensor | SparseFeatures:
        """Features as the network takes them; sparse ones become dense a block at a time, when they are looked at."""
        if issparse(X):
            return SparseFeatures(X, self._scaled, dtype, device)
        return to_tensor(self._scaled(X), dtype, device)

    def _outputs(self, x: Tensor, solver: Solve | None = None) -> tuple[Tensor, list[Solution]]:
        """The network's outputs and the solves behind them."""
        solutions = self.module_.solutions(x, solver or self._solver())
        return self.module_.head(self.module_.features(solutions[-1].y[-1])), solutions

    def _checked(self, X: Any) -> Tensor | SparseFeatures:
        """Features as the fitted network takes them."""
        check_is_fitted(self, "module_")
        self._refuse_stacked_images(X)
        X = check_data(self, X, accept_sparse="csr", dtype=[np.float64, np.float32], reset=False)
        device = resolve_device(self.device)
        self.module_.to(device)  # it may have been fitted on another
        return self._features(X, self.module_.head.weight.dtype, device)

    def _answers(self, X: Any) -> tuple[Tensor, np.ndarray]:
        """The network's outputs for X, and the evaluations of the vector field that each sample took."""
        outputs, counts = [], []
        for part, solutions in self._each(self._checked(X), self._outputs):
            outputs.append(part)
            counts.append(np.sum([evaluations(solution, len(part)) for solution in solutions], axis=0))
        return torch.cat(outputs), np.concatenate(counts)

    def _each(self, x: Tensor | SparseFeatures, function: Callable[[Tensor], Answer]) -> Iterator[Answer]:
        """Apply a function to samples in blocks, which bounds its memory.

        Every sample takes its own steps, so that it does not matter which ones come together.
        """
        most = BLOCK_ON_GPU if is_asynchronous(x.device) else BLOCK
        n = max(most // max(self.module_.width, *self._hidden_layers(), 1), 1)
        for first in range(0, len(x), n):
            try:
                with torch.no_grad():
                    answer = function(x[first : first + n])
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
            yield answer

    def _scored(self, score: Callable[..., float], X: Any, y: Any, sample_weight: Any) -> float:
        """A score by scikit-learn, of targets and weights that are checked as in ``fit``; errors name the argument."""
        weights = None if sample_weight is None else check_weights(sample_weight, X)
        y = to_pandas(y, "y")
        with check_argument("y"), check_squares("y"):
            if not issparse(y) and np.ndim(y):  # of what is no array scikit-learn tells
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

        def features(x: Tensor) -> np.ndarray:
            return to_numpy(self.module_.features(self.module_.solutions(x, self._solver())[-1].y[-1]))

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
        x, times = self._checked(X), check_unit_times(t).tolist()

        def states(x: Tensor) -> np.ndarray:
            return to_numpy(self.module_.solutions(x, self._solver(), times)[-1].y.transpose(0, 1))

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


class _Objective:
    """The network's weighted mean loss over batches, with dropout on its inputs."""

    def __init__(
        self,
        estimator: ODENetEstimator,
        X: Tensor | SparseFeatures,
        y: Tensor,
        weights: Tensor,
        rng: np.random.RandomState,
    ) -> None:
        self.estimator, self.X, self.y, self.weights = estimator, X, y, weights
        self.generator = new_generator(rng, X.device)
        self.regularisation = Regularisation(
            estimator.kinetic_energy, estimator.jacobian_norm, estimator.local_error, estimator.steer
        )
        self.solver: Solver = estimator._solver().counting()

    def parameters(self) -> Any:
        return self.estimator.module_.parameters()

    def loss(self, rows: np.ndarray | Tensor) -> Tensor:
        chosen = as_index(rows, self.X.device)
        x, dropout = self.X[chosen], self.estimator.input_dropout
        if self.estimator.image_shift:
            shape = tuple(self.estimator.image_shape)
            x = shifted(x.view(-1, *shape), self.estimator.image_shift, self.generator).flatten(1)
        if dropout:
            kept = torch.empty(x.shape, device=x.device).bernoulli_(1.0 - dropout, generator=self.generator)
            x = x * kept.div_(1.0 - dropout).to(x)
        weights = self.weights[chosen]
        outputs, penalty = self._solved(x, weights)
        return (weights * self.estimator._losses(outputs, self.y[chosen])).mean() + penalty

    def _solved(self, x: Tensor, weights: Tensor) -> tuple[Tensor, Any]:
        """Outputs, and the penalties along the solves behind them."""
        if not self.regularisation or not torch.is_grad_enabled():
            return self.estimator._outputs(x, self.solver)[0], 0.0
        solver = PenalisedSolver(self.solver, self.regularisation, self.generator, weights)
        return self.estimator._outputs(x, solver)[0], solver.penalty

"""Answers of ``ODENetClassifier`` and ``ODENetRegressor`` once they are fitted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import numpy as np
import torch
from scipy.sparse import issparse
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.preprocessing import StandardScaler
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

from skode.distributed.work import shared_out
from skode.io.sources import in_memory
from skode.solvers import Solution, SolverError
from skode.solvers.devices import is_asynchronous
from skode.supervised.architecture import Architecture
from skode.supervised.columns import CategoricalFeatures, Columns
from skode.supervised.export import ExportsODENet
from skode.supervised.inputs import Inputs, check_two_dimensional, inputs_of
from skode.supervised.odenet import Network
from skode.training import (
    SparseFeatures,
    array_api,
    by_blocks,
    by_partition,
    check_argument,
    check_data,
    check_labels,
    check_numeric_targets,
    check_squares,
    check_unit_times,
    check_weights,
    resolve_device,
    to_numpy,
    to_pandas,
)

Result = TypeVar("Result")

#: Largest number of values of the widest layer that predictions compute at once: more take as long, and more memory.
BLOCK, BLOCK_ON_GPU = 2**19, 2**24


class FittedODENet(ClassNamePrefixFeaturesOutMixin, TransformerMixin, ExportsODENet):
    """Evaluation of the network, and what all ODE-Nets answer."""

    activation: str
    state_size: int | None
    augment_dim: int
    field: nn.Module | str | None
    image_shape: Any
    image_shift: float
    n_blocks: int
    time_dependent: bool
    evolving_weights: bool

    module_: Network
    scaler_: StandardScaler
    _categories: CategoricalFeatures
    _columns: Columns

    _y_is_numeric = False

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

    def _input_checks(self, X: Any) -> dict[str, Any]:
        """How features are checked: dense ones of tables may be missing."""
        may_be_missing = self.image_shape is None and not issparse(X)
        return {
            "accept_sparse": "csr",
            "dtype": [np.float64, np.float32],
            "ensure_all_finite": "allow-nan" if may_be_missing else True,
        }

    def _outputs(self) -> Callable[[Tensor], tuple[Tensor, list[Solution]]]:
        """The function from features to the network's outputs and the solves behind them."""
        solver = self._solver()
        return lambda x: self.module_.outputs(x, solver)

    def _checked(self, X: Any) -> Tensor | SparseFeatures:
        """Features as the fitted network takes them."""
        check_is_fitted(self, "module_")
        check_two_dimensional(X, type(self).__name__)
        X = check_data(self, self._categories.encoded(X), **self._input_checks(X), reset=False)
        X = self._columns.expanded(X)
        device = resolve_device(self.device)
        self.module_.to(device)  # it may have been fitted on another
        return self._inputs().features(self.scaler_, X, self.module_.head.weight.dtype, device)

    def _predicted(self, X: Any) -> tuple[Tensor, np.ndarray]:
        """The network's outputs for X, and the evaluations of the vector field that each sample took."""

        def predicted(x: Tensor | SparseFeatures) -> tuple[Tensor, np.ndarray]:
            outputs, counts = [], []
            for part, solutions in self._each(x, self._outputs()):
                outputs.append(part)
                counts.append(np.sum([evaluations(solution, len(part)) for solution in solutions], axis=0))
            return torch.cat(outputs), np.concatenate(counts)

        outputs, counts = shared_out(predicted, self._checked(X))
        return outputs, counts

    def _rows_at_once(self) -> int:
        """Number of samples that are computed together."""
        most = BLOCK_ON_GPU if is_asynchronous(resolve_device(self.device)) else BLOCK
        return max(most // max(self.module_.width, *self._hidden_layers(), 1), 1)

    def _each(self, x: Tensor | SparseFeatures, function: Callable[[Tensor], Result]) -> Iterator[Result]:
        """Apply a function to samples in blocks, which bounds its memory.

        Every sample takes separate steps, so that results do not depend on the division into blocks.
        """
        n = self._rows_at_once()
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
        weights = None if sample_weight is None else check_weights(in_memory(sample_weight), X)
        y = to_pandas(in_memory(y), "y")
        with check_argument("y"), check_squares("y"):
            if not issparse(y) and np.ndim(y):  # scikit-learn raises errors for other types
                y = check_numeric_targets(y, type(self).__name__) if self._y_is_numeric else check_labels(y)
            return float(score(X, y, sample_weight=weights))

    @by_partition
    @array_api
    @by_blocks
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

    @by_partition
    @array_api
    @by_blocks
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


def evaluations(solution: Solution, n: int) -> np.ndarray:
    """Evaluations of the vector field that each of n samples took."""
    by_sample = solution.statistics.by_sample
    return np.full(n, solution.nfev) if by_sample is None else by_sample[0]

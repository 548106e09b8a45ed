"""Tables and images as inputs of ODE-Nets: checks of parameters, scaling, and the networks for them."""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from scipy.sparse import issparse
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from skode.supervised.architecture import Architecture
from skode.supervised.conv_odenet import ConvODENet
from skode.supervised.odenet import Network, ODENet
from skode.training import AUTO_BATCH_SIZE, SparseFeatures, fitted_on, shifted, sound_scaler, standardised, to_tensor

#: Standardised features are squashed smoothly into (-CLIP, CLIP), as Holzmueller et al. (2024) do.
CLIP = 3.0

#: Updates in an epoch over a small table, which is then learned in as many epochs, and the smallest batch for that.
UPDATES, SMALLEST_BATCH = 8, 32


def squashed(scaler: StandardScaler, X: np.ndarray) -> np.ndarray:
    """Features standardised, missing ones 0, and squashed smoothly so that no outlier is far from the rest."""
    z = standardised(scaler, np.where(np.isnan(X), scaler.mean_, X))
    return z / np.hypot(1.0, z / CLIP)


class Inputs(ABC):
    """The features of samples on their way into a network.

    Parameters
    ----------
    architecture : Architecture
        The parameters of the network.
    image_shift : float
        Largest random shift of images in training, in pixels.
    """

    #: Dimensions of a state behind the samples and their features or channels, as error messages write them.
    state_dims: str

    def __init__(self, architecture: Architecture, image_shift: float) -> None:
        self.architecture, self.image_shift = architecture, image_shift

    @abstractmethod
    def check(self, *, dtype: str | None) -> None:
        """Raise a ValueError where parameters do not apply to such inputs."""

    @abstractmethod
    def check_size(self, n_features: int) -> None:
        """Raise a ValueError where the parameters do not fit to X with so many columns."""

    @abstractmethod
    def auto_batch_size(self, n_samples: int) -> int:
        """Samples in a batch where the user gives no number."""

    @abstractmethod
    def network(self, n_features: int, n_outputs: int, generator: torch.Generator) -> Network:
        """A network with initial weights from ``generator``."""

    @abstractmethod
    def scaled(self, scaler: StandardScaler, X: np.ndarray) -> np.ndarray:
        """Features as the network takes them, by a fitted scaler."""

    @abstractmethod
    def augmented(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Scaled features changed at random, as they are in training."""

    @abstractmethod
    def _columns(self, X: Any, weights: np.ndarray) -> tuple[Any, np.ndarray]:
        """X with a column for each scale, and the weights of its rows."""

    def fitted_scaler(self, parts: Iterable[tuple[Any, np.ndarray]]) -> StandardScaler:
        """A scaler fitted to features with weights, in one part or in several."""
        scaler = StandardScaler()
        for X, weights in parts:
            self.update_scaler(scaler, X, weights)
        return sound_scaler(scaler)

    def update_scaler(self, scaler: StandardScaler, X: Any, weights: np.ndarray) -> None:
        """Fit a scaler to further features, in addition to those before."""
        fitted_on(scaler, *self._columns(X, weights))

    def features(
        self, scaler: StandardScaler, X: Any, dtype: torch.dtype, device: torch.device
    ) -> Tensor | SparseFeatures:
        """Scaled features on a device; sparse ones become dense a block at a time, when they are indexed."""
        if issparse(X):
            return SparseFeatures(X, lambda dense: self.scaled(scaler, dense), dtype, device)
        return to_tensor(self.scaled(scaler, X), dtype, device)


class TabularInputs(Inputs):
    """Columns of numbers, each with a scale of its own."""

    state_dims = ""

    def check(self, *, dtype: str | None) -> None:
        if dtype == "bfloat16":
            raise ValueError(
                "dtype='bfloat16' is for images, given by image_shape=(channels, height, width): the states of tables "
                "are small, and would lose precision for no speed. Set dtype='float32'."
            )
        n_blocks, image_shift = self.architecture.n_blocks, self.image_shift
        for name, value, is_set in (("n_blocks", n_blocks, n_blocks > 1), ("image_shift", image_shift, image_shift)):
            if is_set:
                raise ValueError(f"{name}={value} is for images; pass image_shape=(channels, height, width).")

    def check_size(self, n_features: int) -> None:
        pass

    def auto_batch_size(self, n_samples: int) -> int:
        return min(max(n_samples // UPDATES, SMALLEST_BATCH), AUTO_BATCH_SIZE)

    def network(self, n_features: int, n_outputs: int, generator: torch.Generator) -> ODENet:
        chosen = self.architecture
        return ODENet(
            n_features,
            n_outputs,
            state_size=chosen.state_size,
            augment_dim=chosen.augment_dim,
            field=copy.deepcopy(chosen.field),
            evolving_weights=chosen.evolving_weights,
            field_options={
                "hidden_layer_sizes": chosen.hidden_layer_sizes,
                "activation": chosen.activation,
                "time_dependent": chosen.time_dependent,
            },
            generator=generator,
        )

    def scaled(self, scaler: StandardScaler, X: np.ndarray) -> np.ndarray:
        return squashed(scaler, X)

    def augmented(self, x: Tensor, generator: torch.Generator) -> Tensor:
        return x

    def _columns(self, X: Any, weights: np.ndarray) -> tuple[Any, np.ndarray]:
        return X, weights


class ImageInputs(Inputs):
    """Images as rows of pixels, all with one scale."""

    state_dims = ", height, width"

    @property
    def shape(self) -> tuple[int, ...]:
        """Channels, height and width."""
        assert self.architecture.image_shape is not None
        return self.architecture.image_shape

    def check(self, *, dtype: str | None) -> None:
        field = self.architecture.field
        if isinstance(field, str):
            raise ValueError(f"field={field!r} is not for images; pass a module, or None for convolutions.")

    def check_size(self, n_features: int) -> None:
        whole = all(isinstance(n, int | np.integer) and n > 0 for n in self.shape)
        if len(self.shape) != 3 or not whole or math.prod(self.shape) != n_features:
            raise ValueError(
                f"image_shape={self.shape!r} must be (channels, height, width) with a product of {n_features}, "
                "the number of features."
            )
        if self.architecture.state_size is None:
            raise ValueError("image_shape needs a state_size, the number of channels.")

    def auto_batch_size(self, n_samples: int) -> int:
        return AUTO_BATCH_SIZE

    def network(self, n_features: int, n_outputs: int, generator: torch.Generator) -> ConvODENet:
        chosen = self.architecture
        assert chosen.state_size is not None
        assert not isinstance(chosen.field, str)
        return ConvODENet(
            self.shape,
            n_outputs,
            n_channels=int(chosen.state_size),
            augment_dim=chosen.augment_dim,
            n_blocks=chosen.n_blocks,
            hidden_layer_sizes=chosen.hidden_layer_sizes,
            time_dependent=chosen.time_dependent,
            evolving_weights=chosen.evolving_weights,
            field=chosen.field,
            generator=generator,
        )

    def scaled(self, scaler: StandardScaler, X: np.ndarray) -> np.ndarray:
        """Pixels standardised by their common mean and spread."""
        return standardised(scaler, X.reshape(-1, 1)).reshape(X.shape)

    def augmented(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Images shifted at random by up to ``image_shift`` pixels."""
        if not self.image_shift:
            return x
        return shifted(x.view(-1, *self.shape), self.image_shift, generator).flatten(1)

    def _columns(self, X: Any, weights: np.ndarray) -> tuple[Any, np.ndarray]:
        pixels = X.reshape(-1, 1)
        return pixels.tocsr() if issparse(X) else pixels, np.repeat(weights, X.shape[1])


def check_two_dimensional(X: Any, estimator: str) -> None:
    """Raise a ValueError for images that are not rows of pixels; ``estimator`` is the name in its message."""
    shape = getattr(X, "shape", ())
    if len(shape) > 2:
        raise ValueError(
            f"X has shape {tuple(shape)}, but {estimator} takes one row per sample: dim {len(shape)} while dim <= 2 is "
            "required. Pass images as rows of pixels, X.reshape(len(X), -1), and their shape by "
            "image_shape=(channels, height, width)."
        )


def inputs_of(architecture: Architecture, image_shift: float) -> Inputs:
    """The inputs of estimators with these parameters: images where they have a shape."""
    kind = TabularInputs if architecture.image_shape is None else ImageInputs
    return kind(architecture, image_shift)

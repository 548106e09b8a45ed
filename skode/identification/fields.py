r"""Vector fields with unknown weights, and their derivatives by states and weights.

All work on standardised states: the derivatives of their values by the weights, which Gauss-Newton steps need at each
evaluation, are written out where they are cheap, and left to :mod:`torch.func` for modules of the user's own.
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, jacfwd, jacrev, vmap


class ParametricField(Protocol):
    """A field ``g(z; w)`` of ``n_inputs`` standardised states and inputs, with ``n_outputs`` values.

    Attributes
    ----------
    n_weights : int
        Number of weights.
    groups : ndarray of int, of shape (n_weights,)
        Weights of one group have a prior of one precision.
    linear : bool
        Whether the field is linear in the weights.
    """

    n_weights: int
    groups: np.ndarray
    linear: bool

    def start(self, rng: np.random.RandomState) -> np.ndarray:
        """Weights to start from."""

    def value(self, z: Tensor, w: Tensor) -> Tensor:
        """Values (n, n_outputs) at points (n, n_inputs) with weights (n_weights,)."""

    def jacobians(self, z: Tensor, w: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Values, and their derivatives by points (n, n_outputs, n_inputs) and weights (n, n_outputs, n_weights)."""


class PolynomialField:
    """All monomials up to a degree, each with a weight for each output.

    Each weight has a prior precision of its own, so that those that the data have no need of vanish (automatic
    relevance determination; M. E. Tipping, "Sparse Bayesian learning and the relevance vector machine", JMLR 1, 2001).

    Parameters
    ----------
    n_inputs, n_outputs : int
        Sizes.
    degree : int
        The largest total degree.
    """

    linear = True

    def __init__(self, n_inputs: int, n_outputs: int, degree: int) -> None:
        factors = itertools.chain.from_iterable(
            itertools.combinations_with_replacement(range(n_inputs), order) for order in range(degree + 1)
        )
        #: Exponents of the inputs in each monomial, constants first; of shape (n_terms, n_inputs).
        self.powers = np.array(
            [np.bincount(np.array(term, dtype=np.int64), minlength=n_inputs) for term in factors], dtype=np.int64
        )
        self.n_outputs, self.degree = n_outputs, degree
        self.n_weights = len(self.powers) * n_outputs
        self.groups = np.arange(self.n_weights)
        self._exponents = torch.from_numpy(self.powers)

    def start(self, rng: np.random.RandomState) -> np.ndarray:
        return np.zeros(self.n_weights)

    def _powers(self, z: Tensor) -> Tensor:
        """Powers 0 to the degree of each input, of shape (n, n_inputs, degree + 1)."""
        powers = [torch.ones_like(z)]
        for _ in range(self.degree):
            powers.append(powers[-1] * z)
        return torch.stack(powers, dim=-1)

    def terms(self, z: Tensor) -> Tensor:
        """The monomials, of shape (n, n_terms)."""
        return self._factors(self._powers(z)).prod(dim=-1)

    def _factors(self, powers: Tensor) -> Tensor:
        """The power of each input in each monomial, of shape (n, n_terms, n_inputs)."""
        places = self._exponents.expand(len(powers), *self._exponents.shape)
        return torch.gather(powers.transpose(1, 2), 1, places)

    def value(self, z: Tensor, w: Tensor) -> Tensor:
        return self.terms(z) @ w.reshape(len(self.powers), self.n_outputs)

    def jacobians(self, z: Tensor, w: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        powers = self._powers(z)
        factors = self._factors(powers)
        terms = factors.prod(dim=-1)
        slopes = torch.zeros_like(powers)
        slopes[..., 1:] = powers[..., :-1] * torch.arange(1, self.degree + 1, dtype=z.dtype)
        own_slopes = self._factors(slopes)
        weights = w.reshape(len(self.powers), self.n_outputs)
        by_points = []
        for i in range(z.shape[1]):
            others = factors.clone()
            others[..., i] = own_slopes[..., i]
            by_points.append(others.prod(dim=-1) @ weights)
        eye = torch.eye(self.n_outputs, dtype=z.dtype)
        by_weights = (terms[:, None, :, None] * eye[:, None, :]).reshape(len(z), self.n_outputs, -1)
        return terms @ weights, torch.stack(by_points, dim=-1), by_weights


class NetworkField:
    """A multilayer perceptron with tanh, and a linear map beside it.

    Parameters
    ----------
    n_inputs, n_outputs : int
        Sizes.
    hidden_layer_sizes : sequence of int
        Widths of the hidden layers.
    """

    linear = False

    def __init__(self, n_inputs: int, n_outputs: int, hidden_layer_sizes: Sequence[int]) -> None:
        self.sizes = [n_inputs, *hidden_layer_sizes, n_outputs]
        # Of the linear map, then of each layer: a matrix and a bias, but for the last, whose bias the map has.
        shapes = [(n_outputs, n_inputs), (n_outputs,)]
        for before, after in itertools.pairwise(self.sizes):
            shapes += [(after, before), (after,)]
        self.shapes = shapes[:-1]
        lengths = [math.prod(shape) for shape in self.shapes]
        self.bounds = np.cumsum([0, *lengths])
        self.n_weights, self.n_outputs = int(self.bounds[-1]), n_outputs
        self.groups = np.repeat(np.arange(len(lengths)), lengths)

    def start(self, rng: np.random.RandomState) -> np.ndarray:
        parts = [np.zeros(math.prod(self.shapes[0])), np.zeros(math.prod(self.shapes[1]))]
        for shape in self.shapes[2:]:
            parts.append(rng.normal(size=math.prod(shape)) / (math.sqrt(shape[1]) if len(shape) == 2 else 1.0))
        return np.concatenate(parts)

    def _parts(self, w: Tensor) -> list[Tensor]:
        bounds = itertools.pairwise(self.bounds)
        return [w[a:b].reshape(shape) for (a, b), shape in zip(bounds, self.shapes, strict=True)]

    def value(self, z: Tensor, w: Tensor) -> Tensor:
        straight, bias, *layers = self._parts(w)
        h = z
        for weight, shift in zip(layers[:-1:2], layers[1::2], strict=True):
            h = torch.tanh(h @ weight.T + shift)
        return z @ straight.T + bias + h @ layers[-1].T

    def jacobians(self, z: Tensor, w: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        straight, bias, *layers = self._parts(w)
        weights = layers[::2]
        hidden = [z]
        for weight, shift in zip(weights[:-1], layers[1::2], strict=True):
            hidden.append(torch.tanh(torch.addmm(shift, hidden[-1], weight.T)))
        value = torch.addmm(bias, z, straight.T) + hidden[-1] @ weights[-1].T
        n, p = len(z), self.n_outputs
        by_weights = z.new_zeros(n, p, self.n_weights)
        eye = torch.eye(p, dtype=z.dtype)
        bounds = self.bounds

        def outer(left: Tensor, right: Tensor) -> Tensor:
            return (left.unsqueeze(-1) * right[:, None, None, :]).flatten(2)

        pulled = eye.expand(n, p, p)
        by_weights[..., : bounds[1]] = outer(pulled, z)
        by_weights[..., bounds[1] : bounds[2]] = eye
        for layer in reversed(range(len(weights))):
            first = 2 + 2 * layer
            by_weights[..., bounds[first] : bounds[first + 1]] = outer(pulled, hidden[layer])
            if layer < len(weights) - 1:
                by_weights[..., bounds[first + 1] : bounds[first + 2]] = pulled
            pulled = pulled @ weights[layer]
            if layer:
                pulled = pulled * (1.0 - hidden[layer] ** 2)[:, None]
        return value, pulled + straight, by_weights


class ModuleField:
    """A module of the user's own, ``module(z)`` of shape (n, n_inputs) to (n, n_outputs).

    Parameters
    ----------
    module : nn.Module
        The module; left as it is.
    n_inputs, n_outputs : int
        Sizes.
    """

    linear = False

    def __init__(self, module: nn.Module, n_inputs: int, n_outputs: int) -> None:
        self.module, self.n_outputs = module, n_outputs
        self.named = {name: tensor.detach().to(torch.float64) for name, tensor in module.named_parameters()}
        self.buffers = {
            name: tensor.to(torch.float64) if tensor.is_floating_point() else tensor
            for name, tensor in module.named_buffers()
        }
        lengths = [tensor.numel() for tensor in self.named.values()]
        self.n_weights = sum(lengths)
        self.bounds = np.cumsum([0, *lengths])
        self.groups = np.repeat(np.arange(len(lengths)), lengths)
        if not lengths:
            raise ValueError("field is a module without parameters: there is nothing to fit.")
        self._check(n_inputs)

    def _check(self, n_inputs: int) -> None:
        """See that the module takes points and returns values."""
        points = torch.zeros(3, n_inputs, dtype=torch.float64)
        expected = (
            f"field must map points of shape (n, {n_inputs}), standardised states and inputs, to derivatives of shape "
            f"(n, {self.n_outputs})"
        )
        try:
            with torch.no_grad():
                value = self.value(points, torch.from_numpy(self.start(np.random.RandomState(0))))
        except (RuntimeError, TypeError, IndexError) as error:
            raise ValueError(f"{expected}; for n = 3 it fails: {error}") from error
        if not isinstance(value, Tensor) or value.shape != (3, self.n_outputs):
            got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(f"{expected}; for n = 3 it returns {got}.")
        with warnings.catch_warnings():  # modules that torch imports at first, which warn of its own deprecations
            warnings.simplefilter("ignore", DeprecationWarning)
            self.jacobians(points, torch.from_numpy(self.start(np.random.RandomState(0))))

    def start(self, rng: np.random.RandomState) -> np.ndarray:
        return torch.cat([tensor.flatten() for tensor in self.named.values()]).numpy().copy()

    def value(self, z: Tensor, w: Tensor) -> Tensor:
        parts = itertools.pairwise(self.bounds)
        named = {
            name: w[a:b].reshape(tensor.shape) for (a, b), (name, tensor) in zip(parts, self.named.items(), strict=True)
        }
        return functional_call(self.module, {**named, **self.buffers}, (z,))

    def jacobians(self, z: Tensor, w: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        def one(point: Tensor, weights: Tensor) -> Tensor:
            return self.value(point[None], weights)[0]

        with torch.enable_grad():
            by_points = vmap(jacfwd(one), (0, None))(z, w)
            by_weights = vmap(jacrev(one, 1), (0, None))(z, w)
        return self.value(z, w).detach(), by_points.detach(), by_weights.detach()

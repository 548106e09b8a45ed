"""Activations on NumPy arrays, for the fused path of :mod:`skode.dynamics.fused_mlp`.

NumPy's float32 ``tanh`` takes a sixth of torch's time on many processors, so that activations are reduced to it where
they can be: ``sigmoid(x) = (1 + tanh(x/2)) / 2`` and ``silu(x) = u (1 + tanh(u))`` with ``u = x/2``. The constants are
folded into the weights.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class ArrayActivation:
    """An activation ``h(x) = outof g(into x) + shift`` by a function ``g`` that is cheap on arrays.

    Attributes
    ----------
    value : callable
        Turns ``u`` into ``g(u)``: from its first argument into the second, which is the same array unless ``of_input``.
    slope : callable
        ``g'(u)`` into its second argument, from ``g(u)``, or from ``u`` where ``of_input``.
    curvature : callable
        Replaces its third argument, ``v``, by ``v g''(u)``, from the same as ``slope`` and from ``g'(u)``.
    into, outof, shift : float
        The constants.
    of_input : bool
        Whether the derivatives are computed from ``u``, which is then kept beside ``g(u)``.
    """

    value: Callable[[np.ndarray, np.ndarray], object]
    slope: Callable[[np.ndarray, np.ndarray], object]
    curvature: Callable[[np.ndarray, np.ndarray, np.ndarray], object]
    into: float = 1.0
    outof: float = 1.0
    shift: float = 0.0
    of_input: bool = False


def _tanh_slope(s: np.ndarray, p: np.ndarray) -> None:
    np.multiply(s, s, p)
    np.subtract(1.0, p, p)


def _tanh_curvature(s: np.ndarray, p: np.ndarray, v: np.ndarray) -> None:
    np.multiply(v, s, v)
    np.multiply(v, p, v)
    np.multiply(v, -2.0, v)


def _softplus(u: np.ndarray, s: np.ndarray) -> None:
    # max(u, 0) + log(1 + exp(-|u|)), which neither overflows nor cancels
    small = np.abs(u)
    np.negative(small, small)
    np.exp(small, small)
    np.log1p(small, small)
    np.maximum(u, 0.0, out=s)
    np.add(s, small, s)


def _softplus_slope(s: np.ndarray, p: np.ndarray) -> None:
    np.negative(s, p)  # 1 - exp(-s)
    np.expm1(p, p)
    np.negative(p, p)


def _softplus_curvature(s: np.ndarray, p: np.ndarray, v: np.ndarray) -> None:
    np.multiply(v, p, v)
    np.multiply(v, 1.0 - p, v)


def _relu_slope(s: np.ndarray, p: np.ndarray) -> None:
    np.greater(s, 0.0, out=p, casting="unsafe")


def _half_silu(u: np.ndarray, s: np.ndarray) -> None:
    np.tanh(u, s)
    np.add(s, 1.0, s)
    np.multiply(s, u, s)


def _half_silu_slope(u: np.ndarray, p: np.ndarray) -> None:
    tanh = np.tanh(u)
    np.multiply(tanh, tanh, p)  # 1 + tanh + u (1 - tanh^2)
    np.subtract(1.0, p, p)
    np.multiply(p, u, p)
    np.add(p, tanh, p)
    np.add(p, 1.0, p)


def _half_silu_curvature(u: np.ndarray, p: np.ndarray, v: np.ndarray) -> None:
    tanh = np.tanh(u)
    np.multiply(v, 2.0 * (1.0 - tanh * tanh) * (1.0 - u * tanh), v)


def _relu_curvature(s: np.ndarray, p: np.ndarray, v: np.ndarray) -> None:
    v.fill(0.0)


TANH = ArrayActivation(np.tanh, _tanh_slope, _tanh_curvature)
LOGISTIC = ArrayActivation(TANH.value, TANH.slope, TANH.curvature, into=0.5, outof=0.5, shift=0.5)
SOFTPLUS = ArrayActivation(_softplus, _softplus_slope, _softplus_curvature)
RELU = ArrayActivation(lambda u, s: np.maximum(u, 0.0, out=s), _relu_slope, _relu_curvature)
SILU = ArrayActivation(_half_silu, _half_silu_slope, _half_silu_curvature, into=0.5, of_input=True)

"""The fused path of a perceptron's flow: the perceptron's, with the divergence beside each evaluation.

In the folded weights the field is a perceptron again, so that the formulas of :mod:`skode.dynamics.flow` hold for them
as they stand. Log-density and energy are further rows of the state.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from skode.dynamics.array_activations import ArrayActivation
from skode.dynamics.fused_mlp import FusedMLP, FusedTape, MLPForm
from skode.dynamics.mlp_divergence import add_divergence_gradients, divergence_weights

# Looked up once: names of a module's own are found faster.
dot, multiply, sum_rows = np.dot, np.multiply, np.add.reduce


class FusedFlow(FusedMLP):
    """The flow of a perceptron with one or two hidden layers.

    Parameters
    ----------
    n, sizes, n_inputs, h, dtype
        As those of :class:`skode.dynamics.fused_mlp.FusedMLP`.
    n_columns : int
        Number of rows of the joint state beyond the perceptron's: 1, or 2 with the energy.

    Attributes
    ----------
    q : ndarray of shape (width,) or (second width, first width)
        The negative of :func:`skode.dynamics.mlp_divergence.divergence_weights`.
    """

    def __init__(
        self, n: int, sizes: tuple[int, ...], n_inputs: int, h: ArrayActivation, dtype: np.dtype, n_columns: int
    ) -> None:
        super().__init__(n, sizes, n_inputs, h, dtype, n_columns)
        self.one_layer = len(sizes) == 2
        self.n_columns = n_columns
        # Beside an evaluation its slopes are kept, what they are mixed to, and for the energy the value.
        kept = sum(sizes[1:]) + (0 if self.one_layer else sizes[-1]) + (sizes[0] if n_columns > 1 else 0)
        self.slot_nbytes += n * kept * dtype.itemsize
        self.q = np.empty(sizes[:0:-1], dtype)
        self.weighted = np.empty(0, dtype)
        self.tape_at_hand: FlowTape
        self.q_bar: np.ndarray | None = None

    @property
    def weights(self) -> list[Tensor]:
        """The perceptron's weights, without biases and inputs, as tensors in the same memory."""
        d, (first, *middle, last) = self.sizes[0], self.forward
        return [torch.from_numpy(w) for w in (first[:, :d], *(w[:, :-1] for w in middle), last[:d, :-1])]

    def load(self, form: MLPForm) -> None:
        super().load(form)
        np.negative(divergence_weights(self.weights).numpy(), self.q)

    def nbytes(self) -> int:
        return super().nbytes() + self.q.nbytes + self.weighted.nbytes

    def tape(self, n_slots: int, *, keep: bool) -> FlowTape:
        return FlowTape(self, n_slots, keep=keep)

    def make_room(self, n_slots: int) -> None:
        self._make_deltas(n_slots)
        #: Of each slot ``c``, or ``c p2``: what the cotangent of ``q`` is made of.
        self.weighted = np.empty((n_slots, *((self.n,) if self.one_layer else self.linear[1].shape)), self.dtype)

    def pull(self, slot: int, out: np.ndarray) -> None:
        """See :meth:`skode.dynamics.flow.BoundFlow.pullback` for the formulas."""
        d, h, tape = self.sizes[0], self.h, self.tape_at_hand
        delta = self.deltas[-1][slot]
        if self.rates is not None:
            multiply(delta, self.rates, delta)
        c, slopes = delta[d], tape.slopes_of[slot]
        if self.n_columns > 1:
            delta[:d] += tape.values_of[slot] * (delta[d + 1] * (2.0 / d))
        weighted = self.weighted[slot]
        if self.one_layer:
            weighted[...] = c
            slope_cotangents = [np.multiply.outer(self.q, c)]
        else:
            multiply(slopes[1], c, weighted)
            slope_cotangents = [dot(self.q.T, weighted), tape.mixed[slot] * c]
        for i in range(len(slopes), 0, -1):
            linear, below, of_slope = self.linear[i - 1], self.deltas[i - 1][slot], slope_cotangents[i - 1]
            dot(self.back[i], delta, linear)
            multiply(linear, slopes[i - 1], below)
            h.curvature(tape.kept[i - 1][slot], slopes[i - 1], of_slope)
            np.add(below, of_slope, below)
            delta = below
        dot(self.back[0], delta, out)

    def form(self, tape: FusedTape, low: int, high: int) -> None:
        super().form(tape, low, high)
        slopes = self.tape_at_hand.slopes[0][low:high]
        weighted = self.weighted[low:high]
        if self.one_layer:
            new = np.einsum("skn,sn->k", slopes, weighted)
        else:
            new = np.matmul(weighted, slopes.swapaxes(1, 2)).sum(0)
        self.q_bar = new if self.q_bar is None else self.q_bar + new

    def gradients(self) -> list[np.ndarray]:
        assert self.q_bar is not None
        # Of weights and biases; those of the latter do not change.
        gradients = [torch.from_numpy(part) for total in self.sums for part in (total[:, :-1], total[:, -1])]
        gradients[-2] = gradients[-2][: self.sizes[0]]
        add_divergence_gradients(gradients, self.weights, torch.from_numpy(-self.q_bar))
        self.q_bar = None
        del self.tape_at_hand  # which refers to this
        return super().gradients()


class FlowTape(FusedTape):
    """Evaluations of a perceptron's flow.

    Attributes
    ----------
    slopes : list of ndarray of shape (n_slots, width, n)
        The slopes of the hidden layers.
    mixed : ndarray of shape (n_slots, second width, n)
        ``q p1``, where there are two.
    """

    field: FusedFlow

    def __init__(self, field: FusedFlow, n_slots: int, *, keep: bool) -> None:
        super().__init__(field, n_slots, keep=keep)
        n_own, n = n_slots if keep else 1, field.n
        self.slopes = [np.empty((n_own, size, n), field.dtype) for size in field.sizes[1:]]
        self.mixed = np.empty_like(self.slopes[-1]) if not field.one_layer else np.empty((n_own, 0, n), field.dtype)
        self.derivatives = np.empty((n_own if field.n_columns > 1 else 0, field.sizes[0], n), field.dtype)
        slots = [slot if keep else 0 for slot in range(n_slots)]
        self.kept_of = [[kept[slot] for kept in self.kept] for slot in slots]
        self.slopes_of = [[slopes[slot] for slopes in self.slopes] for slot in slots]
        self.mixed_of = [self.mixed[slot] for slot in slots]
        self.values_of = [self.derivatives[slot] for slot in slots] if field.n_columns > 1 else []

    def _value(self, slot: int, t: Any, out: np.ndarray) -> None:
        field = self.field
        super()._value(slot, t, out)
        d, slopes = field.sizes[0], self.slopes_of[slot]
        for kept, slope in zip(self.kept_of[slot], slopes, strict=True):
            field.h.slope(kept, slope)
        if field.one_layer:
            dot(field.q, slopes[0], out[d])
        else:
            mixed, product = self.mixed_of[slot], field.linear[1]
            dot(field.q, slopes[0], mixed)
            multiply(mixed, slopes[1], product)
            sum_rows(product, 0, None, out[d])
        if field.n_columns > 1:
            values = self.values_of[slot]
            np.copyto(values, out[:d])
            sum_rows(values * values, 0, None, out[d + 1])
            out[d + 1] *= 1.0 / d

    def differentiate(self, low: int, high: int) -> None:
        """The slopes are there; the field is to pull back this tape."""
        self.field.tape_at_hand = self


class FlowForm(MLPForm):
    """The parameters of a perceptron's flow; see :class:`skode.dynamics.fused_mlp.MLPForm`.

    Parameters
    ----------
    field : MLPForm
        The perceptron's.
    n_columns : int
        Number of columns of the joint state beyond the perceptron's.
    """

    def __init__(self, field: MLPForm, n_columns: int) -> None:
        super().__init__(field.parameters, field.sizes[0], field.h, field.write)
        self.n_columns = n_columns

    def key(self) -> Hashable:
        return "flow", self.n_columns, super().key()

    def new(self, n: int, dtype: np.dtype) -> FusedFlow:
        return FusedFlow(n, self.sizes, self.n_inputs, self.h, dtype, self.n_columns)

"""The fast path of a perceptron's flow: the perceptron's tapes, with the divergence beside each evaluation.

In the folded weights (see :class:`skode.dynamics.mlp_tape.FoldedMLP`) the field is a perceptron again, so that the
formulas of :mod:`skode.dynamics.flow` hold for them as they stand. Log-density and energy are columns of the state on
which nothing depends: the first layer's weight gets columns of zeros for them, and the last one rows.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from skode.dynamics.activations import Activation
from skode.dynamics.mlp_divergence import add_divergence_gradients, divergence_weights
from skode.dynamics.mlp_session import MLPSession
from skode.dynamics.mlp_tape import Arena, FoldedMLP, MLPTape
from skode.dynamics.products import as_transposed, large_linear, outer


class FoldedFlow(FoldedMLP):
    """A perceptron's folded weights, padded for the joint state, with the weights of its divergence.

    Parameters
    ----------
    weights, biases, time_column, h
        As those of :class:`skode.dynamics.mlp_tape.FoldedMLP`, of a perceptron with one or two hidden layers.
    n_columns : int
        Columns of the joint state beyond the perceptron's: 1, or 2 with the energy.

    Attributes
    ----------
    u : Tensor
        See :func:`skode.dynamics.mlp_divergence.divergence_weights`.
    """

    def __init__(
        self,
        weights: list[Tensor],
        biases: list[Tensor],
        time_column: Tensor | None,
        h: Activation,
        n_columns: int,
    ) -> None:
        super().__init__(weights, biases, time_column, h)
        self.origin = (weights, biases, time_column, h, n_columns)
        self.n_features, self.n_columns = self.sizes[0], n_columns
        self.narrow = list(self.weights)
        self.u = divergence_weights(self.weights)
        self.one_layer = len(self.weights) == 2
        first, last = self.weights[0], self.weights[-1]
        self.weights[0] = torch.cat([first, first.new_zeros(len(first), n_columns)], dim=1)
        self.weights[-1] = torch.cat([last, last.new_zeros(n_columns, last.shape[1])])
        self.biases[-1] = torch.cat([self.biases[-1], last.new_zeros(n_columns)])
        self.transposed = [as_transposed(w) for w in self.weights]
        self.sizes = tuple(w.shape[1] for w in self.weights)
        self.arena_kind = FlowArena

    def derived(self) -> list[Tensor]:
        return [*super().derived(), *self.narrow, self.u]

    def unfold_flow(self, gradients: list[Tensor], column: Tensor | None, u_bar: Tensor) -> list[Tensor]:
        """Gradients of the perceptron's parameters from those of the padded weights and of the divergence's."""
        d = self.n_features
        gradients[0] = gradients[0][:, :d].contiguous()
        gradients[-2], gradients[-1] = gradients[-2][:d], gradients[-1][:d]
        add_divergence_gradients(gradients, self.narrow, u_bar)
        return self.unfold(gradients, column)


class FlowArena(Arena):
    """An arena with room for each evaluation's hidden slopes, and for the terms of its divergence and energy."""

    def __init__(self, key: Any) -> None:
        super().__init__(key)
        _, n, sizes, dtype, device, _ = key
        hidden = sizes[1:]
        shapes = [(self.n_slots, n, size) for size in hidden]
        self.slope_layers = [torch.empty(shape, dtype=dtype, device=device) for shape in shapes]
        self.slopes = list(zip(*(layer.unbind() for layer in self.slope_layers), strict=True))
        # (second width) the slopes p1 as Q sees them; not needed with one hidden layer
        self.mixed_layer = torch.empty(shapes[-1] if len(hidden) > 1 else (0,), dtype=dtype, device=device)
        self.mixed = self.mixed_layer.unbind() if len(hidden) > 1 else [self.mixed_layer] * self.n_slots
        self.value_layer = torch.empty((self.n_slots, n, sizes[0]), dtype=dtype, device=device)
        self.values = self.value_layer.unbind()
        extra = sum(hidden) + (hidden[-1] if len(hidden) > 1 else 0) + sizes[0]
        self.slot_bytes += n * extra * self.value_layer.element_size()
        self.slot_views += len(hidden) + (len(hidden) > 1) + 1

    @property
    def tape_kind(self) -> type[MLPTape]:
        return FlowTape


class FlowTape(MLPTape):
    """Evaluations of a perceptron's flow; see :class:`skode.solvers.fields.protocols.Tape`."""

    def evaluate(self, slot: int, t: Any, out: Tensor) -> None:
        super().evaluate(slot, t, out)
        arena: Any = self.arena
        slot += self.first
        folded: Any = self.folded
        d = folded.n_features
        slopes = arena.slopes[slot]
        for k, p in zip(arena.kept[slot], slopes, strict=True):
            folded.h.slope_into(k, p)
        if folded.one_layer:
            divergence = torch.mv(slopes[0], folded.u)
        else:
            mixed = arena.mixed[slot]
            if arena.large[1]:
                large_linear(mixed, slopes[0], folded.u, None)
            else:
                torch.mm(slopes[0], folded.u.t(), out=mixed)
            divergence = torch.linalg.vecdot(mixed, slopes[1])
        torch.neg(divergence, out=out[:, d])
        if folded.n_columns > 1:
            values = arena.values[slot].copy_(out)
            value = values[:, :d]
            torch.mul(torch.linalg.vecdot(value, value), 1.0 / d, out=out[:, d + 1])


class FlowSession(MLPSession):
    """A reverse sweep over a perceptron's flow; see :meth:`skode.dynamics.flow.BoundFlow.pullback` for the formulas."""

    folded: FoldedFlow

    def __init__(self, folded: FoldedFlow) -> None:
        super().__init__(folded)
        self.u_bar: Tensor | None = None
        self.weighted: dict[int, Tensor] = {}  # c, or c p2, of each slot since the last time gradients were formed

    def _pull_hidden(self, slot: int, arena: Any) -> Tensor:
        folded, d = self.folded, self.folded.n_features
        delta, below = self.deltas.outputs[slot], self.deltas.hidden[slot]
        kept, slopes, h = arena.kept[slot], arena.slopes[slot], folded.h
        if folded.n_columns > 1:
            energy_bar = delta[:, d + 1 :]
            delta[:, :d].addcmul_(arena.values[slot][:, :d], energy_bar, value=2.0 / d)
        c = delta[:, d : d + 1].neg()
        if folded.one_layer:
            self.weighted[slot] = c
            slope_cotangents = [c * folded.u]
        else:
            weighted = self.weighted[slot] = slopes[1] * c
            first = torch.empty_like(below[0])
            if arena.large[1]:
                large_linear(first, weighted, folded.u.t(), None)
            else:
                torch.mm(weighted, folded.u, out=first)
            slope_cotangents = [first, arena.mixed[slot] * c]
        for i in range(len(below), 0, -1):
            inner, of_slope = below[i - 1], slope_cotangents[i - 1]
            if h.curvature_shift and not arena.large[i]:
                torch.addmm(of_slope, delta, folded.factors[i], out=inner, beta=h.curvature_shift)
            else:
                self._through(i, delta, inner, arena)
                if h.curvature_shift:
                    inner.add_(of_slope, alpha=h.curvature_shift)
            delta = h.pull_with_curvature(inner, of_slope, kept[i - 1], slopes[i - 1])
        return delta

    def _form_more(self, low: int, high: int, arena: Any) -> None:
        weighted = torch.cat([self.weighted.pop(slot) for slot in range(low, high)])
        u_bar = outer(weighted, arena.slope_layers[0][low:high].flatten(0, 1))
        self.u_bar = u_bar if self.u_bar is None else self.u_bar.add_(u_bar)

    def discard(self) -> None:
        for slot in self.pulled:
            self.weighted.pop(slot)
        super().discard()

    def _unfolded(self) -> list[Tensor]:
        assert self.u_bar is not None
        u_bar = self.u_bar[0] if self.folded.one_layer else self.u_bar
        return self.folded.unfold_flow(self.gradients, self.column, u_bar)

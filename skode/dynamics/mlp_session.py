"""The reverse sweep over a perceptron's tapes, with the gradients of its weights formed of many evaluations at once."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from skode.dynamics.mlp_tape import POOL, Arena, FoldedMLP, MLPTape, by_slot
from skode.dynamics.products import large_linear, outer
from skode.solvers.buffer_pool import TENSOR_VIEW


class Deltas:
    """Memory for the cotangents of the layers' linear outputs, of all slots of an arena.

    Parameters
    ----------
    key : tuple
        Number of slots, number of samples, sizes of the layers' outputs, dtype, device, and the word "deltas".
    """

    def __init__(self, key: Any) -> None:
        self.key = key
        n_slots, n, sizes, dtype, device, _ = key
        self.layers = [torch.empty((n_slots, n, size), dtype=dtype, device=device) for size in sizes]
        self.hidden = by_slot(self.layers[:-1], n_slots)
        self.outputs = self.layers[-1].unbind()
        self.places = [output.view(-1) for output in self.outputs]

    def nbytes(self) -> int:
        views = len(self.outputs) * (1 + len(self.layers))
        return sum(layer.nbytes for layer in self.layers) + views * TENSOR_VIEW


class MLPSession:
    """A reverse sweep over a perceptron's tapes; see :class:`skode.solvers.fields.protocols.Session`.

    Slots are pulled from the last to the first. The weights' gradients are formed when the sweep comes to another
    arena, or at its end, of all neighbouring slots at once.
    """

    def __init__(self, folded: FoldedMLP) -> None:
        self.folded = folded
        self.gradients: list[Tensor] = []
        self.column: Tensor | None = None
        self.arena: Arena | None = None
        self.deltas: Deltas
        self.pulled: list[int] = []  # since the last flush
        self.low = self.high = 0  # slots flushed, whose gradients are to be formed

    def place(self, tape: MLPTape, slot: int) -> Tensor:
        if tape.arena is not self.arena:
            self._turn_to(tape.arena)
        slot += tape.first
        if self.low <= slot < self.high:
            self._form()
        return self.deltas.places[slot]

    def pull(self, tape: MLPTape, slot: int, cotangent: Tensor | None, out: Tensor) -> None:
        if cotangent is not None:
            self.place(tape, slot).copy_(cotangent.reshape(-1))
        slot += tape.first
        arena = tape.arena
        self.pulled.append(slot)
        delta = self._pull_hidden(slot, arena)
        self._through(0, delta, out, arena)

    def _pull_hidden(self, slot: int, arena: Arena) -> Tensor:
        """The cotangent of the first layer's linear output, from that of a slot's value."""
        pull = self.folded.h.pull
        delta, below, kept = self.deltas.outputs[slot], self.deltas.hidden[slot], arena.kept[slot]
        for i in range(len(below), 0, -1):
            inner = below[i - 1]
            self._through(i, delta, inner, arena)
            delta = pull(inner, kept[i - 1])
        return delta

    def _through(self, i: int, delta: Tensor, out: Tensor, arena: Arena) -> None:
        """The cotangent of a layer's input from that of its linear output."""
        if arena.large[i]:
            large_linear(out, delta, self.folded.transposed[i], None)
        else:
            torch.mm(delta, self.folded.factors[i], out=out)

    def flush(self, tape: MLPTape) -> None:
        if not self.pulled:
            return
        low, high = min(self.pulled), max(self.pulled) + 1
        assert len(set(self.pulled)) == high - low, "slots are pulled one after another"
        self.pulled = []
        tape.arena.pending = True
        if self.low == self.high:
            self.low, self.high = low, high
        elif high == self.low:
            self.low = low
        else:
            self._form()
            self.low, self.high = low, high

    def discard(self) -> None:
        self.pulled = []

    def parameter_gradients(self) -> tuple[Tensor | None, ...]:
        self._turn_to(None)
        if not self.gradients:
            return (None,) * (2 * len(self.folded.weights))
        return tuple(self._unfolded())

    def _unfolded(self) -> list[Tensor]:
        """The gradients of the perceptron's own parameters."""
        return self.folded.unfold(self.gradients, self.column)

    def _form_more(self, low: int, high: int, arena: Arena) -> None:
        """Further gradients of the slots flushed; none here."""

    def _turn_to(self, arena: Arena | None) -> None:
        """Go on with another arena, or with none."""
        if self.arena is not None:
            self._form()
            self.arena.pending = False
            POOL.release(self.deltas.key, self.deltas)
            self.arena.release(self.folded)
        self.arena = arena
        if arena is not None:
            arena.retain()
            n_slots, n, sizes, dtype, device, _ = arena.key
            key = (n_slots, n, (*sizes[1:], len(self.folded.weights[-1])), dtype, device, "deltas")
            self.deltas = POOL.acquire(key, lambda: Deltas(key))

    def _form(self) -> None:
        """The gradients of the slots flushed."""
        low, high, arena = self.low, self.high, self.arena
        if low == high:
            return
        assert arena is not None
        self.low = self.high = 0
        new = []
        for layer, x in zip(self.deltas.layers, arena.layers, strict=True):
            delta = layer[low:high].flatten(0, 1)
            new += [outer(delta, x[low:high].flatten(0, 1)), delta.sum(0)]
        column = None
        if self.folded.column is not None:
            times = torch.cat([_column(arena.times[slot], arena.states[slot]) for slot in range(low, high)])
            column = times @ self.deltas.layers[0][low:high].flatten(0, 1)
        self._form_more(low, high, arena)
        if self.gradients:
            torch._foreach_add_(self.gradients, new)
            if column is not None and self.column is not None:
                self.column += column
        else:
            self.gradients, self.column = new, column


def _column(t: Any, state: Tensor) -> Tensor:
    """The time of each sample of an evaluation."""
    if isinstance(t, Tensor):
        return t.reshape(-1).to(state).expand(len(state))
    return state.new_full((len(state),), t)

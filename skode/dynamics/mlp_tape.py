"""A perceptron's fast path through a solve: its evaluations on tapes in reused memory, and their reverse sweep."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from skode.dynamics.activations import ACTIVATIONS
from skode.dynamics.products import add_outer, large_linear, worthwhile

if TYPE_CHECKING:
    from skode.dynamics.mlp import BoundMLP


class FoldedMLP:
    """A perceptron's weights with ``tanh(x) = 2 sigmoid(2x) - 1`` folded into them.

    With ``s_l = sigmoid(2 x_l)`` the next layer's ``W h(x_l) + b`` is ``2W s_l + (b - W 1)``, and a hidden layer's
    linear output is computed twice as large. Other activations are left as they are.

    Parameters
    ----------
    field : BoundMLP
        The perceptron.

    Attributes
    ----------
    weights, biases : list of Tensor
        The folded layers.
    column : Tensor or None
        Time's column of the first weight, folded as it is.
    h : Activation
        What follows the hidden layers.
    """

    def __init__(self, field: BoundMLP) -> None:
        self.folds = field.h is ACTIVATIONS["tanh"] and len(field.weights) > 1
        self.h = ACTIVATIONS["logistic"] if self.folds else field.h
        self.weights, self.biases = [w.detach() for w in field.weights], [b.detach() for b in field.biases]
        self.column = None if field.time_column is None else field.time_column.detach()
        if self.folds:
            last = len(self.weights) - 1
            into = [1.0] + [2.0] * last
            outof = [2.0] * last + [1.0]
            self.biases = [
                (b if i == 0 else b - w.sum(1)) * outof[i]
                for i, (w, b) in enumerate(zip(self.weights, self.biases, strict=True))
            ]
            self.weights = [w * (into[i] * outof[i]) for i, w in enumerate(self.weights)]
            self.column = None if self.column is None else self.column * 2.0
            self.into, self.outof = into, outof
        self.transposed = [w.t() for w in self.weights]
        self.sizes = tuple(w.shape[1] for w in self.weights)

    def unfold(self, gradients: list[Tensor], column: Tensor | None) -> list[Tensor]:
        """Gradients of the perceptron's parameters from those of the folded weights and biases."""
        if self.folds:
            unfolded = []
            for i, (w, b) in enumerate(zip(gradients[::2], gradients[1::2], strict=True)):
                b = b * self.outof[i]
                w = w * (self.into[i] * self.outof[i])
                unfolded += [w if i == 0 else w - b[:, None], b]
            gradients, column = unfolded, None if column is None else column * 2.0
        if column is not None:
            gradients[0] = torch.cat([gradients[0], column[:, None]], dim=1)
        return gradients


class MLPTape:
    """Evaluations of a perceptron in preallocated memory; see :class:`skode.solvers.vector_field.Tape`.

    The states and the hidden layers' values of all slots lie next to each other, so that the weights' gradients over
    all of them are one product per layer. Tapes that are no longer needed are used again, by later solves too: fresh
    memory costs a page fault for each 4 KB, together as much as the products themselves.
    """

    reused = True
    idle: ClassVar[dict[Any, list[MLPTape]]] = {}
    idle_bytes: ClassVar[int] = 0
    most_idle_bytes: ClassVar[int] = 2**26

    def __init__(self, key: Any) -> None:
        self.key = key
        self.n_slots, n, sizes, dtype, device = key
        self.layers = [torch.empty((self.n_slots, n, size), dtype=dtype, device=device) for size in sizes]
        self.states = self.layers[0].unbind()
        self.places = [state.view(-1) for state in self.states]
        self.hidden = [layer.unbind() for layer in self.layers[1:]]
        self.times: list[Any] = [None] * self.n_slots
        self.folded: FoldedMLP
        self.large: list[bool] = []
        self._nbytes = sum(layer.numel() * layer.element_size() for layer in self.layers)

    @classmethod
    def for_states(cls, folded: FoldedMLP, like: Tensor, n_slots: int) -> MLPTape:
        """A tape for states like this one, an idle one if there is one."""
        key = (n_slots, len(like), folded.sizes, like.dtype, like.device)
        try:
            tape = cls.idle[key].pop()
            cls.idle_bytes -= tape._nbytes
        except (KeyError, IndexError):
            tape = cls(key)
        tape.folded = folded
        tape.large = [worthwhile(len(like), like, weight) for weight in folded.weights]
        return tape

    def release(self) -> None:
        """Hand the memory to later tapes: nothing may refer to it any longer."""
        if self.idle_bytes + self._nbytes <= self.most_idle_bytes:
            MLPTape.idle_bytes += self._nbytes
            self.idle.setdefault(self.key, []).append(self)

    def place(self, slot: int) -> Tensor:
        return self.places[slot]

    def evaluate(self, slot: int, t: Any, out: Tensor) -> None:
        folded = self.folded
        weights, transposed, biases, replace = folded.weights, folded.transposed, folded.biases, folded.h.replace
        large = self.large
        x, bias, column = self.states[slot], biases[0], folded.column
        last = len(transposed) - 1
        self.times[slot] = t
        own_times = column is not None and isinstance(t, Tensor) and t.ndim > 0
        if column is not None and not own_times:
            bias = torch.add(bias, column, alpha=float(t))
        for i, layer in enumerate(self.hidden):
            y = layer[slot]
            if large[i]:
                large_linear(y, x, weights[i], bias)
            else:
                torch.addmm(bias, x, transposed[i], out=y)
            if i == 0 and own_times:
                y.addr_(t.reshape(-1), folded.column)  # type: ignore[arg-type]
            x = replace(y)
            bias = biases[i + 1]
        if large[last]:
            large_linear(out, x, weights[last], bias)
        else:
            torch.addmm(bias, x, transposed[last], out=out)
        if last == 0 and own_times:
            out.addr_(t.reshape(-1), folded.column)  # type: ignore[arg-type]

    def nbytes(self) -> int:
        return self._nbytes


class MLPSession:
    """A reverse sweep over a perceptron's tapes; see :class:`skode.solvers.vector_field.Session`."""

    def __init__(self, folded: FoldedMLP) -> None:
        self.folded = folded
        self.gradients: list[Tensor] = []
        self.column: Tensor | None = None
        self.outputs: dict[int, Tensor] = {}
        # The cotangents of the hidden layers' linear outputs, of all slots next to each other, and slot by slot.
        self.deltas: list[Tensor] = []
        self.rows: list[tuple[Tensor, ...]] = []

    def pull(self, tape: MLPTape, slot: int, cotangent: Tensor, out: Tensor, *, with_time: bool) -> Tensor | None:
        folded = self.folded
        weights, transposed, pull, large = folded.weights, folded.transposed, folded.h.pull, tape.large
        if not self.outputs and len(weights) > 1 and (not self.deltas or self.deltas[0].shape != tape.layers[1].shape):
            self.deltas = [torch.empty_like(layer) for layer in tape.layers[1:]]
            self.rows = [delta.unbind() for delta in self.deltas]
        self.outputs[slot] = delta = cotangent
        for i in range(len(weights) - 1, 0, -1):
            below = self.rows[i - 1][slot]
            if large[i]:
                large_linear(below, delta, transposed[i], None)
            else:
                torch.mm(delta, weights[i], out=below)
            delta = pull(below, tape.hidden[i - 1][slot])
        if large[0]:
            large_linear(out, delta, transposed[0], None)
        else:
            torch.mm(delta, weights[0], out=out)
        if not with_time:
            return None
        if folded.column is None:
            return delta.new_zeros(())
        per_sample = delta @ folded.column
        t = tape.times[slot]
        return per_sample.reshape(t.shape) if isinstance(t, Tensor) and t.ndim else per_sample.sum()

    def flush(self, tape: MLPTape) -> None:
        if not self.outputs:
            return
        slots = sorted(self.outputs)
        low, high = slots[0], slots[-1] + 1
        assert len(slots) == high - low, "slots are pulled one after another"
        inputs = [layer[low:high].flatten(0, 1) for layer in tape.layers]
        deltas = [delta[low:high].flatten(0, 1) for delta in self.deltas]
        deltas.append(torch.cat([self.outputs[slot] for slot in slots]))
        if not self.gradients:
            self.gradients = [part for w in self.folded.weights for part in (torch.zeros_like(w), w.new_zeros(len(w)))]
        for i, (delta, x) in enumerate(zip(deltas, inputs, strict=True)):
            add_outer(self.gradients[2 * i], delta, x)
            self.gradients[2 * i + 1].add_(delta.sum(0))
        if self.folded.column is not None:
            times = torch.cat([self._column(tape.times[slot], tape.states[slot]) for slot in slots])
            weighted = times @ deltas[0]
            self.column = weighted if self.column is None else self.column.add_(weighted)
        self.outputs = {}

    def discard(self) -> None:
        self.outputs = {}

    def parameter_gradients(self) -> tuple[Tensor | None, ...]:
        if not self.gradients:
            return (None,) * (2 * len(self.folded.weights))
        return tuple(self.folded.unfold(self.gradients, self.column))

    @staticmethod
    def _column(t: Any, state: Tensor) -> Tensor:
        if isinstance(t, Tensor) and t.ndim:
            return t.reshape(-1)
        return state.new_full((len(state),), float(t))

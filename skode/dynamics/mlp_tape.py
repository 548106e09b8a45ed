"""A perceptron's fast path through a solve: its evaluations on tapes in reused memory, and their reverse sweep."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from skode.dynamics.activations import ACTIVATIONS
from skode.dynamics.products import as_right_factor, as_transposed, large_linear, outer, worthwhile
from skode.solvers.buffer_pool import BufferPool
from skode.solvers.devices import capturing

if TYPE_CHECKING:
    from skode.dynamics.mlp import BoundMLP

# Slots of several steps share a roll while it is smaller than this: the weights' gradients of a whole roll are then
# one product per layer.
ROLL_BYTES, ROLL_SLOTS = 2**20, 64

POOL = BufferPool()


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
        self.origin: tuple[Any, ...] = (field,)
        on_cpu = field.weights[0].device.type == "cpu"  # elsewhere tanh is as fast
        self.folds = field.h is ACTIVATIONS["tanh"] and len(field.weights) > 1 and on_cpu
        self.h = ACTIVATIONS["logistic"] if self.folds else field.h
        self.weights, self.biases = [w.detach() for w in field.weights], [b.detach() for b in field.biases]
        self.column = None if field.time_column is None else field.time_column.detach()
        if self.folds:
            last = len(self.weights) - 1
            into = [1.0] + [2.0] * last
            outof = [2.0] * last + [1.0]
            self.biases = [
                b * c if i == 0 else torch.addmv(b, w, w.new_ones(w.shape[1]), beta=c, alpha=-c)
                for i, (w, b, c) in enumerate(zip(self.weights, self.biases, outof, strict=True))
            ]
            self.weights = [w * (c * d) for w, c, d in zip(self.weights, into, outof, strict=True)]
            self.column = None if self.column is None else self.column * 2.0
            self.into, self.outof = into, outof
        self.transposed = [as_transposed(w) for w in self.weights]
        self.sizes = tuple(w.shape[1] for w in self.weights)
        self.roll_kind = Roll
        # By the number of samples: the roll from which the next tape is cut, and which products are oneDNN's.
        self.rolls: dict[int, Roll] = {}
        self.large: dict[int, list[bool]] = {}

    @functools.cached_property
    def factors(self) -> list[Tensor]:
        """The folded weights in the layout for their pullback."""
        return [as_right_factor(w) if w.device.type == "cpu" else w for w in self.weights]

    def refresh(self) -> None:
        """Compute anew, in the same memory, what was computed from the perceptron's parameters."""
        for own, new in zip(self.derived(), type(self)(*self.origin).derived(), strict=True):
            if own.data_ptr() != new.data_ptr():
                own.copy_(new)

    def derived(self) -> list[Tensor]:
        """All tensors that evaluations and pullbacks use."""
        column = [] if self.column is None else [self.column]
        return [*self.weights, *self.biases, *column, *self.factors, *self.transposed]

    def tape(self, like: Tensor, n_slots: int) -> MLPTape:
        """A tape for states like this one."""
        weight = self.weights[0]
        if like.ndim != 2 or like.shape[1] != weight.shape[1] or like.dtype != weight.dtype:
            raise ValueError(
                f"MLPField takes states of shape (n, {weight.shape[1]}) and {weight.dtype}, as its weights are; got "
                f"shape {tuple(like.shape)} and {like.dtype}."
            )
        roll = self.rolls.get(len(like))
        if roll is None or roll.next + n_slots > roll.n_slots or roll.key[3:5] != (like.dtype, like.device):
            roll = self.rolls[len(like)] = self.roll_kind.of(self, like, n_slots)
        return roll.cut(n_slots)

    def unfold(self, gradients: list[Tensor], column: Tensor | None) -> list[Tensor]:
        """Gradients of the perceptron's parameters from those of the folded weights and biases."""
        if self.folds:
            unfolded = []
            for i, (w, b) in enumerate(zip(gradients[::2], gradients[1::2], strict=True)):
                b, w = b * self.outof[i], w * (self.into[i] * self.outof[i])
                unfolded += [w if i == 0 else w.sub_(b[:, None]), b]
            gradients, column = unfolded, None if column is None else column * 2.0
        if column is not None:
            gradients[0] = torch.cat([gradients[0], column[:, None]], dim=1)
        return gradients


class Roll:
    """Memory for many evaluations, from which tapes are cut.

    The states and the hidden layers' values of all slots lie next to each other.

    Parameters
    ----------
    key : tuple
        Number of slots, number of samples, sizes of the layers' inputs, dtype, device, and whether the activation's
        derivatives are computed from its input, so that the hidden layers' linear outputs are remembered as well.
    """

    def __init__(self, key: Any) -> None:
        self.key = key
        self.idle_key = (type(self).__name__, *key)
        self.n_slots, n, sizes, dtype, device, of_input = key
        self.layers = [torch.empty((self.n_slots, n, size), dtype=dtype, device=device) for size in sizes]
        self.states = self.layers[0].unbind()
        self.places = [state.view(-1) for state in self.states]
        self.hidden = _by_slot(self.layers[1:], self.n_slots)
        # What the derivatives are computed from: the values, into whose memory the linear outputs are written first,
        # or those outputs in memory of their own.
        self.kept = self.hidden
        if of_input:
            self.kept = _by_slot([torch.empty_like(layer) for layer in self.layers[1:]], self.n_slots)
        self.times: list[Any] = [None] * self.n_slots
        self.slot_bytes = n * (sum(sizes) + of_input * sum(sizes[1:])) * self.layers[0].element_size()
        self.folded: FoldedMLP
        self.large: list[bool] = []
        # The first slot not yet cut, and how many tapes and sessions still need the memory.
        self.next = self.holders = 0
        # Whether a session has yet to look at slots whose tapes may have been released.
        self.pending = False

    @classmethod
    def of(cls, folded: FoldedMLP, like: Tensor, least_slots: int) -> Roll:
        """A roll for states like this one, an idle one if there is one."""
        n = len(like)
        slot_bytes = max(n * sum(folded.sizes) * like.element_size(), 1)
        n_slots = max(least_slots, min(ROLL_BYTES // slot_bytes, ROLL_SLOTS))
        if capturing():  # all that will ever be cut from it
            n_slots = least_slots
        key = (n_slots, n, folded.sizes, like.dtype, like.device, folded.h.of_input)
        roll = POOL.acquire((cls.__name__, *key), lambda: cls(key))
        roll.folded = folded
        if n not in folded.large:
            folded.large[n] = [worthwhile(like, n, *weight.shape) for weight in folded.weights]
        roll.large = folded.large[n]
        return roll

    def cut(self, n_slots: int) -> MLPTape:
        """A tape of the next slots."""
        tape = self.tape_kind(self, self.next, n_slots)
        self.next += n_slots
        self.holders += 1
        return tape

    @property
    def tape_kind(self) -> type[MLPTape]:
        """What is cut from it."""
        return MLPTape

    def hold(self) -> None:
        """Keep the memory, whatever tapes are released."""
        self.holders += 1

    def let_go(self) -> None:
        """Undo :meth:`hold`; the last one hands the memory to others."""
        self.holders -= 1
        if not self.holders:
            self.next = 0
            rolls, n = self.folded.rolls, self.key[1]
            if rolls.get(n) is self:
                del rolls[n]
            del self.folded  # a model's weights, and times, are not to be kept alive
            self.times = [None] * self.n_slots
            POOL.release(self.idle_key, self)

    def nbytes(self) -> int:
        """Memory that it holds."""
        return self.n_slots * self.slot_bytes


class MLPTape:
    """Evaluations of a perceptron in preallocated memory; see :class:`skode.solvers.fields.protocols.Tape`.

    Parameters
    ----------
    roll : Roll
        Whose memory it is.
    first, n_slots : int
        Its part of the roll.
    """

    reused = True

    def __init__(self, roll: Roll, first: int, n_slots: int) -> None:
        self.roll = roll
        self.first = first
        self.n_slots = n_slots

    def release(self) -> None:
        roll = self.roll
        if roll.next == self.first + self.n_slots and not roll.pending:
            roll.next = self.first
        roll.let_go()

    def place(self, slot: int) -> Tensor:
        return self.roll.places[self.first + slot]

    def state(self, slot: int) -> Tensor:
        return self.roll.states[self.first + slot]

    def evaluate(self, slot: int, t: Any, out: Tensor) -> None:
        roll = self.roll
        folded, large, slot = roll.folded, roll.large, self.first + slot
        weights, transposed, biases, value_into = folded.weights, folded.transposed, folded.biases, folded.h.value_into
        x, bias, column = roll.states[slot], biases[0], folded.column
        last = len(transposed) - 1
        roll.times[slot] = t
        own_times = False
        if column is not None:
            own_times = isinstance(t, Tensor) and t.ndim > 0
            if not own_times:
                number = isinstance(t, float | int)
                bias = torch.add(bias, column, alpha=t) if number else torch.addcmul(bias, column, t.to(column))
        hidden = roll.hidden[slot]
        for i, y in enumerate(roll.kept[slot]):
            if large[i]:
                large_linear(y, x, weights[i], bias)
            else:
                torch.addmm(bias, x, transposed[i], out=y)
            if own_times and i == 0:
                y.addr_(t.reshape(-1), column)  # type: ignore[arg-type]
            x = value_into(y, hidden[i])
            bias = biases[i + 1]
        if large[last]:
            large_linear(out, x, weights[last], bias)
        else:
            torch.addmm(bias, x, transposed[last], out=out)
        if own_times and last == 0:
            out.addr_(t.reshape(-1), column)  # type: ignore[arg-type]

    def nbytes(self) -> int:
        return self.n_slots * self.roll.slot_bytes


class Deltas:
    """Memory for the cotangents of the layers' linear outputs, of all slots of a roll.

    Parameters
    ----------
    key : tuple
        Number of slots, number of samples, sizes of the layers' outputs, dtype, device, and what it is.
    """

    def __init__(self, key: Any) -> None:
        self.key = key
        n_slots, n, sizes, dtype, device, _ = key
        self.layers = [torch.empty((n_slots, n, size), dtype=dtype, device=device) for size in sizes]
        self.hidden = _by_slot(self.layers[:-1], n_slots)
        self.outputs = self.layers[-1].unbind()
        self.places = [output.view(-1) for output in self.outputs]

    def nbytes(self) -> int:
        return sum(layer.numel() * layer.element_size() for layer in self.layers)


class MLPSession:
    """A reverse sweep over a perceptron's tapes; see :class:`skode.solvers.fields.protocols.Session`.

    Slots are pulled from the last to the first. The weights' gradients are formed when the sweep comes to another
    roll, or at its end, of all neighbouring slots at once.
    """

    def __init__(self, folded: FoldedMLP) -> None:
        self.folded = folded
        self.gradients: list[Tensor] = []
        self.column: Tensor | None = None
        self.roll: Roll | None = None
        self.deltas: Deltas
        self.pulled: list[int] = []  # since the last flush
        self.low = self.high = 0  # slots flushed, whose gradients are to be formed

    def place(self, tape: MLPTape, slot: int) -> Tensor:
        if tape.roll is not self.roll:
            self._turn_to(tape.roll)
        slot += tape.first
        if self.low <= slot < self.high:
            self._form()
        return self.deltas.places[slot]

    def pull(self, tape: MLPTape, slot: int, cotangent: Tensor | None, out: Tensor) -> None:
        if cotangent is not None:
            self.place(tape, slot).copy_(cotangent.reshape(-1))
        slot += tape.first
        roll = tape.roll
        self.pulled.append(slot)
        delta = self._pull_hidden(slot, roll)
        self._through(0, delta, out, roll)

    def _pull_hidden(self, slot: int, roll: Roll) -> Tensor:
        """The cotangent of the first layer's linear output, from that of a slot's value."""
        pull = self.folded.h.pull
        delta, below, kept = self.deltas.outputs[slot], self.deltas.hidden[slot], roll.kept[slot]
        for i in range(len(below), 0, -1):
            inner = below[i - 1]
            self._through(i, delta, inner, roll)
            delta = pull(inner, kept[i - 1])
        return delta

    def _through(self, i: int, delta: Tensor, out: Tensor, roll: Roll) -> None:
        """The cotangent of a layer's input from that of its linear output."""
        if roll.large[i]:
            large_linear(out, delta, self.folded.transposed[i], None)
        else:
            torch.mm(delta, self.folded.factors[i], out=out)

    def flush(self, tape: MLPTape) -> None:
        if not self.pulled:
            return
        low, high = min(self.pulled), max(self.pulled) + 1
        assert len(set(self.pulled)) == high - low, "slots are pulled one after another"
        self.pulled = []
        tape.roll.pending = True
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

    def _form_more(self, low: int, high: int, roll: Roll) -> None:
        """What else is to be gathered of the slots flushed."""

    def _turn_to(self, roll: Roll | None) -> None:
        """Go on with another roll, or with none."""
        if self.roll is not None:
            self._form()
            self.roll.pending = False
            POOL.release(self.deltas.key, self.deltas)
            self.roll.let_go()
        self.roll = roll
        if roll is not None:
            roll.hold()
            n_slots, n, sizes, dtype, device, _ = roll.key
            key = (n_slots, n, (*sizes[1:], len(self.folded.weights[-1])), dtype, device, "deltas")
            self.deltas = POOL.acquire(key, lambda: Deltas(key))

    def _form(self) -> None:
        """The gradients of the slots flushed."""
        low, high, roll = self.low, self.high, self.roll
        if low == high:
            return
        assert roll is not None
        self.low = self.high = 0
        new = []
        for layer, x in zip(self.deltas.layers, roll.layers, strict=True):
            delta = layer[low:high].flatten(0, 1)
            new += [outer(delta, x[low:high].flatten(0, 1)), delta.sum(0)]
        column = None
        if self.folded.column is not None:
            times = torch.cat([_column(roll.times[slot], roll.states[slot]) for slot in range(low, high)])
            column = times @ self.deltas.layers[0][low:high].flatten(0, 1)
        self._form_more(low, high, roll)
        if self.gradients:
            torch._foreach_add_(self.gradients, new)
            if column is not None and self.column is not None:
                self.column += column
        else:
            self.gradients, self.column = new, column


def _by_slot(layers: list[Tensor], n_slots: int) -> list[tuple[Tensor, ...]]:
    """The layers' parts of each slot."""
    return list(zip(*(layer.unbind() for layer in layers), strict=True)) or [()] * n_slots


def _column(t: Any, state: Tensor) -> Tensor:
    """The time of each sample of an evaluation."""
    if isinstance(t, Tensor):
        return t.reshape(-1).to(state).expand(len(state))
    return state.new_full((len(state),), t)

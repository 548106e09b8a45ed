"""A perceptron's fast path through a solve: its evaluations on tapes, which are allocated in reused memory."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from skode.dynamics.activations import ACTIVATIONS, Activation
from skode.dynamics.products import as_right_factor, as_transposed, large_linear, worthwhile
from skode.solvers.buffer_pool import TENSOR_VIEW, BufferPool
from skode.solvers.cached import cached
from skode.solvers.devices import capturing

# Slots of several steps share an arena while it is smaller than this: the weights' gradients of a whole arena are then
# one product per layer.
ARENA_BYTES, ARENA_SLOTS = 2**20, 64

POOL = BufferPool()


class FoldedMLP:
    """A perceptron's weights with ``tanh(x) = 2 sigmoid(2x) - 1`` folded into them.

    With ``s_l = sigmoid(2 x_l)`` the next layer's ``W h(x_l) + b`` is ``2W s_l + (b - W 1)``, and a hidden layer's
    linear output is computed twice as large. Other activations are left as they are.

    Parameters
    ----------
    weights, biases : list of Tensor
        The perceptron's layers, first to last; the first weight without time's column.
    time_column : Tensor or None
        Time's column of the first weight; None where time is no input.
    h : Activation
        The activation.

    Attributes
    ----------
    weights, biases : list of Tensor
        The folded layers.
    column : Tensor or None
        Time's column of the first weight, folded as that weight is.
    h : Activation
        The activation of the folded layers.
    """

    def __init__(self, weights: list[Tensor], biases: list[Tensor], time_column: Tensor | None, h: Activation) -> None:
        self.origin: tuple[Any, ...] = (weights, biases, time_column, h)
        on_cpu = weights[0].device.type == "cpu"  # elsewhere tanh is as fast
        self.folds = h is ACTIVATIONS["tanh"] and len(weights) > 1 and on_cpu
        self.h = ACTIVATIONS["logistic"] if self.folds else h
        self.weights, self.biases = [w.detach() for w in weights], [b.detach() for b in biases]
        self.column = None if time_column is None else time_column.detach()
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
        self.arena_kind = Arena
        # By the number of samples: the arena that the next tape is allocated in, and which products are oneDNN's.
        self.arenas: dict[int, Arena] = {}
        self.large: dict[int, list[bool]] = {}

    @cached
    def factors(self) -> list[Tensor]:
        """The folded weights in the layout for their pullback."""
        return [as_right_factor(w) if w.device.type == "cpu" else w for w in self.weights]

    def refresh(self) -> None:
        """Compute again, in the same memory, all tensors derived from the perceptron's parameters."""
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
        arena = self.arenas.get(len(like))
        if arena is None or arena.next + n_slots > arena.n_slots or arena.key[3:5] != (like.dtype, like.device):
            arena = self.arenas[len(like)] = self.arena_kind.of(self, like, n_slots)
        return arena.allocate(self, n_slots)

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


class Arena:
    """Memory for many evaluations, in which tapes are allocated.

    The states and the hidden layers' values of all slots lie next to each other.

    Parameters
    ----------
    key : tuple
        Number of slots, number of samples, sizes of the layers' inputs, dtype, device, and whether the activation's
        derivatives are computed from its input, so that the hidden layers' linear outputs are remembered as well.
    """

    def __init__(self, key: Any) -> None:
        self.key = key
        self.pool_key = (type(self).__name__, *key)
        self.n_slots, n, sizes, dtype, device, of_input = key
        self.layers = [torch.empty((self.n_slots, n, size), dtype=dtype, device=device) for size in sizes]
        self.states = self.layers[0].unbind()
        self.places = [state.view(-1) for state in self.states]
        self.hidden = by_slot(self.layers[1:], self.n_slots)
        # The activations' derivatives are computed from the values, into whose memory the linear outputs are written
        # first, or from those outputs, which then have separate memory.
        self.kept = self.hidden
        if of_input:
            self.kept = by_slot([torch.empty_like(layer) for layer in self.layers[1:]], self.n_slots)
        self.times: list[Any] = [None] * self.n_slots
        self.slot_views = 2 + len(self.hidden[0]) + (len(self.kept[0]) if of_input else 0)
        self.slot_bytes = n * (sum(sizes) + of_input * sum(sizes[1:])) * self.layers[0].element_size()
        self.large: list[bool] = []
        # The first free slot, and how many tapes and sessions still need the memory.
        self.next = self.holders = 0
        # Whether a session has yet to look at slots whose tapes may have been released.
        self.pending = False

    @classmethod
    def of(cls, folded: FoldedMLP, like: Tensor, least_slots: int) -> Arena:
        """An arena for states like this one, from the pool if it has one."""
        n = len(like)
        slot_bytes = max(n * sum(folded.sizes) * like.element_size(), 1)
        n_slots = max(least_slots, min(ARENA_BYTES // slot_bytes, ARENA_SLOTS))
        if capturing():  # the only tape that it will ever hold
            n_slots = least_slots
        key = (n_slots, n, folded.sizes, like.dtype, like.device, folded.h.of_input)
        arena = POOL.acquire((cls.__name__, *key), lambda: cls(key))
        if n not in folded.large:
            folded.large[n] = [worthwhile(like, n, *weight.shape) for weight in folded.weights]
        arena.large = folded.large[n]
        return arena

    def allocate(self, folded: FoldedMLP, n_slots: int) -> MLPTape:
        """A tape of the next slots, for the perceptron whose arena this is."""
        tape = self.tape_kind(self, folded, self.next, n_slots)
        self.next += n_slots
        self.holders += 1
        return tape

    @property
    def tape_kind(self) -> type[MLPTape]:
        """The class of the tapes allocated in it."""
        return MLPTape

    def retain(self) -> None:
        """Keep the memory even when all tapes are released."""
        self.holders += 1

    def release(self, folded: FoldedMLP) -> None:
        """Undo :meth:`retain`; the last holder returns the memory of that perceptron to the pool."""
        self.holders -= 1
        if not self.holders:
            self.next = 0
            arenas, n = folded.arenas, self.key[1]
            if arenas.get(n) is self:
                del arenas[n]
            self.times = [None] * self.n_slots  # which are not to be kept alive
            POOL.release(self.pool_key, self)

    def nbytes(self) -> int:
        """Size of the memory in bytes, with the views of each slot."""
        return self.n_slots * (self.slot_bytes + self.slot_views * TENSOR_VIEW)


class MLPTape:
    """Evaluations of a perceptron in preallocated memory; see :class:`skode.solvers.fields.protocols.Tape`.

    Parameters
    ----------
    arena : Arena
        The arena that holds its memory.
    folded : FoldedMLP
        The perceptron, which knows the arena: not the other way round, as only a garbage collection would find the two.
    first, n_slots : int
        Its first slot there, and the number of slots.
    """

    reused = True

    def __init__(self, arena: Arena, folded: FoldedMLP, first: int, n_slots: int) -> None:
        self.arena = arena
        self.folded = folded
        self.first = first
        self.n_slots = n_slots

    def release(self) -> None:
        arena = self.arena
        if arena.next == self.first + self.n_slots and not arena.pending:
            arena.next = self.first
        arena.release(self.folded)

    def place(self, slot: int) -> Tensor:
        return self.arena.places[self.first + slot]

    def state(self, slot: int) -> Tensor:
        return self.arena.states[self.first + slot]

    def evaluate(self, slot: int, t: Any, out: Tensor) -> None:
        arena = self.arena
        folded, large, slot = self.folded, arena.large, self.first + slot
        weights, transposed, biases, value_into = folded.weights, folded.transposed, folded.biases, folded.h.value_into
        x, bias, column = arena.states[slot], biases[0], folded.column
        last = len(transposed) - 1
        arena.times[slot] = t
        own_times = False
        if column is not None:
            own_times = isinstance(t, Tensor) and t.ndim > 0
            if not own_times:
                number = isinstance(t, float | int)
                bias = torch.add(bias, column, alpha=t) if number else torch.addcmul(bias, column, t.to(column))
        hidden = arena.hidden[slot]
        for i, y in enumerate(arena.kept[slot]):
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
        return self.n_slots * self.arena.slot_bytes


def by_slot(layers: list[Tensor], n_slots: int) -> list[tuple[Tensor, ...]]:
    """The layers' parts of each slot."""
    return list(zip(*(layer.unbind() for layer in layers), strict=True)) or [()] * n_slots

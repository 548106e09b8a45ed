r"""A perceptron's fused path: its evaluations and their pullbacks on NumPy arrays, in memory laid out for them.

Arrays have features as rows and samples as columns. The input of each layer has a row of ones below it, so that a layer
is the single product ``[W, b] [x; 1]`` and an activation. Inputs such as time are rows between the state's and that of
ones, which are written before each evaluation. A state may have further rows, on which nothing depends: the weights
then have columns, and the last one rows, of zeros for them.

Many evaluations lie behind each other on a tape: the slopes of all their activations are computed at once, and the
weights' gradients of all of them are one stack of products ``delta [x; 1]^T`` for each layer.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

import numpy as np
from torch import Tensor

from skode.dynamics.array_activations import ArrayActivation
from skode.solvers.buffer_pool import ARRAY_VIEW

# Looked up once: names of a module's own are found faster.
dot, multiply = np.dot, np.multiply

#: Evaluations of a tape take up to so many bytes, unless one step alone takes more.
TAPE_BYTES, TAPE_SLOTS = 2**20, 64


class FusedMLP:
    """A perceptron over ``n`` states, in memory that serves one solve after another.

    Parameters
    ----------
    n : int
        Number of states.
    sizes : tuple of int
        Sizes of the state and of the hidden layers.
    n_inputs : int
        Number of inputs besides the state.
    h : ArrayActivation
        The activation.
    dtype : numpy.dtype
        The states' type.
    n_further : int, default=0
        Number of further rows of the state, on which nothing depends.

    Attributes
    ----------
    size : int
        Number of rows of a state.
    cotangents : list of ndarray of shape (size * n,)
        For each slot of a tape, where the cotangent of its value is written before it is pulled.
    slot_nbytes : int
        Bytes that an evaluation takes on a tape.
    most_slots : int
        Number of evaluations that a tape should have.
    """

    def __init__(
        self, n: int, sizes: tuple[int, ...], n_inputs: int, h: ArrayActivation, dtype: np.dtype, n_further: int = 0
    ) -> None:
        self.n, self.sizes, self.h, self.dtype = n, sizes, h, dtype
        self.size = size = sizes[0] + n_further
        self.outputs = (*sizes[1:], size)
        self.heights = (size + n_inputs + 1, *(size + 1 for size in sizes[1:]))
        #: Layers as left factors, [W, b], and their transposes for the pullback.
        self.forward = [np.zeros(shape, dtype) for shape in zip(self.outputs, self.heights, strict=True)]
        self.back = [np.zeros(shape, dtype) for shape in zip((size, *sizes[1:]), self.outputs, strict=True)]
        #: Linear outputs pass through here: a product written to memory that is not at hand would hold up what follows.
        self.linear = [np.empty((size, n), dtype) for size in sizes[1:]]
        kept = sum(self.heights) + h.of_input * sum(sizes[1:])
        self.slot_nbytes = n * kept * dtype.itemsize
        self.most_slots = min(TAPE_SLOTS, TAPE_BYTES // self.slot_nbytes)
        self.deltas: list[np.ndarray] = []
        self.slopes: list[np.ndarray] = []
        self.cotangents: list[np.ndarray] = []
        self.sums: list[np.ndarray] = []
        self.write: Callable[[Any, np.ndarray], None] | None = None
        self.rates: np.ndarray | None = None

    def load(self, form: MLPForm) -> None:
        """Take over the parameters' present values.

        With ``h(x) = outof g(into x) + shift`` a layer behind others is ``into (outof W g + (b + shift W 1))``.
        """
        h, outof, shift = self.h, 1.0, 0.0
        self.write, self.rates = form.write, form.rates
        for i, (weight, bias) in enumerate(form.arrays()):
            k, m = len(weight), self.sizes[i]
            into = h.into if i < len(self.forward) - 1 else 1.0
            scaled = weight if outof * into == 1.0 else weight * (outof * into)
            forward = self.forward[i][:k]
            forward[:, :m] = scaled[:, :m]
            if i == 0:
                forward[:, self.size : -1] = scaled[:, m:]
            forward[:, -1] = bias if shift == 0.0 else bias + shift * weight.sum(1)
            if into != 1.0:
                forward[:, -1] *= into
            self.back[i][:m, :k] = scaled[:, :m].T
            outof, shift = h.outof, h.shift

    def gradients(self) -> list[np.ndarray]:
        """Gradients of all weights and biases, from the sums over the evaluations pulled since the last call."""
        h, outof, shift, last = self.h, 1.0, 0.0, len(self.sums) - 1
        d, further = self.sizes[0], self.size - self.sizes[0]
        found: list[np.ndarray] = []
        for i, total in enumerate(self.sums):
            into = h.into if i < last else 1.0
            if further and i == last:
                total = total[:d]
            if further and i == 0:
                total = np.concatenate([total[:, :d], total[:, self.size :]], axis=1)
            weight, bias = total[:, :-1] * (outof * into), total[:, -1] * into
            if shift:
                weight += shift * bias[:, None]
            found += [weight, bias]
            outof, shift = h.outof, h.shift
        self.sums = []
        return found

    def tape(self, n_slots: int, *, keep: bool) -> FusedTape:
        """Memory for evaluations, which are kept or else share it."""
        return FusedTape(self, n_slots, keep=keep)

    def nbytes(self) -> int:
        """Size of the memory with its views, tapes excluded, in bytes."""
        views = len(self.cotangents) * 2 * len(self.outputs)
        arrays = (*self.forward, *self.back, *self.linear, *self.deltas, *self.slopes)
        return sum(array.nbytes for array in arrays) + views * ARRAY_VIEW

    def make_room(self, n_slots: int) -> None:
        """Have memory for the cotangents of as many slots as a tape has."""
        self._make_deltas(n_slots)
        self.slopes = [np.empty((n_slots, size, self.n), self.dtype) for size in self.sizes[1:]]
        self.pulls = []
        for slot in range(n_slots):
            deltas, slopes = [layer[slot] for layer in self.deltas], [layer[slot] for layer in self.slopes]
            layers = [
                (self.back[i], deltas[i], self.linear[i - 1], slopes[i - 1], deltas[i - 1])
                for i in range(len(deltas) - 1, 0, -1)
            ]
            self.pulls.append((layers, deltas[0]))

    def _make_deltas(self, n_slots: int) -> None:
        """Memory for the cotangents of the layers' linear outputs."""
        self.deltas = [np.empty((n_slots, size, self.n), self.dtype) for size in self.outputs]
        self.cotangents = [cotangent.reshape(-1) for cotangent in self.deltas[-1]]

    def pull(self, slot: int, out: np.ndarray) -> None:
        """The cotangent of a slot's state into ``out``, from that of its value, which has been written in its place."""
        layers, first = self.pulls[slot]
        if self.rates is not None:
            value = self.deltas[-1][slot]
            multiply(value, self.rates, value)
        for back, delta, linear, slope, below in layers:
            dot(back, delta, linear)
            multiply(linear, slope, below)
        dot(self.back[0], first, out)

    def form(self, tape: FusedTape, low: int, high: int) -> None:
        """Add to the sums behind the weights' gradients those of some of a tape's slots, all of them pulled."""
        new = [
            np.matmul(delta[low:high], x[low:high].swapaxes(1, 2)).sum(0)
            for delta, x in zip(self.deltas, tape.values, strict=True)
        ]
        if self.sums:
            for total, part in zip(self.sums, new, strict=True):
                total += part
        else:
            self.sums = new


class FusedTape:
    """Evaluations of a perceptron.

    Parameters
    ----------
    field : FusedMLP
        The perceptron.
    n_slots : int
        Number of evaluations.
    keep : bool
        Whether they are kept; otherwise they share the memory of one, which then stays at hand.

    Attributes
    ----------
    states : list of ndarray of shape (size * n,)
        Where the state of each evaluation is written.
    values : list of ndarray of shape (n_slots, height, n)
        The layers' inputs, slot by slot, each with its row of ones.
    """

    def __init__(self, field: FusedMLP, n_slots: int, *, keep: bool) -> None:
        n, size, of_input, dtype = field.n, field.size, field.h.of_input, field.dtype
        self.field = field
        n_own = n_slots if keep else 1
        self.values = [np.ones((n_own, height, n), dtype) for height in field.heights]
        # The activations' derivatives are computed from their values, or from their inputs, which are then kept too.
        self.hidden = [value[:, :-1] for value in self.values[1:]]
        self.kept = [np.empty((n_own, k, n), dtype) for k in field.sizes[1:]] if of_input else self.hidden
        self.value, self.last_weight = field.h.value, field.forward[-1]
        #: Of each slot the hidden layers' weights, inputs, linear outputs and values; the last input; place of inputs.
        self.slots = []
        for slot in range(n_own):
            xs, hidden = [value[slot] for value in self.values], [value[slot] for value in self.hidden]
            linear = [kept[slot] for kept in self.kept] if of_input else field.linear
            layers = list(zip(field.forward[:-1], xs[:-1], linear, hidden, strict=True))
            self.slots.append((layers, xs[-1], xs[0][size:-1]))
        self.states = [value[:size].reshape(-1) for value in self.values[0]]
        if not keep:
            self.slots, self.states = self.slots * n_slots, self.states * n_slots

    def nbytes(self) -> int:
        """Size of the memory in bytes, with the views of each slot."""
        views = 1 + 2 * len(self.values) + (len(self.hidden) if self.kept is not self.hidden else 0)
        return len(self.values[0]) * (self.field.slot_nbytes + views * ARRAY_VIEW)

    def evaluate(self, slot: int, t: Any, out: np.ndarray) -> None:
        """Evaluate the field at a slot's state, into ``out`` of shape (size, n)."""
        self._value(slot, t, out)
        if self.field.rates is not None:
            multiply(out, self.field.rates, out)

    def _value(self, slot: int, t: Any, out: np.ndarray) -> None:
        """The value before it is multiplied by rates."""
        layers, last, inputs = self.slots[slot]
        write, value = self.field.write, self.value
        if write is not None:
            write(t, inputs)
        for weight, x, linear, y in layers:
            dot(weight, x, linear)
            value(linear, y)
        dot(self.last_weight, last, out)

    def differentiate(self, low: int, high: int) -> None:
        """Compute what the pullbacks of some slots need of them all."""
        for kept, slope in zip(self.kept, self.field.slopes, strict=True):
            self.field.h.slope(kept[low:high], slope[low:high])


class MLPForm:
    """A perceptron's parameters, with what kind of memory its fused path needs.

    Parameters
    ----------
    parameters : list of Tensor
        Weights and biases, layer by layer; the first weight has the columns of the state, then those of inputs.
    n_features : int
        Size of the state.
    h : ArrayActivation
        The activation.
    write : callable or None
        Writes the inputs at a time into an array of shape (n_inputs, n), ``write(t, out)``; None where there are none.

    Attributes
    ----------
    rates : ndarray of shape (n,) or None
        What the value of each sample is multiplied by.
    """

    def __init__(
        self,
        parameters: list[Tensor],
        n_features: int,
        h: ArrayActivation,
        write: Callable[[Any, np.ndarray], None] | None,
    ) -> None:
        self.parameters, self.h, self.write = parameters, h, write
        self.sizes = (n_features, *(weight.shape[0] for weight in parameters[:-2:2]))
        self.n_inputs = parameters[0].shape[1] - n_features
        self.largest = max(self.sizes)
        self.rates: np.ndarray | None = None

    def key(self) -> Hashable:
        """Key of memory that serves it."""
        return self.sizes, self.n_inputs, id(self.h)

    def new(self, n: int, dtype: np.dtype) -> FusedMLP:
        """Memory for ``n`` states."""
        return FusedMLP(n, self.sizes, self.n_inputs, self.h, dtype)

    def over_own_times(self, start: np.ndarray, length: np.ndarray) -> None:
        """Go over the unit interval of each sample's time span, of a start and a signed length."""
        write, self.rates = self.write, length
        if write is not None:
            self.write = lambda s, out: write(start + s * length, out)

    def arrays(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """The weights and biases in pairs."""
        arrays = [parameter.detach().numpy() for parameter in self.parameters]
        return list(zip(arrays[::2], arrays[1::2], strict=True))


def takes(parameters: list[Tensor], like: Tensor, width: int) -> bool:
    """Whether states like this one are of a perceptron's width, and its parameters of their type."""
    dtype = like.dtype
    return like.shape[1] == width and all(p.dtype == dtype and p.device == like.device for p in parameters)


def write_time(t: float | np.ndarray, out: np.ndarray) -> None:
    """Time as the only input."""
    out[...] = t

"""A multilayer perceptron as a vector field, with its own pullback."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from skode.dynamics.activations import ACTIVATIONS, Activation, get_activation
from skode.dynamics.products import add_outer, large_linear, worthwhile


def affine(n_in: int, n_out: int, generator: torch.Generator | None) -> nn.Linear:
    """An affine map with its initial weights from ``generator``: uniform within ``sqrt(6 / (n_in + n_out))``.

    That is the range of Glorot and Bengio (2010); biases are 0. Torch's global random state is left alone.
    """
    layer = nn.utils.skip_init(nn.Linear, n_in, n_out)
    nn.init.xavier_uniform_(layer.weight, generator=generator)
    nn.init.zeros_(layer.bias)
    return layer


class MLPField(nn.Module):
    r"""Vector field ``dz/dt = W_L h(... h(W_1 [z, t] + b_1) ...) + b_L``.

    Parameters
    ----------
    n_features : int
        Size of the state.
    hidden_layer_sizes : sequence of int, default=(64, 64)
        Widths of the hidden layers; empty for a linear field.
    activation : {"tanh", "logistic", "softplus", "relu"}, default="tanh"
        The activation ``h``.
    time_dependent : bool, default=True
        Whether time is an input of the first layer, as its last column.
    generator : torch.Generator, default=None
        Source of the initial weights; torch's global one where None.

    Attributes
    ----------
    layers : nn.ModuleList of nn.Linear
        ``parameters()`` gives them in layer order, weight then bias.

    Notes
    -----
    The field offers ``linearize``, ``pullback`` and ``parameter_gradients`` (see
    :class:`skode.solvers.OffersPullback`): plain matrix products without an autograd graph.

    Examples
    --------
    >>> import torch
    >>> from skode.dynamics import MLPField
    >>> field = MLPField(2, hidden_layer_sizes=(16,), generator=torch.Generator().manual_seed(0))
    >>> field(0.5, torch.zeros(10, 2)).shape
    torch.Size([10, 2])
    """

    def __init__(
        self,
        n_features: int,
        hidden_layer_sizes: Sequence[int] = (64, 64),
        activation: str = "tanh",
        time_dependent: bool = True,
        *,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.n_features = n_features
        self.hidden_layer_sizes = tuple(hidden_layer_sizes)
        self.activation = activation
        self.time_dependent = time_dependent
        get_activation(activation)
        sizes = [n_features + time_dependent, *self.hidden_layer_sizes, n_features]
        self.layers = nn.ModuleList(affine(m, n, generator) for m, n in pairwise(sizes))

    def forward(self, t: float | Tensor, z: Tensor) -> Tensor:
        """``dz/dt`` at a time and at states.

        Parameters
        ----------
        t : float, 0-dimensional Tensor, or Tensor of shape (n, 1)
            The time, of the batch or of each sample.
        z : Tensor of shape (n, n_features)
            States.

        Returns
        -------
        Tensor of shape (n, n_features)
            Their rates of change.
        """
        return self.bind()(t, z)

    @property
    def h(self) -> Activation:
        """The activation."""
        return get_activation(self.activation)

    def bind(self) -> BoundMLP:
        """The field over views of its current weights, for many evaluations without the cost of a module's."""
        return BoundMLP(self.linear_layers(), self.n_features, self.h, self.time_dependent)

    def linearize(self, t: float | Tensor, z: Tensor) -> tuple[Tensor, Any]:
        """See :meth:`BoundMLP.linearize`."""
        return self.bind().linearize(t, z)

    def pullback(self, residuals: Any, cotangent: Tensor, *, with_time: bool) -> tuple[Tensor, Tensor | None, Any]:
        """See :meth:`BoundMLP.pullback`."""
        return self.bind().pullback(residuals, cotangent, with_time=with_time)

    def parameter_gradients(self, tape: Sequence[tuple[Any, Any]]) -> list[Tensor]:
        """See :meth:`BoundMLP.parameter_gradients`."""
        return self.bind().parameter_gradients(tape)

    def linear_layers(self) -> list[nn.Linear]:
        """The layers, first to last."""
        return list(self.layers)  # type: ignore[arg-type]


class BoundMLP:
    """A perceptron as plain matrix products.

    Parameters
    ----------
    layers : list of nn.Linear
        Its layers.
    n_features : int
        Size of the state.
    h : Activation
        The activation.
    time_dependent : bool
        Whether the first weight's last column belongs to time.

    Attributes
    ----------
    weights : list of Tensor
        The layers' weights, the first without time's column: views, so that they follow the parameters.
    """

    def __init__(self, layers: list[nn.Linear], n_features: int, h: Activation, time_dependent: bool) -> None:
        first = layers[0].weight
        self.weights = [first[:, :n_features] if time_dependent else first, *(layer.weight for layer in layers[1:])]
        self.transposed = [weight.t() for weight in self.weights]
        self.biases = [layer.bias for layer in layers]
        self.time_column = first[:, n_features] if time_dependent else None
        self.h = h

    def tape(self, like: Tensor, n_slots: int) -> MLPTape:
        """A tape in preallocated memory; see :class:`skode.solvers.vector_field.Tape`."""
        return MLPTape.for_states(self.folded, like, n_slots)

    def session(self) -> MLPSession:
        """A reverse sweep over such tapes."""
        return MLPSession(self.folded)

    @functools.cached_property
    def folded(self) -> FoldedMLP:
        """The weights as the tapes use them."""
        return FoldedMLP(self)

    def __call__(self, t: float | Tensor, z: Tensor) -> Tensor:
        """The value."""
        x = self._first(t, z)
        for weight, bias in zip(self.transposed[1:], self.biases[1:], strict=True):
            x = torch.addmm(bias, self.h.value(x), weight)
        return x

    def linearize(self, t: float | Tensor, z: Tensor) -> tuple[Tensor, Any]:
        """The value, and ``(t, z, s_1, s_2, ...)`` with the hidden layers' values ``s_l``."""
        kept: list[Any] = [t, z]
        x = self._first(t, z)
        for weight, bias in zip(self.transposed[1:], self.biases[1:], strict=True):
            s = self.h.value(x)
            kept.append(s)
            x = torch.addmm(bias, s, weight)
        return x, tuple(kept)

    def pullback(self, residuals: Any, cotangent: Tensor, *, with_time: bool) -> tuple[Tensor, Tensor | None, Any]:
        """Cotangents of the state and of time, and each layer's ``delta_l``, the cotangents of its linear output."""
        t, _, *hidden = residuals
        delta = cotangent
        deltas = [delta]
        for weight, s in zip(reversed(self.weights[1:]), reversed(hidden), strict=True):
            delta = (delta @ weight) * self.h.slope(s)
            deltas.append(delta)
        deltas.reverse()
        grad_z, grad_t = self.pull_first(t, delta, with_time=with_time)
        return grad_z, grad_t, tuple(deltas)

    def pull_first(self, t: Any, delta: Tensor, *, with_time: bool) -> tuple[Tensor, Tensor | None]:
        """Cotangents of state and time from those of the first layer's linear output."""
        grad_z = delta @ self.weights[0]
        if not with_time:
            return grad_z, None
        if self.time_column is None:
            return grad_z, torch.zeros_like(t) if isinstance(t, Tensor) else delta.new_zeros(())
        per_sample = delta @ self.time_column
        if isinstance(t, Tensor) and t.ndim:
            return grad_z, per_sample.reshape(t.shape)
        return grad_z, per_sample.sum()

    def parameter_gradients(self, tape: Sequence[tuple[Any, Any]]) -> list[Tensor]:
        """Gradients of all weights and biases, layer by layer, summed over the evaluations on the tape."""
        gradients = []
        for i, weight in enumerate(self.weights):
            total = torch.zeros_like(weight)
            for residuals, deltas in tape:
                total.addmm_(deltas[i].t(), residuals[i + 1])
            sums = [deltas[i].sum(0) for _, deltas in tape]
            if i == 0 and self.time_column is not None:
                columns = [
                    _weighted_sum(residuals[0], deltas[0], s) for (residuals, deltas), s in zip(tape, sums, strict=True)
                ]
                total = torch.cat([total, torch.stack(columns).sum(0)[:, None]], dim=1)
            gradients += [total, torch.stack(sums).sum(0)]
        return gradients

    def _first(self, t: float | Tensor, z: Tensor) -> Tensor:
        """The first layer's linear output."""
        bias, column = self.biases[0], self.time_column
        if column is None:
            return torch.addmm(bias, z, self.transposed[0])
        if isinstance(t, Tensor):
            if t.ndim:
                return torch.addmm(bias, z, self.transposed[0]) + t.reshape(-1, 1) * column
            return torch.addmm(bias + t * column, z, self.transposed[0])
        return torch.addmm(torch.add(bias, column, alpha=t), z, self.transposed[0])


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


def _weighted_sum(t: float | Tensor, delta: Tensor, delta_sum: Tensor) -> Tensor:
    """``sum_n t_n delta_n``, the gradient of time's column."""
    if isinstance(t, Tensor) and t.ndim:
        return t.reshape(-1) @ delta
    return delta_sum * t

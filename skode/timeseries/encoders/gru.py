"""A gated recurrent unit that is fast for small batches on CPUs."""

from __future__ import annotations

from itertools import islice
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from skode.dynamics.products import as_right_factor, outer
from skode.solvers.buffer_pool import TENSOR_VIEW, BufferPool
from skode.solvers.first_order import first_order

# Tapes are made for a multiple of as many steps, so that batches of nearly the same length use the same one.
STEPS = 16

POOL = BufferPool()

Memory = TypeVar("Memory", "Tape", "Cotangents")

#: How many steps were made, and in which series: one of each.
Steps = tuple[Tensor, Tensor]


class GRU(nn.Module):
    r"""A gated recurrent unit (Cho et al. 2014), one layer deep, in torch's form.

    .. math::

        r &= \sigma(W_{ir} x + b_{ir} + W_{hr} h + b_{hr}) \\
        z &= \sigma(W_{iz} x + b_{iz} + W_{hz} h + b_{hz}) \\
        n &= \tanh(W_{in} x + b_{in} + r \odot (W_{hn} h + b_{hn})) \\
        h &\leftarrow (1 - z) \odot n + z \odot h

    For small batches torch's own takes most of its time for the calls of each step. Here a step is five calls forward
    and three backward, into memory that is used again, and all else is done for all steps at once.

    Parameters
    ----------
    n_inputs : int
        Size of an input.
    hidden_size : int
        Size of the state.

    Attributes
    ----------
    weight_ih_l0 : nn.Parameter of shape (3 * hidden_size, n_inputs)
        The weights of the inputs for ``r``, ``z`` and ``n``, one below the other. Like all parameters they are not
        initialised, and are named as those of :class:`torch.nn.GRU`.
    weight_hh_l0 : nn.Parameter of shape (3 * hidden_size, hidden_size)
        The weights of the state.
    bias_ih_l0, bias_hh_l0 : nn.Parameter of shape (3 * hidden_size,)
        The biases.

    Notes
    -----
    ``tanh(x)`` is computed as ``2 sigmoid(2x) - 1`` with the constants folded into the weights, as
    :class:`skode.dynamics.MLPField` does, so that states are exact to rounding relative to 1, not to their size.

    Gradients are of first order only.

    References
    ----------
    Cho, K., et al. "Learning phrase representations using RNN encoder-decoder for statistical machine translation."
    EMNLP, 2014.

    Examples
    --------
    >>> import torch
    >>> from skode.timeseries.encoders.gru import GRU
    >>> gru = GRU(3, 8)
    >>> for parameter in gru.parameters():
    ...     _ = torch.nn.init.uniform_(parameter, -0.3, 0.3, generator=torch.Generator().manual_seed(0))
    >>> gru(torch.zeros(5, 10, 3)).shape
    torch.Size([5, 10, 8])
    """

    def __init__(self, n_inputs: int, hidden_size: int) -> None:
        super().__init__()
        self.n_inputs, self.hidden_size = n_inputs, hidden_size
        self._in_one_piece: tuple[int, ...] = ()  # where the weights are, if next to each other as cuDNN wants them
        self.weight_ih_l0 = nn.Parameter(torch.empty(3 * hidden_size, n_inputs))
        self.weight_hh_l0 = nn.Parameter(torch.empty(3 * hidden_size, hidden_size))
        self.bias_ih_l0 = nn.Parameter(torch.empty(3 * hidden_size))
        self.bias_hh_l0 = nn.Parameter(torch.empty(3 * hidden_size))

    def forward(self, inputs: Tensor, lengths: Tensor | None = None) -> Tensor:
        """The states after each step, or after the last one, from a state of 0 before the first.

        Parameters
        ----------
        inputs : Tensor of shape (n_series, n_steps, n_inputs)
            The inputs, of the dtype of the weights.
        lengths : Tensor of int64, of shape (n_series,), default=None
            How many steps each series has, at least one; None: all states are wanted.

        Returns
        -------
        Tensor of shape (n_series, n_steps, hidden_size), or (n_series, hidden_size) with ``lengths``
            The states.
        """
        weights = (self.weight_ih_l0, self.weight_hh_l0, self.bias_ih_l0, self.bias_hh_l0)
        if inputs.ndim != 3 or inputs.shape[2] != self.n_inputs or inputs.dtype != weights[0].dtype:
            raise ValueError(
                f"GRU takes inputs of shape (n_series, n_steps, {self.n_inputs}) and {weights[0].dtype}, as its "
                f"weights are; got shape {tuple(inputs.shape)} and {inputs.dtype}."
            )
        if inputs.is_cuda and torch.backends.cudnn.is_acceptable(inputs):
            states = self._by_cudnn(inputs, weights)
            return states if lengths is None else states[torch.arange(len(states), device=states.device), lengths - 1]
        after = None if lengths is None else (lengths, torch.arange(len(lengths), device=lengths.device))
        if torch.is_grad_enabled() and any(x.requires_grad for x in (inputs, *weights)):
            states = _Recurrence.apply(after, inputs, *weights)
        else:
            tape = _run(inputs, FoldedGRU(*weights))
            states = tape.read(inputs.shape[1], after)
            tape.release()
        return states.transpose(0, 1) if lengths is None else states

    def _by_cudnn(self, inputs: Tensor, weights: tuple[Tensor, ...]) -> Tensor:
        """The same by cuDNN, which does all steps in a few launches."""
        where = tuple(w.data_ptr() for w in weights)
        if where != self._in_one_piece:
            with torch.no_grad():  # cuDNN wants the weights in one piece of memory
                mode, n_layers = 3, 1  # a GRU
                torch._cudnn_rnn_flatten_weight(
                    list(weights), 4, self.n_inputs, mode, self.hidden_size, 0, n_layers, True, False
                )
            self._in_one_piece = tuple(w.data_ptr() for w in weights)
        start = inputs.new_zeros(1, len(inputs), self.hidden_size)
        return torch._VF.gru(inputs, start, list(weights), True, 1, 0.0, torch.is_grad_enabled(), False, True)[0]

    def extra_repr(self) -> str:
        return f"{self.n_inputs}, {self.hidden_size}"


class FoldedGRU:
    """A unit's weights for states ``u = (h + 1) / 2``, with ``tanh(x) = 2 sigmoid(2x) - 1`` folded into them.

    Then ``u <- (1 - z) s + z u``, where ``s = sigmoid(2x)`` is to ``u`` what ``n = tanh(x)`` is to ``h``. A step
    computes four linear outputs: of the state for ``n``, both of the state and of the input for ``r`` and for ``z``,
    and of the input for ``n``. They are kept in this order, so that those of the state are neighbours and those of the
    input are.

    Parameters
    ----------
    weight_ih, weight_hh, bias_ih, bias_hh : Tensor
        The unit's parameters.

    Attributes
    ----------
    hidden_size : int
        Size of the state.
    of_state : Tensor of shape (3 * hidden_size, hidden_size)
        The state's weights for ``n``, ``r`` and ``z``.
    of_input : Tensor of shape (3 * hidden_size, n_inputs)
        The inputs' weights for ``r``, ``z`` and ``n``.
    bias : Tensor of shape (3 * hidden_size,)
        Bias added to the outputs of the input: all but the state's bias for ``n``.
    bias_n : Tensor of shape (hidden_size,)
        That bias.
    """

    def __init__(self, weight_ih: Tensor, weight_hh: Tensor, bias_ih: Tensor, bias_hh: Tensor) -> None:
        weight_ih, weight_hh, bias_ih, bias_hh = (x.detach() for x in (weight_ih, weight_hh, bias_ih, bias_hh))
        self.hidden_size = h = weight_hh.shape[1]
        self.scale = scale = torch.ones_like(bias_hh)  # of the outputs
        scale[2 * h :] = 2.0
        self.of_state = (weight_hh * (2.0 * scale)[:, None]).roll(h, 0)
        self.of_input = weight_ih * scale[:, None]
        bias_hh = (bias_hh - weight_hh.sum(1)).mul_(scale)
        self.bias, self.bias_n = bias_ih * scale, bias_hh[2 * h :]
        self.bias[: 2 * h] += bias_hh[: 2 * h]

    def unfold(self, of_state: Tensor, of_input: Tensor, bias: Tensor) -> tuple[Tensor, ...]:
        """The gradients of the unit's parameters from those of the folded weights.

        The last argument is the gradient of what is added to the four linear outputs.
        """
        h, scale = self.hidden_size, self.scale
        bias_hh, bias_ih = bias[: 3 * h].roll(-h) * scale, bias[h:] * scale
        weight_hh = (of_state.roll(-h, 0) * (2.0 * scale)[:, None]).sub_(bias_hh[:, None])
        return of_input * scale[:, None], weight_hh, bias_ih, bias_hh


class _Recurrence(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, after: Steps | None, inputs: Tensor, *weights: Tensor) -> Tensor:
        ctx.save_for_backward(inputs, *weights)
        ctx.after, ctx.folded = after, FoldedGRU(*weights)
        tape = _run(inputs, ctx.folded)
        ctx.tapes = [tape]
        return tape.read(inputs.shape[1], after)

    @staticmethod
    @first_order
    def backward(ctx: Any, grad_states: Tensor):
        inputs, *_ = ctx.saved_tensors  # autograd notices if a weight was changed in place
        try:
            tape = ctx.tapes.pop()
        except IndexError:  # a second backward pass, which is rare
            tape = _run(inputs, ctx.folded)
        _, with_inputs, *with_weights = ctx.needs_input_grad
        cotangents = _take(Cotangents, inputs, ctx.folded.hidden_size)
        cotangents.fill_with_slopes(tape, inputs.shape[1])
        cotangents.begin(inputs.shape[1], ctx.after, grad_states)
        gradients = _pull(inputs, ctx.folded, tape, cotangents, with_inputs, any(with_weights))
        cotangents.release()
        tape.release()
        return (None, *gradients)


class Tape:
    """Memory for a forward pass.

    Parameters
    ----------
    key : tuple
        Its name, number of steps, number of series, size of the state, dtype and device.

    Attributes
    ----------
    gates : Tensor of shape (n_steps, n_series, 4 * hidden_size)
        Of each step the state's linear output for ``n``, then ``r``, ``z`` and ``s``.
    states : Tensor of shape (n_steps + 1, n_series, hidden_size)
        The state ``u`` before the first step, 1/2, and after each.
    steps : list of tuple
        Views for each step: the outputs to which the state contributes; ``r`` with ``z``; the state's output for
        ``n``; ``r``; ``z``; ``s``; and the state after the step.
    """

    def __init__(self, key: tuple[Any, ...]) -> None:
        self.key = key
        _, n_steps, n, h, dtype, device = key
        self.gates = torch.empty((n_steps, n, 4 * h), dtype=dtype, device=device)
        self.states = torch.empty((n_steps + 1, n, h), dtype=dtype, device=device)
        self.states[0] = 0.5
        parts = [self.gates[..., : 3 * h], self.gates[..., h : 3 * h], *self.gates.split(h, 2), self.states[1:]]
        self.steps = list(zip(*(part.unbind() for part in parts), strict=True))

    def read(self, n_steps: int, after: Steps | None) -> Tensor:
        """The states ``h`` after all steps, of shape (n_steps, n_series, hidden_size), or after some of them."""
        if after is None:
            return torch.mul(self.states[1 : n_steps + 1], 2.0).sub_(1.0)
        return self.states[after].mul_(2.0).sub_(1.0)

    def release(self) -> None:
        """Let others have the memory."""
        POOL.release(self.key, self)

    def nbytes(self) -> int:
        """Memory that it holds."""
        return self.gates.nbytes + self.states.nbytes + 7 * len(self.steps) * TENSOR_VIEW


class Cotangents:
    """Memory for a backward pass.

    Parameters
    ----------
    key : tuple
        As that of a tape.

    Attributes
    ----------
    outputs : Tensor of shape (n_steps, n_series, 4 * hidden_size)
        Of the four linear outputs of each step; before, what the cotangent of the state after it is to be multiplied
        by.
    states : Tensor of shape (n_steps, n_series, hidden_size)
        Of the state ``u`` after each step.
    steps : list of tuple
        Views for each step: the state; the same, of shape (n_series, 1, hidden_size); the outputs, of shape
        (n_series, 4, hidden_size); and those to which the state before it contributed.
    """

    def __init__(self, key: tuple[Any, ...]) -> None:
        self.key = key
        _, n_steps, n, h, dtype, device = key
        self.outputs = torch.empty((n_steps, n, 4 * h), dtype=dtype, device=device)
        self.states = torch.empty((n_steps, n, h), dtype=dtype, device=device)
        parts = [self.states, self.states[:, :, None], self.outputs.view(n_steps, n, 4, h), self.outputs[..., : 3 * h]]
        self.steps = list(zip(*(part.unbind() for part in parts), strict=True))

    def begin(self, n_steps: int, after: Steps | None, grad_states: Tensor) -> None:
        """Those of the states, from those of the states that were read."""
        if after is None:
            torch.mul(grad_states, 2.0, out=self.states[:n_steps])
            return
        done, series = after
        self.states[:n_steps] = 0.0
        self.states[done - 1, series] = grad_states * 2.0

    def fill_with_slopes(self, tape: Tape, n_steps: int) -> None:
        """Derivatives of the state after each step with respect to the linear outputs, from the gates."""
        u = tape.states[:n_steps]
        hidden, r, z, s = tape.gates[:n_steps].split(u.shape[2], 2)
        of_hidden, of_r, of_z, of_s = self.outputs[:n_steps].split(u.shape[2], 2)
        torch.addcmul(s, s, s, value=-1.0, out=of_s)  # s (1 - s)
        of_s.addcmul_(of_s, z, value=-1.0)
        torch.mul(of_s, r, out=of_hidden)
        torch.mul(of_s, hidden, out=of_r)
        torch.sub(u, s, out=of_z)
        _through_sigmoid(*(x[:n_steps, :, u.shape[2] : 3 * u.shape[2]] for x in (self.outputs, tape.gates)))

    def release(self) -> None:
        """Let others have the memory."""
        POOL.release(self.key, self)

    def nbytes(self) -> int:
        """Memory that it holds."""
        return self.outputs.nbytes + self.states.nbytes + 4 * len(self.steps) * TENSOR_VIEW


def _run(inputs: Tensor, folded: FoldedGRU) -> Tape:
    """The tape of a forward pass."""
    (n, n_steps, _), h = inputs.shape, folded.hidden_size
    tape = _take(Tape, inputs, h)
    outputs = tape.gates[:n_steps].view(n_steps * n, 4 * h)
    outputs[:, :h] = folded.bias_n
    torch.addmm(folded.bias, _by_step(inputs), folded.of_input.t(), out=outputs[:, h:])
    of_state, u = folded.of_state.t(), tape.states[0]
    for of_both, rz, hidden, r, z, s, after in islice(tape.steps, n_steps):
        of_both.addmm_(u, of_state)
        rz.sigmoid_()
        s.addcmul_(r, hidden).sigmoid_()
        u = torch.lerp(s, u, z, out=after)
    return tape


def _pull(
    inputs: Tensor, folded: FoldedGRU, tape: Tape, cotangents: Cotangents, with_inputs: bool, with_weights: bool
) -> tuple[Tensor | None, ...]:
    """The cotangents of the inputs and of the parameters."""
    (n, n_steps, n_inputs), h = inputs.shape, folded.hidden_size
    of_state = as_right_factor(folded.of_state)
    for t in range(n_steps - 1, -1, -1):
        state, as_one_of_four, four, of_both = cotangents.steps[t]
        four.mul_(as_one_of_four)
        if t:
            before, z = cotangents.steps[t - 1][0], tape.steps[t][4]
            before.addcmul_(state, z).addmm_(of_both, of_state)
    outputs = cotangents.outputs[:n_steps].view(n_steps * n, 4 * h)
    grad_inputs: Tensor | None = None
    grad_weights: tuple[Tensor | None, ...] = (None,) * 4
    if with_inputs:
        grad_inputs = torch.mm(outputs[:, h:], as_right_factor(folded.of_input))
        grad_inputs = grad_inputs.view(n_steps, n, n_inputs).transpose(0, 1)
    if with_weights:
        of_state = outer(outputs[:, : 3 * h], tape.states[:n_steps].view(n_steps * n, h))
        of_input = outer(outputs[:, h:], _by_step(inputs))
        grad_weights = folded.unfold(of_state, of_input, outputs.sum(0))
    return grad_inputs, *grad_weights


def _take(kind: type[Memory], inputs: Tensor, hidden_size: int) -> Memory:
    """Memory for such inputs."""
    n, n_steps, _ = inputs.shape
    n_steps = STEPS * max(-(-n_steps // STEPS), 1)
    key = (kind.__name__, n_steps, n, hidden_size, inputs.dtype, inputs.device)
    return POOL.acquire(key, lambda: kind(key))


def _by_step(inputs: Tensor) -> Tensor:
    """Inputs of shape (n_steps * n_series, n_inputs), a step's next to each other."""
    return inputs.detach().transpose(0, 1).reshape(-1, inputs.shape[2])


def _through_sigmoid(cotangent: Tensor, value: Tensor) -> None:
    """Multiply by a sigmoid's derivative, from its value."""
    torch.ops.aten.sigmoid_backward.grad_input(cotangent, value, grad_input=cotangent)

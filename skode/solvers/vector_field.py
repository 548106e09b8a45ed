"""What the engine integrates: ``f(t, y)`` together with its vector-Jacobian product.

A field comes in one of two kinds. Any callable is differentiated by autograd, one evaluation at a time. A callable
that offers its own pullback (see :class:`OffersPullback`) is differentiated by plain tensor operations, and its
weight gradients are formed for all stages of a step at once. Both give the same numbers.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from skode.solvers.parameters import (
    Evaluation,
    find_parameters,
    graphs_are_watched,
    leaves_behind,
    refuse_hooks,
    refuse_replaced,
)

Function = Callable[[Tensor, Tensor], Tensor]

#: Where torch keeps the hooks of all modules.
GLOBAL_HOOKS = (
    *("_global_forward_hooks", "_global_forward_pre_hooks"),
    *("_global_backward_hooks", "_global_backward_pre_hooks"),
)


@runtime_checkable
class OffersPullback(Protocol):
    """A vector field with its own vector-Jacobian product. Any object with these methods takes the fast path.

    ``t`` is a float, or a tensor that broadcasts against ``y`` where every sample has its own time. A field may also
    have a method ``bind()``, called once per solve: it returns what answers these calls for the parameters' present
    values (``parameters()`` only if that is faster than the field's own).
    """

    def __call__(self, t: float | Tensor, y: Tensor) -> Tensor:
        """The field's value at ``(t, y)``."""
        ...

    def linearize(self, t: float | Tensor, y: Tensor) -> tuple[Tensor, Any]:
        """The value, and whatever :meth:`pullback` needs of this evaluation (tensors, or tuples of them)."""
        ...

    def pullback(self, residuals: Any, cotangent: Tensor) -> tuple[Tensor, Any]:
        """``cotangent^T df/dy``, and what the parameters' gradients need."""
        ...

    def parameter_gradients(self, tape: Sequence[tuple[Any, Any]]) -> Sequence[Tensor]:
        """Summed gradients, in the order of ``parameters()``, of evaluations given as (residuals, deltas) pairs."""
        ...

    def parameters(self) -> Any:
        """The tensors that :meth:`parameter_gradients` answers for."""
        ...


class Tape(Protocol):
    """Some evaluations of a field, each in a slot of its own, kept so that they can be pulled back.

    Attributes
    ----------
    n_slots : int
        How many evaluations it holds.
    reused : bool
        Whether the states' memory is the tape's own, so that they change when the tape is filled again.
    """

    n_slots: int
    reused: bool

    def place(self, slot: int) -> Tensor:
        """Where to write the state of an evaluation, flattened."""
        ...

    def state(self, slot: int) -> Tensor:
        """The same memory in the state's shape."""
        ...

    def evaluate(self, slot: int, t: Any, out: Tensor) -> None:
        """Evaluate the field at a slot's state, into ``out`` of the state's shape."""
        ...

    def nbytes(self) -> int:
        """Memory that it holds."""
        ...

    def release(self) -> None:
        """Let go of it: nobody will look at its states again."""
        ...


class Session(Protocol):
    """One reverse sweep over a field: pulls cotangents back through tapes and gathers the parameters' gradients."""

    def place(self, tape: Any, slot: int) -> Tensor:
        """Where to write the cotangent of a slot's value, flattened, before it is pulled."""
        ...

    def pull(self, tape: Any, slot: int, cotangent: Tensor | None, out: Tensor) -> None:
        """Cotangent of a slot's state into ``out``, from that of its value: as given, or as written in its place."""
        ...

    def flush(self, tape: Any) -> None:
        """Form the parameter gradients of the slots pulled so far, so that the tape may be let go."""
        ...

    def discard(self) -> None:
        """Forget the slots pulled since the last flush: nobody asks for parameters' gradients of them."""
        ...

    def parameter_gradients(self) -> tuple[Tensor | None, ...]:
        """Gradients summed over the session, one per parameter."""
        ...


class Field(Protocol):
    """What the engine calls: plainly by ``field(t, y)``, or on a tape.

    Attributes
    ----------
    parameters : tuple of Tensor
        The tensors that a session's gradients belong to.
    """

    parameters: tuple[Tensor, ...]

    def __call__(self, t: Any, y: Tensor) -> Tensor: ...

    def tape(self, like: Tensor, n_slots: int, *, pullable: bool) -> Tape: ...

    def session(self, *, with_parameters: bool = True) -> Session: ...


class FunctionTape:
    """Evaluations of a plain function, none of which can be pulled back."""

    reused = False

    def __init__(self, func: Callable[[Any, Tensor], Tensor], like: Tensor, n_slots: int) -> None:
        self.func = func
        self.like = like
        self.n_slots = n_slots
        self.states: list[Any] = [None] * n_slots

    def place(self, slot: int) -> Tensor:
        state = torch.empty_like(self.like, memory_format=torch.contiguous_format)
        self.states[slot] = state
        return state.view(-1)

    def state(self, slot: int) -> Tensor:
        return self.states[slot]

    def evaluate(self, slot: int, t: Any, out: Tensor) -> None:
        out.copy_(self.func(t, self.states[slot]))

    def nbytes(self) -> int:
        return 0

    def release(self) -> None:
        """Nothing of it is used again."""


class AutogradField:
    """Any callable, differentiated by autograd one evaluation at a time.

    Parameters
    ----------
    func : callable
        ``func(t, y)``.
    parameters : tuple of Tensor
        What it depends on beside its arguments.
    graph_nbytes : int, default=0
        Memory that an evaluation with its graph takes.
    held : tuple of Tensor, default=()
        Those of the parameters that ``func`` was found to hold.
    chosen : bool, default=False
        Whether the parameters are those whose gradients are wanted, rather than all.
    """

    def __init__(
        self,
        func: Function,
        parameters: tuple[Tensor, ...],
        *,
        graph_nbytes: int = 0,
        held: tuple[Tensor, ...] = (),
        chosen: bool = False,
    ) -> None:
        self.held = held
        self.func = func
        self.time_dtype = getattr(func, "time_dtype", None)
        self.parameters = parameters
        self.chosen = chosen
        self.graph_nbytes = graph_nbytes

    def __call__(self, t: Any, y: Tensor) -> Tensor:
        try:
            with torch.no_grad():
                value = self.func(time_tensor(t, y, self), y)
                if isinstance(value, Tensor) and value.requires_grad:  # it recorded a graph all the same
                    value = value.clone()  # a view would require grad still, detach() would take tangents away too
        except RuntimeError as error:
            self.func = WithGrad.instead_of(self.func, error)
            return self(t, y)
        check_value(value, y)
        return value

    def evaluated_again(self) -> None:
        """See that ``func``, before it is evaluated for the backward pass, is still what was solved."""
        refuse_replaced(self.func, self.held)

    def tape(self, like: Tensor, n_slots: int, *, pullable: bool) -> Any:
        return AutogradTape(self, like, n_slots) if pullable else FunctionTape(self, like, n_slots)

    def session(self, *, with_parameters: bool = True) -> AutogradSession:
        complete = with_parameters and not self.chosen
        return AutogradSession(self.parameters if with_parameters else (), complete=complete)


class WithGrad:
    """A function that differentiates with respect to its state, for states that require no grad.

    Hamiltonian and Lagrangian networks are such (S. Greydanus, M. Dzamba, J. Yosinski, "Hamiltonian Neural Networks",
    NeurIPS 2019).
    """

    def __init__(self, func: Function) -> None:
        self.func = func
        self.time_dtype = getattr(func, "time_dtype", None)

    @classmethod
    def instead_of(cls, func: Function, error: RuntimeError) -> WithGrad:
        """The function to call in place of another; raises the error that it failed by if that has other reasons."""
        if isinstance(func, cls) or "does not require grad" not in str(error):
            raise error
        return cls(func)

    def __call__(self, t: Tensor, y: Tensor) -> Tensor:
        with torch.enable_grad():
            value = self.func(t, y if y.requires_grad else y.view_as(y).requires_grad_())
        # Without the graph where none is recorded: see AutogradField.
        return value if torch.is_grad_enabled() or not isinstance(value, Tensor) else value.clone()


def evaluated(func: Function, t: Tensor, y: Tensor) -> Tensor:
    """``func(t, y)``, also where it differentiates with respect to its state, and that requires no grad."""
    try:
        return func(t, y)
    except RuntimeError as error:
        return WithGrad.instead_of(func, error)(t, y)


class AutogradTape(FunctionTape):
    """Evaluations with their autograd graphs."""

    def __init__(self, field: AutogradField, like: Tensor, n_slots: int) -> None:
        super().__init__(field.func, like, n_slots)
        self.field = field
        self.graphs: list[Any] = [None] * n_slots

    def hold(self, slot: int, evaluation: Evaluation) -> None:
        """Take over an evaluation that was made elsewhere."""
        self.states[slot] = evaluation.argument.detach()
        self.graphs[slot] = (evaluation.argument, evaluation.value)

    def evaluate(self, slot: int, t: Any, out: Tensor) -> None:
        argument = self.states[slot].detach().requires_grad_()
        with torch.enable_grad():
            value = self.func(time_tensor(t, self.like, self.field), argument)
        check_value(value, self.like)
        self.graphs[slot] = (argument, value)
        out.copy_(value.detach())

    def nbytes(self) -> int:
        # That of the whole batch: an evaluation of some samples may take as much.
        return self.n_slots * self.field.graph_nbytes


class AutogradSession:
    """Adds up the gradients of one evaluation after another."""

    def __init__(self, parameters: tuple[Tensor, ...], *, complete: bool = True) -> None:
        self.parameters = parameters
        self.complete = complete  # no evaluation may depend on others
        self.gradients: list[Tensor | None] = [None] * len(parameters)
        self.placed: Tensor
        # What autograd leaves in non-leaf tensors with retain_grad() is to be of the whole solve, not of evaluations.
        self.retained = [(parameter, parameter.grad) for parameter in parameters if parameter.retains_grad]

    def place(self, tape: AutogradTape, slot: int) -> Tensor:
        self.placed = torch.empty_like(tape.like, memory_format=torch.contiguous_format)
        return self.placed.view(-1)

    def pull(self, tape: AutogradTape, slot: int, cotangent: Tensor | None, out: Tensor) -> None:
        cotangent = self.placed if cotangent is None else cotangent
        argument, value = tape.graphs[slot]
        self._refuse_hidden_tensors(argument, value)
        if not value.requires_grad:  # a constant field
            out.zero_()
            return
        inputs = (argument, *self.parameters)
        # The graph may lead on to tensors made before the solve, which every evaluation shares: keep it.
        grad_y, *rest = torch.autograd.grad(value, inputs, cotangent, allow_unused=True, retain_graph=True)
        for i, gradient in enumerate(rest):
            if gradient is not None:
                total = self.gradients[i]
                # The first is copied: autograd may have handed on a cotangent, whose memory is used again.
                self.gradients[i] = gradient.clone() if total is None else total.add_(gradient)
        if grad_y is None:
            out.zero_()
        else:
            out.copy_(grad_y)

    def flush(self, tape: AutogradTape) -> None:
        """Nothing is held back."""

    def discard(self) -> None:
        """Nothing is held back."""

    def parameter_gradients(self) -> tuple[Tensor | None, ...]:
        for parameter, gradient in self.retained:
            parameter.grad = gradient
        return tuple(self.gradients)

    def _refuse_hidden_tensors(self, argument: Tensor, value: Tensor) -> None:
        """See that an evaluation hangs on no tensor that was not known before the solve."""
        if not self.complete or not value.requires_grad:
            return
        missed = leaves_behind(value, [argument, *self.parameters])
        if missed:
            raise RuntimeError(
                f"func(t, y) depends on a tensor of shape {tuple(missed[0].shape)} that requires grad, but did not use "
                "it at the initial time and keeps it where it can't be found, so that its gradient would be lost. Hold "
                "it in a closure, an argument's default, an attribute or a module parameter, or use adjoint='backprop'."
            )


class PullbackField:
    """A callable that offers its own pullback."""

    def __init__(self, func: OffersPullback) -> None:
        with torch.no_grad():
            self.func: Any = func.bind() if hasattr(func, "bind") else func
        self.parameters = tuple((self.func if hasattr(self.func, "parameters") else func).parameters())

    def __call__(self, t: Any, y: Tensor) -> Tensor:
        with torch.no_grad():
            if not hasattr(self.func, "tape"):
                return self.func(t, y)
            tape, value = self.func.tape(y, 1), torch.empty_like(y)
            tape.place(0).copy_(y.reshape(-1))
            tape.evaluate(0, t, value)
            tape.release()
            return value

    def tape(self, like: Tensor, n_slots: int, *, pullable: bool) -> Tape:
        if hasattr(self.func, "tape"):
            return self.func.tape(like, n_slots)
        return PullbackTape(self.func, like, n_slots) if pullable else FunctionTape(self, like, n_slots)

    def session(self, *, with_parameters: bool = True) -> Session:
        if hasattr(self.func, "session"):
            return self.func.session()
        return PullbackSession(self.func, len(self.parameters))


class PullbackTape(FunctionTape):
    """Evaluations with what the field's own pullback needs."""

    def __init__(self, func: OffersPullback, like: Tensor, n_slots: int) -> None:
        super().__init__(func, like, n_slots)
        self.linearize = func.linearize
        self.residuals: list[Any] = [None] * n_slots

    def evaluate(self, slot: int, t: Any, out: Tensor) -> None:
        with torch.no_grad():
            value, self.residuals[slot] = self.linearize(t, self.states[slot])
        check_value(value, self.like)
        out.copy_(value)

    def nbytes(self) -> int:
        return sum(_nbytes(residuals) for residuals in self.residuals)


class PullbackSession:
    """Holds back the weight gradients, to form those of many evaluations in one product per layer."""

    def __init__(self, func: OffersPullback, n_parameters: int) -> None:
        self.func = func
        self.n_parameters = n_parameters
        self.held: list[tuple[Any, Any]] = []
        self.placed: Tensor
        self.gradients: list[Tensor] | None = None

    def place(self, tape: PullbackTape, slot: int) -> Tensor:
        self.placed = torch.empty_like(tape.like, memory_format=torch.contiguous_format)
        return self.placed.view(-1)

    def pull(self, tape: PullbackTape, slot: int, cotangent: Tensor | None, out: Tensor) -> None:
        cotangent = self.placed if cotangent is None else cotangent
        residuals = tape.residuals[slot]
        grad_y, deltas = self.func.pullback(residuals, cotangent)
        self.held.append((residuals, deltas))
        out.copy_(grad_y)

    def flush(self, tape: PullbackTape) -> None:
        if not self.held:
            return
        new = self.func.parameter_gradients(self.held)
        self.held = []
        if self.gradients is None:
            self.gradients = list(new)
        else:
            torch._foreach_add_(self.gradients, list(new))

    def discard(self) -> None:
        self.held = []

    def parameter_gradients(self) -> tuple[Tensor | None, ...]:
        if self.gradients is None:
            return (None,) * self.n_parameters
        return tuple(self.gradients)


def _nbytes(residuals: Any) -> int:
    """Memory of a nest of tensors."""
    if isinstance(residuals, Tensor):
        return residuals.numel() * residuals.element_size()
    if isinstance(residuals, Sequence):
        return sum(_nbytes(r) for r in residuals)
    return 0


def time_dtype_of(func: Any, y: Tensor) -> torch.dtype:
    """Of which dtype times are for a field, or a function: the state's, unless it says otherwise."""
    return getattr(func, "time_dtype", None) or y.dtype


def time_tensor(t: float | Tensor, y: Tensor, func: Any = None) -> Tensor:
    """A time as the tensor, on the state's device, that ``func`` receives: 0-dimensional, or per sample."""
    return torch.as_tensor(t, dtype=time_dtype_of(func, y), device=y.device)


def column(values: np.ndarray, like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """One number per sample, in the dtype of states like this one and of a shape that broadcasts against them."""
    given = torch.tensor(values, dtype=dtype or like.dtype, device=like.device)
    return given.view(len(values), *[1] * (like.ndim - 1))


def has_own_pullback(func: Any) -> bool:
    """Whether ``func`` offers a pullback that belongs to the ``forward`` it would be called with.

    A subclass that overrides ``forward`` but inherits the pullback, a forward hook or a parametrized weight would
    make the two disagree; such fields take the autograd path, and those whose method ``offers_pullback`` says so.
    """
    # isinstance(func, OffersPullback), which takes ten times as long
    if not all(hasattr(func, name) for name in ("linearize", "pullback", "parameter_gradients", "parameters")):
        return False
    if not isinstance(func, nn.Module):
        return True
    kind: Any = type(func)
    if not _pulls_back_its_forward(kind) or "forward" in vars(func) or is_hooked(func):
        return False
    offers = getattr(func, "offers_pullback", None)
    return offers is None or offers()


def is_hooked(module: nn.Module) -> bool:
    """Whether hooks or parametrizations change what a module, or one inside it, computes."""
    return any(getattr(nn.modules.module, name) for name in GLOBAL_HOOKS) or any(
        m._forward_hooks
        or m._forward_pre_hooks
        or m._backward_hooks
        or m._backward_pre_hooks
        or "parametrizations" in m._modules
        for m in _within(module)
    )


@functools.cache
def _pulls_back_its_forward(kind: Any) -> bool:
    """Whether no subclass below that which defines the pullback overrides ``forward``."""
    forward, pullback = (
        next(i for i, c in enumerate(kind.__mro__) if name in vars(c)) for name in ("forward", "pullback")
    )
    return forward >= pullback


def _within(module: nn.Module) -> Iterator[nn.Module]:
    """A module and those inside it: ``modules()`` in a third of its time."""
    yield module
    for child in module._modules.values():
        if child is not None:
            yield from _within(child)


def as_field(
    func: Any,
    t: float,
    y: Tensor,
    *,
    differentiate: bool,
    keep_graph: bool = False,
    parameters: Sequence[Tensor] | None = None,
) -> tuple[Field, Tensor, Tape | None]:
    """Wrap ``func`` for the engine and evaluate it once at the start of the solve.

    Parameters
    ----------
    func : callable
        ``func(t, y)``.
    t : float or Tensor
        The initial time.
    y : Tensor
        The initial state.
    differentiate : bool
        Whether gradients may be asked for, so that the tensors behind ``func`` must be known.
    keep_graph : bool, default=False
        Whether autograd is to record the solve itself, for which ``func`` is called as it is.
    parameters : sequence of Tensor, default=None
        The tensors behind ``func`` whose gradients are wanted; None: all that are found.

    Returns
    -------
    field : AutogradField or PullbackField
        What the engine calls.
    value : Tensor
        ``func(t, y)`` without its graph.
    tape : Tape or None
        A tape of one slot with that evaluation, where gradients may be asked for and tapes may be kept.

    Raises
    ------
    ValueError, TypeError
        Where the value is not a tensor of the state's shape, dtype and device.
    """
    if not callable(func):
        raise TypeError(f"func must be a callable func(t, y), got {type(func).__name__}.")
    try:
        field, value, tape = _first_evaluation(func, t, y, differentiate, keep_graph, parameters)
    except (TypeError, RuntimeError, IndexError, ValueError) as error:
        state = func.complex_state(y) if hasattr(type(func), "complex_state") else y
        error.add_note(
            f"This is from the first evaluation of func(t, y), with a time t and a state y of shape "
            f"{tuple(state.shape)}, {state.dtype}. It must return dy/dt as a tensor of that shape and dtype, without "
            "changing y in place."
        )
        raise
    check_value(value, y)
    return field, value, tape


def _first_evaluation(
    func: Any,
    t: float,
    y: Tensor,
    differentiate: bool,
    keep_graph: bool,
    chosen: Sequence[Tensor] | None,
) -> tuple[Field, Tensor, Tape | None]:
    """What :func:`as_field` answers, before the value was looked at."""
    field: Field
    tape = None
    if has_own_pullback(func) and not keep_graph and _are_its_own(chosen, func):
        field = PullbackField(func)
        if differentiate:
            tape, value = field.tape(y, 1, pullable=True), torch.empty_like(y)
            tape.place(0).copy_(y.reshape(-1))
            tape.evaluate(0, t, value)
        else:
            value = field(t, y)
    elif differentiate:
        parameters, evaluation = find_parameters(func, time_tensor(t, y, func), y)
        if not keep_graph:
            refuse_hooks(parameters)
        check_value(evaluation.value, y)
        value = evaluation.value.detach()
        field = AutogradField(
            func,
            parameters if chosen is None else tuple(chosen),
            graph_nbytes=evaluation.nbytes,
            held=evaluation.held,
            chosen=chosen is not None,
        )
        if not graphs_are_watched():
            tape = field.tape(y, 1, pullable=True)
            tape.hold(0, evaluation)
    else:
        field = AutogradField(func, ())
        value = field(t, y)
    return field, value, tape


def _are_its_own(chosen: Sequence[Tensor] | None, func: Any) -> bool:
    """Whether the tensors whose gradients are wanted are the parameters of a field with its own pullback."""
    return chosen is None or list(map(id, chosen)) == list(map(id, func.parameters()))


def check_value(value: Any, y: Tensor) -> None:
    """Refuse what ``func`` returned unless it is a tensor of the state's shape, dtype and device."""
    if not isinstance(value, Tensor):
        raise TypeError(f"func(t, y) must return a tensor, got {type(value).__name__}.")
    if value.shape != y.shape:
        raise ValueError(
            f"func(t, y) returned shape {tuple(value.shape)} for a state of shape {tuple(y.shape)}; "
            "it must return dy/dt, of the same shape as y."
        )
    if value.dtype != y.dtype or value.device != y.device:
        raise TypeError(
            f"func(t, y) returned {value.dtype} on {value.device} for a state of {y.dtype} on {y.device}; "
            "they must be the same (convert y0, or func's parameters)."
        )

"""What the engine integrates: ``f(t, y)`` together with its vector-Jacobian product.

A field comes in one of two kinds. Any callable is differentiated by autograd, one evaluation at a time. A callable
that offers its own pullback (see :class:`OffersPullback`) is differentiated by plain tensor operations, and its
weight gradients are formed for all stages of a step at once. Both give the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from skode.solvers.parameters import find_parameters, leaves_behind

Function = Callable[[Tensor, Tensor], Tensor]


@runtime_checkable
class OffersPullback(Protocol):
    """A vector field with its own vector-Jacobian product. Any object with these methods takes the fast path.

    ``t`` is a float, or a tensor that broadcasts against ``y`` where every sample has its own time. A field may also
    have a method ``bind()``, called once per solve: it returns what answers these calls, all but ``parameters``, for
    the parameters' present values.
    """

    def __call__(self, t: float | Tensor, y: Tensor) -> Tensor:
        """The field's value at ``(t, y)``."""
        ...

    def linearize(self, t: float | Tensor, y: Tensor) -> tuple[Tensor, Any]:
        """The value, and whatever :meth:`pullback` needs of this evaluation (tensors, or tuples of them)."""
        ...

    def pullback(self, residuals: Any, cotangent: Tensor, *, with_time: bool) -> tuple[Tensor, Tensor | None, Any]:
        """``cotangent^T df/dy``, ``cotangent^T df/dt`` (or None), and what the parameters' gradients need."""
        ...

    def parameter_gradients(self, tape: Sequence[tuple[Any, Any]]) -> Sequence[Tensor]:
        """Summed gradients, in the order of ``parameters()``, of evaluations given as (residuals, deltas) pairs."""
        ...

    def parameters(self) -> Any:
        """The tensors that :meth:`parameter_gradients` answers for."""
        ...


class GradientSession(Protocol):
    """One reverse sweep over a field: pulls cotangents back and gathers the parameters' gradients."""

    def pull(self, residuals: Any, cotangent: Tensor, *, with_time: bool) -> tuple[Tensor, Tensor | None]:
        """Cotangents of ``y`` and, if asked for, of ``t``."""
        ...

    def flush(self) -> None:
        """Form the parameter gradients of the evaluations pulled so far, and let go of what they needed."""
        ...

    def parameter_gradients(self) -> tuple[Tensor | None, ...]:
        """Gradients summed over the session, one per parameter."""
        ...


class Field(Protocol):
    """What the engine calls: without a graph by ``field(t, y)``, and with what its pullback needs by ``linearize``.

    Attributes
    ----------
    parameters : tuple of Tensor
        The tensors that a session's gradients belong to.
    """

    parameters: tuple[Tensor, ...]

    def __call__(self, t: float, y: Tensor) -> Tensor: ...

    def linearize(self, t: float, y: Tensor) -> tuple[Tensor, Any]: ...

    def session(self) -> GradientSession: ...


class AutogradField:
    """Any callable, differentiated by autograd one evaluation at a time."""

    def __init__(self, func: Function, parameters: tuple[Tensor, ...], *, with_time: bool = False) -> None:
        self.func = func
        self.parameters = parameters
        self.with_time = with_time

    def __call__(self, t: float, y: Tensor) -> Tensor:
        with torch.no_grad():
            value = self.func(time_tensor(t, y), y)
        check_value(value, y)
        return value

    def linearize(self, t: float, y: Tensor) -> tuple[Tensor, Any]:
        # Only where it is needed: func may turn a time that requires no grad into a number.
        time = time_tensor(t, y).requires_grad_(self.with_time)
        argument = y.detach().requires_grad_()
        with torch.enable_grad():
            value = self.func(time, argument)
        return value.detach(), (time, argument, value)

    def session(self) -> AutogradSession:
        return AutogradSession(self.parameters)


class AutogradSession:
    """Adds up the gradients of one evaluation after another."""

    def __init__(self, parameters: tuple[Tensor, ...]) -> None:
        self.parameters = parameters
        self.gradients: list[Tensor | None] = [None] * len(parameters)
        self.unchecked: tuple[Tensor, ...] = ()
        # What autograd leaves in non-leaf tensors with retain_grad() is to be of the whole solve, not of evaluations.
        self.retained = [(parameter, parameter.grad) for parameter in parameters if parameter.retains_grad]

    def pull(self, residuals: Any, cotangent: Tensor, *, with_time: bool) -> tuple[Tensor, Tensor | None]:
        time, argument, value = residuals
        self.unchecked = residuals
        if not value.requires_grad:  # a constant field
            return torch.zeros_like(argument), torch.zeros_like(time) if with_time else None
        inputs = (argument, time, *self.parameters) if with_time else (argument, *self.parameters)
        # The graph may lead on to tensors made before the solve, which every evaluation shares: keep it.
        grad_y, *rest = torch.autograd.grad(value, inputs, cotangent, allow_unused=True, retain_graph=True)
        grad_t = rest.pop(0) if with_time else None
        for i, gradient in enumerate(rest):
            if gradient is not None:
                total = self.gradients[i]
                self.gradients[i] = gradient if total is None else total + gradient
        grad_y = torch.zeros_like(argument) if grad_y is None else grad_y
        return grad_y, torch.zeros_like(time) if with_time and grad_t is None else grad_t

    def flush(self) -> None:
        """Nothing is held back; refuse to go on if the last evaluation hangs on a tensor not known before the solve."""
        if not self.unchecked:
            return
        *inputs, value = self.unchecked
        self.unchecked = ()
        missed = leaves_behind(value, [*inputs, *self.parameters]) if value.requires_grad else []
        if missed:
            raise RuntimeError(
                f"func(t, y) depends on a tensor of shape {tuple(missed[0].shape)} that requires grad, but did not use "
                "it at the initial time and keeps it where it can't be found, so that its gradient would be lost. Hold "
                "it in a closure, an argument's default, an attribute or a module parameter, or use adjoint='backprop'."
            )

    def parameter_gradients(self) -> tuple[Tensor | None, ...]:
        self.flush()
        for parameter, gradient in self.retained:
            parameter.grad = gradient
        return tuple(self.gradients)


class PullbackField:
    """A callable that offers its own pullback."""

    def __init__(self, func: OffersPullback) -> None:
        self.parameters = tuple(func.parameters())
        with torch.no_grad():
            self.func = func.bind() if hasattr(func, "bind") else func

    def __call__(self, t: float, y: Tensor) -> Tensor:
        with torch.no_grad():
            return self.func(t, y)

    def linearize(self, t: float, y: Tensor) -> tuple[Tensor, Any]:
        with torch.no_grad():
            return self.func.linearize(t, y)

    def session(self) -> PullbackSession:
        return PullbackSession(self.func, len(self.parameters))


class PullbackSession:
    """Holds back the weight gradients, to form those of many evaluations in one product per layer."""

    def __init__(self, func: OffersPullback, n_parameters: int) -> None:
        self.func = func
        self.n_parameters = n_parameters
        self.tape: list[tuple[Any, Any]] = []
        self.gradients: list[Tensor] | None = None

    def pull(self, residuals: Any, cotangent: Tensor, *, with_time: bool) -> tuple[Tensor, Tensor | None]:
        grad_y, grad_t, deltas = self.func.pullback(residuals, cotangent, with_time=with_time)
        self.tape.append((residuals, deltas))
        return grad_y, grad_t

    def flush(self) -> None:
        if not self.tape:
            return
        new = self.func.parameter_gradients(self.tape)
        self.tape = []
        if self.gradients is None:
            self.gradients = list(new)
        else:
            torch._foreach_add_(self.gradients, list(new))

    def parameter_gradients(self) -> tuple[Tensor | None, ...]:
        self.flush()
        if self.gradients is None:
            return (None,) * self.n_parameters
        return tuple(self.gradients)


def time_tensor(t: float, y: Tensor) -> Tensor:
    """A time as the 0-dimensional tensor, of the state's dtype and device, that ``func`` receives."""
    return torch.tensor(t, dtype=y.dtype, device=y.device)


def has_own_pullback(func: Any) -> bool:
    """Whether ``func`` offers a pullback that belongs to the ``forward`` it would be called with.

    A subclass that overrides ``forward`` but inherits the pullback, a forward hook or a parametrized weight would
    make the two disagree; such fields take the autograd path.
    """
    if not isinstance(func, OffersPullback):
        return False
    if not isinstance(func, nn.Module):
        return True
    lineage = type(func).__mro__
    definer = {name: next(i for i, c in enumerate(lineage) if name in vars(c)) for name in ("forward", "pullback")}
    hooked = any(m._forward_hooks or m._forward_pre_hooks or parametrize.is_parametrized(m) for m in func.modules())
    return definer["forward"] >= definer["pullback"] and "forward" not in vars(func) and not hooked


def as_field(
    func: Any, t: float, y: Tensor, *, differentiate: bool, with_time: bool = False, keep_graph: bool = False
) -> tuple[Field, Tensor, Any]:
    """Wrap ``func`` for the engine and evaluate it once at the start of the solve.

    Parameters
    ----------
    func : callable
        ``func(t, y)``.
    t : float
        The initial time.
    y : Tensor
        The initial state.
    differentiate : bool
        Whether gradients may be asked for, so that the tensors behind ``func`` must be known.
    with_time : bool, default=False
        Whether gradients of times are wanted.
    keep_graph : bool, default=False
        Whether autograd is to record the solve itself, for which ``func`` is called as it is.

    Returns
    -------
    field : AutogradField or PullbackField
        What the engine calls.
    value : Tensor
        ``func(t, y)`` without its graph.
    residuals : object or None
        What its pullback needs, where gradients may be asked for and that is no autograd graph, so that it may be
        kept.

    Raises
    ------
    ValueError, TypeError
        Where the value is not a tensor of the state's shape, dtype and device.
    """
    field: Field
    residuals = None
    if has_own_pullback(func) and not keep_graph:
        field = PullbackField(func)
        value, residuals = field.linearize(t, y) if differentiate else (field(t, y), None)
    elif differentiate:
        parameters, value = find_parameters(func, time_tensor(t, y), y)
        field = AutogradField(func, parameters, with_time=with_time)
    else:
        field = AutogradField(func, ())
        value = field(t, y)
    check_value(value, y)
    return field, value, residuals


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

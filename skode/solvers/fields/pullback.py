"""A callable with its own pullback as a field, differentiated by plain tensor operations."""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from skode.solvers.fields.function import FunctionTape, check_value
from skode.solvers.fields.protocols import OffersPullback, Session, Tape
from skode.solvers.fields.samples import take_samples

#: Where torch keeps the hooks of all modules.
GLOBALS = nn.modules.module


class PullbackField:
    """A callable that offers its own pullback."""

    def __init__(self, func: OffersPullback) -> None:
        self.given = func
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

    def unbound(self) -> PullbackField:
        """The field without what it has bound to, such as weights laid out for products; for :meth:`bound`."""
        other = copy.copy(self)
        other.func = None
        return other

    def bound(self) -> PullbackField:
        """The field bound anew, to the parameters' present values."""
        return PullbackField(self.given)

    def take(self, rows: Tensor) -> PullbackField:
        func = take_samples(self.func, rows)
        if func is self.func:
            return self
        part = copy.copy(self)
        part.func = func
        return part

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
    if (
        GLOBALS._global_forward_hooks
        or GLOBALS._global_forward_pre_hooks
        or GLOBALS._global_backward_hooks
        or GLOBALS._global_backward_pre_hooks
    ):
        return True
    for m in _within(module):
        if (
            m._forward_hooks
            or m._forward_pre_hooks
            or m._backward_hooks
            or m._backward_pre_hooks
            or "parametrizations" in m._modules
        ):
            return True
    return False


@functools.cache
def _pulls_back_its_forward(kind: Any) -> bool:
    """Whether no subclass below that which defines the pullback overrides ``forward``."""
    forward, pullback = (
        next((i for i, c in enumerate(kind.__mro__) if name in vars(c)), math.inf) for name in ("forward", "pullback")
    )
    return forward >= pullback < math.inf  # a wrapper may pass on the attributes of a field that has one


def _within(module: nn.Module) -> Iterator[nn.Module]:
    """A module and those inside it: ``modules()`` in a third of its time."""
    yield module
    for child in module._modules.values():
        if child is not None:
            yield from _within(child)

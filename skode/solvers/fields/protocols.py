"""Vector fields as the engine integrates them, ``f(t, y)`` with its vector-Jacobian product: protocols."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from torch import Tensor

Function = Callable[[Tensor, Tensor], Tensor]


@runtime_checkable
class OffersPullback(Protocol):
    """A vector field with its own vector-Jacobian product. Any object with these methods takes the fast path.

    ``t`` is a float, or a tensor that broadcasts against ``y`` where every sample has a time of its own. A field may
    also have a method ``bind()``, called once per solve: it returns an object that answers these calls for the
    parameters' present values (``parameters()`` only if that is faster than the field's own).
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
    """A vector field as the engine calls it: plainly by ``field(t, y)``, or on a tape.

    Attributes
    ----------
    parameters : tuple of Tensor
        The tensors that a session's gradients belong to.
    """

    parameters: tuple[Tensor, ...]

    def __call__(self, t: Any, y: Tensor) -> Tensor: ...

    def take(self, rows: Tensor) -> Field:
        """The field on some samples; sessions of the whole one pull back its tapes."""
        ...

    def tape(self, like: Tensor, n_slots: int, *, pullable: bool) -> Tape: ...

    def session(self, *, with_parameters: bool = True) -> Session: ...


class FusedForm(Protocol):
    """A field's parameters for its fused path, and the memory that this needs; see :mod:`skode.solvers.fused`.

    A field has a fused path where it has a method ``fused(like)``, which returns such a form for states like one, or
    None.

    Attributes
    ----------
    parameters : list of Tensor
        The tensors that gradients belong to.
    largest : int
        Number of features of its largest layer.
    """

    parameters: list[Tensor]
    largest: int

    def key(self) -> Hashable:
        """Key of memory that serves it."""
        ...

    def new(self, n: int, dtype: np.dtype) -> FusedField:
        """Memory for ``n`` states."""
        ...

    def over_own_times(self, start: np.ndarray, length: np.ndarray) -> None:
        """Go over the unit interval of each sample's time span, of a start and a signed length."""
        ...


class FusedField(Protocol):
    """A field over ``n`` states, on NumPy arrays with features as rows and samples as columns.

    Attributes
    ----------
    n, size : int
        Number of states, and of features of each.
    dtype : numpy.dtype
        Their type.
    slot_nbytes : int
        Bytes that an evaluation takes on a tape.
    most_slots : int
        Number of evaluations that a tape should have.
    cotangents : list of ndarray of shape (size * n,)
        For each slot of a tape, where the cotangent of its value is written before it is pulled; empty until there is
        room.
    """

    n: int
    size: int
    dtype: np.dtype
    slot_nbytes: int
    most_slots: int
    cotangents: list[np.ndarray]

    def load(self, form: Any) -> None:
        """Take over the parameters' present values."""
        ...

    def tape(self, n_slots: int, *, keep: bool) -> FusedTape:
        """Memory for evaluations, which are kept or else share it."""
        ...

    def make_room(self, n_slots: int) -> None:
        """Have memory for the cotangents of as many slots as a tape has."""
        ...

    def pull(self, slot: int, out: np.ndarray) -> None:
        """Cotangent of a slot's state into ``out`` of shape (size, n), from that of its value, written in its place."""
        ...

    def form(self, tape: Any, low: int, high: int) -> None:
        """Add to the sums behind the parameters' gradients those of some of a tape's slots, all of them pulled."""
        ...

    def gradients(self) -> list[np.ndarray]:
        """Gradients of the parameters, of all slots since the last call."""
        ...

    def nbytes(self) -> int:
        """Size of the memory, tapes excluded, in bytes."""
        ...


class FusedTape(Protocol):
    """Evaluations of such a field, each in a slot.

    Attributes
    ----------
    states : list of ndarray of shape (size * n,)
        Where the state of each evaluation is written.
    """

    states: list[np.ndarray]

    def evaluate(self, slot: int, t: Any, out: np.ndarray) -> None:
        """Evaluate the field at a slot's state, into ``out`` of shape (size, n)."""
        ...

    def differentiate(self, low: int, high: int) -> None:
        """Compute what the pullbacks of some slots need of them all."""
        ...

    def nbytes(self) -> int:
        """Size of the memory in bytes."""
        ...

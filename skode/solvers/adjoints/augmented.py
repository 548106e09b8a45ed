"""The adjoint equation as a vector field over one flat state, for explicit and implicit methods."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from skode.solvers.fields.autograd import AutogradField
from skode.solvers.fields.function import FunctionTape
from skode.solvers.fields.protocols import Field, Session, Tape
from skode.solvers.fields.times import column, time_dtype_of
from skode.solvers.statistics import Statistics
from skode.solvers.stepping.jacobians import Blocks, independent_blocks


class AugmentedField:
    """The right-hand side of the adjoint equation over the flat state ``[y, a, g]``.

    Parameters
    ----------
    field : Field
        The vector field.
    like : Tensor
        A state, for its shape and dtype.
    statistics : Statistics
        Where evaluations are counted.
    time : float
        A time at which the field may be evaluated.
    implicit : bool
        Whether an implicit method solves the equation.
    states : callable or None
        A function that gives ``y`` at any time; the ``y`` of the flat state then plays no part, and stays as it is.

    Attributes
    ----------
    stretch : Stretch or None
        The times of the samples at those of the equation, where they differ.
    """

    parameters: tuple[Tensor, ...] = ()

    def __init__(
        self,
        field: Field,
        like: Tensor,
        statistics: Statistics,
        time: float,
        *,
        implicit: bool,
        states: Callable[[float], Tensor] | None = None,
    ) -> None:
        self.field = field
        self.states_at = states
        self.shape = like.shape
        self.n = like.numel()
        self.statistics = statistics
        self.like = like
        if isinstance(field, AutogradField):
            field.evaluated_again()
        self.evaluation = field.tape(like, 1, pullable=True)
        self.time_dtype = time_dtype_of(field, like)
        self.stretch: Stretch | None = None
        # Gradients of complex parameters are integrated as real and imaginary parts.
        self.are_complex = [p.is_complex() for p in field.parameters]
        shapes = [(*p.shape, *[2] * p.is_complex()) for p in field.parameters]
        self.parameter_sizes = [math.prod(shape) for shape in shapes]
        self.part_shapes = [tuple(self.shape), tuple(self.shape), *shapes]
        self.part_sizes = [self.n, self.n, *self.parameter_sizes]
        self.n_used = sum(self.part_sizes)
        self.size = 2 * self.n + sum(self.parameter_sizes)
        # Implicit methods see the state as blocks of equal size, to which it is filled up.
        self.states = independent_blocks(field, like, time) if implicit else Blocks(like)
        n_filling = -self.size % self.states.size if self.n else 0
        self.size += n_filling
        self.filling = like.new_zeros(n_filling)
        self.splits = [self.n, self.n, self.size - 2 * self.n]
        # Gradients that can be written as they are: of the equation's dtype, and in memory on its device.
        self.are_plain = all(p.dtype == like.dtype and p.device == like.device for p in field.parameters)

    def blocks(self) -> AdjointBlocks:
        """How an implicit method may take the state apart."""
        return AdjointBlocks(self)

    def parts(self, y: Tensor, *, shaped: bool = True) -> list[Tensor]:
        """State, adjoint and the parameters' gradients out of the flat state; these flat where not ``shaped``."""
        pieces = y[: self.n_used].split(self.part_sizes)
        shapes = self.part_shapes if shaped else self.part_shapes[:2]
        return [*(piece.view(shape) for piece, shape in zip(pieces, shapes, strict=False)), *pieces[len(shapes) :]]

    def __call__(self, t: Any, y: Tensor) -> Tensor:
        rates = torch.empty_like(y)
        self.evaluate(t, y, rates)
        return rates

    def evaluate(self, t: Any, y: Tensor, rates: Tensor) -> None:
        """Write the rates of change at a flat state into a tensor like it."""
        self.statistics.nfev_backward += 1
        tape, session = self.evaluation, self.field.session()
        state, a, _ = y.split(self.splits)
        rate, rate_of_a, rate_of_g = rates.split(self.splits)
        tape.place(0).copy_(state if self.states_at is None else self.states_at(float(t)).reshape(-1))
        stretch, shaped = self.stretch, rate.view(self.shape)
        tape.evaluate(0, t if stretch is None else stretch.times(t), shaped)
        cotangent = torch.neg(a, out=session.place(tape, 0))
        if stretch is not None:
            shaped.mul_(stretch.length)
            cotangent.view(self.shape).mul_(stretch.length)
        session.pull(tape, 0, None, rate_of_a.view(self.shape))
        session.flush(tape)
        if self.states_at is not None:
            rate.zero_()
        if self.splits[2]:
            self._write(session.parameter_gradients(), rate_of_g)

    def _write(self, gradients: Sequence[Tensor | None], rates: Tensor) -> None:
        """Write the gradients one after another."""
        if self.are_plain:
            flat = [gradient.reshape(-1) for gradient in gradients if gradient is not None and not gradient.is_sparse]
            if len(flat) == len(gradients):
                torch.cat([*flat, self.filling] if len(self.filling) else flat, out=rates)
                return
        pieces = rates.split([*self.parameter_sizes, len(self.filling)])
        pieces[-1].zero_()
        for piece, gradient, is_complex in zip(pieces[:-1], gradients, self.are_complex, strict=True):
            if gradient is None:
                piece.zero_()
                continue
            gradient = gradient.to_dense() if gradient.is_sparse else gradient
            gradient = torch.view_as_real(gradient.resolve_conj()) if is_complex else gradient
            piece.copy_(gradient.reshape(-1))

    def parameter_gradients(self, y: Tensor) -> list[Tensor]:
        """``g`` of an augmented state, as gradients of the parameters."""
        gradients, start = [], 2 * self.n
        for parameter, size in zip(self.field.parameters, self.parameter_sizes, strict=True):
            piece = y[start : start + size]
            if parameter.is_complex():
                piece = torch.complex(piece[::2], piece[1::2])
            gradients.append(piece.view(parameter.shape).to(parameter))
            start += size
        return gradients

    def take(self, rows: Tensor) -> AugmentedField:
        raise NotImplementedError("the adjoint equation has one flat state, which is solved in shared steps")

    def tape(self, like: Tensor, n_slots: int, *, pullable: bool) -> Tape:
        return AugmentedTape(self, like, n_slots)

    def session(self, *, with_parameters: bool = True) -> Session:
        raise NotImplementedError("the adjoint equation is not differentiated again; use adjoint='backprop'")


class AugmentedTape(FunctionTape):
    """Evaluations of the adjoint equation, each written where it is wanted."""

    def __init__(self, field: AugmentedField, like: Tensor, n_slots: int) -> None:
        super().__init__(field, like, n_slots)
        self.write = field.evaluate

    def evaluate(self, slot: int, t: Any, out: Tensor) -> None:
        self.write(t, self.states[slot], out)


@dataclass(frozen=True)
class Stretch:
    """Times of samples as those of the unit interval: ``t_i = start_i + s length_i``.

    Attributes
    ----------
    start, length : Tensor of shape (batch, 1, ..., 1)
        Where each sample starts, and how far it goes.
    low, high : Tensor of that shape
        Bounds of its times, so as not to touch a discontinuity of the field.
    """

    start: Tensor
    length: Tensor
    low: Tensor
    high: Tensor

    @classmethod
    def between(cls, start: np.ndarray, end: np.ndarray, like: Tensor, dtype: torch.dtype, *, inside: bool) -> Stretch:
        """The map onto the times from ``start`` to ``end``, both excluded if ``inside``."""
        first, last = column(start, like, dtype), column(end, like, dtype)
        low, high = torch.minimum(first, last), torch.maximum(first, last)
        if inside:
            low, high = torch.nextafter(low, high), torch.nextafter(high, low)
        return cls(first, column(end - start, like), low, high)

    def times(self, s: float | Tensor) -> Tensor:
        """Each sample's time."""
        return torch.minimum(torch.maximum(self.start + s * self.length, self.low), self.high)


class AdjointBlocks(Blocks):
    """The adjoint equation for Newton's method: ``J`` for the state, ``-J^T`` for the adjoint, 0 for the gradients.

    How the adjoint depends on the state and the gradients on both is left out. As neither acts back, the iterations
    converge all the same, the state's first; they may take two more before they begin to.
    """

    patience = 3

    def __init__(self, augmented: AugmentedField) -> None:
        self.augmented = augmented
        self.size = augmented.states.size
        self.n = augmented.size // max(self.size, 1)

    def jacobians(self, field: Field, tape: Tape, slot: int, like: Tensor) -> Tensor:
        augmented = self.augmented
        states, inner, evaluation = augmented.states, augmented.field, augmented.evaluation
        own = states.jacobians(inner, evaluation, 0, augmented.like)
        rest = own.new_zeros((self.n - 2 * states.n, self.size, self.size))
        first = own if augmented.states_at is None else torch.zeros_like(own)
        return torch.cat([first, -own.transpose(1, 2), rest])

    def holds(self, field: Field, tape: Tape, slot: int, like: Tensor, jacobians: Tensor) -> bool:
        return True

"""Jacobian matrices of a field, one for each sample, by as many vector-Jacobian products as a sample has elements."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from skode.solvers.fields.protocols import Field, Tape
from skode.solvers.fields.times import time_tensor


class Blocks:
    """How a state falls into blocks that the field treats independently: its samples, or the whole state.

    Parameters
    ----------
    like : Tensor
        A state. Without a batch dimension it is one block.
    whole : bool
        Whether samples depend on one another, so that the state is one block whatever its shape.

    Attributes
    ----------
    n, size : int
        How many blocks there are, and how many elements each has.
    patience : int
        From which Newton iteration on an increment that grows means that the iterations diverge.
    """

    patience = 1

    def __init__(self, like: Tensor, *, whole: bool = False) -> None:
        self.n = 1 if whole or like.ndim < 2 else like.shape[0]
        self.size = like.numel() // max(self.n, 1)

    def column(self, h: float | Tensor) -> float | Tensor:
        """A step size as it multiplies tensors of shape (n, ...) with two more dimensions."""
        return h.reshape(-1, 1, 1) if isinstance(h, Tensor) else h

    def jacobians(self, field: Field, tape: Tape, slot: int, like: Tensor) -> Tensor:
        """``J[b, i, j] = df_i/dy_j`` of block b at an evaluation, of shape (n, size, size)."""
        session = field.session(with_parameters=False)
        cotangent = like.new_zeros((self.n, self.size))
        rows = like.new_empty((self.size, self.n, self.size))
        for i in range(self.size):
            cotangent[:, i] = 1.0
            session.pull(tape, slot, cotangent.view(like.shape).clone(), rows[i].view(like.shape))
            session.discard()
            cotangent[:, i] = 0.0
        session.parameter_gradients()  # which ends it: others may have its memory
        return rows.transpose(0, 1).contiguous()

    def holds(self, field: Field, tape: Tape, slot: int, like: Tensor, jacobians: Tensor) -> bool:
        """Whether the blocks are independent, tried on one random cotangent.

        Row sums over a batch are the blocks' own Jacobians only if no block's value depends on another block.
        """
        if self.n == 1 or not like.numel():
            return True
        generator = torch.Generator().manual_seed(0)
        probe = torch.randn((self.n, self.size), generator=generator, dtype=torch.float64).to(like)
        pulled = torch.empty_like(like, memory_format=torch.contiguous_format)
        session = field.session(with_parameters=False)
        session.pull(tape, slot, probe.view(like.shape), pulled)
        session.discard()
        session.parameter_gradients()  # as above
        expected = torch.einsum("bi,bij->bj", probe, jacobians)
        scale = expected.abs().max() + pulled.abs().max()
        # Where the field is not finite, nothing can be said against it.
        return not bool((pulled.view_as(expected) - expected).abs().max() > 1e-3 * scale)


class SharedJacobian:
    """Newton's method where several parts of a sample have one Jacobian, as a state and its sensitivities.

    A function of states of shape (n, n_parts, size) offers it by a method ``part_jacobians(t, y)``, of shape (n, size,
    size). What parts have to do with one another is left out of Newton's matrix: its iterations converge all the same
    where that is triangular (the simultaneous corrector of sensitivities: T. Maly, L. R. Petzold, "Numerical methods
    and software for sensitivity analysis of differential-algebraic systems", Applied Numerical Mathematics 20, 1996).

    Parameters
    ----------
    func : object
        The function that offers it.
    field : Field
        The field around it.
    like : Tensor of shape (n, n_parts, size)
        A state.
    """

    #: From which iteration on a growing increment means divergence: one part follows another.
    patience = 3

    def __init__(self, func: Any, field: Field, like: Tensor) -> None:
        self.func, self.field = func, field
        _, self.n_parts, self.size = like.shape

    @classmethod
    def offered(cls, field: Field, like: Tensor) -> SharedJacobian | None:
        """That of the user's function behind a field, or None."""
        func = getattr(field, "func", None)
        return cls(func, field, like) if hasattr(func, "part_jacobians") and like.ndim == 3 else None

    def jacobians(self, t: Any, y: Tensor) -> Tensor:
        """The parts' Jacobian of each sample, of shape (n, size, size)."""
        return self.func.part_jacobians(time_tensor(t, y, self.field), y)

    def solve(self, factors: tuple[Tensor, Tensor], residual: Tensor) -> Tensor:
        """Solutions for residuals of the stages of a group, of shape (n, n_stages * n_parts * size, 1)."""
        n = len(residual)
        stages = residual.view(n, -1, self.n_parts, self.size).transpose(2, 3)
        solved = torch.linalg.lu_solve(*factors, stages.reshape(n, -1, self.n_parts))
        return solved.view(stages.shape).transpose(2, 3).reshape(residual.shape)


def blocks_of(field: Field, like: Tensor) -> Blocks:
    """The blocks of a state: what the field says they are, or its samples."""
    own = getattr(field, "blocks", None)
    return Blocks(like) if own is None else own()


def independent_blocks(field: Field, y: Tensor, t: float) -> Blocks:
    """The blocks of a state, tried at ``(t, y)``."""
    blocks = Blocks(y)
    if blocks.n == 1:
        return blocks
    tape = field.tape(y, 1, pullable=True)
    tape.place(0).copy_(y.reshape(-1))
    tape.evaluate(0, t, torch.empty_like(y, memory_format=torch.contiguous_format))
    alike = blocks.holds(field, tape, 0, y, blocks.jacobians(field, tape, 0, y))
    tape.release()
    return blocks if alike else Blocks(y, whole=True)

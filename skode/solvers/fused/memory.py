"""The memory of a fused solve: a step's states, stages and cotangents, the field's, and tapes of evaluations."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import numpy as np

from skode.solvers.buffer_pool import ARRAY_VIEW, BufferPool
from skode.solvers.tableaus import ButcherTableau

POOL = BufferPool()


class Coefficients:
    """A tableau's coefficients for the products of a step, which are to be multiplied by the step size.

    Attributes
    ----------
    a : ndarray of shape (s, s)
        Row i: the weights of the stages in the state of stage i.
    e : ndarray of shape (s,)
        Those of the error.
    uses : ndarray of shape (s, s)
        Row i holds from column i + 1 on the weights with which later stages, and last the result, use stage i.
    c : tuple of float
        The stages' times.
    """

    def __init__(self, tableau: ButcherTableau, dtype: np.dtype) -> None:
        s = tableau.n_stages
        self.c = tableau.c
        self.a = np.array([[*row, *[0.0] * (s - len(row))] for row in tableau.a], dtype)
        self.e = np.array(tableau.e, dtype)
        # The state of the last stage is the result, so that its weights stand for both.
        self.uses = np.triu(self.a.T, 1)


class StepMemory:
    """States, stages and cotangents of one step, as rows of flattened states of shape (d, n).

    Parameters
    ----------
    tableau : ButcherTableau
        The method, of s stages, the last of which is the next step's first.
    field : object
        The field's memory; see :class:`skode.solvers.fields.protocols.FusedField`.

    Attributes
    ----------
    rows : ndarray of shape (s + 1, d * n)
        The state at the step's start, and below it the stages' derivatives.
    pulled : ndarray of shape (s, d * n)
        Row i: the cotangent of the state of stage i; the last one is that of the result.
    """

    def __init__(self, tableau: ButcherTableau, field: Any) -> None:
        s, shape, dtype = tableau.n_stages, (field.size, field.n), field.dtype
        size = shape[0] * shape[1]
        self.coefficients = Coefficients(tableau, dtype)
        self.own = range(1, s)
        self.rows = np.zeros((s + 1, size), dtype)
        self.y, self.y_state = self.rows[0], self.rows[0].reshape(shape)
        self.stages = [row.reshape(shape) for row in self.rows[1:]]
        self.derivatives = self.rows[1:]
        self.first, self.last = self.rows[1], self.rows[s]
        self.pulled = np.zeros((s, size), dtype)
        self.pulled_states = [row.reshape(shape) for row in self.pulled]
        self.cotangent = self.pulled[s - 1]
        # [1, h a]: one product makes the state of a stage, [y, k_0, ..., k_(i-1)] weighted.
        full = np.ones((s, s + 1), dtype)
        self.h_a, self.h_e, self.h_uses = full[:, 1:], np.empty(s, dtype), np.empty((s, s), dtype)
        self.combine = [(i, full[i, : i + 1], self.rows[: i + 1]) for i in self.own]
        self.uses = [(self.h_uses[i, i + 1 :], self.pulled[i + 1 :]) for i in range(s)]
        self.ones, self.all_pulled = np.ones(s - 1, dtype), self.pulled[1:]
        self.error, self.scale, self.size, self.size_next = (np.zeros(size, dtype) for _ in range(4))

    def nbytes(self) -> int:
        """Size of the memory in bytes."""
        views = 3 * (len(self.rows) + len(self.pulled))
        return self.rows.nbytes + self.pulled.nbytes + 4 * self.error.nbytes + views * ARRAY_VIEW


class Workspace:
    """All memory of one solve, kept for others of its kind.

    Parameters
    ----------
    key : tuple
        The kind.
    tableau : ButcherTableau
        The method.
    field : object
        The field's memory.

    Attributes
    ----------
    step_nbytes : int
        Bytes that the evaluations of a step take.
    tapes : list
        Tapes of evaluations. Each has a slot for the evaluation at the start, which only the first one's uses, and
        slots for some steps.
    """

    def __init__(self, key: Hashable, tableau: ButcherTableau, field: Any) -> None:
        self.key, self.field = key, field
        self.step = StepMemory(tableau, field)
        self.n_own = len(self.step.own)
        self.steps_per_tape = max((field.most_slots - 1) // self.n_own, 1)
        self.n_slots = 1 + self.n_own * self.steps_per_tape
        self.step_nbytes = self.n_own * field.slot_nbytes
        self.tapes: list[Any] = []
        #: For steps whose evaluations are not kept, with slots as for one step behind one for the start.
        self.passing = field.tape(1 + self.n_own, keep=False)
        self._remade: Any = None
        self._nbytes = 0
        self._measure()

    @property
    def remade(self) -> Any:
        """The same for steps that are evaluated again."""
        if self._remade is None:
            self._remade = self.field.tape(1 + self.n_own, keep=True)
            self._measure()
        return self._remade

    def tape_of(self, n: int) -> tuple[Any, int]:
        """The tape of the n-th step, and the step's first slot there."""
        i, place = divmod(n, self.steps_per_tape)
        while len(self.tapes) <= i:
            self.tapes.append(self.field.tape(self.n_slots, keep=True))
            self._measure()
        return self.tapes[i], 1 + self.n_own * place

    def make_room(self) -> None:
        """Have memory for a reverse sweep."""
        if not self.field.cotangents:
            self.field.make_room(self.n_slots)
            self._measure()

    def _measure(self) -> None:
        tapes = [self.passing, *self.tapes, *([] if self._remade is None else [self._remade])]
        self._nbytes = self.step.nbytes() + self.field.nbytes() + sum(tape.nbytes() for tape in tapes)

    def nbytes(self) -> int:
        """Size of the memory in bytes."""
        return self._nbytes

    def release(self) -> None:
        """Let other solves have the memory."""
        POOL.release(self.key, self)


def workspace(form: Any, tableau: ButcherTableau, n: int, dtype: np.dtype) -> Workspace:
    """Memory for a solve over ``n`` states of a type, with the parameters of a form loaded."""
    key = (tableau.name, n, dtype.char, form.key())
    work = POOL.acquire(key, lambda: Workspace(key, tableau, form.new(n, dtype)))
    work.field.load(form)
    return work

"""From the user's ``func`` to the field that the engine calls."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from skode.solvers.fields.autograd import AutogradField
from skode.solvers.fields.function import check_value
from skode.solvers.fields.parameters import (
    check_no_hooks,
    find_parameters,
    graphs_are_watched,
)
from skode.solvers.fields.protocols import Field, Tape
from skode.solvers.fields.pullback import PullbackField, has_own_pullback
from skode.solvers.fields.times import time_tensor


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
        Whether gradients may be wanted, so that the tensors behind ``func`` must be known.
    keep_graph : bool, default=False
        Whether autograd is to record the solve itself, for which ``func`` is called as it is.
    parameters : sequence of Tensor, default=None
        The tensors behind ``func`` whose gradients are wanted; None: all that are found.

    Returns
    -------
    field : AutogradField or PullbackField
        The field as the engine calls it.
    value : Tensor
        ``func(t, y)`` without its graph.
    tape : Tape or None
        A tape of one slot with that evaluation, where gradients may be wanted and tapes may be kept.

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
    """The return value of :func:`as_field`, before the field's value is checked."""
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
            check_no_hooks(parameters)
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

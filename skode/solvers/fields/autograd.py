"""Any callable as a field, differentiated by autograd one evaluation at a time."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from skode.solvers.fields.function import FunctionTape, check_value
from skode.solvers.fields.parameters import (
    Evaluation,
    check_not_replaced,
    leaves_behind,
)
from skode.solvers.fields.protocols import Function
from skode.solvers.fields.samples import take_samples
from skode.solvers.fields.times import time_tensor


class AutogradField:
    """Any callable, differentiated by autograd one evaluation at a time.

    Parameters
    ----------
    func : callable
        ``func(t, y)``.
    parameters : tuple of Tensor
        The tensors that it depends on besides its arguments.
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
        if torch.is_grad_enabled():
            with torch.no_grad():
                return self(t, y)
        try:
            value = self.func(time_tensor(t, y, self), y)
        except RuntimeError as error:
            self.func = WithGrad.instead_of(self.func, error)
            return self(t, y)
        check_value(value, y)
        # Where it has recorded a graph all the same: a view would require grad still, and detach() would take tangents
        # away too.
        return value.clone() if value.requires_grad else value

    def recorded(self, t: Any, y: Tensor) -> Tensor:
        """The value with its graph."""
        value = self.func(time_tensor(t, y, self), y)
        check_value(value, y)
        return value

    def evaluated_again(self) -> None:
        """See that ``func``, before it is evaluated for the backward pass, has not been exchanged since the solve."""
        check_not_replaced(self.func, self.held)

    def take(self, rows: Tensor) -> AutogradField:
        func = take_samples(self.func, rows)
        if func is self.func:
            return self
        return AutogradField(func, self.parameters, graph_nbytes=self.graph_nbytes, held=self.held, chosen=self.chosen)

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

    def take(self, rows: Tensor) -> WithGrad:
        """The function on some samples."""
        return WithGrad(take_samples(self.func, rows))

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
        self.values: list[Tensor] = []
        self.cotangents: list[Tensor] = []
        # What autograd leaves in non-leaf tensors with retain_grad() is to be of the whole solve, not of evaluations.
        self.retained = [(parameter, parameter.grad) for parameter in parameters if parameter.retains_grad]

    def place(self, tape: AutogradTape, slot: int) -> Tensor:
        self.placed = torch.empty_like(tape.like, memory_format=torch.contiguous_format)
        return self.placed.view(-1)

    def pull(self, tape: AutogradTape, slot: int, cotangent: Tensor | None, out: Tensor) -> None:
        cotangent = self.placed if cotangent is None else cotangent
        argument, value = tape.graphs[slot]
        if not value.requires_grad:  # a constant field
            out.zero_()
            return
        self._refuse_hidden_tensors([value], [argument])
        (grad_y,) = self._gradients([value], [argument], [cotangent])
        if grad_y is None:
            out.zero_()
        else:
            out.copy_(grad_y)

    def give(self, value: Tensor, cotangent: Tensor) -> None:
        """Take note of the cotangent of a tensor in a graph that is to be pulled back."""
        if value.requires_grad:  # others are constants
            self.values.append(value)
            self.cotangents.append(cotangent)

    def pull_given(self, leaves: list[Tensor]) -> list[Tensor]:
        """Cotangents of a graph's leaves, from those given of tensors in it."""
        values, cotangents, self.values, self.cotangents = self.values, self.cotangents, [], []
        self._refuse_hidden_tensors(values, leaves)
        gradients = self._gradients(values, leaves, cotangents)
        return [torch.zeros_like(x) if grad is None else grad for x, grad in zip(leaves, gradients, strict=True)]

    def _gradients(self, values: list[Tensor], leaves: list[Tensor], cotangents: list[Tensor]) -> list[Tensor | None]:
        """Those of the leaves; those of the parameters are added up."""
        inputs = (*leaves, *self.parameters)
        # The graph may lead on to tensors made before the solve, which every evaluation shares: keep it.
        gradients = torch.autograd.grad(values, inputs, cotangents, allow_unused=True, retain_graph=True)
        for i, gradient in enumerate(gradients[len(leaves) :]):
            if gradient is not None:
                total = self.gradients[i]
                # The first is copied: autograd may have handed on a cotangent, whose memory is used again.
                self.gradients[i] = gradient.clone() if total is None else total.add_(gradient)
        return list(gradients[: len(leaves)])

    def flush(self, tape: AutogradTape) -> None:
        """Nothing is held back."""

    def discard(self) -> None:
        """Nothing is held back."""

    def parameter_gradients(self) -> tuple[Tensor | None, ...]:
        for parameter, gradient in self.retained:
            parameter.grad = gradient
        return tuple(self.gradients)

    def _refuse_hidden_tensors(self, values: list[Tensor], leaves: list[Tensor]) -> None:
        """See that a graph hangs on no tensor that was not known before the solve."""
        missed = leaves_behind(values, [*leaves, *self.parameters]) if self.complete else []
        if missed:
            raise RuntimeError(
                f"func(t, y) depends on a tensor of shape {tuple(missed[0].shape)} that requires grad, but did not use "
                "it at the initial time and keeps it where it can't be found, so that its gradient would be lost. Hold "
                "it in a closure, an argument's default, an attribute or a module parameter, or use adjoint='backprop'."
            )

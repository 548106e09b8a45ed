"""Fields over memory that recordings own, and inputs of fields that differ from solve to solve."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from skode.solvers.fields.autograd import AutogradField
from skode.solvers.fields.parameters import held_tensors
from skode.solvers.fields.protocols import Field
from skode.solvers.fields.pullback import PullbackField


def over_own_memory(field: Field, graph_nbytes: int) -> Field:
    """A copy of a field over aliases of its parameters' memory, and over copies of its inputs.

    So nothing keeps the parameters themselves alive, nor their autograd graphs.
    """
    if isinstance(field, AutogradField):
        module: Any = field.func
        same: dict[int, Any] = {id(x): x for x in held_tensors(module)}
        same |= {id(p): _alias(p, wanted=p.requires_grad) for p in module.parameters()}
        own = tuple(same[id(p)] for p in field.parameters)
        # A copy, as others may evaluate the module itself at the same time.
        return AutogradField(copy.deepcopy(module, same), own, graph_nbytes=graph_nbytes)
    func: Any = _func(field)
    over = PullbackField(func.over([_alias(p) for p in field.parameters]))
    inputs = field_inputs(over)
    return over_inputs(over, [x.clone() for x in inputs]) if inputs else over


def over_inputs(field: Field, inputs: Sequence[Tensor]) -> Field:
    """A copy of a field with a pullback of its own over other inputs."""
    return PullbackField(_func(field).with_inputs(*inputs))


def _alias(parameter: Tensor, *, wanted: bool = True) -> Tensor:
    """A tensor over a parameter's memory, without its autograd graph and its version counter."""
    return parameter.data.requires_grad_(wanted)


def field_inputs(field: Field) -> list[Tensor]:
    """The tensors besides the parameters that a field depends on, which differ from solve to solve."""
    return getattr(_func(field), "inputs", list)()


def refresh(field: Field) -> None:
    """Let a field compute again the values that it derives from its parameters."""
    again = getattr(_func(field), "refresh", None)
    if again is not None:
        again()


def _func(field: Field) -> Any:
    """The function or module behind a field."""
    return getattr(field, "func", field)

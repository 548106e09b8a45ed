"""Fields over memory that recordings own, and inputs of fields that differ from solve to solve."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from skode.solvers.fields.autograd import AutogradField
from skode.solvers.fields.parameters import held_tensors


def over_own_memory(field: Any, graph_nbytes: int) -> Any:
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
    func = field.func.over([_alias(p) for p in field.parameters])
    inputs: list[Tensor] = getattr(func, "inputs", list)()
    own = type(field)(func)
    return over_inputs(own, [x.clone() for x in inputs]) if inputs else own


def over_inputs(field: Any, inputs: Sequence[Tensor]) -> Any:
    """A copy of a field over other inputs."""
    return type(field)(field.func.with_inputs(*inputs))


def _alias(parameter: Tensor, *, wanted: bool = True) -> Tensor:
    """A tensor over a parameter's memory, without its autograd graph and its version counter."""
    return parameter.data.requires_grad_(wanted)


def field_inputs(field: Any) -> list[Tensor]:
    """The tensors besides the parameters that a field depends on, which differ from solve to solve."""
    return getattr(getattr(field, "func", field), "inputs", list)()


def refresh(field: Any) -> None:
    """Let a field compute again the values that it derives from its parameters."""
    again = getattr(getattr(field, "func", field), "refresh", None)
    if again is not None:
        again()

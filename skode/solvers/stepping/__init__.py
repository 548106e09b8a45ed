"""How one step is taken, forward and in reverse: one module per family of methods."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from skode.solvers.fields.autograd import AutogradField
from skode.solvers.fields.protocols import Field
from skode.solvers.statistics import Statistics
from skode.solvers.stepping.adams import AdamsStepper, GraphAdamsStepper
from skode.solvers.stepping.explicit import ExplicitStepper
from skode.solvers.stepping.graph import GraphImplicitStepper, GraphStepper
from skode.solvers.stepping.implicit import ImplicitStepper
from skode.solvers.stepping.recorded import RecordedStepper
from skode.solvers.stepping.step import NO_EDGES, Edges, PulledStep, TakenStep
from skode.solvers.stepping.stepper import AdaptiveStepper, ReversibleStepper, Stepper
from skode.solvers.tableaus import AdamsMethod, Method
from skode.solvers.tolerances import Tolerances

__all__ = [
    "NO_EDGES",
    "AdamsStepper",
    "AdaptiveStepper",
    "Edges",
    "ExplicitStepper",
    "GraphAdamsStepper",
    "GraphImplicitStepper",
    "GraphStepper",
    "ImplicitStepper",
    "PulledStep",
    "RecordedStepper",
    "ReversibleStepper",
    "Stepper",
    "TakenStep",
    "new_graph_stepper",
    "new_stepper",
]


def new_stepper(
    method: Method,
    field: Field,
    like: Tensor,
    statistics: Statistics,
    tolerances: Tolerances,
    *,
    keep: bool = False,
) -> ReversibleStepper:
    """The stepper of a method."""
    if isinstance(method, AdamsMethod):
        return AdamsStepper(method, field, like, statistics, tolerances, keep=keep)
    if method.implicit:
        return ImplicitStepper(method, field, like, statistics, tolerances, keep=keep)
    if isinstance(field, AutogradField):
        return RecordedStepper(method, field, like, statistics, tolerances, keep=keep)
    return ExplicitStepper(method, field, like, statistics, tolerances, keep=keep)


def new_graph_stepper(
    method: Method, func: Any, like: Tensor, statistics: Statistics, tolerances: Tolerances
) -> Stepper:
    """The same with a graph."""
    if isinstance(method, AdamsMethod):
        return GraphAdamsStepper(method, func, like, statistics)
    if method.implicit:
        return GraphImplicitStepper(method, func, like, statistics, tolerances)
    return GraphStepper(method, func, like, statistics)

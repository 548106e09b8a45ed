"""Which solves run ahead of the host, and which of them may be recorded."""

from __future__ import annotations

import math
from collections.abc import Hashable
from typing import Any

from torch import Tensor, nn

from skode.solvers.device.fingerprint import fingerprint
from skode.solvers.device.kinds import replay_key, take_replay
from skode.solvers.devices import is_asynchronous
from skode.solvers.fields.autograd import AutogradField
from skode.solvers.fields.parameters import graphs_are_watched
from skode.solvers.fields.protocols import Field
from skode.solvers.fields.pullback import PullbackField, has_own_pullback, is_hooked
from skode.solvers.forward.problem import Problem
from skode.solvers.forward.run import Recordings, Run
from skode.solvers.tableaus import ButcherTableau
from skode.solvers.tolerances import NORMS, Tolerances


def runs_ahead(problem: Problem, y0: Tensor) -> bool:
    """Whether a solve runs ahead of the host: by an explicit method that chooses its steps.

    Steps that must end at given times, or stop short of discontinuities, are chosen on the host.
    """
    tableau, control, span = problem.tableau, problem.control, problem.span
    return (
        is_asynchronous(y0.device)
        and isinstance(tableau, ButcherTableau)
        and tableau.adaptive
        and not tableau.implicit
        and not control.stops.times
        and not control.stops.nudged
        and type(control.tolerances) is Tolerances  # the device knows no other test
        and not control.tolerances.of_elements
        and control.callbacks is None
        and y0.numel() > 0
        and (span.t0 != span.t1 or span.by_sample is not None)
        and math.isfinite(span.t1)
    )


def recordable(func: Any, y0: Tensor) -> tuple[Field, Hashable] | None:
    """A field that may be recorded, not yet evaluated, and a key of all that its recordings depend on; None for others.

    Fields with a pullback of their own give the key by ``replay_key``, of other modules it is their fingerprint;
    functions are never recorded.
    """
    if not is_asynchronous(y0.device) or graphs_are_watched():
        return None
    field: Field
    if has_own_pullback(func):
        if not getattr(func, "recordable", False):
            return None
        own = PullbackField(func)
        field, key = own, own.func.replay_key()
    elif isinstance(func, nn.Module) and getattr(func, "recordable", True) and not is_hooked(func):
        field = AutogradField(func, tuple(p for p in func.parameters() if p.requires_grad))
        key = fingerprint(func)
    else:
        return None
    return None if key is None else (field, key)


def recordings_for(run: Run, field_key: Hashable, y0: Tensor, *, pullable: bool) -> Recordings | None:
    """The recordings for a solve, as far as there are any; None where it can have none."""
    problem, field = run.problem, run.field
    builtin = problem.control.tolerances.norm in NORMS.values()
    if problem.outputs.dense or problem.control.per_sample or not builtin or not runs_ahead(problem, y0):
        return None
    key = replay_key(field, field_key, y0, problem, pullable=pullable)
    return None if key is None else Recordings(key, take_replay(key, field, y0, problem, pullable=pullable))

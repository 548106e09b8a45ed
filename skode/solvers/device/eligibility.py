"""Which solves run ahead of the host, and which of them may be recorded."""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from skode.solvers.device.fingerprint import fingerprint
from skode.solvers.device.kinds import replay_key, take_replay
from skode.solvers.devices import is_asynchronous
from skode.solvers.fields.autograd import AutogradField
from skode.solvers.fields.parameters import graphs_are_watched
from skode.solvers.fields.pullback import PullbackField, has_own_pullback, is_hooked
from skode.solvers.tableaus import ButcherTableau
from skode.solvers.tolerances import NORMS, Tolerances


def runs_ahead(problem: Any, y0: Tensor) -> bool:
    """Whether a solve runs ahead of the host: by an explicit method that chooses its steps.

    Steps that must end at given times, or stop short of discontinuities, are chosen on the host.
    """
    tableau, control = problem.tableau, problem.control
    return (
        is_asynchronous(y0.device)
        and isinstance(tableau, ButcherTableau)
        and tableau.adaptive
        and not tableau.implicit
        and not control.stop_times
        and not control.nudged
        and type(control.tolerances) is Tolerances  # the device knows no other test
        and not control.tolerances.of_elements
        and problem.callbacks is None
        and y0.numel() > 0
        and (problem.t0 != problem.t1 or problem.spans is not None)
        and math.isfinite(problem.t1)
    )


def recordable(func: Any, y0: Tensor) -> tuple[Any, Hashable] | None:
    """A field that may be recorded, not yet evaluated, and a key of all that its recordings depend on; None for others.

    Fields with a pullback of their own give the key by ``replay_key``, of other modules it is their fingerprint;
    functions are never recorded.
    """
    if not is_asynchronous(y0.device) or graphs_are_watched():
        return None
    if has_own_pullback(func):
        if not getattr(func, "recordable", False):
            return None
        field: Any = PullbackField(func)
        key = field.func.replay_key()
    elif isinstance(func, nn.Module) and getattr(func, "recordable", True) and not is_hooked(func):
        field = AutogradField(func, tuple(p for p in func.parameters() if p.requires_grad))
        key = fingerprint(func)
    else:
        return None
    return None if key is None else (field, key)


def with_replay(problem: Any, field: Any, field_key: Hashable, y0: Tensor, *, pullable: bool) -> Any:
    """The problem with the recordings for its solve, as far as there are any; None where it can have none."""
    builtin = problem.control.tolerances.norm in NORMS.values()
    if problem.dense or problem.control.per_sample or not builtin or not runs_ahead(problem, y0):
        return None
    key = replay_key(field, field_key, y0, problem, pullable=pullable)
    replay = None if key is None else take_replay(key, field, y0, problem, pullable=pullable)
    return None if key is None else replace(problem, field=field, replay=replay, replay_key=key)

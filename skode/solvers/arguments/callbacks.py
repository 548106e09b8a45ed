"""torchdiffeq's callbacks: functions that a vector field carries, called at every step of its solve.

``callback_step(t0, y0, dt)`` is called before a step is tried, ``callback_accept_step`` and ``callback_reject_step``
when an adaptive method has accepted or rejected it; those with ``_adjoint`` behind their names, in the same places of
the solve of the adjoint equation.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

from torch import Tensor

from skode.solvers.forward.callbacks import Callbacks, taking_apart

NAMES = ("callback_step", "callback_accept_step", "callback_reject_step")
#: The callbacks of methods with fixed steps.
FIXED = NAMES[:1]


def callbacks_of(func: Any, supported: tuple[str, ...], method: str, *, suffix: str = "") -> Callbacks | None:
    """The callbacks that ``func`` carries under these names, None where it carries none.

    Warns of those that would not be called.
    """
    found = {name: getattr(func, name + suffix, None) for name in NAMES}
    carried = {name: callback for name, callback in found.items() if callback is not None}
    if carried and (idle := sorted(name + suffix for name in carried.keys() - set(supported))):
        warnings.warn(
            f"func has {', '.join(idle)}, which method={method!r} does not call"
            + (f": it calls {', '.join(name + suffix for name in supported)} alone." if supported else "."),
            stacklevel=2,
        )
    called = [carried.get(name) if name in supported else None for name in NAMES]
    return Callbacks(*called) if any(called) else None


def carry_over(func: Any, wrapper: Any, parts: Callable[[Tensor], Any]) -> None:
    """Give the callbacks of ``func`` to a wrapper of it; they receive the wrapper's state converted by ``parts``."""
    for name in NAMES:
        if (callback := getattr(func, name, None)) is not None:
            setattr(wrapper, name, taking_apart(callback, parts))
        if (callback := getattr(func, name + "_adjoint", None)) is not None:
            setattr(wrapper, name + "_adjoint", callback)

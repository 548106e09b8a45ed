"""An accepted step on its way through the solve."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(slots=True)
class Move:
    """An accepted step, from ``t`` to ``t_next``.

    Attributes
    ----------
    t, t_next : float, or ndarray of shape (m,)
        Its start and end, of each sample that took it.
    h : float, Tensor or None
        What ``stages`` are multiplied with in the interpolant (a tensor under autograd or per sample).
    taken : TakenStep
        The step itself.
    opens : bool or ndarray of bool
        Whether its first stage was evaluated anew rather than taken over: the first step, or one after a jump.
    rows : ndarray of shape (m,) or None
        The samples that took it; None for all.
    """

    t: Any
    t_next: Any
    h: Any
    taken: Any
    opens: Any = False
    rows: np.ndarray | None = None

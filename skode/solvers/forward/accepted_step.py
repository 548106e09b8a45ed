"""An accepted step: on its way through the forward solve, and as the reverse sweep and dense output need it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from skode.solvers.forward.output_times import Reading
from skode.solvers.indexing import index
from skode.solvers.stepping.step import TakenStep


@dataclass(slots=True)
class AcceptedStep:
    """An accepted step, from ``t`` to ``t_next``.

    Attributes
    ----------
    taken : TakenStep
        The step as the stepper took it.
    t, t_next : float, or ndarray of shape (m,)
        Its start and end, of each sample that took it.
    opens : bool or ndarray of bool
        Whether its first stage was evaluated anew rather than taken over: the first step, or one after a jump.
    rows : ndarray of int, of shape (m,), or None
        The samples that took it; None for all.
    readings : sequence of Reading
        The outputs read off it.
    first : Tensor of shape (n,) or None
        Its first stage, where that was taken over and is kept.
    """

    taken: TakenStep
    t: Any
    t_next: Any
    opens: Any = False
    rows: np.ndarray | None = None
    readings: Sequence[Reading] = ()
    first: Tensor | None = None
    _samples: Tensor | None = field(default=None, init=False, repr=False)

    @property
    def samples(self) -> Tensor | None:
        """The same samples as indices on the state's device; None for all."""
        if self._samples is None and self.rows is not None:
            self._samples = index(self.rows, self.taken.y)
        return self._samples

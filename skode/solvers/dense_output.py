"""The solution as a function of time, read off the interpolants of the steps."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from skode.solvers.integrate import Path, weights_tensor


class DenseOutput:
    """A computed solution at any time inside its span; not differentiable (use ``t_eval`` for gradients).

    Parameters
    ----------
    path : Path
        A solve recorded with its stages.
    t0, t1 : float
        The time span.
    """

    def __init__(self, path: Path, t0: float, t1: float) -> None:
        self.path = path
        self.t0, self.t1 = t0, t1
        self.direction = 1.0 if t1 >= t0 else -1.0
        self._starts = np.array([self.direction * step.t for step in path.steps])

    @torch.no_grad()
    def __call__(self, t: float | np.ndarray | Tensor) -> Tensor:
        r"""Evaluate the solution.

        Parameters
        ----------
        t : float or array-like of shape (m,)
            Times inside the time span.

        Returns
        -------
        Tensor of shape (\*state) or (m, \*state)
            The states.

        Raises
        ------
        ValueError
            Where a time lies outside the time span.
        """
        t = t.detach().cpu() if isinstance(t, Tensor) else t
        times = np.atleast_1d(np.asarray(t, dtype=np.float64))
        low, high = sorted((self.t0, self.t1))
        if not ((times >= low) & (times <= high)).all():
            raise ValueError(f"t must lie inside the time span [{low}, {high}], got {times.min()} ... {times.max()}.")
        y_end = self.path.y_end.detach()
        if not self.path.steps:
            states = y_end.expand(len(times), *y_end.shape).clone()
        else:
            states = torch.stack([self._at(time) for time in times.tolist()])
        return states[0] if np.ndim(t) == 0 else states

    def nearest(self, time: float) -> Tensor:
        """The state at one time, or at the end of the span that is nearest to it."""
        low, high = sorted((self.t0, self.t1))
        return self._at(min(max(time, low), high))

    def _at(self, time: float) -> Tensor:
        """The state at one time inside the span."""
        n = max(int(np.searchsorted(self._starts, self.direction * time, side="right")) - 1, 0)
        step = self.path.steps[n]
        taken = step.taken
        assert taken.stages is not None
        theta = (time - step.t) / (step.t_next - step.t)
        weights = weights_tensor(taken.tableau, np.array([theta]), taken.stages)
        return torch.addmm(taken.y.reshape(-1), weights, taken.stages, alpha=float(taken.h)).view(taken.y.shape)

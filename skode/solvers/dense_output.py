"""The solution as a function of time, read off the interpolants of the steps."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from skode.solvers.forward.accepted_step import AcceptedStep
from skode.solvers.forward.outputs import differentiable_weights, weights_tensor
from skode.solvers.forward.run import Path
from skode.solvers.transforms import carries_derivatives, is_mapped, numbers


class DenseOutput:
    """A computed solution at any time inside its span; of :func:`skode.solvers.solve_ivp` not differentiable.

    Use ``t_eval`` for gradients there, or :func:`skode.solvers.odeint_dense`.

    Parameters
    ----------
    path : Path
        A solve recorded with its stages.
    t0, t1 : float
        The time span.
    differentiable : bool, default=False
        Whether it has the gradients that autograd has recorded of the solve, and that of ``t``.
    """

    def __init__(self, path: Path, t0: float, t1: float, *, differentiable: bool = False) -> None:
        self.t0, self.t1 = t0, t1
        self.direction = 1.0 if t1 >= t0 else -1.0
        self.differentiable = differentiable
        self._steps = path.steps if differentiable else [_without_graph(step) for step in path.steps]
        self._end = path.y_end if differentiable else path.y_end.detach()
        self._starts = np.array([self.direction * step.t for step in path.steps])

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
        tensor = None
        if isinstance(t, Tensor):
            if is_mapped(t):
                raise TypeError("t must be the same for all that torch.func.vmap maps over: pass it with in_dims=None.")
            if self.differentiable and carries_derivatives(t):
                tensor = t.double().cpu().reshape(-1)
            t = numbers(t)
        times = np.atleast_1d(np.asarray(t, dtype=np.float64))
        low, high = sorted((self.t0, self.t1))
        if not ((times >= low) & (times <= high)).all():
            raise ValueError(f"t must lie inside the time span [{low}, {high}], got {times.min()} ... {times.max()}.")
        with torch.set_grad_enabled(self.differentiable and torch.is_grad_enabled()):
            if not self._steps:
                states = self._end.expand(len(times), *self._end.shape).clone()
            elif tensor is None:
                states = torch.stack([self._at(time) for time in times.tolist()])
            else:
                states = torch.stack([self._at(*pair) for pair in zip(times.tolist(), tensor, strict=True)])
            return states[0] if np.ndim(t) == 0 else states

    def nearest(self, time: float) -> Tensor:
        """The state at one time, or at the end of the span that is nearest to it."""
        low, high = sorted((self.t0, self.t1))
        return self._at(min(max(time, low), high))

    def _at(self, time: float, moving: Tensor | None = None) -> Tensor:
        """The state at one time inside the span."""
        n = max(int(np.searchsorted(self._starts, self.direction * time, side="right")) - 1, 0)
        step = self._steps[n]
        taken = step.taken
        assert taken.stages is not None
        h = step.t_next - step.t
        if moving is None:
            weights = weights_tensor(taken.tableau, np.array([(time - step.t) / h]), taken.stages)
        else:
            weights = differentiable_weights(taken.tableau, (moving[None] - step.t) / h).to(taken.stages)
        return torch.addmm(taken.y.reshape(-1), weights, taken.stages, alpha=h).view(taken.y.shape)


def _without_graph(step: AcceptedStep) -> AcceptedStep:
    taken = step.taken
    assert taken.stages is not None
    if not taken.stages.requires_grad:
        return step
    return replace(step, taken=replace(taken, y=taken.y.detach(), stages=taken.stages.detach()))

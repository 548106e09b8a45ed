"""Fits on their way: where they are, when they end, and the journal by which they may go on."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from skode.equations.control import LAST_WEIGHT
from skode.equations.sensitivities import MAX_STEPS
from skode.equations.shooting import Shots
from skode.training import Checkpoint


@dataclass(frozen=True)
class Limits:
    """When a descent ends, and the journal by which it may go on.

    Attributes
    ----------
    max_iter : int
        Largest number of steps.
    tol : float
        Gain in the log-likelihood below which a fit has converged.
    report : callable or None
        Called after each iteration with its number, the number of fits left and their least loss.
    deadline : float
        When no more steps begin, by :func:`time.monotonic`.
    checkpoint : Checkpoint
        The journal of the fit.
    hopeless : callable or None
        Called once, after some steps, with the fits on their way; where it is true, the descent ends.
    """

    max_iter: int
    tol: float
    report: Callable[[int, int, float], None] | None = None
    deadline: float = math.inf
    checkpoint: Checkpoint = field(default_factory=Checkpoint)
    hopeless: Callable[[Fits], bool] | None = None


@dataclass
class Fits:
    """Fits on their way: arrays with one entry for each cell, start after start.

    Attributes
    ----------
    start : ndarray of int, of shape (n_cells,)
        The start that each cell belongs to.
    family : ndarray of int, of shape (n_starts,)
        Starts with the same unknowns and other states of the segments are of one family: once one of them has
        converged, the others go on as long as they are better.
    weight : ndarray of shape (n_starts,)
        First weights of the defects, in units of an observation's.
    u : ndarray of shape (n_cells, n_unknowns)
        Scaled unknowns.
    nodes : ndarray of shape (n_cells, n_nodes, n_states)
        Starts of the segments.
    free : ndarray of bool, of shape (n_cells, n_unknowns)
        Which unknowns are searched for.
    scale : ndarray of shape (n_starts, n_outputs)
        Standard deviations of the noise.
    n_iter : ndarray of int, of shape (n_cells,)
        Steps tried.
    converged : ndarray of bool, of shape (n_cells,)
        Whether no step promises more than the tolerance.
    penalty : ndarray of shape (n_cells,)
        The penalty of the defects that are left.
    interrupted, out_of_time : bool
        Whether Ctrl-C ended the iteration, or its deadline.
    max_steps : int
        Attempted steps of the solver after which a trial is given up.
    shots : Shots or None
        The solutions of all cells where they ended; None where the search was interrupted.
    precision : ndarray of shape (n_starts, n_shared) or None
        Precisions of the prior, where there is one.
    last_weight : float
        Largest weight of the defects.
    lighter : bool
        Whether weights fall where a step would gain but for defects that its linearisation does not see. If not, steps
        are damped instead.
    """

    start: np.ndarray
    family: np.ndarray
    weight: np.ndarray
    u: np.ndarray
    nodes: np.ndarray
    free: np.ndarray
    scale: np.ndarray
    n_iter: np.ndarray
    converged: np.ndarray
    penalty: np.ndarray
    precision: np.ndarray | None = None
    last_weight: float = LAST_WEIGHT
    lighter: bool = True
    interrupted: bool = False
    out_of_time: bool = False
    max_steps: int = MAX_STEPS
    shots: Shots | None = None

    def state(self) -> dict[str, Any]:
        """All of it, for a checkpoint."""
        return dict(vars(self))

    def go_on_from(self, state: dict[str, Any]) -> None:
        """Be as the fits whose state this is."""
        vars(self).update(state)

"""What a solve did, counted."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Statistics:
    """Counts of one solve and of the gradient computed from it.

    Attributes
    ----------
    nfev : int
        Evaluations of ``func`` in the forward solve, those of rejected steps included.
    n_accepted, n_rejected : int
        Steps of the forward solve.
    nfev_backward : int
        Evaluations of ``func`` together with its vector-Jacobian product, made for gradients; 0 until ``backward``
        is called.
    """

    nfev: int = 0
    n_accepted: int = 0
    n_rejected: int = 0
    nfev_backward: int = 0

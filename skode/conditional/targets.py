"""Checks of targets that have no density, or look as if they had none."""

from __future__ import annotations

import numpy as np

from skode.density.columns import LARGEST_ATOM, LEAST_ATOM, largest_atom
from skode.training import warn_caller


def check_targets(targets: np.ndarray, weights: np.ndarray) -> None:
    """Raise an error for targets of one value, and warn of those that look discrete.

    Parameters
    ----------
    targets : ndarray of shape (n, n_outputs)
        Targets of samples that differ.
    weights : ndarray of shape (n,)
        The number of times that each counts.
    """
    spread, size = np.ptp(targets, axis=0), np.abs(targets).max(axis=0)
    constant = np.flatnonzero(spread <= 1e-12 * size)
    if len(constant):
        which = "y" if targets.shape[1] == 1 else f"Output {constant[0]} of y"
        raise ValueError(f"{which} has one value only (up to rounding), which has no density.")
    total = max(weights.sum(), len(targets))
    for i, column in enumerate(targets.T):
        share = largest_atom(column, weights) / weights.sum()
        if share > LARGEST_ATOM and share * total >= LEAST_ATOM:
            which = "y" if targets.shape[1] == 1 else f"output {i} of y"
            warn_caller(
                f"One value makes up {share:.0%} of {which}: it looks discrete, and the density there is unbounded, so "
                "that likelihoods mean little. Predict classes or counts by another model.",
                UserWarning,
            )

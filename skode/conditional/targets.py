"""Checks of targets that have no density, or look as if they had none."""

from __future__ import annotations

import numpy as np

from skode.density.columns import LARGEST_ATOM, LEAST_ATOM, dependent_columns, largest_atom
from skode.training import warn_caller


def check_targets(targets: np.ndarray, weights: np.ndarray, rows: np.ndarray) -> None:
    """Raise an error for targets of one value, and warn of those that look discrete or are linearly dependent.

    Parameters
    ----------
    targets : ndarray of shape (n, n_outputs)
        Targets of samples that differ.
    weights : ndarray of shape (n,)
        The number of times that each counts.
    rows : ndarray of shape (n_train,)
        Positions of the samples that are trained on; the others are set aside.
    """
    for some, where in ((slice(None), ""), (rows, f" in the {len(rows)} samples that are trained on")):
        constant = np.flatnonzero(np.ptp(targets[some], axis=0) <= 1e-12 * np.abs(targets[some]).max(axis=0))
        if len(constant):
            which = "y" if targets.shape[1] == 1 else f"Output {constant[0]} of y"
            remedy = " The others are set aside: set early_stopping=False, or give more samples." if where else ""
            raise ValueError(f"{which} has one value only (up to rounding){where}, which has no density.{remedy}")
    targets, weights = targets[rows], weights[rows]
    dependent, n_too_many = dependent_columns(targets, weights)
    if n_too_many:
        warn_caller(
            f"Outputs {dependent.tolist()} of y are linearly dependent: their joint density is unbounded, so that "
            f"likelihoods mean little. Leave out {n_too_many} of them, and compute it from the others.",
            UserWarning,
        )
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

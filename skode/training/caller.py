"""Warnings that point at the user's line."""

from __future__ import annotations

import sys
import warnings

import numpy as np

#: Packages that stand between a user's line and a warning: this one, and those that call estimators for the user.
BETWEEN = frozenset({"skode", "sklearn", "joblib"})


def warn_caller(message: str, category: type[Warning]) -> None:
    """Warn at the line that called into the library, however many of its functions and wrappers lie between.

    Where estimators are fitted in another process there is no such line, and the outermost one is named.

    Parameters
    ----------
    message : str
        The warning.
    category : type
        Its class.
    """
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] in BETWEEN:
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=level)


def warn_of_overflow(values: np.ndarray, what: str, then: str) -> None:
    """Warn where some of the values, one or several a sample, are beyond the numbers of their dtype.

    Parameters
    ----------
    values : ndarray of shape (n_samples, ...)
        The values.
    what : str
        Their name, in the plural.
    then : str
        The results that they became, and the reason.
    """
    beyond = ~np.isfinite(values).reshape(len(values), -1).all(axis=1)
    if beyond.any():
        warn_caller(
            f"The {what} of {beyond.sum()} of {len(values)} samples, such as number {np.argmax(beyond)}, are beyond "
            f"the numbers of {values.dtype}, and {then}.",
            UserWarning,
        )

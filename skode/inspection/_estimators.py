"""Errors for estimators that displays cannot draw."""

from __future__ import annotations

from typing import Any

from sklearn.pipeline import Pipeline


def refusal(needed: str, estimator: Any, *, with_rows: bool = True) -> TypeError:
    """The error for an estimator that is not what is ``needed``; of a search or a pipeline it says what to pass.

    Parameters
    ----------
    needed : str
        The requirement, with which the message begins.
    estimator : object
        The estimator given.
    with_rows : bool
        Whether the display is given X as well, which a pipeline's last step sees transformed.
    """
    kind = type(estimator).__name__
    if hasattr(estimator, "best_estimator_"):
        return TypeError(f"{needed}; got a {kind}: pass its best_estimator_.")
    if isinstance(estimator, Pipeline):
        rows = ", with X as that step sees it: pipeline[:-1].transform(X)" if with_rows else ""
        return TypeError(f"{needed}; got a {kind}: pass its last step, pipeline[-1]{rows}.")
    return TypeError(f"{needed}; got {estimator!r}.")

"""Answers from one model, while other threads may refit the estimator."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

Estimator = TypeVar("Estimator")
Method = TypeVar("Method", bound=Callable[..., Any])


def snapshot(estimator: Estimator) -> Estimator:
    """Copy an estimator, but not its attributes.

    A fit that ends in another thread (see :func:`skode.training.draft.draft`) changes the attributes of the estimator,
    all at once, but not those of its copy.
    """
    copied: Estimator = object.__new__(type(estimator))
    vars(copied).update(vars(estimator))
    return copied


def of_one_model(method: Method) -> Method:
    """Let a method of an estimator read all attributes of one fit. It must not set any."""

    @functools.wraps(method)
    def answering(self: Any, *args: Any, **kwargs: Any) -> Any:
        return method(snapshot(self), *args, **kwargs)

    return answering  # type: ignore[return-value]

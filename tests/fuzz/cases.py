"""A case of the fuzz: an estimator, what it is given, and the calls that are made of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator

from tests.fuzz.outcomes import ENDS, End, WrongAnswerError, attempt

#: Calls made of an estimator that was fitted; which ones is drawn.
CALLS = 3


@dataclass(frozen=True)
class Case:
    """One case.

    Attributes
    ----------
    estimator : BaseEstimator
        The estimator, not fitted.
    steps : dict of str to callable
        Calls by name, of which the first fits; some of the others are made where it did.
    told : dict
        What the case is, for the report.
    rng : Generator
        Source of what is left to be drawn.
    """

    estimator: BaseEstimator
    steps: dict[str, Callable[[], Any]]
    told: dict[str, Any]
    rng: np.random.Generator

    def run(self) -> list[End]:
        """How the calls end; the worst of them is how the case ends."""
        columns = {f"column_{word}" for word in [*range(30), "odd"]}
        names = {*self.estimator.get_params(deep=False), *columns}
        (first, fit), *others = self.steps.items()
        ends = [attempt(first, fit, names)]
        if hasattr(self.estimator, "module_"):
            chosen = self.rng.permutation(len(others))[:CALLS]
            ends += [attempt(*others[i], names) for i in chosen]
        return ends


def worst(ends: list[End]) -> End:
    """The end that counts for a case."""
    return max(ends, key=lambda end: ENDS.index(end.kind))


def same(what: str, found: Any, expected: Any) -> None:
    """Note an answer that is not as expected."""
    if not np.array_equal(np.asarray(found), np.asarray(expected), equal_nan=np.asarray(found).dtype.kind == "f"):
        raise WrongAnswerError(f"{what}: {found!r} is not {expected!r}")


def holds(what: str, condition: Any) -> None:
    """Note that something does not hold of an answer."""
    if not condition:
        raise WrongAnswerError(f"it does not hold that {what}")

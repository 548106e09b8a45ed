"""Errors of failed solves and of want of memory, in terms of the parameters of estimators."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from skode.solvers import (
    ConvergenceError,
    MaxStepsError,
    NonFiniteDerivativeError,
    SolverError,
    StepSizeUnderflowError,
)

EASIER = "lower learning_rate_init or raise alpha and fit again, for easier dynamics"

ADVICE: dict[type[SolverError], str] = {
    MaxStepsError: "Loosen rtol and atol (float32 can't meet 1e-6), set method='kvaerno5' (for stiff dynamics), or "
    f"{EASIER}.",
    NonFiniteDerivativeError: "See that X has no extreme values and that field, if it is yours, is finite; or "
    f"{EASIER}.",
    StepSizeUnderflowError: f"Loosen rtol and atol or set dtype='float64'; or {EASIER}.",
    ConvergenceError: "Lower step_size, or set method='kvaerno5', which chooses its own steps.",
}

COARSER = "Raise step_size."


def in_terms_of_parameters(error: SolverError, *, adaptive: bool) -> SolverError:
    """The same failure with advice on an estimator's parameters, which has no ``max_steps`` and no ``func``.

    Parameters
    ----------
    error : SolverError
        The error of the solver.
    adaptive : bool
        Whether the method chooses its own steps.

    Returns
    -------
    SolverError
        An error of the same type.
    """
    advice = ADVICE.get(type(error), error.advice)
    if not adaptive and isinstance(error, MaxStepsError):
        advice = COARSER
    reason = error.reason.replace("max_steps=", "").replace("func(t, y)", "The vector field")
    return type(error)(reason, time=error.time, step_size=error.step_size, advice=advice, sample=error.sample)


def is_want_of_memory(error: BaseException) -> bool:
    """Whether an error says that there is no memory, on whatever device; torch has no type for that on a CPU."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    unallocated = ("can't allocate memory", "Storage size calculation overflowed", "integer multiplication overflow")
    return isinstance(error, RuntimeError) and any(words in str(error) for words in unallocated)


def reason_of(error: BaseException) -> str:
    """The first line of an error's message, or its type where it has none."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


@contextmanager
def memory_for(name: str, value: Any) -> Iterator[None]:
    """MemoryError that names an argument where there is no memory for as many as it says."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_want_of_memory(error):
            raise
        raise MemoryError(
            f"{name}={value!r} takes more memory than there is: lower it. ({reason_of(error)})"
        ) from error

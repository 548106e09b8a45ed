"""Calls of the user's functions, whose errors name them and the shapes of their arguments."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from skode.solvers import SolverError
from skode.training.failures import is_want_of_memory, reason_of

#: Errors of functions that are written wrongly. Classes of the user's own stay as they are: they may be waited for.
FAULTS = (ArithmeticError, AttributeError, LookupError, NameError, RuntimeError, TypeError, ValueError)


def called(name: str, function: Callable[..., Any], *args: Any) -> Any:
    """The value of a user's function.

    Parameters
    ----------
    name : str
        The function as messages write it, with the names of its arguments: ``"rhs(t, y, p)"``.
    function : callable
        The function.
    *args
        Its arguments: tensors, and dicts of these by name.

    Raises
    ------
    ValueError
        Where the function fails, from its error, with the shapes that it was given.
    """
    try:
        return function(*args)
    except FAULTS as error:
        if isinstance(error, SolverError) or is_want_of_memory(error):
            raise
        names = name[name.rindex("(") + 1 : -1].split(", ")
        given = [f"{one} {_shape(value)}" for one, value in zip(names, args, strict=False)]
        raise ValueError(
            f"{name} fails with {type(error).__name__}: {reason_of(error).rstrip('.')}. It was called with "
            f"{', '.join(given)}. Tensors may carry tangents of forward-mode AD: use torch's operations on them."
        ) from error


def _shape(value: Any) -> str:
    """Shapes of a tensor, or of the tensors of a dict."""
    if isinstance(value, Mapping):
        parts = ", ".join(f"{name!r} {_shape(part)}" for name, part in value.items())
        return f"holding {parts}" if parts else "holding nothing"
    return f"of shape {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)

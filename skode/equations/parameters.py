"""Unknown numbers: their starts, their bounds and the scale on which they are searched for."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np

#: Logarithms go no further from that of the start than this, so that exp neither overflows nor vanishes.
FURTHEST_LOG = 30.0


@dataclass(frozen=True)
class Parameter:
    """An unknown number.

    Attributes
    ----------
    name : str
        Its name.
    start, low, high : float
        Where the search starts, and the bounds; infinite where there are none.
    """

    name: str
    start: float
    low: float = -math.inf
    high: float = math.inf

    @property
    def log(self) -> bool:
        """Whether it is searched for on a logarithmic scale: where it is bounded by 0 from below and starts above."""
        return self.low == 0.0 and self.start > 0.0

    @classmethod
    def read(cls, name: str, given: Any, argument: str) -> Parameter:
        """A parameter from a start, or from ``(start, low, high)`` with None for no bound.

        Raises
        ------
        ValueError
            Where these are not numbers, or the bounds exclude the start; the message names the argument.
        """
        entry = f"{argument}[{name!r}]"
        given = given.tolist() if hasattr(given, "tolist") else given
        parts = tuple(given) if isinstance(given, tuple | list) else (given, None, None)
        if len(parts) != 3:
            raise ValueError(
                f"{entry}={given!r} has {len(parts)} entries: it must be a start, or (start, low, high) with None for "
                "no bound, as in (1.0, 0, None)."
            )
        start = _number(parts[0], "start", entry, given)
        low = -math.inf if parts[1] is None else _number(parts[1], "low", entry, given)
        high = math.inf if parts[2] is None else _number(parts[2], "high", entry, given)
        if not math.isfinite(start):
            raise ValueError(f"{entry} starts at {start}; it must start at a finite number.")
        if not low < high:
            raise ValueError(f"{entry} has the bounds {low} and {high}; the first must be below the second.")
        if not low <= start <= high:
            raise ValueError(f"{entry} starts at {start}, which its bounds, {low} and {high}, exclude.")
        return cls(name, start, low, high)


def _number(value: Any, part: str, entry: str, given: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, Real) or math.isnan(float(value)):
        wanted = "a number" if part == "start" else "a number, or None for no bound"
        raise ValueError(
            f"{entry}={given!r}: its {part} is {value!r}, but must be {wanted}. An entry is a start, or "
            "(start, low, high)."
        )
    return float(value)


def read_parameters(params: Any, argument: str = "params") -> list[Parameter]:
    """Parameters from a mapping of names to starts and bounds."""
    if not isinstance(params, Mapping):
        raise ValueError(
            f"{argument} must be a dict of names to starts, or to (start, low, high), got {type(params).__name__}."
        )
    if wrong := [name for name in params if not isinstance(name, str)]:
        raise ValueError(f"{argument} must have names that are str, got {wrong[0]!r}.")
    return [Parameter.read(name, given, argument) for name, given in params.items()]


def known_names(names: Any, known: Iterable[str], argument: str) -> list[str]:
    """Names of parameters, each of which must be known."""
    names = [names] if isinstance(names, str) else list(names)
    known = list(known)
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"{argument} names {unknown[0]!r}, which is not in params; they are {known}.")
    return names


class Scales:
    """The scales of several unknowns, as arrays.

    A number that is bounded by 0 from below and starts above is searched for by its logarithm: then a step that
    multiplies it is as long wherever it is, and a start may be off by a factor. All other bounds stay bounds of the
    scaled variable, at which steps end. A map of the whole line into an interval (logistic, sine) would need no bounds,
    but its slope vanishes at them: an optimum that lies on a bound would be at infinity, and Gauss-Newton steps
    towards it longer and longer.

    Parameters
    ----------
    parameters : sequence of Parameter
        The unknowns.

    Attributes
    ----------
    start, low, high : ndarray of shape (n,)
        Starts and bounds of the scaled variables.
    log : ndarray of bool, of shape (n,)
        Which are logarithms.
    """

    def __init__(self, parameters: list[Parameter]) -> None:
        self.parameters = parameters
        self.names = [parameter.name for parameter in parameters]
        self.log = np.array([parameter.log for parameter in parameters], dtype=bool)
        start = np.array([parameter.start for parameter in parameters], dtype=np.float64)
        low = np.array([parameter.low for parameter in parameters], dtype=np.float64)
        high = np.array([parameter.high for parameter in parameters], dtype=np.float64)
        self.start = self.scaled(start)
        with np.errstate(divide="ignore", invalid="ignore"):
            log_low, log_high = np.maximum(self.start - FURTHEST_LOG, np.log(low)), np.log(high)
        self.low = np.where(self.log, log_low, low)
        self.high = np.where(self.log, np.minimum(log_high, self.start + FURTHEST_LOG), high)

    def scaled(self, values: np.ndarray) -> np.ndarray:
        """Scaled variables of values."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(self.log, np.log(values), values)

    def values(self, scaled: np.ndarray) -> np.ndarray:
        """Values of scaled variables."""
        return np.where(self.log, np.exp(np.where(self.log, scaled, 0.0)), scaled)

    def slopes(self, scaled: np.ndarray) -> np.ndarray:
        """Derivatives of the values by the scaled variables."""
        return np.where(self.log, np.exp(np.where(self.log, scaled, 0.0)), 1.0)

"""JSON as skode writes it: no names twice, no endless nesting, no numbers that are none."""

from __future__ import annotations

import json
from typing import Any, NoReturn

import numpy as np

from skode.persistence.errors import DamagedFileError, UnsavableError

#: Levels of nesting in a document; see :mod:`skode.persistence.encoder`, whose table of objects is flat.
LEVELS = 8

#: Digits of the longest integers that are written as such.
LONGEST_INT = 20


#: Most lists and objects, which takes a fraction of a second.
MOST_CONTAINERS = 200_000


def dumped(document: dict[str, Any]) -> str:
    """A document as text, in ASCII.

    Raises
    ------
    UnsavableError
        If it is so large or deep that it would not be read.
    """
    text = json.dumps(document, allow_nan=False, separators=(",", ":"))
    problem = _problem(text.encode("ascii"), LEVELS)
    if problem is not None:
        raise UnsavableError(f"The object can't be saved: {problem}.")
    return text


def parsed(text: bytes, *, levels: int = LEVELS) -> dict[str, Any]:
    """A document read from text.

    Parameters
    ----------
    text : bytes
        The text.
    levels : int, default=8
        Most levels of nesting.

    Raises
    ------
    DamagedFileError
        If this is not a JSON object of its own kind: too deep, with a name twice, or with numbers such as NaN.
    """
    problem = _problem(text, levels)
    if problem is not None:
        raise DamagedFileError(problem)
    try:
        document = json.loads(text, object_pairs_hook=_unique, parse_int=_short, parse_constant=_refused)
    except DamagedFileError:
        raise
    except (ValueError, RecursionError) as error:
        raise DamagedFileError(f"its document is not JSON ({error})") from None
    if not isinstance(document, dict):
        raise DamagedFileError("its document is not a JSON object")
    return document


def _problem(text: bytes, levels: int) -> str | None:
    """Why a text is not to be parsed, by its brackets; None where it may be."""
    # what stands in strings does not count: escapes are taken away, then every other stretch between quotes
    bare = text.replace(rb"\\", b"").replace(rb"\"", b"").split(b'"')[::2]
    brackets = np.frombuffer(b"".join(bare), dtype=np.uint8)
    opening = np.isin(brackets, np.frombuffer(b"[{", np.uint8))
    if np.count_nonzero(opening) > MOST_CONTAINERS:
        return "its document has too many parts"
    steps = opening.astype(np.int8) - np.isin(brackets, np.frombuffer(b"]}", np.uint8))
    return "its document is nested too deeply" if np.cumsum(steps, dtype=np.int32).max(initial=0) > levels else None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise DamagedFileError("its document has a name twice")
    return found


def _short(digits: str) -> int:
    if len(digits) > LONGEST_INT:
        raise DamagedFileError("its document has too long a number")
    return int(digits)


def _refused(constant: str) -> NoReturn:
    raise DamagedFileError(f"its document has the number {constant}")

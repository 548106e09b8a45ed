"""JSON as skode writes it: no names twice, no endless nesting, no numbers that are none."""

from __future__ import annotations

import json
import re
from typing import Any, NoReturn

import numpy as np

from skode.persistence.errors import DamagedFileError

#: Levels of nesting in a document; see :mod:`skode.persistence.encoder`, whose table of objects is flat.
LEVELS = 8

#: Digits of the longest integers that are written as such.
LONGEST_INT = 20

#: A string, or the beginning of one that never ends; so made that it always matches, in linear time.
STRING = re.compile(rb'"[^"\\]*(?:\\(?:.|\Z)[^"\\]*)*(?:"|\Z)', flags=re.DOTALL)


def dumped(document: dict[str, Any]) -> str:
    """A document as text, in ASCII."""
    return json.dumps(document, allow_nan=False, separators=(",", ":"))


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
    brackets = np.frombuffer(STRING.sub(b"", text), dtype=np.uint8)
    steps = np.isin(brackets, np.frombuffer(b"[{", np.uint8)).astype(np.int64)
    steps -= np.isin(brackets, np.frombuffer(b"]}", np.uint8))
    if np.cumsum(steps).max(initial=0) > levels:
        raise DamagedFileError("its document is nested too deeply")
    try:
        document = json.loads(text, object_pairs_hook=_unique, parse_int=_short, parse_constant=_refused)
    except (ValueError, RecursionError) as error:
        if isinstance(error, DamagedFileError):
            raise
        raise DamagedFileError(f"its document is not JSON ({error})") from None
    if not isinstance(document, dict):
        raise DamagedFileError("its document is not a JSON object")
    return document


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

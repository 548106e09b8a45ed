"""Times so far from the rest of their series that they must be mistakes: a wrong century, or the year 9999."""

from __future__ import annotations

import numpy as np
import pandas as pd
from sklearn.exceptions import ConvergenceWarning

from skode.frames import LongRows, times_of_kind
from skode.training import warn_caller

#: A gap of so many typical spans is refused, as no dynamics can be followed over it, and one of so many is warned of.
REFUSED, WARNED_OF = 1000.0, 20.0

#: Where there is one series, its own rows without the gap are typical, if there are so many.
FEWEST_ROWS = 4


def check_absurd_times(rows: LongRows, typical_span: float | None = None) -> None:
    """See that no series has a gap which dwarfs both the rest of it and what other series span.

    A long series among short ones is not refused, nor is one of a few campaigns of measurements by itself: the gap
    counts in the spans of other series, or where there are none, if a single time lies beyond it.

    Parameters
    ----------
    rows : LongRows
        All rows.
    typical_span : float, default=None
        Typical span of the series that a model was fitted to; None: the median of the other series here.

    Raises
    ------
    ValueError
        Naming series, row and time, where the gap is more than :data:`REFUSED` times as long.

    Warns
    -----
    ConvergenceWarning
        Where it is more than :data:`WARNED_OF` times as long as other series span.
    """
    codes, ids = pd.factorize(rows.series)
    order = np.lexsort((rows.time, codes))
    codes, time = codes[order], rows.time[order]
    gaps = np.diff(time, prepend=time[:1])
    gaps[np.flatnonzero(np.diff(codes, prepend=-1))] = 0.0
    after = int(np.argmax(gaps))  # the row after the longest gap
    gap, own = gaps[after], np.flatnonzero(codes == codes[after])
    span = np.ptp(time[own])
    if typical_span is None:
        starts = np.searchsorted(codes, np.arange(len(ids)))
        ends = np.append(starts[1:], len(codes)) - 1
        spans = np.delete(time[ends] - time[starts], codes[after])
        typical_span = float(np.median(spans[spans > 0])) if (spans > 0).any() else None
    n_before = after - own[0]
    n_beyond = min(n_before, len(own) - n_before)
    if typical_span is None and not (n_beyond == 1 and len(own) >= FEWEST_ROWS):
        return
    rest = (time[after - 1] - time[own[0]]) + (time[own[-1]] - time[after])
    typical = max(rest, typical_span or 0.0)
    if gap <= WARNED_OF * typical or (typical_span is None and gap <= REFUSED * typical):
        return
    outlier = after if n_before > len(own) - n_before or len(own) == 2 else after - 1
    spans_what = "a typical one" if typical_span is not None else "all its other rows"
    message = (
        f"Series {ids[codes[after]]!s} spans {_length(span, rows.time_kind)}; {spans_what} "
        f"{_length(typical_span or typical, rows.time_kind)}. Row {rows.positions[order[outlier]]} of X, at "
        f"{_shown(time[outlier], rows.time_kind)}, is {_length(gap, rows.time_kind)} away from the next. "
        "Correct or drop it"
    )
    if gap > REFUSED * typical:
        raise ValueError(f"{message}; if it is right, give what lies beyond the gap a series id of its own.")
    warn_caller(
        f"{message}, or give what lies beyond the gap a series id of its own: dynamics that are followed so far may "
        "diverge in training, whatever the learning rate.",
        ConvergenceWarning,
    )


def _length(length: float, kind: str) -> str:
    """A stretch of time in words."""
    if kind == "number":
        return f"{length:,.6g}" if length < 1e15 else f"{length:.3g}"
    units = (("days", 86_400.0), ("hours", 3600.0), ("minutes", 60.0))
    unit, seconds = next(((name, size) for name, size in units if length >= size), ("seconds", 1.0))
    return f"{length / seconds:,.0f} {unit}"


def _shown(time: float, kind: str) -> str:
    """A time as the user would write it."""
    return f"{time:.10g}" if kind == "number" else str(times_of_kind(np.array([time]), kind).iloc[0])

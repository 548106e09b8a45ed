"""Observations of several series, cut into segments for multiple shooting."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from skode.equations.events import Course, Events

#: Segments of a series, at most, where the number is chosen.
MOST_SEGMENTS = 40


def most_segments(n_segments: Any) -> int:
    """Largest number of segments of a series, from the estimators' parameter ``n_segments``."""
    return MOST_SEGMENTS if n_segments == "auto" else int(n_segments)


def ranges(pointer: np.ndarray, which: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Items of several parts in a line, and the position in ``which`` of the part that each belongs to.

    The items of part i are those from ``pointer[i]`` up to ``pointer[i + 1]``.
    """
    counts = pointer[which + 1] - pointer[which]
    owners = np.repeat(np.arange(len(which)), counts)
    return np.arange(counts.sum()) + np.repeat(pointer[which] - (np.cumsum(counts) - counts), counts), owners


def _borders(t0: float, times: np.ndarray, n_segments: int) -> np.ndarray:
    """Borders of segments that have equal shares of the time and of the observations, in the mean of the two.

    Shares of the time alone would leave many observations to one segment where times are spaced logarithmically,
    shares of the observations alone much time where there are gaps: the longest segment tells the cost of a batch.
    """
    knots = np.concatenate([[t0], times])
    passed = 0.5 * ((knots - t0) / (knots[-1] - t0) + np.arange(len(knots)) / len(times))
    borders = np.interp(np.linspace(0.0, 1.0, n_segments + 1), passed, knots)
    borders[0], borders[-1] = t0, times[-1]
    return borders


def _course(
    outputs: list[list[tuple[float, int]]], spans: np.ndarray, segment_pointer: np.ndarray, events: Events | None
) -> Course:
    """The course of segments whose output times, with the number of events before each, are given."""
    shape = len(outputs), max(map(len, outputs), default=1)
    times, before = np.full(shape, np.nan), np.zeros((shape[0], 1 + shape[1]), dtype=np.int64)
    for row, own in enumerate(outputs):
        times[row, : len(own)], before[row, 1 : 1 + len(own)] = zip(*own, strict=True)
    if events is None:
        return Course.smooth(spans, times)
    series = np.repeat(np.arange(len(segment_pointer) - 1), np.diff(segment_pointer))
    first = np.zeros(len(spans), dtype=bool)
    first[segment_pointer[:-1][np.diff(segment_pointer) > 0]] = True
    before[:, 0] = np.where(first, 0, events.until(series, spans[:, 0]))
    return events.course(series, spans, times, before)


def _borders_with_events(t0: float, times: np.ndarray, n_segments: int, at: np.ndarray | None) -> np.ndarray:
    """Borders of a series' segments, with its events, at the times given, where these are no more than allowed."""
    distinct = np.unique(times[times > t0])
    borders = np.array([t0, t0])  # where all were seen at the start, after a dose
    if len(distinct):
        borders = _borders(t0, distinct, min(n_segments, len(distinct)))
    if at is None:
        return borders
    every = np.union1d(borders, at[(at > t0) & (at < borders[-1])])
    return every if n_segments >= len(every) - 1 >= 1 else borders


@dataclass(frozen=True)
class Layout:
    """Observations of several series, and the segments that each is cut into.

    Attributes
    ----------
    t0 : ndarray of shape (n_series,)
        When each series starts.
    row_pointer, segment_pointer : ndarray of int, of shape (n_series + 1,)
        Where each series' rows and segments begin.
    time : ndarray of shape (n_rows,)
        Times of the rows, which are sorted by series, then time.
    y, weights : ndarray of shape (n_rows, n_outputs)
        Observed values, 1 where there is none, and their weights, 0 there.
    node, slot : ndarray of int, of shape (n_rows,)
        The segment of each row, counted from its series' first, and its position among the segment's output times;
        -1 where the row stands at the start of its series.
    course : Course
        From when to when each segment goes, its output times, of which the last is its end, and the events on its way.
        Those at its end belong to it, those at its start only where its series starts there.
    last : ndarray of int, of shape (n_segments,)
        Position of that last one.
    """

    t0: np.ndarray
    row_pointer: np.ndarray
    segment_pointer: np.ndarray
    time: np.ndarray
    y: np.ndarray
    weights: np.ndarray
    node: np.ndarray
    slot: np.ndarray
    course: Course
    last: np.ndarray

    @classmethod
    def of(
        cls,
        codes: np.ndarray,
        time: np.ndarray,
        y: np.ndarray,
        weights: np.ndarray,
        t0: np.ndarray,
        n_segments: int,
        events: Events | None = None,
        rank: np.ndarray | None = None,
    ) -> Layout:
        """Series cut into at most ``n_segments`` segments each, and no more than it has times of observations.

        They end at events as well, as long as that makes no more than ``n_segments`` of them.

        Parameters
        ----------
        codes : ndarray of int, of shape (n_rows,)
            The series of each row, sorted; each of them has a row.
        time, y, weights
            As the attributes, with NaN in y where nothing was observed, and weights of shape (n_rows,).
        t0 : ndarray of shape (n_series,)
            When each series starts, not after its first row.
        n_segments : int
            The largest number of segments of a series.
        events : Events or None
            Doses of the series, and times at which their inputs jump.
        rank : ndarray of int, of shape (n_rows,), or None
            How many of the doses at a row's time come before it; None: none of them.
        """
        n_series = len(t0)
        row_pointer = np.searchsorted(codes, np.arange(n_series + 1))
        before = np.zeros(len(time), dtype=np.int64) if rank is None else rank
        if events is not None:
            before = before + events.until(codes, time, inclusive=False)
        node, slot = np.zeros(len(time), dtype=np.int64), np.full(len(time), -1)
        counts = np.zeros(n_series, dtype=np.int64)
        ends: list[list[tuple[float, int]]] = []
        spans: list[tuple[float, float]] = []
        for i in range(n_series):
            own = slice(row_pointer[i], row_pointer[i + 1])
            inside = (time[own] > t0[i]) | (before[own] > 0)
            if not inside.any():
                continue
            at = None if events is None else events.time[events.pointer[i] : events.pointer[i + 1]]
            borders = _borders_with_events(t0[i], time[own], n_segments, at)
            counts[i] = len(borders) - 1
            at_end = np.zeros(counts[i], dtype=np.int64)
            if events is not None:
                at_end = events.until(np.full(counts[i], i), borders[1:])
            holder = np.minimum(np.searchsorted(borders[1:], time[own], side="left"), counts[i] - 1)
            node[own] = np.where(inside, holder, 0)
            for k in range(counts[i]):
                here = np.flatnonzero(inside & (holder == k))
                read = [*zip(time[own][here].tolist(), before[own][here].tolist(), strict=True)]
                slots = {pair: j for j, pair in enumerate(dict.fromkeys([*read, (borders[k + 1], at_end[k])]))}
                slot[row_pointer[i] + here] = [slots[pair] for pair in read]
                ends.append([*slots])
                spans.append((borders[k], borders[k + 1]))
        segment_pointer = np.concatenate([[0], np.cumsum(counts)])
        observed = ~np.isnan(y)
        return cls(
            t0=t0,
            row_pointer=row_pointer,
            segment_pointer=segment_pointer,
            time=time,
            y=np.where(observed, y, 1.0),
            weights=np.where(observed, weights[:, None], 0.0),
            node=node,
            slot=slot,
            course=_course(ends, np.array(spans).reshape(-1, 2), segment_pointer, events),
            last=np.array([len(own) - 1 for own in ends], dtype=np.int64),
        )

    @property
    def spans(self) -> np.ndarray:
        """From when to when each segment goes, of shape (n_segments, 2)."""
        return self.course.spans

    @property
    def times(self) -> np.ndarray:
        """Output times of each segment, of shape (n_segments, n_slots)."""
        return self.course.times

    @property
    def n_series(self) -> int:
        """Number of series."""
        return len(self.t0)

    @property
    def n_nodes(self) -> int:
        """The largest number of segments of a series, at least 1."""
        return max(int(np.diff(self.segment_pointer).max(initial=1)), 1)

    @property
    def row_series(self) -> np.ndarray:
        """The series of each row."""
        return np.repeat(np.arange(self.n_series), np.diff(self.row_pointer))

    def node_times(self) -> np.ndarray:
        """When each segment of each series starts, of shape (n_series, n_nodes); NaN where there is none."""
        times = np.full((self.n_series, self.n_nodes), np.nan)
        times[:, 0] = self.t0
        segments, series = ranges(self.segment_pointer, np.arange(self.n_series))
        times[series, segments - self.segment_pointer[series]] = self.spans[segments, 0]
        return times


@dataclass(frozen=True)
class Cells:
    """Copies of some series in one batch: one for each pair of a start and a series.

    Attributes
    ----------
    series : ndarray of int, of shape (n_cells,)
        The series of each cell.
    segments, segment_cell, segment_node : ndarray of int, of shape (n_segments,)
        The cells' segments: their positions in the layout, the cell and the number in it of each.
    rows, row_cell, row_segment : ndarray of int, of shape (n_rows,)
        The cells' rows: their positions in the layout, the cell of each and its position among ``segments``; -1 where
        the row stands at the start.
    """

    series: np.ndarray
    segments: np.ndarray
    segment_cell: np.ndarray
    segment_node: np.ndarray
    rows: np.ndarray
    row_cell: np.ndarray
    row_segment: np.ndarray

    @classmethod
    def of(cls, layout: Layout, series: np.ndarray) -> Cells:
        """The cells of some series, which may come several times."""
        segments, segment_cell = ranges(layout.segment_pointer, series)
        rows, row_cell = ranges(layout.row_pointer, series)
        counts = np.diff(layout.segment_pointer)[series]
        first = np.cumsum(counts) - counts
        return cls(
            series=series,
            segments=segments,
            segment_cell=segment_cell,
            segment_node=segments - layout.segment_pointer[series[segment_cell]],
            rows=rows,
            row_cell=row_cell,
            row_segment=np.where(layout.slot[rows] < 0, -1, first[row_cell] + layout.node[rows]),
        )

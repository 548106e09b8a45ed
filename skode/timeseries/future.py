"""Rows of series at times to come: how far, how often, and with which covariates."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from skode.frames import LongRows, times_of_kind
from skode.timeseries.panel import Panel
from skode.timeseries.units import DAY, Units


def usual_steps(known: Panel) -> np.ndarray:
    """The median gap between the distinct times of each series' observations, or of all where it has only one.

    Raises
    ------
    ValueError
        If no series was observed at two times.
    """
    observed = known.observed()
    gaps = pd.Series(np.diff(observed.time))
    codes = observed.codes[1:]
    within = (np.diff(observed.codes) == 0) & (gaps > 0.0).to_numpy()
    if not within.any():
        raise ValueError("No series was observed at two times, between which a usual step lies: give times.")
    median = gaps[within].groupby(codes[within]).median().reindex(range(known.n_series))
    return median.fillna(gaps[within].median()).to_numpy()


def last_times(known: Panel) -> np.ndarray:
    """The last time at which each series was observed; of its last row where it never was."""
    last = known.origins.copy()
    for rows in (known, known.observed()):
        last[rows.codes] = rows.time  # in order: the last one stays
    return last


def steps_ahead(last: np.ndarray, step: np.ndarray, n_steps: np.ndarray, units: Units) -> tuple[np.ndarray, np.ndarray]:
    """Times ``last + step, last + 2 step, ...`` of series, and the series of each as a position.

    Where dates have a time zone, steps of whole days are days of its calendar, which are not all of 24 hours.
    """
    codes = np.repeat(np.arange(len(last)), n_steps)
    place = np.arange(len(codes)) - np.repeat(np.cumsum(n_steps) - n_steps, n_steps) + 1
    if units.time_zone is None:
        return last[codes] + step[codes] * place, codes
    by_calendar = np.isclose(np.remainder(step + 1.0, DAY), 1.0)
    start = np.where(by_calendar, units.local(last), last)
    times = start[codes] + step[codes] * place
    return np.where(by_calendar[codes], units.from_local(times), times), codes


def with_covariates(
    ids: pd.Index,
    times: np.ndarray,
    known: Panel,
    units: Units,
    covariates: LongRows | Callable[[np.ndarray, pd.Series], Any] | None,
) -> LongRows:
    """Rows of series at given times, with the covariates that these will have.

    Parameters
    ----------
    ids : Index of length n
        The series of each row.
    times : ndarray of shape (n,)
        Their times.
    known : Panel
        Rows of which covariates are known.
    units : Units
        Units of the model.
    covariates : LongRows, callable or None
        Rows from which covariates are known beside; or a function of ids and times, which has them as a frame or an
        array of shape (n, n_covariates); None: no others are known.
    """
    if callable(covariates):
        zone = units.time_zone
        given = covariates(ids.to_numpy(), times_of_kind(times, units.time_kind, zone))
        values = units.covariates_in_order(given, len(times))
    else:
        if covariates is not None:
            scaled = units.scaled_covariates(covariates.covariates)
            nothing = np.full((len(covariates), known.y.shape[1]), np.nan)
            amounts = units.amounts(covariates.covariates)
            known = known.joined(Panel.of(covariates.series, covariates.time, scaled, nothing, amounts=amounts))
        values = units.original_covariates(_interpolated(ids, times, known, linear=units.linear))
    return LongRows(ids.to_numpy(), times, units.time_kind, values, np.arange(len(times)), units.time_zone)


def _interpolated(ids: pd.Index, times: np.ndarray, known: Panel, *, linear: bool) -> np.ndarray:
    """Covariates of series at given times: linear between rows, or as in the last one, constant before and after.

    Without any rows they are 0, the mean.
    """
    values = np.zeros((len(times), known.covariates.shape[1]))
    if not values.shape[1]:
        return values
    positions = known.ids.get_indexer(ids)
    first, last = (np.searchsorted(known.codes, positions, side=side) for side in ("left", "right"))
    for code in np.unique(positions[last > first]):
        own = positions == code
        rows = slice(first[own][0], last[own][0])
        if not linear:
            before = np.searchsorted(known.time[rows], times[own], side="right") - 1
            values[own] = known.covariates[rows][np.maximum(before, 0)]
            continue
        for k, column in enumerate(known.covariates[rows].T):
            values[own, k] = np.interp(times[own], known.time[rows], column)
    return values


def joined(rows: LongRows, others: LongRows | None) -> LongRows:
    """Rows, and others after them."""
    if others is None:
        return rows
    return replace(
        rows,
        series=np.concatenate([rows.series, others.series]),
        time=np.concatenate([rows.time, others.time]),
        covariates=np.concatenate([rows.covariates, others.covariates]),
        positions=np.arange(len(rows) + len(others)),
    )

"""Rows to predict at, together with the observations of their series."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from skode.frames import LongRows
from skode.timeseries.doses import Doses, refuse_early
from skode.timeseries.panel import Panel
from skode.timeseries.units import Units
from skode.training import as_python, warn_caller


@dataclass(frozen=True)
class Query:
    """Rows to predict at.

    Attributes
    ----------
    panel : Panel
        The rows, sorted by series, then time.
    order : ndarray of int, of shape (n_rows,)
        Position of each row of the panel among the rows as the user passed them.
    known : Panel
        The observations that predictions are conditioned on.
    positions : ndarray of int, of shape (panel.n_series,)
        Position of each series in ``known``; -1 where it is not there.
    """

    panel: Panel
    order: np.ndarray
    known: Panel
    positions: np.ndarray

    @classmethod
    def of(cls, rows: LongRows, known: Panel, units: Units) -> Query:
        """The query of rows in any order; a series not known starts at the median start of the others.

        Warns
        -----
        UserWarning
            If ids are of another type than those known, or times of unknown series are long before that start.
        """
        codes, ids, positions, origins = _series_of(rows, known, units)
        return cls._of(rows, codes, ids, origins, known, positions, units)

    @classmethod
    def before(cls, rows: LongRows, known: Panel, units: Units) -> Query:
        """The query in which each row has a series to itself, with the observations of its own series at earlier times.

        Rows with the same before them share one. Series start where they do with all that is known.
        """
        codes, _, positions, origins = _series_of(rows, known, units)
        amounts = units.amounts(rows.covariates)
        if amounts is not None:
            known = _with_doses_of(rows, codes, amounts, known, positions, units)
        series = positions[codes]
        earlier = _n_earlier(rows.time, series, known)
        (own, lengths), prefix = np.unique(np.stack([codes, earlier]), axis=1, return_inverse=True)
        _, first = np.unique(prefix, return_index=True)
        starts = np.searchsorted(known.codes, series[first])
        ids = pd.RangeIndex(len(own))
        taken = np.repeat(starts - np.cumsum(lengths) + lengths, lengths) + np.arange(lengths.sum())
        prefixes = known.prefixes(ids, origins[own], np.repeat(ids.to_numpy(), lengths), taken)
        if amounts is not None:
            prefixes = _with_later_doses(prefixes, known, series[first], starts + lengths)
        place = np.where(positions[own] >= 0, ids, -1)
        return cls._of(rows, prefix.reshape(-1), ids, origins[own], prefixes, place, units)

    @classmethod
    def _of(
        cls,
        rows: LongRows,
        codes: np.ndarray,
        ids: pd.Index,
        origins: np.ndarray,
        known: Panel,
        positions: np.ndarray,
        units: Units,
    ) -> Query:
        """The query of rows in any order, of series with given ids, starts and positions in what is known."""
        order = np.lexsort((rows.time, codes))
        nothing = np.full((len(rows), known.y.shape[1]), np.nan)
        covariates = units.scaled_covariates(rows.covariates)
        amounts = units.amounts(rows.covariates)
        doses = None if amounts is None else Doses.of(codes[order], rows.time[order], amounts[order])
        panel = Panel(ids, origins, codes[order], rows.time[order], covariates[order], nothing, doses=doses)
        return cls(panel, order, known, positions)


def _series_of(rows: LongRows, known: Panel, units: Units) -> tuple[np.ndarray, pd.Index, np.ndarray, np.ndarray]:
    """Each row's series; of the series the ids, the positions in what is known, and the starts."""
    codes, distinct = pd.factorize(rows.series)
    ids = pd.Index(distinct)
    positions = known.ids.get_indexer(ids)
    if (positions < 0).all():
        _warn_of_other_ids(ids, known.ids)
    origins = np.where(positions >= 0, known.origins[positions], np.median(known.origins))
    amounts = units.amounts(rows.covariates)
    if amounts is not None:
        refuse_early(rows.series, (amounts != 0.0).any(axis=1) & (rows.time < origins[codes]))
    # A scale of time before the first row, for those not known.
    too_early = np.where(positions < 0, origins + (units.lead - 1.0) * units.time_scale, -np.inf)
    if (strange := rows.time < too_early[codes]).any():
        _warn_of_early_times(as_python(rows.series[strange][0]))
    return codes, ids, positions, origins


def _with_doses_of(
    rows: LongRows, codes: np.ndarray, amounts: np.ndarray, known: Panel, positions: np.ndarray, units: Units
) -> Panel:
    """What is known, with the doses that queried rows tell of known series."""
    of_known = positions[codes] >= 0
    if not of_known.any():
        return known
    nothing = np.full((int(of_known.sum()), known.y.shape[1]), np.nan)
    covariates = units.scaled_covariates(rows.covariates[of_known])
    told = Panel.of(rows.series[of_known], rows.time[of_known], covariates, nothing, amounts=amounts[of_known])
    return known.joined(told.after(known).dosed())


def _with_later_doses(prefixes: Panel, known: Panel, series: np.ndarray, stops: np.ndarray) -> Panel:
    """Series of the first rows of known ones, with the doses of the others: these are given, whatever was observed."""
    assert known.doses is not None
    dosed = np.flatnonzero(known.doses.given)
    first, last = (np.searchsorted(known.codes[dosed], series, side=side) for side in ("left", "right"))
    first = np.where(series < 0, last, np.maximum(first, np.searchsorted(dosed, stops)))
    lengths = np.maximum(last - first, 0)
    places = np.repeat(first - np.cumsum(lengths) + lengths, lengths) + np.arange(lengths.sum())
    later = known.without(np.ones(len(known.time), dtype=bool))
    codes = np.repeat(np.arange(len(series)), lengths)
    return prefixes._with_more_rows(later.prefixes(prefixes.ids, prefixes.origins, codes, dosed[places]), codes)[0]


def _n_earlier(time: np.ndarray, series: np.ndarray, known: Panel) -> np.ndarray:
    """How many rows are known of the series at a position before a time; none at a position below 0."""
    is_known = np.concatenate([np.zeros(len(time), dtype=bool), np.ones(len(known.time), dtype=bool)])
    all_series = np.concatenate([series, known.codes])
    order = np.lexsort((is_known, np.concatenate([time, known.time]), all_series))
    before = np.empty(len(order), dtype=np.int64)
    before[order] = np.cumsum(is_known[order])
    return np.where(series >= 0, before[: len(time)] - np.searchsorted(known.codes, series), 0)


def _warn_of_other_ids(query: pd.Index, known: pd.Index) -> None:
    """Warn where no series is known because ids are of another type."""
    kinds = [pd.api.types.infer_dtype(ids) for ids in (query, known)]
    if kinds[0] != kinds[1] and not kinds[1].startswith("mixed"):
        warn_caller(
            f"None of the series in X is known: ids are {kinds[0]} here, but were {kinds[1]} in fit. They are answered "
            "from the prior; give ids the same type.",
            UserWarning,
        )


def _warn_of_early_times(series: Any) -> None:
    """Warn where the dynamics of a series of which nothing is known are solved far backward."""
    warn_caller(
        "Series not known are taken to start at the median start of those in fit, and "
        f"{series!r} is queried long before that: what the dynamics say there was never trained. Tell the model of its "
        "observations by condition, or let times count from the start of each series.",
        UserWarning,
    )

"""Rows to predict at, together with the observations of their series."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from skode.frames import LongRows
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
        codes, ids = pd.factorize(rows.series)
        order = np.lexsort((rows.time, codes))
        positions = known.ids.get_indexer(pd.Index(ids))
        if (positions < 0).all():
            _warn_of_other_ids(pd.Index(ids), known.ids)
        origins = np.where(positions >= 0, known.origins[positions], np.median(known.origins))
        # A scale of time before the first row, for those not known.
        too_early = np.where(positions < 0, origins + (units.lead - 1.0) * units.time_scale, -np.inf)
        if (strange := rows.time < too_early[codes]).any():
            _warn_of_early_times(as_python(rows.series[strange][0]))
        nothing = np.full((len(rows), known.y.shape[1]), np.nan)
        covariates = units.scaled_covariates(rows.covariates)
        panel = Panel(pd.Index(ids), origins, codes[order], rows.time[order], covariates[order], nothing)
        return cls(panel, order, known, positions)


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

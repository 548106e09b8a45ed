"""Series of unequal length as one batch: rows sorted by series and time, padded only where a tensor must be."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd


@dataclass(frozen=True)
class Panel:
    """Observations of several series, sorted by series, then time.

    Attributes
    ----------
    ids : pandas.Index of length n_series
        The series' ids.
    origins : ndarray of shape (n_series,)
        The time that counts as each series' start.
    codes : ndarray of int, of shape (n,)
        The series of each row, as a position in ``ids``.
    time : ndarray of shape (n,)
        Times in the user's units.
    covariates : ndarray of shape (n, n_covariates)
        Covariates, standardised.
    y : ndarray of shape (n, n_outputs)
        Observed values, standardised; NaN where nothing was observed.
    """

    ids: pd.Index
    origins: np.ndarray
    codes: np.ndarray
    time: np.ndarray
    covariates: np.ndarray
    y: np.ndarray

    @classmethod
    def of(cls, series: np.ndarray, time: np.ndarray, covariates: np.ndarray, y: np.ndarray) -> Panel:
        """A panel of rows in any order; each series starts at its first row."""
        try:
            codes, ids = pd.factorize(series, sort=True)  # so that the order of rows does not matter
        except TypeError:  # ids without an order
            codes, ids = pd.factorize(series)
        order = np.lexsort((time, codes))
        codes, time = codes[order], time[order]
        origins = time[np.searchsorted(codes, np.arange(len(ids)))]
        return cls(pd.Index(ids), origins, codes, time, covariates[order], y[order])

    @property
    def n_series(self) -> int:
        """Number of series."""
        return len(self.ids)

    def since_origin(self) -> np.ndarray:
        """Time of each row since its series' start."""
        return self.time - self.origins[self.codes]

    def windows(self) -> np.ndarray:
        """Times of each series' first and last row since its start, of shape (n_series, 2); 0 without rows."""
        lengths = np.bincount(self.codes, minlength=self.n_series)
        some, after = lengths > 0, np.cumsum(lengths)
        since, windows = self.since_origin(), np.zeros((self.n_series, 2))
        windows[some, 0], windows[some, 1] = since[(after - lengths)[some]], since[after[some] - 1]
        return windows

    def starting(self, lead: float) -> Panel:
        """The same with the start of each series so long before its first row; one without rows keeps its own."""
        return replace(self, origins=self.origins + self.windows()[:, 0] - lead)

    def rows_of(self, codes: np.ndarray) -> np.ndarray:
        """Positions of some series' rows, series by series in the order given."""
        starts = np.searchsorted(self.codes, codes, side="left")
        lengths = np.searchsorted(self.codes, codes, side="right") - starts
        within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        return np.repeat(starts, lengths) + within

    def take(self, codes: np.ndarray) -> Panel:
        """The panel of some series, in the order given."""
        rows = self.rows_of(codes)
        lengths = np.bincount(self.codes, minlength=self.n_series)[codes]
        return Panel(
            self.ids[codes],
            self.origins[codes],
            np.repeat(np.arange(len(codes)), lengths),
            self.time[rows],
            self.covariates[rows],
            self.y[rows],
        )

    def joined(self, other: Panel) -> Panel:
        """Both panels' rows; a series in both keeps the start it has here."""
        new = self.ids.get_indexer(other.ids) < 0
        ids = self.ids.append(other.ids[new])
        codes = np.concatenate([self.codes, ids.get_indexer(other.ids)[other.codes]])
        time = np.concatenate([self.time, other.time])
        order = np.lexsort((time, codes))
        return Panel(
            ids,
            np.concatenate([self.origins, other.origins[new]]),
            codes[order],
            time[order],
            np.concatenate([self.covariates, other.covariates])[order],
            np.concatenate([self.y, other.y])[order],
        )

    def beside(self, other: Panel) -> tuple[Panel, np.ndarray]:
        """These rows and those of the same series in another panel, and which rows are these, as a mask."""
        shared = self.ids.get_indexer(other.ids)[other.codes]
        rows = np.flatnonzero(shared >= 0)
        codes = np.concatenate([self.codes, shared[rows]])
        time = np.concatenate([self.time, other.time[rows]])
        order = np.lexsort((time, codes))
        both = replace(
            self,
            codes=codes[order],
            time=time[order],
            covariates=np.concatenate([self.covariates, other.covariates[rows]])[order],
            y=np.concatenate([self.y, other.y[rows]])[order],
        )
        return both, order < len(self.codes)

    def observed(self) -> Panel:
        """The rows at which anything was observed; series without any stay, empty."""
        rows = ~np.isnan(self.y).all(axis=1)
        return replace(
            self, codes=self.codes[rows], time=self.time[rows], covariates=self.covariates[rows], y=self.y[rows]
        )

    def without(self, rows: np.ndarray) -> Panel:
        """The same rows, as if nothing had been observed at some."""
        return replace(self, y=np.where(rows[:, None], np.nan, self.y))

    def until(self, rows: np.ndarray) -> Panel:
        """The rows of each series that stand before the first of some."""
        first = np.full(self.n_series, len(self.codes))
        np.minimum.at(first, self.codes[rows], np.flatnonzero(rows))
        kept = np.arange(len(self.codes)) < first[self.codes]
        return replace(
            self, codes=self.codes[kept], time=self.time[kept], covariates=self.covariates[kept], y=self.y[kept]
        )

    def slots(self) -> tuple[np.ndarray, np.ndarray]:
        """Each series' number of rows, and each row's place in its series."""
        lengths = np.bincount(self.codes, minlength=self.n_series)
        return lengths, np.arange(len(self.codes)) - np.repeat(np.cumsum(lengths) - lengths, lengths)

"""Series of unequal length as one batch: rows sorted by series and time, padded only where a tensor must be."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from skode.frames import series_codes
from skode.timeseries.doses import Doses, refuse_early
from skode.training import distinct


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
    weights : ndarray of shape (n,) or None
        How often each row was observed; None: all of them once.
    doses : Doses or None
        Doses in the rows; None: the model has none.
    """

    ids: pd.Index
    origins: np.ndarray
    codes: np.ndarray
    time: np.ndarray
    covariates: np.ndarray
    y: np.ndarray
    weights: np.ndarray | None = None
    doses: Doses | None = None

    @classmethod
    def of(
        cls,
        series: np.ndarray,
        time: np.ndarray,
        covariates: np.ndarray,
        y: np.ndarray,
        weights: np.ndarray | None = None,
        amounts: np.ndarray | None = None,
    ) -> Panel:
        """A panel of rows in any order; each series starts at its first row.

        ``amounts`` are those of doses, of shape (n_rows, n_columns).
        """
        codes, ids = series_codes(series)
        order = np.lexsort((time, codes))
        codes, time = codes[order], time[order]
        origins = time[np.searchsorted(codes, np.arange(len(ids)))]
        weights = None if weights is None else weights[order]
        doses = None if amounts is None else Doses.of(codes, time, amounts[order])
        return cls(pd.Index(ids), origins, codes, time, covariates[order], y[order], weights, doses)

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
        of_series = replace(self, ids=self.ids[codes], origins=self.origins[codes])
        return of_series._with_rows(rows, np.repeat(np.arange(len(codes)), lengths))

    def prefixes(self, ids: pd.Index, origins: np.ndarray, codes: np.ndarray, rows: np.ndarray) -> Panel:
        """Other series, of rows of these: their ids and starts; each row's series, and where it stands here."""
        return replace(self, ids=ids, origins=origins)._with_rows(rows, codes)

    def _with_rows(self, rows: np.ndarray, codes: np.ndarray) -> Panel:
        """The same series with rows at some positions, and the series that each of these belongs to."""
        weights = None if self.weights is None else self.weights[rows]
        return replace(
            self,
            codes=codes,
            time=self.time[rows],
            covariates=self.covariates[rows],
            y=self.y[rows],
            weights=weights,
            doses=self.doses and self.doses.take(rows),
        )

    def _with_more_rows(self, rows: Panel, codes: np.ndarray) -> tuple[Panel, np.ndarray]:
        """The same series with another panel's rows beside, whose series are given; and where each row came from."""
        weights = None
        if self.weights is not None or rows.weights is not None:
            weights = np.concatenate([self.row_weights(), rows.row_weights()])
        both = replace(
            self,
            codes=np.concatenate([self.codes, codes]),
            time=np.concatenate([self.time, rows.time]),
            covariates=np.concatenate([self.covariates, rows.covariates]),
            y=np.concatenate([self.y, rows.y]),
            weights=weights,
            doses=self.doses and self.doses.and_those_of(rows.doses),
        )
        order = np.lexsort((both.time, both.codes))
        return both._with_rows(order, both.codes[order]), order

    def row_weights(self) -> np.ndarray:
        """How often each row was observed, of shape (n,)."""
        return np.ones(len(self.time)) if self.weights is None else self.weights

    def joined(self, other: Panel) -> Panel:
        """Both panels' rows, equal ones as one; a series in both keeps the start it has here.

        Doses of the other panel take the place of those that these rows hold at their times.
        """
        new = self.ids.get_indexer(other.ids) < 0
        ids = self.ids.append(other.ids[new])
        all_series = replace(self, ids=ids, origins=np.concatenate([self.origins, other.origins[new]]))
        codes = ids.get_indexer(other.ids)[other.codes]
        if self.doses is not None and other.doses is not None:
            other = other.after(self)
            doses = self.doses.replaced((self.codes, self.time), other.doses, (codes, other.time))  # type: ignore[arg-type]
            all_series = replace(all_series, doses=doses)
        return all_series._with_more_rows(other, codes)[0].merged()

    def after(self, known: Panel) -> Panel:
        """The same rows, told after those of another panel; see :meth:`Doses.after`."""
        if self.doses is None or known.doses is None:
            return self
        keys = known.ids.get_indexer(self.ids)[self.codes], self.time
        return replace(self, doses=self.doses.after(keys, known.doses, (known.codes, known.time)))

    def refuse_early_doses(self) -> None:
        """Refuse doses before the starts of their series."""
        if self.doses is not None:
            refuse_early(self.ids.to_numpy()[self.codes], self.doses.given & (self.time < self.origins[self.codes]))

    def dosed(self) -> Panel:
        """The rows that hold doses, as if nothing had been observed there."""
        assert self.doses is not None
        rows = np.flatnonzero(self.doses.given)
        return self.without(np.ones(len(self.time), dtype=bool))._with_rows(rows, self.codes[rows])

    def merged(self) -> Panel:
        """The same with equal rows as one, which weighs as much as they do together."""
        if not ((np.diff(self.codes) == 0) & (np.diff(self.time) == 0)).any():
            return self
        contents = np.column_stack([self.codes, self.time, self.covariates])
        if self.doses is not None:  # rows before and after a dose differ, and so do two equal doses
            contents = np.column_stack([contents, self.doses.amounts, self.doses.rank])
        rows, weights = distinct(contents, self.y, self.row_weights())
        order = np.argsort(rows)
        one_each = self._with_rows(rows[order], self.codes[rows[order]])
        return replace(one_each, weights=None if (weights == 1.0).all() else weights[order])

    def beside(self, other: Panel) -> tuple[Panel, np.ndarray]:
        """These rows and those of the same series in another panel, and which rows are these, as a mask."""
        shared = self.ids.get_indexer(other.ids)[other.codes]
        rows = np.flatnonzero(shared >= 0)
        both, order = self._with_more_rows(other._with_rows(rows, other.codes[rows]), shared[rows])
        return both, order < len(self.codes)

    def observed(self) -> Panel:
        """The rows at which anything was observed; series without any stay, empty."""
        rows = ~np.isnan(self.y).all(axis=1)
        return self._with_rows(rows, self.codes[rows])

    def without(self, rows: np.ndarray) -> Panel:
        """The same rows, as if nothing had been observed at some."""
        return replace(self, y=np.where(rows[:, None], np.nan, self.y))

    def until(self, rows: np.ndarray) -> Panel:
        """The rows of each series that stand before the first of some."""
        first = np.full(self.n_series, len(self.codes))
        np.minimum.at(first, self.codes[rows], np.flatnonzero(rows))
        kept = np.arange(len(self.codes)) < first[self.codes]
        return self._with_rows(kept, self.codes[kept])

    def slots(self) -> tuple[np.ndarray, np.ndarray]:
        """Each series' number of rows, and each row's place in its series."""
        lengths = np.bincount(self.codes, minlength=self.n_series)
        return lengths, np.arange(len(self.codes)) - np.repeat(np.cumsum(lengths) - lengths, lengths)

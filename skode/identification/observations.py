"""KnownSeries of several series, which more may be added to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from skode.equations.inputs import Inputs
from skode.equations.layout import Layout, most_segments


@dataclass(frozen=True)
class KnownSeries:
    """Rows of several series, sorted by series, then time.

    Attributes
    ----------
    ids : Index
        Names of the series.
    codes : ndarray of int, of shape (n_rows,)
        The series of each row, as a position in ``ids``.
    t : ndarray of shape (n_rows,)
        Times.
    y : ndarray of shape (n_rows, n_outputs)
        Observed values; NaN where there is none.
    weights : ndarray of shape (n_rows,)
        Weights.
    inputs : ndarray of shape (n_rows, n_inputs)
        Inputs.
    """

    ids: pd.Index
    codes: np.ndarray
    t: np.ndarray
    y: np.ndarray
    weights: np.ndarray
    inputs: np.ndarray

    def take(self, series: np.ndarray) -> KnownSeries:
        """Some of the series, in their order."""
        position = np.full(len(self.ids), -1)
        position[series] = np.arange(len(series))
        kept = position[self.codes] >= 0
        codes = position[self.codes][kept]
        return KnownSeries._sorted(
            self.ids[series], codes, (self.t[kept], self.y[kept], self.weights[kept], self.inputs[kept])
        )

    def joined(self, new: KnownSeries) -> KnownSeries:
        """These rows and others, of the same series or of more."""
        ids = self.ids.append(new.ids[~new.ids.isin(self.ids)])
        codes = np.concatenate([self.codes, ids.get_indexer(new.ids)[new.codes]])
        pairs = zip(self._columns(), new._columns(), strict=True)
        return KnownSeries._sorted(ids, codes, [np.concatenate(pair) for pair in pairs])

    def _columns(self) -> tuple[np.ndarray, ...]:
        return self.t, self.y, self.weights, self.inputs

    @classmethod
    def _sorted(cls, ids: pd.Index, codes: np.ndarray, columns: Any) -> KnownSeries:
        order = np.lexsort((columns[0], codes))
        return cls(ids, codes[order], *(column[order] for column in columns))

    @property
    def t0(self) -> np.ndarray:
        """When each series starts, at its first row."""
        return self.t[np.searchsorted(self.codes, np.arange(len(self.ids)))]

    def layout(self, n_segments: Any, *, linear: bool) -> Layout:
        """The rows in which something was observed, cut into segments; inputs jump where they are not linear."""
        seen = ~np.isnan(self.y).all(axis=1)
        inputs = self.as_inputs([str(i) for i in range(self.inputs.shape[1])], 1.0, linear=linear)
        events = None if inputs is None else inputs.events
        return Layout.of(
            self.codes[seen], self.t[seen], self.y[seen], self.weights[seen], self.t0, most_segments(n_segments), events
        )

    def as_inputs(self, names: list[str], unit: float, *, linear: bool) -> Inputs | None:
        """The inputs over standardised times; None where there are none."""
        return Inputs.of(names, self.codes, self.t / unit, self.inputs, linear=linear) if names else None

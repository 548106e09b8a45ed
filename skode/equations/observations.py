"""Observations as the fit takes them: rows in order, without repetitions, with the doses that stand before them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from skode.equations.columns import Columns, doses_before
from skode.frames import LongRows, distinct_rows, series_codes


@dataclass(frozen=True)
class Observations:
    """Rows of a long frame, sorted by series, then time, then as they stood; only of series with an observation.

    Attributes
    ----------
    rows : LongRows
        The rows.
    codes : ndarray of int, of shape (n_rows,)
        The series of each.
    ids : ndarray of shape (n_series,)
        The series' ids.
    values : ndarray of shape (n_rows, n_outputs)
        Observed values, NaN where nothing was observed.
    weights : ndarray of shape (n_rows,)
        Weights of the rows.
    inputs : ndarray of shape (n_rows, n_inputs)
        Inputs.
    amounts : ndarray of shape (n_rows, n_doses)
        Amounts of doses.
    rank : ndarray of int, of shape (n_rows,)
        How many of the doses at a row's time stand before it.
    """

    rows: LongRows
    codes: np.ndarray
    ids: Any
    values: np.ndarray
    weights: np.ndarray
    inputs: np.ndarray
    amounts: np.ndarray
    rank: np.ndarray

    @classmethod
    def of(cls, rows: LongRows, values: np.ndarray, weights: np.ndarray, columns: Columns) -> Observations:
        """The observations of rows in any order; equal ones are one, with their weights added.

        Parameters
        ----------
        rows : LongRows
            The rows.
        values : ndarray of shape (n_rows, n_outputs)
            Observed values.
        weights : ndarray of shape (n_rows,)
            Weights, none negative; rows of weight 0 are left out.
        columns : Columns
            The parts of the covariates.
        """
        rows, values, some_weights = distinct_records(rows, values, weights, columns)
        weights = np.ones(len(rows)) if some_weights is None else some_weights
        rows, values, weights = of_observed_series(rows, values, weights)
        codes, ids = series_codes(rows.series)
        amounts = columns.amounts_of(rows.covariates)
        rank = doses_before(codes, rows.time, amounts)
        return cls(rows, codes, ids, values, weights, columns.inputs_of(rows.covariates), amounts, rank)

    @property
    def seen(self) -> np.ndarray:
        """In which rows anything was observed."""
        return ~np.isnan(self.values).all(axis=1)


def distinct_records(
    rows: LongRows, values: np.ndarray, weights: np.ndarray, columns: Columns
) -> tuple[LongRows, np.ndarray, np.ndarray | None]:
    """As :func:`skode.frames.distinct_rows`; but equal doses are two, and so are rows before and after one."""
    n_covariates = rows.covariates.shape[1]
    rows, values, some_weights = distinct_rows(_with_rank(rows, weights, columns), values, weights)
    return replace(rows, covariates=rows.covariates[:, :n_covariates]), values, some_weights


def _with_rank(rows: LongRows, weights: np.ndarray, columns: Columns) -> LongRows:
    """Rows with one covariate more, by which equal rows before and after a dose differ."""
    if not columns.doses:
        return rows
    codes, _ = series_codes(rows.series)
    order = np.lexsort((rows.time, codes))
    order = order[weights[order] > 0.0]
    rank = np.zeros(len(rows))
    rank[order] = doses_before(codes[order], rows.time[order], columns.amounts_of(rows.covariates[order]))
    return replace(rows, covariates=np.column_stack([rows.covariates, rank]))


def of_observed_series(
    rows: LongRows, values: np.ndarray, weights: np.ndarray
) -> tuple[LongRows, np.ndarray, np.ndarray]:
    """The rows of the series of which anything was observed."""
    codes, _ = series_codes(rows.series)
    seen = np.zeros(codes.max() + 1, dtype=bool)
    seen[codes[~np.isnan(values).all(axis=1)]] = True
    if not seen.any():
        raise ValueError("Input y contains NaN only in rows with weight: nothing was observed.")
    kept = np.flatnonzero(seen[codes])
    return rows.take(kept), values[kept], weights[kept]

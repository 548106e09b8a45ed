"""Units of the user and of the model: scales of times, covariates and outputs, and the names of outputs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.preprocessing import StandardScaler
from sklearn.utils import check_array
from torch import Tensor

from skode.equations.columns import Columns
from skode.equations.reading import Clock
from skode.frames import Column, LongRows, output_names, read_targets, read_times, times_of_kind
from skode.timeseries.correlation_time import correlation_time
from skode.timeseries.cycles import Cycles
from skode.timeseries.doses import Doses, distinct
from skode.timeseries.events import EventTensors
from skode.timeseries.latent_ode import HORIZON, LEAD, LONGEST_HORIZON
from skode.timeseries.panel import Panel
from skode.timeseries.tensors import PanelTensors
from skode.training import check_argument, fitted_scaler, to_pandas

#: Seconds of a day: the unit of the dynamics' time where all dates are the same, and of steps by the calendar.
DAY = 86_400.0


@dataclass(frozen=True)
class Units:
    """Scales and names learned by ``fit``.

    Attributes
    ----------
    time_kind : {"number", "date", "date with a time zone", "difference"}
        Type of the time column.
    time_scale : float
        Time, in the units of the user, that is one unit of the latent dynamics.
    span : float
        Time from the first to the last row of a typical series, in the units of the user.
    y_scaler, covariate_scaler : StandardScaler or None
        Standardisation of outputs and of covariates; None where there is none.
    output_names : list
        Names of the outputs.
    outputs_are_named : bool
        Whether y was a frame, whose columns later ones must have.
    single_output : bool
        Whether y had one dimension, as predictions then have.
    lead : float
        Scaled time from a series' start to its first row.
    clock : Clock or None
        Times as equations of the user's have them; None: there are none.
    time_zone : tzinfo or None
        Time zone of the dates in ``fit``; None where they had none.
    cycles : Cycles or None
        Cycles of absolute time, by the clock of the time zone; None: there are none.
    columns : Columns or None
        Which covariates are inputs and which are amounts of doses; None: they all are inputs.
    linear : bool
        Whether inputs change linearly between rows; otherwise they jump at them.
    dose_scale : ndarray of shape (n_dose_columns,) or None
        Typical amounts of doses.
    """

    time_kind: str
    time_scale: float
    span: float
    y_scaler: StandardScaler | None
    covariate_scaler: StandardScaler | None
    output_names: list[Any]
    outputs_are_named: bool
    single_output: bool
    lead: float = LEAD
    clock: Clock | None = None
    time_zone: Any = None
    cycles: Cycles | None = None
    columns: Columns | None = None
    linear: bool = True
    dose_scale: np.ndarray | None = None

    @classmethod
    def learned(
        cls,
        rows: LongRows,
        values: np.ndarray,
        weights: np.ndarray | None,
        y: Any,
        *,
        standardise: bool,
        columns: Columns | None = None,
        linear: bool = True,
    ) -> Units:
        """Units of the rows that a model is fitted to.

        Parameters
        ----------
        rows : LongRows
            The rows.
        values : ndarray of shape (n, n_outputs)
            Observed values; NaN where nothing was observed.
        weights : ndarray of shape (n,) or None
            Weights of the rows.
        y : DataFrame or array-like
            The observed values as the user passed them.
        standardise : bool
            Whether outputs are standardised.
        columns, linear
            As the attributes.
        """
        y_scaler = fitted_scaler(values, weights, what="y") if standardise else None
        inputs = rows.covariates if columns is None else columns.inputs_of(rows.covariates)
        covariate_scaler = fitted_scaler(inputs, weights, what="covariates") if inputs.shape[1] else None
        spans = np.ptp(Panel.of(rows.series, rows.time, rows.covariates, values).windows(), axis=1)
        span = float(np.median(spans[spans > 0])) if (spans > 0).any() else _span_without_series(rows)
        return cls(
            time_kind=rows.time_kind,
            time_scale=span / HORIZON,
            span=span,
            y_scaler=y_scaler,
            covariate_scaler=covariate_scaler,
            output_names=output_names(y),
            outputs_are_named=isinstance(y, pd.DataFrame),
            single_output=np.asarray(y).ndim == 1,
            time_zone=rows.time_zone,
            columns=columns,
            linear=linear,
            dose_scale=None if columns is None else _typical_amounts(columns.amounts_of(rows.covariates)),
        )

    def for_changes_of(self, panel: Panel) -> Units:
        """The same with the correlation time of a panel's series as the unit of time, where that is shorter."""
        horizon = self.span / correlation_time(panel, self.span)
        return replace(self, time_scale=self.span / min(max(horizon, HORIZON), LONGEST_HORIZON))

    @property
    def y_scale(self) -> Any:
        """Scale of each output."""
        return 1.0 if self.y_scaler is None else self.y_scaler.scale_

    @property
    def y_shift(self) -> Any:
        """Mean of each output."""
        return 0.0 if self.y_scaler is None else self.y_scaler.mean_

    @property
    def n_covariates(self) -> int:
        """Number of covariates over time; doses are none of them."""
        return 0 if self.covariate_scaler is None else len(self.covariate_scaler.scale_)

    @property
    def n_columns(self) -> int:
        """Number of covariates and columns of doses."""
        return self.n_covariates if self.columns is None else len(self.columns.names)

    @property
    def highest_frequency(self) -> float:
        """The highest frequency of cycles, per unit of time; 0 where there are none."""
        return 0.0 if self.cycles is None else max(self.cycles.frequencies)

    def standardised(self, values: np.ndarray) -> np.ndarray:
        """Outputs in the units of the model; ValueError where they overflow."""
        with np.errstate(over="ignore"):
            scaled = (values - self.y_shift) / self.y_scale
        if np.isinf(scaled).any():
            raise ValueError("y holds values too large to standardise in its dtype; rescale it.")
        return scaled

    def original(self, values: np.ndarray) -> np.ndarray:
        """Outputs of shape (..., n_outputs) in the units of the user."""
        return values * self.y_scale + self.y_shift

    def in_shape_of_y(self, values: np.ndarray) -> np.ndarray:
        """Values of shape (n, n_outputs, ...) without the second axis where y had one dimension."""
        return values[:, 0] if self.single_output else values

    @property
    def doses(self) -> tuple[str, ...]:
        """Names of the columns of doses."""
        return () if self.columns is None else self.columns.doses

    def scaled_covariates(self, covariates: np.ndarray) -> np.ndarray:
        """Covariates of rows as they were read, in the units of the model; without doses."""
        inputs = covariates if self.columns is None else self.columns.inputs_of(covariates)
        return inputs if self.covariate_scaler is None else self.covariate_scaler.transform(inputs)

    def amounts(self, covariates: np.ndarray) -> np.ndarray | None:
        """Amounts of doses of rows as they were read; None where there are no columns of doses."""
        return None if self.columns is None else self.columns.amounts_of(covariates)

    def original_covariates(self, covariates: np.ndarray, amounts: np.ndarray | None = None) -> np.ndarray:
        """Covariates in the units of the user, with the columns of doses, 0 where no amounts are given."""
        inputs = covariates if self.covariate_scaler is None else self.covariate_scaler.inverse_transform(covariates)
        if self.columns is None:
            return inputs
        columns = np.zeros((len(inputs), self.n_columns))
        for names, values in ((self.columns.inputs, inputs), (self.columns.doses, amounts)):
            if values is not None:
                columns[:, [self.columns.names.index(name) for name in names]] = values
        return columns

    def local(self, times: np.ndarray) -> np.ndarray:
        """Times by the clock of their time zone, where they have one: seconds since 1970 as these clocks showed it."""
        if self.time_zone is None:
            return times
        instants = times_of_kind(times, self.time_kind, self.time_zone)
        return read_times(instants.dt.tz_localize(None), "time")[0]

    def from_local(self, times: np.ndarray) -> np.ndarray:
        """Times from those of the clock of their time zone; of an hour that comes twice the first.

        One that was left out counts from the end of that gap.
        """
        if self.time_zone is None:
            return times
        local = times_of_kind(times, "date")
        twice = np.ones(len(times), dtype=bool)
        instants = local.dt.tz_localize(self.time_zone, ambiguous=twice, nonexistent="shift_forward")
        return read_times(instants, "time")[0]

    def without_cycles(self, panel: Panel) -> Panel:
        """A panel, its cycles taken out as far as a regression tells them."""
        return panel if self.cycles is None else self.cycles.removed(panel, self.local(panel.time))

    def panel(self, rows: LongRows, values: np.ndarray, weights: np.ndarray | None) -> Panel:
        """Rows as a panel in the units of the model, each series starting :attr:`lead` before its first row."""
        covariates = self.scaled_covariates(rows.covariates)
        amounts = self.amounts(rows.covariates)
        panel = Panel.of(rows.series, rows.time, covariates, self.standardised(values), weights, amounts)
        return panel.starting(self.lead * self.time_scale)

    def distinct(
        self, rows: LongRows, values: np.ndarray, weights: np.ndarray
    ) -> tuple[LongRows, np.ndarray, np.ndarray | None]:
        """Rows that differ, with the weights of equal ones added; see :func:`skode.frames.distinct_rows`."""
        return distinct(rows, values, weights, self.columns)

    def tensors(self, panel: Panel, like: Tensor, known: Panel | None = None) -> PanelTensors:
        """A panel as tensors, of the dtype and on the device of another, with covariates from what is known.

        Cycles, and amounts of doses since the row before, are the last covariates at rows, and not of those over time.
        """
        tensors = PanelTensors.of(panel, self.time_scale, like.dtype, like.device, known)
        if self.columns is not None or not self.linear:
            tensors = self._with_events(tensors, panel, known or panel, like)
        if self.cycles is not None:
            added = tensors.covariates.new_zeros(*tensors.time.shape, self.cycles.n_columns)
            values = torch.from_numpy(self.cycles.at(self.local(panel.time))).to(added)
            codes, places = (torch.from_numpy(x).to(added.device) for x in (panel.codes, panel.slots()[1]))
            added[codes, places] = values
            tensors = replace(tensors, covariates=torch.cat([tensors.covariates, added], dim=2))
        if self.clock is None:
            return tensors
        start = torch.from_numpy((panel.origins - self.clock.origin) / self.time_scale)
        return replace(tensors, start=start.to(like.device))

    def _with_events(self, tensors: PanelTensors, panel: Panel, known: Panel, like: Tensor) -> PanelTensors:
        events = EventTensors.of(panel, known, like, self.time_scale, linear=self.linear)
        paths = tensors.paths and replace(tensors.paths, linear=self.linear)
        covariates = tensors.covariates
        if self.dose_scale is not None:
            given = events.since_last() / torch.from_numpy(self.dose_scale).to(like)
            covariates = torch.cat([covariates, given * tensors.filled[..., None]], dim=2)
        return replace(tensors, events=events, paths=paths, covariates=covariates)

    def observed_tensors(self, panel: Panel, like: Tensor) -> PanelTensors:
        """The rows at which anything was observed, as tensors; the other rows tell covariates only."""
        return self.tensors(panel.observed(), like, panel)

    def check_time_kind(self, rows: LongRows, column: Column) -> None:
        """Refuse times of another type than those of ``fit``."""
        if rows.time_kind != self.time_kind:
            raise ValueError(
                f"The time column time={column!r} holds a {rows.time_kind}, but held a {self.time_kind} in fit."
            )

    def read_array_of_times(self, times: pd.Series) -> np.ndarray:
        """Times of an argument ``times`` as numbers; ValueError where they are not of the type that ``fit`` saw."""
        seconds, kind = read_times(times.reset_index(drop=True), "array times")
        if kind != self.time_kind:
            raise ValueError(f"times holds a {kind}, but the time column held a {self.time_kind} in fit.")
        return seconds

    def read_targets(self, y: Any, rows: LongRows, column: Column, *, maybe_nothing: bool = False) -> np.ndarray:
        """Observed values beside rows, of shape (n, n_outputs).

        Parameters
        ----------
        y : DataFrame or array-like
            The values.
        rows : LongRows
            The rows.
        column : str or int
            The column that holds times, for messages.
        maybe_nothing : bool, default=False
            Whether all values may be missing.

        Raises
        ------
        ValueError
            If outputs or times are not of the kind, number and names that they had in ``fit``.
        """
        y = to_pandas(y, "y")
        values = read_targets(y, len(rows), maybe_nothing=maybe_nothing)
        self.check_time_kind(rows, column)
        if values.shape[1] != len(self.output_names):
            raise ValueError(f"y has {values.shape[1]} outputs, but the model was fitted to {len(self.output_names)}.")
        if self.outputs_are_named and isinstance(y, pd.DataFrame) and list(y.columns) != self.output_names:
            raise ValueError(
                f"y has the columns {list(y.columns)}, but in fit they were {self.output_names}; pass these."
            )
        return values

    def read_covariates(self, covariates: Any, n_series: int, n_times: int) -> np.ndarray:
        """Covariates of new series in the units of the model, of shape (n_series, n_times, n_columns).

        Amounts of doses, in the units of the user, come last.

        Parameters
        ----------
        covariates : array-like that broadcasts to that shape, or None
            In the units of the user; None: the means of those in ``fit``, and no doses.
        n_series, n_times : int
            Numbers of series, and of times in each.
        """
        given = np.zeros((n_series, n_times, self.n_columns))
        if covariates is None:
            return given
        if not self.n_columns:
            raise ValueError("covariates were given, but the model was fitted without any; leave covariates=None.")
        with check_argument("covariates"):
            covariates = check_array(
                to_pandas(covariates, "covariates"),
                ensure_2d=False,
                allow_nd=True,
                dtype=np.float64,
                input_name="covariates",
            )
        try:
            given[:] = covariates
        except ValueError as error:
            raise ValueError(
                f"covariates must broadcast to (n_series, n_times, n_covariates) = {given.shape}; got shape "
                f"{covariates.shape}."
            ) from error
        rows = given.reshape(-1, self.n_columns)
        amounts = self.amounts(rows)
        parts = [self.scaled_covariates(rows), *([] if amounts is None else [amounts])]
        return np.column_stack(parts).reshape(given.shape)

    def covariates_in_order(self, given: Any, n_rows: int) -> np.ndarray:
        """Covariates that a user's function has returned, of shape (n_rows, n_covariates), checked."""
        with check_argument("covariates"):
            values = check_array(
                to_pandas(given, "covariates"), ensure_2d=False, dtype=np.float64, input_name="covariates"
            )
        values = values.reshape(len(values), -1)
        if values.shape != (n_rows, self.n_columns):
            raise ValueError(
                f"covariates must return values of shape (n, n_covariates) = {(n_rows, self.n_columns)}; got "
                f"{values.shape}."
            )
        return values

    def new_panel(self, n_series: int, time: np.ndarray, covariates: np.ndarray) -> Panel:
        """Series 0, 1, ... without observations, all at the same times, in order.

        Parameters
        ----------
        n_series : int
            Number of series.
        time : ndarray of shape (n_times,)
            Times in the units of the user; series start :attr:`lead` before the first.
        covariates : ndarray of shape (n_series, n_times, n_columns)
            As of :meth:`read_covariates`.
        """
        n_rows = n_series * len(time)
        codes, times = np.repeat(np.arange(n_series), len(time)), np.tile(time, n_series)
        inputs, amounts = np.split(covariates.reshape(n_rows, self.n_columns), [self.n_covariates], axis=1)
        return Panel(
            pd.RangeIndex(n_series),
            np.full(n_series, time[0] - self.lead * self.time_scale),
            codes,
            times,
            inputs,
            np.full((n_rows, len(self.output_names)), np.nan),
            doses=None if self.columns is None else Doses.of(codes, times, amounts),
        )

    def frame(self, keys: dict[Any, Any], rows: Panel, covariate_names: list[Any], y: np.ndarray) -> pd.DataFrame:
        """A long frame in the units of the user.

        Parameters
        ----------
        keys : dict
            Its first columns, by name.
        rows : Panel
            Its rows, for their covariates.
        covariate_names : list
            Names of these.
        y : ndarray of shape (n, n_outputs)
            Outputs in the units of the model.
        """
        frame = pd.DataFrame(keys)
        if self.n_columns:
            amounts = None if rows.doses is None else rows.doses.amounts
            frame[covariate_names] = self.original_covariates(rows.covariates, amounts)
        frame[self.output_names] = self.original(y)
        return frame


def _typical_amounts(amounts: np.ndarray) -> np.ndarray:
    """Root mean squares of the doses in each column; 1 where there are none."""
    counts, total = (amounts != 0.0).sum(axis=0), (amounts**2).sum(axis=0)
    return np.sqrt(np.where(counts > 0, total / np.maximum(counts, 1), 1.0))


def _span_without_series(rows: LongRows) -> float:
    """Typical span where each series was seen at one time: that of all times together, or else four units or days."""
    span = float(np.ptp(rows.time))
    if span > 0.0:
        return span
    return HORIZON if rows.time_kind == "number" else HORIZON * DAY

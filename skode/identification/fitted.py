"""Predictions, simulations and equations of a fitted field."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.utils.validation import check_is_fitted

from skode.equations.inputs import Inputs
from skode.equations.series_regressor import SeriesRegressor
from skode.equations.shooting import Model
from skode.equations.simulation import numbers, read_inputs, read_start, read_times, simulated
from skode.frames import LongRows, read_rows
from skode.identification import text
from skode.identification.analysis import FieldAnalysis
from skode.identification.fields import PolynomialField
from skode.identification.observations import KnownSeries
from skode.identification.predictive import Paths, answering, states_at
from skode.identification.problem import MOST_WEIGHTS, Problem
from skode.identification.system import FieldSystem
from skode.training import array_api, as_python, by_partition, of_one_model, to_pandas


@dataclass(frozen=True)
class Uncertainty:
    """Covariances of the scaled unknowns, in the parts that answers need.

    Attributes
    ----------
    shared : ndarray of shape (n_parameters, n_parameters)
        Of the parameters.
    own : ndarray of shape (n_series, n_states, n_unknowns)
        Of each series' initial states, with all its unknowns.
    """

    shared: np.ndarray
    own: np.ndarray

    def variance(self, slopes: np.ndarray, codes: np.ndarray) -> np.ndarray:
        """Variances of quantities (n_rows, n) with derivatives (n_rows, n, n_unknowns), rows of series given."""
        m = len(self.shared)
        by_shared, by_own = slopes[..., :m], slopes[..., m:]
        variance = ((by_shared @ self.shared) * by_shared).sum(axis=-1)
        own = by_own @ self.own[codes]  # (n_rows, n, n_unknowns)
        variance += (own * np.concatenate([2.0 * by_shared, by_own], axis=-1)).sum(axis=-1)
        return np.maximum(variance, 0.0)


class FittedField(SeriesRegressor):
    """Base of the estimator: all that needs a fit and makes none."""

    interpolation: str

    field_: str
    noise_scale_: np.ndarray
    noise_proportion_: np.ndarray

    _problem: Problem
    _paths: Paths
    _uncertainty: Uncertainty | None
    _observations: KnownSeries

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        # Targets are states: those that do not follow from their own past and the inputs can't be predicted.
        tags.regressor_tags.poor_score = True
        return tags

    @property
    def _model(self) -> Model:
        return self._problem.task.model

    @property
    def _system(self) -> FieldSystem:
        return self._problem.system

    @property
    def _values(self) -> np.ndarray:
        """Weights and parameters."""
        return self._model.scales.values(self._padded())[: self._model.n_parameters]

    @property
    def _ids(self) -> pd.Index:  # type: ignore[override]
        return self._observations.ids

    def _noise_variance(self, z: np.ndarray) -> np.ndarray:
        """Variance of observations of standardised states, in the outputs' units."""
        noise, scale = self._problem.task.noise, self._system.units.scale[: z.shape[1]]
        if noise.n_scales == 1:
            return self.noise_scale_**2
        return (scale * noise.spread(z, np.concatenate([self.noise_scale_ / scale, self.noise_proportion_]))) ** 2

    # Predictions

    @by_partition
    @array_api
    def predict(self, X: Any, return_std: bool = False) -> Any:
        """Predict at any times of known series.

        Parameters
        ----------
        X : DataFrame or array-like of shape (n_rows, n_columns)
            As in ``fit``. Inputs go on from those of ``fit``. Series that were not in ``fit`` become known by
            :meth:`condition`.
        return_std : bool, default=False
            Whether to return standard deviations as well: noise, and uncertainty of the field and of initial states
            by the delta method on Laplace's approximation.

        Returns
        -------
        mean : ndarray of shape (n_rows,) or (n_rows, n_outputs)
            Observed states, in the shape of the y of ``fit``. Solutions start from the states where the last segment
            before the time starts, which observations before and after it tell.
        std : ndarray of the same shape
            Standard deviations; only with ``return_std``.

        Raises
        ------
        NotFittedError
            Before ``fit``.
        ValueError
            Where X does not have the columns, or times not the kind, that they had in ``fit``, or a series is not
            known.
        SolverError
            If a solution can't be followed as far as the times of X.
        """
        if return_std:
            self._refuse_many_weights("predict(return_std=True)")
        z, slopes, codes = self._states(self._read(X), with_slopes=return_std)
        n, units = len(self._outputs), self._system.units
        mean = self._in_shape_of_y(units.users(z)[:, :n])
        if slopes is None:
            return mean
        assert self._uncertainty is not None
        variance = self._uncertainty.variance(slopes[:, :n], codes) * units.scale[:n] ** 2
        return mean, self._in_shape_of_y(np.sqrt(variance + self._noise_variance(z[:, :n])))

    @of_one_model
    def simulate(self, y0: Any, times: Any, inputs: Any = None) -> np.ndarray:
        """Solve the fitted equations from any initial states.

        Parameters
        ----------
        y0 : array-like of shape (n_states,) or (n, n_states)
            Initial states at the first of the times, in the order of ``states_``.
        times : array-like of shape (n_times,)
            Times as the equations have them (numbers; dates count in ``time_unit`` from the first of ``fit``), in
            order.
        inputs : DataFrame or array-like of shape (n_times, n_inputs), default=None
            The input columns at these times, where there are any.

        Returns
        -------
        ndarray of shape (n_times, n_states) or (n, n_times, n_states)
            The states; NaN from where a solution can't be followed.

        Raises
        ------
        NotFittedError
            Before ``fit``.
        ValueError
            Where arguments are not as described.
        """
        check_is_fitted(self)
        system, units = self._system, self._system.units
        start, t = read_start(_by_name(y0, self.states_, "y0"), system.states), read_times(times)
        tau = t / units.unit
        driven = read_inputs(inputs, tau, self._columns, linear=self.interpolation == "linear")
        settings = answering(self._model).settings
        return units.users(simulated(system, settings, list(self._values), driven, units.states(start), tau))

    # The field

    @of_one_model
    def vector_field(self, Y: Any, *, t: float = 0.0, inputs: Any = None, return_std: bool = False) -> Any:
        """Derivatives of the states by time.

        Parameters
        ----------
        Y : array-like of shape (n, n_states)
            States, in the order of ``states_``.
        t : float, default=0.0
            Time, which a known right-hand side may depend on.
        inputs : array-like of shape (n_inputs,) or (n, n_inputs), default=None
            The inputs, where there are any.
        return_std : bool, default=False
            Whether to return standard deviations as well, which grow where nothing was observed.

        Returns
        -------
        derivatives : ndarray of shape (n, n_states)
            In units of the states per unit of time.
        std : ndarray of shape (n, n_states)
            Their standard deviations; only with ``return_std``.

        Raises
        ------
        NotFittedError
            Before ``fit``.
        ValueError
            Where arguments are not as described.
        """
        if return_std:
            self._refuse_many_weights("vector_field(return_std=True)")
        value, _, slopes = self._linearised(Y, t, inputs)
        system, units = self._system, self._system.units
        derivatives = value * units.scale / units.unit
        if not return_std:
            return derivatives
        assert self._uncertainty is not None
        m, n = self._model.n_parameters, system.n_outputs
        scaled = slopes * self._model.scales.slopes(self._padded())[:m]
        variance = ((scaled @ self._uncertainty.shared) * scaled).sum(axis=-1)
        std = np.zeros_like(derivatives)
        std[:, -n:] = np.sqrt(np.maximum(variance, 0.0)) * units.scale[-n:] / units.unit
        return derivatives, std

    @of_one_model
    def jacobian(self, Y: Any, *, t: float = 0.0, inputs: Any = None) -> np.ndarray:
        """Derivatives of the vector field by the states.

        Parameters
        ----------
        Y, t, inputs
            As in :meth:`vector_field`.

        Returns
        -------
        ndarray of shape (n, n_states, n_states)
            Row i of a matrix has the derivatives of the i-th state's rate.

        Raises
        ------
        NotFittedError, ValueError
            As :meth:`vector_field`.
        """
        _, by_states, _ = self._linearised(Y, t, inputs)
        scale = self._system.units.scale
        return by_states * scale[:, None] / scale / self._system.units.unit

    @of_one_model
    def equations(self, digits: int = 3) -> list[str]:
        """The equations of a polynomial field as text.

        Parameters
        ----------
        digits : int, default=3
            Significant digits of the coefficients.

        Returns
        -------
        list of str
            One for each derivative, such as ``"dx/dt = 1.5 x - 0.75 x y"``, with the terms that were kept.

        Raises
        ------
        NotFittedError
            Before ``fit``.
        AttributeError
            Where the field is none.
        """
        self._refuse_no_polynomial("equations")
        return text.equations(self._system, self._weights(), digits)

    @property
    @of_one_model
    def coefficients_(self) -> pd.DataFrame:
        """Coefficients of a polynomial field in the user's units, of shape (n_terms, n_outputs); 0 where dropped."""
        self._refuse_no_polynomial("coefficients_")
        return text.coefficients(self._system, self._weights())

    @property
    @of_one_model
    def coefficient_errors_(self) -> pd.DataFrame:
        """Standard errors of ``coefficients_``; 0 where dropped."""
        table = self.coefficients_
        m = self._system.field.n_weights
        assert self._uncertainty is not None
        errors = np.sqrt(np.maximum(np.diagonal(self._uncertainty.shared)[:m], 0.0))
        errors = np.where(self._weights() == 0.0, 0.0, errors).reshape(table.shape)
        return pd.DataFrame(errors * text.coefficient_units(self._system), table.index, table.columns)

    @of_one_model
    def analysis(self) -> FieldAnalysis:
        """Fixed points with their stability, and Lyapunov exponents, of the fitted field.

        Returns
        -------
        FieldAnalysis
            The analysis; only of fields that depend on neither inputs nor time.

        Raises
        ------
        NotFittedError
            Before ``fit``.
        ValueError
            Where inputs drive the field, or ``known`` depends on time.
        """
        check_is_fitted(self)
        if self._system.input_names:
            raise ValueError(f"The field depends on inputs, {list(self._system.input_names)}; it has no fixed points.")
        observed = self._system.units.users(self._paths.nodes[np.isfinite(self._paths.times)])
        first, last = np.nanmin(self._observations.t), np.nanmax(self._observations.t)
        early, late = (self.vector_field(observed, t=t) for t in (first, 0.37 * first + 0.63 * last))
        if not np.allclose(early, late, rtol=1e-9, atol=1e-12 * np.abs(early).max(initial=1e-300)):
            raise ValueError("The field depends on time, through known; it has no fixed points.")
        return FieldAnalysis(self.vector_field, self.jacobian, observed, self.states_)

    def _refuse_many_weights(self, name: str) -> None:
        check_is_fitted(self)
        if self._problem.has_many_weights:
            raise ValueError(
                f"{name} needs the covariance of all weights, which a field of {self._system.field.n_weights} does not "
                f"have: take one of {MOST_WEIGHTS} or fewer."
            )

    def _refuse_no_polynomial(self, name: str) -> None:
        check_is_fitted(self)
        if not isinstance(self._system.field, PolynomialField):
            raise AttributeError(f"{name} is of polynomial fields; this one is {self.field_!r}.")

    def _weights(self) -> np.ndarray:
        return self._values[: self._system.field.n_weights]

    def _padded(self) -> np.ndarray:
        return np.concatenate([self._paths.u, np.zeros(self._system.n_states)])

    @torch.no_grad()
    def _linearised(self, Y: Any, t: float, inputs: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The field at states in the user's units, and its derivatives, all in standardised units."""
        check_is_fitted(self)
        system, names = self._system, self._system.input_names
        Y = numbers(_by_name(Y, self.states_, "Y"), "Y")
        if Y.ndim != 2 or Y.shape[1] != system.n_states:
            raise ValueError(f"Y must be of shape (n, {system.n_states}), for {self.states_}; got {Y.shape}.")
        columns = {}
        if names:
            if inputs is None:
                raise ValueError(f"inputs must hold {list(names)}.")
            given = np.broadcast_to(numbers(_by_name(inputs, names, "inputs"), "inputs"), (len(Y), len(names))).copy()
            columns = {name: torch.from_numpy(given[:, [i]]) for i, name in enumerate(names)}
        elif inputs is not None:
            raise ValueError("inputs are given, but the model was fitted without any.")
        z = torch.from_numpy(np.ascontiguousarray(system.units.states(Y)))
        when = torch.full((len(Y),), float(t) / system.units.unit, dtype=torch.float64)
        if self._problem.has_many_weights:
            found = system.state_jacobians(when, z, torch.from_numpy(self._values), columns)
        else:
            found = system.jacobians(when, z, torch.from_numpy(self._values), columns)
        value, by_states, by_weights = (part.numpy() for part in found)
        return value, by_states, by_weights

    # Parts

    def _read(self, X: Any) -> LongRows:
        check_is_fitted(self)
        return read_rows(self, X, series=self.series, time=self.time, reset=False)

    def _mean(self, rows: LongRows) -> np.ndarray:
        return self._states_at(rows)[:, : len(self._outputs)]

    def _states_at(self, rows: LongRows) -> np.ndarray:
        return self._system.units.users(self._states(rows)[0])

    def _states(self, rows: LongRows, *, with_slopes: bool = False) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
        """Standardised states at rows, their derivatives by the unknowns, and the positions of their series."""
        t = self._clock.read(rows, self.time)
        places = self._observations.ids.get_indexer(pd.Index(rows.series))
        if (places < 0).any():
            wrong = as_python(np.asarray(rows.series)[places < 0][0])
            raise ValueError(
                f"Series {wrong!r} was not in fit, or nothing was observed of it: its initial state is not known. Take "
                "in observations of it by condition(X, y), or simulate it from an initial state."
            )
        known = np.unique(places)
        codes = np.searchsorted(known, places)
        unit = self._system.units.unit
        inputs = self._inputs_of(known, codes, t, rows.covariates)
        z, slopes = states_at(
            answering(self._model), inputs, self._paths.take(known), (codes, t / unit), with_slopes=with_slopes
        )
        return z, slopes, places

    def _inputs_of(self, known: np.ndarray, codes: np.ndarray, t: np.ndarray, columns: np.ndarray) -> Inputs | None:
        """Inputs of some series, as from ``fit`` and as queried."""
        names = list(self._system.input_names)
        if not names:
            return None
        before = self._observations.take(known)
        all_codes, all_t = np.concatenate([before.codes, codes]), np.concatenate([before.t, t])
        order = np.lexsort((all_t, all_codes))
        values = np.concatenate([before.inputs, columns])[order]
        linear = self.interpolation == "linear"
        return Inputs.of(names, all_codes[order], all_t[order] / self._system.units.unit, values, linear=linear)


def _by_name(given: Any, names: Sequence[str], argument: str) -> Any:
    """Columns of a frame in the order of names; other data as they are."""
    frame = to_pandas(given, argument)
    if not isinstance(frame, pd.DataFrame):
        return frame
    found = frame.rename(columns=str)
    if {*found.columns} == {*map(str, range(len(names)))}:
        return found
    if missing := [name for name in names if name not in found.columns]:
        raise ValueError(f"{argument} has no column {missing[0]!r}; it must hold {list(names)}.")
    return found[list(names)]

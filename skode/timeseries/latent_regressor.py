"""Regression on irregular time series by a latent neural ODE."""

from __future__ import annotations

import copy
from collections.abc import Callable
from numbers import Integral
from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.base import RegressorMixin, _fit_context
from sklearn.callback import with_callbacks
from sklearn.metrics import r2_score
from sklearn.preprocessing import StandardScaler
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval
from sklearn.utils.validation import _check_sample_weight, check_is_fitted
from torch import Tensor

from skode.solvers import Solution, Statistics
from skode.timeseries.frames import Column, LongRows, read_rows, read_targets
from skode.timeseries.latent_ode import LatentODE, PanelTensors
from skode.timeseries.panel import Panel
from skode.timeseries.predictive import HORIZON, Predictive
from skode.training import (
    COMMON_CONSTRAINTS,
    NeuralODEEstimator,
    new_generator,
    resolve_device,
    resolve_dtype,
    to_numpy,
)

Solve = Callable[..., Solution]


class _NegativeELBO:
    """The negative evidence lower bound over batches of series."""

    def __init__(
        self,
        module: LatentODE,
        panel: Panel,
        tensors: Callable[[Panel], PanelTensors],
        solve: Solve,
        generator: torch.Generator,
    ) -> None:
        self.module, self.panel, self.tensors, self.solve, self.generator = module, panel, tensors, solve, generator
        self.solves: list[Statistics] = []

    def parameters(self):
        return self.module.parameters()

    def loss(self, rows: np.ndarray) -> Tensor:
        batch = self.tensors(self.panel.take(rows))
        noise = torch.randn(len(rows), self.module.field.n_features, generator=self.generator, dtype=torch.float64)
        return self.module.negative_elbo(batch, noise.to(batch.y), self.solve, self.solves)


class LatentODERegressor(RegressorMixin, NeuralODEEstimator):
    """Regressor for irregularly timed series: a latent neural ODE with a recurrent encoder.

    One row is one observation. ``X`` holds a time column, optionally a column of series ids, and covariates; ``y``
    holds the observed value or values, NaN where nothing was observed. Rows may stand in any order and times may
    repeat (rows at equal times keep their order); each series keeps its own time axis. A latent state ``z`` follows
    ``dz/dt = f(z)``; an encoder reads a series' observations and gives the distribution of ``z`` at the series' first
    row; a decoder turns ``z(t)`` and the covariates at t into the distribution of ``y`` [1]_. Trained by the evidence
    lower bound.

    ``predict`` answers at any time of any series, conditioned on all observations of that series seen by ``fit`` or
    ``condition``. A series never seen is answered from the prior, its start taken to be the median start of the
    training series. ``rtol``, ``atol`` and ``method`` are read at every call.

    Parameters
    ----------
    series : str, int or None, default=None
        The column of X that holds series ids, by name or position; None: all rows are one series.
    time : str or int, default=0
        The column of X that holds times: numbers, dates (with or without time zone) or time differences. All other
        columns are numeric covariates.
    latent_size : int, default=6
        Size of the latent state.
    hidden_layer_sizes : int or array-like of int, default=(32, 32)
        Widths of the hidden layers of the latent vector field; the decoder has one hidden layer of the widest.
    activation : {"tanh", "logistic", "softplus", "relu"}, default="tanh"
        Activation of the vector field.
    encoder_size : int, default=32
        Size of the state of the recurrent encoder (a GRU).
    n_draws : int, default=32
        Latent states per series that predictions are averaged over. They are the same quasi-random ones at each
        call, so that predictions are deterministic.
    alpha : float, default=0.0
        Strength of the L2 penalty on the weights, divided by the batch size.
    batch_size : int or "auto", default="auto"
        Series in a batch; "auto" is a fifth of the series, but at least 1 and at most 50.
    learning_rate : {"constant", "cosine"}, default="constant"
        How the learning rate goes on: "cosine" lets it fall to 0 over ``max_iter`` epochs along half a cosine
        (Loshchilov, Hutter, "SGDR", ICLR 2017), which suits a number of epochs that is chosen beforehand.
    learning_rate_init : float, default=1e-2
        Learning rate of Adam.
    max_iter : int, default=300
        Largest number of epochs.
    shuffle : bool, default=True
        Whether to shuffle the series in each epoch.
    random_state : int, RandomState instance or None, default=None
        Source of initial weights, validation split, order and draws. Two fits with the same int on one machine are
        identical to the bit.
    tol : float, default=1e-3
        An epoch whose bound (or validation score) per value is not better than the best by ``tol`` nats counts as no
        improvement.
    verbose : bool, default=False
        Whether to print a line per epoch.
    warm_start : bool, default=False
        Whether ``fit`` goes on from the weights of the last call.
    early_stopping : bool, default=False
        Whether to set aside ``validation_fraction`` of the observed rows, stop by their predictive log-likelihood
        given the others, and keep the weights that were best on them. The rows set aside are context in ``predict``.
    validation_fraction : float, default=0.1
        See ``early_stopping``.
    n_iter_no_change : int or None, default=50
        Epochs without improvement after which training stops; None: never. The bound is noisy, so this is large.
    rtol, atol : float, default=1e-3
        Relative and absolute tolerance of the solver.
    method : str, default="dopri5"
        ODE method, one of :data:`skode.solvers.METHODS`.
    step_size : float or None, default=None
        Step size of fixed-step methods, as a fraction of the time that a series is solved over; None: 0.1.
    adjoint : {"discrete", "continuous", "backprop"}, default="discrete"
        How gradients are computed; see :func:`skode.solvers.solve_ivp`.
    device : str, default="auto"
        Where to compute: "auto", "cpu", "cuda", ...
    dtype : {"float32", "float64"} or None, default=None
        What to compute in; None: float32 where X is a float32 array or on other devices than the CPU, else float64.
        Times are always kept in float64.

    Attributes
    ----------
    module_ : torch.nn.Module
        The trained model, in standardised units.
    context_ : Panel
        The observations that predictions are conditioned on.
    y_scaler_, covariate_scaler_ : StandardScaler
        Standardisation of outputs, and of covariates (None without any).
    time_scale_ : float
        Time, in the units of X (dates: seconds), that is one unit of the latent dynamics.
    time_kind_ : {"number", "date", "date with a time zone", "difference"}
        What the time column holds.
    noise_std_ : ndarray of shape (n_outputs,)
        Standard deviation of the observation noise, in the units of y.
    n_features_in_ : int
        Number of columns seen in ``fit``.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Their names, if they all are strings.
    n_iter_ : int
        Epochs run.
    loss_, best_loss_ : float
        Last and least negative bound per observed value.
    loss_curve_ : list of float
        The same per epoch.
    validation_scores_ : list of float or None
        Mean predictive log-likelihood of the rows set aside, per epoch, with ``early_stopping``.
    best_validation_score_ : float or None
        The best of them.
    nfe_forward_, nfe_backward_ : list of float
        Evaluations of the vector field per solve and per gradient, mean over each epoch.

    References
    ----------
    .. [1] R. T. Q. Chen, Y. Rubanova, J. Bettencourt, D. Duvenaud, "Neural Ordinary Differential Equations",
       NeurIPS 2018, section 5.

    Examples
    --------
    >>> from skode import LatentODERegressor
    >>> from skode.datasets import make_spirals
    >>> X, y = make_spirals(n_series=20, n_observations=15, random_state=0)
    >>> model = LatentODERegressor(series="series", time="time", tol=1.0, n_iter_no_change=5, random_state=0).fit(X, y)
    >>> mean, std = model.predict(X[:4], return_std=True)
    >>> mean.shape, std.shape
    ((4, 2), (4, 2))
    """

    module_: LatentODE
    context_: Panel

    _parameter_constraints: dict = {
        **COMMON_CONSTRAINTS,
        "series": [str, Integral, None],
        "time": [str, Integral],
        "latent_size": [Interval(Integral, 1, None, closed="left")],
        "encoder_size": [Interval(Integral, 1, None, closed="left")],
        "n_draws": [Interval(Integral, 1, None, closed="left")],
    }

    def __init__(
        self,
        series: Column | None = None,
        time: Column = 0,
        *,
        latent_size: int = 6,
        hidden_layer_sizes: Any = (32, 32),
        activation: str = "tanh",
        encoder_size: int = 32,
        n_draws: int = 32,
        alpha: float = 0.0,
        batch_size: Any = "auto",
        learning_rate: str = "constant",
        learning_rate_init: float = 1e-2,
        max_iter: int = 300,
        shuffle: bool = True,
        random_state: Any = None,
        tol: float = 1e-3,
        verbose: Any = False,
        warm_start: bool = False,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        n_iter_no_change: int | None = 50,
        rtol: float = 1e-3,
        atol: float = 1e-3,
        method: str = "dopri5",
        step_size: float | None = None,
        adjoint: str = "discrete",
        device: str = "auto",
        dtype: str | None = None,
    ) -> None:
        self.series = series
        self.time = time
        self.latent_size = latent_size
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.encoder_size = encoder_size
        self.n_draws = n_draws
        self.alpha = alpha
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.learning_rate_init = learning_rate_init
        self.max_iter = max_iter
        self.shuffle = shuffle
        self.random_state = random_state
        self.tol = tol
        self.verbose = verbose
        self.warm_start = warm_start
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.rtol = rtol
        self.atol = atol
        self.method = method
        self.step_size = step_size
        self.adjoint = adjoint
        self.device = device
        self.dtype = dtype

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags

    @with_callbacks
    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Any, y: Any) -> LatentODERegressor:
        """Fit the model to a panel of series.

        Parameters
        ----------
        X : DataFrame or array-like of shape (n_rows, n_columns)
            A time column, a series column if ``series`` says so, and numeric covariates.
        y : array-like of shape (n_rows,) or (n_rows, n_outputs)
            Observed values; NaN where nothing was observed.

        Returns
        -------
        self : LatentODERegressor
            The fitted model.

        Raises
        ------
        ValueError
            Where X or y are not as described; the message names the column.
        """
        hidden = self._hidden_layers()
        warm = self.warm_start and hasattr(self, "module_")
        rows = read_rows(self, X, series=self.series, time=self.time, reset=not warm)
        values = read_targets(y, len(rows))
        if warm:
            self._refuse_other_kind(rows, values)
        never = np.flatnonzero(np.isnan(values).all(axis=0))
        if len(never):
            raise ValueError(f"Input y contains NaN only in output {never[0]}: it was never observed. Drop it.")
        rng = check_random_state(self.random_state)
        device = resolve_device(self.device)
        dtype = self.module_.log_noise.dtype if warm else resolve_dtype(self.dtype, X, device)
        self._single_output = np.ndim(y) == 1
        if not warm:
            self.time_kind_ = rows.time_kind
            self.y_scaler_ = StandardScaler().fit(values)
            has_covariates = rows.covariates.shape[1] > 0
            self.covariate_scaler_ = StandardScaler().fit(rows.covariates) if has_covariates else None
        panel = self._panel(rows, values)
        if not warm:
            spans = np.array([np.ptp(panel.time[panel.codes == code]) for code in range(panel.n_series)])
            self.time_scale_ = float(np.median(spans[spans > 0])) / HORIZON if (spans > 0).any() else 1.0
            self.module_ = LatentODE(
                values.shape[1],
                rows.covariates.shape[1],
                latent_size=self.latent_size,
                hidden_layer_sizes=hidden,
                activation=self.activation,
                encoder_size=self.encoder_size,
                generator=new_generator(rng),
            )
        else:
            # condition() shares weights between estimators: the others keep theirs.
            self.module_ = copy.deepcopy(self.module_)
        self.module_.to(device=device, dtype=dtype)

        training, validate = panel, None
        if self.early_stopping:
            training, validate = self._set_aside(panel, rng)
        self.context_ = training.observed()
        objective = _NegativeELBO(self.module_, training.observed(), self._tensors, self._solve, new_generator(rng))
        self._fit_module(
            objective,
            training.n_series,
            rng,
            auto_batch_size=min(max(training.n_series // 5, 1), 50),
            validate=validate,
            X=X,
            y=y,
            max_grad_norm=10.0,
        )
        self.context_ = panel.observed()
        return self

    @property
    def noise_std_(self) -> np.ndarray:
        """Standard deviation of the observation noise, in the units of y."""
        return np.exp(to_numpy(self.module_.log_noise)) * self.y_scaler_.scale_

    def condition(self, X: Any, y: Any) -> LatentODERegressor:
        """The same model with more observations to condition on, without any training.

        Parameters
        ----------
        X : DataFrame or array-like of shape (n_rows, n_columns)
            Rows of new series, or more rows of known ones.
        y : array-like of shape (n_rows,) or (n_rows, n_outputs)
            What was observed at them; NaN where nothing was.

        Returns
        -------
        LatentODERegressor
            A fitted estimator that shares this one's weights; this one does not change. A new series starts at the
            first of its rows given here, so give all of them at once; rows given again count twice.
        """
        check_is_fitted(self)
        rows = read_rows(self, X, series=self.series, time=self.time, reset=False)
        values = read_targets(y, len(rows))
        self._refuse_other_kind(rows, values)
        conditioned = copy.copy(self)
        conditioned.context_ = self.context_.joined(self._panel(rows, values).observed())
        return conditioned

    def predict(self, X: Any, return_std: bool = False) -> Any:
        """Expected value, and spread, at any time of any series.

        Parameters
        ----------
        X : DataFrame or array-like of shape (n_rows, n_columns)
            As in ``fit``.
        return_std : bool, default=False
            Whether to return the standard deviation of the prediction too: noise and uncertain latent state.

        Returns
        -------
        mean : ndarray of shape (n_rows,) or (n_rows, n_outputs)
            Expected values, in the shape of ``fit``'s y.
        std : ndarray of the same shape
            Standard deviations; only with ``return_std``.
        """
        check_is_fitted(self)
        rows = read_rows(self, X, series=self.series, time=self.time, reset=False)
        self._refuse_other_kind(rows)
        draws = self._predictive_means(rows)  # (n_draws, n_rows, n_outputs)
        mean = self._in_users_shape(draws.mean(axis=0))
        if not return_std:
            return mean
        std = np.sqrt(draws.var(axis=0) + self.noise_std_**2)
        return mean, self._in_users_shape(std)

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Coefficient of determination over the values that were observed.

        Parameters
        ----------
        X : DataFrame or array-like of shape (n_rows, n_columns)
            As in ``fit``.
        y : array-like of shape (n_rows,) or (n_rows, n_outputs)
            True values; NaN where nothing was observed.
        sample_weight : array-like of shape (n_rows,), default=None
            Weights of the rows.

        Returns
        -------
        float
            :math:`R^2`, averaged over the outputs of which at least two values were observed; NaN without any.
        """
        predicted = self.predict(X)
        true = read_targets(y, len(predicted))
        weight = None if sample_weight is None else _check_sample_weight(sample_weight, true)
        scores = []
        for column, guess in zip(true.T, predicted.reshape(true.shape).T, strict=True):
            seen = ~np.isnan(column)
            if seen.sum() >= 2:
                scores.append(
                    r2_score(column[seen], guess[seen], sample_weight=None if weight is None else weight[seen])
                )
        return float(np.mean(scores)) if scores else np.nan

    def _panel(self, rows: LongRows, values: np.ndarray) -> Panel:
        """Rows as a panel, standardised."""
        return Panel.of(rows.series, rows.time, self._scaled_covariates(rows), self.y_scaler_.transform(values))

    def _scaled_covariates(self, rows: LongRows) -> np.ndarray:
        return rows.covariates if self.covariate_scaler_ is None else self.covariate_scaler_.transform(rows.covariates)

    def _refuse_other_kind(self, rows: LongRows, values: np.ndarray | None = None) -> None:
        """Refuse times or outputs of another kind than the model was fitted to."""
        if rows.time_kind != self.time_kind_:
            raise ValueError(
                f"The time column time={self.time!r} holds a {rows.time_kind}, but held a {self.time_kind_} in fit."
            )
        if values is not None and values.shape[1] != len(self.y_scaler_.scale_):
            raise ValueError(
                f"y has {values.shape[1]} outputs, but the model was fitted to {len(self.y_scaler_.scale_)}."
            )

    def _tensors(self, panel: Panel) -> PanelTensors:
        parameter = self.module_.log_noise
        return PanelTensors.of(panel, self.time_scale_, parameter.dtype, parameter.device)

    def _in_users_shape(self, values: np.ndarray) -> np.ndarray:
        return values[:, 0] if self._single_output else values

    def _set_aside(self, panel: Panel, rng: np.random.RandomState) -> tuple[Panel, Callable[[], float]]:
        """The panel without some observed rows, and a score of the model on those."""
        observed = np.flatnonzero(~np.isnan(panel.y).all(axis=1))
        n_held_out = int(np.ceil(self.validation_fraction * len(observed)))
        if n_held_out >= len(observed):
            raise ValueError(
                f"early_stopping=True can't set aside validation_fraction={self.validation_fraction} of "
                f"{len(observed)} observed rows."
            )
        held_out = np.zeros(len(panel.time), dtype=bool)
        held_out[rng.choice(observed, n_held_out, replace=False)] = True

        def masked(away: np.ndarray) -> Panel:
            return Panel(
                panel.ids,
                panel.origins,
                panel.codes,
                panel.time,
                panel.covariates,
                np.where(away[:, None], np.nan, panel.y),
            )

        training = masked(held_out)
        context, asked = self._tensors(training.observed()), self._tensors(masked(~held_out).observed())

        @torch.no_grad()
        def validate() -> float:
            mean, _ = self.module_.posterior(context)
            ends = torch.nan_to_num(asked.time).amax(dim=1)
            states = self.module_.path(mean, asked.time, self._solve, [], ends)
            filled = asked.filled
            y = asked.y[filled]
            decoded = self.module_.decode(states[filled], asked.covariates[filled])
            return float(self.module_.log_likelihood(decoded, y).sum() / (~torch.isnan(y)).sum())

        return training, validate

    def _predictive_means(self, rows: LongRows) -> np.ndarray:
        """Decoded means for every draw of the latent state, of shape (n_draws, n_rows, n_outputs), in y's units."""
        codes, ids = pd.factorize(rows.series)
        known = self.context_.ids.get_indexer(pd.Index(ids))
        origins = np.where(known >= 0, self.context_.origins[known], np.median(self.context_.origins))
        nothing = np.full((len(rows), len(self.y_scaler_.scale_)), np.nan)
        asked = Panel(pd.Index(ids), origins, codes, rows.time, self._scaled_covariates(rows), nothing)
        predictive = Predictive(self.module_, self._tensors, self._solve, self.n_draws)
        return predictive.means(asked, self.context_, known) * self.y_scaler_.scale_ + self.y_scaler_.mean_

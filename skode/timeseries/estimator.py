"""Regression on irregular time series by a latent neural ODE."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from dataclasses import replace
from numbers import Integral, Real
from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.base import ClassNamePrefixFeaturesOutMixin, RegressorMixin, TransformerMixin, _fit_context
from sklearn.callback import with_callbacks
from sklearn.exceptions import ConvergenceWarning, UndefinedMetricWarning
from sklearn.metrics import r2_score
from sklearn.utils import check_array, check_random_state
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from skode.frames import (
    Column,
    LongRows,
    column_label,
    distinct_rows,
    output_names,
    read_rows,
    read_targets,
    read_times,
    times_of_kind,
)
from skode.timeseries.absurd_times import refuse_absurd_times
from skode.timeseries.elbo import ELBOSettings, NegativeELBO
from skode.timeseries.encoders import ENCODERS
from skode.timeseries.latent_ode import HORIZON, LEAD, LatentODE
from skode.timeseries.likelihoods import LIKELIHOODS, Gaussian, Likelihood
from skode.timeseries.panel import Panel
from skode.timeseries.posterior import Posterior, infer, linearised_rows, normal_draws
from skode.timeseries.predictive import Prediction, Predictive
from skode.timeseries.tensors import PanelTensors
from skode.timeseries.validation import forecast_density, last_rows, log_mean_density, widen_noise
from skode.training import (
    COMMON_CONSTRAINTS,
    NeuralODEEstimator,
    array_api,
    as_python,
    checked_weights,
    fitted_scaler,
    memory_for,
    naming,
    new_generator,
    rollback,
    squaring,
    to_numpy,
    to_pandas,
    warn_caller,
    warn_of_overflow,
    worthwhile_threads,
)


class LatentODERegressor(RegressorMixin, ClassNamePrefixFeaturesOutMixin, TransformerMixin, NeuralODEEstimator):
    r"""Regressor for irregularly timed series: a latent neural ODE.

    One row is one observation. ``X`` holds a time column, optionally a column of series ids, and covariates; ``y``
    holds the observed value or values, NaN where nothing was observed. Rows may stand in any order and times may
    repeat (rows at equal times keep their order); each series keeps its own time axis. A latent state :math:`z` starts
    from a standard normal a tenth of a typical series' span before the first row and follows
    :math:`dz/dt = f(z, u(t))`; a read-out of :math:`z(t)` and :math:`u(t)` gives the distribution of ``y``, with
    :math:`u` the covariates. An encoder, which reads a series' observations and covariates from the last to the first,
    gives an approximate posterior of the initial state [1]_ [2]_. Trained by a lower bound of the likelihood.

    ``predict`` answers at any time of any series, conditioned on all observations of that series seen by ``fit`` or
    ``condition``. For that the encoder's answer is refined: the posterior's mode by Fisher scoring, its shape by
    Laplace's method, and what is left by importance weights of draws. A series never seen is answered from the prior,
    its start taken to be the median start of the training series. ``rtol``, ``atol`` and ``method`` are read at every
    call.

    Parameters
    ----------
    series : str, int or None, default=None
        The column of X that holds series ids, by name or position, or a level of its index by name; None: all rows
        are one series.
    time : str or int, default=0
        The column of X that holds times (or a level of its index): numbers, dates (with or without time zone),
        periods or time differences. All other columns are numeric covariates. A covariate is taken to change linearly
        from one row of the series to the next, and to stay as it is before the first and after the last.
    likelihood : {"gaussian", "bernoulli", "poisson"}, default="gaussian"
        Distribution of the outputs, independent given the latent state: normal with one standard deviation for each
        output, 0 or 1, or counts.
    noise : {"coloured", "white"}, default="coloured"
        What the dynamics may leave of a normal output: white noise, or beside it noise with a memory, an
        Ornstein-Uhlenbeck process [4]_. Then a forecast starts from what the last observations were off by. Its share
        of the noise and its memory are estimated after training, in ``fit``, by the likelihood of up to 64 rows in a
        line of up to 500 series, linear about the posterior's modes. All noise stays white where that does as well (by
        the Bayesian information criterion), where an output was seen in fewer than five series or forty rows, and
        with ``posterior="encoder"``.
    observation_times : {"given", "poisson"}, default="given"
        Whether times are data themselves: "poisson" makes them a Poisson process from a series' first row to its
        last, whose intensity depends on the latent state [1]_; see ``predict_intensity``. Where watching began before
        the first observation, or ended after the last, rows with y NaN say so.
    latent_size : int, default=4
        Size of the latent state.
    hidden_layer_sizes : int or array-like of int, default=(32, 32)
        Widths of the hidden layers of the latent vector field; the read-outs have one hidden layer of the widest.
    activation : {"silu", "tanh", "logistic", "softplus", "relu"}, default="silu"
        Activation of the vector field. Beyond the data the bounded ones level off; "silu" and "softplus" go on.
    encoder : str, default="gru"
        A name in ``skode.timeseries.encoders.ENCODERS``: "gru", a gated recurrent unit; "rnn", a plain recurrent
        network [1]_; "ode_rnn", a GRU whose state follows an ODE between observations [2]_, which costs a solve for
        each.
    encoder_size : int, default=32
        Size of the encoder's state.
    bound : {"elbo", "iwae"}, default="elbo"
        The evidence lower bound, or the importance-weighted one [3]_, which is tighter with several draws.
    n_samples : int, default=1
        Draws per series in each update.
    kl_annealing : float, default=0.0
        Share of the updates in which the weight of the divergence from the prior rises from 0 to 1.
    forecasting : float, default=0.5
        Share of the updates in which the encoder reads only a beginning of each series, a third or more of its rows,
        and has to foresee the rest. The bound remains one.
    hindcasting : float, default=0.3
        Share of the others in which it reads only an end of each series, which is made to start there, and has to tell
        what was before. Dynamics that are never followed backward may well explode that way, and those that are
        forecast better.
    posterior : {"laplace", "encoder"}, default="laplace"
        Whether posteriors are refined, in ``condition`` as in ``fit``, which reads it. That costs several solves of
        ``latent_size + 1`` states a series.
    n_draws : int, default=32
        Latent states per series that predictions are averaged over; read by ``fit``. They are the same quasi-random
        ones at each call, so that predictions are deterministic.
    alpha : float, default=0.0
        Strength of the L2 penalty on the weights, divided by the batch size.
    batch_size : int or "auto", default="auto"
        Series in a batch; "auto" is a fifth of the series, but at least 1 and at most 50.
    learning_rate : {"constant", "cosine"}, default="cosine"
        How the learning rate goes on: "cosine" lets it fall to 0 over ``max_iter`` epochs along half a cosine
        (Loshchilov, Hutter, "SGDR", ICLR 2017).
    learning_rate_init : float, default=1e-2
        Learning rate of Adam.
    max_iter : int, default=250
        Largest number of epochs, each of two updates at least.
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
    early_stopping : bool, default=True
        Whether to set aside the last rows of some series, keep the weights whose forecast of them is best (means of
        the weights of the last hundred updates or so), and raise the noise to what they call for. In ``predict`` they
        are known. Where fewer than 20 rows were observed all are trained on.
    validation_fraction : float, default=0.1
        Share of the observed rows that is set aside: a third of the rows of some series, or where there are few
        series this share of each.
    n_iter_no_change : int or None, default=None
        Epochs without improvement after which training stops; None: never.
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
        What to compute in; None: float32 where X is a float32 array or on other devices than the CPU, else float64,
        after training in float32 (unless the tolerances are below 1e-5). Times and posteriors are always in float64.

    Attributes
    ----------
    module_ : torch.nn.Module
        The trained model, in standardised units.
    context_ : Panel
        The observations that predictions are conditioned on.
    posterior_ : Posterior
        The posteriors of the latent initial states given these.
    y_scaler_, covariate_scaler_ : StandardScaler or None
        Standardisation of outputs (None unless Gaussian), and of covariates (None without any).
    time_scale_ : float
        Time, in the units of X (dates: seconds), that is one unit of the latent dynamics.
    time_kind_ : {"number", "date", "date with a time zone", "difference"}
        What the time column holds.
    noise_std_ : ndarray of shape (n_outputs,)
        Standard deviation of the observation noise, in the units of y; only with the Gaussian likelihood.
    noise_share_ : ndarray of shape (n_outputs,)
        Share of its variance that has a memory; 0 where all noise is white.
    noise_memory_ : ndarray of shape (n_outputs,)
        Time in which the correlation of that part falls by a factor of e, in the units of X (dates: seconds); NaN
        where all noise is white.
    n_features_in_ : int
        Number of columns seen in ``fit``.
    feature_names_in_ : ndarray of shape (n_features,)
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
    .. [2] Y. Rubanova, R. T. Q. Chen, D. Duvenaud, "Latent ODEs for Irregularly-Sampled Time Series", NeurIPS 2019.
    .. [3] Y. Burda, R. Grosse, R. Salakhutdinov, "Importance Weighted Autoencoders", ICLR 2016.
    .. [4] R. H. Jones, F. Boadi-Boateng, "Unequally spaced longitudinal data with AR(1) serial correlation",
       Biometrics 47, 1991.

    Examples
    --------
    >>> from skode import LatentODERegressor
    >>> from skode.datasets import make_spirals
    >>> X, y = make_spirals(n_series=20, n_observations=15, random_state=0)
    >>> model = LatentODERegressor(series="series", time="time", max_iter=5, random_state=0).fit(X, y)
    >>> mean, std = model.predict(X[:4], return_std=True)
    >>> mean.shape, std.shape
    ((4, 2), (4, 2))
    >>> later = X[:4].assign(series=77)
    >>> model.condition(later, y[:4]).predict(later.assign(time=2.0)).shape  # a new series, without training
    (4, 2)
    """

    module_: LatentODE
    context_: Panel
    posterior_: Posterior

    _parameter_constraints: dict = {
        **COMMON_CONSTRAINTS,
        "series": [str, Integral, None],
        "time": [str, Integral],
        "likelihood": [StrOptions(set(LIKELIHOODS))],
        "noise": [StrOptions({"coloured", "white"})],
        "observation_times": [StrOptions({"given", "poisson"})],
        "latent_size": [Interval(Integral, 1, None, closed="left")],
        "encoder": [StrOptions(set(ENCODERS))],
        "encoder_size": [Interval(Integral, 1, None, closed="left")],
        "bound": [StrOptions({"elbo", "iwae"})],
        "n_samples": [Interval(Integral, 1, None, closed="left")],
        "kl_annealing": [Interval(Real, 0, 1, closed="both")],
        "forecasting": [Interval(Real, 0, 1, closed="both")],
        "hindcasting": [Interval(Real, 0, 1, closed="both")],
        "posterior": [StrOptions({"laplace", "encoder"})],
        "n_draws": [Interval(Integral, 1, None, closed="left")],
    }

    def __init__(
        self,
        series: Column | None = None,
        time: Column = 0,
        *,
        likelihood: str = "gaussian",
        noise: str = "coloured",
        observation_times: str = "given",
        latent_size: int = 4,
        hidden_layer_sizes: Any = (32, 32),
        activation: str = "silu",
        encoder: str = "gru",
        encoder_size: int = 32,
        bound: str = "elbo",
        n_samples: int = 1,
        kl_annealing: float = 0.0,
        forecasting: float = 0.5,
        hindcasting: float = 0.3,
        posterior: str = "laplace",
        n_draws: int = 32,
        alpha: float = 0.0,
        batch_size: Any = "auto",
        learning_rate: str = "cosine",
        learning_rate_init: float = 1e-2,
        max_iter: int = 250,
        shuffle: bool = True,
        random_state: Any = None,
        tol: float = 1e-3,
        verbose: Any = False,
        warm_start: bool = False,
        early_stopping: bool = True,
        validation_fraction: float = 0.1,
        n_iter_no_change: int | None = None,
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
        self.likelihood = likelihood
        self.noise = noise
        self.observation_times = observation_times
        self.latent_size = latent_size
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.encoder = encoder
        self.encoder_size = encoder_size
        self.bound = bound
        self.n_samples = n_samples
        self.kl_annealing = kl_annealing
        self.forecasting = forecasting
        self.hindcasting = hindcasting
        self.posterior = posterior
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
    @array_api
    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> LatentODERegressor:
        """Fit the model to a panel of series.

        Parameters
        ----------
        X : DataFrame or array-like of shape (n_rows, n_columns)
            A time column, a series column if ``series`` says so, and numeric covariates. Frames may be those of
            pandas, polars or pyarrow, here and in all other methods.
        y : array-like of shape (n_rows,) or (n_rows, n_outputs)
            Observed values; NaN where nothing was observed. A row without any still tells the covariates at its time.
        sample_weight : array-like of shape (n_rows,), default=None
            How often each row counts, as whole numbers or not: its log-likelihood is multiplied by that. A weight of
            two is the same as the row given twice (observations of the same values, independent given the latent
            state), 0 as it left out, covariates and all; a series without any weight is as one never given. Weights
            also count in the units that are learned from the data, in what the posteriors are conditioned on, in the
            forecasts that choose the weights of the network and the noise, and in the noise with a memory.

        Returns
        -------
        self : LatentODERegressor
            The fitted model.

        Raises
        ------
        ValueError
            Where X or y are not as described; the message names the column. Where a time lies a thousand times as far
            from the rest of its series as other series span, the message names the row.
        """
        with rollback(self):
            return self._fit(X, y, sample_weight)

    def _fit(self, X: Any, y: Any, sample_weight: Any) -> LatentODERegressor:
        wanted = self._architecture()
        first = self._is_first_fit(wanted, goes_on=self.warm_start)
        rows = read_rows(self, X, series=self.series, time=self.time, reset=first)
        y = to_pandas(y, "y")
        if first:
            values = read_targets(y, len(rows))
            LIKELIHOODS[self.likelihood].check(values)
        else:
            values = self._targets(y, rows)
        rows, values, weights = distinct_rows(rows, values, checked_weights(sample_weight, values))
        never = np.flatnonzero(np.isnan(values).all(axis=0))
        if len(never):
            output = repr(y.columns[never[0]]) if isinstance(y, pd.DataFrame) else never[0]
            weighing = " in rows with weight" if sample_weight is not None else ""
            raise ValueError(f"Input y contains NaN only in output {output}{weighing}: it was never observed. Drop it.")
        self._refined = self.posterior == "laplace"
        rng = check_random_state(self.random_state)
        device, dtype = self._device_and_dtype(X, first=first)
        if first:
            self._learn_units(rows, values, weights, y)
            panel = self._panel(rows, values, weights)
            self.module_ = self._new_module(panel, new_generator(rng))
            self._built_from = wanted
            self._n_features_out = self.latent_size
        else:
            panel = self._panel(rows, values, weights)
            # condition() shares weights between estimators: the others keep theirs.
            self.module_ = copy.deepcopy(self.module_)
            if isinstance(self.module_.likelihood, Gaussian):
                self.module_.likelihood.whiten()
        refuse_absurd_times(rows)
        self.module_.to(device=device, dtype=self._training_dtype(dtype))
        self.context_ = panel
        self._train(panel, rng, dtype, self._task(X, y, sample_weight))
        self.posterior_ = self._inferred(panel, self.n_draws)
        return self

    def _learn_units(self, rows: LongRows, values: np.ndarray, weights: np.ndarray | None, y: Any) -> None:
        """Scales of times, covariates and outputs, and what the outputs are called."""
        self.time_kind_ = rows.time_kind
        self.y_scaler_ = None
        if LIKELIHOODS[self.likelihood].standardised:
            self.y_scaler_ = fitted_scaler(values, weights, what="y")
        has_covariates = rows.covariates.shape[1] > 0
        self.covariate_scaler_ = None
        if has_covariates:
            self.covariate_scaler_ = fitted_scaler(rows.covariates, weights, what="covariates")
        self._output_names = output_names(y)
        self._single_output = np.asarray(y).ndim == 1
        self._outputs_are_named = isinstance(y, pd.DataFrame)
        spans = np.ptp(Panel.of(rows.series, rows.time, rows.covariates, values).windows(), axis=1)
        self.time_scale_ = float(np.median(spans[spans > 0])) / HORIZON if (spans > 0).any() else 1.0

    def _train(self, panel: Panel, rng: np.random.RandomState, dtype: torch.dtype, task: dict[str, Any]) -> None:
        """Train on a panel; with early stopping on what is left of it after the last rows of some series.

        ``task`` is what callbacks are told.
        """
        training, aside, validate = panel, None, None
        rows_aside = last_rows(panel, self.validation_fraction, rng) if self.early_stopping else np.zeros(1, dtype=bool)
        if rows_aside.any():
            training, aside = panel.without(rows_aside), panel.without(~rows_aside)
            if self.observation_times == "poisson":
                training = panel.until(rows_aside)  # nobody watched afterwards
            validate = forecast_density(self.module_, training, aside, self._tensors_observed, self._solver())
        auto_batch_size = min(max(panel.n_series // 5, 1), 50)
        batch_size = self._batch_size(panel.n_series, auto_batch_size)
        device = next(self.module_.parameters()).device
        n_batches = -(-panel.n_series // batch_size)
        passes = -(-LEAST_UPDATES // n_batches)
        settings = ELBOSettings(
            importance_weighted=self.bound == "iwae",
            n_samples=self.n_samples,
            annealing_updates=round(self.kl_annealing * self.max_iter * passes * n_batches),
            forecasting=self.forecasting,
            hindcasting=self.hindcasting,
        )
        objective = NegativeELBO(
            self.module_, training, self._tensors_observed, self._solver(), settings, new_generator(rng, device)
        )
        with worthwhile_threads(batch_size * max(self.encoder_size, *self._hidden_layers(), 1)):
            self._fit_module(
                objective,
                training.n_series,
                rng,
                auto_batch_size=auto_batch_size,
                passes=passes,
                validate=validate,
                task=task,
                max_grad_norm=MAX_GRAD_NORM,
                dtype=dtype,
                averaging=AVERAGING,
            )
        likelihood = self.module_.likelihood
        if not isinstance(likelihood, Gaussian):
            return
        if self.noise == "coloured" and self._refined:
            self._learn_noise(likelihood, panel)
        if aside is not None:
            widen_noise(likelihood, aside.observed(), self._forecasts(training, aside.observed()))

    def _learn_noise(self, likelihood: Gaussian, panel: Panel) -> None:
        """Part the noise that is left into white noise and one with a memory, where that is clearly likelier."""
        rows = linearised_rows(self._module_in_double(), panel, self._tensors_in_double, self._solver())
        for output, found in enumerate(rows.likeliest_noise()):
            if found is not None:
                likelihood.colour(output, *found)

    def _forecasts(self, known: Panel, query: Panel) -> list[Prediction]:
        """What the model says of rows of the same series of which others are known."""
        posterior = self._inferred(known, self.n_draws)
        noise = normal_draws(posterior.n_draws, self.module_.latent_size)
        return list(self._predictive().answers(query, known, np.arange(known.n_series), posterior, noise))

    @property
    def noise_std_(self) -> np.ndarray:
        """Standard deviation of the observation noise, in the units of y."""
        white, coloured, _ = self._noise()
        return np.hypot(white, coloured) * self._units()[0]

    @property
    def noise_share_(self) -> np.ndarray:
        """Share of the noise's variance that has a memory."""
        white, coloured, _ = self._noise()
        return coloured**2 / (white**2 + coloured**2)

    @property
    def noise_memory_(self) -> np.ndarray:
        """Time in which the correlation of the noise with a memory falls by a factor of e; NaN where there is none."""
        _, coloured, memory = self._noise()
        return np.where(coloured > 0.0, memory * self.time_scale_, np.nan)

    def _noise(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Standard deviations of white and coloured noise, and memory, in the model's units."""
        check_is_fitted(self)
        likelihood = self.module_.likelihood
        if not isinstance(likelihood, Gaussian):
            raise AttributeError(f"likelihood={self.likelihood!r} has no noise of its own; predict(return_std=True).")
        parts = torch.exp(likelihood.log_noise.detach()), likelihood.coloured, likelihood.memory
        white, coloured, memory = (to_numpy(part).astype(np.float64) for part in parts)
        return white, coloured, memory

    @array_api
    def condition(self, X: Any, y: Any, sample_weight: Any = None) -> LatentODERegressor:
        """Take in more observations, of known or of new series, without training.

        Parameters
        ----------
        X : DataFrame or array-like of shape (n_rows, n_columns)
            As in ``fit``.
        y : array-like of shape (n_rows,) or (n_rows, n_outputs)
            Observed values; NaN where nothing was observed, as in rows that only tell covariates to come.
        sample_weight : array-like of shape (n_rows,), default=None
            How often each row counts, as in ``fit``.

        Returns
        -------
        LatentODERegressor
            A new fitted estimator that shares this one's weights; this one stays as it is.

        Raises
        ------
        NotFittedError
            Before ``fit``.
        ValueError
            Where X or y are not as in ``fit``; the message names the column.
        """
        rows = self._read(X)
        values = self._targets(y, rows, maybe_nothing=True)
        rows, values, weights = distinct_rows(rows, values, checked_weights(sample_weight, values))
        refuse_absurd_times(rows, typical_span=HORIZON * self.time_scale_)
        new = self._panel(rows, values, weights)
        conditioned = copy.copy(self)
        joined = conditioned.context_ = self.context_.joined(new)
        changed = joined.ids.get_indexer(new.ids)
        posterior = self.posterior_.take(self.context_.ids.get_indexer(joined.ids))
        part = self._inferred(joined.take(changed), posterior.n_draws)
        places = torch.from_numpy(changed)
        posterior.mean[places], posterior.factor[places] = part.mean, part.factor
        posterior.log_weights[:, places] = part.log_weights
        conditioned.posterior_ = posterior
        return conditioned

    @array_api
    def predict(self, X: Any, return_std: bool = False) -> Any:
        """Predict at any times of any series.

        Parameters
        ----------
        X : DataFrame or array-like of shape (n_rows, n_columns)
            As in ``fit``.
        return_std : bool, default=False
            Whether to return standard deviations as well: observation noise and uncertainty of the latent state.

        Returns
        -------
        mean : ndarray of shape (n_rows,) or (n_rows, n_outputs)
            Predictions, in the order and shape of the y of ``fit``.
        std : ndarray of the same shape
            Standard deviations; only with ``return_std``.

        Raises
        ------
        NotFittedError
            Before ``fit``.
        ValueError
            Where X does not have the columns, or times not the kind, that they had in ``fit``.
        SolverError
            Where no draw of a latent state could be followed as far as was asked.
        """
        mean, std = self._moments(self._read(X), with_std=return_std)
        return (self._in_users_shape(mean), self._in_users_shape(std)) if return_std else self._in_users_shape(mean)

    @array_api
    def score_samples(self, X: Any, y: Any = None) -> np.ndarray:
        """Log predictive density of each row, given what the model is conditioned on.

        Of each row by itself: outputs of one row are judged together, rows of one series are not. Rows that the
        model was fitted to or conditioned on are known to it, and score high for that.

        Parameters
        ----------
        X : DataFrame or array-like of shape (n_rows, n_columns)
            As in ``fit``.
        y : array-like of shape (n_rows,) or (n_rows, n_outputs), default=None
            Values; NaN where nothing was observed. None: nothing was observed at all, and all answers are NaN.

        Returns
        -------
        ndarray of shape (n_rows,)
            Nats, in the units of y; for binary and count outputs the logarithm of a probability. NaN for rows in
            which nothing was observed.

        Raises
        ------
        NotFittedError
            Before ``fit``.
        ValueError
            Where X or y are not as in ``fit``.
        SolverError
            Where no draw of a latent state could be followed as far as was asked.
        """
        rows = self._read(X)
        likelihood = self.module_.likelihood
        if y is None:
            return np.full(len(rows), np.nan)
        values = self._targets(y, rows, maybe_nothing=True)
        scaled = torch.from_numpy(self._standardised(values))

        def log_density(answer: Prediction) -> Tensor:
            y = scaled[torch.from_numpy(answer.rows)].to(answer.eta)
            return log_mean_density(likelihood.log_prob(answer.eta, y, answer.coloured), answer.weights)[None]

        density = self._gathered(rows, log_density)[0]
        observed = ~np.isnan(values)
        density -= (observed * np.log(self._units()[0])).sum(1)
        some = observed.any(1)
        warn_of_overflow(density[some], "log-densities", "minus infinity: y lies too far from what is predicted")
        return np.where(some, density, np.nan)

    @array_api
    def sample_y(self, X: Any, n_samples: int = 1, random_state: Any = 0) -> np.ndarray:
        """Draw observations at given rows; rows of one series belong to one path in each draw.

        Parameters
        ----------
        X : DataFrame or array-like of shape (n_rows, n_columns)
            As in ``fit``.
        n_samples : int, default=1
            Number of draws.
        random_state : int, RandomState instance or None, default=0
            Source of the draws.

        Returns
        -------
        ndarray of shape (n_rows, n_samples) or (n_rows, n_outputs, n_samples)
            Observations, noise included (as ``GaussianProcessRegressor.sample_y`` has them).

        Raises
        ------
        NotFittedError
            Before ``fit``.
        ValueError
            Where X does not have the columns, or times not the kind, that they had in ``fit``.
        """
        _check_count("n_samples", n_samples)
        with memory_for("n_samples", n_samples):
            return self._sampled(self._read(X), n_samples, random_state)

    def _sampled(self, rows: LongRows, n_samples: int, random_state: Any) -> np.ndarray:
        """See :meth:`sample_y`."""
        likelihood = self.module_.likelihood
        rng = check_random_state(random_state)
        generator = new_generator(rng)
        n_series = len(pd.unique(rows.series))
        noise = torch.from_numpy(rng.standard_normal((n_samples, n_series, self.module_.latent_size)))
        draws = self._gathered(
            rows, lambda answer: _drawn(likelihood, answer.eta, generator), noise=noise, generator=generator
        )
        scale, shift = self._units()
        draws = np.moveaxis(draws * scale + shift, 0, -1)
        return draws[:, 0] if self._single_output else draws

    @array_api
    def sample(
        self, n_series: int = 1, times: Any = None, *, covariates: Any = None, random_state: Any = None
    ) -> pd.DataFrame:
        """Draw new series from the prior.

        Parameters
        ----------
        n_series : int, default=1
            How many.
        times : array-like of shape (n_times,), default=None
            Times of the observations of each, of the kind that X holds; every series starts at the first of them.
            None: 50 times over the span of a typical training series, from its start on (with a time zone, in UTC).
        covariates : array-like that broadcasts to (n_series, n_times, n_covariates), default=None
            Their covariates; None: the means of those in ``fit``.
        random_state : int, RandomState instance or None, default=None
            Source of the draws.

        Returns
        -------
        DataFrame of shape (n_series * n_times, n_columns)
            A long frame: series (0, 1, ...), time, covariates and observations, noise included.

        Raises
        ------
        NotFittedError
            Before ``fit``.
        ValueError
            Where a number or the times are not as described, or covariates are given to a model without any.
        """
        self._fitted_module()
        _check_count("n_series", n_series)
        times = to_pandas(times, "times")
        if times is not None and (np.ndim(times) != 1 or len(times) == 0):
            raise ValueError(f"times must have one dimension and hold one time at least; got {times!r}.")
        if times is None:
            offsets = np.linspace(0.0, HORIZON * self.time_scale_, 50)
            start = float(np.median(self.context_.origins)) + LEAD * self.time_scale_
            column = times_of_kind(start + offsets, self.time_kind_)
        else:
            column = pd.Series(times)
        seconds, kind = read_times(column.reset_index(drop=True), "array times")
        if kind != self.time_kind_:
            raise ValueError(f"times holds a {kind}, but the time column held a {self.time_kind_} in fit.")
        with memory_for("n_series", n_series):
            return self._new_series(n_series, column, seconds, covariates, random_state)

    def _new_series(
        self, n_series: int, column: pd.Series, seconds: np.ndarray, covariates: Any, random_state: Any
    ) -> pd.DataFrame:
        """See :meth:`sample`; the times as a column, and as they were read."""
        module = self.module_
        order = np.argsort(seconds, kind="stable")
        n_times, n_covariates = len(seconds), self.context_.covariates.shape[1]
        rng = check_random_state(random_state)
        given = np.zeros((n_series, n_times, n_covariates))
        if covariates is not None:
            if not n_covariates:
                raise ValueError("covariates were given, but the model was fitted without any; leave covariates=None.")
            with naming("covariates"):
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
            if self.covariate_scaler_ is not None:
                given = self.covariate_scaler_.transform(given.reshape(-1, n_covariates)).reshape(given.shape)
        panel = Panel(
            pd.RangeIndex(n_series),
            np.full(n_series, seconds[order[0]] - LEAD * self.time_scale_),
            np.repeat(np.arange(n_series), n_times),
            np.tile(seconds[order], n_series),
            given[:, order].reshape(n_series * n_times, n_covariates),
            np.full((n_series * n_times, module.likelihood.n_outputs), np.nan),
        )
        noise = torch.from_numpy(rng.standard_normal((1, n_series, module.latent_size)))
        generator, answers = new_generator(rng), np.empty(panel.y.shape)
        nowhere, prior = np.full(n_series, -1), Posterior.prior(n_series, module.latent_size, 1)
        for answer in self._predictive().answers(panel, self.context_, nowhere, prior, noise, generator):
            answers[answer.rows] = to_numpy(_drawn(module.likelihood, answer.eta, generator)[0])
        scale, shift = self._units()
        frame = pd.DataFrame({column_label(self.series, "series"): panel.codes})
        frame[column_label(self.time, "time")] = column.iloc[np.tile(order, n_series)].to_numpy()
        if n_covariates:
            assert self.covariate_scaler_ is not None
            names = self._covariate_names()
            frame[names] = self.covariate_scaler_.inverse_transform(panel.covariates)
        frame[self._output_names] = answers * scale + shift
        return frame

    @array_api
    def transform(self, X: Any) -> np.ndarray:
        """Latent initial state of each row's series: the posterior's mean, or its mode where it was refined.

        Parameters
        ----------
        X : DataFrame or array-like of shape (n_rows, n_columns)
            As in ``fit``; a series that the model is not conditioned on has the prior's mean, 0.

        Returns
        -------
        ndarray of shape (n_rows, latent_size)
            The same in all rows of a series; ``latent_states`` has a row per series.

        Raises
        ------
        NotFittedError
            Before ``fit``.
        ValueError
            Where X does not have the columns, or times not the kind, that they had in ``fit``.
        """
        rows = self._read(X)
        self._refuse_other_kind(rows)
        codes, ids = pd.factorize(rows.series)
        posterior = self.posterior_.take(self.context_.ids.get_indexer(pd.Index(ids)))
        return to_numpy(posterior.mean)[codes]

    def latent_states(self) -> pd.DataFrame:
        """Latent initial states of all series that the model is conditioned on, for clustering or classification.

        Returns
        -------
        DataFrame of shape (n_series, latent_size)
            Posterior means (with ``posterior="laplace"`` modes), indexed by series.

        Raises
        ------
        NotFittedError
            Before ``fit``.
        """
        self._fitted_module()
        columns = list(self.get_feature_names_out())
        index = self.context_.ids.rename(column_label(self.series, "series"))
        return pd.DataFrame(to_numpy(self.posterior_.mean), index=index, columns=columns)

    @array_api
    def latent_trajectory(self, X: Any) -> np.ndarray:
        """Mean latent states at given rows.

        Parameters
        ----------
        X : DataFrame or array-like of shape (n_rows, n_columns)
            As in ``fit``.

        Returns
        -------
        ndarray of shape (n_rows, latent_size)
            States.

        Raises
        ------
        NotFittedError
            Before ``fit``.
        ValueError
            Where X does not have the columns, or times not the kind, that they had in ``fit``.
        SolverError
            Where no draw of a latent state could be followed as far as was asked.
        """
        return self._gathered(self._read(X), lambda answer: answer.mean(answer.states)[None])[0]

    @array_api
    def predict_intensity(self, X: Any) -> np.ndarray:
        """Rate at which observations come, with ``observation_times="poisson"``.

        Parameters
        ----------
        X : DataFrame or array-like of shape (n_rows, n_columns)
            As in ``fit``.

        Returns
        -------
        ndarray of shape (n_rows,)
            Observations per unit of time (of dates and time differences: per second).

        Raises
        ------
        NotFittedError
            Before ``fit``.
        AttributeError
            Where ``observation_times`` was not "poisson".
        ValueError
            Where X does not have the columns, or times not the kind, that they had in ``fit``.
        SolverError
            Where no draw of a latent state could be followed as far as was asked.
        """
        if self._fitted_module().log_intensity is None:
            raise AttributeError('predict_intensity needs a model fitted with observation_times="poisson".')

        def rate(answer: Prediction) -> Tensor:
            assert answer.log_rate is not None
            return answer.mean(torch.exp(answer.log_rate))[None]

        return self._gathered(self._read(X), rate)[0] / self.time_scale_

    @array_api
    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Coefficient of determination over the values that were observed.

        Parameters
        ----------
        X : DataFrame or array-like of shape (n_rows, n_columns)
            As in ``fit``.
        y : array-like of shape (n_rows,) or (n_rows, n_outputs)
            True values; NaN where nothing was observed.
        sample_weight : array-like of shape (n_rows,), default=None
            Weights of the rows, none negative.

        Returns
        -------
        float
            :math:`R^2`, averaged over the outputs of which at least two values were observed; without any NaN, with a
            warning.

        Raises
        ------
        NotFittedError
            Before ``fit``.
        ValueError
            Where X or y are not as in ``fit``.
        SolverError
            Where no draw of a latent state could be followed as far as was asked.
        """
        rows = self._read(X)
        true = self._targets(y, rows, maybe_nothing=True)
        predicted, _ = self._moments(rows)
        weights = checked_weights(sample_weight, true)
        scores = []
        for column, guess in zip(true.T, predicted.T, strict=True):
            seen = ~np.isnan(column) & (weights > 0.0)
            if seen.sum() >= 2:
                with squaring("y"):
                    scores.append(r2_score(column[seen], guess[seen], sample_weight=weights[seen]))
        if not scores:
            warn_caller(
                "score is NaN: R^2 needs two rows at least with a target, and with weight, of some output.",
                UndefinedMetricWarning,
            )
            return np.nan
        return float(np.mean(scores))

    def _architecture(self) -> dict[str, Any]:
        """The parameters that the network is built from."""
        return {
            "latent_size": self.latent_size,
            "hidden_layer_sizes": self._hidden_layers(),
            "activation": self.activation,
            "encoder": self.encoder,
            "encoder_size": self.encoder_size,
            "likelihood": self.likelihood,
            "observation_times": self.observation_times,
        }

    def _new_module(self, panel: Panel, generator: torch.Generator) -> LatentODE:
        n_outputs, n_covariates = panel.y.shape[1], panel.covariates.shape[1]
        likelihood = LIKELIHOODS[self.likelihood]
        encoder = ENCODERS[self.encoder](n_outputs, n_covariates, self.encoder_size, self.latent_size, generator)
        module = LatentODE(
            n_covariates,
            latent_size=self.latent_size,
            hidden_layer_sizes=self._hidden_layers(),
            activation=self.activation,
            encoder=encoder,
            likelihood=likelihood(n_outputs),
            process=self.observation_times == "poisson",
            generator=generator,
        )
        with torch.no_grad():
            module.decoder.linear.bias.copy_(torch.from_numpy(likelihood.start(panel.y, panel.row_weights())))
            if module.log_intensity is not None:
                total = np.ptp(panel.windows(), axis=1).sum() / self.time_scale_
                events = max(panel.observed().row_weights().sum() - panel.n_series, 1)
                module.log_intensity.linear.bias.fill_(float(np.log(events / total)) if total > 0 else 0.0)
        return module

    def _fitted_module(self) -> LatentODE:
        check_is_fitted(self)
        return self.module_

    def _read(self, X: Any) -> LongRows:
        """The rows of X, which must have the columns of ``fit``."""
        check_is_fitted(self)
        return read_rows(self, X, series=self.series, time=self.time, reset=False)

    def _panel(self, rows: LongRows, values: np.ndarray, weights: np.ndarray | None) -> Panel:
        """Rows as a panel, standardised."""
        panel = Panel.of(rows.series, rows.time, self._scaled_covariates(rows), self._standardised(values), weights)
        return panel.starting(LEAD * self.time_scale_)

    def _units(self) -> tuple[Any, Any]:
        """Scale and shift of the outputs."""
        return (1.0, 0.0) if self.y_scaler_ is None else (self.y_scaler_.scale_, self.y_scaler_.mean_)

    def _standardised(self, values: np.ndarray) -> np.ndarray:
        """Outputs in the model's units; ValueError where they overflow."""
        scale, shift = self._units()
        with np.errstate(over="ignore"):
            scaled = (values - shift) / scale
        if np.isinf(scaled).any():
            raise ValueError("y holds values too large to standardise in its dtype; rescale it.")
        return scaled

    def _scaled_covariates(self, rows: LongRows) -> np.ndarray:
        return rows.covariates if self.covariate_scaler_ is None else self.covariate_scaler_.transform(rows.covariates)

    def _covariate_names(self) -> list[Any]:
        n_covariates = self.context_.covariates.shape[1]
        if not hasattr(self, "feature_names_in_"):
            return [f"x{i}" for i in range(n_covariates)]
        names = list(self.feature_names_in_)
        keys = [c if isinstance(c, str) else names[c] for c in (self.series, self.time) if c is not None]
        return [name for name in names if name not in keys]

    def _refuse_other_kind(self, rows: LongRows) -> None:
        """Refuse times of another kind than the model was fitted to."""
        if rows.time_kind != self.time_kind_:
            raise ValueError(
                f"The time column time={self.time!r} holds a {rows.time_kind}, but held a {self.time_kind_} in fit."
            )

    def _targets(self, y: Any, rows: LongRows, *, maybe_nothing: bool = False) -> np.ndarray:
        """Observed values beside rows; ValueError where they, or the times, are not what the model was fitted to."""
        y = to_pandas(y, "y")
        values = read_targets(y, len(rows), maybe_nothing=maybe_nothing)
        n_outputs = self.module_.likelihood.n_outputs
        self._refuse_other_kind(rows)
        if values.shape[1] != n_outputs:
            raise ValueError(f"y has {values.shape[1]} outputs, but the model was fitted to {n_outputs}.")
        if self._outputs_are_named and isinstance(y, pd.DataFrame) and list(y.columns) != self._output_names:
            raise ValueError(
                f"y has the columns {list(y.columns)}, but in fit they were {self._output_names}; pass these."
            )
        self.module_.likelihood.check(values)
        return values

    def _tensors(self, panel: Panel, known: Panel | None = None, *, double: bool = False) -> PanelTensors:
        parameter = next(self.module_.parameters())
        dtype = torch.float64 if double else parameter.dtype
        return PanelTensors.of(panel, self.time_scale_, dtype, parameter.device, known)

    def _tensors_observed(self, panel: Panel, *, double: bool = False) -> PanelTensors:
        """Tensors of the rows at which anything was observed; the other rows tell covariates only."""
        return self._tensors(panel.observed(), panel, double=double)

    def _reconstruction(self, module: Any) -> dict[str, Any]:
        return {"module_": module, "posterior_": self._inferred(self.context_, self.n_draws, module)}

    def _inferred(self, panel: Panel, n_draws: int, module: LatentODE | None = None) -> Posterior:
        """The posteriors of a panel's series, in float64 whatever the model was trained in."""
        module = self._module_in_double(module)
        return infer(module, panel, self._tensors_in_double, self._solver(), n_draws, refined=self._refined)

    def _module_in_double(self, module: LatentODE | None = None) -> LatentODE:
        module = module or self.module_
        return module if next(module.parameters()).dtype == torch.float64 else copy.deepcopy(module).double()

    def _tensors_in_double(self, panel: Panel) -> PanelTensors:
        return self._tensors_observed(panel, double=True)

    def _predictive(self) -> Predictive:
        return Predictive(self.module_, self._tensors, self._solver())

    def _in_users_shape(self, values: np.ndarray) -> np.ndarray:
        return values[:, 0] if self._single_output else values

    def _moments(self, rows: LongRows, *, with_std: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """Means, and standard deviations (else nothing), of shape (n_rows, n_outputs), in the units of y."""
        likelihood = self.module_.likelihood

        def moments(answer: Prediction) -> Tensor:
            means = likelihood.mean(answer.eta)
            mean = answer.mean(means)
            if not with_std:
                return mean[None]
            variance = answer.mean(likelihood.variance(answer.eta) + (means - mean) ** 2)
            return torch.stack([mean, variance if answer.coloured is None else variance + answer.coloured])

        mean, *variance = self._gathered(rows, moments)
        if self.y_scaler_ is not None and (np.abs(mean) > FAR).any():
            warn_caller(
                f"Some predictions are more than {FAR:g} standard deviations of y from its mean: the dynamics explode "
                "so far from the data. Ask for times closer to the data, or train on longer series.",
                ConvergenceWarning,
            )
        scale, shift = self._units()
        return mean * scale + shift, np.sqrt(variance[0]) * scale if with_std else np.empty(0)

    def _gathered(
        self,
        rows: LongRows,
        quantity: Callable[[Prediction], Tensor],
        *,
        noise: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> np.ndarray:
        """A quantity of all rows' answers, of shape (n, n_rows, ...), in the order of the rows.

        Parameters
        ----------
        rows : LongRows
            The rows.
        quantity : callable
            Of an answer, whose rows are positions in ``rows``, a tensor of shape (n, rows of the answer, ...).
        noise : Tensor, default=None
            What to draw latent states from, as many at once as memory allows: the quantity has an entry for each. None:
            the draws that predictions are made from.
        generator : torch.Generator, default=None
            Source of paths of the noise that has a memory; None: its mean and variance.
        """
        self._refuse_other_kind(rows)
        codes, ids = pd.factorize(rows.series)
        order = np.lexsort((rows.time, codes))
        positions = self.context_.ids.get_indexer(pd.Index(ids))
        if (positions < 0).all():
            _warn_of_other_ids(pd.Index(ids), self.context_.ids)
        origins = np.where(positions >= 0, self.context_.origins[positions], np.median(self.context_.origins))
        # A scale of time before the first row, for those not known.
        too_early = np.where(positions < 0, origins + (LEAD - 1.0) * self.time_scale_, -np.inf)
        if (strange := rows.time < too_early[codes]).any():
            _warn_of_early_times(as_python(rows.series[strange][0]))
        nothing = np.full((len(rows), self.module_.likelihood.n_outputs), np.nan)
        covariates = self._scaled_covariates(rows)
        query = Panel(pd.Index(ids), origins, codes[order], rows.time[order], covariates[order], nothing)
        posterior, predictive = self.posterior_.take(positions), self._predictive()
        if noise is None:
            draws = normal_draws(posterior.n_draws, self.module_.latent_size)
            return self._in_order(
                quantity, order, predictive.answers(query, self.context_, positions, posterior, draws, generator)
            )
        parts = []
        for some in noise.split(predictive.n_draws_at_once(query, self.context_)):
            uniform = torch.full((len(some), len(ids)), -np.log(len(some)), dtype=torch.float64)
            equal = Posterior(posterior.mean, posterior.factor, uniform)
            answers = predictive.answers(query, self.context_, positions, equal, some, generator)
            parts.append(self._in_order(quantity, order, answers))
        return np.concatenate(parts)

    @staticmethod
    def _in_order(
        quantity: Callable[[Prediction], Tensor], order: np.ndarray, answers: Iterable[Prediction]
    ) -> np.ndarray:
        """A quantity of the answers to all rows, in the user's order, in which row i of the panel is ``order[i]``."""
        gathered: np.ndarray | None = None
        for answer in answers:
            answer = replace(answer, rows=order[answer.rows])
            part = to_numpy(quantity(answer)).astype(np.float64)
            if gathered is None:
                gathered = np.empty((len(part), len(order), *part.shape[2:]))
            gathered[:, answer.rows] = part
        assert gathered is not None
        return gathered


#: Standardised predictions beyond this are warned of.
FAR = 1e6

#: Share of the past in the running mean of the weights that validation looks at.
AVERAGING = 0.99

#: Updates in an epoch, at least; where there are fewer batches an epoch goes over them more than once.
LEAST_UPDATES = 2

#: Longer gradients are shortened to this.
MAX_GRAD_NORM = 10.0


def _warn_of_other_ids(query: pd.Index, known: pd.Index) -> None:
    """Say so where no series is known for want of the same type of ids."""
    kinds = [pd.api.types.infer_dtype(ids) for ids in (query, known)]
    if kinds[0] != kinds[1] and not kinds[1].startswith("mixed"):
        warn_caller(
            f"None of the series in X is known: ids are {kinds[0]} here, but were {kinds[1]} in fit. They are answered "
            "from the prior; give ids the same type.",
            UserWarning,
        )


def _warn_of_early_times(series: Any) -> None:
    """Say so where the dynamics of a series of which nothing is known are solved far backward."""
    warn_caller(
        "Series not known are taken to start at the median start of those in fit, and "
        f"{series!r} is asked long before that: what the dynamics say there was never trained. Tell the model of its "
        "observations by condition, or let times count from the start of each series.",
        UserWarning,
    )


def _check_count(name: str, value: Any) -> None:
    if not isinstance(value, Integral) or value < 1:
        raise ValueError(f"{name} must be an integer, 1 or more; got {value!r}.")


def _drawn(likelihood: Likelihood, eta: Tensor, generator: torch.Generator) -> Tensor:
    """Draws of the outputs; NaN where the dynamics could not be solved."""
    return torch.where(torch.isnan(eta), torch.nan, likelihood.sample(torch.nan_to_num(eta), generator))

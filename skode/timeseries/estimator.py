"""Regression on irregular time series by a latent neural ODE."""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import partial
from numbers import Integral, Real
from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.base import _fit_context
from sklearn.callback import with_callbacks
from sklearn.utils._param_validation import Interval, StrOptions

from skode.equations.columns import Columns
from skode.equations.reading import Clock
from skode.frames import Column, LongRows, read_rows, read_targets
from skode.timeseries.absurd_times import check_absurd_times
from skode.timeseries.building import chosen_sizes, new_model
from skode.timeseries.cycles import Cycles
from skode.timeseries.doses import checked, distinct, dose_columns
from skode.timeseries.elbo import ELBOSettings, NegativeELBO
from skode.timeseries.encoders import ENCODERS
from skode.timeseries.known_dynamics import KnownDynamics
from skode.timeseries.likelihoods import LIKELIHOODS, Gaussian
from skode.timeseries.panel import Panel
from skode.timeseries.partial import IncrementalLatentODE
from skode.timeseries.units import Units
from skode.timeseries.validation import forecast_density, last_rows
from skode.training import (
    COMMON_CONSTRAINTS,
    Stopwatch,
    TrainingSettings,
    array_api_fit,
    check_weights,
    draft,
    new_generator,
    say,
    to_pandas,
    whole,
    worthwhile_threads,
)

#: Share of the past in the running mean of the weights, at which validation looks and which ``partial_fit`` keeps.
AVERAGING = 0.99

#: Longer gradients are shortened to this.
MAX_GRAD_NORM = 10.0


class LatentODERegressor(IncrementalLatentODE):
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
        Residuals of a normal output: white noise, or beside it noise with a memory, an
        Ornstein-Uhlenbeck process [4]_. Then a forecast starts from what the last observations were off by. Its share
        of the noise and its memory are estimated after training, in ``fit``, by the likelihood of up to 64 rows in a
        line of up to 500 series, linear about the posterior's modes. All noise stays white where that does as well (by
        the Bayesian information criterion), where an output was seen in fewer than five series or forty rows, and
        with ``posterior="encoder"``.
    observation_times : {"given", "poisson"}, default="given"
        Whether times are data themselves: "poisson" makes them a Poisson process from a series' first row to its
        last, whose intensity depends on the latent state [1]_; see ``predict_intensity``. Where watching began before
        the first observation, or ended after the last, rows with y NaN say so.
    dynamics : KnownDynamics or None, default=None
        Equations that latent states follow where they are known but for parameters [5]_, see :class:`KnownDynamics`;
        None: a vector field that is learnt. With equations ``latent_size``, ``hidden_layer_sizes`` (but for read-outs
        that are learnt), ``activation`` and ``hindcasting`` are not read.
    periods : array-like or None, default=None
        Periods of cycles by the calendar, such as ``["1D", "7D"]`` for dates (by the clock of their time zone) and
        time differences, or numbers in the unit of ``time``. Outputs then have three harmonics of each, with
        amplitudes that all series share, of which each series has a deviation and which depend on the latent state.
    latent_size : int or "auto", default="auto"
        Size of the latent state; "auto": two more than twice the outputs, from 4 to 16.
    hidden_layer_sizes : int, array-like of int or "auto", default="auto"
        Widths of the hidden layers of the latent vector field; the read-outs have one hidden layer of the widest.
        "auto": two layers of 32, or of 64 where 8,192 values or more were observed.
    activation : {"silu", "tanh", "logistic", "softplus", "relu"}, default="silu"
        Activation of the vector field. Beyond the data the bounded ones level off; "silu" and "softplus" go on.
    encoder : str, default="gru"
        A name in ``skode.timeseries.encoders.ENCODERS``: "gru", a gated recurrent unit; "rnn", a plain recurrent
        network [1]_; "ode_rnn", a GRU whose state follows an ODE between observations [2]_, which costs a solve for
        each.
    encoder_size : int or "auto", default="auto"
        Size of the encoder's state; "auto": 32 or 64, as the hidden layers'.
    bound : {"elbo", "iwae"}, default="elbo"
        The evidence lower bound, or the importance-weighted one [3]_, which is tighter with several draws.
    n_samples : int, default=1
        Draws per series in each update.
    kl_annealing : float, default=0.0
        Share of the updates of ``max_iter`` epochs in which the weight of the divergence from the prior rises from 0
        to 1; ``max_time`` does not hasten it.
    warm_up : float, default=0.5
        Share of training in which it looks at windows of the series, which grow from a tenth of their rows to all, and
        in the first part of which the noise of normal outputs is held at .3 of their spread. Epochs of it don't count
        for ``n_iter_no_change``. Not read with ``dynamics`` or ``observation_times="poisson"``, nor where training
        goes on by ``warm_start``.
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
        (Loshchilov, Hutter, "SGDR", ICLR 2017). In ``partial_fit`` it is constant.
    learning_rate_init : float, default=1e-2
        Learning rate of SOAP [6]_, and with ``dynamics`` or ``observation_times="poisson"`` of Adam.
    max_iter : int or "auto", default="auto"
        Largest number of epochs, each of two updates at least; "auto": by the number of observed values, see
        :doc:`the guide </guide/latent_odes>`.
    max_time : float or None, default=None
        Seconds that ``fit`` may take, posteriors and noise included; None: any number. The cosine schedule
        then follows the time where that is sooner over than ``max_iter`` epochs. A fit that is limited in this way
        depends on the speed of the machine.
    shuffle : bool, default=True
        Whether to shuffle the series in each epoch.
    random_state : int, RandomState instance or None, default=None
        Source of initial weights, validation split, order and draws. Two fits with the same int on one machine are
        identical to the bit.
    tol : float, default=1e-4
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
    n_iter_no_change : int or None, default=50
        Epochs without improvement after which training stops; None: never.
    rtol, atol : float, default=1e-3
        Relative and absolute tolerance of the solver.
    method : str, default="dopri5"
        ODE method, one of :data:`skode.solvers.METHODS`.
    step_size : float or None, default=None
        Step size of fixed-step methods, as a fraction of the time that a series is solved over; None: 0.1.
    adjoint : {"discrete", "continuous", "backprop"}, default="discrete"
        How gradients are computed; see :func:`skode.solvers.solve_ivp`.
    checkpoint : str, path-like or None, default=None
        File with the progress of ``fit``, from which the same fit goes on where its process was killed, and ends in the
        same numbers; in a folder each fit has a file of its own. SIGTERM then ends a fit as Ctrl-C does. See
        :doc:`the guide </guide/checkpoints>`.
    checkpoint_interval : float, default=60.0
        Seconds between two writes of that file.
    device : str, default="auto"
        Where to compute: "auto", "cpu", "cuda", ...
    dtype : {"float32", "float64"} or None, default=None
        Dtype of computations; None: float32 where X is a float32 array or on other devices than the CPU, else float64,
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
        Type of the time column.
    noise_std_ : ndarray of shape (n_outputs,)
        Standard deviation of the observation noise, in the units of y; only with the Gaussian likelihood.
    noise_share_ : ndarray of shape (n_outputs,)
        Share of its variance that has a memory; 0 where all noise is white.
    noise_memory_ : ndarray of shape (n_outputs,)
        Time in which the correlation of that part falls by a factor of e, in the units of X (dates: seconds); NaN
        where all noise is white.
    params_ : dict of str to float
        Parameters that all series share, in the equations of ``dynamics``.
    priors_ : DataFrame of shape (n_unknowns, 3)
        Median and middle 95 % of the distributions that each series' parameters and initial states are drawn from.
    sizes_ : Sizes
        ``latent_size``, ``hidden_layer_sizes``, ``encoder_size``, ``batch_size`` and ``max_iter`` of the last fit,
        with numbers for "auto".
    n_features_in_ : int
        Number of columns seen in ``fit``.
    feature_names_in_ : ndarray of shape (n_features,)
        Their names, if they all are strings.
    n_iter_ : int
        Epochs run, with the one that ``max_time`` ended.
    stop_reason_ : str
        Why training ended.
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
    .. [5] O. Linial, N. Ravid, D. Eytan, U. Shalit, "Generative ODE Modeling with Known Unknowns", CHIL 2021.
    .. [6] N. Vyas et al., "SOAP: Improving and Stabilizing Shampoo using Adam", ICLR 2025.

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

    _parameter_constraints: dict = {
        **COMMON_CONSTRAINTS,
        "series": [str, Integral, None],
        "time": [str, Integral],
        "likelihood": [StrOptions(set(LIKELIHOODS))],
        "noise": [StrOptions({"coloured", "white"})],
        "observation_times": [StrOptions({"given", "poisson"})],
        "dynamics": [KnownDynamics, None],
        "periods": ["array-like", None],
        "latent_size": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
        "hidden_layer_sizes": [StrOptions({"auto"}), *COMMON_CONSTRAINTS["hidden_layer_sizes"]],
        "max_iter": [StrOptions({"auto"}), *COMMON_CONSTRAINTS["max_iter"]],
        "encoder": [StrOptions(set(ENCODERS))],
        "encoder_size": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
        "bound": [StrOptions({"elbo", "iwae"})],
        "n_samples": [Interval(Integral, 1, None, closed="left")],
        "kl_annealing": [Interval(Real, 0, 1, closed="both")],
        "warm_up": [Interval(Real, 0, 1, closed="left")],
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
        dynamics: KnownDynamics | None = None,
        periods: Any = None,
        latent_size: Any = "auto",
        hidden_layer_sizes: Any = "auto",
        activation: str = "silu",
        encoder: str = "gru",
        encoder_size: Any = "auto",
        bound: str = "elbo",
        n_samples: int = 1,
        kl_annealing: float = 0.0,
        warm_up: float = 0.5,
        forecasting: float = 0.5,
        hindcasting: float = 0.3,
        posterior: str = "laplace",
        n_draws: int = 32,
        alpha: float = 0.0,
        batch_size: Any = "auto",
        learning_rate: str = "cosine",
        learning_rate_init: float = 1e-2,
        max_iter: Any = "auto",
        max_time: float | None = None,
        shuffle: bool = True,
        random_state: Any = None,
        tol: float = 1e-4,
        verbose: Any = False,
        warm_start: bool = False,
        early_stopping: bool = True,
        validation_fraction: float = 0.1,
        n_iter_no_change: int | None = 50,
        rtol: float = 1e-3,
        atol: float = 1e-3,
        method: str = "dopri5",
        step_size: float | None = None,
        adjoint: str = "discrete",
        checkpoint: Any = None,
        checkpoint_interval: float = 60.0,
        device: str = "auto",
        dtype: str | None = None,
    ) -> None:
        self.series = series
        self.time = time
        self.likelihood = likelihood
        self.noise = noise
        self.observation_times = observation_times
        self.dynamics = dynamics
        self.periods = periods
        self.latent_size = latent_size
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.encoder = encoder
        self.encoder_size = encoder_size
        self.bound = bound
        self.n_samples = n_samples
        self.kl_annealing = kl_annealing
        self.warm_up = warm_up
        self.forecasting = forecasting
        self.hindcasting = hindcasting
        self.posterior = posterior
        self.n_draws = n_draws
        self.alpha = alpha
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.learning_rate_init = learning_rate_init
        self.max_iter = max_iter
        self.max_time = max_time
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
        self.checkpoint = checkpoint
        self.checkpoint_interval = checkpoint_interval
        self.device = device
        self.dtype = dtype

    @with_callbacks
    @_fit_context(prefer_skip_nested_validation=True)
    @array_api_fit
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
        X, y, sample_weight = whole(X, y, sample_weight)
        with draft(self, data={"X": X, "y": y, "sample_weight": sample_weight}, shared=True) as new:
            new._learn(X, y, sample_weight)
        return self

    def _learn(self, X: Any, y: Any, sample_weight: Any) -> None:
        stopwatch = self._stopwatch()
        wanted = self._architecture()
        first = self._is_first_fit(wanted, goes_on=self.warm_start)
        rows, values, weights = self._read_all(X, y, sample_weight, first=first)
        self._refined = self.posterior == "laplace"
        rng = self._checkpoint.random_state(self.random_state)
        device, dtype = self._device_and_dtype(X, first=first)
        if first:
            panel = self._build(rows, values, weights, y, rng)
            self._built_from = wanted
        else:
            panel = self._units.panel(rows, values, weights)
            self.sizes_ = self.sizes_.of_model(chosen_sizes(self, panel))
            # condition() shares weights between estimators: the others keep theirs.
            self.module_ = copy.deepcopy(self.module_)
            if isinstance(self.module_.likelihood, Gaussian):
                self.module_.likelihood.whiten()
        check_absurd_times(rows)
        # Equations may be written in any way: they are trained with in the dtype of predictions.
        self.module_.to(device=device, dtype=dtype if self.dynamics is not None else self._training_dtype(dtype))
        self.context_ = panel
        for name in ("_record", "_n_planned"):  # of partial_fit
            self.__dict__.pop(name, None)
        self._train(panel, rng, dtype, self._task(X, y, sample_weight), stopwatch, first=first)
        with stopwatch.phase(f"Posteriors of {panel.n_series} series"):
            self.posterior_ = self._checkpoint.step(partial(self._inferred, panel, self.n_draws), by_all=True)

    def _read_all(
        self, X: Any, y: Any, sample_weight: Any, *, first: bool, partial: bool = False
    ) -> tuple[LongRows, np.ndarray, np.ndarray | None]:
        """Rows, values and weights; of a part of the data, but for the first, outputs need not be observed."""
        if first:
            X = X if self.dynamics is None else checked(X, self.dynamics.doses)
            rows = read_rows(self, X, series=self.series, time=self.time, reset=True)
            columns = self._dose_columns()
        else:
            rows, columns = self._read(X), self._units.columns
        y = to_pandas(y, "y")
        if first:
            values = read_targets(y, len(rows))
            LIKELIHOODS[self.likelihood].check(values)
        else:
            values = self._targets(y, rows)
        rows, values, weights = distinct(rows, values, check_weights(sample_weight, values), columns)
        never = np.flatnonzero(np.isnan(values).all(axis=0))
        if len(never) and (first or not partial):
            output = repr(y.columns[never[0]]) if isinstance(y, pd.DataFrame) else never[0]
            weighing = " in rows with weight" if sample_weight is not None else ""
            raise ValueError(f"Input y contains NaN only in output {output}{weighing}: it was never observed. Drop it.")
        return rows, values, weights

    def _dose_columns(self) -> Columns | None:
        """The parts of the covariates; None where they all are inputs."""
        return None if self.dynamics is None else dose_columns(self._input_names(), self.dynamics.doses)

    def _build(
        self, rows: LongRows, values: np.ndarray, weights: np.ndarray | None, y: Any, rng: np.random.RandomState
    ) -> Panel:
        """Learn the units, and make a model of the parameters; returns the rows in these units."""
        standardise = LIKELIHOODS[self.likelihood].standardised
        columns, linear = self._dose_columns(), self.dynamics is None or self.dynamics.interpolation == "linear"
        units = Units.learned(
            rows, values, weights, to_pandas(y, "y"), standardise=standardise, columns=columns, linear=linear
        )
        units = replace(units, cycles=Cycles.of(self, units.time_kind))
        if self.dynamics is None:
            units = units.for_changes_of(units.without_cycles(units.panel(rows, values, weights)))
        else:
            units = replace(units, lead=0.0, clock=Clock.of(rows, self.dynamics.time_unit))
        self._use_units(units)
        panel = self._units.panel(rows, values, weights)
        self.sizes_ = chosen_sizes(self, panel)
        self.module_ = new_model(self, panel, new_generator(rng))
        self.module_.horizon = self._units.span / self._units.time_scale
        self._n_features_out = self.module_.n_features
        return panel

    def _use_units(self, units: Units) -> None:
        """Set the units and the fitted attributes that tell of them."""
        self._units = units
        self.time_kind_, self.time_scale_ = units.time_kind, units.time_scale
        self.y_scaler_, self.covariate_scaler_ = units.y_scaler, units.covariate_scaler

    def _train(
        self,
        panel: Panel,
        rng: np.random.RandomState,
        dtype: torch.dtype,
        task: dict[str, Any],
        stopwatch: Stopwatch,
        *,
        first: bool,
    ) -> None:
        """Train on a panel; with early stopping on what is left of it after the last rows of some series.

        ``task`` is what callbacks are told.
        """
        training, aside, validate = panel, None, None
        tensors = self._tensors_for(self.module_)
        rows_aside = last_rows(panel, self.validation_fraction, rng) if self.early_stopping else np.zeros(1, dtype=bool)
        if rows_aside.any():
            training, aside = panel.without(rows_aside), panel.without(~rows_aside)
            if self.observation_times == "poisson":
                training = panel.until(rows_aside)  # nobody watched afterwards
            validate = forecast_density(self.module_, training, aside, tensors, self._solver())
        sizes = self.sizes_
        warm_up = self.warm_up if first and self._learns_outputs_alone else 0.0
        if stopwatch.verbose:
            say(f"Sizes: {sizes}.")
        objective = self._bound_of(training, warm_up, rng)
        with worthwhile_threads(sizes.batch_size * sizes.widest):
            settings = replace(self._settings_of(panel, stopwatch), warm_up=warm_up, on_progress=objective.follow)
            stopwatch.after_training = lambda: self._seconds_after_training(panel, aside)
            self._fit_module(objective, panel.n_series, rng, settings, task=task, dtype=dtype, validate=validate)
            objective.end()
        self._learn_the_rest(panel, training, aside, stopwatch)
        self._warn_of_memory(panel)

    @property
    def _learns_outputs_alone(self) -> bool:
        """Whether training begins with windows of the series, and is by SOAP.

        Windows of so many events would say that there are more of them than there are; and validation is of outputs
        alone, which SOAP has learnt long before the intensities.
        """
        return self.dynamics is None and self.observation_times == "given"

    def _bound_of(self, training: Panel, warm_up: float, rng: np.random.RandomState) -> NegativeELBO:
        """The objective of training on a panel."""
        elbo = ELBOSettings(
            importance_weighted=self.bound == "iwae",
            n_samples=self.n_samples,
            annealing=self.kl_annealing,
            warm_up=warm_up,
            forecasting=self.forecasting,
            hindcasting=self.hindcasting if self.dynamics is None else 0.0,
        )
        generator = new_generator(rng, next(self.module_.parameters()).device)
        return NegativeELBO(self.module_, training, self._tensors_for(self.module_), self._solver(), elbo, generator)

    def _settings_of(self, panel: Panel, stopwatch: Stopwatch) -> TrainingSettings:
        """Settings of training on a panel."""
        settings = self._settings(
            panel.n_series,
            self.sizes_.batch_size,
            max_grad_norm=MAX_GRAD_NORM,
            passes=self.sizes_.passes,
            averaging=AVERAGING,
            stopwatch=stopwatch,
        )
        return replace(settings, optimizer="soap" if self._learns_outputs_alone else "adam")

    def _architecture(self) -> dict[str, Any]:
        """The parameters that the network is built from."""
        return {
            "latent_size": self.latent_size,
            "hidden_layer_sizes": self._hidden_layers_or_auto(),
            "activation": self.activation,
            "encoder": self.encoder,
            "encoder_size": self.encoder_size,
            "likelihood": self.likelihood,
            "observation_times": self.observation_times,
            "dynamics": None if self.dynamics is None else self.dynamics.get_params(),
            "periods": None if self.periods is None else list(self.periods),
        }

    def _hidden_layers_or_auto(self) -> Any:
        """``hidden_layer_sizes``, checked."""
        return "auto" if isinstance(self.hidden_layer_sizes, str) else self._hidden_layers()

    def _n_epochs(self, n_samples: int) -> int:
        return self.sizes_.max_iter

    def _reconstruction(self, module: Any) -> dict[str, Any]:
        return {"module_": module, "posterior_": self._inferred(self.context_, self.n_draws, module)}

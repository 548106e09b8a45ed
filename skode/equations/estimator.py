"""Regression on time series whose dynamics are known but for parameters and initial states."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import replace
from numbers import Integral, Real
from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import _fit_context
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils._param_validation import Interval, StrOptions

from skode.equations.columns import check_named, check_trials
from skode.equations.fitted import FittedEquations
from skode.equations.fitting import Optimum, Search, observed_outputs, search, started_from, starting_unknowns
from skode.equations.impossible import refuse_impossible
from skode.equations.inference import combinations
from skode.equations.inputs import Inputs
from skode.equations.layout import Layout, most_segments
from skode.equations.levenberg_marquardt import Task
from skode.equations.noise import NOISE_NAMES, Binomial, Gaussian
from skode.equations.observations import Observations
from skode.equations.predictive import driver_at_start
from skode.equations.reading import Arguments, Clock, Reading, check_functions, read_model
from skode.equations.sensitivities import AUTO
from skode.equations.stiffness import is_stiff
from skode.frames import Column, output_names, read_rows, read_targets
from skode.io.sources import in_memory
from skode.solvers import METHODS, SolverError
from skode.training import array_api_fit, check_weights, draft, to_pandas, warn_caller


class ODERegressor(FittedEquations):
    r"""Regressor that fits parameters and initial states of known differential equations to time series.

    One row is one observation. ``X`` holds a time column, optionally a column of series ids, and inputs that drive the
    dynamics; ``y`` holds the observed value or values, NaN where nothing was observed. The states follow

    .. math:: dy/dt = f(t, y, p), \qquad y(t_0) = y_0,

    from the first row of each series on; observations have independent noise about ``y`` or about a function of it.
    Parameters are those of maximum likelihood. They are found by multiple shooting [1]_: each series is cut into
    segments that are solved from starts of their own, which are made to meet on the way to the optimum, by
    Levenberg-Marquardt steps on exact sensitivities [2]_. Segments of all series and starts are solved in one batch.

    Parameters
    ----------
    rhs : callable
        ``rhs(t, y, p)``, the right-hand side, made of torch's operations. States ``y`` have the shape
        ``(..., n_states)``, and so has what is returned; ``p`` is a dict of parameters and inputs by name, each a
        tensor that broadcasts against ``y[..., 0]``, and so does the time ``t``.
    params : dict
        Parameters by name: a start, or ``(start, low, high)`` with None for no bound. A parameter with ``low`` 0 and a
        positive start is searched for on a logarithmic scale.
    states : list of str or None, default=None
        Names of the states; None: those of the outputs in ``y``.
    observe : str, list of str, callable or None, default=None
        Quantities in ``y``: states by name, or ``observe(t, y, p)`` of shape ``(..., n_outputs)``. None: the states
        that have the outputs' names, or all of them in order.
    initial : dict, list, callable or None, default=None
        Initial states: for each state a number that is given; ``(start, low, high)`` for one that is unknown; the name
        of a parameter or of an input column; None for one that is unknown and starts from the data. A dict by states'
        names (those that are missing are None), a list in their order, or ``initial(p)`` of shape
        ``(..., n_states)``. Unknown ones are estimated for each series.
    series : str, int or None, default=None
        The column of X that holds series ids, by name or position, or a level of its index by name; None: all rows
        are one series.
    time : str or int, default=0
        The column of X that holds times (or a level of its index): numbers, dates, periods or time differences. All
        other columns are inputs, by their names (``"x1"``, ... where X has none) in ``p``. An input holds its first
        value before the first row of a series, and its last one after the last.
    doses : dict or None, default=None
        Columns of X that hold doses, which are no inputs, by name: an amount is added to a state at its row's time. Of
        each column the name of the state; ``(state, parameter)`` for an amount that is multiplied by a parameter, as a
        bioavailability; or ``jump(amount, p)``, of shape ``(..., n_states)``, for what is added to all states. Where
        the amount is 0 or NaN there is no dose. What was observed in the row of a dose is from before it, and what
        was observed at its time in rows further down from after it (the order of records in NONMEM [3]_); doses at one
        time add up.
    per_series : list of str, default=()
        Parameters that are estimated for each series by itself.
    fixed : list of str, default=()
        Parameters that stay at their starts.
    noise : str, default="gaussian"
        Distribution of the observations. "gaussian": normal, of one scale for each output, which is estimated;
        "student", for outliers: Student's t with 4 degrees of freedom; "proportional": normal with a standard deviation
        that is a share of the solution; "combined": with an additive and a proportional part; "lognormal": logarithms
        that are normal about that of the solution; "poisson": counts; "binomial": numbers of successes among some
        trials, whose probability is the solution.
    trials : int or str, default=1
        With ``noise="binomial"`` the number of trials, or the column of X (by name) that holds it, which is no input.
        ``y``, predictions and residuals are numbers of successes; a row without any trial counts as not observed.
    interpolation : {"linear", "previous"}, default="linear"
        Inputs between rows: linear, or as in the row before. The solver stops where the latter jump.
    time_unit : str, default="D"
        The unit of time of dates (which count from the first one in ``fit``) and of time differences, as pandas
        writes it. Numbers are taken as they are.
    covariance : {"gauss-newton", "sandwich"}, default="gauss-newton"
        The covariance of the estimates: by the inverse of the Gauss-Newton matrix, or that of Huber and White, which
        holds for noise of another distribution or variance as well.
    n_segments : int or "auto", default="auto"
        Largest number of segments of a series; 1 is single shooting. "auto" is one for each time of an observation, but
        at most 40.
    n_restarts : int or "auto", default="auto"
        Further starts of the parameters, quasi-random within their bounds or (where these are not two) about the
        start: within a factor of 10 on a logarithmic scale, else within twice its absolute value. All are fitted
        in one batch, and the best is kept. "auto": 8 where residuals of the first fit follow each other (a
        Durbin-Watson statistic below 1), as they do at a local optimum or with equations that are wrong; else none.
        Where all states are observed, the first fit starts from parameters that match smoothed observations [4]_, and
        the start in ``params`` is one of the further ones.
    max_iter : int, default=200
        Largest number of steps.
    tol : float, default=1e-5
        Gain in the log-likelihood that a step must promise for the search to go on. An error of the estimates as small
        as a standard error times ``sqrt(2 * tol)`` is below it.
    max_time : float or None, default=None
        Seconds after which no more steps begin, here and in ``profile``; then the best so far is kept, with a warning,
        as after Ctrl-C. One step may take longer than that.
    random_state : int, RandomState instance or None, default=None
        Source of the further starts.
    verbose : bool, default=False
        Whether to print a line per step.
    checkpoint : str, path-like or None, default=None
        File with the progress of ``fit``, from which the same fit goes on where its process was killed, and ends in the
        same numbers; in a folder each fit has a file of its own. SIGTERM then ends a fit as Ctrl-C does. See
        :doc:`the guide </guide/checkpoints>`.
    checkpoint_interval : float, default=60.0
        Seconds between two writes of that file.
    method : str, default="auto"
        ODE method, one of :data:`skode.solvers.METHODS`. "auto" is the explicit "dopri5", or the implicit "kvaerno5"
        where the eigenvalues of the Jacobian say that the former would take a thousand steps and more in a segment for
        stability alone, at the start or where the search got stuck; predictions that the former can't follow are made
        by the latter.
    rtol, atol : float, default=1e-6 and 1e-9
        Relative and absolute tolerance of the solver, for the states.
    step_size : float or None, default=None
        Step size of fixed-step methods.

    Attributes
    ----------
    params_ : dict of str to float or Series
        Estimates of the parameters; those of ``per_series`` as a Series by series.
    states_ : list of str
        Names of the states.
    initial_states_ : DataFrame of shape (n_series, n_states)
        Initial states.
    noise_scale_ : ndarray of shape (n_outputs,)
        Estimated scale of the noise (with "gaussian" its standard deviation, with "combined" that of its additive
        part, which with "proportional" is held at the solver's tolerance), NaN with "poisson" and "binomial". Its
        square is corrected for the number of unknowns that were fitted.
    noise_proportion_ : ndarray of shape (n_outputs,)
        Standard deviation of the proportional part of the noise, as a share of the solution, with the same correction;
        0 with all but "proportional" and "combined".
    loglik_, aic_, bic_ : float
        Log-likelihood at the estimates; Akaike's and the Bayesian information criterion.
    residuals_ : DataFrame
        Observations minus the solution, by position of the row in X; NaN where nothing was observed. Rows that
        are equal stand once.
    restarts_ : DataFrame
        Log-likelihood and parameters at the optima of all starts, the best first.
    unidentified_ : list of str
        Unknowns, or combinations of them, that the data do not identify.
    converged_ : bool
        Whether the search ended at an optimum.
    stop_reason_ : str
        Why it ended.
    n_iter_ : int
        Steps taken.
    method_ : str
        ODE method of the fit.
    n_features_in_ : int
        Number of columns seen in ``fit``.
    feature_names_in_ : ndarray of shape (n_features,)
        Their names, if they all are strings.

    See Also
    --------
    NeuralODERegressor : Where the right-hand side is unknown and all states are observed.
    LatentODERegressor : Latent ODE, for dynamics that are not known.

    References
    ----------
    .. [1] H. G. Bock, "Recent advances in parameter identification techniques for O.D.E.", in Numerical Treatment of
       Inverse Problems in Differential and Integral Equations, Birkhauser, 1983.
    .. [2] E. Hairer, S. P. Norsett, G. Wanner, "Solving Ordinary Differential Equations I", Springer, 1993,
       section II.6.
    .. [3] S. L. Beal, L. B. Sheiner, A. J. Boeckmann, R. J. Bauer (eds.), "NONMEM Users Guides", ICON Development
       Solutions, 1989-2009, part V.
    .. [4] I. Dattner, C. A. J. Klaassen, "Optimal rate of direct estimators in systems of ordinary differential
       equations linear in functions of the parameters", Electronic Journal of Statistics 9, 2015.

    Examples
    --------
    >>> import numpy as np
    >>> import pandas as pd
    >>> import torch
    >>> from skode import ODERegressor
    >>> def growth(t, y, p):  # logistic
    ...     size = y[..., 0]
    ...     return (p["rate"] * size * (1 - size / p["capacity"]))[..., None]
    >>> rng = np.random.default_rng(0)
    >>> t = np.linspace(0, 10, 30)
    >>> y = 8 / (1 + 15 * np.exp(-t)) + rng.normal(0, 0.1, 30)
    >>> X = pd.DataFrame({"day": t})
    >>> model = ODERegressor(growth, {"rate": (0.3, 0, None), "capacity": (3, 0, None)}, time="day")
    >>> fitted = model.fit(X, pd.Series(y, name="size"))
    >>> {name: round(value, 1) for name, value in fitted.params_.items()}
    {'rate': 1.0, 'capacity': 8.0}
    >>> fitted.predict(pd.DataFrame({"day": [20.0]})).round(1)
    array([8.])
    """

    _parameter_constraints: dict = {
        "rhs": [callable],
        "params": [dict],
        "states": ["array-like", str, None],
        "observe": ["array-like", str, callable, None],
        "initial": [dict, "array-like", callable, None],
        "series": [str, Integral, None],
        "time": [str, Integral],
        "doses": [dict, None],
        "per_series": ["array-like", str],
        "fixed": ["array-like", str],
        "noise": [StrOptions(set(NOISE_NAMES))],
        "trials": [Real, str],
        "interpolation": [StrOptions({"linear", "previous"})],
        "time_unit": [str],
        "covariance": [StrOptions({"gauss-newton", "sandwich"})],
        "n_segments": [Interval(Integral, 1, None, closed="left"), StrOptions({"auto"})],
        "n_restarts": [Interval(Integral, 0, None, closed="left"), StrOptions({"auto"})],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "tol": [Interval(Real, 0, None, closed="neither")],
        "max_time": [Interval(Real, 0, None, closed="neither"), None],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
        "checkpoint": [str, os.PathLike, None],
        "checkpoint_interval": [Interval(Real, 0, None, closed="left")],
        "method": [StrOptions({*METHODS, "auto"})],
        "rtol": [Interval(Real, 0, None, closed="left")],
        "atol": [Interval(Real, 0, None, closed="left")],
        "step_size": [Interval(Real, 0, None, closed="neither"), None],
    }

    def __init__(
        self,
        rhs: Callable[..., Any],
        params: dict[str, Any],
        *,
        states: Any = None,
        observe: Any = None,
        initial: Any = None,
        series: Column | None = None,
        time: Column = 0,
        doses: dict[str, Any] | None = None,
        per_series: Any = (),
        fixed: Any = (),
        noise: str = "gaussian",
        trials: int | str = 1,
        interpolation: str = "linear",
        time_unit: str = "D",
        covariance: str = "gauss-newton",
        n_segments: Any = "auto",
        n_restarts: Any = "auto",
        max_iter: int = 200,
        tol: float = 1e-5,
        max_time: float | None = None,
        random_state: Any = None,
        verbose: Any = False,
        checkpoint: Any = None,
        checkpoint_interval: float = 60.0,
        method: str = "auto",
        rtol: float = 1e-6,
        atol: float = 1e-9,
        step_size: float | None = None,
    ) -> None:
        self.rhs = rhs
        self.params = params
        self.states = states
        self.observe = observe
        self.initial = initial
        self.series = series
        self.time = time
        self.doses = doses
        self.per_series = per_series
        self.fixed = fixed
        self.noise = noise
        self.trials = trials
        self.interpolation = interpolation
        self.time_unit = time_unit
        self.covariance = covariance
        self.n_segments = n_segments
        self.n_restarts = n_restarts
        self.max_iter = max_iter
        self.tol = tol
        self.max_time = max_time
        self.random_state = random_state
        self.verbose = verbose
        self.checkpoint = checkpoint
        self.checkpoint_interval = checkpoint_interval
        self.method = method
        self.rtol = rtol
        self.atol = atol
        self.step_size = step_size

    @_fit_context(prefer_skip_nested_validation=True)
    @array_api_fit
    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> ODERegressor:
        """Fit parameters and initial states to a panel of series.

        Parameters
        ----------
        X : DataFrame or array-like of shape (n_rows, n_columns)
            A time column, a series column if ``series`` says so, and inputs. A series starts at its first row, whether
            or not anything was observed there.
        y : array-like of shape (n_rows,) or (n_rows, n_outputs)
            Observed values; NaN where nothing was observed.
        sample_weight : array-like of shape (n_rows,), default=None
            Weights of the rows, by which their log-likelihoods are multiplied.

        Returns
        -------
        self : ODERegressor
            The fitted model. After Ctrl-C or ``max_time`` it is the best so far, with a warning.

        Raises
        ------
        ValueError, TypeError
            Where an argument is not as described, which the message names, or there are too few observed values.
        SolverError
            Where the equations can't be solved from any start.

        Warns
        -----
        UserWarning
            If the data do not identify some unknowns, which the message names.
        ConvergenceWarning
            If the search ended before an optimum.
        """
        with draft(self, data={"X": X, "y": y, "sample_weight": sample_weight}) as new:
            new._learn(X, y, sample_weight)
        return self

    def _learn(self, X: Any, y: Any, sample_weight: Any) -> None:
        check_trials(self.trials)
        X, y = to_pandas(in_memory(X)), to_pandas(in_memory(y), "y")
        if isinstance(X, pd.DataFrame):  # before what is missing in such a column is taken for an input's
            check_named(list(X.columns), self.doses, self._trials_column())
        rows = read_rows(self, self._filled(X), series=self.series, time=self.time, reset=True)
        values = read_targets(y, len(rows))
        self._outputs, self._one_output = output_names(y), np.asarray(y).ndim == 1
        self._columns = columns = self._covariate_columns(self.doses, self._trials_column())
        data = Observations.of(rows, values, check_weights(sample_weight, values), columns)
        data, noise = self._in_units_of_outputs(data)
        clock = Clock.of(data.rows, self.time_unit)
        t = clock.read(data.rows, self.time)
        arguments = Arguments(
            self.rhs, self.params, self.states, self.observe, self.initial, self.per_series, self.fixed, self.doses
        )
        reading = read_model(arguments, self._outputs, columns.inputs, self._settings(self.method))
        inputs = None
        if columns.inputs or columns.doses:
            linear = self.interpolation == "linear"
            inputs = Inputs.of(columns.inputs, data.codes, t, data.inputs, linear=linear, amounts=data.amounts)
        task = self._task(reading, inputs, noise, data, t)
        self._refuse_too_few(task)
        u = starting_unknowns(task, reading)[0]
        at_start = {name: value[:1] for name, value in driver_at_start(inputs, task.layout.t0).items()}
        check_functions(reading.model, u, float(task.layout.t0[0]), at_start, values.shape[1])
        task, optima = self._searched(task, reading)
        if not optima:
            refuse_impossible(task, starting_unknowns(task, reading), self.noise)
            raise SolverError(
                "The equations can't be solved from their start as far as the observations",
                time=float(task.layout.t0[0]),
                advice="Choose other starts in params and initial, or n_restarts.",
            )
        self._clock, self._known, self._ids = clock, (data.codes, t, data.inputs, data.amounts), pd.Index(data.ids)
        self._keep(task, reading, optima)
        self._note_residuals(data, task)
        self._warn(optima[0])

    def _searched(self, task: Task, reading: Reading) -> tuple[Task, list[Optimum]]:
        """The fits, the best first, and the problem as it was solved: with which method."""
        report = _print if self.verbose else None
        n_restarts = None if self.n_restarts == "auto" else int(self.n_restarts)
        settings = Search(self.max_iter, self.tol, report, self._deadline(), self._checkpoint, n_restarts=n_restarts)
        rng = self._checkpoint.random_state(self.random_state)
        if self.method != "auto":
            self.method_ = self.method
            return task, search(task, reading, settings, rng)
        explicit, implicit = (_by(task, method) for method in AUTO)
        optima: list[Optimum] = []
        stiff = _is_stiff(explicit, starting_unknowns(task, reading))
        if not stiff:
            optima = search(explicit, reading, settings, rng)
            best = optima[0] if optima else None
            u = starting_unknowns(explicit, reading) if best is None else best.u
            stuck = best is None or not (best.converged or best.interrupted or best.out_of_time)
            stiff = stuck and time.monotonic() < settings.deadline and _is_stiff(explicit, u, thorough=True)
        self.method_ = AUTO[stiff]
        return (implicit, search(implicit, reading, settings, rng)) if stiff else (explicit, optima)

    def _in_units_of_outputs(self, data: Observations) -> tuple[Observations, Gaussian]:
        """Observations as the solution is compared with them, and the distribution about it."""
        seen, noise = ~np.isnan(data.values), self._noise_at(data.rows.covariates, data.values.shape[1])
        noise.of(seen).check(data.values[seen])
        if not isinstance(noise, Binomial):
            return data, noise
        with np.errstate(all="ignore"):
            shares = np.where(noise.trials > 0.0, data.values / noise.trials, np.nan)
        if np.isnan(shares).all():
            raise ValueError(f"The column {self.trials!r} (trials) holds 0 wherever y was observed.")
        return replace(data, values=shares), noise

    def _task(
        self, reading: Reading, inputs: Inputs | None, noise: Gaussian, data: Observations, t: np.ndarray
    ) -> Task:
        """Problem to solve."""
        codes, seen = data.codes, data.seen
        t0 = t[np.searchsorted(codes, np.arange(codes.max() + 1))]
        n_segments = most_segments(self.n_segments)
        events = None if inputs is None else inputs.events
        layout = Layout.of(
            codes[seen], t[seen], data.values[seen], data.weights[seen], t0, n_segments, events, data.rank[seen]
        )
        size = np.sqrt(np.nanmean(data.values**2, axis=0))
        least = np.maximum(noise.least_scale(size, self.rtol), 1e-300)
        return Task(reading.model, layout, inputs, noise.of(seen), least)

    def _refuse_too_few(self, task: Task) -> None:
        """Raise ValueError where there are no more observed values than unknowns."""
        model, n_series = task.model, task.layout.n_series
        weights = task.layout.weights
        n_values = int(min((weights > 0.0).sum(), np.ceil(weights.sum())))
        n_own = len(model.scales.names) - model.n_shared
        n_unknowns = model.n_shared + n_series * n_own
        if n_values <= n_unknowns and n_unknowns:
            raise ValueError(
                f"y has n_samples = {n_values} observed values, too few for {n_unknowns} unknowns ({model.n_shared} "
                f"shared by all series, {n_own} of each of {n_series} series, {model.scales.names}): fix some of them, "
                "or give initial states by initial=."
            )

    def _warn(self, best: Optimum) -> None:
        if best.interrupted:
            warn_caller("The fit was interrupted; what was best so far is kept.", ConvergenceWarning)
        elif best.out_of_time:
            warn_caller(
                f"The fit was ended by max_time={self.max_time} after {best.n_iter} steps; what was best so far is "
                "kept.",
                ConvergenceWarning,
            )
        elif not best.converged:
            warn_caller(
                f"The fit ended before an optimum, after {best.n_iter} steps: raise max_iter, choose other starts in "
                "params or n_restarts, or set tighter tolerances of the solver by rtol and atol.",
                ConvergenceWarning,
            )
        self.unidentified_ = combinations(self._information, self._model.scales.names)
        if self.unidentified_:
            warn_caller(
                f"The data do not identify {'; '.join(self.unidentified_)}: other values fit them as well. Fix these "
                "by fixed= or initial=, or give them bounds.",
                UserWarning,
            )


def _by(task: Task, method: str) -> Task:
    """The problem, solved by a method."""
    return replace(task, model=replace(task.model, settings=replace(task.model.settings, method=method)))


def _is_stiff(task: Task, u: np.ndarray, *, thorough: bool = False) -> bool:
    return is_stiff(task, u, observed_outputs(task), started_from(task), thorough=thorough)


def _print(i: int, n_left: int, loss: float) -> None:
    print(f"Step {i}, negative log-likelihood {loss:.6g}, fits left {n_left}")

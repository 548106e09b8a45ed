"""Regression on time series whose dynamics are known but for parameters and initial states."""

from __future__ import annotations

from collections.abc import Callable
from numbers import Integral, Real
from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import _fit_context
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, StrOptions

from skode.equations.fitted import FittedEquations
from skode.equations.fitting import Optimum, Search, search, starting_unknowns
from skode.equations.inference import combinations
from skode.equations.inputs import Inputs
from skode.equations.layout import Layout
from skode.equations.levenberg_marquardt import Task
from skode.equations.noise import NOISES
from skode.equations.predictive import driver_at_start
from skode.equations.reading import Arguments, Clock, Reading, check_functions, of_observed_series, read_model
from skode.frames import Column, distinct_rows, output_names, read_rows, read_targets, series_codes
from skode.solvers import METHODS, SolverError
from skode.training import array_api, check_weights, to_pandas, warn_caller

#: Segments of a series, at most, where the number is chosen.
MOST_SEGMENTS = 40


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
        ``(..., n_states)``. Unknown ones are of each series its own.
    series : str, int or None, default=None
        The column of X that holds series ids, by name or position, or a level of its index by name; None: all rows
        are one series.
    time : str or int, default=0
        The column of X that holds times (or a level of its index): numbers, dates, periods or time differences. All
        other columns are inputs, by their names (``"x1"``, ... where X has none) in ``p``. An input holds its first
        value before the first row of a series, and its last one after the last.
    per_series : list of str, default=()
        Parameters of which each series has its own.
    fixed : list of str, default=()
        Parameters that stay at their starts.
    noise : {"gaussian", "student", "lognormal", "poisson"}, default="gaussian"
        Distribution of the observations: normal, or for outliers Student's t with 4 degrees of freedom, of one scale
        for each output, which is estimated; logarithms that are normal about that of the solution; counts.
    interpolation : {"linear", "previous"}, default="linear"
        Inputs between rows: linear, or as in the row before.
    time_unit : str, default="D"
        The unit of time of dates (which count from the first one in ``fit``) and of time differences, as pandas
        writes it. Numbers are taken as they are.
    covariance : {"gauss-newton", "sandwich"}, default="gauss-newton"
        The covariance of the estimates: by the inverse of the Gauss-Newton matrix, or that of Huber and White, which
        holds for noise of another distribution or variance as well.
    n_segments : int or "auto", default="auto"
        Largest number of segments of a series; 1 is single shooting. "auto" is one for each time of an observation, but
        at most 40.
    n_restarts : int, default=0
        Further starts of the parameters, quasi-random within their bounds or (where these are not two) about the
        start: within a factor of 10 on a logarithmic scale, else within twice its absolute value. All are fitted
        in one batch, and the best is kept.
    max_iter : int, default=200
        Largest number of steps.
    tol : float, default=1e-5
        Gain in the log-likelihood that a step must promise for the search to go on. An error of the estimates as small
        as a standard error times ``sqrt(2 * tol)`` is below it.
    random_state : int, RandomState instance or None, default=None
        Source of the further starts.
    verbose : bool, default=False
        Whether to print a line per step.
    method : str, default="dopri5"
        ODE method, one of :data:`skode.solvers.METHODS`; "kvaerno5" for stiff equations.
    rtol, atol : float, default=1e-6 and 1e-9
        Relative and absolute tolerance of the solver, for the states.
    step_size : float or None, default=None
        Step size of fixed-step methods.

    Attributes
    ----------
    params_ : dict of str to float or Series
        Estimates of the parameters; those of ``per_series`` as a Series by series.
    initial_states_ : DataFrame of shape (n_series, n_states)
        Initial states.
    noise_scale_ : ndarray of shape (n_outputs,)
        Estimated scale of the noise (with "gaussian" its standard deviation), NaN with "poisson". Its square is
        corrected for the number of unknowns that were fitted.
    loglik_, aic_, bic_ : float
        Log-likelihood at the estimates; Akaike's and the Bayesian information criterion.
    residuals_ : DataFrame
        Observations minus the solution, by position of the row in X; NaN where nothing was observed. Rows that
        are equal stand once.
    restarts_ : DataFrame
        Log-likelihood and parameters at the optima of all starts, the best first.
    unidentified_ : list of str
        Unknowns, or combinations of them, that the data say nothing of.
    converged_ : bool
        Whether the search ended at an optimum.
    n_iter_ : int
        Steps taken.
    n_features_in_ : int
        Number of columns seen in ``fit``.
    feature_names_in_ : ndarray of shape (n_features,)
        Their names, if they all are strings.

    See Also
    --------
    LatentODERegressor : Where the dynamics are not known.

    References
    ----------
    .. [1] H. G. Bock, "Recent advances in parameter identification techniques for O.D.E.", in Numerical Treatment of
       Inverse Problems in Differential and Integral Equations, Birkhauser, 1983.
    .. [2] E. Hairer, S. P. Norsett, G. Wanner, "Solving Ordinary Differential Equations I", Springer, 1993,
       section II.6.

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
        "per_series": ["array-like", str],
        "fixed": ["array-like", str],
        "noise": [StrOptions(set(NOISES))],
        "interpolation": [StrOptions({"linear", "previous"})],
        "time_unit": [str],
        "covariance": [StrOptions({"gauss-newton", "sandwich"})],
        "n_segments": [Interval(Integral, 1, None, closed="left"), StrOptions({"auto"})],
        "n_restarts": [Interval(Integral, 0, None, closed="left")],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "tol": [Interval(Real, 0, None, closed="neither")],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
        "method": [StrOptions(set(METHODS))],
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
        per_series: Any = (),
        fixed: Any = (),
        noise: str = "gaussian",
        interpolation: str = "linear",
        time_unit: str = "D",
        covariance: str = "gauss-newton",
        n_segments: Any = "auto",
        n_restarts: int = 0,
        max_iter: int = 200,
        tol: float = 1e-5,
        random_state: Any = None,
        verbose: Any = False,
        method: str = "dopri5",
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
        self.per_series = per_series
        self.fixed = fixed
        self.noise = noise
        self.interpolation = interpolation
        self.time_unit = time_unit
        self.covariance = covariance
        self.n_segments = n_segments
        self.n_restarts = n_restarts
        self.max_iter = max_iter
        self.tol = tol
        self.random_state = random_state
        self.verbose = verbose
        self.method = method
        self.rtol = rtol
        self.atol = atol
        self.step_size = step_size

    @_fit_context(prefer_skip_nested_validation=True)
    @array_api
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
            How often each row counts: its log-likelihood is multiplied by that.

        Returns
        -------
        self : ODERegressor
            The fitted model. After Ctrl-C it is the best so far, with a warning.

        Raises
        ------
        ValueError, TypeError
            Where an argument is not as described, or less was observed than there is unknown; the message names it.
        SolverError
            Where the equations can't be solved from any start.

        Warns
        -----
        UserWarning
            If the data say nothing of some unknowns, which it names.
        ConvergenceWarning
            If the search ended before an optimum.
        """
        rows = read_rows(self, X, series=self.series, time=self.time, reset=True)
        y = to_pandas(y, "y")
        values = read_targets(y, len(rows))
        self._outputs, self._one_output = output_names(y), np.asarray(y).ndim == 1
        given = check_weights(sample_weight, values)
        rows, values, weights = distinct_rows(rows, values, given)
        weights = np.ones(len(rows)) if weights is None else weights
        noise = NOISES[self.noise]
        noise.check(values[~np.isnan(values)])
        rows, values, weights = of_observed_series(rows, values, weights)
        clock = Clock.of(rows, self.time_unit)
        t, (codes, ids) = clock.read(rows, self.time), series_codes(rows.series)
        names = self._input_names()
        arguments = Arguments(
            self.rhs, self.params, self.states, self.observe, self.initial, self.per_series, self.fixed
        )
        reading = read_model(arguments, self._outputs, names, self._settings())
        inputs = None
        if names:
            inputs = Inputs.of(names, codes, t, rows.covariates, linear=self.interpolation == "linear")
        task = self._task(reading, inputs, (codes, t, values, weights))
        self._refuse_too_few(task)
        u = starting_unknowns(task, reading)[0]
        at_start = {name: value[:1] for name, value in driver_at_start(inputs, task.layout.t0).items()}
        check_functions(reading.model, u, float(task.layout.t0[0]), at_start, values.shape[1])
        settings = Search(self.n_restarts, self.max_iter, self.tol, _print if self.verbose else None)
        optima = search(task, reading, settings, check_random_state(self.random_state))
        if not optima:
            raise SolverError(
                "The equations can't be solved from their start as far as the observations",
                time=float(task.layout.t0[0]),
                step_size=float("nan"),
                advice="Choose other starts in params and initial, n_restarts, or method='kvaerno5' for stiff "
                "equations.",
            )
        self._rows_observed = np.flatnonzero(~np.isnan(values).all(axis=1))
        self._clock, self._known, self._ids = clock, (codes, t, rows.covariates), pd.Index(ids)
        self._keep(task, reading, optima)
        self._note_residuals(rows, task)
        self._warn(optima[0])
        return self

    def _task(
        self, reading: Reading, inputs: Inputs | None, data: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
    ) -> Task:
        """Problem to solve, of rows with their series, times, values and weights."""
        codes, t, values, weights = data
        t0 = t[np.searchsorted(codes, np.arange(codes.max() + 1))]
        seen = ~np.isnan(values).all(axis=1)
        n_segments = MOST_SEGMENTS if self.n_segments == "auto" else int(self.n_segments)
        layout = Layout.of(codes[seen], t[seen], values[seen], weights[seen], t0, n_segments)
        noise = NOISES[self.noise]
        size = np.sqrt(np.nanmean(values**2, axis=0))
        least = np.full(values.shape[1], self.rtol) if self.noise == "lognormal" else self.rtol * size
        return Task(reading.model, layout, inputs, noise, np.maximum(least, 1e-300))

    def _refuse_too_few(self, task: Task) -> None:
        """Refuse data that are fewer than what is unknown."""
        model, n_series = task.model, task.layout.n_series
        n_values = int((task.layout.weights > 0.0).sum())
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


def _print(i: int, n_left: int, loss: float) -> None:
    print(f"Step {i}, negative log-likelihood {loss:.6g}, fits left {n_left}")

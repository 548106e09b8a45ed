"""Regression on time series whose dynamics are unknown."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from dataclasses import replace
from numbers import Integral, Real
from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import _fit_context
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils._param_validation import Interval, StrOptions
from torch import nn

from skode.equations.fitting import Optimum
from skode.equations.layout import Cells, Layout
from skode.equations.levenberg_marquardt import Task
from skode.equations.observations import of_observed_series
from skode.equations.reading import Clock
from skode.equations.sensitivities import SolverSettings
from skode.equations.shooting import condense
from skode.frames import Column, LongRows, distinct_rows, output_names, read_rows, read_targets, series_codes
from skode.identification.fitted import FittedField, Uncertainty
from skode.identification.fitting import FieldOptimum, FieldSearch, conditioned, evidence, fitted, left_over
from skode.identification.observations import KnownSeries
from skode.identification.predictive import Paths
from skode.identification.problem import MOST_WEIGHTS, FieldArguments, Problem, pose, state_names
from skode.identification.states import SmoothedStates
from skode.io.sources import in_memory
from skode.solvers import METHODS, SolverError
from skode.training import array_api, array_api_fit, check_weights, draft, to_pandas, warn_caller

#: Distributions of noise about states, which may have either sign.
NOISES = {"auto", "gaussian", "student", "combined"}
#: Solver tolerances: absolute to relative one, where states are about 1.
ATOL = 0.1
#: Spread of a state relative to its size below which polynomials are warned of.
FAR_FROM_ZERO = 1e-2


class NeuralODERegressor(FittedField):
    r"""Regressor that recovers an unknown vector field from noisy time series of its states.

    One row is one observation. ``X`` holds a time column, optionally a column of series ids, and inputs that drive the
    dynamics; ``y`` holds the states, NaN where one was not observed. They follow

    .. math:: dy/dt = g(y, u; w) + f(t, y, p)

    with a field ``g`` that is learnt and, where given, a known right-hand side ``f`` with parameters that are learnt
    beside it (a universal differential equation [1]_). Observations have independent noise.

    States are first smoothed, and the field is fitted to their derivatives (gradient matching). From there multiple
    shooting descends to the field with the largest posterior density: series are cut into segments that are made to
    meet, all solved in one batch with exact sensitivities, by Levenberg-Marquardt steps. Weights have a normal prior,
    whose precisions have the largest evidence [2]_; no data need be held out for that.

    Parameters
    ----------
    field : {"auto", "polynomial", "linear", "mlp"} or Module, default="auto"
        The field: a polynomial, each of whose terms has a prior of its own, so that those without need vanish [3]_
        (see :meth:`equations`); an affine map; a multilayer perceptron with tanh beside an affine map; or a torch
        module from standardised states and inputs to standardised derivatives, whose weights are fitted in a copy.
        Fields of more than 2000 weights are fitted by gradients of the solver's adjoint, with a prior whose precision
        is chosen on stretches held out; they have neither standard deviations nor an evidence.
        "auto": a polynomial or a perceptron, whichever has the larger evidence.
    known : callable or None, default=None
        ``known(t, y, p)``, a right-hand side that the field is added to, as :class:`ODERegressor` takes it, in the
        user's units; with ``order=2`` of shape ``(..., n_outputs)``.
    params : dict or None, default=None
        Parameters of ``known``, as :class:`ODERegressor` takes them.
    order : {1, 2}, default=1
        Order of the equations. With 2 the observed quantities are positions, whose velocities are states as well, and
        the field gives accelerations.
    series : str, int or None, default=None
        The column of X that holds series ids, by name or position, or a level of its index by name; None: all rows
        are one series.
    time : str or int, default=0
        The column of X that holds times (or a level of its index): numbers, dates, periods or time differences. All
        other columns are inputs.
    fixed : list of str, default=()
        Parameters of ``known`` that stay at their starts.
    degree : int, default=3
        Largest degree of the polynomial.
    hidden_layer_sizes : int or array-like of int, default=(20,)
        Widths of the perceptron's hidden layers.
    noise : {"auto", "gaussian", "student", "combined"}, default="auto"
        Distribution of the observations: normal, or for outliers Student's t with 4 degrees of freedom, of one scale
        for each output, which is estimated; or normal with a standard deviation that has an additive and a proportional
        part, which grows with the size of a state ("combined") [4]_. "auto": "combined" where smooth curves have the
        larger likelihood with it, by Schwarz's criterion, else "gaussian".
    interpolation : {"linear", "previous"}, default="linear"
        Inputs between rows: linear, or as in the row before.
    time_unit : str, default="D"
        The unit of time of dates (which count from the first one in ``fit``) and of time differences, as pandas
        writes it. Numbers are taken as they are.
    n_segments : int or "auto", default="auto"
        Largest number of segments of a series; "auto" is one for each time of an observation, but at most 40.
    n_starts : int, default=2
        Number of random weights from which gradient matching starts, where the field is not linear in them.
    max_iter : int, default=60
        Largest number of steps of multiple shooting.
    tol : float, default=0.1
        Gain in the logarithm of the posterior density that a step must promise for the search to go on.
    max_time : float or None, default=None
        Seconds after which no more steps begin; then the best so far is kept, with a warning, as after Ctrl-C. One step
        may take longer than that.
    random_state : int, RandomState instance or None, default=None
        Source of the first weights.
    verbose : bool, default=False
        Whether to print a line per step.
    checkpoint : str, path-like or None, default=None
        File with the progress of ``fit``, from which the same fit goes on where its process was killed, and ends in the
        same numbers; in a folder each fit has a file of its own. SIGTERM then ends a fit as Ctrl-C does. See
        :doc:`the guide </guide/checkpoints>`.
    checkpoint_interval : float, default=60.0
        Seconds between two writes of that file.
    method : str, default="dopri5"
        ODE method, one of :data:`skode.solvers.METHODS`, with explicit steps.
    rtol : float, default=1e-5
        Relative tolerance of the solver; the absolute one is a tenth of it in units of the states' size.

    Attributes
    ----------
    field_ : str
        Kind of the field that was chosen.
    params_ : dict of str to float
        Parameters of ``known``.
    states_ : list of str
        Names of the states: those of the outputs, then with ``order=2`` of their derivatives by time.
    initial_states_ : DataFrame of shape (n_series, n_states)
        Initial states.
    noise_scale_ : ndarray of shape (n_outputs,)
        Scales of the noise, in the outputs' units; of its additive part.
    noise_proportion_ : ndarray of shape (n_outputs,)
        Standard deviation of the proportional part of the noise, as a share of a state; 0 where there is none.
    evidence_ : float
        Logarithm of the evidence (Laplace's approximation), by which fields of other kinds may be compared; NaN for
        fields of more than 2000 weights.
    converged_ : bool
        Whether the search reached an optimum.
    stop_reason_ : str
        Why it ended.
    n_iter_ : int
        Steps taken.
    n_features_in_ : int
        Number of columns seen in ``fit``.
    feature_names_in_ : ndarray of shape (n_features,)
        Their names, if they all are strings.

    See Also
    --------
    ODERegressor : Where the right-hand side is known but for parameters.
    LatentODERegressor : Where not all states are observed.

    References
    ----------
    .. [1] C. Rackauckas et al., "Universal differential equations for scientific machine learning", arXiv:2001.04385.
    .. [2] D. J. C. MacKay, "A practical Bayesian framework for backpropagation networks", Neural Computation 4, 1992.
    .. [3] M. E. Tipping, "Sparse Bayesian learning and the relevance vector machine", JMLR 1, 2001.
    .. [4] M. Davidian, D. M. Giltinan, "Nonlinear Models for Repeated Measurement Data", Chapman and Hall, 1995.

    Examples
    --------
    >>> import numpy as np
    >>> import pandas as pd
    >>> from skode import NeuralODERegressor
    >>> rng = np.random.default_rng(0)
    >>> t = np.linspace(0, 10, 80)
    >>> x, v = np.exp(-0.1 * t) * np.cos(2 * t), -np.exp(-0.1 * t) * (0.1 * np.cos(2 * t) + 2 * np.sin(2 * t))
    >>> y = pd.DataFrame({"x": x, "v": v}) + rng.normal(0, 0.02, (80, 2))
    >>> model = NeuralODERegressor(field="linear", time="t").fit(pd.DataFrame({"t": t}), y)
    >>> model.equations(digits=1)
    ['dx/dt = 1 v', 'dv/dt = -4 x - 0.2 v']
    """

    _parameter_constraints: dict = {
        "field": [StrOptions({"auto", "polynomial", "linear", "mlp"}), nn.Module],
        "known": [callable, None],
        "params": [dict, None],
        "order": [Interval(Integral, 1, 2, closed="both")],
        "series": [str, Integral, None],
        "time": [str, Integral],
        "fixed": ["array-like", str],
        "degree": [Interval(Integral, 1, 9, closed="both")],
        "hidden_layer_sizes": ["array-like", Interval(Integral, 1, None, closed="left")],
        "noise": [StrOptions(NOISES)],
        "interpolation": [StrOptions({"linear", "previous"})],
        "time_unit": [str],
        "n_segments": [Interval(Integral, 1, None, closed="left"), StrOptions({"auto"})],
        "n_starts": [Interval(Integral, 1, None, closed="left")],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "tol": [Interval(Real, 0, None, closed="neither")],
        "max_time": [Interval(Real, 0, None, closed="neither"), None],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
        "checkpoint": [str, os.PathLike, None],
        "checkpoint_interval": [Interval(Real, 0, None, closed="left")],
        "method": [StrOptions({name for name, tableau in METHODS.items() if not tableau.implicit})],
        "rtol": [Interval(Real, 0, None, closed="neither")],
    }

    def __init__(
        self,
        field: Any = "auto",
        known: Callable[..., Any] | None = None,
        params: dict[str, Any] | None = None,
        *,
        order: int = 1,
        series: Column | None = None,
        time: Column = 0,
        fixed: Any = (),
        degree: int = 3,
        hidden_layer_sizes: Any = (20,),
        noise: str = "auto",
        interpolation: str = "linear",
        time_unit: str = "D",
        n_segments: Any = "auto",
        n_starts: int = 2,
        max_iter: int = 60,
        tol: float = 0.1,
        max_time: float | None = None,
        random_state: Any = None,
        verbose: Any = False,
        checkpoint: Any = None,
        checkpoint_interval: float = 60.0,
        method: str = "dopri5",
        rtol: float = 1e-5,
    ) -> None:
        self.field = field
        self.known = known
        self.params = params
        self.order = order
        self.series = series
        self.time = time
        self.fixed = fixed
        self.degree = degree
        self.hidden_layer_sizes = hidden_layer_sizes
        self.noise = noise
        self.interpolation = interpolation
        self.time_unit = time_unit
        self.n_segments = n_segments
        self.n_starts = n_starts
        self.max_iter = max_iter
        self.tol = tol
        self.max_time = max_time
        self.random_state = random_state
        self.verbose = verbose
        self.checkpoint = checkpoint
        self.checkpoint_interval = checkpoint_interval
        self.method = method
        self.rtol = rtol

    @_fit_context(prefer_skip_nested_validation=True)
    @array_api_fit
    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> NeuralODERegressor:
        """Fit the field, and the initial states of a panel of series.

        Parameters
        ----------
        X : DataFrame or array-like of shape (n_rows, n_columns)
            A time column, a series column if ``series`` says so, and inputs. A series starts at its first row, whether
            or not anything was observed there.
        y : array-like of shape (n_rows,) or (n_rows, n_outputs)
            Observed states; NaN where one was not observed.
        sample_weight : array-like of shape (n_rows,), default=None
            How often each row counts: its log-likelihood is multiplied by that.

        Returns
        -------
        self : NeuralODERegressor
            The fitted model. After Ctrl-C or ``max_time`` it is the best so far, with a warning.

        Raises
        ------
        ValueError, TypeError
            Where an argument is not as described, or too little was observed; the message names it.

        Warns
        -----
        ConvergenceWarning
            If the search ended before an optimum.
        UserWarning
            If the residuals are a signal and clearly larger than the noise that smoothing leaves, so that the field
            does not follow the observations.
        """
        with draft(self, data={"X": X, "y": y, "sample_weight": sample_weight}) as new:
            new._learn(X, y, sample_weight)
        return self

    def _learn(self, X: Any, y: Any, sample_weight: Any) -> None:
        search = self._search()
        rows = read_rows(self, X, series=self.series, time=self.time, reset=True)
        y = to_pandas(in_memory(y), "y")
        values = read_targets(y, len(rows))
        self._outputs, self._one_output = output_names(y), np.asarray(y).ndim == 1
        self._columns = self._covariate_columns()
        clock = Clock.of(rows, self.time_unit)
        observations = self._observed(clock, rows, values, check_weights(sample_weight, values))
        layout = observations.layout(self.n_segments, linear=self.interpolation == "linear")
        self._refuse_too_few(layout)
        with np.errstate(all="ignore"):
            smooth = SmoothedStates.of(layout, self.order, by_size=self.noise in ("auto", "combined"))
        self._warn_of_offsets(smooth)
        found: list[tuple[Problem, FieldOptimum, Any]] = []
        kinds = ["polynomial", "mlp"] if self.field == "auto" else [self.field]
        problems = [self._posed(kind, (observations, layout, smooth)) for kind in kinds]
        for kind, problem in zip(kinds, problems, strict=True):
            try:
                with np.errstate(all="ignore"):  # trials of fields that explode
                    optimum = fitted(problem, search, self._checkpoint.random_state(self.random_state))
            except SolverError:
                if kind == kinds[-1] and not found:
                    raise
                continue
            found.append((problem, optimum, kind))
            search = replace(search, rival=evidence(problem, optimum))
            if optimum.optimum.interrupted or search.is_over:
                break
        problem, best, kind = max(found, key=lambda one: evidence(one[0], one[1]))
        self._clock, self._observations = clock, observations
        self.field_ = kind if isinstance(kind, str) else type(kind).__name__
        self._keep(problem, best)

    def _posed(self, kind: Any, data: tuple[KnownSeries, Layout, SmoothedStates]) -> Problem:
        arguments = FieldArguments(
            self.known,
            self.params,
            self.fixed,
            self.order,
            self.degree,
            self.hidden_layer_sizes,
            self.noise if self.noise != "auto" else "combined" if data[2].by_size else "gaussian",
        )
        names = self._outputs, self._columns.inputs
        settings = SolverSettings(self.method, self.rtol, ATOL * self.rtol)
        linear = self.interpolation == "linear"
        with np.errstate(all="ignore"):
            problem = pose(arguments, kind, data, names, settings, linear=linear)
        if problem.has_many_weights and self.field == "auto":
            raise ValueError(
                "field='auto' compares fields by their evidence, which a perceptron of "
                f"{problem.system.field.n_weights} weights does not have: choose field='mlp', or smaller "
                "hidden_layer_sizes."
            )
        if problem.has_many_weights and arguments.noise == "combined":
            if self.noise == "combined":
                raise ValueError(
                    f"noise='combined' is for fields of {MOST_WEIGHTS} weights or fewer, not of "
                    f"{problem.system.field.n_weights}: choose noise='gaussian', or smaller hidden_layer_sizes."
                )
            problem = pose(replace(arguments, noise="gaussian"), kind, data, names, settings, linear=linear)
        return problem

    def _search(self) -> FieldSearch:
        report = _print if self.verbose else None
        return FieldSearch(self.max_iter, self.tol, report, self._deadline(), self._checkpoint, n_starts=self.n_starts)

    def _observed(self, clock: Clock, rows: LongRows, values: np.ndarray, given: Any) -> KnownSeries:
        """The rows of all series of which anything was observed."""
        rows, values, weights = distinct_rows(rows, values, given)
        weights = np.ones(len(rows)) if weights is None else weights
        rows, values, weights = of_observed_series(rows, values, weights)
        codes, ids = series_codes(rows.series)
        return KnownSeries(pd.Index(ids), codes, clock.read(rows, self.time), values, weights, rows.covariates)

    def _refuse_too_few(self, layout: Layout) -> None:
        never = [name for name, seen in zip(self._outputs, layout.weights.max(axis=0) > 0.0, strict=True) if not seen]
        if never:
            raise ValueError(f"y holds no observed value of {never[0]!r}: all states must be observed at some times.")
        n_values = int(min((layout.weights > 0.0).sum(), np.ceil(layout.weights.sum())))
        n_states = len(state_names(self._outputs, self.order))
        n_times = int((layout.slot >= 0).sum())
        if n_values <= n_states * layout.n_series or not n_times:
            raise ValueError(
                f"y has n_samples = {n_values} observed values, too few for a field beside {n_states} initial states "
                f"of each of {layout.n_series} series; a row of weight 0.1 counts as a tenth of one."
            )

    def _warn_of_offsets(self, smooth: SmoothedStates) -> None:
        """Polynomials of states that hardly change compared with their size can't be told from each other."""
        spread, size = smooth.states.std(axis=0), np.sqrt((smooth.states**2).mean(axis=0))
        far = (spread > 0.0) & (spread < FAR_FROM_ZERO * size)
        if far.any() and self.field in ("auto", "polynomial", "linear"):
            name = state_names(self._outputs, self.order)[int(np.argmax(far))]
            warn_caller(
                f"{name!r} lies far from 0 compared with its spread, where monomials are hard to tell from each other: "
                "subtract a reference value from y, or take field='mlp'.",
                UserWarning,
            )

    def _keep(self, problem: Problem, best: FieldOptimum) -> None:
        """Set the fitted attributes."""
        system, optimum, task = problem.system, best.optimum, problem.task
        self._problem = problem
        m = task.model.n_parameters
        values = task.model.scales.values(optimum.u)[0, :m]
        estimates = dict(zip(system.names, map(float, values), strict=True)) | dict(system.constants)
        self.params_ = {p.name: estimates[p.name] for p in problem.parameters}
        self.states_ = list(system.states)
        n = len(self._outputs)
        self.noise_scale_ = optimum.scale[:n] * system.units.scale[:n]
        self.noise_proportion_ = optimum.scale[n:] if task.noise.n_scales > 1 else np.zeros(n)
        self.evidence_ = evidence(problem, best)
        self.converged_, self.n_iter_ = optimum.converged, optimum.n_iter
        self.stop_reason_ = self._reason_to_stop(optimum)
        if best.information is None:
            self._paths = Paths(optimum.u[0, :m], optimum.nodes, task.layout.node_times(), None)
            self._uncertainty = None
        else:
            self._paths, covariance = _paths(task, optimum), best.information.covariance
            self._uncertainty = Uncertainty(covariance[0, :m, :m].copy(), covariance[:, m:].copy())
        self._note_initial_states()
        if optimum.interrupted:
            warn_caller("The fit was interrupted; what was best so far is kept.", ConvergenceWarning)
        elif optimum.out_of_time:
            warn_caller(
                f"The fit was ended by max_time={self.max_time} after {optimum.n_iter} steps; what was best so far is "
                "kept.",
                ConvergenceWarning,
            )
        elif not optimum.converged:
            warn_caller(
                f"The fit ended before an optimum, after {optimum.n_iter} steps: raise max_iter or tol, or choose "
                "another field.",
                ConvergenceWarning,
            )

        elif found := left_over(problem, optimum):
            output, ratio = max(found, key=lambda one: one[1])
            warn_caller(
                f"The field does not follow the observations of {str(self._outputs[output])!r}: its residuals are "
                f"{ratio:.1f} times the noise that smoothing leaves, and follow each other. The states may not be all "
                "that there are, inputs may be missing, or the field is too simple: choose another field, a larger "
                "degree or hidden_layer_sizes, or order=2.",
                UserWarning,
            )

    def _note_initial_states(self) -> None:
        initial = self._system.units.users(self._paths.nodes[:, 0])
        self.initial_states_ = pd.DataFrame(initial, index=self._series_index(), columns=self.states_)

    @array_api
    def condition(self, X: Any, y: Any, sample_weight: Any = None) -> NeuralODERegressor:
        """Take in more observations, of known or of new series, whose states are estimated with the field as it is.

        Parameters
        ----------
        X : DataFrame or array-like of shape (n_rows, n_columns)
            As in ``fit``.
        y : array-like of shape (n_rows,) or (n_rows, n_outputs)
            Observed states; NaN where one was not observed.
        sample_weight : array-like of shape (n_rows,), default=None
            How often each row counts, as in ``fit``.

        Returns
        -------
        NeuralODERegressor
            A new fitted estimator with the same field; this one stays as it is.

        Raises
        ------
        NotFittedError
            Before ``fit``.
        ValueError
            Where X or y are not as in ``fit``.
        """
        self._refuse_many_weights("condition")
        assert self._uncertainty is not None
        rows = self._read(X)
        values = read_targets(to_pandas(in_memory(y), "y"), len(rows))
        self._check_outputs(values)
        new = self._observed(self._clock, rows, values, check_weights(sample_weight, values))
        joined = self._observations.joined(new)
        changed = joined.ids.get_indexer(new.ids)
        part = joined.take(changed)
        linear = self.interpolation == "linear"
        problem = self._problem.of_series(part, part.layout(self.n_segments, linear=linear), linear=linear)
        scale = self.noise_scale_ / self._system.units.scale[: len(self._outputs)]
        if self._problem.task.noise.n_scales > 1:
            scale = np.concatenate([scale, self.noise_proportion_])
        with np.errstate(all="ignore"):
            optimum = conditioned(problem, self._paths.u, scale, self._search())
        found = copy.copy(self)
        found._observations = joined
        paths = _paths(problem.task, optimum)
        covariance = optimum.information(problem.task, sandwich=False).covariance
        m, n_series = self._model.n_parameters, len(joined.ids)
        found._paths = self._paths.joined(paths, changed, n_series)
        own = np.zeros((n_series, *self._uncertainty.own.shape[1:]))
        own[: len(self._uncertainty.own)] = self._uncertainty.own
        own[changed] = covariance[:, m:]
        found._uncertainty = Uncertainty(self._uncertainty.shared, own)
        found._note_initial_states()
        return found


def _paths(task: Task, optimum: Optimum) -> Paths:
    """Where solutions of the series start."""
    layout, m = task.layout, task.model.n_parameters
    cells = Cells.of(layout, np.arange(layout.n_series))
    slopes = condense(layout, cells, optimum.shots, np.zeros(layout.n_series)).by_unknowns
    return Paths(optimum.u[0, :m], optimum.nodes, layout.node_times(), slopes)


def _print(i: int, n_left: int, loss: float) -> None:
    print(f"Step {i}, negative log-likelihood {loss:.6g}")

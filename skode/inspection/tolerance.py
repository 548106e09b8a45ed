"""Cost and score of looser and tighter tolerances, without fitting again."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from time import perf_counter
from typing import Any

import numpy as np
import pandas as pd
from sklearn.metrics import check_scoring
from sklearn.utils import get_tags
from sklearn.utils.validation import check_is_fitted

from skode.inspection._axes import require_matplotlib, several_axes
from skode.inspection._estimators import refusal
from skode.solvers import Solution
from skode.supervised.base import ODENetEstimator
from skode.training import NeuralODEEstimator, Solver, as_numpy

Scoring = str | Callable[[Any, Any, Any], float] | None


def tolerance_curve(
    estimator: Any,
    X: Any,
    y: Any = None,
    *,
    tolerances: Sequence[float] = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5),
    scoring: Scoring = None,
) -> pd.DataFrame:
    """Score, depth and time of a fitted estimator against the tolerance of its predictions.

    Parameters
    ----------
    estimator : ODENetClassifier, ODENetRegressor, CNFDensityEstimator or LatentODERegressor
        A fitted estimator; it is left as it is. Posteriors of a latent ODE are those that were inferred in ``fit`` or
        ``condition`` at any tolerance. Fixed-step methods have no tolerance: all rows are then the same.
    X : array-like
        Samples, or rows of a panel.
    y : array-like, default=None
        Their targets, or observed values; a density needs none.
    tolerances : sequence of float
        Values of ``rtol`` and ``atol``, above 0.
    scoring : str or callable, default=None
        The name of one of scikit-learn's scorers, or ``scoring(estimator, X, y)``; the estimator's own ``score`` where
        None: accuracy, :math:`R^2`, or a density's mean log-likelihood.

    Returns
    -------
    DataFrame
        A row per tolerance: ``tolerance``, ``score``, ``nfe``, the mean number of evaluations of the vector field per
        sample (of a latent ODE: per solve of a latent path), and ``seconds``, the time that ``predict`` took (a
        density's ``score_samples``).

    Raises
    ------
    TypeError
        Where the estimator is none of these.
    NotFittedError
        Where it has not been fitted.
    ValueError
        Where a tolerance is not above 0, or none is given; where y is missing and the score needs it.
    SolverError
        Where it can't be solved at one of the tolerances.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skode import ODENetClassifier
    >>> from skode.inspection import tolerance_curve
    >>> X, y = load_iris(return_X_y=True)
    >>> clf = ODENetClassifier(max_iter=20, random_state=0).fit(X, y)
    >>> tolerance_curve(clf, X, y, tolerances=[1e-1, 1e-6])["nfe"].is_monotonic_increasing
    True
    """
    if not isinstance(estimator, NeuralODEEstimator):
        raise refusal("estimator must be one of skode's, which are solved to a tolerance", estimator)
    check_is_fitted(estimator)
    who = type(estimator).__name__
    X, y = as_numpy(X, "X", who), as_numpy(y, "y", who)
    values = np.asarray(tolerances, dtype=np.float64)
    if values.ndim != 1 or not len(values) or not (values > 0).all():
        raise ValueError(f"tolerances must be one number above 0 or several; got {tolerances!r}.")
    if y is None and get_tags(estimator).target_tags.required and not callable(scoring):
        raise ValueError(
            f"y is needed: the score of {type(estimator).__name__} compares predictions with it; got None."
        )
    score = check_scoring(estimator, scoring=scoring)
    rows = []
    for tolerance in values.tolist():
        tuned = copy.copy(estimator).set_params(rtol=tolerance, atol=tolerance)
        nfe, seconds = _cost(tuned, X)
        rows.append({"tolerance": tolerance, "score": score(tuned, X, y), "nfe": nfe, "seconds": seconds})
    return pd.DataFrame(rows)


def _cost(estimator: Any, X: Any) -> tuple[float, float]:
    """Evaluations of the vector field, on average, and seconds that an answer takes; the estimator is changed."""
    if isinstance(estimator, ODENetEstimator):
        started = perf_counter()
        _, nfe = estimator.predict(X, return_nfe=True)
        return float(nfe.mean()), perf_counter() - started
    counts = _count_solves(estimator)
    is_density = get_tags(estimator).estimator_type == "density_estimator"
    answer = estimator.score_samples if is_density else estimator.predict
    started = perf_counter()
    answer(X)
    seconds = perf_counter() - started
    n_evaluations, n_solved = np.sum(counts, axis=0)
    return float(n_evaluations / n_solved), seconds


@dataclass
class _CountingSolver(Solver):
    """A solver that counts the evaluations of all states, and the states."""

    counts: list[tuple[int, int]] = field(default_factory=list)

    def __call__(self, func: Any, t_span: Any, y0: Any, *args: Any, **options: Any) -> Solution:
        solution = super().__call__(func, t_span, y0, *args, **options)
        by_sample, n = solution.statistics.by_sample, len(y0)
        self.counts.append((n * solution.statistics.nfev if by_sample is None else int(by_sample[0].sum()), n))
        return solution


def _count_solves(estimator: Any) -> list[tuple[int, int]]:
    """Let an estimator count its solves: a list of numbers of evaluations, and of states, one pair for each."""
    solver = estimator._solver()
    counting = _CountingSolver(
        **{option.name: getattr(solver, option.name) for option in fields(Solver) if option.init}
    )
    estimator._solver = lambda: counting
    return counting.counts


#: What each panel's axis says, by the column of the curve.
LABELS = {"score": "score", "nfe": "evaluations of the vector field", "seconds": "seconds to predict"}


class ToleranceDisplay:
    """Score, evaluations of the vector field and time against the solver's tolerance.

    Made by :meth:`from_estimator`, or from a curve that :func:`tolerance_curve` has given.

    Parameters
    ----------
    curve : DataFrame
        With the columns ``tolerance``, ``score``, ``nfe`` and ``seconds``.
    score_name : str, default=None
        Name of the score; None: "score".
    name : str, default=None
        The label of the lines, for pictures of several.

    Attributes
    ----------
    lines_ : dict of str to matplotlib Line2D
        The line in each panel, by its column.
    axes_ : ndarray of matplotlib Axes
        The panels.
    figure_ : matplotlib Figure
        The figure that holds them.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skode import ODENetClassifier
    >>> from skode.inspection import ToleranceDisplay
    >>> X, y = load_iris(return_X_y=True)
    >>> clf = ODENetClassifier(max_iter=20, random_state=0).fit(X, y)
    >>> display = ToleranceDisplay.from_estimator(clf, X, y, tolerances=[1e-1, 1e-3, 1e-5])
    >>> display.lines_["score"].get_xdata().tolist()
    [0.1, 0.001, 1e-05]
    """

    def __init__(self, curve: pd.DataFrame, *, score_name: str | None = None, name: str | None = None) -> None:
        self.curve = curve
        self.score_name = score_name
        self.name = name

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        y: Any = None,
        *,
        tolerances: Sequence[float] = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5),
        scoring: Scoring = None,
        panels: Sequence[str] = ("score", "nfe", "seconds"),
        score_name: str | None = None,
        name: str | None = None,
        axes: Any = None,
        line_kw: dict[str, Any] | None = None,
    ) -> ToleranceDisplay:
        """Compute the curve of a fitted estimator, and draw it.

        Parameters
        ----------
        estimator, X, y, tolerances, scoring
            As in :func:`tolerance_curve`, which says what it raises.
        panels, axes, line_kw
            As in :meth:`plot`.
        score_name : str, default=None
            Name of the score; None: ``scoring`` if that is a name, else "score".
        name : str, default=None
            The label of the lines.

        Returns
        -------
        ToleranceDisplay
            The picture.
        """
        require_matplotlib(f"{cls.__name__}.from_estimator")
        curve = tolerance_curve(estimator, X, y, tolerances=tolerances, scoring=scoring)
        score_name = score_name or (scoring if isinstance(scoring, str) else None)
        return cls(curve, score_name=score_name, name=name).plot(axes, panels=panels, line_kw=line_kw)

    def plot(
        self,
        axes: Any = None,
        *,
        panels: Sequence[str] = ("score", "nfe", "seconds"),
        line_kw: dict[str, Any] | None = None,
    ) -> ToleranceDisplay:
        """Draw the curve.

        Parameters
        ----------
        axes : matplotlib Axes or array-like of them, default=None
            One for each panel; None: those of a new figure.
        panels : sequence of {"score", "nfe", "seconds"}
            Panels to draw, in this order.
        line_kw : dict, default=None
            Keyword arguments of the lines, beside the defaults; see :meth:`matplotlib.axes.Axes.plot`.

        Returns
        -------
        ToleranceDisplay
            This one.

        Raises
        ------
        ValueError
            Where a panel is not known, or there are more or fewer axes than panels.
        ImportError
            Where matplotlib is missing.
        """
        unknown = [panel for panel in panels if panel not in LABELS]
        if unknown or not len(panels):
            raise ValueError(f"panels must be some of {list(LABELS)}; got {panels!r}.")
        n = len(panels)
        self.axes_ = several_axes(axes, n, f"{type(self).__name__}.plot", panels=panels, figsize=(4.0 * n, 3.2))
        self.figure_ = self.axes_[0].figure
        self.lines_ = {}
        labels = LABELS | ({"score": self.score_name} if self.score_name else {})
        settings = {"marker": "o", "label": self.name, **(line_kw or {})}
        for ax, panel in zip(self.axes_, panels, strict=True):
            (self.lines_[panel],) = ax.plot(self.curve["tolerance"], self.curve[panel], **settings)
            ax.set_xscale("log")
            ax.set(xlabel="tolerance (rtol = atol)", ylabel=labels[panel])
        if self.name is not None:
            self.axes_[0].legend()
        return self

"""Profile likelihoods of the unknowns of fitted equations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import chi2
from sklearn.utils.validation import check_is_fitted

from skode.inspection._axes import require_matplotlib, several_axes
from skode.inspection._estimators import refusal
from skode.training import check_level

#: Points of a parabola.
N_PARABOLA = 200


@dataclass(frozen=True)
class Parabola:
    """The log-likelihood that a standard error stands for, relative to its maximum.

    Attributes
    ----------
    estimate, std_error : float
        The estimate and its standard error.
    log : bool
        Whether it is a parabola in the logarithm of the unknown.
    """

    estimate: float
    std_error: float
    log: bool = False

    def __call__(self, values: np.ndarray) -> np.ndarray:
        if self.log:
            return -0.5 * (np.log(values / self.estimate) * self.estimate / self.std_error) ** 2
        return -0.5 * ((values - self.estimate) / self.std_error) ** 2


class ProfileDisplay:
    r"""Profile likelihood of one or several unknowns, its threshold, and the parabola of the standard error.

    Made by :meth:`from_estimator`, or from tables as :meth:`skode.ODERegressor.profile` returns them. Values above the
    threshold, :math:`\chi^2_{1, level} / 2` below the maximum, are the likelihood interval (S. S. Wilks, "The
    large-sample distribution of the likelihood ratio for testing composite hypotheses", Annals of Mathematical
    Statistics 9, 1938). Where the profile leaves the parabola, the log-likelihood is no quadratic function, and
    intervals by the standard error are not to be trusted; a profile that does not fall below the threshold on one side
    leaves the unknown unbounded there. In small samples the parabola is the wider one, as the standard error is
    corrected for the number of unknowns.

    Parameters
    ----------
    profiles : dict of str to DataFrame
        For each unknown a table with a column of its name, the values, and ``loglik``.
    level : float, default=0.95
        Level of the intervals.
    parabolas : dict of str to Parabola, default=None
        For each unknown the parabola of its standard error; without one where it is missing.

    Attributes
    ----------
    intervals_ : DataFrame of shape (n_unknowns, 2)
        The likelihood intervals, columns ``low`` and ``high``; NaN where a profile does not cross the threshold within
        its values. Between these, the signed root of the drop in log-likelihood, a line if that is a parabola, is
        taken to be linear.
    axes_ : ndarray of matplotlib Axes
        The panels, one for each unknown.
    lines_, parabolas_, thresholds_ : dict of str to matplotlib Line2D
        The profile, the parabola (None where there is none) and the threshold in each panel.
    legend_ : matplotlib Legend
        The legend, in the first panel.
    figure_ : matplotlib Figure
        The figure that holds them.

    See Also
    --------
    ODEFitDisplay : The fitted solutions beside the observations.

    Examples
    --------
    >>> import numpy as np
    >>> from skode import ODERegressor
    >>> from skode.inspection import ProfileDisplay
    >>> def decay(t, y, p):
    ...     return -(p["rate"] * y[..., 0])[..., None]
    >>> t = np.linspace(0, 5, 20)
    >>> y = np.exp(-t) + 0.05 * np.random.default_rng(0).standard_normal(20)
    >>> model = ODERegressor(decay, {"rate": (0.5, 0, None)}).fit(t[:, None], y)
    >>> display = ProfileDisplay.from_estimator(model)
    >>> bool(display.intervals_.loc["rate", "low"] < model.params_["rate"] < display.intervals_.loc["rate", "high"])
    True
    """

    def __init__(
        self,
        profiles: Mapping[str, pd.DataFrame],
        *,
        level: float = 0.95,
        parabolas: Mapping[str, Parabola] | None = None,
    ) -> None:
        self.profiles = profiles
        self.level = level
        self.parabolas = parabolas

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        names: Any = None,
        *,
        n_points: int = 15,
        level: float = 0.95,
        axes: Any = None,
        line_kw: dict[str, Any] | None = None,
        parabola_kw: dict[str, Any] | None = None,
        threshold_kw: dict[str, Any] | None = None,
    ) -> ProfileDisplay:
        """Compute the profiles of a fitted estimator, and draw them.

        Parameters
        ----------
        estimator : ODERegressor or another one with ``profile`` and ``summary``
            A fitted estimator.
        names : str or list of str, default=None
            The unknowns, as ``summary`` names them; None: all parameters that are estimated and shared by all series.
        n_points : int, default=15
            Number of values of each, as in ``profile``.
        level : float, default=0.95
            Level of the intervals.
        axes, line_kw, parabola_kw, threshold_kw
            As in :meth:`plot`.

        Returns
        -------
        ProfileDisplay
            The picture.

        Raises
        ------
        TypeError
            Where the estimator has not these methods.
        NotFittedError
            Where it has not been fitted.
        ValueError
            Where a parameter is not as described, an unknown can't be profiled, or there are more or fewer axes than
            unknowns.
        ImportError
            Where matplotlib is missing.
        """
        require_matplotlib(f"{cls.__name__}.from_estimator")
        if not hasattr(estimator, "profile") or not hasattr(estimator, "summary"):
            raise refusal("estimator must have profile and summary, as an ODERegressor has", estimator, with_rows=False)
        check_is_fitted(estimator)
        _check_level(level)
        if not isinstance(n_points, Integral) or n_points < 2:
            raise ValueError(f"n_points must be an integer, 2 or more, got {n_points!r}.")
        if names is None:
            names = [name for name in estimator.covariance_ if name in estimator.params_]
        names = [names] if isinstance(names, str) else list(names)
        if not names:
            raise ValueError(f"names={names!r} must name one unknown at least.")
        profiles = {name: estimator.profile(name, n_points) for name in names}
        display = cls(profiles, level=level, parabolas=_parabolas(estimator.summary(), names))
        return display.plot(axes, line_kw=line_kw, parabola_kw=parabola_kw, threshold_kw=threshold_kw)

    def plot(
        self,
        axes: Any = None,
        *,
        line_kw: dict[str, Any] | None = None,
        parabola_kw: dict[str, Any] | None = None,
        threshold_kw: dict[str, Any] | None = None,
    ) -> ProfileDisplay:
        """Draw the profiles, relative to their maxima.

        Parameters
        ----------
        axes : matplotlib Axes or array-like of them, default=None
            One for each unknown; None: those of a new figure.
        line_kw, parabola_kw, threshold_kw : dict, default=None
            Keyword arguments for the profiles, the parabolas and the thresholds, beside the defaults; see
            :meth:`matplotlib.axes.Axes.plot` and ``axhline``.

        Returns
        -------
        ProfileDisplay
            This one.

        Raises
        ------
        ValueError
            Where there are more or fewer axes than unknowns.
        ImportError
            Where matplotlib is missing.
        """
        _check_level(self.level)
        caller, n = f"{type(self).__name__}.plot", len(self.profiles)
        self.axes_ = several_axes(axes, n, caller, panels=list(self.profiles), figsize=(3.6 * n, 3.2), sharey=True)
        self.figure_ = self.axes_[0].figure
        self.lines_: dict[str, Any] = {}
        self.parabolas_: dict[str, Any] = {}
        self.thresholds_: dict[str, Any] = {}
        ends = {}
        threshold = -0.5 * chi2.ppf(self.level, 1)
        line_kw = {"marker": ".", "label": "profile", **(line_kw or {})}
        parabola_kw = {"color": "gray", "linestyle": ":", "label": "by standard error", **(parabola_kw or {})}
        label = f"{100 * self.level:g} % threshold"
        threshold_kw = {"color": "black", "linestyle": "--", "linewidth": 1, "label": label, **(threshold_kw or {})}
        for ax, (name, table) in zip(self.axes_, self.profiles.items(), strict=True):
            values, loglik = (table[column].to_numpy(np.float64) for column in (name, "loglik"))
            drop = loglik - np.nanmax(loglik)
            (self.lines_[name],) = ax.plot(values, drop, **line_kw)
            parabola = (self.parabolas or {}).get(name)
            self.parabolas_[name] = None
            if parabola is not None:
                dense = np.linspace(values.min(), values.max(), N_PARABOLA)
                (self.parabolas_[name],) = ax.plot(dense, parabola(dense), **parabola_kw)
            self.thresholds_[name] = ax.axhline(threshold, **threshold_kw)
            ends[name] = _interval(values, drop, threshold)
            ax.set(xlabel=name, ylabel="log-likelihood, relative" if ax is self.axes_[0] else "")
        self.intervals_ = pd.DataFrame.from_dict(ends, orient="index", columns=["low", "high"])
        self.legend_ = self.axes_[0].legend(fontsize="small")
        return self


def _check_level(level: Any) -> None:
    check_level(level)


def _parabolas(summary: pd.DataFrame, names: list[str]) -> dict[str, Parabola]:
    """Parabolas from the rows of a summary, of the unknowns that have a finite standard error.

    An unknown is estimated by its logarithm where its lower bound is 0 and its start above; its error on that scale is
    the relative one.
    """
    found = {}
    for name in names:
        row: Any = summary.loc[(name, "") if isinstance(summary.index, pd.MultiIndex) else name]
        if np.isfinite(row["std_error"]) and row["std_error"] > 0.0:
            log = row["lower_bound"] == 0.0 and row["start"] > 0.0
            found[name] = Parabola(row["estimate"], row["std_error"], bool(log))
    return found


def _interval(values: np.ndarray, drop: np.ndarray, threshold: float) -> tuple[float, float]:
    """Where a profile crosses the threshold on either side of its maximum; NaN where it does not."""
    top = int(np.nanargmax(drop))
    root = np.sqrt(np.maximum(-drop, 0.0))
    ends = []
    for side in (slice(top, None, -1), slice(top, None)):
        x, r = values[side], root[side]
        below = np.flatnonzero(r > np.sqrt(-threshold))
        if not len(below):
            ends.append(np.nan)
            continue
        i = below[0]
        share = (np.sqrt(-threshold) - r[i - 1]) / (r[i] - r[i - 1])
        ends.append(float(x[i - 1] + share * (x[i] - x[i - 1])))
    return ends[0], ends[1]

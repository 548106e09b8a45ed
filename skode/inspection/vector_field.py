"""Vector fields in the plane of two states, with the trajectories of data."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np
import pandas as pd
from sklearn.utils.validation import check_is_fitted

from skode.frames import output_names, read_targets
from skode.inspection._axes import require_matplotlib, several_axes
from skode.inspection._estimators import refusal
from skode.inspection._series_grid import EquationsGrid, grid_over
from skode.training import as_numpy, to_pandas

#: The share of the trajectories' ranges that the plane goes on beyond them.
MARGIN = 0.1


class VectorFieldDisplay:
    """Stream plot of a vector field in the plane of two states, with trajectories, observations and fixed points.

    Made by :meth:`from_estimator`. With more than two states it is a slice: the others are held at values, and
    trajectories and fixed points are projected on the plane.

    Parameters
    ----------
    x, y : ndarray of shape (n_x,) and (n_y,)
        The values of the two states, at equal distances.
    field : ndarray of shape (n_y, n_x, 2)
        The derivatives of both by time.
    true_field : ndarray of shape (n_y, n_x, 2), default=None
        Those of the true field, for a panel of its own.
    state_names : sequence of str, default=("x", "y")
        Names of the two states.
    trajectories : sequence of ndarray of shape (n_times, 2), default=()
        Paths of the states.
    points : ndarray of shape (n_points, 2), default=None
        Observed states.
    fixed_points : ndarray of shape (n_fixed, 2), default=None
        Fixed points.
    stability : sequence of str, of length n_fixed, default=None
        Kind of each, for the legend: those that begin with "stable" are filled, others hollow. None: not said.
    held : dict of str to float, default=None
        The values at which other states are held.

    Attributes
    ----------
    axes_ : ndarray of matplotlib Axes
        The panels: the field, and the true one beside it.
    streams_ : list of matplotlib StreamplotSet
        The stream lines of each panel.
    lines_ : list of LineCollection or None
        The trajectories in each panel.
    points_ : list of PathCollection or None
        The observations in each panel.
    fixed_points_ : list of dict of str to PathCollection
        The fixed points in each panel, by kind; "fixed point" where that is not said.
    legend_ : matplotlib Legend or None
        The legend: below the panels of a figure of its own, else in the first of the given axes.
    figure_ : matplotlib Figure
        The figure that holds them.

    See Also
    --------
    ODEFitDisplay : The solutions against time.
    TrajectoryDisplay : The paths of hidden or latent states.

    Examples
    --------
    >>> import numpy as np
    >>> import pandas as pd
    >>> import torch
    >>> from skode import ODERegressor
    >>> from skode.inspection import VectorFieldDisplay
    >>> def spiral(t, y, p):
    ...     return torch.stack([y[..., 1], -p["k"] * y[..., 0] - 0.2 * y[..., 1]], dim=-1)
    >>> X = pd.DataFrame({"t": np.linspace(0, 6, 25)})
    >>> y = pd.DataFrame({"place": np.cos(X["t"]), "speed": -np.sin(X["t"])})
    >>> model = ODERegressor(spiral, {"k": (2.0, 0, None)}, time="t").fit(X, y)
    >>> display = VectorFieldDisplay.from_estimator(model, X, y)
    >>> display.axes_[0].get_xlabel(), display.axes_[0].get_ylabel()
    ('place', 'speed')
    """

    def __init__(
        self,
        *,
        x: np.ndarray,
        y: np.ndarray,
        field: np.ndarray,
        true_field: np.ndarray | None = None,
        state_names: Sequence[str] = ("x", "y"),
        trajectories: Sequence[np.ndarray] = (),
        points: np.ndarray | None = None,
        fixed_points: np.ndarray | None = None,
        stability: Sequence[str] | None = None,
        held: Mapping[str, float] | None = None,
    ) -> None:
        self.x = x
        self.y = y
        self.field = field
        self.true_field = true_field
        self.state_names = state_names
        self.trajectories = trajectories
        self.points = points
        self.fixed_points = fixed_points
        self.stability = stability
        self.held = held

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any = None,
        y: Any = None,
        *,
        states: Any = None,
        fixed: Mapping[str, float] | None = None,
        limits: Any = None,
        grid_resolution: int = 30,
        true_field: Callable[[np.ndarray], Any] | None = None,
        fixed_points: Any = None,
        field_kw: Mapping[str, Any] | None = None,
        axes: Any = None,
        stream_kw: dict[str, Any] | None = None,
        line_kw: dict[str, Any] | None = None,
        points_kw: dict[str, Any] | None = None,
    ) -> VectorFieldDisplay:
        """Evaluate the field of a fitted estimator on a grid, and draw it with the trajectories of series.

        Parameters
        ----------
        estimator : ODERegressor or another one with ``vector_field`` and ``states_``
            A fitted estimator.
        X : DataFrame or array-like of shape (n_rows, n_columns), default=None
            Rows of the series of which trajectories are drawn, from their first row to the last; None: the field alone.
        y : array-like of shape (n_rows,) or (n_rows, n_outputs), default=None
            Observed values, which are drawn as points where both states are among them; None: no points.
        states : pair of str or int, default=None
            The two states, by name or position; None: the first two.
        fixed : dict of str to float, default=None
            Values that other states are held at, by name; those that are missing are held at their medians along the
            trajectories.
        limits : pair of (float, float), default=None
            Ends of the plane along each of the two states; None: those of trajectories and points, and a tenth of
            their range beyond.
        grid_resolution : int, default=30
            Number of values along each state.
        true_field : callable, default=None
            ``true_field(Y)``, derivatives of the shape of Y, (n, n_states); it is drawn in a second panel.
        fixed_points : DataFrame or array-like of shape (n_fixed, n_states), default=None
            Fixed points to mark; a frame has the states' columns, and may have a column "stability" of text, such as
            "stable node" or "saddle": stable ones are filled, others hollow.
        field_kw : dict, default=None
            Further arguments of ``estimator.vector_field``, such as ``params`` and ``inputs``.
        axes : matplotlib Axes or array-like of them, default=None
            One, or two with ``true_field``; None: those of a new figure.
        stream_kw, line_kw, points_kw : dict, default=None
            As in :meth:`plot`.

        Returns
        -------
        VectorFieldDisplay
            The picture.

        Raises
        ------
        TypeError
            Where the estimator has not these attributes.
        NotFittedError
            Where it has not been fitted.
        ValueError
            Where there are fewer than two states, a parameter is not as described, or there are more or fewer axes
            than panels.
        ImportError
            Where matplotlib is missing.
        """
        require_matplotlib(f"{cls.__name__}.from_estimator")
        if not hasattr(estimator, "vector_field"):
            raise refusal("estimator must have vector_field, as an ODERegressor has", estimator)
        check_is_fitted(estimator)
        names = list(estimator.states_)
        if not isinstance(grid_resolution, Integral) or grid_resolution < 2:
            raise ValueError(f"grid_resolution must be a whole number, 2 or more; got {grid_resolution!r}.")
        shown = _positions(states, names)
        who = type(estimator).__name__
        paths, points = [], None
        if X is not None:
            X, y = to_pandas(as_numpy(X, "X", who)), to_pandas(as_numpy(y, "y", who), "y")
            paths = _trajectories(estimator, X)
            points = None if y is None else _observed(y, len(X), names, shown)
        elif y is not None:
            raise ValueError("y is given without X.")
        inside = [path[:, shown] for path in paths]
        x, upwards = _plane(limits, [*inside, *([] if points is None else [points])], int(grid_resolution))
        held = _held(fixed, names, shown, paths)
        Y = np.empty((len(upwards), len(x), len(names)))
        Y[..., shown[0]], Y[..., shown[1]] = np.meshgrid(x, upwards)
        for name, value in held.items():
            Y[..., names.index(name)] = value
        fields = [lambda flat: estimator.vector_field(flat, **(field_kw or {})), true_field]
        field, true = (None if one is None else _evaluated(one, Y)[..., shown] for one in fields)
        assert field is not None
        places, stability = _fixed_points(fixed_points, names)
        display = cls(
            x=x,
            y=upwards,
            field=field,
            true_field=true,
            state_names=[names[k] for k in shown],
            trajectories=inside,
            points=points,
            fixed_points=None if places is None else places[:, shown],
            stability=stability,
            held=held,
        )
        return display.plot(axes, stream_kw=stream_kw, line_kw=line_kw, points_kw=points_kw)

    def plot(
        self,
        axes: Any = None,
        *,
        stream_kw: dict[str, Any] | None = None,
        line_kw: dict[str, Any] | None = None,
        points_kw: dict[str, Any] | None = None,
        fixed_kw: dict[str, Any] | None = None,
    ) -> VectorFieldDisplay:
        """Draw the field.

        Parameters
        ----------
        axes : matplotlib Axes or array-like of them, default=None
            One, or two with a true field; None: those of a new figure.
        stream_kw, line_kw, points_kw, fixed_kw : dict, default=None
            Keyword arguments for stream lines, trajectories, observations and fixed points, beside the defaults; see
            :meth:`matplotlib.axes.Axes.streamplot`, ``matplotlib.collections.LineCollection`` and
            :meth:`matplotlib.axes.Axes.scatter`.

        Returns
        -------
        VectorFieldDisplay
            This one.

        Raises
        ------
        ValueError
            Where there are more or fewer axes than panels.
        ImportError
            Where matplotlib is missing.
        """
        fields = {"fitted": self.field} | ({} if self.true_field is None else {"true": self.true_field})
        n, caller = len(fields), f"{type(self).__name__}.plot"
        figure = {"figsize": (4.6 * n, 4.0), "sharex": True, "sharey": True}
        self.axes_ = several_axes(axes, n, caller, panels=list(fields), **figure)
        from matplotlib.collections import LineCollection

        self.figure_ = self.axes_[0].figure
        self.streams_, self.lines_, self.points_, self.fixed_points_ = [], [], [], []
        stream_kw = {"color": "0.7", "linewidth": 0.8, "arrowsize": 0.8, **(stream_kw or {})}
        line_kw = {"color": "tab:blue", "linewidth": 1.2, "label": "trajectories", **(line_kw or {})}
        points_kw = {"color": "black", "s": 10, "marker": ".", "zorder": 3, "label": "observed", **(points_kw or {})}
        for ax, (title, field) in zip(self.axes_, fields.items(), strict=True):
            u, v = np.ma.masked_invalid(field[..., 0]), np.ma.masked_invalid(field[..., 1])
            self.streams_.append(ax.streamplot(self.x, self.y, u, v, **stream_kw))
            paths = LineCollection(list(self.trajectories), **line_kw) if len(self.trajectories) else None
            self.lines_.append(None if paths is None else ax.add_collection(paths))
            self.points_.append(None if self.points is None else ax.scatter(*self.points.T, **points_kw))
            self.fixed_points_.append(self._drawn_fixed_points(ax, fixed_kw or {}))
            ax.set(xlim=self.x[[0, -1]], ylim=self.y[[0, -1]], xlabel=self.state_names[0], ylabel=self.state_names[1])
            slices = ", ".join(f"{name} = {value:.3g}" for name, value in (self.held or {}).items())
            ax.set_title("; ".join(part for part in (title if n > 1 else "", slices) if part))
        self.legend_ = self._legend(own_figure=axes is None)
        return self

    def _legend(self, *, own_figure: bool) -> Any:
        """A legend below the panels, where it covers no path, or in the first of the given axes."""
        handles, labels = self.axes_[0].get_legend_handles_labels()
        if not handles:
            return None
        entries = {"handles": handles, "labels": labels, "fontsize": "small"}
        if own_figure:
            return self.figure_.legend(loc="outside lower center", ncols=len(handles), **entries)
        return self.axes_[0].legend(**entries)

    def _drawn_fixed_points(self, ax: Any, fixed_kw: Mapping[str, Any]) -> dict[str, Any]:
        """The fixed points in one panel, by kind."""
        if self.fixed_points is None:
            return {}
        n = len(self.fixed_points)
        kinds = ["fixed point"] * n if self.stability is None else list(self.stability)
        drawn = {}
        for i, kind in enumerate(dict.fromkeys(kinds)):
            face = "white" if self.stability is not None and not kind.startswith("stable") else f"C{3 + i}"
            style = {"facecolor": face, "edgecolor": f"C{3 + i}", "s": 40, "zorder": 4, "label": kind}
            places = self.fixed_points[[k for k in range(n) if kinds[k] == kind]]
            drawn[kind] = ax.scatter(*places.T, **{**style, **fixed_kw})
        return drawn


def _positions(states: Any, names: list[str]) -> list[int]:
    """Positions of the two states to draw."""
    if len(names) < 2:
        raise ValueError(f"A plane needs two states; the estimator has one, {names}.")
    chosen = [0, 1] if states is None else list(states) if not isinstance(states, str) else [states]
    positions = []
    for one in chosen:
        if isinstance(one, str) and one in names:
            positions.append(names.index(one))
        elif isinstance(one, Integral) and -len(names) <= int(one) < len(names):
            positions.append(int(one) % len(names))
        else:
            raise ValueError(f"states={states!r} holds {one!r}, but the states are {names}, or their positions.")
    if len(set(positions)) != 2 or len(positions) != 2:
        raise ValueError(f"states={states!r} must name two states of {names}.")
    return positions


def _trajectories(estimator: Any, X: Any) -> list[np.ndarray]:
    """States of each series, on a grid from its first row to the last; of shape (n_times, n_states)."""
    grid = EquationsGrid(estimator, X)
    rows = grid.rows
    solve = estimator.predict_states if hasattr(estimator, "predict_states") else estimator.predict
    codes = pd.factorize(rows.series)[0]
    paths = []
    for code in range(codes.max() + 1):
        own = codes == code
        if rows.time[own].min() < rows.time[own].max():
            paths.append(grid.answers(solve, own, grid_over(rows.time[own], 0.0, 0.0))[0])
    return paths


def _observed(y: Any, n_rows: int, names: list[str], shown: list[int]) -> np.ndarray | None:
    """Observations of both states; None where these are not among the outputs."""
    values, outputs = read_targets(y, n_rows, maybe_nothing=True), [str(name) for name in output_names(y)]
    if not {*outputs} <= {*names}:
        if len(outputs) != len(names):
            return None
        outputs = names
    if not all(names[k] in outputs for k in shown):
        return None
    points = values[:, [outputs.index(names[k]) for k in shown]]
    return points[~np.isnan(points).any(axis=1)]


def _plane(limits: Any, paths: list[np.ndarray], resolution: int) -> tuple[np.ndarray, np.ndarray]:
    """Values along both states."""
    if limits is None:
        if not paths:
            raise ValueError("limits must be given where no trajectories are, in X, to take them from.")
        everything = np.concatenate(paths)
        low, high = everything.min(axis=0), everything.max(axis=0)
        margin = MARGIN * np.where(high > low, high - low, 1.0)
        ends = np.stack([low - margin, high + margin], axis=1)
    else:
        ends = np.array(limits, dtype=np.float64)
        if ends.shape != (2, 2) or not np.isfinite(ends).all() or not (ends[:, 0] < ends[:, 1]).all():
            raise ValueError(f"limits must be two pairs of finite numbers, each in order; got {limits!r}.")
    along = np.linspace(ends[:, 0], ends[:, 1], resolution)
    return along[:, 0], along[:, 1]


def _held(
    fixed: Mapping[str, float] | None, names: list[str], shown: list[int], paths: list[np.ndarray]
) -> dict[str, float]:
    """Values of the states that are not drawn."""
    others = [name for k, name in enumerate(names) if k not in shown]
    for name, value in (fixed or {}).items():
        if name not in others:
            raise ValueError(f"fixed={fixed!r} holds {name!r}; the states that are not drawn are {others}.")
        if not isinstance(value, Real) or not np.isfinite(float(value)):
            raise ValueError(f"fixed={fixed!r} must have a finite number for each state; got {value!r}.")
    if not paths and (missing := [name for name in others if name not in (fixed or {})]):
        raise ValueError(f"fixed must hold {missing}, as there are no trajectories, in X, to take a median of.")
    medians = np.median(np.concatenate(paths), axis=0) if paths else np.full(len(names), np.nan)
    return {name: float((fixed or {}).get(name, medians[names.index(name)])) for name in others}


def _evaluated(field: Callable[[np.ndarray], Any], Y: np.ndarray) -> np.ndarray:
    """A field on a grid of states, of shape (..., n_states)."""
    flat = Y.reshape(-1, Y.shape[-1])
    values = np.asarray(field(flat), dtype=np.float64)
    if values.shape != flat.shape:
        raise ValueError(f"true_field(Y) must return derivatives of Y's shape, {flat.shape}; got {values.shape}.")
    return values.reshape(Y.shape)


def _fixed_points(given: Any, names: list[str]) -> tuple[np.ndarray | None, list[str] | None]:
    """Fixed points of shape (n, n_states), and their kinds, where these are said."""
    if given is None:
        return None, None
    stability = None
    if isinstance(given, pd.DataFrame):
        if missing := [name for name in names if name not in given]:
            raise ValueError(f"fixed_points has no column {missing[0]!r}; the states are {names}.")
        stability = given["stability"].astype(str).tolist() if "stability" in given else None
        given = given[names]
    places = np.asarray(given, dtype=np.float64)
    if places.ndim != 2 or places.shape[1] != len(names):
        raise ValueError(f"fixed_points must be of shape (n, {len(names)}), for {names}; got {places.shape}.")
    return places, stability

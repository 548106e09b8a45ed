"""The picture of the paths that states take along depth or time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from sklearn.decomposition import PCA
from sklearn.utils.validation import check_is_fitted

from skode.frames import read_rows
from skode.inspection._axes import one_axes, require_matplotlib
from skode.inspection._estimators import refusal
from skode.training import as_numpy, as_python, to_pandas

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Whole numbers of up to so many values, and other values of any number, are taken for classes.
MOST_CLASSES = 10

#: A legend of more classes stands beside the axes, in columns of so many, where it covers no path.
MOST_WITHIN, COLUMN = 6, 16


class TrajectoryDisplay:
    """Paths of hidden or latent states: two components in the plane, or one against depth or time.

    Use :meth:`from_estimator`; the states are kept, so that :meth:`plot` draws other components without the
    estimator. Solutions of an ODE don't cross, but their projections do, and so do paths of a field that changes with
    time.

    Parameters
    ----------
    states : ndarray of shape (n_paths, n_times, n_states) or sequence of ndarray of shape (n_times, n_states)
        The paths, all with as many states.
    times : ndarray of shape (n_times,) or sequence of ndarray of shape (n_times,)
        Depths or times, those of all paths or of each: numbers, or dates as ``datetime64``.
    c : array-like of shape (n_paths,), default=None
        Classes, or numbers to colour by.
    c_name : str, default=None
        Name of these numbers, beside their colour bar.
    state_names : sequence of str, default=None
        Names of the states; None: "state 0", "state 1", ...
    time_label : str, default="t"
        Name of depth or time.

    Attributes
    ----------
    lines_ : LineCollection
        A line for each path.
    starts_, ends_ : PathCollection
        The circles and the dots where paths start and end.
    legend_ : Legend or None
        The legend of classes, if there is one.
    colorbar_ : Colorbar or None
        The colour bar of numbers, if there is one.
    explained_variance_ratio_ : ndarray of shape (2,) or None
        The shares of the points' variance in the two principal components, where these were drawn.
    ax_ : Axes
        Where it was drawn last.
    figure_ : Figure
        The figure of ``ax_``.

    See Also
    --------
    DensityEvolutionDisplay : What a flow makes of a density, rather than of points.

    Examples
    --------
    >>> import warnings
    >>> from sklearn.datasets import make_moons
    >>> from skode import ODENetClassifier
    >>> from skode.inspection import TrajectoryDisplay
    >>> X, y = make_moons(100, noise=0.1, random_state=0)
    >>> clf = ODENetClassifier((8,), state_size=4, max_iter=5)
    >>> with warnings.catch_warnings():
    ...     warnings.simplefilter("ignore")  # five epochs are too few
    ...     clf = clf.fit(X, y)
    >>> display = TrajectoryDisplay.from_estimator(clf, X, c=y)
    >>> display.states.shape
    (100, 50, 4)
    >>> display = display.plot(components=(0, 2))
    >>> display = display.plot(components=0)  # against depth
    """

    lines_: Any
    starts_: Any
    ends_: Any
    legend_: Any
    colorbar_: Any
    explained_variance_ratio_: Any
    ax_: Any
    figure_: Any

    def __init__(
        self,
        *,
        states: Any,
        times: Any,
        c: Any = None,
        c_name: str | None = None,
        state_names: Sequence[str] | None = None,
        time_label: str = "t",
    ) -> None:
        self.states = states
        self.times = times
        self.c = c
        self.c_name = c_name
        self.state_names = state_names
        self.time_label = time_label

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        *,
        t: Any = None,
        c: Any = None,
        components: Any = None,
        legend: bool = True,
        marker_kw: Mapping[str, Any] | None = None,
        ax: Axes | None = None,
        **kwargs: Any,
    ) -> TrajectoryDisplay:
        """Compute the paths of samples or series through a fitted estimator, and draw them.

        Parameters
        ----------
        estimator : ODENetClassifier, ODENetRegressor, CNFDensityEstimator or LatentODERegressor
            A fitted estimator. The display draws the hidden states of an ODE-Net (those of an image, flattened), the
            points of data space on their way from the base of a flow, or the mean latent states of series.
        X : array-like of shape (n_samples, n_features)
            Samples; for ``LatentODERegressor`` the rows of a long frame, which each path goes through in the order of
            time, so that close times make a smooth line. A few hundred paths are as many as can be told apart.
        t : int or array-like of shape (n_times,), default=None
            Depths from 0 to 1, strictly increasing; an int stands for so many, at equal distances, None for 50. For
            ``LatentODERegressor`` None: the times are those of X.
        c : array-like of shape (n_samples,), default=None
            A class or a number for each row of X, to colour paths by, such as ``X["dose"]``; for
            ``LatentODERegressor`` the same in all rows of a series. Whole numbers of up to 10 values, strings,
            booleans and categories are classes.
        components : int, str, pair of these, "pca" or None, default=None
            See :meth:`plot`.
        legend : bool, default=True
            Whether to draw a legend where ``c`` holds classes, beside the axes where they are more than six, and a
            colour bar where it holds numbers.
        marker_kw : dict, default=None
            Arguments of ``Axes.scatter`` for starts and ends.
        ax : Axes, default=None
            Where to draw; None: on a new figure.
        **kwargs : dict
            Further arguments of ``matplotlib.collections.LineCollection``.

        Returns
        -------
        TrajectoryDisplay
            The display, drawn.

        Raises
        ------
        NotFittedError
            Where the estimator has not been fitted.
        TypeError
            Where it has neither ``trajectory`` nor ``latent_trajectory``.
        ValueError
            Where X has other columns than in ``fit``; where ``t``, ``c`` or ``components`` is not as described.
        ImportError
            Where matplotlib is missing.
        """
        require_matplotlib(f"{cls.__name__}.from_estimator")
        who = type(estimator).__name__
        X, t, c = (as_numpy(value, name, who) for value, name in ((X, "X"), (t, "t"), (c, "c")))
        X, c = to_pandas(X), to_pandas(c, "c")
        if hasattr(estimator, "latent_trajectory"):
            display = cls._of_series(estimator, X, t, c)
        elif hasattr(estimator, "trajectory"):
            display = cls._of_samples(estimator, X, t, c)
        else:
            raise refusal("estimator must have trajectory or latent_trajectory", estimator)
        name = getattr(c, "name", None)
        display.c_name = None if name is None else str(name)
        return display.plot(ax, components=components, legend=legend, marker_kw=marker_kw, **kwargs)

    @classmethod
    def _of_samples(cls, estimator: Any, X: Any, t: Any, c: Any) -> TrajectoryDisplay:
        check_is_fitted(estimator)
        if isinstance(t, Integral) and t < 2:
            raise ValueError(f"t must be 2 depths or more, or the depths themselves; got {t!r}.")
        t = np.linspace(0, 1, 50 if t is None else int(t)) if t is None or isinstance(t, Integral) else t
        states = estimator.trajectory(X, t)
        states = states.reshape(*states.shape[:2], -1)
        c = _checked_colours(c, len(states), "row of X")
        names, label = None, "depth t"
        if hasattr(estimator, "log_prob"):  # a flow, of the columns themselves
            names = list(getattr(estimator, "feature_names_in_", [f"x{k}" for k in range(states.shape[2])]))
            label = "t"
        return cls(states=states, times=np.asarray(t, dtype=np.float64), c=c, state_names=names, time_label=label)

    @classmethod
    def _of_series(cls, estimator: Any, X: Any, t: Any, c: Any) -> TrajectoryDisplay:
        check_is_fitted(estimator)
        if t is not None:
            raise ValueError(f"t must be None with a {type(estimator).__name__}, as X holds the times; got {t!r}.")
        rows = read_rows(estimator, X, series=estimator.series, time=estimator.time, reset=False)
        values = estimator.latent_trajectory(X)
        c = _checked_colours(c, len(rows), "row of X")
        of_series = pd.factorize(rows.series)[0]
        paths = [np.flatnonzero(of_series == code) for code in range(of_series.max() + 1)]
        paths = [path[np.argsort(rows.time[path], kind="stable")] for path in paths]
        if c is not None:
            for path in paths:
                if len(pd.unique(c[path])) > 1:
                    raise ValueError(
                        "c must be the same in all rows of a series; that of "
                        f"{as_python(rows.series[path[0]])!r} differs."
                    )
            c = c[[path[0] for path in paths]]
        times, label = rows.time, estimator.time if isinstance(estimator.time, str) else "time"
        if rows.time_kind.startswith("date"):
            times = np.round(times * 1e6).astype("datetime64[us]")
        elif rows.time_kind == "difference":
            label = f"{label}, s"
        return cls(
            states=[values[path] for path in paths],
            times=[times[path] for path in paths],
            c=c,
            state_names=[f"latent state {k}" for k in range(values.shape[1])],
            time_label=label,
        )

    def plot(
        self,
        ax: Axes | None = None,
        *,
        components: Any = None,
        legend: bool = True,
        marker_kw: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> TrajectoryDisplay:
        """Draw the paths: a circle where each starts, a dot where it ends.

        Parameters
        ----------
        ax : Axes, default=None
            Where to draw; None: on a new figure.
        components : int, str, pair of these, "pca" or None, default=None
            Components to draw: one of the state, by number (negative ones count from the end) or name, against
            depth or time; two in the plane; or with "pca" the two principal components of all points of all paths.
            None: the only component, both of two, or the principal ones of more.
        legend : bool, default=True
            Whether to draw a legend where ``c`` holds classes, beside the axes where they are more than six, and a
            colour bar where it holds numbers.
        marker_kw : dict, default=None
            Arguments of ``Axes.scatter`` for starts and ends.
        **kwargs : dict
            Further arguments of ``matplotlib.collections.LineCollection``.

        Returns
        -------
        TrajectoryDisplay
            The display.

        Raises
        ------
        ValueError
            Where ``components`` is not as described, or ``c`` not one for each path.
        ImportError
            Where matplotlib is missing.
        """
        ax = one_axes(ax, f"{type(self).__name__}.plot")
        from matplotlib.collections import LineCollection
        from matplotlib.dates import ConciseDateFormatter, date2num
        from matplotlib.lines import Line2D

        c = _checked_colours(self.c, len(self.states), "path")
        xs, ys, xlabel, ylabel = self._projected(components)
        if np.issubdtype(xs[0].dtype, np.datetime64):
            xs = [date2num(x) for x in xs]
            ax.xaxis_date()
            ax.xaxis.set_major_formatter(ConciseDateFormatter(ax.xaxis.get_major_locator()))
        segments = [np.column_stack([x, y]) for x, y in zip(xs, ys, strict=True)]
        starts, ends = np.array([s[0] for s in segments]), np.array([s[-1] for s in segments])

        classes = _classes(c)
        style = {"linewidth": 0.8, "alpha": 0.7, **kwargs}
        if c is not None and classes is not None:
            palette = _palette(len(classes))
            style["color"] = palette[[classes.index(value) for value in c]]
        self.lines_ = ax.add_collection(LineCollection(segments, **style))
        if c is not None and classes is None:
            self.lines_.set_array(c.astype(np.float64))
            self.lines_.autoscale_None()
        colours = self.lines_.get_color() if self.lines_.get_array() is None else self.lines_.to_rgba(c)
        marker = {"s": 14, "linewidth": 0.8, "zorder": self.lines_.get_zorder() + 0.1, "edgecolor": colours}
        marker.update(marker_kw or {})
        self.starts_ = ax.scatter(*starts.T, **{"facecolor": "white", **marker})
        self.ends_ = ax.scatter(*ends.T, **{"facecolor": colours, **marker})

        self.legend_ = self.colorbar_ = None
        if legend and classes is not None:
            handles = [Line2D([], [], color=colour, label=str(of)) for of, colour in zip(classes, palette, strict=True)]
            place: dict[str, Any] = {"loc": "best"}
            if len(classes) > MOST_WITHIN:
                place = {"loc": "upper left", "bbox_to_anchor": (1, 1), "ncols": -(-len(classes) // COLUMN)}
            self.legend_ = ax.legend(handles=handles, **place)
        elif legend and c is not None:
            self.colorbar_ = ax.figure.colorbar(self.lines_, ax=ax, label=self.c_name or "")
        if not ax.get_xlabel():
            ax.set_xlabel(xlabel)
        if not ax.get_ylabel():
            ax.set_ylabel(ylabel)
        ax.autoscale_view()
        self.ax_, self.figure_ = ax, ax.figure
        return self

    def _projected(self, components: Any) -> tuple[Any, Any, str, str]:
        """Horizontal and vertical coordinates of each path, and their names."""
        n_states = self.states[0].shape[1]
        names = self.state_names or [f"state {k}" for k in range(n_states)]
        self.explained_variance_ratio_ = None
        if components is None:
            components = {1: 0, 2: (0, 1)}.get(n_states, "pca")
        if isinstance(components, str) and components == "pca":
            if n_states < 2:
                raise ValueError("components='pca' needs states of two components or more; these have one.")
            pca = PCA(2).fit(np.concatenate(list(self.states)))
            self.explained_variance_ratio_ = pca.explained_variance_ratio_
            across, upwards = zip(*(pca.transform(path).T for path in self.states), strict=True)
            first, second = (f"{100 * share:.0f} %" for share in pca.explained_variance_ratio_)
            return across, upwards, f"first principal component ({first})", f"second principal component ({second})"
        chosen = [components] if isinstance(components, (str, Integral)) else list(components)
        if len(chosen) not in (1, 2):
            raise ValueError(f"components must be one, a pair or 'pca'; got {components!r}.")
        numbers = [_number(component, names) for component in chosen]
        paths = [path[:, numbers] for path in self.states]
        if len(numbers) == 1:
            times = self.times if np.ndim(self.times[0]) else [self.times] * len(paths)
            return times, [path[:, 0] for path in paths], self.time_label, names[numbers[0]]
        return [path[:, 0] for path in paths], [path[:, 1] for path in paths], names[numbers[0]], names[numbers[1]]


def _number(component: Any, names: Sequence[str]) -> int:
    """A component's number, from 0."""
    if isinstance(component, Integral) and -len(names) <= int(component) < len(names):
        return int(component) % len(names)
    if isinstance(component, str) and component in names:
        return list(names).index(component)
    raise ValueError(f"components has {component!r}, which is not among the {len(names)} states: {list(names)}.")


def _checked_colours(c: Any, n: int, each: str) -> np.ndarray | None:
    if c is None:
        return None
    if isinstance(c, str):
        raise ValueError(f"c takes values, one for each {each}, such as c=X[{c!r}]; got the name {c!r}.")
    c = np.asarray(c)
    if c.shape != (n,):
        raise ValueError(f"c must have the shape ({n},), one value for each {each}; got {c.shape}.")
    return c


def _classes(c: np.ndarray | None) -> list | None:
    """The classes among ``c``, sorted; None where it holds numbers to colour by."""
    if c is None:
        return None
    values = sorted(pd.unique(c))
    is_number = np.issubdtype(c.dtype, np.number)
    whole = is_number and len(values) <= MOST_CLASSES and all(float(value).is_integer() for value in values)
    return values if whole or not is_number else None


def _palette(n: int) -> np.ndarray:
    """So many colours, those of matplotlib's cycle where they are enough."""
    from matplotlib import colormaps
    from matplotlib.colors import to_rgba_array

    return to_rgba_array([f"C{k}" for k in range(n)]) if n <= 10 else colormaps["turbo"](np.linspace(0, 1, n))

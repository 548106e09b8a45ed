"""The picture, and the animation, of how a flow makes a density out of a normal one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import TYPE_CHECKING, Any

import numpy as np

from skode.inspection._axes import one_axes, require_matplotlib, several_axes
from skode.inspection._column_grid import ColumnGrid
from skode.inspection._estimators import refusal
from skode.inspection.density import DensityDisplay, _check_plot_method
from skode.training import check_unit_times

if TYPE_CHECKING:
    from matplotlib.animation import FuncAnimation
    from matplotlib.axes import Axes


class DensityEvolutionDisplay:
    r"""The density of a continuous normalizing flow from its base at ``t = 0`` to the data at ``t = 1``.

    Use :meth:`from_estimator`, then :meth:`animate`, which draws the densities computed before.

    Parameters
    ----------
    times : ndarray of shape (n_times,)
        The times, increasing.
    xx0 : ndarray of shape (resolution, resolution), or (resolution,) for lines
        Values of the first column on the grid, as ``numpy.meshgrid`` gives them.
    xx1 : ndarray of shape (resolution, resolution), or None for lines
        Values of the second.
    log_density : ndarray of shape (n_times, \*xx0.shape)
        The logarithms of the densities there, in nats.
    paths : ndarray of shape (n_samples, n_times, 2), or (n_samples, n_times, 1) for lines, default=None
        Samples that are carried along, in the columns drawn.
    xlabel, ylabel : str, default=None
        Labels of the axes; lines have no use for ``ylabel``.
    held : str, default=None
        Values that columns not drawn are held at, in words; None: there are no such columns.

    Attributes
    ----------
    panels_ : list of DensityDisplay
        The displays drawn, left to right, with their artists ``surface_`` or ``line_``, and ``points_``.
    panel_times_ : ndarray of shape (n_panels,)
        Their times.
    axes_ : ndarray of Axes of shape (n_panels,)
        Where it was drawn last.
    figure_ : Figure
        The figure of ``axes_``.
    animation_ : FuncAnimation
        The last animation, since those of matplotlib stop without a reference to them.
    frame_ : DensityDisplay
        The frame that it drew last.

    See Also
    --------
    DensityDisplay : The density at ``t = 1`` alone, of any estimator of densities.
    TrajectoryDisplay : The paths of samples.

    Examples
    --------
    >>> from sklearn.datasets import make_moons
    >>> from skode import CNFDensityEstimator
    >>> from skode.inspection import DensityEvolutionDisplay
    >>> X, _ = make_moons(300, noise=0.1, random_state=0)
    >>> cnf = CNFDensityEstimator((16,), max_iter=2, random_state=0).fit(X)
    >>> display = DensityEvolutionDisplay.from_estimator(cnf, X, times=3, grid_resolution=30, n_samples=50)
    >>> display.panel_times_
    array([0. , 0.5, 1. ])
    >>> html = display.animate(hold=0).to_jshtml()  # or .save("evolution.gif", writer="pillow")
    """

    panels_: list[DensityDisplay]
    panel_times_: np.ndarray
    axes_: np.ndarray
    figure_: Any
    animation_: Any
    frame_: DensityDisplay

    def __init__(
        self,
        *,
        times: np.ndarray,
        xx0: np.ndarray,
        xx1: np.ndarray | None,
        log_density: np.ndarray,
        paths: np.ndarray | None = None,
        xlabel: str | None = None,
        ylabel: str | None = None,
        held: str | None = None,
    ) -> None:
        self.times = times
        self.xx0 = xx0
        self.xx1 = xx1
        self.log_density = log_density
        self.paths = paths
        self.xlabel = xlabel
        self.ylabel = ylabel
        self.held = held

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        *,
        times: Any = 5,
        n_samples: int = 0,
        random_state: Any = None,
        columns: str | int | Sequence[str | int] | None = None,
        fixed: Mapping[str | int, float] | None = None,
        grid_resolution: int = 100,
        eps: float | None = None,
        axes: Any = None,
        panels: int | None = 5,
        log: bool = False,
        plot_method: str = "contourf",
        scatter_kw: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> DensityEvolutionDisplay:
        """Compute the densities of a fitted flow on a grid, and draw them.

        Parameters
        ----------
        estimator : CNFDensityEstimator
            A fitted flow.
        X : array-like of shape (n_samples, n_features)
            Samples, with the columns of ``fit``. The grid spans their range; the axes have the names of a frame's
            columns.
        times : int or array-like of shape (n_times,), default=5
            Times from 0, the base's, to 1, the data's, strictly increasing; an int stands for so many, at equal
            distances. An animation takes more of them, and each is a solve of all points of the grid.
        n_samples : int, default=0
            Samples to draw from the flow and to carry along. At each time they follow the density of that time.
        random_state : int, RandomState instance or None, default=None
            Source of these.
        columns : str, int or sequence of one or two of them, default=None
            The columns to draw, by name or position. None: all, if there are at most two.
        fixed : mapping of str or int to float, default=None
            Values at which the other columns are held, by name or position; those without one are held at their
            medians in X. The drawing is then a slice through the densities, not a marginal density, as the titles
            say; samples are drawn wherever they are.
        grid_resolution : int, default=100
            Points of the grid along each column.
        eps : float, default=None
            Extent of the grid beyond the least and the greatest value of X, in X's units. None: a quarter of
            each column's range, as the base is wider than most data.
        axes : array-like of Axes, default=None
            Where to draw, an axes for each panel; None: on a new figure.
        panels : int or None, default=5
            See :meth:`plot`.
        log : bool, default=False
            Whether to draw the logarithms of the densities, in nats.
        plot_method : {"contourf", "contour", "pcolormesh"}, default="contourf"
            How to draw a surface.
        scatter_kw : dict, default=None
            Arguments of ``Axes.scatter`` for the samples.
        **kwargs : dict
            Further arguments of the plot method, or of ``Axes.plot`` for lines.

        Returns
        -------
        DensityEvolutionDisplay
            The display, drawn.

        Raises
        ------
        NotFittedError
            Where the estimator has not been fitted.
        TypeError
            Where it is not a flow, with ``log_prob``, ``sample`` and ``trajectory``.
        ValueError
            Where X has other columns than in ``fit``, or more than two of which none are chosen; where columns are not
            found; where a parameter is not as described.
        ImportError
            Where matplotlib is missing.
        """
        require_matplotlib(f"{cls.__name__}.from_estimator")
        if not all(hasattr(estimator, name) for name in ("log_prob", "sample", "trajectory")):
            raise refusal("estimator must be a CNFDensityEstimator", estimator)
        _check_plot_method(plot_method)
        if not isinstance(n_samples, Integral) or n_samples < 0:
            raise ValueError(f"n_samples must be a whole number, 0 or more; got {n_samples!r}.")
        if isinstance(times, Integral):
            if times < 2:
                raise ValueError(f"times must be 2 or more, or the times themselves; got {times!r}.")
            times = np.linspace(0, 1, int(times))
        times = check_unit_times(times)
        grid = ColumnGrid.over(
            estimator, X, columns=columns, fixed=fixed, resolution=grid_resolution, eps=eps, share=0.25
        )
        shape = grid.coordinates[0].shape
        log_density = np.array([estimator.log_prob(grid.points, float(t)).reshape(shape) for t in times])
        paths = None
        if n_samples:
            samples = estimator.sample(int(n_samples), random_state=random_state)
            if hasattr(grid.points, "columns"):
                samples = type(grid.points)(samples, columns=grid.points.columns)
            paths = estimator.trajectory(samples, times)[:, :, grid.columns]
        display = cls(**grid.described(), times=times, log_density=log_density, paths=paths)
        return display.plot(axes, panels=panels, log=log, plot_method=plot_method, scatter_kw=scatter_kw, **kwargs)

    def plot(
        self,
        axes: Any = None,
        *,
        panels: int | None = 5,
        log: bool = False,
        plot_method: str = "contourf",
        scatter_kw: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> DensityEvolutionDisplay:
        """Draw the density at several times, side by side.

        Each surface has a separate scale; ``vmin`` and ``vmax`` give them a common one.

        Parameters
        ----------
        axes : array-like of Axes, default=None
            Where to draw, an axes for each panel; None: on a new figure.
        panels : int or None, default=5
            Number of the times to draw, evenly from the first to the last; None: all. Where ``axes`` are given, as
            many as these.
        log : bool, default=False
            Whether to draw the logarithms of the densities, in nats.
        plot_method : {"contourf", "contour", "pcolormesh"}, default="contourf"
            How to draw a surface.
        scatter_kw : dict, default=None
            Arguments of ``Axes.scatter`` for the samples.
        **kwargs : dict
            Further arguments of the plot method, or of ``Axes.plot`` for lines.

        Returns
        -------
        DensityEvolutionDisplay
            The display.

        Raises
        ------
        ValueError
            Where ``panels`` or ``plot_method`` is not as described, or there are more axes than times.
        ImportError
            Where matplotlib is missing.
        """
        _check_plot_method(plot_method)
        n_panels, own_figure = self._n_panels(axes, panels), axes is None
        axes = several_axes(
            axes, n_panels, f"{type(self).__name__}.plot", figsize=(2.6 * n_panels, 2.8), sharex=True, sharey=True
        )
        chosen = np.linspace(len(self.times) - 1, 0, n_panels).round().astype(int)[::-1]  # one panel: the last time
        style = {"log": log, "plot_method": plot_method, "scatter_kw": scatter_kw, **kwargs}
        self.panels_ = [self._panel(k, ax, **style) for k, ax in zip(chosen, axes, strict=True)]
        self.panel_times_, self.axes_, self.figure_ = self.times[chosen], axes, axes[0].figure
        if own_figure:
            for ax in axes:
                ax.label_outer()
        return self

    def animate(
        self,
        ax: Axes | None = None,
        *,
        interval: float = 100.0,
        hold: int = 5,
        log: bool = False,
        plot_method: str = "contourf",
        scatter_kw: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> FuncAnimation:
        """An animation with a frame for each of ``times``.

        Parameters
        ----------
        ax : Axes, default=None
            Where to draw; None: on a new figure.
        interval : float, default=100
            Milliseconds between frames.
        hold : int, default=5
            For how many frames more the last one stays, before it starts again.
        log : bool, default=False
            Whether to draw the logarithms of the densities, in nats.
        plot_method : {"contourf", "contour", "pcolormesh"}, default="contourf"
            How to draw a surface.
        scatter_kw : dict, default=None
            Arguments of ``Axes.scatter`` for the samples.
        **kwargs : dict
            Further arguments of the plot method, or of ``Axes.plot`` for a line.

        Returns
        -------
        matplotlib.animation.FuncAnimation
            The animation, with ``save`` and ``to_jshtml``.

        Raises
        ------
        ValueError
            Where ``hold`` or ``plot_method`` is not as described.
        ImportError
            Where matplotlib is missing.
        """
        _check_plot_method(plot_method)
        if not isinstance(hold, Integral) or hold < 0:
            raise ValueError(f"hold must be a whole number, 0 or more; got {hold!r}.")
        ax = one_axes(ax, f"{type(self).__name__}.animate")
        from matplotlib.animation import FuncAnimation

        style = {"log": log, "plot_method": plot_method, "scatter_kw": scatter_kw, **kwargs}
        drawn: list[Any] = []

        def draw(k: int) -> list[Any]:
            for artist in drawn:
                artist.remove()
            ax.set_prop_cycle(None)  # a line is to keep its colour
            self.frame_ = self._panel(k, ax, **style)
            drawn[:] = [a for a in (self.frame_.surface_, self.frame_.line_, self.frame_.points_) if a is not None]
            return drawn

        last = len(self.times) - 1
        frames = [*range(last + 1), *[last] * int(hold)]
        self.animation_ = FuncAnimation(ax.figure, draw, frames=frames, interval=interval)
        return self.animation_

    def _n_panels(self, axes: Any, panels: int | None) -> int:
        n_times = len(self.times)
        if axes is not None:
            n_axes = np.array(axes, dtype=object).size
            if n_axes > n_times:
                raise ValueError(f"axes must be no more than the times, {n_times}; got {n_axes}.")
            return n_axes
        if panels is None:
            return n_times
        if not isinstance(panels, Integral) or panels < 1:
            raise ValueError(f"panels must be a whole number, 1 or more, or None; got {panels!r}.")
        return min(int(panels), n_times)

    def _panel(self, k: int, ax: Axes, *, log: bool, **style: Any) -> DensityDisplay:
        """The density at the time of that index."""
        display = DensityDisplay(
            xx0=self.xx0,
            xx1=self.xx1,
            log_density=self.log_density[k],
            points=None if self.paths is None else self.paths[:, k],
            xlabel=self.xlabel,
            ylabel=self.ylabel,
            held=self.held,
        ).plot(ax=ax, log=log, scatter=self.paths is not None, **style)
        title = f"t = {self.times[k]:.2f}"
        if self.held is None:
            ax.set_title(title)
        else:
            ax.set_title(f"{title}\nslice, others at {self.held}", fontsize="small")
        ax.set_xlim(self.xx0.min(), self.xx0.max())
        if self.xx1 is not None:
            ax.set_ylim(self.xx1.min(), self.xx1.max())
        elif not log:  # one scale, so that heights at different times can be compared
            ax.set_ylim(0.0, 1.05 * np.exp(self.log_density.max()))
        return display

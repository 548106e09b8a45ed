"""The picture of a density over one column or two."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from skode.inspection._axes import one_axes, require_matplotlib
from skode.inspection._column_grid import ColumnGrid

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PLOT_METHODS = ("contourf", "contour", "pcolormesh")


class DensityDisplay:
    """A density over two columns as a surface, or over one as a line.

    Use :meth:`from_estimator`; the densities are kept, so that :meth:`plot` draws them again without the estimator.

    Parameters
    ----------
    xx0 : ndarray of shape (resolution, resolution), or (resolution,) for a line
        Values of the first column on the grid, as ``numpy.meshgrid`` gives them.
    xx1 : ndarray of shape (resolution, resolution), or None for a line
        Values of the second.
    log_density : ndarray of the shape of xx0
        The logarithm of the density there, in nats.
    points : ndarray of shape (n_samples, 2), or (n_samples, 1) for a line, default=None
        Samples, for ``scatter=True``.
    xlabel, ylabel : str, default=None
        Labels of the axes; a line has no use for ``ylabel``.
    held : str, default=None
        Values that columns not drawn are held at, in words; None: there are no such columns.

    Attributes
    ----------
    surface_ : QuadContourSet, QuadMesh or None
        The surface; None for a line.
    line_ : Line2D or None
        The line; None for a surface.
    points_ : PathCollection or None
        The samples, if they are drawn.
    ax_ : Axes
        Where it was drawn last.
    figure_ : Figure
        The figure of ``ax_``.

    See Also
    --------
    DensityEvolutionDisplay : How the density of a flow comes about.
    sklearn.inspection.DecisionBoundaryDisplay : The same for predictions of a classifier.

    Examples
    --------
    >>> from sklearn.datasets import make_moons
    >>> from skode import CNFDensityEstimator
    >>> from skode.inspection import DensityDisplay
    >>> X, _ = make_moons(300, noise=0.1, random_state=0)
    >>> cnf = CNFDensityEstimator((16,), max_iter=2, random_state=0).fit(X)
    >>> display = DensityDisplay.from_estimator(cnf, X, grid_resolution=30, scatter=True)
    >>> display.log_density.shape
    (30, 30)
    >>> colorbar = display.figure_.colorbar(display.surface_, label="density")
    """

    surface_: Any
    line_: Any
    points_: Any
    ax_: Any
    figure_: Any

    def __init__(
        self,
        *,
        xx0: np.ndarray,
        xx1: np.ndarray | None,
        log_density: np.ndarray,
        points: np.ndarray | None = None,
        xlabel: str | None = None,
        ylabel: str | None = None,
        held: str | None = None,
    ) -> None:
        self.xx0 = xx0
        self.xx1 = xx1
        self.log_density = log_density
        self.points = points
        self.xlabel = xlabel
        self.ylabel = ylabel
        self.held = held

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        *,
        columns: str | int | Sequence[str | int] | None = None,
        fixed: Mapping[str | int, float] | None = None,
        grid_resolution: int = 100,
        eps: float | None = None,
        log: bool = False,
        plot_method: str = "contourf",
        scatter: bool = False,
        scatter_kw: Mapping[str, Any] | None = None,
        ax: Axes | None = None,
        **kwargs: Any,
    ) -> DensityDisplay:
        """Compute a fitted density on a grid, and draw it.

        Parameters
        ----------
        estimator : object
            A fitted estimator whose ``score_samples`` are log-densities: :class:`skode.CNFDensityEstimator`,
            ``sklearn.mixture.GaussianMixture``, ``sklearn.neighbors.KernelDensity``, ... That of a pipeline is a
            density of its last step's inputs, in their units.
        X : array-like of shape (n_samples, n_features)
            Samples, with the columns of ``fit``. The grid spans their range; the axes have the names of a frame's
            columns.
        columns : str, int or sequence of one or two of them, default=None
            The columns to draw, by name or position. None: all, if there are at most two.
        fixed : mapping of str or int to float, default=None
            Values at which the other columns are held, by name or position; those without one are held at their
            medians in X. The drawing is then a slice through the density, not a marginal density: it does not
            integrate to 1. The title says so, unless the axes have one.
        grid_resolution : int, default=100
            Points of the grid along each column.
        eps : float, default=None
            Extent of the grid beyond the least and the greatest value of X, in X's units. None: a tenth of each
            column's range.
        log : bool, default=False
            Whether to draw the logarithm of the density, in nats; where the density is 0, nothing.
        plot_method : {"contourf", "contour", "pcolormesh"}, default="contourf"
            How to draw a surface.
        scatter : bool, default=False
            Whether to draw X as well: as points, or as ticks under a line. Where other columns are held, all of X is
            drawn, not only what is near the slice.
        scatter_kw : dict, default=None
            Arguments of ``Axes.scatter`` for X.
        ax : Axes, default=None
            Where to draw; None: on a new figure.
        **kwargs : dict
            Further arguments of the plot method, or of ``Axes.plot`` for a line.

        Returns
        -------
        DensityDisplay
            The display, drawn.

        Raises
        ------
        NotFittedError
            Where the estimator has not been fitted.
        TypeError
            Where it has no ``score_samples``.
        ValueError
            Where X has other columns than in ``fit``, or more than two of which none are chosen; where columns are not
            found; where ``grid_resolution``, ``eps``, ``fixed`` or ``plot_method`` is not as described.
        ImportError
            Where matplotlib is missing.
        """
        require_matplotlib(f"{cls.__name__}.from_estimator")
        if not hasattr(estimator, "score_samples"):
            raise TypeError(f"estimator must have score_samples, log-densities; got {estimator!r}.")
        _check_plot_method(plot_method)
        grid = ColumnGrid.over(
            estimator, X, columns=columns, fixed=fixed, resolution=grid_resolution, eps=eps, share=0.1
        )
        log_density = np.asarray(estimator.score_samples(grid.points)).reshape(grid.coordinates[0].shape)
        display = cls(**grid.described(), log_density=log_density, points=grid.shown)
        return display.plot(plot_method, ax, log=log, scatter=scatter, scatter_kw=scatter_kw, **kwargs)

    def plot(
        self,
        plot_method: str = "contourf",
        ax: Axes | None = None,
        *,
        log: bool = False,
        scatter: bool = False,
        scatter_kw: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> DensityDisplay:
        """Draw the density.

        Where columns are held, the title says that this is a slice, unless the axes have one already.

        Parameters
        ----------
        plot_method : {"contourf", "contour", "pcolormesh"}, default="contourf"
            How to draw a surface.
        ax : Axes, default=None
            Where to draw; None: on a new figure.
        log : bool, default=False
            Whether to draw the logarithm of the density, in nats; where the density is 0, nothing.
        scatter : bool, default=False
            Whether to draw ``points`` as well: as points, or as ticks under a line.
        scatter_kw : dict, default=None
            Arguments of ``Axes.scatter`` for them.
        **kwargs : dict
            Further arguments of the plot method, or of ``Axes.plot`` for a line.

        Returns
        -------
        DensityDisplay
            The display.

        Raises
        ------
        ValueError
            Where ``plot_method`` is not as described, or ``scatter=True`` where there are no points.
        ImportError
            Where matplotlib is missing.
        """
        _check_plot_method(plot_method)
        if scatter and self.points is None:
            raise ValueError("scatter=True needs points, and this display was made without.")
        ax = one_axes(ax, f"{type(self).__name__}.plot")
        values = self.log_density if log else np.exp(self.log_density)
        self.surface_ = self.line_ = self.points_ = None
        if self.xx1 is None:
            (self.line_,) = ax.plot(self.xx0, values, **kwargs)
        else:
            self.surface_ = getattr(ax, plot_method)(self.xx0, self.xx1, values, **kwargs)
        if scatter:
            self.points_ = self._scatter(ax, dict(scatter_kw or {}))
        ylabel = self._height(log) if self.xx1 is None else self.ylabel
        if self.xlabel is not None and not ax.get_xlabel():
            ax.set_xlabel(self.xlabel)
        if ylabel is not None and not ax.get_ylabel():
            ax.set_ylabel(ylabel)
        if self.held is not None and not ax.get_title():
            points = "; points: all samples" if scatter else ""
            ax.set_title(f"slice, others at {self.held}{points}", fontsize="small")
        self.ax_, self.figure_ = ax, ax.figure
        return self

    def _height(self, log: bool) -> str:
        """Label of a line's height; the area below a slice is not 1."""
        of = "" if self.held is None else " of the slice"
        return f"log density{of}, nats" if log else f"density{of}"

    def _scatter(self, ax: Axes, style: dict[str, Any]) -> Any:
        assert self.points is not None
        own: dict[str, Any]
        if self.xx1 is not None:
            own = {"s": 5, "facecolor": "white", "edgecolor": "black", "linewidth": 0.3}
            return ax.scatter(*self.points.T, **own | style)
        own = {"marker": "|", "s": 40, "color": "black", "alpha": 0.5, "linewidth": 0.5}
        # At the bottom of the axes, whatever the values of the line.
        below = np.full(len(self.points), 0.02)
        return ax.scatter(self.points[:, 0], below, transform=ax.get_xaxis_transform(), **own | style)


def _check_plot_method(plot_method: str) -> None:
    if plot_method not in PLOT_METHODS:
        raise ValueError(f"plot_method must be one of {PLOT_METHODS}; got {plot_method!r}.")

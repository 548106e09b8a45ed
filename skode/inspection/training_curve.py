"""The course of a fit, epoch by epoch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.utils.validation import check_is_fitted

from skode.inspection._axes import require_matplotlib, several_axes
from skode.inspection._estimators import refusal

#: What each panel's axis says.
LABELS = {
    "loss": "training loss",
    "validation": "validation score",
    "nfe": "evaluations of the vector field\nforward (line), backward (dots)",
}


class TrainingCurveDisplay:
    """Loss, validation score and evaluations of the vector field, epoch by epoch.

    Made by :meth:`from_estimator`. Each curve has a separate panel, since their units differ.

    Parameters
    ----------
    loss_curve : array-like of shape (n_epochs,)
        The training loss.
    validation_scores : array-like of shape (n_epochs,), default=None
        The scores on the data that early stopping held out; higher is better.
    nfe_forward, nfe_backward : array-like of shape (n_epochs,), default=None
        Evaluations of the vector field per solve, and per gradient.
    kept_epoch : int, default=None
        The epoch, counted from 1, whose weights were kept, where that is known.
    name : str, default=None
        The label of the lines, for pictures of several fits.

    Attributes
    ----------
    loss_line_, validation_line_, nfe_forward_line_, nfe_backward_line_ : matplotlib Line2D or None
        The curves; None where a curve is missing or not requested.
    kept_marks_ : list of matplotlib Line2D
        The marks of the epoch whose weights were kept, on the loss and on the validation score.
    axes_ : ndarray of matplotlib Axes
        The panels.
    figure_ : matplotlib Figure
        The figure that holds them.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skode import ODENetClassifier
    >>> from skode.inspection import TrainingCurveDisplay
    >>> X, y = load_iris(return_X_y=True)
    >>> clf = ODENetClassifier(max_iter=20, random_state=0).fit(X, y)
    >>> display = TrainingCurveDisplay.from_estimator(clf, log=True)
    >>> bool((display.loss_line_.get_ydata() == clf.loss_curve_).all())
    True

    Another fit on the same panels; to draw some of them, choose panels and their axes:

    >>> other = ODENetClassifier(max_iter=20, random_state=1).fit(X, y)
    >>> both = TrainingCurveDisplay.from_estimator(other, log=True, axes=display.axes_)
    >>> only_loss = TrainingCurveDisplay.from_estimator(other, panels=["loss"], axes=display.axes_[0])
    """

    def __init__(
        self,
        loss_curve: Any,
        *,
        validation_scores: Any = None,
        nfe_forward: Any = None,
        nfe_backward: Any = None,
        kept_epoch: int | None = None,
        name: str | None = None,
    ) -> None:
        self.loss_curve = loss_curve
        self.validation_scores = validation_scores
        self.nfe_forward = nfe_forward
        self.nfe_backward = nfe_backward
        self.kept_epoch = kept_epoch
        self.name = name

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        *,
        panels: Sequence[str] | None = None,
        log: bool = False,
        name: str | None = None,
        axes: Any = None,
        line_kw: dict[str, Any] | None = None,
    ) -> TrainingCurveDisplay:
        """Draw the curves of a fitted estimator.

        With early stopping the weights of the epoch with the best validation score were kept (of a density and of a
        latent ODE: the running mean of the weights at its end), and it is marked. Without, they are the last ones.

        Parameters
        ----------
        estimator : ODENetClassifier, ODENetRegressor, CNFDensityEstimator or LatentODERegressor
            A fitted estimator; scikit-learn's ``MLPClassifier`` and ``MLPRegressor`` will do as well.
        panels, log, axes, line_kw
            As in :meth:`plot`.
        name : str, default=None
            The label of the lines.

        Returns
        -------
        TrainingCurveDisplay
            The picture.

        Raises
        ------
        NotFittedError
            Where the estimator has not been fitted.
        TypeError
            Where it keeps no curves.
        ValueError
            As :meth:`plot`.
        ImportError
            Where matplotlib is missing.
        """
        require_matplotlib(f"{cls.__name__}.from_estimator")
        check_is_fitted(estimator)
        if not hasattr(estimator, "loss_curve_"):
            raise refusal("estimator must keep its loss_curve_, as skode's do", estimator, with_rows=False)
        scores = getattr(estimator, "validation_scores_", None)
        # Flow matching trains without solves, so that no evaluations are counted.
        counts = [getattr(estimator, name, None) for name in ("nfe_forward_", "nfe_backward_")]
        forward, backward = (curve if curve and any(curve) else None for curve in counts)
        display = cls(
            estimator.loss_curve_,
            validation_scores=scores,
            nfe_forward=forward,
            nfe_backward=backward,
            kept_epoch=_best_epoch(scores),
            name=name,
        )
        return display.plot(axes, panels=panels, log=log, line_kw=line_kw)

    def plot(
        self,
        axes: Any = None,
        *,
        panels: Sequence[str] | None = None,
        log: bool = False,
        line_kw: dict[str, Any] | None = None,
    ) -> TrainingCurveDisplay:
        """Draw the curves.

        Parameters
        ----------
        axes : matplotlib Axes or array-like of them, default=None
            One for each panel, such as ``axes_`` of another display; None: those of a new figure. A model without
            validation scores has no such panel: ``axes=display.axes_[[0, 2]]`` draws it beside one that has.
        panels : sequence of {"loss", "validation", "nfe"}, default=None
            Panels to draw, in this order; None: all curves that the fit recorded.
        log : bool, default=False
            Whether the loss has a logarithmic axis. A loss that is a negative log-density may fall below 0, where
            there is no logarithm.
        line_kw : dict, default=None
            Keyword arguments of the lines, beside the defaults; see :meth:`matplotlib.axes.Axes.plot`.

        Returns
        -------
        TrainingCurveDisplay
            This one.

        Raises
        ------
        ValueError
            Where a panel is not known or its curve is missing, where there are more or fewer axes than panels, or
            ``log=True`` and the loss is not above 0 throughout.
        ImportError
            Where matplotlib is missing.
        """
        panels = self._checked_panels(panels)
        if log and min(self.loss_curve, default=1.0) <= 0:
            raise ValueError(f"log=True needs a loss above 0; it fell to {min(self.loss_curve):.3g}. Leave log=False.")
        n = len(panels)
        self.axes_ = several_axes(axes, n, f"{type(self).__name__}.plot", panels=panels, figsize=(4.0 * n, 3.2))
        self.figure_ = self.axes_[0].figure
        self.loss_line_ = self.validation_line_ = self.nfe_forward_line_ = self.nfe_backward_line_ = None
        self.kept_marks_: list[Any] = []
        from matplotlib.ticker import MaxNLocator

        settings = {"label": self.name, **(line_kw or {})}
        for ax, panel in zip(self.axes_, panels, strict=True):
            if panel == "loss":
                self.loss_line_ = _curve(ax, self.loss_curve, settings)
                self._mark(ax, self.loss_line_)
                if log:
                    ax.set_yscale("log")
            elif panel == "validation":
                self.validation_line_ = _curve(ax, self.validation_scores, settings)
                self._mark(ax, self.validation_line_)
            else:
                self._plot_evaluations(ax, settings)
            ax.set(xlabel="epoch", ylabel=LABELS[panel])
            ax.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
        if self.axes_[0].get_legend_handles_labels()[0]:
            self.axes_[0].legend()
        return self

    def _checked_panels(self, panels: Sequence[str] | None) -> list[str]:
        curves = {"loss": self.loss_curve, "validation": self.validation_scores, "nfe": self.nfe_forward}
        there = [panel for panel, curve in curves.items() if curve is not None]
        if panels is None:
            return there
        if not len(panels) or not set(panels) <= set(there):
            raise ValueError(f"panels must be some of {there}, which are there to be drawn; got {panels!r}.")
        return list(panels)

    def _plot_evaluations(self, ax: Any, settings: dict[str, Any]) -> None:
        self.nfe_forward_line_ = forward = _curve(ax, self.nfe_forward, settings)
        if self.nfe_backward is not None:
            backward = {"label": None, "linestyle": ":", "color": forward.get_color()}
            self.nfe_backward_line_ = _curve(ax, self.nfe_backward, settings | backward)

    def _mark(self, ax: Any, line: Any) -> None:
        """Mark the epoch whose weights were kept on a curve."""
        if self.kept_epoch is None:
            return
        value = line.get_ydata()[self.kept_epoch - 1]
        label = "weights kept" if self.name is None else None
        self.kept_marks_ += ax.plot([self.kept_epoch], [value], "o", color=line.get_color(), label=label)


def _curve(ax: Any, values: Any, settings: dict[str, Any]) -> Any:
    """A line over the epochs, which count from 1."""
    return ax.plot(1 + np.arange(len(values)), values, **settings)[0]


def _best_epoch(scores: Any) -> int | None:
    """The first epoch with the best validation score, counted from 1; None without a score."""
    if scores is None:
        return None
    usable = np.where(np.isfinite(scores), scores, -np.inf)
    return int(np.argmax(usable)) + 1 if np.isfinite(usable).any() else None

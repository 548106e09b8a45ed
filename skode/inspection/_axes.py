"""Axes to draw on, and matplotlib, which only pictures need: it is imported when something is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def require_matplotlib(caller: str) -> None:
    """ImportError that says what to install, where matplotlib is missing."""
    try:
        import matplotlib.pyplot  # noqa: F401
    except ImportError as error:
        raise ImportError(f'{caller} draws with matplotlib, which is missing: pip install "skode[plot]".') from error


def one_axes(ax: Axes | None, caller: str) -> Axes:
    """``ax``, or the axes of a new figure where it is None."""
    require_matplotlib(caller)
    import matplotlib.pyplot as plt
    from matplotlib.axes import Axes

    if ax is None:
        return plt.subplots(layout="constrained")[1]
    if not isinstance(ax, Axes):
        raise TypeError(f"ax must be matplotlib axes or None; got {ax!r}.")
    return ax


def several_axes(axes: Any, n: int, caller: str, *, panels: Sequence[str] | None = None, **figure: Any) -> np.ndarray:
    """``axes`` as a flat array of n, or those of a new figure's row, which ``figure`` describes, where it is None.

    Where the panels have names to be chosen by, ``panels``, the error for more or fewer axes tells them.
    """
    require_matplotlib(caller)
    import matplotlib.pyplot as plt
    from matplotlib.axes import Axes

    if axes is None:
        settings = {"layout": "constrained", "squeeze": False, **figure}
        return plt.subplots(1, n, **settings)[1].ravel()
    given = np.array(axes, dtype=object).ravel()
    for ax in given:
        if not isinstance(ax, Axes):
            raise TypeError(f"axes must be matplotlib axes; got {ax!r} among them.")
    if len(given) != n:
        choice = f" The panels are {list(panels)}: pass as many axes, or choose by panels=." if panels else ""
        raise ValueError(f"axes must be {n}, one for each panel; got {len(given)}.{choice}")
    return given

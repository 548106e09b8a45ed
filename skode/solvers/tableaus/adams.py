"""Linear multistep methods of Adams, as interpolation in the derivatives at past points.

``y(t + theta h) = y + h int_0^theta p(s) ds`` where ``p`` goes through the derivatives at the last steps' starts
(Adams-Bashforth), and also through that at the step's end (Adams-Moulton); see Hairer, Norsett, Wanner I, III.1.
"""

from __future__ import annotations

from dataclasses import dataclass

from skode.solvers.tableaus.explicit import RK4
from skode.solvers.tableaus.interpolants import collocation_polynomial
from skode.solvers.tableaus.tableau import ButcherTableau


@dataclass(frozen=True)
class AdamsMethod:
    """A multistep method of fixed steps, with the one-step method that makes its first values.

    Attributes
    ----------
    name : str
        The name users pass as ``method=``.
    order : int
        Its order.
    formula : ButcherTableau
        The step as a tableau whose stages are the derivatives at ``c = 0, -1, -2, ...`` and, where implicit, at 1.
    starter : ButcherTableau
        Makes the first steps, of at least the same order.
    implicit : bool
        Whether the formula uses the derivative at the step's end.
    source : str
        Where the method was published.
    """

    name: str
    order: int
    formula: ButcherTableau
    starter: ButcherTableau
    implicit: bool
    source: str
    adaptive: bool = False

    @property
    def interpolant_order(self) -> int:
        """The formula is its own interpolant."""
        return self.formula.interpolant_order

    @property
    def n_past(self) -> int:
        """How many derivatives of earlier steps the formula uses."""
        return self.order - 1 - self.implicit


def _adams(name: str, c: tuple[float, ...], source: str) -> AdamsMethod:
    interpolant = collocation_polynomial(c)
    b = tuple(sum(row) for row in interpolant)
    implicit = c[-1] == 1.0
    a = ((0.0,) * len(c),) * (len(c) - 1) + (b if implicit else (0.0,) * len(c),)
    formula = ButcherTableau(
        name=name,
        order=len(c),
        interpolant_order=len(c),
        c=c,
        a=a,
        b=b,
        interpolant=interpolant,
        source=source,
    )
    return AdamsMethod(name, len(c), formula, RK4, implicit, source)


EXPLICIT_ADAMS = _adams(
    "explicit_adams",
    (0.0, -1.0, -2.0, -3.0),
    "F. Bashforth, J. C. Adams, An attempt to test the theories of capillary action, 1883",
)
IMPLICIT_ADAMS = _adams(
    "implicit_adams",
    (0.0, -1.0, -2.0, 1.0),
    "F. R. Moulton, New methods in exterior ballistics, 1926 (after J. C. Adams)",
)

"""Methods with another interpolant than their own, as torchdiffeq's option ``interp`` names them."""

from __future__ import annotations

import functools
from dataclasses import replace

from skode.solvers.tableaus.adams import AdamsMethod
from skode.solvers.tableaus.interpolants import cubic_hermite
from skode.solvers.tableaus.tableau import ButcherTableau, square


@functools.cache
def linear(method: ButcherTableau | AdamsMethod) -> ButcherTableau | AdamsMethod:
    """The method with the straight line between both ends of a step as its interpolant: ``b_i(theta) = theta b_i``."""
    if isinstance(method, AdamsMethod):
        return replace(method, formula=_linear(method.formula), starter=_linear(method.starter))
    return _linear(method)


@functools.cache
def cubic(method: ButcherTableau | AdamsMethod) -> ButcherTableau | AdamsMethod:
    """The method with the cubic Hermite polynomial through states and slopes at both ends of a step as its interpolant.

    The slopes are stages, which are added where the method has none there. The last one is the first of the next step,
    so that an explicit method evaluates the field no more often than before, but for once at the end. Adams' methods,
    whose own polynomials go through more slopes, stay as they are.
    """
    if isinstance(method, AdamsMethod):
        return method
    c, a, b = list(method.c), square(method.a).tolist(), list(method.b)
    if c[0] != 0.0 or any(a[0]):
        c, a, b = [0.0, *c], [[0.0, *row] for row in [[0.0] * len(b), *a]], [0.0, *b]
    if c[-1] != 1.0 or a[-1] != b:
        c, a, b = [*c, 1.0], [[*row, 0.0] for row in [*a, b]], [*b, 0.0]
    return replace(
        method,
        c=tuple(c),
        a=tuple(tuple(row) for row in a),
        b=tuple(b),
        interpolant=cubic_hermite(b),
        interpolant_order=min(method.order, 3),
    )


def _linear(tableau: ButcherTableau) -> ButcherTableau:
    return replace(tableau, interpolant=tuple((weight,) for weight in tableau.b), interpolant_order=1)


INTERPOLATIONS = {"linear": linear, "cubic": cubic}

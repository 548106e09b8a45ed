"""The methods as data: a frozen Butcher tableau for each Runge-Kutta method, a formula for each of Adams' methods."""

from skode.solvers.tableaus.adams import EXPLICIT_ADAMS, IMPLICIT_ADAMS, AdamsMethod
from skode.solvers.tableaus.explicit import EXPLICIT
from skode.solvers.tableaus.implicit import IMPLICIT
from skode.solvers.tableaus.tableau import ButcherTableau

Method = ButcherTableau | AdamsMethod

METHODS: dict[str, Method] = {method.name: method for method in (*EXPLICIT, *IMPLICIT, EXPLICIT_ADAMS, IMPLICIT_ADAMS)}


def get_method(name: str) -> Method:
    """The method of a name; ValueError with the names known where it is not one of them."""
    if not isinstance(name, str) or name not in METHODS:
        raise ValueError(f"method={name!r} is not known; choose one of {sorted(METHODS)}.")
    return METHODS[name]


__all__ = ["METHODS", "AdamsMethod", "ButcherTableau", "Method", "get_method"]

"""The methods as data: a frozen Butcher tableau for each Runge-Kutta method, a formula for each of Adams' methods.

Importing a method here registers it under its ``name``.
"""
# ruff: noqa: F401

from skode.solvers.tableaus.adams import EXPLICIT_ADAMS, IMPLICIT_ADAMS, AdamsMethod
from skode.solvers.tableaus.explicit import (
    ADAPTIVE_HEUN,
    BOSH3,
    DOPRI5,
    DOPRI8,
    EULER,
    FEHLBERG2,
    HEUN2,
    HEUN3,
    MIDPOINT,
    RK4,
    TSIT5,
)
from skode.solvers.tableaus.implicit import (
    GL4,
    GL6,
    IMPLICIT_EULER,
    IMPLICIT_MIDPOINT,
    KVAERNO3,
    KVAERNO5,
    RADAU3,
    RADAU5,
    SDIRK2,
    TRAPEZOID,
    TRBDF2,
)
from skode.solvers.tableaus.tableau import ButcherTableau

Method = ButcherTableau | AdamsMethod

METHODS: dict[str, Method] = {
    imported.name: imported for imported in tuple(globals().values()) if isinstance(imported, Method)
}

#: For each method of ``scipy.integrate.solve_ivp``, one of the same kind.
LIKE_SCIPY = {
    "RK45": "dopri5",
    "RK23": "bosh3",
    "DOP853": "dopri8",
    "Radau": "kvaerno5",
    "BDF": "kvaerno5",
    "LSODA": "kvaerno5",
}


def get_method(name: str) -> Method:
    """The method of a name; raises ValueError with all names where there is none."""
    if not isinstance(name, str) or name not in METHODS:
        counterpart = (
            f" SciPy's {name} is nearest to {LIKE_SCIPY[name]!r}."
            if isinstance(name, str) and name in LIKE_SCIPY
            else ""
        )
        raise ValueError(f"method={name!r} is not known; choose one of {sorted(METHODS)}.{counterpart}")
    return METHODS[name]


__all__ = ["METHODS", "AdamsMethod", "ButcherTableau", "Method", "get_method"]

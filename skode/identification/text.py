"""Polynomial fields in the user's units, as numbers and as text."""

from __future__ import annotations

import numpy as np
import pandas as pd

from skode.identification.fields import PolynomialField
from skode.identification.system import FieldSystem


def term_names(powers: np.ndarray, names: list[str]) -> list[str]:
    """Monomials as text: ``"1"``, ``"x"``, ``"x^2 y"``."""
    texts = []
    for exponents in powers:
        parts = [name if e == 1 else f"{name}^{e}" for name, e in zip(names, exponents, strict=True) if e]
        texts.append(" ".join(parts) or "1")
    return texts


def coefficient_units(system: FieldSystem) -> np.ndarray:
    """Coefficients in the user's units per weight, of shape (n_terms, n_outputs)."""
    field, units = system.field, system.units
    assert isinstance(field, PolynomialField)
    scale = np.concatenate([units.scale, units.input_scale])
    of_terms = np.prod(scale[None] ** -field.powers.astype(float), axis=1)
    return of_terms[:, None] * units.scale[-system.n_outputs :] / units.unit


def coefficients(system: FieldSystem, weights: np.ndarray) -> pd.DataFrame:
    """Coefficients of a polynomial field in the user's units: a row for each monomial, a column for each derivative."""
    field = system.field
    assert isinstance(field, PolynomialField)
    values = weights.reshape(len(field.powers), system.n_outputs) * coefficient_units(system)
    return pd.DataFrame(values, index=term_names(field.powers, point_names(system)), columns=left_sides(system))


def point_names(system: FieldSystem) -> list[str]:
    """Names of the states and inputs that the field depends on, in brackets where they could be taken for others."""
    return [name if name.isidentifier() else f"[{name}]" for name in (*system.states, *system.input_names)]


def left_sides(system: FieldSystem) -> list[str]:
    """Names of the derivatives that the field gives."""
    names = system.states[: system.n_outputs]
    return [f"d{name}/dt" for name in names] if system.order == 1 else [f"d2{name}/dt2" for name in names]


def equations(system: FieldSystem, weights: np.ndarray, digits: int) -> list[str]:
    """The equations as text, without the terms whose weight is 0."""
    table = coefficients(system, weights)
    texts = []
    for name, column in table.items():
        parts: list[str] = []
        for term, value in column.items():
            if value == 0.0:
                continue
            size = f"{abs(value):.{digits}g}" + ("" if term == "1" else f" {term}")
            parts.append((("- " if value < 0 else "+ ") if parts else ("-" if value < 0 else "")) + size)
        if system.rhs is not None:
            parts.append("+ known(t, y, p)" if parts else "known(t, y, p)")
        texts.append(f"{name} = {' '.join(parts) or '0'}")
    return texts

"""A Runge-Kutta method as data: its Butcher tableau, with an interpolant and an error estimate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

Row = tuple[float, ...]


def square(a: Sequence[Row]) -> np.ndarray:
    """The weights of the stages as a matrix of shape (s, s), whose rows may be given without their closing zeros."""
    return np.array([row + (0.0,) * (len(a) - len(row)) for row in a])


@dataclass(frozen=True)
class ButcherTableau:
    """A Runge-Kutta method, explicit or implicit.

    A method with stages ``k_i = f(t + c_i h, y + h sum_j a_ij k_j)`` advances ``y1 = y + h sum_i b_i k_i``, estimates
    its local error by ``h sum_i e_i k_i``, and reads the solution inside the step off the polynomial
    ``y(theta) = y + h sum_i b_i(theta) k_i`` with ``b_i(theta) = sum_p P_ip theta^p``, ``0 <= theta <= 1``, ``p >= 1``.

    Parameters
    ----------
    name : str
        The name users pass as ``method=``.
    order : int
        The order of the solution that is carried on.
    c : tuple of float, of length s
        Stage times in units of the step.
    a : tuple of s tuples
        Row i holds the i weights of the earlier stages; in an implicit method, the s weights of all stages.
    b : tuple of float, of length s
        Weights of the solution.
    interpolant : tuple of s tuples
        Row i holds the coefficients of ``theta, theta^2, ...`` in ``b_i(theta)``; ``b_i(1) = b_i``.
    interpolant_order : int
        The highest order whose conditions the interpolant meets inside the step.
    source : str
        Where the method was published.
    e : tuple of float of length s, or None
        Weights of the local error estimate (solution minus embedded solution); None for a fixed-step method.
    error_order : int
        The order of the embedded solution, which sets the exponent of the step-size controller.

    Attributes
    ----------
    n_stages : int
        s.
    implicit : bool
        Whether a stage depends on itself or on a later one.
    diagonal : bool
        Whether the method is implicit and no stage depends on a later one, so that they are solved one after another.
    fsal : bool
        Whether the last stage of a step, evaluated at the new state, is the first stage of the next step.
    """

    name: str
    order: int
    c: Row
    a: tuple[Row, ...]
    b: Row
    interpolant: tuple[Row, ...]
    interpolant_order: int
    source: str
    e: Row | None = None
    error_order: int = 0
    n_stages: int = field(init=False)
    implicit: bool = field(init=False)
    diagonal: bool = field(init=False)
    fsal: bool = field(init=False)

    def __post_init__(self) -> None:
        s = len(self.c)
        a = square(self.a)
        explicit_at_start = self.c[0] == 0.0 and not a[0].any()
        evaluated_at_end = self.c[-1] == 1.0 and bool((a[-1] == self.b).all())
        implicit = bool(np.triu(a).any())
        object.__setattr__(self, "n_stages", s)
        object.__setattr__(self, "implicit", implicit)
        object.__setattr__(self, "diagonal", implicit and not np.triu(a, 1).any())
        object.__setattr__(self, "fsal", explicit_at_start and evaluated_at_end)

    @property
    def adaptive(self) -> bool:
        """Whether the method estimates its error and so can choose its steps."""
        return self.e is not None

    def interpolation_weights(self, theta: np.ndarray) -> np.ndarray:
        """Weights ``b_i(theta)`` of the stages inside a step.

        Parameters
        ----------
        theta : ndarray of shape (m,)
            Positions inside the step, 0 at its start and 1 at its end.

        Returns
        -------
        ndarray of shape (m, s)
            Exactly zero at ``theta = 0`` and exactly ``b`` at ``theta = 1``.
        """
        coefficients = np.asarray(self.interpolant)
        powers = np.empty((coefficients.shape[1], len(theta)))
        powers[0] = theta
        for lower, higher in pairwise(powers):  # in a third of the time of **
            np.multiply(lower, theta, out=higher)
        weights = (coefficients @ powers).T
        weights[theta == 1.0] = self.b
        return weights

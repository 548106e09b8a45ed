"""Runge-Kutta methods as data: one frozen Butcher tableau per method.

A method with stages ``k_i = f(t + c_i h, y + h sum_j a_ij k_j)`` advances ``y1 = y + h sum_i b_i k_i``, estimates
its local error by ``h sum_i e_i k_i``, and reads the solution inside the step off the polynomial
``y(theta) = y + h sum_i b_i(theta) k_i`` with ``b_i(theta) = sum_p P_ip theta^(p+1)``, ``0 <= theta <= 1``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import reduce

import numpy as np

Row = tuple[float, ...]


@dataclass(frozen=True)
class ButcherTableau:
    """An explicit Runge-Kutta method.

    Parameters
    ----------
    name : str
        The name users pass as ``method=``.
    order : int
        The order of the solution that is carried on.
    c : tuple of float, of length s
        Stage times in units of the step.
    a : tuple of s tuples
        Row i holds the i weights of the earlier stages.
    b : tuple of float, of length s
        Weights of the solution.
    interpolant : tuple of s tuples
        Row i holds the coefficients of ``theta, theta^2, ...`` in ``b_i(theta)``; ``b_i(1) = b_i``.
    e : tuple of float of length s, or None
        Weights of the local error estimate (solution minus embedded solution); None for a fixed-step method.
    error_order : int
        The order of the embedded solution, which sets the exponent of the step-size controller.
    source : str
        Where the method was published.
    """

    name: str
    order: int
    c: Row
    a: tuple[Row, ...]
    b: Row
    interpolant: tuple[Row, ...]
    source: str
    e: Row | None = None
    error_order: int = 0
    n_stages: int = field(init=False)
    first_same_as_last: bool = field(init=False)

    def __post_init__(self) -> None:
        s = len(self.c)
        object.__setattr__(self, "n_stages", s)
        same = self.c[-1] == 1.0 and self.b[-1] == 0.0 and self.a[-1] == self.b[:-1]
        object.__setattr__(self, "first_same_as_last", same)

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
        powers = theta[:, None] ** np.arange(1, coefficients.shape[1] + 1)
        weights = powers @ coefficients.T
        weights[theta == 1.0] = self.b
        return weights

    def interpolation_weight_slopes(self, theta: np.ndarray) -> np.ndarray:
        """Slopes ``b_i'(theta)`` of the weights, of shape (m, s)."""
        coefficients = np.asarray(self.interpolant)
        p = np.arange(coefficients.shape[1])
        return (theta[:, None] ** p * (p + 1)) @ coefficients.T


def _product(scale: float, *factors: Sequence[float]) -> Row:
    """Coefficients of ``theta, theta^2, ...`` of a product of polynomials (each lowest power first)."""
    coefficients = reduce(np.polynomial.polynomial.polymul, factors, np.array([scale]))
    return tuple(float(x) for x in coefficients[1:])


EULER = ButcherTableau(
    name="euler",
    order=1,
    c=(0.0,),
    a=((),),
    b=(1.0,),
    interpolant=((1.0,),),
    source="L. Euler, Institutionum calculi integralis, 1768",
)

MIDPOINT = ButcherTableau(
    name="midpoint",
    order=2,
    c=(0.0, 1 / 2),
    a=((), (1 / 2,)),
    b=(0.0, 1.0),
    interpolant=((1.0, -1.0), (0.0, 1.0)),
    source="C. Runge, Math. Ann. 46, 1895; the interpolant solves the order conditions to order 2",
)

# The interpolant of third order is the only one of degree 3 on these four stages; it solves sum b = theta,
# sum b c = theta^2/2, sum b c^2 = theta^3/3, sum b a c = theta^3/6 (Hairer, Norsett, Wanner I, II.6).
RK4 = ButcherTableau(
    name="rk4",
    order=4,
    c=(0.0, 1 / 3, 2 / 3, 1.0),
    a=((), (1 / 3,), (-1 / 3, 1.0), (1.0, -1.0, 1.0)),
    b=(1 / 8, 3 / 8, 3 / 8, 1 / 8),
    interpolant=((1.0, -15 / 8, 1.0), (0.0, 15 / 8, -3 / 2), (0.0, 3 / 8, 0.0), (0.0, -3 / 8, 1 / 2)),
    source="W. Kutta, Z. Math. Phys. 46, 1901 (the 3/8 rule)",
)

BOSH3 = ButcherTableau(
    name="bosh3",
    order=3,
    error_order=2,
    c=(0.0, 1 / 2, 3 / 4, 1.0),
    a=((), (1 / 2,), (0.0, 3 / 4), (2 / 9, 1 / 3, 4 / 9)),
    b=(2 / 9, 1 / 3, 4 / 9, 0.0),
    e=(-5 / 72, 1 / 12, 1 / 9, -1 / 8),
    interpolant=((1.0, -4 / 3, 5 / 9), (0.0, 1.0, -2 / 3), (0.0, 4 / 3, -8 / 9), (0.0, -1.0, 1.0)),
    source="P. Bogacki, L. F. Shampine, Appl. Math. Lett. 2(4), 1989; cubic Hermite interpolant",
)

DOPRI5 = ButcherTableau(
    name="dopri5",
    order=5,
    error_order=4,
    c=(0.0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0),
    a=(
        (),
        (1 / 5,),
        (3 / 40, 9 / 40),
        (44 / 45, -56 / 15, 32 / 9),
        (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
        (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
        (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
    ),
    b=(35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84, 0.0),
    e=(71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40),
    interpolant=(
        (1.0, -8048581381 / 2820520608, 8663915743 / 2820520608, -12715105075 / 11282082432),
        (0.0, 0.0, 0.0, 0.0),
        (0.0, 131558114200 / 32700410799, -68118460800 / 10900136933, 87487479700 / 32700410799),
        (0.0, -1754552775 / 470086768, 14199869525 / 1410260304, -10690763975 / 1880347072),
        (0.0, 127303824393 / 49829197408, -318862633887 / 49829197408, 701980252875 / 199316789632),
        (0.0, -282668133 / 205662961, 2019193451 / 616988883, -1453857185 / 822651844),
        (0.0, 40617522 / 29380423, -110615467 / 29380423, 69997945 / 29380423),
    ),
    source="J. R. Dormand, P. J. Prince, J. Comput. Appl. Math. 6(1), 1980; "
    "interpolant: L. F. Shampine, Math. Comp. 46, 1986",
)

_TSIT5_B = (
    0.09646076681806523,
    0.01,
    0.4798896504144996,
    1.379008574103742,
    -3.290069515436081,
    2.324710524099774,
)

TSIT5 = ButcherTableau(
    name="tsit5",
    order=5,
    error_order=4,
    c=(0.0, 0.161, 0.327, 0.9, 0.9800255409045097, 1.0, 1.0),
    a=(
        (),
        (0.161,),
        (-0.008480655492356989, 0.335480655492357),
        (2.8971530571054935, -6.359448489975075, 4.3622954328695815),
        (5.325864828439257, -11.748883564062828, 7.4955393428898365, -0.09249506636175525),
        (
            5.86145544294642,
            -12.92096931784711,
            8.159367898576159,
            -0.071584973281401,
            -0.028269050394068383,
        ),
        _TSIT5_B,
    ),
    b=(*_TSIT5_B, 0.0),
    e=(
        -0.00178001105222577714,
        -0.0008164344596567469,
        0.007880878010261995,
        -0.1447110071732629,
        0.5823571654525552,
        -0.45808210592918697,
        1 / 66,
    ),
    interpolant=(
        _product(
            -1.0530884977290216,
            (0.0, 1.0),
            (-1.3299890189751412, 1.0),
            (0.7139816917074209, -1.4364028541716351, 1.0),
        ),
        _product(0.1017, (0.0, 0.0, 1.0), (1.2949852507374631, -2.1966568338249754, 1.0)),
        _product(2.490627285651252793, (0.0, 0.0, 1.0), (1.57803468208092486, -2.38535645472061657, 1.0)),
        _product(-16.54810288924490272, (0.0, 0.0, 1.0), (-1.21712927295533244, 1.0), (-0.61620406037800089, 1.0)),
        _product(47.37952196281928122, (0.0, 0.0, 1.0), (-1.203071208372362603, 1.0), (-0.658047292653547382, 1.0)),
        _product(-34.87065786149660974, (0.0, 0.0, 1.0), (-1.2, 1.0), (-2 / 3, 1.0)),
        _product(2.5, (0.0, 0.0, 1.0), (-1.0, 1.0), (-0.6, 1.0)),
    ),
    source="Ch. Tsitouras, Comput. Math. Appl. 62(2), 2011",
)

METHODS: dict[str, ButcherTableau] = {tableau.name: tableau for tableau in (EULER, MIDPOINT, RK4, BOSH3, TSIT5, DOPRI5)}


def get_tableau(method: str) -> ButcherTableau:
    """The tableau of a method's name; ValueError with the names known where it is not one of them."""
    if not isinstance(method, str) or method not in METHODS:
        raise ValueError(f"method={method!r} is not known; choose one of {sorted(METHODS)}.")
    return METHODS[method]

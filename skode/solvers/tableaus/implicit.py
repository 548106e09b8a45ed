"""Implicit Runge-Kutta methods, for stiff problems and for long times.

The interpolants of the collocation methods (implicit Euler and midpoint, Gauss, Radau) are their collocation
polynomials, of order s inside the step; s stages allow no more there.
"""

from __future__ import annotations

from math import sqrt

from skode.solvers.tableaus.interpolants import collocation_polynomial, continuous_extension, cubic_hermite
from skode.solvers.tableaus.tableau import ButcherTableau, Row

IMPLICIT_EULER = ButcherTableau(
    name="implicit_euler",
    order=1,
    interpolant_order=1,
    c=(1.0,),
    a=((1.0,),),
    b=(1.0,),
    interpolant=collocation_polynomial((1.0,)),
    source="E. Hairer, G. Wanner, Solving Ordinary Differential Equations II, 1996, IV.3",
)

IMPLICIT_MIDPOINT = ButcherTableau(
    name="implicit_midpoint",
    order=2,
    interpolant_order=1,
    c=(1 / 2,),
    a=((1 / 2,),),
    b=(1.0,),
    interpolant=collocation_polynomial((1 / 2,)),
    source="J. C. Butcher, Math. Comp. 18, 1964 (Gauss methods, s = 1)",
)

_TRAPEZOID_B = (1 / 2, 1 / 2)

TRAPEZOID = ButcherTableau(
    name="trapezoid",
    order=2,
    interpolant_order=2,
    c=(0.0, 1.0),
    a=((0.0, 0.0), _TRAPEZOID_B),
    b=_TRAPEZOID_B,
    interpolant=cubic_hermite(_TRAPEZOID_B),
    source="J. Crank, P. Nicolson, Math. Proc. Camb. Philos. Soc. 43, 1947; cubic Hermite interpolant, here a parabola",
)

_GL4_C = (1 / 2 - sqrt(3) / 6, 1 / 2 + sqrt(3) / 6)

GL4 = ButcherTableau(
    name="gl4",
    order=4,
    interpolant_order=2,
    c=_GL4_C,
    a=(
        (1 / 4, 1 / 4 - sqrt(3) / 6),
        (1 / 4 + sqrt(3) / 6, 1 / 4),
    ),
    b=(1 / 2, 1 / 2),
    interpolant=collocation_polynomial(_GL4_C),
    source="J. C. Butcher, Math. Comp. 18, 1964 (Gauss methods, s = 2)",
)

_GL6_C = (1 / 2 - sqrt(15) / 10, 1 / 2, 1 / 2 + sqrt(15) / 10)

GL6 = ButcherTableau(
    name="gl6",
    order=6,
    interpolant_order=3,
    c=_GL6_C,
    a=(
        (5 / 36, 2 / 9 - sqrt(15) / 15, 5 / 36 - sqrt(15) / 30),
        (5 / 36 + sqrt(15) / 24, 2 / 9, 5 / 36 - sqrt(15) / 24),
        (5 / 36 + sqrt(15) / 30, 2 / 9 + sqrt(15) / 15, 5 / 36),
    ),
    b=(5 / 18, 4 / 9, 5 / 18),
    interpolant=collocation_polynomial(_GL6_C),
    source="J. C. Butcher, Math. Comp. 18, 1964 (Gauss methods, s = 3)",
)

_RADAU3_C = (1 / 3, 1.0)
_RADAU3_B = (3 / 4, 1 / 4)

RADAU3 = ButcherTableau(
    name="radauIIA3",
    order=3,
    interpolant_order=2,
    c=_RADAU3_C,
    a=((5 / 12, -1 / 12), _RADAU3_B),
    b=_RADAU3_B,
    interpolant=collocation_polynomial(_RADAU3_C),
    source="B. L. Ehle, Ph.D. thesis, University of Waterloo, 1969 (Radau IIA, s = 2)",
)

_RADAU5_C = ((4 - sqrt(6)) / 10, (4 + sqrt(6)) / 10, 1.0)
_RADAU5_B = ((16 - sqrt(6)) / 36, (16 + sqrt(6)) / 36, 1 / 9)

RADAU5 = ButcherTableau(
    name="radauIIA5",
    order=5,
    interpolant_order=3,
    c=_RADAU5_C,
    a=(
        ((88 - 7 * sqrt(6)) / 360, (296 - 169 * sqrt(6)) / 1800, (-2 + 3 * sqrt(6)) / 225),
        ((296 + 169 * sqrt(6)) / 1800, (88 + 7 * sqrt(6)) / 360, (-2 - 3 * sqrt(6)) / 225),
        _RADAU5_B,
    ),
    b=_RADAU5_B,
    interpolant=collocation_polynomial(_RADAU5_C),
    source="B. L. Ehle, Ph.D. thesis, University of Waterloo, 1969 (Radau IIA, s = 3)",
)

_SDIRK2_GAMMA = 1 - sqrt(2) / 2
_SDIRK2_B = (1 - _SDIRK2_GAMMA, _SDIRK2_GAMMA)
_SDIRK2_A: tuple[Row, ...] = ((_SDIRK2_GAMMA, 0.0), _SDIRK2_B)

# The interpolant is the only one of order 2.
SDIRK2 = ButcherTableau(
    name="sdirk2",
    order=2,
    interpolant_order=2,
    c=(_SDIRK2_GAMMA, 1.0),
    a=_SDIRK2_A,
    b=_SDIRK2_B,
    interpolant=continuous_extension(_SDIRK2_A, _SDIRK2_B, order=2, degree=2),
    source="R. Alexander, SIAM J. Numerical Analysis 14, 1977",
)

_TRBDF2_GAMMA = 1 - sqrt(2) / 2
_TRBDF2_B = (sqrt(2) / 4, sqrt(2) / 4, _TRBDF2_GAMMA)

TRBDF2 = ButcherTableau(
    name="trbdf2",
    order=2,
    interpolant_order=2,
    c=(0.0, 2 * _TRBDF2_GAMMA, 1.0),
    a=((0.0, 0.0, 0.0), (_TRBDF2_GAMMA, _TRBDF2_GAMMA, 0.0), _TRBDF2_B),
    b=_TRBDF2_B,
    interpolant=cubic_hermite(_TRBDF2_B),
    source="R. E. Bank, W. M. Coughran, W. Fichtner, E. H. Grosse, D. J. Rose, R. K. Smith, IEEE Trans. Electron "
    "Devices 32, 1985; as an ESDIRK method: M. E. Hosea, L. F. Shampine, Applied Numerical Mathematics 20, 1996; "
    "cubic Hermite interpolant",
)


def _difference(b: Row, embedded: Row) -> Row:
    return tuple(x - y for x, y in zip(b, embedded, strict=True))


# The root of gamma^3 - 3 gamma^2 + 3/2 gamma - 1/6 that lies between 1/6 and 1/2: order 3 and L-stability.
_KVAERNO3_GAMMA = 0.43586652150845899942
_KVAERNO3_EMBEDDED_B = (
    (-4 * _KVAERNO3_GAMMA**2 + 6 * _KVAERNO3_GAMMA - 1) / (4 * _KVAERNO3_GAMMA),
    (1 - 2 * _KVAERNO3_GAMMA) / (4 * _KVAERNO3_GAMMA),
    _KVAERNO3_GAMMA,
    0.0,
)
_KVAERNO3_B = (
    (6 * _KVAERNO3_GAMMA - 1) / (12 * _KVAERNO3_GAMMA),
    1 / (12 * _KVAERNO3_GAMMA * (1 - 2 * _KVAERNO3_GAMMA)),
    (1 - 6 * _KVAERNO3_GAMMA + 6 * _KVAERNO3_GAMMA**2) / (3 - 6 * _KVAERNO3_GAMMA),
    _KVAERNO3_GAMMA,
)

KVAERNO3 = ButcherTableau(
    name="kvaerno3",
    order=3,
    error_order=2,
    interpolant_order=3,
    c=(0.0, 2 * _KVAERNO3_GAMMA, 1.0, 1.0),
    a=(
        (0.0, 0.0, 0.0, 0.0),
        (_KVAERNO3_GAMMA, _KVAERNO3_GAMMA, 0.0, 0.0),
        _KVAERNO3_EMBEDDED_B,
        _KVAERNO3_B,
    ),
    b=_KVAERNO3_B,
    e=_difference(_KVAERNO3_B, _KVAERNO3_EMBEDDED_B),
    interpolant=cubic_hermite(_KVAERNO3_B),
    source="A. Kvaerno, BIT 44, 2004 (ESDIRK 3/2); cubic Hermite interpolant",
)

_KVAERNO5_GAMMA = 0.26
_KVAERNO5_EMBEDDED_B = (
    0.13855640231268224,
    0.0,
    -0.04245337201752043,
    0.02446657898003141,
    0.61943039072480676,
    _KVAERNO5_GAMMA,
    0.0,
)
_KVAERNO5_B = (
    0.13659751177640291,
    0.0,
    -0.05496908796538376,
    -0.04118626728321046,
    0.62993304899016403,
    0.06962479448202728,
    _KVAERNO5_GAMMA,
)
_KVAERNO5_A: tuple[Row, ...] = (
    (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0),
    (_KVAERNO5_GAMMA, _KVAERNO5_GAMMA, 0.0, 0.0, 0.0, 0.0, 0.0),
    (0.13, 0.84033320996790809, _KVAERNO5_GAMMA, 0.0, 0.0, 0.0, 0.0),
    (0.22371961478320505, 0.47675532319799699, -0.06470895363112615, _KVAERNO5_GAMMA, 0.0, 0.0, 0.0),
    (0.16648564323248321, 0.10450018841591720, 0.03631482272098715, -0.13090704451073998, _KVAERNO5_GAMMA, 0.0, 0.0),
    _KVAERNO5_EMBEDDED_B,
    _KVAERNO5_B,
)

# The third stage lies beyond the end of the step. The interpolant has order 4: no polynomial on these stages has
# order 5, and the quartic misses its conditions as little as polynomials of higher degree do.
KVAERNO5 = ButcherTableau(
    name="kvaerno5",
    order=5,
    error_order=4,
    interpolant_order=4,
    c=(0.0, 0.52, 1.23033320996790809, 0.89576598435007589, 0.43639360985864758, 1.0, 1.0),
    a=_KVAERNO5_A,
    b=_KVAERNO5_B,
    e=_difference(_KVAERNO5_B, _KVAERNO5_EMBEDDED_B),
    interpolant=continuous_extension(_KVAERNO5_A, _KVAERNO5_B, order=4, degree=4),
    source="A. Kvaerno, BIT 44, 2004 (ESDIRK 5/4)",
)

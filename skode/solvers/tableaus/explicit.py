"""Explicit Runge-Kutta methods."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import numpy as np

from skode.solvers.tableaus.interpolants import continuous_extension, cubic_hermite
from skode.solvers.tableaus.tableau import ButcherTableau, Row


def _product(scale: float, *factors: Sequence[float]) -> Row:
    """Coefficients of ``theta, theta^2, ...`` of a product of polynomials (each lowest power first)."""
    coefficients = reduce(np.polynomial.polynomial.polymul, factors, np.array([scale]))
    return tuple(float(x) for x in coefficients[1:])


EULER = ButcherTableau(
    name="euler",
    order=1,
    interpolant_order=1,
    c=(0.0,),
    a=((),),
    b=(1.0,),
    interpolant=((1.0,),),
    source="L. Euler, Institutionum calculi integralis, 1768",
)

MIDPOINT = ButcherTableau(
    name="midpoint",
    order=2,
    interpolant_order=2,
    c=(0.0, 1 / 2),
    a=((), (1 / 2,)),
    b=(0.0, 1.0),
    interpolant=((1.0, -1.0), (0.0, 1.0)),
    source="C. Runge, Math. Ann. 46, 1895; the interpolant solves the order conditions to order 2",
)

_HEUN2_A: tuple[Row, ...] = ((), (1.0,))
_HEUN2_B = (1 / 2, 1 / 2)
# Of order 2, the only one of degree 2.
_HEUN2_INTERPOLANT = continuous_extension(_HEUN2_A, _HEUN2_B, order=2, degree=2)

HEUN2 = ButcherTableau(
    name="heun2",
    order=2,
    interpolant_order=2,
    c=(0.0, 1.0),
    a=_HEUN2_A,
    b=_HEUN2_B,
    interpolant=_HEUN2_INTERPOLANT,
    source="K. Heun, Z. Math. Phys. 45, 1900",
)

ADAPTIVE_HEUN = ButcherTableau(
    name="adaptive_heun",
    order=2,
    error_order=1,
    interpolant_order=2,
    c=(0.0, 1.0),
    a=_HEUN2_A,
    b=_HEUN2_B,
    e=(-1 / 2, 1 / 2),
    interpolant=_HEUN2_INTERPOLANT,
    source="K. Heun, Z. Math. Phys. 45, 1900, with Euler's method embedded",
)

_HEUN3_A: tuple[Row, ...] = ((), (1 / 3,), (0.0, 2 / 3))
_HEUN3_B = (1 / 4, 0.0, 3 / 4)

# The interpolant has order 2, as no polynomial on these three stages has order 3.
HEUN3 = ButcherTableau(
    name="heun3",
    order=3,
    interpolant_order=2,
    c=(0.0, 1 / 3, 2 / 3),
    a=_HEUN3_A,
    b=_HEUN3_B,
    interpolant=continuous_extension(_HEUN3_A, _HEUN3_B, order=2, degree=3),
    source="K. Heun, Z. Math. Phys. 45, 1900",
)

_FEHLBERG2_A: tuple[Row, ...] = ((), (1 / 2,), (1 / 256, 255 / 256))
_FEHLBERG2_B = (1 / 512, 255 / 256, 1 / 512)

# Fehlberg carries on the solution of order 1, whose weights are the last row of a, and then the last stage is the next
# step's first. Here as in torchdiffeq the solution of order 2 is carried on, and the first stage is evaluated anew.
# The interpolant is the only one of order 2 and degree 2 that leaves along the first stage.
FEHLBERG2 = ButcherTableau(
    name="fehlberg2",
    order=2,
    error_order=1,
    interpolant_order=2,
    c=(0.0, 1 / 2, 1.0),
    a=_FEHLBERG2_A,
    b=_FEHLBERG2_B,
    e=(-1 / 512, 0.0, 1 / 512),
    interpolant=continuous_extension(_FEHLBERG2_A, _FEHLBERG2_B, order=2, degree=2),
    source="E. Fehlberg, NASA Technical Report R-315, 1969, RK1(2)",
)

# The interpolant of third order is the only one of degree 3 on these four stages; it solves sum b = theta,
# sum b c = theta^2/2, sum b c^2 = theta^3/3, sum b a c = theta^3/6 (Hairer, Norsett, Wanner I, II.6).
RK4 = ButcherTableau(
    name="rk4",
    order=4,
    interpolant_order=3,
    c=(0.0, 1 / 3, 2 / 3, 1.0),
    a=((), (1 / 3,), (-1 / 3, 1.0), (1.0, -1.0, 1.0)),
    b=(1 / 8, 3 / 8, 3 / 8, 1 / 8),
    interpolant=((1.0, -15 / 8, 1.0), (0.0, 15 / 8, -3 / 2), (0.0, 3 / 8, 0.0), (0.0, -3 / 8, 1 / 2)),
    source="W. Kutta, Z. Math. Phys. 46, 1901 (the 3/8 rule)",
)

_BOSH3_B = (2 / 9, 1 / 3, 4 / 9, 0.0)

BOSH3 = ButcherTableau(
    name="bosh3",
    order=3,
    error_order=2,
    interpolant_order=3,
    c=(0.0, 1 / 2, 3 / 4, 1.0),
    a=((), (1 / 2,), (0.0, 3 / 4), _BOSH3_B[:-1]),
    b=_BOSH3_B,
    e=(-5 / 72, 1 / 12, 1 / 9, -1 / 8),
    interpolant=cubic_hermite(_BOSH3_B),
    source="P. Bogacki, L. F. Shampine, Appl. Math. Lett. 2(4), 1989; cubic Hermite interpolant",
)

DOPRI5 = ButcherTableau(
    name="dopri5",
    order=5,
    error_order=4,
    interpolant_order=4,
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
    interpolant_order=4,
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

_DOPRI8_B = (
    14005451 / 335480064,
    0.0,
    0.0,
    0.0,
    0.0,
    -59238493 / 1068277825,
    181606767 / 758867731,
    561292985 / 797845732,
    -1041891430 / 1371343529,
    760417239 / 1151165299,
    118820643 / 751138087,
    -528747749 / 2220607170,
    1 / 4,
)

_DOPRI8_EMBEDDED_B = (
    13451932 / 455176623,
    0.0,
    0.0,
    0.0,
    0.0,
    -808719846 / 976000145,
    1757004468 / 5645159321,
    656045339 / 265891186,
    -3867574721 / 1518517206,
    465885868 / 322736535,
    53011238 / 667516719,
    2 / 45,
    0.0,
)

_DOPRI8_A: tuple[Row, ...] = (
    (),
    (1 / 18,),
    (1 / 48, 1 / 16),
    (1 / 32, 0.0, 3 / 32),
    (5 / 16, 0.0, -75 / 64, 75 / 64),
    (3 / 80, 0.0, 0.0, 3 / 16, 3 / 20),
    (
        29443841 / 614563906,
        0.0,
        0.0,
        77736538 / 692538347,
        -28693883 / 1125000000,
        23124283 / 1800000000,
    ),
    (
        16016141 / 946692911,
        0.0,
        0.0,
        61564180 / 158732637,
        22789713 / 633445777,
        545815736 / 2771057229,
        -180193667 / 1043307555,
    ),
    (
        39632708 / 573591083,
        0.0,
        0.0,
        -433636366 / 683701615,
        -421739975 / 2616292301,
        100302831 / 723423059,
        790204164 / 839813087,
        800635310 / 3783071287,
    ),
    (
        246121993 / 1340847787,
        0.0,
        0.0,
        -37695042795 / 15268766246,
        -309121744 / 1061227803,
        -12992083 / 490766935,
        6005943493 / 2108947869,
        393006217 / 1396673457,
        123872331 / 1001029789,
    ),
    (
        -1028468189 / 846180014,
        0.0,
        0.0,
        8478235783 / 508512852,
        1311729495 / 1432422823,
        -10304129995 / 1701304382,
        -48777925059 / 3047939560,
        15336726248 / 1032824649,
        -45442868181 / 3398467696,
        3065993473 / 597172653,
    ),
    (
        185892177 / 718116043,
        0.0,
        0.0,
        -3185094517 / 667107341,
        -477755414 / 1098053517,
        -703635378 / 230739211,
        5731566787 / 1027545527,
        5232866602 / 850066563,
        -4093664535 / 808688257,
        3962137247 / 1805957418,
        65686358 / 487910083,
    ),
    (
        403863854 / 491063109,
        0.0,
        0.0,
        -5068492393 / 434740067,
        -411421997 / 543043805,
        652783627 / 914296604,
        11173962825 / 925320556,
        -13158990841 / 6184727034,
        3936647629 / 1978049680,
        -160528059 / 685178525,
        248638103 / 1413531060,
        0.0,
    ),
    _DOPRI8_B,
)

# To the thirteen stages of the publication comes the first of the next step. On all of them there is an interpolant
# of order 5 and none of order 6, whatever its degree; the one of degree 6 misses the conditions of order 6 by little.
DOPRI8 = ButcherTableau(
    name="dopri8",
    order=8,
    error_order=7,
    interpolant_order=5,
    c=(
        0.0,
        1 / 18,
        1 / 12,
        1 / 8,
        5 / 16,
        3 / 8,
        59 / 400,
        93 / 200,
        5490023248 / 9719169821,
        13 / 20,
        1201146811 / 1299019798,
        1.0,
        1.0,
        1.0,
    ),
    a=_DOPRI8_A,
    b=(*_DOPRI8_B, 0.0),
    e=(*(b - embedded for b, embedded in zip(_DOPRI8_B, _DOPRI8_EMBEDDED_B, strict=True)), 0.0),
    interpolant=continuous_extension(_DOPRI8_A, (*_DOPRI8_B, 0.0), order=5, degree=6),
    source="P. J. Prince, J. R. Dormand, J. Comput. Appl. Math. 7(1), 1981, RK8(7)13M",
)

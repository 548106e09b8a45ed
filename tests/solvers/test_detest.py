"""DETEST, the nonstiff problems A1 to E5, against SciPy at tight tolerance; and two celestial problems.

T. E. Hull, W. H. Enright, B. M. Fellen, A. E. Sedgwick, "Comparing Numerical Methods for Ordinary Differential
Equations", SIAM J. Numerical Analysis 9, 1972; also W. H. Enright, J. D. Pryce, ACM Algorithm 648, 1987. All problems
run from 0 to 20.
"""

import json
from dataclasses import dataclass
from functools import cache
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp as scipy_solve_ivp

from skode.solvers import odeint, solve_ivp

FOLDER = Path(__file__).parents[3] / "shared" / "data" / "detest"
needs_data = pytest.mark.skipif(not FOLDER.is_dir(), reason="reference data not present")

SPAN = (0.0, 20.0)
METHODS = ["dopri5", "tsit5", "dopri8"]
TOLERANCES = [1e-3, 1e-5, 1e-7, 1e-9]


def chain(rates):
    """Rates of A -> B -> C ..., each species decaying into the next."""

    def func(t, y):
        flow = torch.tensor(rates, dtype=y.dtype) * y[:-1]
        zero = y.new_zeros(1)
        return torch.cat([zero, flow]) - torch.cat([flow, zero])

    return func


def heat_equation(t, y):
    padded = torch.cat([y.new_zeros(1), y, y.new_zeros(1)])
    return padded[:-2] - 2 * y + padded[2:]


def outer_planets(t, y):
    k2, m0 = 2.95912208286, 1.00000597682
    masses = [0.954786104043e-3, 0.285583733151e-3, 0.437273164546e-4, 0.517759138449e-4, 0.277777777778e-5]
    m = torch.tensor(masses, dtype=y.dtype)
    position, velocity = y[:15].view(5, 3), y[15:]
    r3 = torch.linalg.vector_norm(position, dim=1, keepdim=True) ** 3
    between = position[None] - position[:, None]
    d3 = torch.linalg.vector_norm(between, dim=2).fill_diagonal_(1.0) ** 3
    pull = (m[None, :, None] * between / d3[:, :, None]).sum(1)
    indirect = (m[:, None] * position / r3).sum(0) - m[:, None] * position / r3
    acceleration = k2 * (-(m0 + m[:, None]) * position / r3 + pull - indirect)
    return torch.cat([velocity, acceleration.reshape(-1)])


def two_body(t, y):
    return torch.cat([y[2:], -y[:2] / torch.linalg.vector_norm(y[:2]) ** 3])


def torus(t, y):
    r = torch.hypot(y[0], y[1])
    return torch.stack([-y[1] - y[0] * y[2] / r, y[0] - y[1] * y[2] / r, y[0] / r])


def arenstorf(mu):
    """The restricted three-body problem (Hairer, Norsett, Wanner I, eq. II.0.1)."""

    def func(t, y):
        x, v = y[:2], y[2:]
        earth = x + torch.tensor([mu, 0.0], dtype=y.dtype)
        moon = x - torch.tensor([1 - mu, 0.0], dtype=y.dtype)
        pull = (1 - mu) * earth / torch.linalg.vector_norm(earth) ** 3 + mu * moon / torch.linalg.vector_norm(moon) ** 3
        return torch.cat([v, x + torch.stack([2 * v[1], -2 * v[0]]) - pull])

    return func


def pleiades(t, y):
    """Seven stars of masses 1, ..., 7 in the plane (Hairer, Norsett, Wanner I, eq. II.10.3)."""
    position, velocity = y[:14].view(2, 7).t(), y[14:]
    between = position[None] - position[:, None]
    d3 = torch.linalg.vector_norm(between, dim=2).fill_diagonal_(1.0) ** 3
    masses = torch.arange(1, 8, dtype=y.dtype)
    acceleration = (masses[None, :, None] * between / d3[:, :, None]).sum(1)
    return torch.cat([velocity, acceleration.t().reshape(-1)])


def bessel(t, y):
    return torch.stack([y[1], -(y[1] / (t + 1) + (1 - 0.25 / (t + 1) ** 2) * y[0])])


@dataclass(frozen=True)
class Problem:
    """``dy/dt = func(t, y)`` from ``y0``."""

    func: Any
    y0: tuple[float, ...]


def orbit(eccentricity):
    """Two bodies, seen from the one at the focus, from the point nearest to it."""
    e = eccentricity
    return Problem(two_body, (1 - e, 0.0, 0.0, sqrt((1 + e) / (1 - e))))


def first_of(n):
    return (1.0,) + (0.0,) * (n - 1)


# fmt: off
OUTER_PLANETS = (
    3.42947415189, 3.35386959711, 1.35494901715,
    6.6414554255, 5.97156957878, 2.18231499728,
    11.2630437207, 14.6952576794, 6.27960525067,
    -30.1552268759, 1.65699966404, 1.43785752721,
    -21.123835338, 28.4465098142, 15.3882659679,
    -0.557160570446, 0.505696783289, 0.230578543901,
    -0.415570776342, 0.365682722812, 0.169143213293,
    -0.325325669158, 0.189706021964, 0.087726532278,
    -0.024047625417, -0.287659532608, -0.117219543175,
    -0.176860753121, -0.216393453025, -0.014864789309,
)
# fmt: on

PROBLEMS = {
    # Single equations.
    "A1": Problem(lambda t, y: -y, (1.0,)),
    "A2": Problem(lambda t, y: -(y**3) / 2, (1.0,)),
    "A3": Problem(lambda t, y: y * torch.cos(t), (1.0,)),
    "A4": Problem(lambda t, y: y / 4 * (1 - y / 20), (1.0,)),
    "A5": Problem(lambda t, y: (y - t) / (y + t), (4.0,)),
    # Small systems.
    "B1": Problem(lambda t, y: torch.stack([2 * (y[0] - y[0] * y[1]), -(y[1] - y[0] * y[1])]), (1.0, 3.0)),
    "B2": Problem(lambda t, y: torch.stack([-y[0] + y[1], y[0] - 2 * y[1] + y[2], y[1] - y[2]]), (2.0, 0.0, 1.0)),
    "B3": Problem(lambda t, y: torch.stack([-y[0], y[0] - y[1] ** 2, y[1] ** 2]), (1.0, 0.0, 0.0)),
    "B4": Problem(torus, (3.0, 0.0, 0.0)),
    "B5": Problem(lambda t, y: torch.stack([y[1] * y[2], -y[0] * y[2], -0.51 * y[0] * y[1]]), (0.0, 1.0, 1.0)),
    # Moderate systems.
    "C1": Problem(chain([1.0] * 9), first_of(10)),
    "C2": Problem(chain([float(i) for i in range(1, 10)]), first_of(10)),
    "C3": Problem(heat_equation, first_of(10)),
    "C4": Problem(heat_equation, first_of(51)),
    "C5": Problem(outer_planets, OUTER_PLANETS),
    # Orbits.
    **{f"D{i}": orbit((2 * i - 1) / 10) for i in range(1, 6)},
    # Equations of higher order. E1 starts with Bessel's J_1/2(t + 1) and its slope.
    "E1": Problem(bessel, (0.6713967071418030, 0.09540051444747446)),
    "E2": Problem(lambda t, y: torch.stack([y[1], (1 - y[0] ** 2) * y[1] - y[0]]), (2.0, 0.0)),
    "E3": Problem(lambda t, y: torch.stack([y[1], y[0] ** 3 / 6 - y[0] + 2 * torch.sin(2.78535 * t)]), (0.0, 0.0)),
    "E4": Problem(lambda t, y: torch.stack([y[1], 0.032 - 0.4 * y[1] ** 2]), (30.0, 0.0)),
    "E5": Problem(lambda t, y: torch.stack([y[1], torch.sqrt(1 + y[1] ** 2) / (25 - t)]), (0.0, 0.0)),
}

# Where errors of single steps, each below the tolerance, add up and grow along the solution to more than ten
# tolerances: by how many, at 1e-3, 1e-5, 1e-7 and 1e-9. SciPy's solvers exceed ten on the same problems.
EXCEEDED = {
    "B1": {"dopri5": (90.0, None, 19.0, 13.0), "tsit5": (27.0, 60.0, None, None)},
    "B4": {"dopri5": (19.0, None, None, None), "tsit5": (35.0, None, None, None), "dopri8": (None, 19.0, 27.0, 27.0)},
    "B5": {"dopri5": (47.0, 11.0, 12.0, 10.0), "tsit5": (None, 17.0, None, None)},
    "C5": {"dopri5": (27.0, 14.0, None, None)},
    "D1": {
        "dopri5": (940.0, 1200.0, 87.0, 120.0),
        "tsit5": (600.0, 210.0, 36.0, 76.0),
        "dopri8": (25.0, 22.0, 31.0, 27.0),
    },
    "D2": {
        "dopri5": (660.0, 630.0, 190.0, 130.0),
        "tsit5": (380.0, 67.0, 50.0, 97.0),
        "dopri8": (None, None, 12.0, None),
    },
    "D3": {
        "dopri5": (290.0, 320.0, 39.0, 120.0),
        "tsit5": (98.0, 35.0, 66.0, 120.0),
        "dopri8": (12.0, None, None, None),
    },
    "D4": {"dopri5": (110.0, 250.0, 83.0, 130.0), "tsit5": (110.0, 79.0, 120.0, 130.0)},
    "D5": {
        "dopri5": (200.0, 310.0, 180.0, 190.0),
        "tsit5": (150.0, 160.0, 210.0, 190.0),
        "dopri8": (21.0, 11.0, 28.0, None),
    },
    "E2": {"dopri5": (20.0, None, None, None)},
    "E3": {"dopri5": (97.0, 57.0, 24.0, 12.0), "tsit5": (110.0, 39.0, 11.0, None)},
}


def scipy_solution(name, method, rtol, atol):
    """The state at the end, by SciPy."""
    problem = PROBLEMS[name]

    def func(t, y):
        return problem.func(torch.tensor(t, dtype=torch.float64), torch.from_numpy(np.array(y))).numpy()

    solution = scipy_solve_ivp(func, SPAN, np.array(problem.y0), method=method, rtol=rtol, atol=atol)
    assert solution.success
    return solution.y[:, -1]


@cache
def reference(name):
    return scipy_solution(name, "DOP853", rtol=1e-13, atol=1e-14)


def in_tolerances(name, y, tolerance):
    """The largest error of an element at the end, in units of ``tolerance + tolerance * max |y(20)|``."""
    expected = reference(name)
    return np.abs(y - expected).max() / (tolerance + tolerance * np.abs(expected).max())


@cache
def error_in_tolerances(name, method, tolerance):
    problem = PROBLEMS[name]
    y0 = torch.tensor(problem.y0, dtype=torch.float64)
    solution = solve_ivp(problem.func, SPAN, y0, t_eval=SPAN[1:], method=method, rtol=tolerance, atol=tolerance)
    return in_tolerances(name, solution.y[-1].numpy(), tolerance)


def combinations():
    """All problems, methods and tolerances; those that exceed ten tolerances are expected to."""
    for name in PROBLEMS:
        for method in METHODS:
            measured = EXCEEDED.get(name, {}).get(method, (None,) * len(TOLERANCES))
            for tolerance, factor in zip(TOLERANCES, measured, strict=True):
                reason = f"errors grow along the solution: {factor} times the tolerance was measured"
                marks = [] if factor is None else [pytest.mark.xfail(reason=reason, raises=AssertionError, strict=True)]
                yield pytest.param(name, method, tolerance, marks=marks)


@pytest.mark.parametrize(("name", "method", "tolerance"), list(combinations()))
def test_problems_end_within_ten_tolerances_of_the_reference(name, method, tolerance):
    assert error_in_tolerances(name, method, tolerance) <= 10


@pytest.mark.parametrize("tolerance", TOLERANCES)
@pytest.mark.parametrize("name", PROBLEMS)
def test_dopri5_is_as_accurate_as_scipys(name, tolerance):
    # Also where both exceed ten tolerances. SciPy's grows a step after a rejection as little, and starts the same.
    theirs = in_tolerances(name, scipy_solution(name, "RK45", tolerance, tolerance), tolerance)
    assert error_in_tolerances(name, "dopri5", tolerance) <= 1.05 * theirs + 0.5


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", PROBLEMS)
def test_errors_shrink_with_the_tolerance(name, method):
    # In proportion to it (error per step over a fixed span: nearly so), also where they exceed it.
    loose, tight = (tolerance * error_in_tolerances(name, method, tolerance) for tolerance in (1e-3, 1e-9))
    assert tight <= 1e-4 * loose + 10 * 1e-9


@needs_data
@pytest.mark.parametrize("name", PROBLEMS)
def test_the_reference_agrees_with_the_one_on_record(name):
    data = json.loads((FOLDER / "detest_reference.json").read_text())
    assert (data["t0"], data["t1"]) == SPAN
    np.testing.assert_allclose(PROBLEMS[name].y0, data["y0"][name], rtol=1e-15, atol=1e-16)
    np.testing.assert_allclose(reference(name), data["y_end"][name], rtol=1e-11, atol=1e-11)


@needs_data
@pytest.mark.parametrize(("name", "tolerance"), [("AREN", 1e-5), ("PLEI", 1e-7)])
def test_celestial_problems_end_where_the_reference_does(name, tolerance):
    data = json.loads((FOLDER / "hairer_nonstiff_reference.json").read_text())[name]
    func = arenstorf(data["mu"]) if name == "AREN" else pleiades
    y0, expected = (torch.tensor(data[key], dtype=torch.float64) for key in ("y0", "y_end"))
    y = odeint(func, y0, data["t"], rtol=1e-10, atol=1e-10)
    assert (y[-1] - expected).abs().max() < tolerance

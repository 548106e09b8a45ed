"""DETEST (Hull et al. 1972; ACM Algorithm 648) and two celestial problems, where the reference data is at hand."""

import json
from pathlib import Path

import pytest
import torch

from skode.solvers import odeint

FOLDER = Path(__file__).parents[3] / "shared" / "data" / "detest"

pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="reference data not present")


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


RATES = {
    "A1": lambda t, y: -y,
    "A2": lambda t, y: -(y**3) / 2,
    "A3": lambda t, y: y * torch.cos(t),
    "A4": lambda t, y: y / 4 * (1 - y / 20),
    "A5": lambda t, y: (y - t) / (y + t),
    "B1": lambda t, y: torch.stack([2 * (y[0] - y[0] * y[1]), -(y[1] - y[0] * y[1])]),
    "B2": lambda t, y: torch.stack([-y[0] + y[1], y[0] - 2 * y[1] + y[2], y[1] - y[2]]),
    "B3": lambda t, y: torch.stack([-y[0], y[0] - y[1] ** 2, y[1] ** 2]),
    "B4": torus,
    "B5": lambda t, y: torch.stack([y[1] * y[2], -y[0] * y[2], -0.51 * y[0] * y[1]]),
    "C1": chain([1.0] * 9),
    "C2": chain([float(i) for i in range(1, 10)]),
    "C3": heat_equation,
    "C4": heat_equation,
    "C5": outer_planets,
    **{f"D{i}": two_body for i in range(1, 6)},
    "E1": bessel,
    "E2": lambda t, y: torch.stack([y[1], (1 - y[0] ** 2) * y[1] - y[0]]),
    "E3": lambda t, y: torch.stack([y[1], y[0] ** 3 / 6 - y[0] + 2 * torch.sin(2.78535 * t)]),
    "E4": lambda t, y: torch.stack([y[1], 0.032 - 0.4 * y[1] ** 2]),
    "E5": lambda t, y: torch.stack([y[1], torch.sqrt(1 + y[1] ** 2) / (25 - t)]),
}


@pytest.mark.parametrize("name", RATES)
def test_detest_problems_end_where_the_reference_does(name):
    data = json.loads((FOLDER / "detest_reference.json").read_text())
    y0, expected = (torch.tensor(data[key][name], dtype=torch.float64) for key in ("y0", "y_end"))
    y = odeint(RATES[name], y0, [data["t0"], data["t1"]], rtol=1e-10, atol=1e-10)
    # The orbits make the error grow a few hundredfold over the span.
    assert (y[-1] - expected).abs().max() < 1e-7 * expected.abs().max() + 1e-10


@pytest.mark.parametrize(("name", "tolerance"), [("AREN", 1e-5), ("PLEI", 1e-7)])
def test_celestial_problems_end_where_the_reference_does(name, tolerance):
    data = json.loads((FOLDER / "hairer_nonstiff_reference.json").read_text())[name]
    func = arenstorf(data["mu"]) if name == "AREN" else pleiades
    y0, expected = (torch.tensor(data[key], dtype=torch.float64) for key in ("y0", "y_end"))
    y = odeint(func, y0, data["t"], rtol=1e-10, atol=1e-10)
    assert (y[-1] - expected).abs().max() < tolerance

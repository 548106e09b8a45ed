"""Against finite differences and hand-written right-hand sides in the user's units."""

import numpy as np
import pytest
import torch

from skode.equations.dynamics import Driver
from skode.equations.inputs import Inputs
from skode.identification.fields import PolynomialField
from skode.identification.system import FieldSystem, Units


def known(t, y, p):
    return torch.stack([p["a"] * y[..., 0] * y[..., 1] + p["u"], torch.sin(t) - p["b"] * y[..., 0] ** 2], dim=-1)


def accelerations(t, y, p):
    return (p["u"] - p["a"] * y[..., 1] * torch.sin(t))[..., None]


def system(order):
    units = Units(np.array([0.5, 0.0]), np.array([2.0, 3.0]), np.array([0.3]), np.array([1.5]), 0.7)
    field = PolynomialField(3, 2 // order, 2)
    names = (*(f"w{i}" for i in range(field.n_weights)), *(["a", "b"] if order == 1 else ["a"]))
    rhs, observe = (known, (0, 1)) if order == 1 else (accelerations, (0,))
    own = {"field": field, "units": units, "order": order, "input_names": ("u",)}
    return FieldSystem(rhs, observe, ("x", "v"), names, {}, **own)


RNG = np.random.default_rng(0)
Z = torch.from_numpy(RNG.normal(size=(5, 2)))
T = torch.from_numpy(RNG.uniform(size=5))
U = torch.from_numpy(RNG.normal(size=(5, 1)))


@pytest.mark.parametrize("order", [1, 2])
def test_the_value_is_the_sum_of_both_parts_in_other_units(order):
    s = system(order)
    values = torch.from_numpy(RNG.normal(size=len(s.names)))
    found = s.value(T, Z, values, {"u": U}).numpy()
    units, m = s.units, s.field.n_weights
    y, when = units.users(Z.numpy()), T.numpy() * units.unit
    points = torch.cat([Z, (U - 0.3) / 1.5], dim=1)
    learnt = s.field.value(points, values[:m]).numpy() * units.scale[-s.n_outputs :] / units.unit
    a, u = float(values[m]), U.numpy()[:, 0]
    if order == 1:
        b = float(values[m + 1])
        rates = learnt + np.stack([a * y[:, 0] * y[:, 1] + u, np.sin(when) - b * y[:, 0] ** 2], axis=1)
    else:
        rates = np.stack([y[:, 1], learnt[:, 0] + u - a * y[:, 1] * np.sin(when)], axis=1)
    np.testing.assert_allclose(found * units.scale / units.unit, rates, rtol=1e-12)


@pytest.mark.parametrize("order", [1, 2])
def test_sensitivities_are_those_of_finite_differences(order):
    s = system(order)
    values = torch.from_numpy(RNG.normal(size=len(s.names)))
    slopes = torch.from_numpy(RNG.uniform(0.5, 2.0, size=len(s.names)))
    n, m = 2, len(s.names)
    inputs = Inputs(["u"], torch.tensor([[0.0, 2.0]] * 5), torch.cat([U, U], dim=1)[..., None], True, None)
    driver = Driver(inputs, torch.arange(5))
    state = torch.from_numpy(RNG.normal(size=(5, 1 + n + m, n)))
    found = s.sensitivity_field(values.expand(5, -1), slopes.expand(5, -1), driver)(T[:, None], state)
    torch.testing.assert_close(found[:, 0], s.value(T, state[:, 0], values, {"u": U}))
    step = 1e-6
    for j in range(n + m):
        shift = torch.zeros(m, dtype=torch.float64)
        if j >= n:
            shift[j - n] = step * slopes[j - n]
        ends = [
            s.value(T, state[:, 0] + sign * step * state[:, 1 + j], values + sign * shift, {"u": U})
            for sign in (-1.0, 1.0)
        ]
        torch.testing.assert_close(found[:, 1 + j], (ends[1] - ends[0]) / (2.0 * step), rtol=1e-6, atol=1e-7)
    plain = s.vector_field(values.expand(5, -1), driver)
    torch.testing.assert_close(plain(T[:, None], state[:, 0]), found[:, 0])
    kept = torch.tensor([3, 1])
    torch.testing.assert_close(plain.take(kept)(T[kept][:, None], state[kept, 0]), found[kept, 0])

"""Against derivatives by autograd, and polynomials against their terms."""

import numpy as np
import pytest
import torch
from torch import nn

from skode.identification.fields import ModuleField, NetworkField, PolynomialField

torch.manual_seed(0)
FIELDS = {
    "polynomial": PolynomialField(3, 2, 3),
    "constant": PolynomialField(2, 1, 1),
    "network": NetworkField(3, 2, [7]),
    "deep": NetworkField(3, 2, [5, 4]),
    "module": ModuleField(nn.Sequential(nn.Linear(3, 4), nn.Softplus(), nn.Linear(4, 2)), 3, 2),
}


@pytest.mark.parametrize("name", FIELDS)
def test_jacobians_are_those_of_autograd(name):
    field, rng = FIELDS[name], np.random.RandomState(0)
    n = 2 if name == "constant" else 3
    z = torch.from_numpy(rng.normal(size=(6, n)))
    w = torch.from_numpy(field.start(rng) + rng.normal(size=field.n_weights))
    value, by_points, by_weights = field.jacobians(z, w)
    torch.testing.assert_close(value, field.value(z, w))
    expected = torch.autograd.functional.jacobian(lambda z: field.value(z, w).sum(dim=0), z).permute(1, 0, 2)
    torch.testing.assert_close(by_points, expected)
    torch.testing.assert_close(by_weights, torch.autograd.functional.jacobian(lambda w: field.value(z, w), w))
    assert len(field.groups) == field.n_weights


def test_a_polynomial_has_all_terms_up_to_its_degree():
    field = PolynomialField(2, 1, 3)
    x, y = torch.tensor([[1.5, -2.0]], dtype=torch.float64).unbind(1)
    expected = [x**0, x, y, x**2, x * y, y**2, x**3, x**2 * y, x * y**2, y**3]
    torch.testing.assert_close(field.terms(torch.stack([x, y], dim=1)), torch.stack(expected, dim=1))


@pytest.mark.parametrize(
    ("module", "message"),
    [(nn.Linear(3, 1), r"must map points of shape \(n, 3\)"), (nn.Tanh(), "without parameters")],
)
def test_a_module_of_another_shape_is_refused(module, message):
    with pytest.raises(ValueError, match=message):
        ModuleField(module, 3, 2)

"""A perceptron whose layers were replaced: by adapters, quantised ones, or whatever a user puts there."""

import pytest
import torch
from torch import nn

from skode.dynamics import MLPField, flow_field
from skode.solvers import solve_ivp


class Adapted(nn.Linear):
    """A layer beside which two narrow matrices are trained (Hu et al., "LoRA", 2021)."""

    def __init__(self, layer, generator):
        super().__init__(layer.in_features, layer.out_features, dtype=layer.weight.dtype)
        self.load_state_dict(layer.state_dict())
        shapes = (layer.in_features, 2), (2, layer.out_features)
        down, up = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes)
        self.down, self.up = nn.Parameter(down), nn.Parameter(up)

    def forward(self, x):
        return super().forward(x) + 0.3 * (x @ self.down) @ self.up


class Doubled(nn.Module):
    """No linear layer at all, and without a weight."""

    def __init__(self, layer):
        super().__init__()
        self.inner = layer

    def forward(self, x):
        return 2.0 * self.inner(x)


def hooked(layer):
    layer.register_forward_hook(lambda module, inputs, output: 1.5 * output)
    return layer


def own_forward(layer):
    layer.forward = lambda x: -nn.functional.linear(x, layer.weight, layer.bias)
    return layer


REPLACED = {
    "adapted": lambda layer: Adapted(layer, torch.Generator().manual_seed(3)),
    "doubled": Doubled,
    "hooked": hooked,
    "own forward": own_forward,
    "parametrized": lambda layer: nn.utils.parametrizations.weight_norm(layer),
}


@pytest.fixture(params=REPLACED, ids=str)
def replaced(request):
    field = MLPField(3, (6, 5), "tanh", generator=torch.Generator().manual_seed(0)).double()
    field.layers[1] = REPLACED[request.param](field.layers[1])
    return field


@pytest.fixture
def z():
    return torch.randn(4, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64, requires_grad=True)


def by_hand(field, t, z):
    """The definition, layer by layer."""
    x = field.layers[0](torch.cat([z, torch.full((len(z), 1), float(t), dtype=z.dtype)], dim=1))
    for layer in list(field.layers)[1:]:
        x = layer(torch.tanh(x))
    return x


def test_the_layers_are_called(replaced, z):
    torch.testing.assert_close(replaced(0.4, z), by_hand(replaced, 0.4, z), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("adjoint", ["discrete", "continuous", "backprop"])
def test_solves_and_their_gradients(replaced, z, adjoint):
    parameters = list(replaced.parameters())

    def gradients(func):
        end = solve_ivp(func, (0.0, 1.0), z, t_eval=[1.0], rtol=1e-9, atol=1e-9, adjoint=adjoint).y
        return [end, *torch.autograd.grad(end.square().sum(), [z, *parameters])]

    expected = gradients(lambda t, y: by_hand(replaced, t, y))
    for found, right in zip(gradients(replaced), expected, strict=True):
        torch.testing.assert_close(found, right, rtol=1e-6, atol=1e-7)


def test_the_divergence_is_that_of_these_layers(replaced, z):
    joint = torch.cat([z.detach(), torch.zeros(4, 1, dtype=torch.float64)], dim=1)
    found = flow_field(replaced)(torch.tensor(0.4, dtype=torch.float64), joint)[:, 3]
    for row, divergence in zip(z.detach(), found, strict=True):
        jacobian = torch.autograd.functional.jacobian(lambda x: by_hand(replaced, 0.4, x[None])[0], row)
        torch.testing.assert_close(divergence, -torch.trace(jacobian), rtol=1e-10, atol=1e-10)

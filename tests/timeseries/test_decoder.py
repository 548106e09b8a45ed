import pytest
import torch
from torch import nn

from skode.timeseries.decoder import Decoder


def decoder(n_inputs=3, n_outputs=2, width=5):
    made = Decoder(n_inputs, n_outputs, width, torch.Generator().manual_seed(0)).double()
    with torch.no_grad():
        for parameter in made.parameters():
            nn.init.normal_(parameter, std=0.7, generator=torch.Generator().manual_seed(parameter.numel()))
    return made


def normal(*shape, seed=1):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def by_layers(made, x):
    """The formula, layer by layer."""
    return made.linear(x) + made.bent(nn.functional.silu(made.hidden(x)))


@pytest.mark.parametrize("n_covariates", [0, 2])
@pytest.mark.parametrize("shape", [(1, 7), (4, 6), (2, 3, 5), (3, 0)])
def test_values_and_gradients_are_those_of_the_formula(shape, n_covariates):
    made = decoder(3 + n_covariates)
    z, covariates = normal(*shape, 3).requires_grad_(), normal(*shape[1:], n_covariates, seed=2)
    inputs = torch.cat([z, covariates.expand(*shape, -1)], dim=-1)
    values, expected = made(z, covariates), by_layers(made, inputs)
    torch.testing.assert_close(values, expected, rtol=1e-12, atol=1e-12)
    wanted, cotangent = [z, *made.parameters()], normal(*shape, 2, seed=3)
    found = torch.autograd.grad(values, wanted, cotangent)
    torch.testing.assert_close(found, torch.autograd.grad(expected, wanted, cotangent), rtol=1e-12, atol=1e-12)
    with torch.no_grad():
        assert torch.equal(made(z, covariates), values)

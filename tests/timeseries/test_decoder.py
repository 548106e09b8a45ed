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


def by_autograd(made, x):
    """The formula, by torch's own operations."""
    return made.linear(x) + made.bent(nn.functional.silu(made.hidden(x)))


@pytest.mark.parametrize("n_covariates", [0, 2])
@pytest.mark.parametrize("shape", [(1, 7), (4, 6), (2, 3, 5), (3, 0)])
def test_values_and_gradients_are_autograds(shape, n_covariates):
    made = decoder(3 + n_covariates)
    z, covariates = normal(*shape, 3).requires_grad_(), normal(*shape[1:], n_covariates, seed=2)
    inputs = torch.cat([z, covariates.expand(*shape, -1)], dim=-1)
    values, expected = made(z, covariates), by_autograd(made, inputs)
    torch.testing.assert_close(values, expected, rtol=1e-12, atol=1e-12)
    wanted, cotangent = [z, *made.parameters()], normal(*shape, 2, seed=3)
    found = torch.autograd.grad(values, wanted, cotangent)
    torch.testing.assert_close(found, torch.autograd.grad(expected, wanted, cotangent), rtol=1e-12, atol=1e-12)
    with torch.no_grad():
        assert torch.equal(made(z, covariates), values)


@pytest.mark.parametrize("frozen", [[], ["linear", "bent"], ["linear", "hidden", "bent"]])
@pytest.mark.parametrize("of_inputs", [True, False])
def test_only_what_requires_a_gradient_gets_one(frozen, of_inputs):
    made, z = decoder(), normal(4, 6, 3).requires_grad_(of_inputs)
    for name in frozen:
        getattr(made, name).requires_grad_(False)
    wanted = [x for x in (z, *made.parameters()) if x.requires_grad]
    values, nothing = made(z, z.new_zeros(6, 0)), normal(4, 6, 2, seed=3)
    assert values.requires_grad == bool(wanted)
    if wanted:
        found = torch.autograd.grad(values, wanted, nothing)
        torch.testing.assert_close(found, torch.autograd.grad(by_autograd(made, z), wanted, nothing))


def test_its_gradient_refuses_to_be_differentiated_again():
    made, z = decoder(), normal(4, 6, 3).requires_grad_()
    (gradient,) = torch.autograd.grad(made(z, z.new_zeros(6, 0)).sum(), z, create_graph=True)
    with pytest.raises(RuntimeError, match="can't be differentiated again"):
        gradient.square().sum().backward()

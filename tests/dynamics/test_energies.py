import pytest
import torch
from torch import nn
from torch.func import jacrev, vmap

from skode.dynamics.energies import EnergyField, value_and_noise_product


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Mixing(nn.Module):
    """A nonlinear field of states of any shape, each sample by itself."""

    def __init__(self, shape):
        super().__init__()
        d = shape[1:].numel()
        self.weight = nn.Parameter(draw(d, d, seed=1))

    def forward(self, t, z):
        return torch.sin(z.flatten(1) @ self.weight + t).reshape(z.shape)


@pytest.fixture(params=[(4, 3), (4, 2, 3, 3)], ids=["rows", "images"])
def shape(request):
    return torch.Size(request.param)


def jacobians(field, t, z):
    """Of each sample, of shape (n, d, d)."""

    def of_row(row):
        return field(t, row.reshape(1, *z.shape[1:])).flatten()

    return vmap(jacrev(of_row))(z.flatten(1))


def test_the_product_is_noise_times_the_jacobian(shape):
    field, z, noise = Mixing(shape), draw(*shape), draw(*shape, seed=2)
    value, product = value_and_noise_product(field, 0.3, z, noise)
    expected = torch.einsum("ni,nij->nj", noise.flatten(1), jacobians(field, 0.3, z)).reshape(shape)
    torch.testing.assert_close(value, field(0.3, z))
    torch.testing.assert_close(product, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("field", [lambda t, z: torch.ones_like(z), lambda t, z: (0.0 * z).detach() + t])
def test_the_product_of_a_field_that_ignores_its_state_is_zero(field, shape):
    _, product = value_and_noise_product(field, 0.3, draw(*shape), draw(*shape, seed=2))
    assert not product.any()


@pytest.mark.parametrize("recorded", [True, False], ids=["grad", "no grad"])
def test_energies_stand_behind_the_flattened_rates(shape, recorded):
    field, z, noise = Mixing(shape), draw(*shape), draw(*shape, seed=2)
    value = field(0.3, z).flatten(1).detach()
    product = torch.einsum("ni,nij->nj", noise.flatten(1), jacobians(field, 0.3, z)).detach()
    expected = torch.cat([value, (value**2).mean(1, keepdim=True), (product**2).mean(1, keepdim=True)], dim=1)
    for n_energies, given in ((1, None), (2, noise)):
        energies = EnergyField(field, shape, given)
        assert energies.n_energies == n_energies
        with torch.set_grad_enabled(recorded):
            rates = energies(0.3, torch.cat([z.flatten(1), torch.zeros(4, n_energies, dtype=torch.float64)], dim=1))
        assert rates.requires_grad == recorded
        torch.testing.assert_close(rates.detach(), expected[:, : rates.shape[1]], rtol=1e-12, atol=1e-12)

"""The conditional density as a density: it integrates to one, is the one of what it carries, and starts linear."""

import functools

import numpy as np
import pytest
import torch
from scipy.stats import norm

from skode.conditional.flow import ConditionalDensity
from skode.conditional.linear import linear_model
from skode.training import Solver

SOLVER = Solver(rtol=1e-10, atol=1e-11)
N, P = 5, 3


def density(n_outputs, hidden=(6, 5)):
    """A density far from normal, in float64, whose base has another spread than one."""
    generator = torch.Generator().manual_seed(0)
    made = ConditionalDensity(n_outputs, P, hidden, "tanh", (4,), generator).double()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        made.base_scale.fill_(1.3)
    return made


def random(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@torch.no_grad()
def test_it_integrates_to_one_for_every_context():
    made, grid = density(1), torch.linspace(-40, 40, 4001, dtype=torch.float64)
    for x in random(3, P):
        log_prob, _ = made.log_prob(x.expand(len(grid), P), grid[:, None], SOLVER)
        assert torch.trapezoid(log_prob.exp(), grid).item() == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize("hidden", [(6,), (6, 5)])
def test_it_is_the_density_of_what_the_base_is_carried_to(hidden):
    # By the change of variables in one piece: the determinant of the whole map's Jacobian.
    made, x, base = density(2, hidden), random(N, P), random(N, 2, seed=2)
    y = made.push(x, base, SOLVER).detach()

    def carried(z, row):
        return made.push(x[row : row + 1], z[None], SOLVER)[0]

    expected = []
    for row in range(N):
        jacobian = torch.autograd.functional.jacobian(functools.partial(carried, row=row), base[row])
        normal = -0.5 * base[row].square().sum() - np.log(2 * np.pi)
        expected.append(normal - torch.linalg.slogdet(jacobian).logabsdet)
    log_prob, _ = made.log_prob(x, y, SOLVER)
    torch.testing.assert_close(log_prob.detach(), torch.stack(expected), rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(made.pull(x, y, SOLVER).detach(), base, rtol=1e-7, atol=1e-7)


def test_the_kinetic_energy_is_that_of_the_paths():
    # Of a field that is constant in state and time, |f|^2.
    made = density(2)
    with torch.no_grad():
        for layer in made.field.layers:
            layer.weight.zero_()
    rate = made.field.layers[-1].bias
    _, energy = made.log_prob(random(N, P), random(N, 2), SOLVER, energy=True)
    torch.testing.assert_close(energy[:, 0], rate.square().mean().expand(N))


def test_the_start_is_the_linear_model():
    rng = np.random.default_rng(0)
    x, weights = rng.normal(size=(200, P)), rng.uniform(0.5, 2.0, 200)
    y = x @ rng.normal(size=(P, 2)) + [1.0, -2.0] + rng.normal(size=(200, 2)) * [0.1, 0.7]
    coefficients, intercepts, errors = linear_model(x, y, weights)
    np.testing.assert_allclose(errors, [0.1, 0.7], rtol=0.15)
    made = ConditionalDensity(2, P, (6,), "tanh", (4,), torch.Generator().manual_seed(0)).double()
    made.start_from(coefficients, intercepts, errors)
    with torch.no_grad():
        made.field.layers[-1].weight.zero_()
        log_prob, _ = made.log_prob(torch.from_numpy(x), torch.from_numpy(y), SOLVER)
    expected = norm.logpdf(y, x @ coefficients.T + intercepts, errors).sum(1)
    np.testing.assert_allclose(log_prob.numpy(), expected, rtol=1e-10)

import copy
import itertools

import pytest
import torch
from torch import nn

from skode.density.flow import Flow, Measured
from skode.dynamics import MLPField
from skode.solvers import solve_ivp

D = 3


def solve(field, t_span, y0, t_eval=None, first_step=None, **options):
    return solve_ivp(field, t_span, y0, t_eval=t_eval, rtol=1e-10, atol=1e-11, **options)


class Linear(nn.Module):
    """``f = A z``, whose flow is known."""

    def __init__(self, A):
        super().__init__()
        self.A = nn.Parameter(A)

    def forward(self, t, z):
        return z @ self.A.t()


def linear_flow():
    A = 0.5 * torch.randn(D, D, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    flow = Flow(Linear(A), D).double()
    with torch.no_grad():
        flow.log_scale.copy_(torch.tensor([0.3, -0.2, 0.1]))
    return flow, A


def points(n=6):
    return torch.randn(n, D, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("t", [0.0, 0.4, 1.0])
def test_the_density_of_a_linear_flow_is_the_normal_one_of_its_matrix_exponential(t):
    flow, A = linear_flow()
    factor = torch.linalg.matrix_exp(t * A) * flow.log_scale.detach().exp()
    expected = torch.distributions.MultivariateNormal(torch.zeros(D).double(), factor @ factor.t()).log_prob(points())
    torch.testing.assert_close(flow.log_prob(points(), solve, t=t)[0].detach(), expected, rtol=1e-8, atol=1e-8)


def test_push_and_pull_are_inverse_and_paths_lead_from_one_to_the_other():
    flow, A = linear_flow()
    with torch.no_grad():
        x = flow.push(points(), solve)
        torch.testing.assert_close(flow.pull(x, solve), points(), rtol=1e-8, atol=1e-8)
        paths = flow.paths(x, solve, (1.0, 0.5, 0.0))
    torch.testing.assert_close(paths[0], x)
    torch.testing.assert_close(paths[1], paths[2] @ torch.linalg.matrix_exp(0.5 * A).t(), rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(flow.paths(x, solve, (1.0,))[0], x)


@pytest.mark.parametrize("hidden", [(5,), (5, 4), (4, 4, 4)])
def test_the_energy_is_the_integral_of_the_squared_speed(hidden):
    field = MLPField(D, hidden, generator=torch.Generator().manual_seed(0)).double()
    flow, x = Flow(field, D).double(), points()
    with torch.no_grad():
        _, integrals = flow.log_prob(x, solve, measured=Measured(energy=True))
        times = torch.linspace(0.0, 1.0, 201, dtype=torch.float64)
        paths = flow.paths(x, solve, times.flip(0).tolist()).flip(0)
        speeds = torch.stack([field(t, z) for t, z in zip(times, paths, strict=True)])
    expected = torch.trapezoid(speeds.square().mean(2), times, dim=0)
    torch.testing.assert_close(integrals[:, 0], expected, rtol=1e-4, atol=1e-6)


def test_hutchinsons_estimate_and_the_jacobians_norm_are_right_in_the_mean_over_all_signs():
    flow, A = linear_flow()
    x = points(1)
    estimates, norms = [], []
    for signs in itertools.product((-1.0, 1.0), repeat=D):
        measured = Measured(noise=torch.tensor([signs]).double(), estimate=True, jacobian=True)
        log_prob, integrals = flow.log_prob(x, solve, measured=measured)
        estimates.append(log_prob)
        norms.append(integrals[:, 0])
    exact, _ = flow.log_prob(x, solve)
    torch.testing.assert_close(torch.stack(estimates).mean(0), exact, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(torch.stack(norms).mean(0).detach(), (A**2).sum()[None] / D, rtol=1e-8, atol=1e-8)


def test_an_estimate_without_noise_is_refused():
    flow, _ = linear_flow()
    with pytest.raises(ValueError, match="needs noise"):
        flow.log_prob(points(), solve, measured=Measured(estimate=True))


@pytest.mark.parametrize("hidden", [(5,), (5, 4)])
def test_gradients_are_those_of_backpropagation(hidden):
    flow = Flow(MLPField(D, hidden, generator=torch.Generator().manual_seed(0)), D).double()
    gradients = []
    for adjoint in ("discrete", "backprop"):

        def chosen(*args, adjoint=adjoint, **options):
            return solve(*args, **options, adjoint=adjoint)

        log_prob, integrals = flow.log_prob(points(), chosen, measured=Measured(energy=True))
        loss = integrals.mean() - log_prob.mean()
        gradients.append(torch.autograd.grad(loss, list(flow.parameters())))
    for found, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-10)


def test_a_copy_of_a_flow_is_its_own():
    flow, _ = linear_flow()
    twin = copy.deepcopy(flow)
    with torch.no_grad():
        twin.field.A.mul_(2.0)
    assert not torch.allclose(flow.log_prob(points(), solve)[0], twin.log_prob(points(), solve)[0])

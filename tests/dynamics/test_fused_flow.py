import pytest
import torch

from skode.dynamics.flow import flow_field
from skode.solvers import solve_ivp
from tests.solvers.fused.comparison import Paths
from tests.solvers.fused.test_solve import TIGHT, make_field, make_state, own_times


@pytest.mark.parametrize("activation", ["tanh", "logistic", "softplus", "silu"])
@pytest.mark.parametrize("hidden", [(8,), (8, 6)])
@pytest.mark.parametrize("energy", [False, True])
def test_log_density_and_energy(monkeypatch, activation, hidden, energy):
    field = make_field(activation=activation, hidden_layer_sizes=hidden)
    flow, y0 = flow_field(field, energy=energy), make_state().detach()
    y0 = torch.cat([y0, torch.zeros(5, 1 + energy, dtype=y0.dtype)], dim=1).requires_grad_()
    paths, parameters = Paths(monkeypatch), list(field.parameters())
    paths.compare(flow, parameters, y0, (1.0, 0.0), [0.4, 0.0], **TIGHT)
    paths.compare(flow, parameters, y0, *own_times(), **TIGHT)


def test_evaluations_beyond_the_budget_are_made_again():
    field, y0 = make_field(), torch.cat([make_state().detach(), torch.zeros(5, 1).double()], dim=1).requires_grad_()
    found = []
    for budget in (0, 20_000, 2**28):
        y = solve_ivp(flow_field(field), (0.0, 1.0), y0, t_eval=[1.0], memory_budget=budget, **TIGHT).y
        found.append(torch.autograd.grad(y.square().sum(), [y0, *field.parameters()]))
    for one, two, three in zip(*found, strict=True):
        torch.testing.assert_close(one, three, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(two, three, rtol=1e-12, atol=1e-12)

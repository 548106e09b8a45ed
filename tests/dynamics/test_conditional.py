import pytest
import torch

from skode.dynamics import exact_divergence
from skode.dynamics.conditional import ConditionalMLPField
from skode.solvers import solve_ivp
from tests.dynamics.drawn import drawn

N, D, P = 7, 2, 3
TIGHT = {"rtol": 1e-11, "atol": 1e-12}


def random(*shape, seed=2):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def double_field(hidden, activation="tanh"):
    generator = torch.Generator().manual_seed(1)
    return drawn(ConditionalMLPField(D, P, hidden, activation, generator), generator)


def by_autograd(field, context, energy):
    """The joint rates, with the divergence one row of the Jacobian after another."""

    def value(t, z):
        x = torch.cat([z, context, torch.as_tensor(t, dtype=z.dtype).reshape(-1, 1).expand(len(z), 1)], dim=1)
        first, *rest = field.layers
        x = first(x)
        for layer in rest:
            x = layer(getattr(torch.nn.functional, field.activation, torch.tanh)(x))
        return x

    def rates(t, state):
        found, divergence = exact_divergence(value, t, state[:, :D])
        columns = [found, -divergence[:, None]] + ([found.square().mean(1, keepdim=True)] if energy else [])
        return torch.cat(columns, dim=1)

    return rates


@pytest.mark.parametrize("energy", [False, True])
@pytest.mark.parametrize("activation", ["tanh", "silu"])
@pytest.mark.parametrize("hidden", [(5,), (5, 4)])
@pytest.mark.parametrize("t", [torch.tensor(0.3).double(), torch.linspace(0, 1, N).double()[:, None]])
def test_rates_and_pullback_are_autograds(hidden, activation, energy, t):
    field, context = double_field(hidden, activation), random(N, P, seed=4)
    state, cotangent = random(N, D + 1 + energy), random(N, D + 1 + energy, seed=3)
    flow = field.flow(context, energy=energy)
    with torch.no_grad():
        value, residuals = flow.linearize(t, state)
        grad_state, deltas = flow.pullback(residuals, cotangent)
        gradients = flow.parameter_gradients([(residuals, deltas)])
    state.requires_grad_()
    expected_value = by_autograd(field, context, energy)(t, state)
    parameters = list(field.parameters())
    expected = torch.autograd.grad(
        expected_value, [state, *parameters], cotangent, allow_unused=True, materialize_grads=True
    )
    torch.testing.assert_close(value, expected_value.detach(), rtol=1e-12, atol=1e-12)
    for found, wanted in zip([grad_state, *gradients], expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("energy", [False, True])
@pytest.mark.parametrize("hidden", [(5,), (5, 4)])
@pytest.mark.parametrize("step_control", ["shared", "per_sample"])
def test_solves_and_gradients_agree_with_a_plain_functions(hidden, energy, step_control):
    # With shared steps the solve takes the fused path, with steps of each sample that of the field's own pullback.
    field, context = double_field(hidden), random(N, P, seed=4)
    state = random(N, D + 1 + energy)
    flow = field.flow(context, energy=energy)
    assert flow.fused(state) is not None
    assert flow.fused(state.float()) is None

    def solved(func, **options):
        y0 = state.clone().requires_grad_()
        y = solve_ivp(func, (1.0, 0.0), y0, t_eval=[0.4, 0.0], **TIGHT, **options).y
        return y, torch.autograd.grad(y.square().sum(), [y0, *field.parameters()], allow_unused=True)

    y, gradients = solved(flow, step_control=step_control)
    expected_y, expected = solved(by_autograd(field, context, energy), adjoint="backprop")
    torch.testing.assert_close(y, expected_y, rtol=1e-9, atol=1e-10)
    for found, wanted in zip(gradients, expected, strict=True):
        wanted = torch.zeros_like(found) if wanted is None else wanted
        torch.testing.assert_close(found, wanted, rtol=1e-8, atol=1e-9)


def test_each_sample_depends_on_its_own_context_alone():
    field, context, state = double_field((5, 4)), random(N, P, seed=4), random(N, D + 1)
    with torch.no_grad():
        whole = field.flow(context)(0.3, state)
        rows = torch.tensor([4, 1])
        torch.testing.assert_close(field.flow(context).take(rows)(0.3, state[rows]), whole[rows])
        other = context.clone()
        other[1] += 1.0
        moved = field.flow(other)(0.3, state)
    assert (moved != whole).any(dim=1).tolist() == [row == 1 for row in range(N)]

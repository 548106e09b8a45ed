"""Under autocast the field is rounded, the solve is not."""

import pytest
import torch
from torch import nn

from skode.dynamics import MLPField
from skode.solvers import odeint, odeint_event, solve_ivp

BFLOAT16 = {"device_type": "cpu", "dtype": torch.bfloat16}


@pytest.fixture
def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 4))


@pytest.fixture
def start():
    return torch.randn(8, 4, generator=torch.Generator().manual_seed(1))


def gradients(net, func, start, *, autocast, backward_inside=False, **how):
    """The end of a solve, and the gradients of its sum."""
    start = start.clone().requires_grad_()
    with torch.autocast(**BFLOAT16, enabled=autocast):
        end = odeint(func, start, [0.0, 1.0], rtol=1e-3, atol=1e-3, **how)[-1]
        found = torch.autograd.grad(end.sum(), (start, *net.parameters())) if backward_inside else None
    found = torch.autograd.grad(end.sum(), (start, *net.parameters())) if found is None else found
    assert end.dtype == torch.float32
    return torch.cat([x.detach().flatten() for x in (end, *found)])


def test_the_field_is_evaluated_in_the_lower_precision(net, start, adjoint):
    dtypes = set()

    def func(t, y):
        value = net(y)
        dtypes.add(value.dtype)
        return value

    found = gradients(net, func, start, autocast=True, adjoint=adjoint)
    assert dtypes == {torch.bfloat16}
    expected = gradients(net, func, start, autocast=False, adjoint="backprop")
    assert 0.0 < float((found - expected).abs().max()) < 0.01 * float(expected.abs().max())


def test_a_backward_pass_under_autocast_is_that_outside_of_it(net, start, graphless_adjoint):
    how = {"autocast": True, "adjoint": graphless_adjoint}
    inside = gradients(net, lambda t, y: net(y), start, backward_inside=True, **how)
    outside = gradients(net, lambda t, y: net(y), start, **how)
    torch.testing.assert_close(inside, outside, rtol=0, atol=0)


def test_sums_of_the_solver_are_not_rounded():
    one = torch.ones(3)
    with torch.autocast(**BFLOAT16):
        end = odeint(lambda t, y: -y, one, [0.0, 1.0], rtol=1e-6, atol=1e-6)[-1]
        pair = odeint(lambda t, y: (-y[0], -2 * y[1]), (one, one), [0.0, 1.0], rtol=1e-6, atol=1e-6)
        solution = solve_ivp(lambda t, y: -y, y0=one, t_span=(0.0, 1.0), rtol=1e-6, atol=1e-6)
        meets, _ = odeint_event(lambda t, y: -y, one, 0.0, event_fn=lambda t, y: y[0] - 0.5)
    for found, rate in ((end, -1.0), (pair[0][-1], -1.0), (pair[1][-1], -2.0), (solution.y[-1], -1.0)):
        torch.testing.assert_close(found, torch.exp(rate * one), rtol=1e-5, atol=0)
    assert meets.item() == pytest.approx(0.6931472, rel=1e-5)


def test_a_field_with_its_own_pullback_stays_in_the_precision_of_the_state(start, adjoint):
    torch.manual_seed(0)
    field = MLPField(4, (16,))
    found = gradients(field, field, start, autocast=True, adjoint=adjoint)
    torch.testing.assert_close(found, gradients(field, field, start, autocast=False, adjoint=adjoint))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_states_of_lower_precision_are_refused(dtype):
    for attempt in (
        lambda y0: odeint(lambda t, y: -y, y0, [0.0, 1.0]),
        lambda y0: odeint(lambda t, y: y, (y0,), [0.0, 1.0]),
        lambda y0: solve_ivp(lambda t, y: -y, (0.0, 1.0), y0),
        lambda y0: odeint_event(lambda t, y: -y, y0, 0.0, event_fn=lambda t, y: y[0] - 0.5),
    ):
        with pytest.raises(TypeError, match=rf"y0 must be float32 or float64, got {dtype}: pass y0\.float\(\)"):
            attempt(torch.ones(2, dtype=dtype))

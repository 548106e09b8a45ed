"""Derivatives with respect to times: outputs move along the solution, and the whole solve with its initial time."""

import math

import pytest
import torch

from skode.solvers import odeint, solve_ivp


def field(t, y):
    return torch.cos(t) * y


def solution(t, t0):
    """The field's solution from 1 at ``t0``."""
    return torch.exp(torch.sin(t) - torch.sin(t0))


def test_gradients_of_all_times_are_those_of_the_solution(method, adjoint):
    # Enough steps for the low orders; the grid of fixed-step methods is the times themselves.
    n = {"euler": 300, "midpoint": 50}.get(method, 15)
    t = torch.linspace(0.3, 1.2, n, dtype=torch.float64, requires_grad=True)
    cotangent = torch.linspace(1, 2, n, dtype=torch.float64)
    y = odeint(field, torch.ones(1, dtype=torch.float64), t, rtol=1e-8, atol=1e-8, method=method, adjoint=adjoint)
    (found,) = torch.autograd.grad(cotangent @ y[:, 0], t)
    (expected,) = torch.autograd.grad(cotangent @ solution(t, t[0]), t)
    rtol = {"euler": 1e-2, "midpoint": 1e-3}.get(method, 1e-5)
    torch.testing.assert_close(found, expected, rtol=rtol, atol=0)


@pytest.mark.parametrize("span", [(0.3, 1.5), (1.5, 0.3)])
def test_gradients_of_the_span_without_t_eval(adaptive_method, adjoint, span):
    # Only the end of the last step is asked for: it moves with the end of the span.
    span = torch.tensor(span, dtype=torch.float64, requires_grad=True)
    settings = {"rtol": 1e-7, "atol": 1e-7, "method": adaptive_method, "adjoint": adjoint}
    y = solve_ivp(field, span, torch.ones(1, dtype=torch.float64), **settings).y
    (found,) = torch.autograd.grad(y[-1].sum(), span)
    (expected,) = torch.autograd.grad(solution(span[1], span[0]), span)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)


def test_the_ends_of_all_steps_stretch_with_the_span(adaptive_method, adjoint):
    span = torch.tensor([0.3, 1.5], dtype=torch.float64, requires_grad=True)
    settings = {"rtol": 1e-7, "atol": 1e-7, "method": adaptive_method, "adjoint": adjoint}
    stepped = solve_ivp(field, span, torch.ones(1, dtype=torch.float64), **settings)
    (found,) = torch.autograd.grad(stepped.y.sum(), span)
    fraction = (stepped.t - stepped.t[0]) / (stepped.t[-1] - stepped.t[0])
    moving = span[0] + fraction * (span[1] - span[0])
    (expected,) = torch.autograd.grad(solution(moving, span[0]).sum(), span)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=0)


def test_fixed_steps_stretch_with_the_span_exactly(fixed_method, exact_adjoint):
    # The numerical solution itself, by central differences: y(t1; t0) of ten equal steps.
    def end(span):
        settings = {"method": fixed_method, "step_size": 0.13, "adjoint": exact_adjoint}
        return solve_ivp(field, span, torch.ones(1, dtype=torch.float64), **settings).y[-1].sum()

    span = torch.tensor([0.3, 1.5], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(end, span, atol=1e-8, rtol=1e-7)


def test_outputs_inside_the_span_do_not_move_with_its_end(adaptive_method, adjoint):
    span = torch.tensor([0.3, 1.5], dtype=torch.float64, requires_grad=True)
    settings = {"rtol": 1e-7, "atol": 1e-7, "method": adaptive_method, "adjoint": adjoint}
    y = solve_ivp(field, span, torch.ones(1, dtype=torch.float64), t_eval=[0.5, 1.0], **settings).y
    (found,) = torch.autograd.grad(y.sum(), span)
    t = torch.tensor([0.5, 1.0], dtype=torch.float64)
    (expected,) = torch.autograd.grad(solution(t, span[0]).sum(), span)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_an_output_at_the_initial_time_moves_with_its_own_time(adaptive_method, adjoint):
    t_eval = torch.tensor([0.3, 1.0], dtype=torch.float64, requires_grad=True)
    settings = {"rtol": 1e-7, "atol": 1e-7, "method": adaptive_method, "adjoint": adjoint}
    y = solve_ivp(field, (0.3, 1.5), torch.ones(1, dtype=torch.float64), t_eval=t_eval, **settings).y
    (found,) = torch.autograd.grad(y[0].sum(), t_eval)
    torch.testing.assert_close(found, torch.tensor([math.cos(0.3), 0.0], dtype=torch.float64), rtol=1e-9, atol=1e-12)


def test_ends_of_the_span_may_be_single_tensors(adjoint):
    end = torch.tensor(1.5, dtype=torch.float64, requires_grad=True)
    y = solve_ivp(field, (0.3, end), torch.ones(1, dtype=torch.float64), rtol=1e-9, atol=1e-9, adjoint=adjoint).y
    (found,) = torch.autograd.grad(y[-1].sum(), end)
    expected = math.cos(1.5) * math.exp(math.sin(1.5) - math.sin(0.3))
    assert found.item() == pytest.approx(expected, rel=1e-6)


def test_times_keep_their_dtype_in_the_gradient(adjoint):
    t = torch.tensor([0.3, 1.0, 1.5], requires_grad=True)
    y = odeint(field, torch.ones(1, dtype=torch.float64), t, rtol=1e-9, atol=1e-9, adjoint=adjoint)
    y[-1].sum().backward()
    assert t.grad.dtype == torch.float32
    expected = torch.autograd.grad(solution(t[-1], t[0]), t)[0]
    torch.testing.assert_close(t.grad, expected, rtol=1e-5, atol=1e-6)


def test_a_time_that_also_stands_in_the_closure_gets_both_gradients(adjoint):
    t = torch.tensor([0.0, 1.5], dtype=torch.float64, requires_grad=True)
    y = odeint(lambda s, y: t[1] * y, torch.ones(1, dtype=torch.float64), t, rtol=1e-9, atol=1e-9, adjoint=adjoint)
    (found,) = torch.autograd.grad(y[-1].sum(), t)
    # y = exp(t1 (t1 - t0))
    value = math.exp(1.5**2)
    torch.testing.assert_close(found, torch.tensor([-1.5 * value, 3 * value], dtype=torch.float64), rtol=1e-6, atol=0)


def test_a_single_time_has_no_gradient(method, adjoint):
    t = torch.tensor([0.3], dtype=torch.float64, requires_grad=True)
    y = odeint(field, torch.ones(1, dtype=torch.float64), t, method=method, adjoint=adjoint)
    if y.requires_grad:
        (found,) = torch.autograd.grad(y.sum(), t, allow_unused=True)
        assert found is None or found.item() == 0.0

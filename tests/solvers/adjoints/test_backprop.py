"""Autograd through the solver: the reference, and the way to derivatives of higher order."""

import pytest
import torch

from skode.solvers import odeint, solve_ivp
from tests.solvers.problems import in_steps


def oscillator_of(w):
    return lambda t, y: torch.stack([y[1], -w * torch.sin(y[0]) + t])


@pytest.fixture
def y0():
    return torch.tensor([1.0, 0.5], dtype=torch.float64, requires_grad=True)


@pytest.fixture
def w():
    return torch.tensor(1.3, dtype=torch.float64, requires_grad=True)


def test_derivatives_of_second_order(method, y0, w, equal_steps):
    def solve(y0, w):
        settings = {"t_eval": [0.23, 0.5], "adjoint": "backprop", **equal_steps(method, 0.11)}
        return solve_ivp(oscillator_of(w), (0.0, 0.5), y0, **settings).y

    assert torch.autograd.gradgradcheck(solve, (y0, w))


def test_second_derivative_in_closed_form(w):
    y = odeint(
        lambda t, y: w * y, torch.ones(1, dtype=torch.float64), [0.0, 2.0], rtol=1e-10, atol=1e-10, adjoint="backprop"
    )
    (first,) = torch.autograd.grad(y[-1].sum(), w, create_graph=True)
    (second,) = torch.autograd.grad(first, w)
    torch.testing.assert_close(second, 4 * torch.exp(2 * w.detach()), rtol=1e-8, atol=0)


def test_the_others_refuse_derivatives_of_second_order(graphless_adjoint, y0, w):
    y = odeint(oscillator_of(w), y0, [0.0, 1.0], adjoint=graphless_adjoint)
    first = torch.autograd.grad(y[-1].sum(), [y0, w], create_graph=True)
    for gradient in first:
        for tensor in (y0, w):
            with pytest.raises(RuntimeError, match="Only adjoint='backprop' gives derivatives of second order"):
                torch.autograd.grad(gradient.sum(), tensor, retain_graph=True)


def test_the_others_refuse_a_penalty_on_their_gradient(graphless_adjoint, y0, w):
    y = odeint(oscillator_of(w), y0, [0.0, 1.0], adjoint=graphless_adjoint)
    loss = (y[-1] ** 2).sum()
    (gradient,) = torch.autograd.grad(loss, y0, create_graph=True)
    with pytest.raises(RuntimeError, match="Only adjoint='backprop' gives derivatives of second order"):
        (loss + (gradient**2).sum()).backward()


def test_a_graph_that_is_not_used_does_no_harm(adjoint, y0, w):
    y = odeint(oscillator_of(w), y0, [0.0, 1.0], adjoint=adjoint)
    with_graph = torch.autograd.grad(y[-1].sum(), [y0, w], create_graph=True)
    without = torch.autograd.grad(y[-1].sum(), [y0, w])
    for one, other in zip(with_graph, without, strict=True):
        assert torch.equal(one, other)


def test_the_graph_grows_with_the_steps(y0, w, adaptive_method, saved_tensors):
    few, many = (
        saved_tensors(
            lambda n=n: solve_ivp(
                oscillator_of(w), (0, 1), y0, method=adaptive_method, adjoint="backprop", **in_steps(n)
            )
        )
        for n in (3, 30)
    )
    assert many > 5 * few


def test_step_sizes_are_constants_of_the_derivative(y0, w):
    # As for the discrete adjoint: how the controller reacts is no part of the derivative.
    # (A first step chosen by the solver comes from a difference quotient, whose rounding is above 1e-12.)
    settings = {"rtol": 1e-2, "atol": 1e-2, "options": {"first_step": 0.1}}
    found = []
    for adjoint in ("discrete", "backprop"):
        y = odeint(oscillator_of(w), y0, [0.0, 3.0], adjoint=adjoint, **settings)
        found.append(torch.autograd.grad(y[-1].sum(), [y0, w]))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=0)

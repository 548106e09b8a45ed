"""A step recorded by autograd is the plain step, and its derivatives are those of the method's definition."""

import pytest
import torch

from skode.solvers import odeint
from skode.solvers.tableaus import METHODS

T, H = 0.3, 0.2


def test_a_recorded_step_is_the_plain_one(tableau, field, y, started):
    plain, graph = started(tableau, field, y), started(tableau, field, y, graph=True)
    t, state = T, y
    for h in (0.1, 0.05, -0.02):
        expected, found = plain.attempt(t, h, state), graph.attempt(t, h, state)
        torch.testing.assert_close(found.y_next, expected.y_next, rtol=1e-13, atol=1e-13)
        torch.testing.assert_close(found.stages, expected.stages, rtol=1e-12, atol=1e-12)
        if tableau.adaptive:
            torch.testing.assert_close(graph.error(found), plain.error(expected), rtol=0, atol=1e-13)
        t, state = t + h, expected.y_next.detach().clone()
        plain.accept(), graph.accept()


def test_gradients_of_a_recorded_step_are_those_of_its_definition(tableau, field, p, y, started, definition, draw):
    lam, given = draw(*y.shape), draw(tableau.n_stages, *y.shape)
    expected = definition(tableau, field, T, H, y).pulled(lam, given, [p], takes_over=False)
    at = y.clone().requires_grad_()
    taken = started(tableau, field, at, graph=True).attempt(T, H, at)
    loss = (lam * taken.y_next).sum() + (given * taken.stages.view_as(given)).sum()
    found = torch.autograd.grad(loss, [at, p])
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["rk4", "dopri5", "implicit_euler", "trapezoid", "gl4", "radauIIA5", "kvaerno5"])
def test_a_recorded_step_has_second_derivatives(name, field, p, y, started):
    def step(y, p_):
        with torch.no_grad():
            p.copy_(p_)
        moved = p_ - p_.detach() + p.detach()

        def func(t, y):
            return torch.sin(moved * y) * torch.cos(torch.as_tensor(t)) + 0.3 * y.roll(1, 0)

        return started(METHODS[name], func, y, graph=True).attempt(T, H, y).y_next

    assert torch.autograd.gradgradcheck(step, (y.clone().requires_grad_(), p.detach().clone().requires_grad_()))


@pytest.mark.parametrize("name", ["dopri5", "fehlberg2", "kvaerno3", "trapezoid"])
def test_gradients_pass_from_step_to_step(name, field, p, y, started, definition, draw):
    # Through the carried stage too: two steps at once, against finite differences along a direction.
    def twice(y):
        stepper = started(METHODS[name], field, y, graph=True)
        y1 = stepper.attempt(T, H, y).y_next
        stepper.accept()
        return (weights * stepper.attempt(T + H, H, y1).y_next).sum()

    weights, direction, size = draw(*y.shape), draw(*y.shape), 1e-3
    at = y.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(twice(at), at)
    values = {i: twice(y + i * size * direction).item() for i in (-2, -1, 1, 2)}
    slope = (8 * (values[1] - values[-1]) - (values[2] - values[-2])) / (12 * size)
    assert (gradient * direction).sum().item() == pytest.approx(slope, rel=1e-9)


@pytest.mark.parametrize("name", sorted(name for name, method in METHODS.items() if method.implicit))
def test_implicit_steps_have_derivatives_up_to_the_fourth(name):
    # Steps of dy/dt = -k y^3 against differences of the third derivative, and of the steps themselves.
    def solve(rate):
        how = {"rtol": 1e-3, "atol": 1e-3, "options": {"first_step": 0.5, "min_step": 0.5}}
        how = how if METHODS[name].adaptive else {"options": {"step_size": 0.5}}
        one = torch.ones(1, dtype=torch.float64)
        return odeint(lambda t, y: -rate * y**3, one, [0.0, 1.0], method=name, adjoint="backprop", **how)[-1, 0]

    def derivative(rate, order):
        rate = torch.tensor(rate, dtype=torch.float64, requires_grad=True)
        value = solve(rate)
        for _ in range(order):
            (value,) = torch.autograd.grad(value, rate, create_graph=True)
        return value.item()

    small = 1e-3
    for order in (1, 2, 3, 4):
        near = {i: derivative(0.7 + i * small, order - 1) for i in (-2, -1, 1, 2)}
        slope = (8 * (near[1] - near[-1]) - (near[2] - near[-2])) / (12 * small)
        assert derivative(0.7, order) == pytest.approx(slope, rel=1e-6)

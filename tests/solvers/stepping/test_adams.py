"""Multistep methods: the classical formulas, a Runge-Kutta start, and the chain rule through the history."""

import numpy as np
import pytest
import scipy.optimize
import torch

from skode.solvers import ConvergenceError
from skode.solvers.tableaus import METHODS

T, H, N = 0.3, 0.05, 8


@pytest.fixture(params=["explicit_adams", "implicit_adams"])
def adams(request):
    return METHODS[request.param]


def steps(stepper, y, n, h=H, t=T):
    """The states after each step, and the steps."""
    states, taken = [y], []
    for i in range(n):
        taken.append(stepper.attempt(t + i * h, h, states[-1]))
        states.append(taken[-1].y_next)
        if not taken[-1].stages.requires_grad:
            taken[-1].stages = taken[-1].stages.clone()
        stepper.accept()
    return states, taken


def three_eighths(func, t, y, h):
    k1 = func(t, y)
    k2 = func(t + h / 3, y + h * k1 / 3)
    k3 = func(t + 2 * h / 3, y + h * (-k1 / 3 + k2))
    k4 = func(t + h, y + h * (k1 - k2 + k3))
    return y + h * (k1 + 3 * k2 + 3 * k3 + k4) / 8


def classical(adams, func, y, n, h=H, t=T):
    """Bashforth's and Moulton's formulas as they are printed, the latter iterated to rest; with a graph."""

    def at(t, y):
        return func(torch.as_tensor(t, dtype=torch.float64), y)

    states, rates = [y], []
    for i in range(n):
        now, y = t + i * h, states[-1]
        rates.append(at(now, y))
        if i < adams.n_past:
            states.append(three_eighths(at, now, y, h))
        elif not adams.implicit:
            f0, f1, f2, f3 = rates[:-5:-1]
            states.append(y + h / 24 * (55 * f0 - 59 * f1 + 37 * f2 - 9 * f3))
        else:
            f0, f1, f2 = rates[:-4:-1]
            known = y + h / 24 * (19 * f0 - 5 * f1 + f2)
            new = y
            for _ in range(60):
                new = known + h / 24 * 9 * at(now + h, new)
            states.append(new)
    return states


@pytest.mark.parametrize("graph", [False, True])
@pytest.mark.parametrize("h", [H, -H])
def test_steps_are_those_of_the_classical_formulas(adams, field, y, graph, h, started):
    found, _ = steps(started(adams, field, y, graph=graph), y, N, h)
    expected = classical(adams, field, y, N, h)
    torch.testing.assert_close(torch.stack(found), torch.stack(expected), rtol=1e-13, atol=1e-13)


def test_a_moulton_step_is_the_root_of_its_equation(started):
    def func(t, y):
        return torch.cos(3 * y) + t

    y = torch.tensor([0.2], dtype=torch.float64)
    states, taken = steps(started(METHODS["implicit_adams"], func, y), y, 3)
    f2, f1, f0 = (np.cos(3 * states[i].item()) + T + i * H for i in range(3))
    known = states[2].item() + H / 24 * (19 * f0 - 5 * f1 + f2)
    root = scipy.optimize.brentq(lambda x: x - known - H * 9 / 24 * (np.cos(3 * x) + T + 3 * H), -2, 2, xtol=1e-15)
    assert states[3].item() == pytest.approx(root, rel=1e-13)
    assert [step.tableau.name for step in taken] == ["rk4", "rk4", "implicit_adams"]


def test_bashforth_costs_one_evaluation_a_step(y, field, started):
    stepper = started(METHODS["explicit_adams"], field, y)
    steps(stepper, y, 3)
    assert stepper.statistics.nfev == 3 * 4 - 1  # the first stage was known
    steps(stepper, y, 5, t=T + 3 * H)
    assert stepper.statistics.nfev == 3 * 4 - 1 + 5


def test_pulling_steps_back_is_the_chain_rule_through_the_history(adams, field, p, y, started, draw):
    lam = draw(*y.shape)
    at = y.clone().requires_grad_()
    expected = torch.autograd.grad((lam * classical(adams, field, at, N)[-1]).sum(), [at, p])
    _, taken = steps(started(adams, field, y, parameters=(p,)), y, N)
    stepper = started(adams, field, y, parameters=(p,))
    session, carried = stepper.field.session(), None
    for step in reversed(taken):
        stepper.remake(step, step.stages[0], last_is_used=True)
        pulled = stepper.pull(step, session, lam, carried, None)
        lam, carried = pulled.y, pulled.carried
    torch.testing.assert_close(lam, expected[0], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(session.parameter_gradients()[0], expected[1], rtol=1e-12, atol=1e-12)
    assert not carried.any()


def test_one_step_pulls_its_history_back(adams, field, p, y, started, draw):
    lam, given = draw(*y.shape), draw(adams.order, *y.shape)
    n_past = adams.n_past
    carried = draw(n_past, *y.shape)
    _, taken = steps(started(adams, field, y, parameters=(p,)), y, n_past + 1)
    step = taken[-1]
    past = step.stages[1 : 1 + n_past].view(n_past, *y.shape).clone().requires_grad_()
    at, t, h = step.y.clone().requires_grad_(), torch.tensor(step.t, dtype=torch.float64), step.h
    weights = {0.0: 55, -1.0: -59, -2.0: 37, -3.0: -9}
    if adams.implicit:
        weights = {0.0: 19, -1.0: -5, -2.0: 1, 1.0: 9}
    first = field(t, at)
    stages = [first, *past]
    end = at + h / 24 * sum(weights[-float(i)] * k for i, k in enumerate(stages))
    if adams.implicit:
        known, end = end, step.y_next
        for _ in range(60):
            end = known + h / 24 * 9 * field(t + h, end)
        stages.append(field(t + h, end))
    # Of what it hands on, its own derivative stands first, and the oldest is dropped.
    loss = (lam * end).sum() + (given * torch.stack(stages)).sum()
    loss = loss + (carried * torch.stack(stages[:n_past])).sum()
    expected = torch.autograd.grad(loss, [at, past, p])
    stepper = started(adams, field, y, parameters=(p,))
    session = stepper.field.session()
    stepper.remake(step, None, last_is_used=True)
    pulled = stepper.pull(step, session, lam, carried.flatten(1), given.flatten(1))
    torch.testing.assert_close(pulled.y, expected[0], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(pulled.carried.view_as(past), expected[1], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(session.parameter_gradients()[0], expected[2], rtol=1e-12, atol=1e-12)


def test_gradients_of_recorded_steps_are_those_of_the_classical_formulas(adams, field, p, y, started, draw):
    lam, at = draw(*y.shape), y.clone().requires_grad_()
    expected = torch.autograd.grad((lam * classical(adams, field, at, N)[-1]).sum(), [at, p])
    states, _ = steps(started(adams, field, at, graph=True), at, N)
    found = torch.autograd.grad((lam * states[-1]).sum(), [at, p])
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("graph", [False, True])
def test_the_history_is_dropped_when_the_step_size_changes(adams, field, y, graph, started):
    stepper = started(adams, field, y, graph=graph)
    states, before = steps(stepper, y, 6)
    found, after = steps(stepper, states[-1], 6, H / 2, T + 6 * H)
    expected = classical(adams, field, states[-1], 6, H / 2, T + 6 * H)
    torch.testing.assert_close(torch.stack(found), torch.stack(expected), rtol=1e-13, atol=1e-13)
    kinds = ["rk4"] * adams.n_past + [adams.name] * (6 - adams.n_past)
    assert [step.tableau.name for step in before] == [step.tableau.name for step in after] == kinds


def test_rounding_in_the_step_size_does_not_drop_the_history(adams, field, y, started):
    stepper = started(adams, field, y)
    states, _ = steps(stepper, y, 4)
    taken = stepper.attempt(T + 4 * H, H * (1 + 1e-12), states[-1])
    assert taken.tableau.name == adams.name


@pytest.mark.parametrize("graph", [False, True])
def test_an_iteration_that_does_not_converge_is_refused(started, graph):
    y = torch.ones(1, dtype=torch.float64)
    stepper = started(METHODS["implicit_adams"], lambda t, y: -1e3 * y, y, graph=graph)
    with pytest.raises(ConvergenceError, match="stiff"):
        steps(stepper, y, 3)

"""Steps in autograd graphs that go through several of them."""

import pytest
import torch

from skode.solvers import odeint, solve_ivp
from skode.solvers.stepping import RecordedStepper, recorded
from skode.solvers.tableaus import METHODS
from tests.solvers.problems import vector
from tests.solvers.stepping.test_explicit import (  # noqa: F401
    test_a_column_of_step_sizes_is_one_step_per_sample,
    test_a_last_stage_that_nothing_uses_is_not_evaluated_again,
    test_a_rejected_step_leaves_no_trace_but_its_first_stage,
    test_a_state_survives_the_steps_tried_from_it,
    test_a_step_is_what_its_definition_says,
    test_a_stepper_of_some_samples_goes_on_with_them,
    test_after_a_discontinuity_the_first_stage_is_evaluated_anew,
    test_pulling_a_step_is_its_vector_jacobian_product,
    test_samples_that_move_on_and_samples_that_stay,
    test_states_have_any_shape,
    test_the_next_step_starts_from_the_last_stage_where_it_can,
)


@pytest.fixture(params=["euler", "rk4", "heun3", "bosh3", "fehlberg2", "dopri5"])
def explicit_tableau(request):
    return METHODS[request.param]


tableau = explicit_tableau


@pytest.fixture(params=["bosh3", "fehlberg2", "dopri5"])
def adaptive_tableau(request):
    return METHODS[request.param]


@pytest.fixture
def explicit_kind():
    return RecordedStepper


@pytest.fixture
def graphs(monkeypatch):
    """Graphs that are pulled back, as the numbers of tensors in them whose cotangents are given."""
    found, grad = [], torch.autograd.grad

    def counted(outputs, *args, **kwargs):
        if isinstance(outputs, list):  # the call of a session
            found.append(len(outputs))
        return grad(outputs, *args, **kwargs)

    monkeypatch.setattr(torch.autograd, "grad", counted)
    return found


W = torch.tensor([[0.3, -1.0], [0.8, 0.1]], dtype=torch.float64, requires_grad=True)
JUMP = 0.63


def falls(t, y):
    return y[0, 0] - 1.1


falls.terminal = True


def func(t, y):
    """A nonlinear field that jumps."""
    return torch.tanh(y @ W) * torch.where(t < JUMP, 1.0, -2.0) + torch.cos(3 * t)


def gradients(y, *inputs, retain_graph=False):
    loss = (torch.arange(1.0, y.numel() + 1, dtype=y.dtype).view_as(y) * y**2).sum()
    return torch.autograd.grad(loss, [*inputs, W], retain_graph=retain_graph)


CASES = {
    "fixed": {"method": "rk4", "step_size": 0.02},
    "outputs inside fixed steps": {"method": "midpoint", "step_size": 0.07},
    "adaptive": {"method": "dopri5", "rtol": 1e-6, "atol": 1e-6},
    "rejections": {"method": "dopri5", "rtol": 1e-6, "atol": 1e-6, "first_step": 0.9},
    "a method that takes nothing over": {"method": "fehlberg2", "rtol": 1e-4, "atol": 1e-4},
    "a jump": {"method": "dopri5", "rtol": 1e-6, "atol": 1e-6, "jump_t": [JUMP]},
    "a jump in steps of each sample": {"rtol": 1e-6, "atol": 1e-6, "jump_t": [JUMP], "step_control": "per_sample"},
    "an event": {"rtol": 1e-6, "atol": 1e-6, "events": lambda t, y: y[0, 0] - 1.3},
    "a terminal event": {"rtol": 1e-6, "atol": 1e-6, "events": falls},
    "part of the steps kept": {"method": "rk4", "step_size": 0.05, "memory_budget": 200_000},
    "part of the adaptive steps kept": {"method": "dopri5", "rtol": 1e-7, "atol": 1e-7, "memory_budget": 100_000},
    "none of the steps kept": {"method": "dopri5", "rtol": 1e-6, "atol": 1e-6, "memory_budget": 0},
}


@pytest.mark.parametrize("how", CASES.values(), ids=CASES)
def test_gradients_are_those_of_autograd_and_the_same_in_a_second_pass(how):
    y0 = vector([1.0, 0.2], [-0.4, 0.7], requires_grad=True)
    span = vector(0.0, 1.0, requires_grad=True)
    jumps = {"jump_t": vector(*how["jump_t"], requires_grad=True)} if "jump_t" in how else {}
    times = [0.0, 0.31, 0.6, 1.0]
    found = []
    for adjoint in ("discrete", "backprop"):
        solution = solve_ivp(func, span, y0, t_eval=times, adjoint=adjoint, **how | jumps)
        inputs, reached = [y0, span, *jumps.values()], solution.y[torch.isfinite(solution.y).flatten(1).all(1)]
        found.append([reached.detach(), *gradients(reached, *inputs, retain_graph=adjoint == "discrete")])
        if adjoint == "discrete":
            again = gradients(reached, *inputs, retain_graph=True)
            assert all(torch.equal(one, other) for one, other in zip(again, found[0][1:], strict=True))
            steps = [torch.as_tensor(n) for n in (solution.n_accepted, solution.n_rejected)]
    assert all(map(torch.equal, map(torch.as_tensor, (solution.n_accepted, solution.n_rejected)), steps))
    torch.testing.assert_close(*found, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize(("method", "n_evaluations"), [("euler", 1), ("rk4", 4), ("heun3", 3)])
def test_a_graph_goes_through_steps_of_so_many_evaluations(method, n_evaluations, graphs):
    y = odeint(func, torch.ones(2, 2, dtype=torch.float64), [0.0, 1.0], method=method, options={"step_size": 0.01})
    gradients(y)
    steps = recorded.MOST_EVALUATIONS // n_evaluations
    assert graphs == [1] * -(-100 // steps)


def test_outputs_on_the_way_are_pulled_in_the_same_call(graphs):
    options = {"step_size": 0.02}
    y = odeint(func, torch.ones(2, 2, dtype=torch.float64), [0.0, 0.1, 0.2, 0.3], method="euler", options=options)
    gradients(y)
    assert graphs == [3]


def test_stages_that_nobody_reads_are_not_stacked(monkeypatch):
    def refused(*args, **kwargs):
        raise AssertionError("stages were stacked")

    y0 = torch.ones(2, 2, dtype=torch.float64, requires_grad=True)
    monkeypatch.setattr(torch, "stack", refused)
    for adjoint in ("discrete", "backprop"):
        y = odeint(func, y0, [0.0, 1.0], method="rk4", adjoint=adjoint, options={"step_size": 0.1})
        gradients(y, y0)
    with pytest.raises(AssertionError, match="were stacked"):
        odeint(func, y0, [0.0, 0.55, 1.0], method="midpoint", adjoint="backprop", options={"step_size": 0.1})


def test_a_field_that_writes_all_values_to_the_same_memory():
    memory = torch.empty(2, 2)

    def writes(t, y):
        return torch.mul(y, -1.0, out=memory)

    y0 = torch.ones(2, 2)
    with torch.no_grad():
        expected = odeint(lambda t, y: -y, y0, [0.0, 1.0], method="rk4", options={"step_size": 0.1})
        found = odeint(writes, y0, [0.0, 1.0], method="rk4", options={"step_size": 0.1})
    torch.testing.assert_close(found, expected)

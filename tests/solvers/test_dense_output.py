"""The solution as a function of time."""

import math

import numpy as np
import pytest
import torch

from skode.solvers import solve_ivp
from tests.solvers.problems import pendulum


@pytest.fixture
def y0():
    return torch.tensor([[1.0, 0.0], [0.5, 0.5], [-1.0, 2.0]], dtype=torch.float64)


@pytest.fixture(params=[(0.0, 4.0), (4.0, 0.0)], ids=["forward", "backward"])
def span(request):
    return request.param


def test_it_agrees_with_output_times(method, adjoint, y0, span, equal_steps):
    times = np.linspace(*span, 57)
    settings = {**equal_steps(method, 0.3), "adjoint": adjoint}
    expected = solve_ivp(pendulum, span, y0.requires_grad_(), t_eval=times, **settings).y
    sol = solve_ivp(pendulum, span, y0.requires_grad_(), dense_output=True, **settings).sol
    assert not sol(times).requires_grad
    torch.testing.assert_close(sol(times), expected.detach(), rtol=0, atol=1e-14)


def test_it_passes_through_the_ends_of_all_steps(adaptive_method, y0, span):
    solution = solve_ivp(pendulum, span, y0, method=adaptive_method, dense_output=True)
    torch.testing.assert_close(solution.sol(solution.t), solution.y, rtol=0, atol=1e-14)


def test_it_is_continuous_from_step_to_step(method, y0, span, equal_steps):
    solution = solve_ivp(pendulum, span, y0, dense_output=True, **equal_steps(method, 0.5))
    nodes = solution.t[1:-1].numpy()
    assert len(nodes) > 5
    before, after = np.nextafter(nodes, span[0]), np.nextafter(nodes, span[1])
    torch.testing.assert_close(solution.sol(before), solution.sol(after), rtol=0, atol=1e-13)


def test_its_slope_is_continuous_for_adaptive_methods(adaptive_method, y0):
    solution = solve_ivp(pendulum, (0.0, 4.0), y0, dense_output=True, method=adaptive_method)
    node, step = solution.t[3].item(), 1e-6
    left = (solution.sol(node) - solution.sol(node - step)) / step
    right = (solution.sol(node + step) - solution.sol(node)) / step
    torch.testing.assert_close(left, right, rtol=0, atol=1e-4)


@pytest.mark.parametrize("rtol", [1e-4, 1e-6, 1e-8])
def test_it_follows_the_tolerance_between_the_steps(adaptive_method, rtol):
    y0 = torch.tensor([1.0], dtype=torch.float64)
    settings = {"method": adaptive_method, "rtol": rtol, "atol": rtol}
    sol = solve_ivp(lambda t, y: torch.cos(t) * y, (0.0, 6.0), y0, dense_output=True, **settings).sol
    times = np.linspace(0.0, 6.0, 301)
    error = np.abs(sol(times).numpy()[:, 0] - np.exp(np.sin(times))).max()
    # Its order is one below that of the solution: at tight tolerances it falls behind the ends of the steps.
    assert error < 30 * rtol


@pytest.mark.parametrize(
    "t", [0.5, 1, np.float64(0.5), torch.tensor(0.5), [0.5, 0.7], np.array([0.7, 0.5]), torch.tensor([0.5])]
)
def test_times_may_be_a_number_or_several_in_any_order(t, y0):
    sol = solve_ivp(lambda t, y: -y, (0.0, 1.0), y0, dense_output=True, rtol=1e-9, atol=1e-9).sol
    times = np.asarray(t, dtype=float)
    expected = y0 * torch.exp(-torch.tensor(times)).reshape(*times.shape, 1, 1)
    assert sol(t).shape == (*times.shape, 3, 2)
    torch.testing.assert_close(sol(t), expected, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("outside", [-1e-9, 4.0 + 1e-9, math.nan, math.inf])
def test_times_outside_the_span_are_refused(outside, y0, span):
    sol = solve_ivp(pendulum, span, y0, dense_output=True).sol
    with pytest.raises(ValueError, match=r"t must lie inside the time span \[0.0, 4.0\]"):
        sol([1.0, outside])


def test_a_span_of_no_length_has_one_state(y0, adjoint):
    sol = solve_ivp(pendulum, (2.0, 2.0), y0, dense_output=True, adjoint=adjoint).sol
    assert torch.equal(sol(2.0), y0)
    assert torch.equal(sol([2.0, 2.0]), torch.stack([y0, y0]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_scalar_states(dtype):
    sol = solve_ivp(lambda t, y: -y, (0.0, 1.0), torch.tensor(1.0, dtype=dtype), dense_output=True, rtol=1e-5).sol
    assert sol(0.3).dtype == dtype
    assert sol(0.3).item() == pytest.approx(math.exp(-0.3), rel=1e-4)
    assert sol([0.3, 0.6]).shape == (2,)


@pytest.mark.parametrize("span", [(0, 1), (0, 0)])
@pytest.mark.parametrize("grad", [False, True])
def test_dense_output_does_not_change_with_the_callers_state(span, grad):
    y0 = torch.ones(2)
    start = y0.requires_grad_() if grad else y0
    solution = solve_ivp(lambda t, y: -y, span, start, dense_output=True)
    before = solution.sol(0.0).clone()
    with torch.no_grad():
        y0.fill_(100.0)
    assert torch.equal(solution.sol(0.0), before)

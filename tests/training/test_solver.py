"""The solver that estimators use: its options, counts, first steps and messages."""

import functools
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from skode.dynamics import MLPField
from skode.solvers import METHODS, MaxStepsError, NonFiniteDerivativeError, solve_ivp
from skode.training import Solver


class Growth(nn.Module):
    """``dz/dt = a z``."""

    def __init__(self):
        super().__init__()
        self.rate = nn.Parameter(torch.tensor(-1.0, dtype=torch.float64))

    def forward(self, t, z):
        return self.rate * z


@pytest.fixture
def y0():
    return torch.tensor([[1.0], [30.0]], dtype=torch.float64)


@pytest.mark.parametrize("grad", [False, True])
def test_steps_are_shared_where_gradients_are_recorded(y0, grad):
    field, solver = Growth(), Solver(rtol=1e-5, atol=1e-5)
    with torch.set_grad_enabled(grad):
        solution = solver(field, (0.0, 1.0), y0, t_eval=(1.0,))
        expected = solve_ivp(
            field, (0.0, 1.0), y0, t_eval=(1.0,), rtol=1e-5, atol=1e-5, step_control="shared" if grad else "per_sample"
        )
    assert torch.equal(solution.y, expected.y)
    assert solution.y.requires_grad == grad


@pytest.mark.parametrize("step_control", ["shared", "per_sample"])
def test_the_step_control_may_be_chosen(y0, step_control):
    with torch.no_grad():
        statistics = Solver(step_control=step_control)(Growth(), (0.0, 1.0), y0).statistics
    assert (statistics.by_sample is None) == (step_control == "shared")


@pytest.mark.parametrize("method", sorted(METHODS))
def test_every_method_is_given_the_steps_that_it_takes(y0, method):
    solution = Solver(method=method)(Growth(), (0.0, 1.0), y0, t_eval=(1.0,), first_step=0.05)
    torch.testing.assert_close(solution.y[-1], y0 * torch.exp(torch.tensor(-1.0)), rtol=0.06, atol=1e-2)
    if not METHODS[method].adaptive:
        assert solution.statistics.n_accepted == 10
        assert Solver(method=method, step_size=0.2)(Growth(), (0.0, 1.0), y0).statistics.n_accepted == 5


def test_solves_are_not_counted_unless_wished(y0):
    solver = Solver()
    solver(Growth(), (0.0, 1.0), y0)
    assert solver.solves is None


def test_solves_are_counted_together_with_those_of_replaced_solvers(y0):
    solver = Solver().counting()
    field = Growth()
    solver(field, (0.0, 1.0), y0)
    first = solver.replace(rtol=1e-8, atol=1e-9)(field, (0.0, 1.0), y0)
    apart = solver.counting()
    apart(field, (0.0, 1.0), y0)
    assert len(solver.solves) == 2
    assert len(apart.solves) == 1
    assert solver.solves[1].nfev == first.nfev > solver.solves[0].nfev
    first.y.sum().backward()
    assert solver.solves[1].nfev_backward > 0


@pytest.mark.parametrize("by_sample", [False, True])
def test_a_first_step_is_as_long_as_the_last_ones_were(y0, by_sample):
    field, ends = Growth(), (1.0, -1.0)
    span = torch.tensor([ends, ends], dtype=torch.float64) if by_sample else ends
    times = torch.full((2, 1), -1.0, dtype=torch.float64) if by_sample else (-1.0,)
    solver = Solver(rtol=1e-8, atol=1e-8, reuse_step_size=True).counting()
    first, second = (solver(field, span, y0, t_eval=times).statistics for _ in range(2))
    assert solver.first_step == pytest.approx((1.0 if by_sample else 2.0) / second.n_accepted)
    assert second.nfev < first.nfev
    assert solver.replace().first_step is None


def test_without_that_no_first_step_is_remembered(y0):
    solver = Solver()
    solver(Growth(), (0.0, 1.0), y0)
    assert solver.first_step is None


def test_failures_are_told_in_terms_of_parameters(y0):
    with pytest.raises(MaxStepsError, match="Loosen rtol and atol"):
        Solver(rtol=1e-10, atol=1e-12, max_steps=3)(Growth(), (0.0, 10.0), y0)
    with pytest.raises(MaxStepsError, match=r"Raise step_size\.") as failure:
        Solver(method="rk4", step_size=0.1, max_steps=3)(Growth(), (0.0, 10.0), y0)
    assert "max_steps" not in str(failure.value)


def test_a_state_that_is_not_finite_is_told_of(y0):
    with pytest.raises(NonFiniteDerivativeError, match="The state from which the ODE starts is NaN or infinite"):
        Solver()(Growth(), (0.0, 1.0), y0 * torch.nan)


def test_a_wrong_argument_is_no_failure_of_the_solve(y0):
    with pytest.raises(ValueError, match="method"):
        Solver(method="dopri6")(Growth(), (0.0, 1.0), y0)


def test_samples_that_fail_may_be_left_out(y0):
    y0 = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
    with torch.no_grad():
        solution = Solver(max_steps=15, rtol=1e-9, atol=1e-9, on_failure="nan")(Growth(), (0.0, 5.0), y0, t_eval=(5.0,))
    states = solution.y.flatten()
    assert states[0] == 0.0
    assert torch.isnan(states[1])


class Meeting:
    """Two threads that add up numbers, as processes do."""

    def __init__(self):
        self.barrier, self.sums = threading.Barrier(2, timeout=30), [None, None]

    def share(self, place):
        def total(value, n):
            self.sums[place] = np.array([value, n])
            self.barrier.wait()
            together = sum(self.sums)
            self.barrier.wait()
            return tuple(together)

        return SimpleNamespace(total=total)


@pytest.mark.parametrize("kind", ["fused", "plain"])
def test_steps_of_a_share_are_those_of_the_batch(kind):
    y0 = torch.randn((6, 2), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y0[4:] *= 30.0
    field = MLPField(2, (8,), generator=torch.Generator().manual_seed(0)).double()
    if kind == "plain":
        field = functools.partial(torch.nn.Module.__call__, field)

    def solved(y0, share=None):
        y0 = y0.clone().requires_grad_()
        solution = Solver(rtol=1e-6, atol=1e-6, share=share)(field, (0.0, 2.0), y0, (2.0,))
        return solution.y[-1], solution.statistics, torch.autograd.grad(solution.y.sum(), y0)[0]

    meeting = Meeting()
    with ThreadPoolExecutor(2) as pool:
        halves = list(pool.map(solved, y0.split(3), [meeting.share(0), meeting.share(1)]))
    states, statistics, gradient = solved(y0)
    assert (solved(y0[:3])[0] - states[:3]).abs().max() > 1e-9  # by itself it would take other steps
    assert [own.n_accepted for _, own, _ in halves] == [statistics.n_accepted] * 2
    torch.testing.assert_close(torch.cat([half[0] for half in halves]), states, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(torch.cat([half[2] for half in halves]), gradient, rtol=1e-12, atol=1e-12)

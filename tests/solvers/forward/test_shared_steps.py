"""Steps lead from one end of the span to the other, or to an error that says where and why they stopped."""

import itertools
import math
import pickle

import numpy as np
import pytest
import scipy.integrate
import torch

from skode.solvers import (
    MaxStepsError,
    NonFiniteDerivativeError,
    SolverError,
    StepSizeUnderflowError,
    get_method,
    odeint,
    solve_ivp,
)
from tests.solvers.problems import decay, explode, ones


def step_ends(func, span, **settings):
    """Where the steps of a solve end, its start included."""
    return solve_ivp(func, span, ones(1), **settings).t.numpy()


@pytest.mark.parametrize("span", [(0.0, 5.0), (5.0, 0.0), (-3.0, 2.0), (1e6, 1e6 + 5)])
def test_steps_lead_from_end_to_end_in_one_direction(method, span, equal_steps):
    settings = equal_steps(method, 0.3)
    ends = step_ends(decay, span, **settings)
    assert (ends[0], ends[-1]) == span
    assert (np.sign(np.diff(ends)) == np.sign(span[1] - span[0])).all()


def test_adaptive_steps_stay_below_max_step(adaptive_method):
    free = step_ends(decay, (0.0, 5.0), method=adaptive_method)
    kept = step_ends(decay, (0.0, 5.0), method=adaptive_method, max_step=0.1)
    assert np.diff(free).max() > 0.2
    # The last step may be stretched by a hundredth rather than leave a sliver behind.
    assert np.diff(kept)[:-1].max() <= 0.1 * (1 + 1e-12)
    assert np.diff(kept)[-1] <= 0.1 * 1.01


def test_the_first_step_has_the_given_size(adaptive_method):
    assert np.diff(step_ends(decay, (0.0, 5.0), method=adaptive_method, first_step=0.01))[0] == 0.01
    assert np.diff(step_ends(decay, (5.0, 0.0), method=adaptive_method, first_step=0.01))[0] == pytest.approx(-0.01)


def test_a_first_step_too_large_for_the_tolerance_is_rejected(adaptive_method):
    solution = solve_ivp(lambda t, y: -50 * y, (0.0, 1.0), ones(1), method=adaptive_method, first_step=1.0)
    assert solution.n_rejected > 0
    assert solution.y[-1].item() == pytest.approx(0.0, abs=1e-4)


def test_fixed_steps_divide_the_span_equally(fixed_method):
    ends = step_ends(decay, (0.0, 1.0), method=fixed_method, step_size=0.3)
    np.testing.assert_allclose(ends, [0.0, 0.25, 0.5, 0.75, 1.0], rtol=1e-15)


def test_rounding_adds_no_fixed_step(fixed_method):
    assert len(step_ends(decay, (0.0, 1.0), method=fixed_method, step_size=0.1)) == 11
    assert len(step_ends(decay, (0.0, 0.3), method=fixed_method, step_size=0.1)) == 4
    assert (0.8 - 0.2) / 0.1 > 6
    assert len(step_ends(decay, (0.2, 0.8), method=fixed_method, step_size=0.1)) == 7


@pytest.mark.parametrize(("ours", "scipys"), [("bosh3", "RK23"), ("dopri5", "RK45")])
@pytest.mark.parametrize("span", [(0.0, 20.0), (20.0, 0.0)])
def test_adaptive_steps_are_scipys(ours, scipys, span):
    def van_der_pol(t, y):
        return torch.stack([y[1], 5 * (1 - y[0] ** 2) * y[1] - y[0]]) * math.copysign(1.0, span[1] - span[0])

    def with_numpy(t, y):
        return van_der_pol(t, torch.from_numpy(y)).numpy()

    y0 = torch.tensor([2.0, 0.0], dtype=torch.float64)
    found = solve_ivp(van_der_pol, span, y0, method=ours, rtol=1e-3, atol=1e-6)
    expected = scipy.integrate.solve_ivp(with_numpy, span, y0.numpy(), method=scipys, rtol=1e-3, atol=1e-6)
    assert found.n_rejected > 10
    # The last step differs: here it is stretched to the end rather than leave a sliver behind.
    np.testing.assert_allclose(found.t[:-2], expected.t[: len(found.t) - 2], rtol=1e-7, atol=1e-7)


STAGES = {"euler": 1, "midpoint": 2, "rk4": 4, "bosh3": 3, "tsit5": 6, "dopri5": 6}


def test_fixed_steps_cost_their_stages(fixed_method, counted):
    func = counted(decay)
    solution = solve_ivp(func, (0.0, 1.0), ones(1), method=fixed_method, step_size=0.1)
    assert (solution.n_accepted, solution.n_rejected) == (10, 0)
    assert solution.nfev == func.n_calls == 10 * STAGES[fixed_method]


def test_adaptive_steps_cost_their_stages_less_the_one_they_share(adaptive_method, counted):
    func = counted(lambda t, y: torch.sin(20 * t) * y**2)
    solution = solve_ivp(func, (0.0, 3.0), ones(1), method=adaptive_method)
    attempts = solution.n_accepted + solution.n_rejected
    assert solution.n_rejected > 0
    # Two more choose the first step.
    assert solution.nfev == func.n_calls == 2 + attempts * STAGES[adaptive_method]
    assert solution.n_accepted == len(solution.t) - 1


def test_nfev_counts_calls_whatever_the_adjoint(method, adjoint, counted, equal_steps):
    func = counted(decay)
    y0 = ones(1).requires_grad_()
    solution = solve_ivp(func, (0.0, 1.0), y0, adjoint=adjoint, memory_budget=0, **equal_steps(method, 0.1))
    assert solution.nfev == func.n_calls
    solution.y[-1].sum().backward()
    # The graph of the first evaluation is kept, where it is a stage.
    kept = adjoint == "discrete" and get_method(method).fsal
    assert solution.nfev + solution.statistics.nfev_backward - kept == func.n_calls
    assert (func.n_calls == solution.nfev) == (adjoint == "backprop")


def test_nfev_counts_calls_of_a_field_with_its_own_pullback(tanh_field, batch, method, graphless_adjoint, equal_steps):
    solution = solve_ivp(tanh_field, (0.0, 1.0), batch, adjoint=graphless_adjoint, **equal_steps(method, 0.1))
    assert solution.nfev == tanh_field.n_forward + tanh_field.n_linearize


def test_each_attempt_counts_towards_max_steps():
    for max_steps in (1, 5, 17):
        with pytest.raises(MaxStepsError, match=rf"max_steps={max_steps} steps did not reach t=1000"):
            solve_ivp(lambda t, y: torch.cos(10 * t) * y, (0.0, 1000.0), ones(1), max_steps=max_steps)


def test_a_fixed_grid_beyond_max_steps_is_refused_at_once(fixed_method, counted):
    func = counted(decay)
    with pytest.raises(MaxStepsError, match="1000000000000 steps, more than max_steps=10000") as caught:
        solve_ivp(func, (2.0, 3.0), ones(1), method=fixed_method, step_size=1e-12)
    assert caught.value.time == 2.0
    assert caught.value.step_size == 1e-12
    assert func.n_calls <= 1


def end_of_domain(t, y):
    # y = (1 - t/2)^2 up to t = 2
    return -torch.sqrt(y)


def stiff(t, y):
    return -1e7 * (y - torch.cos(t))


def test_nan_at_the_start_is_reported_there(method, adjoint, counted):
    func = counted(lambda t, y: y * torch.tensor([1.0, math.nan]))
    with pytest.raises(NonFiniteDerivativeError, match=r"NaN or infinity in 1 of 2 elements at t=0\.5") as caught:
        odeint(func, ones(2), [0.5, 1.0], method=method, adjoint=adjoint)
    assert caught.value.time == 0.5
    assert func.n_calls < 10


def test_leaving_the_domain_is_reported_where_it_happens(adaptive_method, exact_adjoint, counted):
    func = counted(end_of_domain)
    with pytest.raises(NonFiniteDerivativeError, match="however small the step") as caught:
        odeint(func, ones(1), [0.0, 3.0], method=adaptive_method, adjoint=exact_adjoint)
    assert caught.value.time == pytest.approx(2.0, abs=1e-3)
    assert 0 < caught.value.step_size < 1e-12
    assert func.n_calls < 2000


def test_leaving_the_domain_backward_in_time_reports_a_negative_step(adaptive_method):
    with pytest.raises(NonFiniteDerivativeError) as caught:
        odeint(lambda t, y: torch.sqrt(y), ones(1), [3.0, 0.0], method=adaptive_method)
    assert caught.value.time == pytest.approx(1.0, abs=1e-3)
    assert -1e-12 < caught.value.step_size < 0


def test_leaving_the_domain_is_reported_by_fixed_steps(fixed_method, exact_adjoint):
    with pytest.raises(NonFiniteDerivativeError) as caught:
        odeint(end_of_domain, ones(1), torch.linspace(0, 3, 31), method=fixed_method, adjoint=exact_adjoint)
    assert caught.value.time == pytest.approx(2.0, abs=0.31)
    assert caught.value.step_size == pytest.approx(0.1)


@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float32, 1e-4), (torch.float64, 1e-5)])
def test_an_explosion_is_reported_where_it_happens(adaptive_method, exact_adjoint, counted, dtype, rtol):
    func = counted(explode)
    with pytest.raises(StepSizeUnderflowError, match="singular") as caught:
        odeint(
            func, ones(1, dtype=dtype), [0.0, 2.0], rtol=rtol, atol=rtol, method=adaptive_method, adjoint=exact_adjoint
        )
    assert caught.value.time == pytest.approx(1.0, abs=1e-3)
    assert 0 < caught.value.step_size < 1e-12
    assert func.n_calls < 10_000


def test_a_stiff_problem_ends_with_max_steps(adaptive_method, exact_adjoint, counted):
    func = counted(stiff)
    settings = {"method": adaptive_method, "adjoint": exact_adjoint, "max_steps": 300}
    with pytest.raises(MaxStepsError, match=r"max_steps=300 steps did not reach t=3;.*stiff") as caught:
        solve_ivp(func, (0.0, 3.0), ones(1), **settings)
    # Stability allows steps of a few times 1e-7.
    assert 0 < caught.value.time < 1e-3
    assert 1e-8 < caught.value.step_size < 1e-5
    assert func.n_calls <= 3 + 300 * 6


def test_a_tolerance_below_the_precision_of_the_dtype_is_named():
    with pytest.raises(SolverError, match="float64"):
        solve_ivp(decay, (0.0, 10.0), ones(1, dtype=torch.float32), rtol=1e-12, atol=0.0, max_steps=300)


@pytest.mark.parametrize("func", [explode, end_of_domain, stiff])
def test_errors_of_a_solve_survive_pickling(func):
    with pytest.raises(SolverError) as caught:
        solve_ivp(func, (0.0, 3.0), ones(1), max_steps=500)
    again = pickle.loads(pickle.dumps(caught.value))
    assert (type(again), str(again)) == (type(caught.value), str(caught.value))
    assert (again.time, again.step_size, again.advice) == (
        caught.value.time,
        caught.value.step_size,
        caught.value.advice,
    )


def test_the_backward_solve_of_the_continuous_adjoint_fails_with_the_same_errors():
    calls = itertools.count()

    def breaks_later(t, y):
        return -y if next(calls) < 40 else y * math.nan

    y0 = ones(1).requires_grad_()
    y = odeint(breaks_later, y0, [0.0, 0.5], rtol=1e-3, atol=1e-3, adjoint="continuous")
    calls = itertools.count(40)
    with pytest.raises(NonFiniteDerivativeError):
        y[-1].sum().backward()


def test_a_span_of_no_length_takes_no_step(method, adjoint, counted):
    func = counted(decay)
    y0 = ones(1).requires_grad_()
    solution = solve_ivp(func, (2.0, 2.0), y0, t_eval=[2.0], method=method, adjoint=adjoint)
    assert solution.n_accepted == 0
    assert func.n_calls == solution.nfev == 1
    solution.y.sum().backward()
    assert solution.y.item() == y0.grad.item() == 1.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_state_that_overflows_is_no_solution(dtype):
    huge = 0.5 * torch.finfo(dtype).max
    with pytest.raises(NonFiniteDerivativeError, match="overflowed"):
        solve_ivp(lambda t, y: torch.full_like(y, huge), (0.0, 10.0), torch.full((1,), huge, dtype=dtype))


@pytest.mark.parametrize("adjoint", ["discrete", "continuous", "backprop"])
@pytest.mark.parametrize("late", [lambda y: y[:1], lambda y: y.float(), lambda y: None])
def test_a_field_whose_value_changes_kind_later_is_refused(late, adjoint):
    y0 = torch.ones(3, dtype=torch.float64, requires_grad=True)
    with pytest.raises((ValueError, TypeError), match="func"):
        solve_ivp(lambda t, y: -y if t < 0.5 else late(-y), (0.0, 1.0), y0, adjoint=adjoint)

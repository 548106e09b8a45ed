"""Derivatives with respect to times: outputs move along the solution, and the whole solve with its initial time."""

import itertools
import math

import pytest
import torch

from skode.solvers import odeint, odeint_event, solve_ivp
from tests.solvers.problems import vector


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
    # Only the end of the last step is an output: it moves with the end of the span.
    span = torch.tensor(span, dtype=torch.float64, requires_grad=True)
    settings = {"rtol": 1e-7, "atol": 1e-7, "method": adaptive_method, "adjoint": adjoint}
    y = solve_ivp(field, span, torch.ones(1, dtype=torch.float64), **settings).y
    (found,) = torch.autograd.grad(y[-1].sum(), span)
    (expected,) = torch.autograd.grad(solution(span[1], span[0]), span)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)


def test_the_ends_of_steps_inside_the_span_stay_where_they_are(adaptive_method, adjoint):
    span = torch.tensor([0.3, 1.5], dtype=torch.float64, requires_grad=True)
    settings = {"rtol": 1e-7, "atol": 1e-7, "method": adaptive_method, "adjoint": adjoint}
    stepped = solve_ivp(field, span, torch.ones(1, dtype=torch.float64), **settings)
    assert len(stepped.t) > 3
    (found,) = torch.autograd.grad(stepped.y.sum(), span)
    times = [span[0], *stepped.t[1:-1], span[1]]
    (expected,) = torch.autograd.grad(sum(solution(t, span[0]) for t in times), span)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=0)


def test_derivatives_by_the_ends_are_the_field_there_however_coarse_the_steps(fixed_method, adjoint):
    # A linear problem, where the solution's sensitivity to its initial state is the numerical solution from 1 itself.
    def end(y0, span):
        settings = {"method": fixed_method, "step_size": 0.4, "adjoint": adjoint, "rtol": 1e-9, "atol": 1e-12}
        return solve_ivp(field, span, y0, **settings).y[-1].sum()

    y0 = torch.full((1,), 2.0, dtype=torch.float64, requires_grad=True)
    span = torch.tensor([0.3, 1.5], dtype=torch.float64, requires_grad=True)
    value = end(y0, span)
    sensitivity, (by_t0, by_t1) = torch.autograd.grad(value, [y0, span])
    assert by_t1.item() == pytest.approx(math.cos(1.5) * value.item(), rel=1e-12)
    assert by_t0.item() == pytest.approx(-sensitivity.item() * math.cos(0.3) * 2.0, rel=1e-12)


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


TABLE = torch.tensor([1.0, 5.0, -2.0, 3.0], dtype=torch.float64)
DECAY = 0.4


def tabulated(t, y):
    """``y' = r(t) - 0.4 y`` with a rate that changes at t = 1, 2 and 3."""
    return TABLE[t.long().clamp(0, 3)] - DECAY * y


def tabulated_solution(t0, t, y0=0.0):
    """Its solution, piece by piece."""
    y = y0
    low, high = sorted(float(torch.as_tensor(time).detach()) for time in (t0, t))
    knots = [k for k in (1.0, 2.0, 3.0) if low < k < high]
    ends = [t0, *(knots if t > t0 else knots[::-1]), t]
    for start, end in itertools.pairwise(ends):
        middle = (torch.as_tensor(start) + end).detach() / 2
        steady = TABLE[int(middle)] / DECAY
        y = steady + (y - steady) * torch.exp(-DECAY * (torch.as_tensor(end) - start))
    return y


def gradients_of_the_table(t0, t):
    times = torch.tensor([t0, t], dtype=torch.float64, requires_grad=True)
    return torch.autograd.grad(tabulated_solution(times[0], times[1]), times)[0]


KNOTS = {"jump_t": [1.0, 2.0, 3.0]}


def test_a_field_that_jumps_at_fixed_times_does_not_move_with_the_span(adaptive_method, adjoint):
    t = torch.tensor([0.0, 3.5], dtype=torch.float64, requires_grad=True)
    settings = {"rtol": 1e-9, "atol": 1e-9, "method": adaptive_method, "adjoint": adjoint}
    y = odeint(tabulated, torch.zeros(1, dtype=torch.float64), t, options=KNOTS, **settings)
    (found,) = torch.autograd.grad(y[-1].sum(), t)
    torch.testing.assert_close(found, torch.tensor([-0.2466, 1.9701], dtype=torch.float64), rtol=0, atol=5e-5)
    torch.testing.assert_close(found, gradients_of_the_table(0.0, 3.5), rtol=1e-6, atol=0)


@pytest.mark.parametrize("step_control", ["shared", "per_sample"])
@pytest.mark.parametrize("span", [(0.0, 3.5), (3.3, 0.2)])
def test_nor_where_it_is_solved_by_sample(adjoint, span, step_control):
    span = torch.tensor(span, dtype=torch.float64, requires_grad=True)
    settings = {"rtol": 1e-9, "atol": 1e-9, "adjoint": adjoint, "step_control": step_control, **KNOTS}
    y = solve_ivp(tabulated, span, torch.zeros(2, 1, dtype=torch.float64), **settings).y
    (found,) = torch.autograd.grad(y[0, -1].sum() if step_control == "per_sample" else y[-1, 0].sum(), span)
    torch.testing.assert_close(found, gradients_of_the_table(*span.tolist()), rtol=1e-7, atol=0)


def test_nor_where_samples_have_spans_of_their_own(adjoint):
    spans = torch.tensor([[0.0, 3.5], [1.5, 2.5], [2.7, 0.6], [0.2, 0.3]], dtype=torch.float64, requires_grad=True)
    settings = {"rtol": 1e-9, "atol": 1e-9, "adjoint": adjoint, "step_control": "per_sample", **KNOTS}
    solution = solve_ivp(tabulated, spans, torch.zeros(4, 1, dtype=torch.float64), t_eval=spans[:, 1:], **settings)
    (found,) = torch.autograd.grad(solution.y.sum(), spans)
    expected = torch.stack([gradients_of_the_table(*span) for span in spans.tolist()])
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=0)


def test_shared_steps_over_spans_of_samples_know_no_jumps():
    spans = torch.tensor([[0.0, 3.5], [1.5, 2.5]], dtype=torch.float64)
    with pytest.raises(ValueError, match="step_control='per_sample'"):
        solve_ivp(tabulated, spans, torch.zeros(2, 1), t_eval=spans, **KNOTS)


def test_an_interpolated_input_does_not_move_with_the_span(adjoint):
    # Kinks that the solver is not told of, at its default tolerances.
    knots, values = torch.linspace(0, 4, 5, dtype=torch.float64), torch.tensor([0.0, 3.0, -1.0, 2.0, 1.0]).double()

    def driven(t, y):
        i = torch.searchsorted(knots, t.detach(), right=True).clamp(1, 4) - 1
        return values[i] + (t - knots[i]) * (values[i + 1] - values[i]) - DECAY * y

    t = torch.tensor([0.25, 3.75], dtype=torch.float64, requires_grad=True)
    y = solve_ivp(driven, t, torch.ones(1, dtype=torch.float64), adjoint=adjoint).y[-1]
    (found,) = torch.autograd.grad(y.sum(), t)
    exact = solve_ivp(driven, t.detach(), torch.ones(1, dtype=torch.float64), rtol=1e-10, atol=1e-12, step_t=knots).y
    end = 1.25 - DECAY * exact[-1].item()
    start = -(0.75 - DECAY) * math.exp(-DECAY * 3.5)
    torch.testing.assert_close(found, torch.tensor([start, end], dtype=torch.float64), rtol=2e-3, atol=0)


def test_the_time_of_an_event_after_a_jump_moves_with_the_start(adjoint):
    # y' = 1 until t = 1, then 2: y = y0 + (1 - t0) + 2 (T - 1) = 3 at T = 1 + (2 + t0) / 2, and so dT / dt0 = 0.5
    t0 = torch.tensor(0.0, dtype=torch.float64, requires_grad=True)
    settings = {"adjoint": adjoint, "options": {"jump_t": [1.0]}, "rtol": 1e-9, "atol": 1e-9}
    time, y = odeint_event(
        lambda t, y: torch.where(t < 1.0, 1.0, 2.0) * torch.ones_like(y),
        torch.zeros(1, dtype=torch.float64),
        t0,
        event_fn=lambda t, y: y[0] - 3.0,
        **settings,
    )
    (found,) = torch.autograd.grad(time, t0, retain_graph=True)
    assert found.item() == pytest.approx(0.5, rel=1e-9)
    # The state at the event stays at its threshold, the one at the start is the initial state.
    (moved,) = torch.autograd.grad(y.sum(), t0, allow_unused=True, materialize_grads=True)
    assert moved.item() == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("step_control", ["shared", "per_sample"])
def test_events_of_samples_move_with_a_span_that_requires_grad(adjoint, step_control):
    span = torch.tensor([0.0, 3.0], dtype=torch.float64, requires_grad=True)
    settings = {"rtol": 1e-9, "atol": 1e-9, "adjoint": adjoint, "step_control": step_control}
    y0 = torch.tensor([[1.0], [2.0]], dtype=torch.float64)
    found = solve_ivp(lambda t, y: -t * y, span, y0, events=lambda t, y: y[:, 0] - 0.5, **settings)
    # y0 exp((t0^2 - T^2) / 2) = 1 / 2 where T^2 = t0^2 + 2 log(2 y0), so that dT / dt0 = t0 / T; here t0 = 0
    expected = (2 * torch.log(2 * y0[:, 0])).sqrt()
    torch.testing.assert_close(found.t_events[0][:, 0].detach(), expected, rtol=1e-7, atol=0)
    (gradient,) = torch.autograd.grad(found.t_events[0].sum(), span)
    torch.testing.assert_close(gradient, torch.zeros(2, dtype=torch.float64), rtol=0, atol=1e-9)
    span = torch.tensor([0.5, 3.0], dtype=torch.float64, requires_grad=True)
    found = solve_ivp(lambda t, y: -t * y, span, y0, events=lambda t, y: y[:, 0] - 0.5, **settings)
    (gradient,) = torch.autograd.grad(found.t_events[0].sum(), span)
    assert gradient[0].item() == pytest.approx((0.5 / (0.25 + expected**2).sqrt()).sum().item(), rel=1e-7)


def regimes(times):
    """A field that is 1 - y before the first of these times, sin(t) y between them, and y^2 / 2 after both."""

    def func(t, y):
        first, second = (torch.as_tensor(t >= time).broadcast_to(y.shape) for time in times)
        return torch.where(second, 0.5 * y**2, torch.where(first, torch.sin(t) * y, 1 - y))

    return func


def end_of_regimes(start, first, second, end, y0):
    y = 1 + (y0 - 1) * torch.exp(start - first)
    y = y * torch.exp(torch.cos(first) - torch.cos(second))
    return 1 / (1 / y - (end - second) / 2)


@pytest.mark.parametrize("step_control", ["shared", "per_sample"])
def test_times_of_jumps_have_gradients(adaptive_method, adjoint, step_control):
    start, jumps, end = torch.tensor([0.1, 0.7, 1.3, 1.9], dtype=torch.float64).split([1, 2, 1])
    span = torch.cat([start, end]).requires_grad_()
    jumps = jumps.clone().requires_grad_()
    y0 = torch.tensor([[0.3], [-0.4]], dtype=torch.float64)
    settings = {"rtol": 1e-9, "atol": 1e-9, "method": adaptive_method, "adjoint": adjoint, "step_control": step_control}
    y = solve_ivp(regimes(jumps.tolist()), span, y0, t_eval=[1.0, 1.9], jump_t=jumps, **settings).y
    (found, by_span) = torch.autograd.grad(y[-1].sum(), [jumps, span])
    loss = end_of_regimes(span[0], jumps[0], jumps[1], torch.tensor(1.9, dtype=torch.float64), y0).sum()
    expected, by_span_expected = torch.autograd.grad(loss, [jumps, span], materialize_grads=True, allow_unused=True)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(by_span, by_span_expected, rtol=1e-6, atol=1e-7)


def test_times_of_jumps_have_gradients_in_odeint_and_backward_in_time(adjoint):
    jumps = torch.tensor([1.3, 0.7], dtype=torch.float64, requires_grad=True)  # in any order
    t = torch.tensor([1.9, 0.1], dtype=torch.float64, requires_grad=True)
    y0 = end_of_regimes(*torch.tensor([0.1, 0.7, 1.3, 1.9], dtype=torch.float64), torch.tensor([0.3]).double())
    settings = {"rtol": 1e-10, "atol": 1e-10, "adjoint": adjoint, "options": {"jump_t": jumps}}
    y = odeint(regimes([0.7, 1.3]), y0, t, **settings)[-1]
    torch.testing.assert_close(y, torch.tensor([0.3], dtype=torch.float64), rtol=1e-6, atol=0)
    found = torch.autograd.grad(y.sum(), [jumps, t])

    def solved(second, first, end, start):  # the inverse of the three pieces
        y = 1 / (1 / y0 + (end - second) / 2)
        y = y * torch.exp(torch.cos(second) - torch.cos(first))
        return (1 + (y - 1) * torch.exp(first - start)).sum()

    expected = torch.autograd.grad(solved(*jumps, *t), [jumps, t])
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-8)


def test_times_of_jumps_have_gradients_by_sample_in_either_direction(adjoint):
    jumps = torch.tensor([0.7, 1.3], dtype=torch.float64, requires_grad=True)
    spans = torch.tensor([[0.1, 1.9], [1.9, 0.1], [0.9, 1.5], [0.0, 0.2], [0.7, 1.6]], dtype=torch.float64)
    y0 = torch.full((5, 1), 0.3, dtype=torch.float64, requires_grad=True)
    settings = {"rtol": 1e-10, "atol": 1e-10, "adjoint": adjoint, "step_control": "per_sample", "jump_t": jumps}
    together = solve_ivp(regimes([0.7, 1.3]), spans, y0, t_eval=spans[:, 1:], **settings).y[:, 0, 0]
    for i, span in enumerate(spans.tolist()):
        alone = odeint(
            regimes([0.7, 1.3]),
            y0[i],
            torch.tensor(span, dtype=torch.float64),
            adjoint="backprop",
            rtol=1e-10,
            atol=1e-10,
            options={"jump_t": jumps},
        )[-1]
        wanted = torch.autograd.grad(alone.sum(), jumps, allow_unused=True, materialize_grads=True)
        found = torch.autograd.grad(together[i], jumps, retain_graph=True, materialize_grads=True)
        torch.testing.assert_close(found, wanted, rtol=1e-7, atol=1e-8)


def test_a_jump_outside_the_span_has_no_gradient(adjoint):
    jumps = torch.tensor([-1.0, 5.0], dtype=torch.float64, requires_grad=True)
    y0 = torch.ones(1, dtype=torch.float64, requires_grad=True)
    y = odeint(field, y0, torch.tensor([0.3, 1.5]).double(), adjoint=adjoint, options={"jump_t": jumps})
    (found,) = torch.autograd.grad(y.sum(), jumps, allow_unused=True, materialize_grads=True)
    assert not found.any()


@pytest.mark.parametrize("span", [(1.0, 2.0), (2.0, 1.0)])
@pytest.mark.parametrize("step_control", ["shared", "per_sample"])
def test_jumps_at_the_ends_of_the_span_are_on_their_far_sides(adaptive_method, adjoint, span, step_control):
    # Seen from inside, the field is 5: one step is enough, whatever is beyond the ends.
    def func(t, y):
        return torch.where((t > 1.0) & (t < 2.0), 5.0, 1e3) * torch.ones_like(y)

    t = torch.tensor(span, dtype=torch.float64, requires_grad=True)
    y0 = torch.zeros(1, 1, dtype=torch.float64)
    settings = {"method": adaptive_method, "adjoint": adjoint, "step_control": step_control, "max_steps": 20}
    found = solve_ivp(func, t, y0, jump_t=[1.0, 2.0], t_eval=[span[1]], **settings)
    assert found.y.item() == pytest.approx(5.0 * (span[1] - span[0]), rel=1e-9)
    assert found.n_rejected == 0


@pytest.mark.parametrize("later", [torch.ge, torch.gt])
@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("step_control", ["shared", "per_sample"])
def test_an_output_and_the_ends_of_the_span_may_move_with_a_jump(adjoint, step_control, backward, later):
    # y' = y until the jump, then 3 y (backward in time 3 y, then y), whatever the field says at the jump itself.
    rates, sign = ((3.0, 1.0), -1.0) if backward else ((1.0, 3.0), 1.0)
    jump = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    y0 = torch.tensor([[1.0], [2.0]], dtype=torch.float64)

    def func(t, y):
        return torch.where(later(t, jump), 3.0, 1.0) * y

    def solved(*times):
        span = torch.stack([torch.as_tensor(t, dtype=torch.float64) for t in (times[0], times[-1])])
        t = torch.stack([torch.as_tensor(t, dtype=torch.float64) for t in times])
        settings = {"rtol": 1e-10, "atol": 1e-10, "adjoint": adjoint, "step_control": step_control, "jump_t": jump}
        return solve_ivp(func, span, y0, t_eval=t, **settings).y[:, :, 0]

    first, last = (1.0, 0.0) if backward else (0.0, 1.0)
    before, after = sign * rates[0], sign * rates[1]
    y = solved(first, jump, last)
    for found, log, rate in (
        (y[1], before * abs(0.4 - first), rates[0]),
        (y[2], before * abs(0.4 - first) + after * abs(last - 0.4), rates[0] - rates[1]),
        (solved(first, jump)[-1], before * abs(0.4 - first), rates[0]),
        (solved(jump, last)[-1], after * abs(last - 0.4), -rates[1]),
        (solved(jump, last)[0], 0.0, 0.0),
    ):
        (gradient,) = torch.autograd.grad(found.sum(), jump, retain_graph=True)
        assert gradient.item() == pytest.approx(3.0 * rate * math.exp(log), rel=1e-7, abs=1e-9)


@pytest.mark.parametrize("step_control", ["shared", "per_sample"])
def test_an_event_at_a_jump_moves_along_the_field_before_it(adjoint, step_control):
    jump = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    settings = {"rtol": 1e-10, "atol": 1e-10, "adjoint": adjoint, "step_control": step_control, "jump_t": jump}
    found = solve_ivp(
        lambda t, y: torch.where(t >= jump, 3.0, 1.0) * y,
        (0.0, 1.0),
        torch.tensor([[1.0], [2.0]], dtype=torch.float64),
        events=lambda t, y: (t - jump + 0 * y).flatten() if step_control == "per_sample" else t - jump,
        **settings,
    )
    (gradient,) = torch.autograd.grad(found.y_events[0].sum(), jump)
    assert gradient.item() == pytest.approx(3.0 * math.exp(0.4), rel=1e-7)


def test_perturbed_outputs_move_along_the_field_inside_the_steps(adjoint):
    t = torch.tensor([0.0, 1.0, 2.0], dtype=torch.float64, requires_grad=True)
    y0 = torch.zeros(1, dtype=torch.float64)
    settings = {"method": "rk4", "adjoint": adjoint, "options": {"perturb": True}}
    y = odeint(lambda t, y: torch.ceil(t) + torch.floor(t) + 0 * y, y0, t, **settings)
    assert torch.autograd.grad(y[1, 0], t, retain_graph=True)[0].tolist() == [-1.0, 1.0, 0.0]
    assert torch.autograd.grad(y[2, 0], t)[0].tolist() == [-1.0, 0.0, 3.0]


def test_no_time_passes_and_the_ends_still_move(adjoint):
    # y' = -2 y at y = 1, where the span has no length
    span = torch.tensor([1.0, 1.0], dtype=torch.float64, requires_grad=True)
    y0 = torch.ones(1, dtype=torch.float64)
    y = solve_ivp(lambda t, y: -2 * y, span, y0, t_eval=span[1:], adjoint=adjoint).y
    (found,) = torch.autograd.grad(y.sum(), span)
    assert found.tolist() == [2.0, -2.0]
    per_sample = torch.tensor([[1.0, 1.0], [0.0, 1.0]], dtype=torch.float64, requires_grad=True)
    settings = {"adjoint": adjoint, "rtol": 1e-10, "atol": 1e-10}
    y = solve_ivp(lambda t, y: -2 * y, per_sample, y0.expand(2, 1), t_eval=per_sample[:, 1:], **settings).y
    (found,) = torch.autograd.grad(y.sum(), per_sample)
    end = 2 * math.exp(-2.0)
    expected = torch.tensor([[2.0, -2.0], [end, -end]], dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=0)


def test_backprop_has_four_derivatives_by_every_time():
    # y' = y cos(t) until tau, then y^2: all times and the initial state at once, mixed derivatives included.
    def func(t, y):
        return torch.where(t < 0.7, torch.cos(t) * y, y**2)

    def solved(t0, tau, t1, y0):
        options = {"jump_t": tau.reshape(1)}
        settings = {"rtol": 1e-12, "atol": 1e-12, "adjoint": "backprop", "method": "dopri8", "options": options}
        return odeint(func, y0.reshape(1), torch.stack([t0, t1]), **settings)[-1].sum()

    def exact(t0, tau, t1, y0):
        y = y0 * torch.exp(torch.sin(tau) - torch.sin(t0))
        return 1 / (1 / y - (t1 - tau))

    at = tuple(torch.tensor(x, dtype=torch.float64) for x in (0.2, 0.7, 1.1, 0.8))
    hessian = torch.autograd.functional.hessian
    found, expected = hessian(solved, at), hessian(exact, at)
    for row, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(row, wanted, rtol=1e-8, atol=1e-8)
    for i in (0, 2):
        deeper = []
        for function in (solved, exact):
            inputs = [x.clone().requires_grad_(j == i) for j, x in enumerate(at)]
            value = function(*inputs)
            for _ in range(4):
                (value,) = torch.autograd.grad(value, inputs[i], create_graph=True)
            deeper.append(value.item())
        assert deeper[0] == pytest.approx(deeper[1], rel=1e-6)


@pytest.mark.parametrize("adjoint", ["discrete", "continuous"])
def test_the_other_adjoints_refuse_a_second_derivative_by_a_time(adjoint):
    rate = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    t = torch.tensor([0.0, 1.0], dtype=torch.float64, requires_grad=True)
    y = odeint(lambda t, y: -rate * y, torch.ones(1, dtype=torch.float64), t, adjoint=adjoint)[-1].sum()
    for first, second in ((t, t), (t, rate), (rate, t), (rate, rate)):
        (gradient,) = torch.autograd.grad(y, first, create_graph=True)
        with pytest.raises(RuntimeError, match="can't be differentiated again"):
            torch.autograd.grad(gradient.sum(), second)


def test_outputs_that_were_not_reached_give_times_no_gradient(adjoint):
    # y' = y^2 from 1 blows up at t = 1; the sample from 0.1 does not.
    t_eval = torch.tensor([0.5, 0.9, 2.0], dtype=torch.float64, requires_grad=True)
    y0 = torch.tensor([[1.0], [0.1]], dtype=torch.float64)
    settings = {"adjoint": adjoint, "rtol": 1e-9, "atol": 1e-9, "on_failure": "nan", "step_control": "per_sample"}
    y = solve_ivp(lambda t, y: y**2, (0.0, 3.0), y0, t_eval=t_eval, **settings).y[..., 0]
    assert y.isnan().sum() == 1
    (found,) = torch.autograd.grad(torch.nan_to_num(y).sum(), t_eval)
    # The solutions are 1 / (1 / y0 - t), whose derivatives are their squares
    exact = 1 / (1 / y0 - t_eval.detach())
    exact[0, 2] = 0.0
    torch.testing.assert_close(found, (exact**2).sum(0), rtol=1e-6, atol=0)


@pytest.mark.parametrize("method", ["dopri5", "bosh3", "kvaerno5"])
@pytest.mark.parametrize("times", [[[0.0, 0.5], [0.25, 0.5]], [[0.0, 0.5], [0.0, 0.5]]])
def test_outputs_at_the_start_of_samples_whose_first_steps_are_taken_in_different_rounds(adjoint, method, times):
    y0, t = vector([30.0], [1.0], requires_grad=True), vector(*times, requires_grad=True)
    y = solve_ivp(
        lambda t, y: -(y**3), (0, 1), y0, t_eval=t, step_control="per_sample", first_step=0.05, rtol=1e-6, atol=1e-8,
        adjoint=adjoint, method=method,
    ).y  # fmt: skip
    # y(t) = y0 / sqrt(1 + 2 y0^2 t)
    exact = y0 / torch.sqrt(1 + 2 * y0**2 * t)
    torch.testing.assert_close(y[..., 0], exact, rtol=1e-4, atol=0)
    for ours, truth in zip(
        torch.autograd.grad(y.sum(), [t, y0]), torch.autograd.grad(exact.sum(), [t, y0]), strict=True
    ):
        torch.testing.assert_close(ours, truth, rtol=2e-2, atol=1e-3)

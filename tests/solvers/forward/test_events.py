"""Events against SciPy's, against closed forms, and in torchdiffeq's convention."""

import math

import numpy as np
import pytest
import scipy.integrate
import torch
from torch import nn

from skode.solvers import MaxStepsError, odeint, odeint_event, solve_ivp
from tests.solvers.problems import vector

TIGHT = {"rtol": 1e-11, "atol": 1e-12}
GRAVITY = 9.81


def oscillator(t, y):
    return torch.stack([y[..., 1], -y[..., 0]], dim=-1)


def scipys_oscillator(t, y):
    return [y[1], -y[0]]


def crossing(level=0.0, direction=0.0, terminal=False, feature=0):
    """Events ``y[feature] = level``, for torch and for SciPy alike."""

    def event(t, y):
        return y[..., feature] - level

    event.direction, event.terminal = direction, terminal
    return event


def compare(events, span=(0.0, 20.0), y0=(0.3, 1.0), t_eval=None, method="dopri5"):
    """Our solution and SciPy's agree in all that they say of events."""
    ours = solve_ivp(oscillator, span, vector(*y0), events=events, t_eval=t_eval, method=method, **TIGHT)
    theirs = scipy.integrate.solve_ivp(
        scipys_oscillator, span, np.array(y0), "DOP853", events=events, t_eval=t_eval, rtol=1e-12, atol=1e-13
    )
    assert ours.status == theirs.status
    assert ours.message == theirs.message
    assert ours.success is theirs.success is True
    assert len(ours.t_events) == len(theirs.t_events)
    for t, expected in zip(ours.t_events, theirs.t_events, strict=True):
        assert t.dtype == torch.float64
        np.testing.assert_allclose(t, expected, rtol=0, atol=1e-8)
    for y, expected in zip(ours.y_events, theirs.y_events, strict=True):
        assert y.shape[1:] == (2,)
        np.testing.assert_allclose(y, expected.reshape(-1, 2), rtol=0, atol=1e-8)
    if t_eval is not None:
        np.testing.assert_array_equal(ours.t, theirs.t)
        np.testing.assert_allclose(ours.y, theirs.y.T.reshape(-1, 2), rtol=0, atol=1e-8)
    else:
        np.testing.assert_allclose(ours.t[[0, -1]], theirs.t[[0, -1]], rtol=0, atol=1e-8)
        np.testing.assert_allclose(ours.y[-1], theirs.y[:, -1], rtol=0, atol=1e-8)
    return ours


@pytest.mark.parametrize("method", ["dopri5", "tsit5", "bosh3", "dopri8", "kvaerno5", "radauIIA5", "rk4"])
def test_every_kind_of_method_finds_events(method):
    settings = {"step_size": 0.01} if method in ("radauIIA5", "rk4") else {"rtol": 1e-9, "atol": 1e-9}
    solution = solve_ivp(
        oscillator, (0.0, 10.0), vector(1.0, 0.0), method=method, events=crossing(), max_steps=100_000, **settings
    )
    expected = vector(0.5, 1.5, 2.5) * math.pi
    torch.testing.assert_close(solution.t_events[0], expected, rtol=0, atol=2e-7)
    torch.testing.assert_close(solution.y_events[0][:, 1], vector(-1.0, 1.0, -1.0), rtol=0, atol=2e-7)
    # The root is that of the interpolant, to the last digits
    assert solution.y_events[0][:, 0].abs().max() < 1e-13


@pytest.mark.parametrize("direction", [-1.0, 0.0, 1.0])
@pytest.mark.parametrize("span", [(0.0, 20.0), (20.0, 0.0), (-3.0, -20.0)])
def test_directions(direction, span):
    solution = compare(crossing(0.2, direction), span)
    assert len(solution.t_events[0]) >= 2


@pytest.mark.parametrize("terminal", [True, 1, 2, 5])
@pytest.mark.parametrize("span", [(0.0, 20.0), (20.0, 0.0)])
@pytest.mark.parametrize("t_eval", [None, "inside"])
def test_terminal_counts(terminal, span, t_eval):
    times = None if t_eval is None else np.linspace(*span, 41)
    solution = compare(crossing(0.2, 0.0, terminal), span, t_eval=times)
    assert solution.status == 1
    assert len(solution.t_events[0]) == int(terminal)


def test_a_terminal_count_that_is_not_reached():
    assert compare(crossing(0.2, 0.0, 50)).status == 0


def test_no_event():
    solution = compare(crossing(5.0, 0.0, True))
    assert solution.t_events[0].shape == (0,)
    assert solution.y_events[0].shape == (0, 2)


def test_without_events_there_are_none():
    solution = solve_ivp(oscillator, (0.0, 1.0), vector(1.0, 0.0))
    assert solution.t_events is None is solution.y_events


def test_several_events_at_once():
    events = [crossing(0.2), crossing(0.5, 1.0), crossing(0.0, 0.0, 4, feature=1), crossing(9.0)]
    solution = compare(events)
    assert solution.status == 1
    assert len(solution.t_events[2]) == 4


def test_several_terminal_events_the_first_of_which_ends_the_solve():
    compare([crossing(0.9, 0.0, True), crossing(0.8, 0.0, True)])
    compare([crossing(0.8, 0.0, True), crossing(0.9, 0.0, True)])


def test_two_events_in_one_long_step_are_told_apart():
    # One step crosses both levels: the one after the terminal event does not happen.
    def field(t, y):
        return torch.ones_like(y)

    levels = [crossing(0.25, 0.0, True), crossing(0.75)]
    solution = solve_ivp(field, (0.0, 1.0), vector(0.0), events=levels, first_step=1.0)
    assert solution.t_events[0].tolist() == pytest.approx([0.25], abs=1e-14)
    assert solution.t_events[1].shape == (0,)
    swapped = solve_ivp(field, (0.0, 1.0), vector(0.0), events=[levels[1], levels[0]], first_step=1.0)
    assert swapped.t_events[0].shape == (0,)
    assert swapped.t[-1] == pytest.approx(0.25, abs=1e-14)


def test_events_that_depend_on_time():
    def event(t, y):
        return t - 1.25

    compare(event, (0.0, 3.0))
    compare(event, (3.0, 0.0))


@pytest.mark.parametrize("direction", [0.0, 1.0, -1.0])
@pytest.mark.parametrize("span", [(0.0, 4.0), (0.0, -4.0)])
def test_an_event_at_the_very_start_is_as_scipys(direction, span):
    compare(crossing(0.0, direction), span, y0=(0.0, 1.0))


def test_an_event_at_a_steps_end_is_counted_once():
    # y = t exactly: steps of 0.25 end at the level.
    def field(t, y):
        return torch.ones_like(y)

    for method in ("euler", "rk4"):
        solution = solve_ivp(
            field, (0.0, 1.0), vector(0.0), method=method, step_size=0.25, events=[crossing(0.5), crossing(1.0)]
        )
        assert solution.t_events[0].tolist() == [0.5]
        assert solution.t_events[1].tolist() == [1.0]
    adaptive = solve_ivp(field, (0.0, 1.0), vector(0.0), max_step=0.25, first_step=0.25, events=crossing(0.5))
    assert adaptive.t_events[0].tolist() == [0.5]


def test_a_terminal_event_at_a_steps_end():
    def field(t, y):
        return torch.ones_like(y)

    solution = solve_ivp(
        field, (0.0, 1.0), vector(0.0), method="euler", step_size=0.25, events=crossing(0.5, 0.0, True)
    )
    assert solution.status == 1
    assert solution.t.tolist() == [0.0, 0.25, 0.5]
    assert solution.y[:, 0].tolist() == [0.0, 0.25, 0.5]


def test_t_eval_at_the_terminal_event_is_kept():
    solution = solve_ivp(
        lambda t, y: torch.ones_like(y),
        (0.0, 1.0),
        vector(0.0),
        method="euler",
        step_size=0.25,
        t_eval=[0.0, 0.3, 0.5, 0.6],
        events=crossing(0.5, 0.0, True),
    )
    assert solution.t.tolist() == [0.0, 0.3, 0.5]
    torch.testing.assert_close(solution.y[:, 0], vector(0.0, 0.3, 0.5), rtol=1e-15, atol=1e-15)


def test_dense_output_ends_at_the_terminal_event():
    solution = solve_ivp(
        oscillator, (0.0, 20.0), vector(1.0, 0.0), events=crossing(0.0, 0.0, True), dense_output=True, **TIGHT
    )
    torch.testing.assert_close(
        solution.sol(vector(1.0)),
        torch.cos(vector(1.0)).new_tensor([[math.cos(1.0), -math.sin(1.0)]]),
        rtol=0,
        atol=1e-9,
    )
    torch.testing.assert_close(solution.sol(solution.t_events[0]), solution.y_events[0], rtol=0, atol=1e-11)


STARTING_AT_ZERO = {
    "position": lambda t, y: y[..., 0],
    "speed": lambda t, y: y[..., 1],
    "product": lambda t, y: y[..., 0] * y[..., 1],
    "time": lambda t, y: t * (1.3 - t) * (t + 1.7) + 0 * y[..., 0],
    "square": lambda t, y: y[..., 0] ** 2 - 0.5 * abs(y[..., 0]),
}


def attributed(func, direction, terminal):
    def event(t, y):
        return func(t, y)

    event.direction, event.terminal = direction, terminal
    return event


@pytest.mark.parametrize("direction", [-1, 0, 1])
@pytest.mark.parametrize("name", list(STARTING_AT_ZERO))
def test_a_function_that_is_zero_at_the_start_as_scipy_has_it(name, direction):
    for y0, end in (((0.0, 1.0), 4.0), ((1.0, 0.0), -4.0)):
        for terminal in (False, True, 2):
            event = attributed(STARTING_AT_ZERO[name], direction, terminal)
            compare([crossing(0.4), event, crossing(-0.2, direction=1.0)], (0.0, end), y0, method="dopri8")


@pytest.mark.parametrize("step_control", ["shared", "per_sample"])
@pytest.mark.parametrize("direction", [-1, 0, 1])
def test_samples_of_which_some_start_at_zero_as_scipy_has_them(direction, step_control):
    y0 = vector([0.0, 1.0], [1.0, 0.0], [0.0, -1.0], [0.3, 0.4])
    event = attributed(lambda t, y: y[..., 0], direction, 2)
    span = (0.0, 7.0)
    ours = solve_ivp(oscillator, span, y0, events=event, step_control=step_control, **TIGHT)
    for i, start in enumerate(y0.numpy()):
        theirs = scipy.integrate.solve_ivp(
            scipys_oscillator, span, start, "DOP853", events=event, rtol=1e-12, atol=1e-13
        )
        own = ours.t_events[0][i]
        np.testing.assert_allclose(own[~own.isnan()], theirs.t_events[0], rtol=0, atol=1e-8)
        assert int(ours.status[i]) == theirs.status


def test_a_function_that_stays_zero_is_one_event_at_the_start_and_hides_no_other():
    """SciPy finds one in each step."""
    events = [attributed(lambda t, y: 0 * y[0], 0, False), crossing(0.4)]
    ours = solve_ivp(oscillator, (0.0, 4.0), vector(1.0, 0.0), events=events, **TIGHT)
    assert ours.t_events[0].tolist() == [0.0]
    np.testing.assert_allclose(ours.t_events[1], [math.acos(0.4)], rtol=0, atol=1e-8)


def test_a_zero_at_the_end_of_a_step_is_one_event():
    """SciPy finds it again at the start of the next step."""
    how = {"method": "midpoint", "step_size": 0.25}
    ours = solve_ivp(lambda t, y: torch.ones_like(y), (0.0, 1.0), vector(0.0), events=lambda t, y: y[0] - 0.5, **how)
    assert ours.t_events[0].tolist() == [0.5]


# Events of each sample


@pytest.fixture
def phases():
    """Oscillators that start elsewhere: ``cos(t + phase)``."""
    return vector(0.1, 0.7, 1.2, 3.0)


def started(phases):
    return torch.stack([torch.cos(phases), -torch.sin(phases)], dim=-1)


@pytest.mark.parametrize("step_control", ["shared", "per_sample"])
@pytest.mark.parametrize("end", [9.0, -9.0])
@pytest.mark.parametrize("direction", [0.0, 1.0, -1.0])
def test_events_per_sample(step_control, end, direction, phases):
    event = crossing(0.0, direction)
    solution = solve_ivp(
        oscillator, (0.0, end), started(phases), events=event, step_control=step_control, t_eval=[end], **TIGHT
    )
    (t,), (y,) = solution.t_events, solution.y_events
    assert t.shape == y.shape[:2]
    assert y.shape[::2] == (4, 2)
    for i in range(4):
        theirs = scipy.integrate.solve_ivp(
            scipys_oscillator, (0.0, end), started(phases)[i], "DOP853", events=event, rtol=1e-12, atol=1e-13
        )
        own = t[i][~t[i].isnan()]
        np.testing.assert_allclose(own, theirs.t_events[0], rtol=0, atol=1e-8)
        np.testing.assert_allclose(y[i][: len(own)], theirs.y_events[0], rtol=0, atol=1e-8)
        assert t[i][len(own) :].isnan().all()
        assert y[i][len(own) :].isnan().all()


@pytest.mark.parametrize("step_control", ["shared", "per_sample"])
@pytest.mark.parametrize("terminal", [1, 2])
def test_terminal_events_per_sample(step_control, terminal, phases):
    t_eval = torch.linspace(0.0, 4.0, 9, dtype=torch.float64)
    solution = solve_ivp(
        oscillator,
        (0.0, 4.0),
        started(phases),
        events=crossing(0.0, 0.0, terminal),
        step_control=step_control,
        t_eval=t_eval,
        **TIGHT,
    )
    first = 0.5 * math.pi - phases
    ends = torch.where(first > 0, first, first + math.pi) + (terminal - 1) * math.pi
    met = ends < 4.0
    assert torch.equal(solution.status, met.long())
    assert solution.success.all()
    assert solution.y.shape == (9, 4, 2)
    exact = torch.cos(t_eval[:, None] + phases)
    for i in range(4):
        reached = t_eval <= (ends[i] if met[i] else 4.0)
        torch.testing.assert_close(solution.y[reached, i, 0], exact[reached, i], rtol=0, atol=1e-8)
        assert solution.y[~reached, i].isnan().all()
        count = int((~solution.t_events[0][i].isnan()).sum())
        if met[i]:
            assert count == terminal
            assert solution.t_events[0][i, count - 1] == pytest.approx(float(ends[i]), abs=1e-9)


def test_terminal_events_end_each_samples_own_steps(phases):
    solution = solve_ivp(
        oscillator, (0.0, 9.0), started(phases), events=crossing(0.0, 0.0, True), step_control="per_sample", **TIGHT
    )
    ends = 0.5 * math.pi - phases
    ends = torch.where(ends > 0, ends, ends + math.pi)
    last = torch.stack([row[~row.isnan()][-1] for row in solution.t])
    torch.testing.assert_close(last, ends, rtol=0, atol=1e-9)
    torch.testing.assert_close(last, solution.t_events[0][:, 0], rtol=0, atol=0)
    for i, row in enumerate(solution.t):
        there = ~row.isnan()
        assert (row[there].diff() > 0).all()
        torch.testing.assert_close(solution.y[i, there, 0], torch.cos(row[there] + phases[i]), rtol=0, atol=1e-8)


@pytest.mark.parametrize("step_control", ["shared", "per_sample"])
def test_events_where_spans_are_per_sample(step_control, phases):
    spans = [[0.0, 6.0], [1.0, -5.0], [2.0, 2.0], [-1.0, 5.0]]
    ends = torch.tensor(spans, dtype=torch.float64)[:, 1:]
    solution = solve_ivp(
        oscillator, spans, started(phases), events=crossing(0.1), step_control=step_control, t_eval=ends, **TIGHT
    )
    for i, (t0, t1) in enumerate(spans):
        own = solution.t_events[0][i]
        own = own[~own.isnan()]
        if t0 == t1:
            assert len(own) == 0
            continue
        theirs = scipy.integrate.solve_ivp(
            scipys_oscillator, (t0, t1), started(phases)[i], "DOP853", events=crossing(0.1), rtol=1e-12, atol=1e-13
        )
        np.testing.assert_allclose(own, theirs.t_events[0], rtol=0, atol=1e-8)


@pytest.mark.parametrize("step_control", ["shared", "per_sample"])
def test_a_terminal_event_spares_a_sample_what_comes_after(step_control):
    """``1 / (1 - t)`` explodes at 1; an event before that ends it."""
    event = crossing(2.0, 0.0, True)
    solution = solve_ivp(
        lambda t, y: y**2,
        (0.0, 2.0),
        torch.tensor([[1.0], [0.8]], dtype=torch.float64),
        events=event,
        step_control=step_control,
        t_eval=[0.25, 1.5],
        **TIGHT,
    )
    assert solution.status.tolist() == [1, 1]
    torch.testing.assert_close(solution.t_events[0][:, 0], vector(0.5, 0.75), rtol=0, atol=1e-9)
    assert solution.y[1].isnan().all()


def test_events_before_a_failure_are_kept():
    event = crossing(2.0)
    for step_control in ("shared", "per_sample"):
        solution = solve_ivp(
            lambda t, y: y**2,
            (0.0, 2.0),
            torch.tensor([[1.0], [0.1]], dtype=torch.float64),
            events=event,
            step_control=step_control,
            on_failure="nan",
            t_eval=[0.5],
            rtol=1e-9,
        )
        assert solution.t_events[0][0, 0] == pytest.approx(0.5, abs=1e-6)
        assert solution.t_events[0][1].isnan().all()
        assert solution.status.tolist() == ([-1, -1] if step_control == "shared" else [-1, 0])


# Gradients


class Falling(nn.Module):
    def __init__(self):
        super().__init__()
        self.gravity = nn.Parameter(torch.tensor(GRAVITY, dtype=torch.float64))

    def forward(self, t, y):
        return torch.stack([y[..., 1], -self.gravity.expand(y.shape[:-1])], dim=-1)


def stop_time(height, speed, gravity, floor):
    """When and how fast a ball falls on the floor."""
    time = (speed + torch.sqrt(speed**2 + 2 * gravity * (height - floor))) / gravity
    return time, speed - gravity * time


def ball(*, terminal=True):
    floor = torch.tensor(0.2, dtype=torch.float64, requires_grad=True)

    def event(t, y):
        return y[..., 0] - floor

    event.terminal, event.direction = terminal, -1.0
    return Falling(), event, floor


@pytest.mark.parametrize("terminal", [True, False])
def test_gradients_of_an_event(adjoint, terminal):
    func, event, floor = ball(terminal=terminal)
    y0 = vector(10.0, 2.0).requires_grad_()
    t_span = vector(0.5, 3.0)
    wanted = (y0, func.gravity, floor)
    solution = solve_ivp(func, t_span, y0, events=event, adjoint=adjoint, **TIGHT)
    t, y = solution.t_events[0][0], solution.y_events[0][0]
    time, speed = stop_time(y0[0], y0[1], func.gravity, floor)
    for ours, exact in ((t, t_span[0] + time), (y[1], speed), (y[0], floor)):
        assert float(ours.detach()) == pytest.approx(float(exact.detach()), abs=1e-9)
        zeros = {"retain_graph": True, "allow_unused": True, "materialize_grads": True}
        found = torch.autograd.grad(ours, wanted, **zeros)
        expected = torch.autograd.grad(exact, wanted, **zeros)
        torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("terminal", [True, False])
def test_events_of_the_whole_state_move_with_the_start(adjoint, terminal):
    # The ball's fall does not know the time: it lands as much later as it is thrown, after as long a flight.
    func, event, _ = ball(terminal=terminal)
    span = vector(0.5, 3.0).requires_grad_()
    found = solve_ivp(func, span, vector(10.0, 2.0), events=event, adjoint=adjoint, **TIGHT)
    (by_span,) = torch.autograd.grad(found.t_events[0].sum(), span, retain_graph=True)
    torch.testing.assert_close(by_span, vector(1.0, 0.0), rtol=1e-7, atol=1e-9)
    zeros = {"allow_unused": True, "materialize_grads": True}
    (by_span,) = torch.autograd.grad(found.y_events[0].sum(), span, **zeros)
    torch.testing.assert_close(by_span, vector(0.0, 0.0), rtol=0, atol=1e-7)


@pytest.mark.parametrize("step_control", ["shared", "per_sample"])
@pytest.mark.parametrize("terminal", [True, False])
def test_gradients_of_events_per_sample(adjoint, step_control, terminal):
    func, event, floor = ball(terminal=terminal)
    # The second ball does not land before the end.
    y0 = torch.tensor([[10.0, 2.0], [90.0, 0.0], [5.0, -1.0]], dtype=torch.float64, requires_grad=True)
    wanted = (y0, func.gravity, floor)
    solution = solve_ivp(
        func, (0.0, 3.0), y0, events=event, adjoint=adjoint, step_control=step_control, t_eval=[0.1], **TIGHT
    )
    t, y = solution.t_events[0], solution.y_events[0]
    assert t.isnan().tolist() == [[False], [True], [False]]
    lands = [0, 2]
    time, speed = stop_time(y0[lands, 0], y0[lands, 1], func.gravity, floor)
    ours = torch.autograd.grad((t[lands, 0] ** 2 + 0.3 * y[lands, 0, 1]).sum(), wanted)
    expected = torch.autograd.grad((time**2 + 0.3 * speed).sum(), wanted)
    torch.testing.assert_close(ours, expected, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("step_control", ["shared", "per_sample"])
@pytest.mark.parametrize("moving", [False, True], ids=["fixed times", "moving times"])
def test_gradients_of_events_where_spans_are_per_sample(adjoint, step_control, moving):
    func, event, floor = ball(terminal=False)
    y0 = torch.tensor([[10.0, 2.0], [5.0, -1.0]], dtype=torch.float64, requires_grad=True)
    t_span = torch.tensor([[0.0, 3.0], [-1.0, 2.0]], dtype=torch.float64, requires_grad=moving)
    wanted = (y0, func.gravity, floor, *([t_span] if moving else []))
    solution = solve_ivp(
        func, t_span, y0, events=event, adjoint=adjoint, step_control=step_control, t_eval=[0.1], **TIGHT
    )
    t, y = solution.t_events[0][:, 0], solution.y_events[0][:, 0]
    time, speed = stop_time(y0[:, 0], y0[:, 1], func.gravity, floor)
    ours = torch.autograd.grad((t**2 + 0.3 * y[:, 1]).sum(), wanted)
    expected = torch.autograd.grad(((t_span[:, 0] + time) ** 2 + 0.3 * speed).sum(), wanted)
    torch.testing.assert_close(ours, expected, rtol=1e-8, atol=1e-8)


def test_gradients_of_the_solution_at_a_terminal_event_s_last_step(adjoint):
    # The outputs at t_eval are at fixed times: no gradient of the event in them.
    func, event, _ = ball()
    y0 = vector(10.0, 2.0).requires_grad_()
    solution = solve_ivp(func, (0.0, 3.0), y0, events=event, t_eval=[0.5, 1.0, 2.5], adjoint=adjoint, **TIGHT)
    assert solution.t.tolist() == [0.5, 1.0]
    (gradient,) = torch.autograd.grad(solution.y[1, 0], y0)
    torch.testing.assert_close(gradient, vector(1.0, 1.0), rtol=1e-9, atol=1e-9)


def test_a_ball_that_bounces_three_times(adjoint):
    """Each bounce starts where and when the last ended; gradients pass through them all."""
    gravity = torch.tensor(GRAVITY, dtype=torch.float64, requires_grad=True)
    bounce = torch.tensor(0.8, dtype=torch.float64, requires_grad=True)
    height = torch.tensor(5.0, dtype=torch.float64, requires_grad=True)

    def func(t, y):
        return torch.stack([y[1], -gravity])

    t, y = torch.tensor(0.0, dtype=torch.float64), torch.stack([height, torch.zeros_like(height)])
    for _ in range(3):
        t, path = odeint_event(
            func,
            y,
            t,
            event_fn=lambda t, y: y[0],
            adjoint=adjoint,
            rtol=1e-10,
            atol=1e-12,
            options={"first_step": 1e-2},
        )
        y = torch.stack([1e-12 + 0 * path[-1, 0], -bounce * path[-1, 1]])
    fall = torch.sqrt(2 * height / gravity)
    exact = fall * (1 + 2 * bounce + 2 * bounce**2)
    assert float(t.detach()) == pytest.approx(float(exact.detach()), abs=1e-8)
    wanted = (gravity, bounce, height)
    torch.testing.assert_close(torch.autograd.grad(t, wanted), torch.autograd.grad(exact, wanted), rtol=1e-6, atol=1e-6)


# What is refused


@pytest.mark.parametrize(
    ("event", "settings", "error", "message"),
    [
        (lambda t, y: y, {}, ValueError, "one number per sample"),
        (lambda t, y: y[:2, 0], {}, ValueError, "one number per sample"),
        (lambda t, y: y[0, 0], {"step_control": "per_sample"}, ValueError, "one number per sample"),
        ([lambda t, y: y[:, 0], lambda t, y: y[0, 0]], {}, ValueError, "alike"),
        (lambda t, y: 1.0, {}, TypeError, "tensor"),
        ("zero", {}, TypeError, "callable"),
        (crossing(0.0, 0.0, -1), {}, ValueError, "terminal"),
        (crossing(0.0, 0.0, 1.5), {}, ValueError, "terminal"),
        (lambda t, y: y[0, 0], {"t_eval": [[0.5], [0.5], [0.5]]}, ValueError, "t_eval"),
    ],
    ids=["matrix", "too few", "whole state", "mixed", "float", "string", "negative", "fraction", "times"],
)
def test_wrong_events_are_refused(event, settings, error, message):
    with pytest.raises(error, match=message):
        solve_ivp(lambda t, y: -y, (0.0, 1.0), torch.ones(3, 2), events=event, **settings)


# torchdiffeq's convention


def decay(t, y):
    return -0.5 * y


@pytest.mark.parametrize("method", ["dopri5", "tsit5", "dopri8", "kvaerno5"])
def test_odeint_event_against_the_closed_form(method):
    t, y = odeint_event(decay, vector(1.0, 2.0), 1.0, event_fn=lambda t, y: y[0] - 0.5, method=method)
    assert t == pytest.approx(1.0 + 2 * math.log(2), abs=1e-6)
    assert y.shape == (2, 2)
    assert torch.equal(y[0], vector(1.0, 2.0))
    torch.testing.assert_close(y[1], vector(0.5, 1.0), rtol=0, atol=1e-6)


def test_an_event_far_from_the_start():
    t, _ = odeint_event(lambda t, y: torch.ones_like(y), vector(0.0), 0.0, event_fn=lambda t, y: y[0] - 1e4)
    assert t == pytest.approx(1e4, rel=1e-9)


def test_the_first_of_several_elements_is_the_event():
    def event(t, y):
        return torch.stack([y[0] - 0.25, y[0] - 0.5])

    t, _ = odeint_event(decay, vector(1.0), 0.0, event_fn=event)
    assert t == pytest.approx(2 * math.log(2), abs=1e-6)


def test_back_in_time():
    t, y = odeint_event(decay, vector(1.0), 1.0, event_fn=lambda t, y: y[0] - 2.0, reverse_time=True)
    assert t == pytest.approx(1.0 - 2 * math.log(2), abs=1e-6)
    assert y[1, 0] == pytest.approx(2.0, abs=1e-9)


def test_tuples():
    def func(t, y):
        position, velocity = y
        return velocity, -position

    def event(t, y):
        return y[0].sum()

    t, (position, velocity) = odeint_event(
        func, (torch.ones(1, 1).double(), torch.zeros(1, 1).double()), 0.0, event_fn=event
    )
    assert t == pytest.approx(math.pi / 2, abs=1e-6)
    assert position.shape == velocity.shape == (2, 1, 1)
    assert velocity[1, 0, 0] == pytest.approx(-1.0, abs=1e-6)


def test_odeint_with_event_fn_takes_only_the_direction_from_t():
    for end, sign in ((0.001, 1.0), (-0.001, -1.0), (100.0, 1.0)):
        t, y = odeint(oscillator, vector(0.0, 1.0), [0.0, end], event_fn=lambda t, y: y[1])
        assert t == pytest.approx(sign * math.pi / 2, abs=1e-6)
        assert y[1, 0] == pytest.approx(sign, abs=1e-6)


def test_gradients_of_odeint_event(adjoint):
    rate = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    level = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    y0 = vector(1.0, 4.0).requires_grad_()
    t0 = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    wanted = (rate, level, y0, t0)
    t, y = odeint_event(
        lambda t, y: -rate * t * y, y0, t0, event_fn=lambda t, y: y[0] - level, adjoint=adjoint, rtol=1e-10, atol=1e-12
    )
    exact = torch.sqrt(t0**2 + 2 * torch.log(y0[0] / level) / rate)
    second = y0[1] * level / y0[0]
    for ours, truth in ((t, exact), (y[1, 1], second)):
        assert float(ours.detach()) == pytest.approx(float(truth.detach()), abs=1e-8)
        found = torch.autograd.grad(ours, wanted, retain_graph=True, materialize_grads=True, allow_unused=True)
        expected = torch.autograd.grad(truth, wanted, materialize_grads=True, allow_unused=True)
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.timeout(20)
def test_an_event_that_never_comes_ends():
    with pytest.raises(MaxStepsError):
        odeint_event(
            oscillator, vector(1.0, 0.0), 0.0, event_fn=lambda t, y: y[0] - 5.0, options={"max_num_steps": 200}
        )


@pytest.mark.timeout(20)
def test_an_event_that_never_comes_to_a_state_at_rest_ends():
    from skode.solvers import SolverError

    with pytest.raises(SolverError):
        odeint_event(lambda t, y: -y, vector(1.0), 0.0, event_fn=lambda t, y: y[0] + 1.0)


def test_event_fn_needs_a_direction_in_time():
    with pytest.raises(ValueError, match="direction"):
        odeint(decay, vector(1.0), [0.0, 1.0, 2.0], event_fn=lambda t, y: y[0] - 0.5)


def test_odeint_event_agrees_with_torchdiffeq():
    torchdiffeq = pytest.importorskip("torchdiffeq")

    def event(t, y):
        return y[0] - 0.3 * torch.cos(t)

    y0 = vector(1.0, 0.3)
    settings = {"event_fn": event, "rtol": 1e-9, "atol": 1e-9}
    for reverse in (False, True):
        ours = odeint_event(oscillator, y0, torch.tensor(0.2).double(), reverse_time=reverse, **settings)
        theirs = torchdiffeq.odeint_event(
            oscillator, y0, torch.tensor(0.2).double(), reverse_time=reverse, odeint_interface=torchdiffeq.odeint,
            **settings,
        )  # fmt: skip
        assert float(ours[0]) == pytest.approx(float(theirs[0]), abs=1e-7)
        torch.testing.assert_close(ours[1], theirs[1], rtol=0, atol=1e-7)


def derivatives(function, x, order):
    """Value and derivatives of a function of one number."""
    x = torch.tensor(x, dtype=torch.float64, requires_grad=True)
    found = [function(x)]
    for _ in range(order):
        found += torch.autograd.grad(found[-1], x, create_graph=True)
    return torch.stack([value.detach() for value in found])


BACKPROP = {"adjoint": "backprop", "rtol": 1e-10, "atol": 1e-10}


def explosion(start, level=4.0, **how):
    """When and where ``dy/dt = y^2`` meets a level: after ``1 / start - 1 / level``."""
    event = crossing(0.0)
    t, y = odeint_event(lambda t, y: y**2, start.reshape(1), 0.0, event_fn=lambda t, y: y[0] - level, **how)
    solution = solve_ivp(
        lambda t, y: y**2,
        (0.0, 1.2),
        torch.stack([start, start]).reshape(2, 1),
        events=lambda t, y: event(t, y) - level,
        **how,
    )
    return t, y[-1, 0], solution.t_events[0][0, 0], solution.y_events[0][1, 0, 0]


def test_events_have_derivatives_up_to_the_fourth():
    # The case of the issue: log(2) / r.
    def half_life(rate):
        t, y = odeint_event(
            lambda t, y: -rate * y, vector(1.0), 0.0, event_fn=lambda t, y: y[0] - 0.5, adjoint="backprop"
        )
        return torch.stack([t, y[-1, 0]])

    found = derivatives(lambda rate: half_life(rate)[0], 0.5, 4)
    expected = derivatives(lambda rate: math.log(2) / rate, 0.5, 4)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(
        derivatives(lambda rate: half_life(rate)[1], 0.5, 2), vector(0.5, 0, 0), rtol=0, atol=1e-6
    )


@pytest.mark.parametrize("which", range(4), ids=["event_t", "y", "t_events", "y_events"])
@pytest.mark.parametrize("moving", ["start", "level"])
def test_events_of_a_nonlinear_field_have_them_too(moving, which):
    if moving == "start":
        found = derivatives(lambda start: explosion(start, **BACKPROP)[which], 0.8, 3)
        truth = (lambda start: 1 / start - 0.25, lambda start: 4.0 + 0.0 * start**3)[which % 2]
        expected = derivatives(truth, 0.8, 3)
    else:
        found = derivatives(lambda root: explosion(vector(0.8), root**2, **BACKPROP)[which], 2.0, 3)
        truth = (lambda root: 1.25 - 1 / root**2, lambda root: root**2 + 0.0 * root**3)[which % 2]
        expected = derivatives(truth, 2.0, 3)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


def test_events_that_depend_on_time_have_second_derivatives():
    # Where a + sin(t) meets a line in t.
    def ours(a):
        solution = solve_ivp(
            lambda t, y: torch.cos(t) + 0.0 * y,
            (0.0, 1.2),
            a.reshape(1, 1),
            events=lambda t, y: (y - 1.2 * t).reshape(-1) - 0.05,
            step_control="per_sample",
            **BACKPROP,
        )
        return solution.y_events[0][0, 0, 0]

    def truth(a):
        t = vector(0.3)[0]
        for _ in range(30):
            t = t - (a + torch.sin(t) - 1.2 * t - 0.05) / (torch.cos(t) - 1.2)
        return a + torch.sin(t)

    torch.testing.assert_close(derivatives(ours, 0.1, 2), derivatives(truth, 0.1, 2), rtol=1e-6, atol=0)


@pytest.mark.parametrize("which", range(4), ids=["event_t", "y", "t_events", "y_events"])
def test_second_derivatives_of_events_are_refused_without_a_graph(graphless_adjoint, which):
    # A level that only the event function knows of, whose first derivative passes the solve by.
    def meets(root):
        return explosion(vector(0.8), root**2, adjoint=graphless_adjoint)[which]

    with pytest.raises(RuntimeError, match=r"can't be differentiated again.*adjoint='backprop'"):
        derivatives(meets, 2.0, 2)


@pytest.mark.parametrize("event", [lambda t, y: y[0] < 0.5, lambda t, y: (y[0] < 0.5).int(), lambda t, y: t > 1])
def test_events_that_are_no_numbers_are_refused(event):
    y0 = vector(1.0)
    for attempt in (
        lambda: solve_ivp(lambda t, y: -y, (0.0, 2.0), y0, events=event),
        lambda: odeint_event(lambda t, y: -y, y0, 0.0, event_fn=event),
        lambda: odeint_event(lambda t, y: (-y[0],), (y0,), 0.0, event_fn=lambda t, y: event(t, y[0])),
        lambda: odeint(lambda t, y: -y, y0, [0.0, 2.0], event_fn=event),
    ):
        with pytest.raises(TypeError, match=r"must return floating-point numbers.*torch\.(bool|int32).*y - 1\.0"):
            attempt()

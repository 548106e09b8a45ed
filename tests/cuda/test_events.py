"""Events on the device are those on the CPU."""

import pytest
import torch

from skode.solvers import odeint, odeint_adjoint, odeint_event, solve_ivp

TOLERANCES = {"rtol": 1e-6, "atol": 1e-6}


def oscillator(w):
    return lambda t, y: torch.stack([y[..., 1], -w * y[..., 0]], dim=-1)


def crossing(level, *, per_sample, terminal=False, direction=0.0):
    """Where the first feature, of each sample or of the first one, crosses a level."""

    def event(t, y):
        return y[:, 0] - level if per_sample else y[0, 0] - level

    event.terminal, event.direction = terminal, direction
    return event


def phases(n=4):
    angles = torch.linspace(0.2, 1.4, n, dtype=torch.float64)
    return torch.stack([torch.cos(angles), torch.sin(angles)], dim=1).requires_grad_()


def stiffness():
    return torch.tensor(1.7, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize(
    ("method", "terminal"),
    [("dopri5", False), ("dopri5", True), ("dopri5", 2), ("dopri8", 2), ("kvaerno3", True), ("rk4", False)],
)
@pytest.mark.parametrize("per_sample", [False, True], ids=["whole", "per sample"])
def test_events_and_their_gradients(agree, with_gradients, method, terminal, per_sample):
    def compute(place):
        w, y0 = place(stiffness()), place(phases())
        settings = {"rk4": {"step_size": 0.1}, "dopri8": {**TOLERANCES, "first_step": 0.2, "max_step": 0.2}}
        settings["kvaerno3"] = {"rtol": 1e-4, "atol": 1e-4}
        settings = {"method": method, **settings.get(method, TOLERANCES)}
        events = [crossing(0.1, per_sample=per_sample, terminal=terminal), crossing(-0.4, per_sample=per_sample)]
        solution = solve_ivp(oscillator(w), (0.0, 3.5), y0, t_eval=[0.5, 2.0, 3.5], events=events, **settings)
        assert all(t.device.type == "cpu" for t in solution.t_events)
        found = [solution.y, *solution.t_events, *solution.y_events]
        return [*with_gradients(found, [y0, w]), torch.as_tensor(solution.status).cpu()]

    agree(compute, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("adjoint", ["discrete", "continuous", "backprop"])
@pytest.mark.parametrize("direction", [-1.0, 1.0])
def test_events_with_steps_of_each_sample(agree, with_gradients, adjoint, direction):
    def compute(place):
        w, y0 = place(stiffness()), place(phases())
        event = crossing(0.1, per_sample=True, terminal=2, direction=direction)
        settings = {"step_control": "per_sample", "adjoint": adjoint, **TOLERANCES}
        solution = solve_ivp(oscillator(w), (0.0, 6.0), y0, t_eval=[1.0, 6.0], events=event, **settings)
        found = [solution.y, *solution.t_events, *solution.y_events]
        return with_gradients(found, [y0, w])

    agree(compute, rtol=1e-8, atol=1e-8)


def test_events_over_spans_of_each_sample(agree, with_gradients):
    spans = torch.tensor([[0.0, 3.0], [1.0, 2.0], [2.0, -2.0], [2.0, 2.0]], dtype=torch.float64)

    def compute(place):
        w, y0 = place(stiffness()), place(phases())
        event = crossing(0.1, per_sample=True)
        solution = solve_ivp(oscillator(w), spans, y0, t_eval=spans.mean(1, keepdim=True), events=event, **TOLERANCES)
        return with_gradients([solution.y, *solution.t_events, *solution.y_events], [y0, w])

    agree(compute, rtol=1e-8, atol=1e-8)


def test_an_event_that_never_comes(agree):
    def compute(place):
        event = crossing(9.0, per_sample=True, terminal=True)
        settings = {"t_eval": [1.0], "events": event, **TOLERANCES}
        solution = solve_ivp(oscillator(place(stiffness())), (0.0, 1.0), place(phases()), **settings)
        return [solution.y, *solution.t_events, *solution.y_events]

    agree(compute)


@pytest.mark.parametrize("reverse_time", [False, True])
@pytest.mark.parametrize("solve", [odeint, odeint_adjoint])
def test_odeint_event(agree, with_gradients, reverse_time, solve):
    def compute(place):
        w, y0 = place(stiffness()), place(phases())
        t0 = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
        settings = {"reverse_time": reverse_time, "odeint_interface": solve, **TOLERANCES}
        t, y = odeint_event(oscillator(w), y0, t0, event_fn=crossing(0.05, per_sample=True), **settings)
        return with_gradients([t, place.here(y)], [y0, t0, w])

    agree(compute, rtol=1e-8, atol=1e-8)


def test_the_event_of_a_tuple(agree, with_gradients):
    def fall(t, state):
        _, velocity = state
        return velocity, -9.81 * torch.ones_like(velocity)

    def compute(place):
        start = [torch.tensor([value], dtype=torch.float64, requires_grad=True) for value in (10.0, 0.1)]
        y0 = place(tuple(start))
        t, parts = odeint_event(fall, y0, 0.0, event_fn=lambda t, state: state[0], **TOLERANCES)
        return with_gradients([t, *parts], list(y0))

    agree(compute, rtol=1e-8, atol=1e-8)

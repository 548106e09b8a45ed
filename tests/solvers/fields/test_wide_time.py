"""Times that the state's precision cannot tell apart reach the field in float64."""

import math

import pytest
import torch
from torch import nn

from skode.solvers import odeint, odeint_event, solve_ivp
from skode.solvers.fields.pullback import has_own_pullback
from skode.solvers.fields.wide_time import WideTime, with_wide_time

NOW = 1.7e9  # seconds since 1970; 128 seconds from the next number in float32
EXACT = math.sin(10.0)


def clock(t, y):
    return torch.cos(t - NOW) + 0 * y


@pytest.mark.parametrize("step_control", ["shared", "per_sample"])
def test_seconds_since_1970_are_told_apart(method, adjoint, equal_steps, step_control):
    settings = {"rtol": 1e-5, "atol": 1e-6, **equal_steps(method, 0.1), "step_control": step_control}
    y0 = torch.zeros(2, 1, requires_grad=True)
    y = solve_ivp(clock, (NOW, NOW + 10.0), y0, t_eval=[NOW + 4.0, NOW + 10.0], adjoint=adjoint, **settings).y
    assert y.dtype == torch.float32
    expected = torch.tensor([math.sin(4.0), EXACT])[:, None, None].expand(2, 2, 1)
    torch.testing.assert_close(y, expected, rtol=0, atol=0.2 if method == "euler" else 0.01)
    (gradient,) = torch.autograd.grad(y.sum(), y0)
    torch.testing.assert_close(gradient, torch.full((2, 1), 2.0))


def test_odeint_and_its_event_tell_them_apart(adjoint):
    t = torch.tensor([NOW, NOW + 10.0], dtype=torch.float64, requires_grad=True)
    y = odeint(clock, torch.zeros(1), t, rtol=1e-5, atol=1e-6, adjoint=adjoint)
    assert y[-1].item() == pytest.approx(EXACT, abs=1e-4)
    (found,) = torch.autograd.grad(y[-1].sum(), t)
    assert found.tolist() == pytest.approx([-1.0, math.cos(10.0)], abs=1e-4)
    settings = {"event_fn": lambda t, y: t - NOW - 2.5, "adjoint": adjoint, "rtol": 1e-5, "atol": 1e-6}
    time, state = odeint_event(clock, torch.zeros(1), torch.tensor(NOW, dtype=torch.float64), **settings)
    assert time.item() - NOW == pytest.approx(2.5, abs=1e-4)
    assert state[-1].item() == pytest.approx(math.sin(2.5), abs=1e-4)


@pytest.mark.parametrize("step_control", ["shared", "per_sample"])
def test_so_do_samples_with_spans_of_their_own(adjoint, step_control):
    spans = NOW + torch.tensor([[0.0, 10.0], [3.0, 1.0]], dtype=torch.float64)
    settings = {"rtol": 1e-5, "atol": 1e-6, "adjoint": adjoint, "step_control": step_control}
    y0 = torch.zeros(2, 1, requires_grad=True)
    y = solve_ivp(clock, spans, y0, t_eval=spans[:, 1:], **settings).y
    expected = [EXACT, math.sin(1.0) - math.sin(3.0)]
    assert y.flatten().tolist() == pytest.approx(expected, abs=1e-3)
    (gradient,) = torch.autograd.grad(y.sum(), y0)
    torch.testing.assert_close(gradient, torch.ones(2, 1))


@pytest.mark.parametrize("step_control", ["shared", "per_sample"])
def test_jumps_among_them_are_met_on_their_near_sides(adjoint, step_control):
    def switched(t, y):
        return torch.where(t < NOW + 5.0, 1.0, -3.0) + 0 * y

    settings = {"adjoint": adjoint, "step_control": step_control, "jump_t": [NOW + 5.0], "max_steps": 50}
    y = solve_ivp(switched, (NOW, NOW + 6.0), torch.zeros(1, 1, requires_grad=True), t_eval=[NOW + 6.0], **settings).y
    assert y.item() == pytest.approx(2.0, abs=1e-4)
    y.sum().backward()


def test_events_of_samples_are_told_apart():
    events = lambda t, y: (t - NOW).flatten() - torch.tensor([1.0, 4.25])  # noqa: E731
    found = solve_ivp(clock, (NOW, NOW + 10.0), torch.zeros(2, 1), events=events, rtol=1e-5, atol=1e-6)
    assert (found.t_events[0][:, 0] - NOW).tolist() == pytest.approx([1.0, 4.25], abs=1e-4)
    assert found.y_events[0][:, 0, 0].tolist() == pytest.approx([math.sin(1.0), math.sin(4.25)], abs=1e-4)


def test_times_near_zero_have_the_states_dtype():
    def dtype_of_time(t, y):
        seen.append(t.dtype)
        return -y

    for span, y0, expected in (
        ((0.0, 1.0), torch.ones(1), torch.float32),
        ((100.0, 101.0), torch.ones(1), torch.float64),
        ((100.0, 200.0), torch.ones(1), torch.float32),
        ((100.0, 101.0), torch.ones(1, dtype=torch.float64), torch.float64),
    ):
        seen: list = []
        solve_ivp(dtype_of_time, span, y0)
        assert set(seen[1:]) == {expected}


class Concatenating(nn.Module):
    """A network that sees time as one more feature, which must be of its own dtype."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(2, 1)

    def forward(self, t, y):
        return self.linear(torch.cat([(t - NOW).expand(len(y), 1) / 1e9, y], dim=1))


def test_a_field_that_takes_no_float64_is_given_what_it_takes_and_the_user_is_told():
    with pytest.warns(UserWarning, match=r"cannot take a float64 time.*1.7e\+09 are 128 apart"):
        solve_ivp(Concatenating(), (NOW, NOW + 10.0), torch.ones(3, 1))
    # Not worth a warning where float32 has digits to spare.
    assert solve_ivp(Concatenating(), (100.0, 101.0), torch.ones(3, 1)).success


def test_errors_of_the_field_are_those_of_the_field():
    def broken(t, y):
        raise KeyError("its own")

    with pytest.warns(UserWarning, match="float64 time"), pytest.raises(KeyError, match="its own"):
        solve_ivp(broken, (NOW, NOW + 10.0), torch.ones(1))


def test_a_field_with_its_own_pullback_stays_as_it_is(tanh_field):
    assert has_own_pullback(tanh_field)
    assert with_wide_time(tanh_field, NOW, NOW + 1.0, torch.zeros(1, 3)) is tanh_field
    assert isinstance(with_wide_time(clock, NOW, NOW + 1.0, torch.zeros(1)), WideTime)


def test_parameters_behind_the_field_have_gradients(adjoint):
    rate = torch.tensor(0.5, requires_grad=True)
    y = solve_ivp(lambda t, y: -rate * y, (NOW, NOW + 1.0), torch.ones(1), rtol=1e-6, atol=1e-6, adjoint=adjoint).y
    (found,) = torch.autograd.grad(y[-1].sum(), rate)
    assert found.item() == pytest.approx(-math.exp(-0.5), rel=1e-4)

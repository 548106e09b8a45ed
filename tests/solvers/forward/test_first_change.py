"""``odeint_event`` where elements of its function are zero at the start, against closed forms."""

import math

import pytest
import torch

from skode.solvers import odeint_adjoint, odeint_event
from tests.solvers.problems import decay, vector

GRAVITY = 9.8


def fall(t, y):
    return torch.stack([y[1], torch.full_like(y[1], -GRAVITY)])


@pytest.mark.parametrize(
    "event_fn",
    [
        lambda t, y: torch.cat([y - 0.5, 0 * y]),
        lambda t, y: torch.cat([0 * y, y - 0.5]),
        lambda t, y: torch.stack([0 * t, y[0] - 0.5, 0 * y[0]]),
        lambda t, y: torch.stack([y[0] - 0.5, (y - y)[0]]),
        lambda t, y: torch.stack([torch.relu(t - 5.0), (y[0] - 0.5) * (y[0] + 3)])[:, None],
    ],
)
def test_an_element_that_stays_zero_hides_no_other(event_fn):
    t, y = odeint_event(decay, vector(1.0), 0.0, event_fn=event_fn)
    assert float(t) == pytest.approx(math.log(2), abs=1e-6)
    assert float(y[1]) == pytest.approx(0.5, abs=1e-6)


def test_an_element_that_leaves_zero_late_is_found_where_it_comes_back():
    """Zero until 1, a hat from there to 3; beside one that changes its sign only at 4."""

    def event_fn(t, y):
        return torch.stack([torch.relu(t - 1.0) - 2 * torch.relu(t - 2.0) + 0 * y[0], 4.0 - t])

    t, _ = odeint_event(decay, vector(1.0), 0.0, event_fn=event_fn, options={"max_step": 0.3})
    assert float(t) == pytest.approx(3.0, abs=1e-9)


def test_an_element_that_leaves_zero_in_the_step_of_anothers_event_does_not_move_it():
    """The step that ends at 4 holds the event at 2.2; the other element is zero until 2.5."""

    def event_fn(t, y):
        return torch.stack([torch.relu(t - 2.5) + 0 * y[0], 2.2 - t])

    t, _ = odeint_event(lambda t, y: 0 * y, vector(1.0), 0.0, event_fn=event_fn, options={"first_step": 4.0})
    assert float(t) == pytest.approx(2.2, abs=1e-9)


@pytest.mark.parametrize("rate", [1e-9, 1.0, 1e9])
@pytest.mark.parametrize("reverse_time", [False, True])
def test_signs_are_looked_for_on_the_problems_own_scale(rate, reverse_time):
    """``sin(rate t)`` starts at zero and comes back to it half a period later, however long that is."""

    def turn(t, y):
        return rate * torch.stack([y[1], -y[0]])

    t, _ = odeint_event(turn, vector(0.0, 1.0), 0.0, event_fn=lambda t, y: y[0], reverse_time=reverse_time)
    assert float(t) * rate == pytest.approx(-math.pi if reverse_time else math.pi, rel=1e-6)


@pytest.mark.parametrize("power", [2, 3])
def test_a_function_that_leaves_zero_slowly(power):
    """``t^p (1 - t)`` has no slope at its start."""
    t, _ = odeint_event(lambda t, y: torch.ones_like(y), vector(0.0), 0.0, event_fn=lambda t, y: y**power * (1 - y))
    assert float(t) == pytest.approx(1.0, abs=1e-7)


def test_the_gradient_of_a_ball_thrown_from_the_ground(adjoint):
    speed = torch.tensor(5.0, dtype=torch.float64, requires_grad=True)
    y0 = torch.stack([torch.zeros_like(speed), speed])
    t, y = odeint_event(fall, y0, 0.0, event_fn=lambda t, y: torch.stack([y[0], 0 * t]), adjoint=adjoint)
    assert t.item() == pytest.approx(10.0 / GRAVITY, rel=1e-6)
    assert torch.autograd.grad(t, speed, retain_graph=True)[0].item() == pytest.approx(2 / GRAVITY, rel=1e-6)
    assert torch.autograd.grad(y[1, 1], speed)[0].item() == pytest.approx(-1.0, rel=1e-6)


class TestSkip:
    """A ball that rounding has left below the ground when it bounced."""

    @pytest.mark.parametrize("depth", [1e-15, 1e-9, 1e-6])
    def test_the_start_is_left_out(self, depth):
        started = {"event_fn": lambda t, y: y[0], "rtol": 1e-9, "atol": 1e-12}
        at_once, _ = odeint_event(fall, vector(-depth, 4.9), 2.0, **started)
        assert float(at_once) == pytest.approx(2.0, abs=2e-6)
        t, y = odeint_event(fall, vector(-depth, 4.9), 2.0, skip=1e-2, **started)
        assert float(t) == pytest.approx(3.0, abs=1e-6)
        torch.testing.assert_close(y, torch.stack([vector(-depth, 4.9), vector(0.0, -4.9)]), rtol=1e-5, atol=1e-6)

    def test_gradients_pass_through_the_time_left_out(self, adjoint):
        speed = torch.tensor(4.9, dtype=torch.float64, requires_grad=True)
        start = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
        y0 = torch.stack([torch.full_like(speed, -1e-12), speed])
        how = {"event_fn": lambda t, y: y[0], "skip": 1e-3, "adjoint": adjoint}
        t, y = odeint_event(fall, y0, start, **how)
        found = torch.autograd.grad(t, [speed, start], retain_graph=True)
        torch.testing.assert_close(found, tuple(vector(2 / GRAVITY, 1.0)), rtol=1e-6, atol=1e-6)
        assert torch.autograd.grad(y[1, 1], speed)[0].item() == pytest.approx(-1.0, rel=1e-6)

    def test_a_ball_that_bounces_until_it_rests(self):
        """The height of each bounce is what the search left of it, up to rounding on either side of zero."""
        t, speed, total = torch.tensor(0.0, dtype=torch.float64), 4.9, 0.0
        y = vector(0.0, speed)
        for _ in range(5):
            t, path = odeint_event(fall, y, t, event_fn=lambda t, y: y[0], skip=1e-3)
            total += 2 * speed / GRAVITY
            assert float(t) == pytest.approx(total, abs=1e-6)
            speed *= 0.7
            y = torch.stack([path[-1, 0], -0.7 * path[-1, 1]])

    def test_back_in_time_of_a_tuple_by_torchdiffeqs_adjoint(self):
        def func(t, y):
            return y[1], torch.full_like(y[1], -GRAVITY)

        t, (height, speed) = odeint_event(
            func, (vector(-1e-12), vector(-4.9)), 0.0, event_fn=lambda t, y: y[0], skip=1e-2, reverse_time=True,
            odeint_interface=odeint_adjoint,
        )  # fmt: skip
        assert float(t) == pytest.approx(-1.0, abs=1e-6)
        assert height.shape == speed.shape == (2, 1)
        assert float(height[0]) == -1e-12

    @pytest.mark.parametrize("skip", [-1.0, math.nan, math.inf, True, "1"])
    def test_what_is_no_time_is_refused(self, skip):
        with pytest.raises(ValueError, match="skip must be a finite number >= 0"):
            odeint_event(fall, vector(0.0, 1.0), 0.0, event_fn=lambda t, y: y[0], skip=skip)


def test_an_event_that_starts_at_zero_is_found_where_it_comes_back():
    def thrown(t, y):
        return torch.stack([y[1], torch.full_like(y[1], -9.8)])

    for speed in (5.0, -5.0):
        gravity = -9.8 if speed > 0 else 9.8
        t, _ = odeint_event(
            lambda t, y, g=gravity: torch.stack([y[1], torch.full_like(y[1], g)]),
            vector(0.0, speed), 0.0, event_fn=lambda t, y: y[0],
        )  # fmt: skip
        assert float(t) == pytest.approx(10 / 9.8, rel=1e-6)
    t, _ = odeint_event(thrown, vector(0.0, 5.0), 0.0, event_fn=lambda t, y: torch.stack([y[0], y[0] - 1e3]))
    assert float(t) == pytest.approx(10 / 9.8, rel=1e-6)

"""Callbacks that a field carries: when they are called, with which arguments, and that nothing else changes."""

import math
import warnings

import pytest
import torch
from torch import nn

from skode.solvers import METHODS, odeint, odeint_adjoint, odeint_event
from tests.solvers.problems import ones

NAMES = ("callback_step", "callback_accept_step", "callback_reject_step")
FIXED = [name for name, method in METHODS.items() if not method.adaptive]
ADAPTIVE = [name for name, method in METHODS.items() if method.adaptive]


class Decay(nn.Module):
    """``dy/dt = -rate y``, with callbacks that write down what they are given."""

    def __init__(self, names, suffix=""):
        super().__init__()
        self.rate = nn.Parameter(torch.tensor(1.0, dtype=torch.float64))
        self.log = []
        for name in names:
            setattr(self, name + suffix, lambda t, y, dt, name=name: self.log.append((name, t, y, dt)))

    def forward(self, t, y):
        return tuple(-self.rate * part for part in y) if isinstance(y, tuple) else -self.rate * y

    def calls(self, name):
        return [(float(t), y, float(dt)) for found, t, y, dt in self.log if found == name]


def assert_tiling(calls, start, end):
    """The steps follow one another from ``start`` to ``end``."""
    t, direction = start, math.copysign(1.0, end - start)
    for time, _, dt in calls:
        assert time == pytest.approx(t, abs=1e-12)
        t = time + direction * dt
    assert t == pytest.approx(end, abs=1e-12)


@pytest.mark.parametrize("end", [0.5, -0.5])
def test_a_fixed_step_method_calls_before_every_step(end, adjoint):
    field = Decay(["callback_step"])
    odeint(field, ones(2), [0.0, end], method="euler", adjoint=adjoint, options={"step_size": 0.1})
    calls = field.calls("callback_step")
    assert len(calls) == 5
    assert_tiling(calls, 0.0, end)
    assert [dt for _, _, dt in calls] == pytest.approx([0.1] * 5)  # positive in either direction, as torchdiffeq's
    factor = 1.0 - math.copysign(0.1, end)
    for n, (_, y, _) in enumerate(calls):  # a state that is kept is not written to later
        torch.testing.assert_close(y.detach(), factor**n * ones(2), rtol=1e-14, atol=0)


def test_steps_of_a_grid_of_the_users():
    field = Decay(["callback_step"])
    grid = torch.tensor([0.0, 0.1, 0.4, 1.0], dtype=torch.float64)
    odeint(field, ones(2), [0.0, 1.0], method="rk4", options={"grid_constructor": lambda f, y, t: grid})
    assert [time for time, _, _ in field.calls("callback_step")] == pytest.approx([0.0, 0.1, 0.4])
    assert [dt for _, _, dt in field.calls("callback_step")] == pytest.approx([0.1, 0.3, 0.6])


@pytest.mark.parametrize("name", FIXED)
def test_every_fixed_step_method_calls_once_a_step(name):
    field = Decay(["callback_step"])
    odeint(field, ones(2), [0.0, 1.0], method=name, options={"step_size": 0.25})
    assert [time for time, _, _ in field.calls("callback_step")] == pytest.approx([0.0, 0.25, 0.5, 0.75])


@pytest.mark.parametrize("name", ADAPTIVE)
@pytest.mark.parametrize("end", [3.0, -3.0])
def test_every_attempt_of_an_adaptive_method_is_accepted_or_rejected(name, end):
    field = Decay(NAMES)
    odeint(field, ones(2), [0.0, end], rtol=1e-5, atol=1e-6, method=name, options={"first_step": 3.0})
    tried, accepted, rejected = map(field.calls, NAMES)
    assert len(rejected) > 0  # the first step is much too long
    assert len(tried) == len(accepted) + len(rejected)
    assert_tiling(accepted, 0.0, end)
    # Each attempt is followed by what became of it, told of the same step.
    for (name_tried, t, _, dt), (name_judged, t_judged, _, dt_judged) in zip(
        field.log[::2], field.log[1::2], strict=True
    ):
        assert (name_tried, float(t), float(dt)) == ("callback_step", float(t_judged), float(dt_judged))
        assert name_judged in NAMES[1:]


def test_the_states_are_those_at_the_starts_of_the_steps():
    field = Decay(["callback_accept_step"])
    odeint(field, ones(2), [0.0, 2.0], rtol=1e-9, atol=1e-9)
    for t, y, _ in field.calls("callback_accept_step"):
        torch.testing.assert_close(y, math.exp(-t) * ones(2), rtol=1e-7, atol=0)


def test_a_state_that_is_a_tuple_is_given_as_one():
    field = Decay(NAMES)
    odeint(field, (ones(3), 2 * ones(1)), [0.0, 1.0])
    shapes = {tuple(part.shape for part in y) for _, _, y, _ in field.log}
    assert shapes == {((3,), (1,))}


def test_the_last_step_before_an_event_is_accepted():
    field = Decay(NAMES)
    odeint_event(field, ones(1), 0.0, event_fn=lambda t, y: y[0] - 0.5)
    tried, accepted, rejected = map(field.calls, NAMES)
    assert len(tried) == len(accepted) + len(rejected)
    t, _, dt = accepted[-1]
    assert t < math.log(2) <= t + dt


def test_an_attempt_that_ends_the_solve_is_rejected():
    field = Decay(NAMES)
    with pytest.raises(RuntimeError, match="max_steps=1 "):
        odeint(field, ones(2), [0.0, 30.0], options={"first_step": 30.0, "max_num_steps": 1})
    assert list(map(len, map(field.calls, NAMES))) == [1, 0, 1]


@pytest.mark.parametrize("name", ["rk4", "dopri5", "kvaerno3", "implicit_adams"])
def test_answers_and_gradients_are_those_without(name, adjoint):
    def solve(names):
        field = Decay(names if METHODS[name].adaptive else names[:1])
        y = odeint(field, ones(2), torch.linspace(0.0, 1.0, 4), method=name, adjoint=adjoint)
        return y.detach(), torch.autograd.grad(y.square().sum(), field.rate)[0]

    for found, expected in zip(solve(NAMES), solve(()), strict=True):
        assert torch.equal(found, expected)


# The adjoint equation


@pytest.mark.parametrize("name", ["euler", "rk4", "gl4", "explicit_adams"])
def test_the_adjoint_equation_has_its_own_calls(name):
    field = Decay(["callback_step"], suffix="_adjoint")
    y0 = ones(2).requires_grad_()
    y = odeint_adjoint(field, y0, [0.0, 1.0], method=name, options={"step_size": 0.1})
    assert not field.log
    y[-1].sum().backward()
    calls = field.calls("callback_step")
    assert len(calls) == 10
    assert_tiling(calls, 1.0, 0.0)
    assert [tuple(part.shape) for part in calls[0][1]] == [(), (2,), (2,), ()]  # time, state, adjoint, parameter


def test_attempts_of_the_adjoint_equation():
    field = Decay(NAMES, suffix="_adjoint")
    y = odeint_adjoint(field, ones(2), [0.0, 0.7, 1.0], adjoint_options={"first_step": 0.3})
    y[-1].sum().backward()
    tried, accepted, rejected = map(field.calls, NAMES)
    assert len(tried) == len(accepted) + len(rejected) > len(accepted)
    assert_tiling(accepted, 1.0, 0.0)


@pytest.mark.parametrize("adjoint", ["discrete", "backprop"])
def test_without_an_adjoint_equation_its_callbacks_wait(adjoint):
    field = Decay(NAMES, suffix="_adjoint")
    odeint(field, ones(2), [0.0, 1.0], adjoint=adjoint)[-1].sum().backward()
    assert not field.log


# Those that are not called


@pytest.mark.parametrize("name", ["callback_accept_step", "callback_reject_step"])
@pytest.mark.parametrize("method", ["euler", "gl4", "explicit_adams"])
def test_fixed_steps_are_neither_accepted_nor_rejected(name, method):
    with pytest.warns(UserWarning, match=rf"{name}, which method='{method}' does not call.*callback_step alone"):
        odeint(Decay([name]), ones(2), [0.0, 1.0], method=method)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("suffix", ["", "_adjoint"])
def test_scipy_calls_none(name, suffix):
    with pytest.warns(UserWarning, match=rf"{name}{suffix}, which method='scipy_solver' does not call"):
        odeint_adjoint(Decay([name], suffix), ones(2), [0.0, 1.0], method="scipy_solver")


def test_the_adjoint_equations_method_decides_for_its_own():
    field = Decay(["callback_accept_step"], suffix="_adjoint")
    with pytest.warns(UserWarning, match="callback_accept_step_adjoint, which method='rk4'"):
        odeint_adjoint(field, ones(2), [0.0, 1.0], adjoint_method="rk4")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        odeint_adjoint(field, ones(2), [0.0, 1.0], method="rk4", adjoint_method="dopri5")

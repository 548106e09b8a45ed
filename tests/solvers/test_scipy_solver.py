"""SciPy's solvers behind ``odeint``, with gradients."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from skode.solvers import NonFiniteDerivativeError, SolverError, odeint
from skode.solvers.scipy_solver import SOLVERS

TIMES = [0.0, 0.3, 1.0, 2.0]
TIGHT = {"rtol": 1e-10, "atol": 1e-12}


class Damped(nn.Module):
    """Pendula with friction and a periodic push, a batch of them."""

    def __init__(self):
        super().__init__()
        self.friction = nn.Parameter(torch.tensor(0.3, dtype=torch.float64))
        self.push = nn.Parameter(torch.tensor([0.5, 1.5], dtype=torch.float64))

    def forward(self, t, y):
        x, v = y.unbind(-1)
        return torch.stack([v, -torch.sin(x) - self.friction * v + self.push[0] * torch.cos(self.push[1] * t)], dim=-1)


@pytest.fixture
def y0():
    return torch.tensor([[1.0, 0.0], [-0.5, 2.0], [3.0, 0.1]], dtype=torch.float64)


@pytest.fixture(params=SOLVERS)
def solver(request):
    return {"method": "scipy_solver", "options": {"solver": request.param}}


# Errors of a step add up over the many steps of these two.
WIDE = {"RK23": 1e-7, "BDF": 1e-7}


def test_values_agree_with_dopri8(solver, y0):
    ours = odeint(Damped(), y0, TIMES, **TIGHT, **solver)
    expected = odeint(Damped(), y0, TIMES, method="dopri8", rtol=1e-12, atol=1e-13)
    assert ours.shape == (4, 3, 2)
    assert ours.dtype == torch.float64
    torch.testing.assert_close(ours, expected, rtol=0, atol=WIDE.get(solver["options"]["solver"], 1e-8))


@pytest.mark.parametrize("name", ["DOP853", "Radau", "LSODA", "RK45"])
def test_values_at_the_tightest_tolerance(name, y0):
    ours = odeint(Damped(), y0, TIMES, rtol=1e-12, atol=1e-13, method="scipy_solver", options={"solver": name})
    expected = odeint(Damped(), y0, TIMES, method="dopri8", rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-10)


def test_back_in_time(solver, y0):
    back = [2.0, 1.0, 0.3, 0.0]
    ours = odeint(Damped(), y0, back, **TIGHT, **solver)
    expected = odeint(Damped(), y0, back, method="dopri8", rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(ours, expected, rtol=0, atol=WIDE.get(solver["options"]["solver"], 1e-8))


def test_gradients_agree_with_the_discrete_adjoint(solver, y0):
    y0.requires_grad_()
    gradients = {}
    for name, settings in (("scipy", {**TIGHT, **solver}), ("discrete", {"rtol": 1e-12, "atol": 1e-13})):
        field = Damped()
        y = odeint(field, y0, TIMES, **settings)
        weights = torch.linspace(0.5, 1.5, y.numel(), dtype=torch.float64).view(y.shape)
        gradients[name] = torch.autograd.grad((weights * y.square()).sum(), (y0, *field.parameters()))
    tolerance = 1e-5 if solver["options"]["solver"] in WIDE else 1e-7
    torch.testing.assert_close(gradients["scipy"], gradients["discrete"], rtol=tolerance, atol=tolerance)


def test_gradients_of_what_a_closure_holds(solver):
    rate = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    y0 = torch.tensor([1.0, 2.0], dtype=torch.float64)
    y = odeint(lambda t, y: -rate * t * y, y0, [0.0, 2.0], **TIGHT, **solver)
    (gradient,) = torch.autograd.grad(y[-1].sum(), rate)
    assert float(gradient) == pytest.approx(-2.0 * 3.0 * math.exp(-1.4), rel=1e-6)


def test_a_stiff_problem_is_solved_by_the_implicit_ones():
    y0 = torch.tensor([2.0], dtype=torch.float64)
    for name in ("Radau", "BDF", "LSODA"):
        y = odeint(
            lambda t, y: -1e8 * (y - torch.cos(t)), y0, [0.0, 1.0], method="scipy_solver", options={"solver": name}
        )
        assert float(y[-1]) == pytest.approx(math.cos(1.0), abs=1e-6)


def test_float32_states_come_back_as_such(solver):
    y0 = torch.ones(2, 3)
    y = odeint(lambda t, y: -y, y0, [0.0, 1.0], **solver)
    assert y.dtype == torch.float32
    torch.testing.assert_close(y[-1], y0 * math.exp(-1.0), rtol=1e-5, atol=0)


def test_tuples(solver):
    def func(t, y):
        x, v = y
        return v, -x

    x, v = odeint(func, (torch.ones(2).double(), torch.zeros(2).double()), [0.0, 1.0], **TIGHT, **solver)
    np.testing.assert_allclose(x[-1], math.cos(1.0), atol=1e-6)
    np.testing.assert_allclose(v[-1], -math.sin(1.0), atol=1e-6)


def test_a_single_time(solver, y0):
    assert torch.equal(odeint(Damped(), y0, [0.5], **solver), y0[None])


@pytest.mark.timeout(20)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_field_that_is_never_finite_ends(solver, bad, y0):
    with pytest.raises(NonFiniteDerivativeError) as caught:
        odeint(lambda t, y: y * 0 + bad, y0, TIMES, **solver)
    assert caught.value.time == 0.0


@pytest.mark.timeout(20)
def test_a_field_that_stops_being_finite_ends(solver, y0):
    with pytest.raises(NonFiniteDerivativeError) as caught:
        odeint(lambda t, y: torch.where(t > 0.5, math.nan, -y), y0, TIMES, **solver)
    assert 0.5 < caught.value.time <= 2.0


@pytest.mark.timeout(20)
@pytest.mark.filterwarnings("ignore::RuntimeWarning", "ignore:lsoda")
def test_a_solution_that_explodes_ends(solver):
    with pytest.raises(SolverError):
        odeint(lambda t, y: y**2, torch.ones(1).double(), [0.0, 3.0], rtol=1e-4, atol=1e-6, **solver)


@pytest.mark.timeout(20)
def test_a_gradient_that_is_not_finite_ends(solver):
    y0 = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    # The square root's derivative at 0 is infinite.
    y = odeint(lambda t, y: torch.sqrt(y * 0.0) - 0 * y, y0, [0.0, 1.0], **solver)
    with pytest.raises(SolverError):
        torch.autograd.grad(y.sum(), y0)


def test_an_unknown_solver_is_refused(y0):
    with pytest.raises(ValueError, match=r"options\['solver'\]='RK99'"):
        odeint(Damped(), y0, TIMES, method="scipy_solver", options={"solver": "RK99"})


def test_gradients_of_times_are_those_of_the_solution(solver):
    # y = exp(sin(t) - sin(t0)), of which each output time moves its own output, and the first one all
    t = torch.tensor([0.3, 0.9, 1.4], dtype=torch.float64, requires_grad=True)
    y0 = torch.ones(1, dtype=torch.float64)
    y = odeint(lambda t, y: torch.cos(t) * y, y0, t, rtol=1e-8, atol=1e-8, **solver)[:, 0]
    weights = torch.tensor([3.0, 1.0, -2.0], dtype=torch.float64)
    (found,) = torch.autograd.grad(weights @ y, t)
    (expected,) = torch.autograd.grad(weights @ torch.exp(torch.sin(t) - torch.sin(t[0])), t)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_events_are_refused(y0):
    with pytest.raises(ValueError, match="scipy_solver"):
        odeint(Damped(), y0, [0.0, 1.0], method="scipy_solver", event_fn=lambda t, y: y[0, 0])

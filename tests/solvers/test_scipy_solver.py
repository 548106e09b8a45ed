"""SciPy's solvers behind ``odeint``, with gradients."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from skode.solvers import NonFiniteDerivativeError, SolverError, odeint, odeint_adjoint
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


@pytest.mark.parametrize("times", [TIMES, TIMES[::-1]], ids=["forward", "backward"])
def test_gradients_of_times_are_those_of_the_solution(solver, times):
    # dy/dt = cos(t) y from 1 at t0
    t = torch.tensor(times, dtype=torch.float64, requires_grad=True)
    cotangent = torch.tensor([3.0, 1.0, -2.0, 1.5], dtype=torch.float64)
    y = odeint(lambda t, y: torch.cos(t) * y, torch.ones(1, dtype=torch.float64), t, **TIGHT, **solver)
    (found,) = torch.autograd.grad(cotangent @ y[:, 0], t)
    (expected,) = torch.autograd.grad(cotangent @ torch.exp(torch.sin(t) - torch.sin(t[0])), t)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_gradients_of_times_states_and_parameters_together(y0):
    field, t = Damped(), torch.tensor(TIMES, dtype=torch.float64, requires_grad=True)
    y0.requires_grad_()
    inputs = [t, y0, *field.parameters()]

    def gradients(**settings):
        return torch.autograd.grad(odeint(field, y0, t, **TIGHT, **settings).square().sum(), inputs)

    for found, expected in zip(gradients(method="scipy_solver"), gradients(method="dopri8"), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


def test_a_time_in_float32_gets_its_gradient_in_float32():
    t = torch.tensor([0.0, 1.0], requires_grad=True)
    odeint(lambda t, y: -2 * y, torch.ones(1), t, method="scipy_solver")[-1].sum().backward()
    torch.testing.assert_close(t.grad, torch.tensor([2.0, -2.0]) * math.exp(-2), rtol=1e-5, atol=0)


def test_over_no_time_neither_times_nor_states_are_changed(y0):
    t = torch.tensor([0.3], dtype=torch.float64, requires_grad=True)
    y = odeint(Damped(), y0.requires_grad_(), t, method="scipy_solver")
    assert torch.equal(y[0], y0)
    grad_t, grad_y0 = torch.autograd.grad(y.sum(), [t, y0])
    assert grad_t.item() == 0.0
    assert torch.equal(grad_y0, torch.ones_like(y0))


def test_the_largest_step_is_scipys(y0, counted):
    free, short = counted(Damped()), counted(Damped())
    settings = {"rtol": 0.1, "atol": 0.1, "method": "scipy_solver"}
    odeint(free, y0, TIMES, **settings, options={"solver": "RK45", "max_step": math.inf})
    odeint(short, y0, TIMES, **settings, options={"solver": "RK45", "max_step": 0.05})
    assert short.n_calls >= 2.0 / 0.05 * 6 > 2 * free.n_calls


def test_the_first_step_is_scipys(y0, counted):
    field = counted(Damped())
    options = {"solver": "RK23", "first_step": 0.02}
    odeint(field, y0, TIMES, rtol=0.1, atol=0.1, method="scipy_solver", options=options)
    assert sorted(set(field.times))[1] == pytest.approx(0.01)


def test_elements_may_have_tolerances_of_their_own(counted):
    # The fast element is allowed any error, as a whole or by its own tolerance.
    def slow_and_fast(t, y):
        return torch.stack([-y[0], 20 * torch.cos(20 * t)])

    def calls(**tolerances):
        field = counted(slow_and_fast)
        y = odeint(field, torch.ones(2).double(), [0.0, 3.0], method="scipy_solver", **tolerances)
        assert abs(float(y[-1, 0]) - math.exp(-3)) < 1e-6
        return field.n_calls

    assert calls(rtol=1e-13, atol=torch.tensor([1e-8, 1e3])) < 0.5 * calls(rtol=1e-13, atol=1e-8)


def test_the_adjoint_equation_may_have_another_solver_and_tolerances(y0):
    field = Damped()

    def gradient(**settings):
        y = odeint_adjoint(field, y0, TIMES, method="scipy_solver", options={"solver": "DOP853"}, **TIGHT, **settings)
        return torch.autograd.grad(y.square().sum(), field.friction)[0]

    expected = gradient()
    other = gradient(adjoint_options={"solver": "RK45"})
    loose = gradient(adjoint_rtol=1e-4, adjoint_atol=1e-4)
    assert other != expected
    torch.testing.assert_close(other, expected, rtol=1e-7, atol=0)
    assert 1e-9 < abs(float(loose / expected) - 1) < 1e-2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"options": {"step_size": 0.1}}, r"options \['step_size'\] play no part with method='scipy_solver'"),
        ({"options": {"norm": torch.norm}}, r"options \['norm'\] play no part"),
        ({"options": {"max_step": -1.0}}, r"options\['max_step'\] must be a finite number > 0"),
        ({"options": {"first_step": 0.0}}, r"options\['first_step'\] must be a finite number > 0"),
        ({"options": {"solver": "RK45", "min_step": 0.1}}, r"options\['min_step'\] is for SciPy's LSODA"),
        ({"options": {"solver": "Radau"}, "rtol": [1e-3, 1e-3]}, "rtol must be one number for SciPy's Radau"),
        ({"adjoint_method": "dopri5"}, "adjoint_method='dopri5' does not go with method='scipy_solver'"),
        ({"adjoint_options": {"norm": "seminorm"}}, r"adjoint_options \['norm'\] play no part"),
        ({"adjoint_options": {"solver": "RK99"}}, r"adjoint_options\['solver'\]='RK99'"),
        ({"rtol": -1.0}, "rtol must be a finite number >= 0"),
    ],
)
def test_what_scipy_has_no_word_for_is_refused(y0, settings, message):
    with pytest.raises(ValueError, match=message):
        odeint_adjoint(Damped(), y0, TIMES, method="scipy_solver", **settings)


def test_events_are_refused(y0):
    with pytest.raises(ValueError, match="scipy_solver"):
        odeint(Damped(), y0, [0.0, 1.0], method="scipy_solver", event_fn=lambda t, y: y[0, 0])


def test_a_solve_of_scipys_at_one_time_gives_a_copy():
    y0 = torch.ones(2)
    y = odeint(lambda t, y: -y, y0, [0.0], method="scipy_solver")
    y0.fill_(9.0)
    assert y.tolist() == [[1.0, 1.0]]

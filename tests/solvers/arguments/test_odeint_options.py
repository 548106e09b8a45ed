"""torchdiffeq's remaining arguments: tolerances of elements, ``perturb``, events in fixed steps, ``adjoint_*``."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from skode.dynamics import MLPField
from skode.solvers import MaxStepsError, odeint, odeint_adjoint, odeint_dense, odeint_event
from tests.solvers.problems import decay, vector


class Decay(nn.Module):
    """``dy/dt = -rate y``, which has a parameter that plays no part."""

    def __init__(self):
        super().__init__()
        self.rate = nn.Parameter(torch.tensor(0.7, dtype=torch.float64))
        self.idle = nn.Parameter(torch.ones(3, dtype=torch.float64))
        self.times = []

    def forward(self, t, y):
        self.times.append(float(t))
        return -self.rate * y


# Tolerances of elements


@pytest.mark.parametrize("method", ["dopri5", "bosh3", "tsit5", "kvaerno3"])
def test_tolerances_of_elements_are_those_of_a_scaled_state(method, adjoint):
    # z = y / atol with a tolerance of 1 has the same errors in units of those allowed.
    atol = vector(1e-3, 1e-6, 1e-1)

    def field(t, y):
        return torch.sin(y.flip(0)) - t * y

    y0 = vector(1.0, 2.0, -0.5).requires_grad_()
    settings = {"method": method, "adjoint": adjoint, "rtol": 0.0}
    t = torch.linspace(0.0, 1.0, 4)
    y = odeint(field, y0, t, atol=atol, **settings)
    scaled = odeint(lambda t, z: field(t, z * atol) / atol, y0.detach() / atol, t, atol=1.0, **settings)
    torch.testing.assert_close(y.detach(), scaled * atol, rtol=1e-9, atol=0)
    (gradient,) = torch.autograd.grad(y[-1].sum(), y0)
    (expected,) = torch.autograd.grad(odeint(field, y0, t, rtol=1e-10, atol=1e-10)[-1].sum(), y0)
    torch.testing.assert_close(gradient, expected, rtol=0, atol=2e-2)


def test_relative_tolerances_of_elements(counted):
    def oscillators(t, y):
        return torch.stack([y[1], -y[0], 20 * y[3], -20 * y[2]])

    def calls(rtol):
        field = counted(oscillators)
        y = odeint(field, vector(1.0, 0.0, 1.0, 0.0), [0.0, 2.0], rtol=rtol, atol=1e-12)
        assert float(y[-1, 0]) == pytest.approx(math.cos(2.0), abs=1e-6)
        return field.n_calls

    assert calls(vector(1e-8, 1e-8, 0.1, 0.1)) < 0.4 * calls(1e-8)


@pytest.mark.parametrize("shape", [(3,), (1, 3), (2, 1), (2, 3)])
def test_tolerances_broadcast_to_the_state(shape):
    y0 = torch.ones(2, 3)
    same = odeint(decay, y0, [0.0, 1.0], rtol=np.full(shape, 1e-4), atol=torch.full(shape, 1e-6))
    torch.testing.assert_close(same, odeint(decay, y0, [0.0, 1.0], rtol=1e-4, atol=1e-6), rtol=1e-6, atol=0)


def test_tolerances_of_the_parts_of_a_tuple():
    y0 = (torch.ones(2, 2).double(), torch.ones(3).double())

    def field(t, y):
        return -y[0], 20 * torch.cos(20 * t) * y[1]

    def steps(**tolerances):
        times = []

        def noted(t, y):
            times.append(float(t))
            return field(t, y)

        y = odeint(noted, y0, [0.0, 1.0], **tolerances)
        torch.testing.assert_close(y[0][-1], math.exp(-1) * y0[0], rtol=1e-5, atol=0)
        return len(times)

    assert steps(rtol=0.0, atol=(1e-8, 1e3)) < 0.5 * steps(rtol=0.0, atol=1e-8)
    assert steps(rtol=(1e-8, 0.9), atol=1e-12) < 0.5 * steps(rtol=1e-8, atol=1e-12)
    assert steps(rtol=0.0, atol=(1e-8, torch.full((3,), 1e3))) == steps(rtol=0.0, atol=(1e-8, 1e3))


def test_a_single_number_may_be_a_tensor():
    one = odeint(decay, torch.ones(2), [0.0, 1.0], rtol=torch.tensor(1e-4), atol=np.float64(1e-6))
    assert torch.equal(one, odeint(decay, torch.ones(2), [0.0, 1.0], rtol=float(torch.tensor(1e-4)), atol=1e-6))


@pytest.mark.parametrize(
    ("y0", "tolerances", "message"),
    [
        (torch.ones(2), {"rtol": [1e-3] * 3}, r"rtol must be a number, or .* of y0, \(2,\); got shape \(3,\)"),
        (torch.ones(2), {"atol": [1e-3, -1e-3]}, "atol must hold finite numbers >= 0"),
        (torch.ones(2), {"atol": [1e-3, math.nan]}, "atol must hold finite numbers >= 0"),
        (torch.ones(2), {"rtol": torch.ones(2, requires_grad=True)}, "rtol must not require grad"),
        (torch.ones(2), {"rtol": [0.0, 1e-3], "atol": [0.0, 1e-3]}, "rtol and atol must not both be 0"),
        ((torch.ones(2),), {"rtol": (1e-3, 1e-3)}, "rtol must be one number, or one for each of y0's 1 parts"),
        ((torch.ones(2),), {"atol": (torch.ones(3),)}, r"atol must broadcast part by part to y0's shapes \[\(2,\)\]"),
    ],
    ids=str,
)
def test_tolerances_that_do_not_fit_are_refused(y0, tolerances, message):
    with pytest.raises(ValueError, match=message):
        odeint(lambda t, y: y, y0, [0.0, 1.0], **tolerances)


# perturb


def jumping(rates, jumps):
    """``dy/dt`` is one rate between each two jumps, and no number anybody wants to see at them."""

    def field(t, y):
        assert not any(float(t) == float(y.new_tensor(jump)) for jump in jumps)
        return rates[sum(float(t) > jump for jump in jumps)].to(y) * torch.ones_like(y)

    return field


@pytest.mark.parametrize("method", ["euler", "heun3", "rk4", "explicit_adams", "trapezoid", "trbdf2", "gl4"])
@pytest.mark.parametrize(("dtype", "way"), [(torch.float32, 1.0), (torch.float64, -1.0)])
def test_perturbed_steps_keep_off_jumps_at_the_grid(method, dtype, way, adjoint):
    # Jumps at the start, inside and at the end: forward, and on the way back of the adjoint.
    rates = vector(100.0, 1.0, -3.0, -100.0).requires_grad_()
    jumps = [0.0, 0.5, 1.0]
    y0 = torch.zeros(2, dtype=dtype, requires_grad=True)
    options = {"step_size": 0.25, "perturb": True}
    y = odeint(jumping(rates, jumps), y0, [0.0, 1.0][:: int(way)], method=method, adjoint=adjoint, options=options)
    # An Adams formula reaches over the jump, as it would without.
    if "adams" not in method:
        torch.testing.assert_close(y[-1], torch.full_like(y0, way * (0.5 - 1.5)), rtol=1e-5, atol=0)
        (gradient,) = torch.autograd.grad(y[-1, 0], rates)
        torch.testing.assert_close(gradient, way * vector(0.0, 0.5, 0.5, 0.0), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("method", ["dopri5", "bosh3"])
def test_an_adaptive_start_is_perturbed_too(method):
    y = odeint(jumping(vector(5.0, 1.0), [0.0]), vector(0.0), [0.0, 1.0], method=method, options={"perturb": True})
    assert float(y[-1]) == pytest.approx(1.0, abs=1e-12)


# Events in fixed steps


@pytest.mark.parametrize("method", ["euler", "rk4", "explicit_adams", "implicit_adams", "trbdf2", "gl4"])
@pytest.mark.parametrize("reverse", [False, True])
def test_events_in_fixed_steps(method, reverse, adjoint):
    rate = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    t, y = odeint_event(
        lambda t, y: -rate * y,
        vector(1.0),
        0.0,
        event_fn=lambda t, y: y[0] - (2.0 if reverse else 0.5),
        reverse_time=reverse,
        method=method,
        adjoint=adjoint,
        options={"step_size": 0.05},
    )
    sign = -1.0 if reverse else 1.0
    rtol = 3e-2 if method == "euler" else 5e-4
    assert t.item() == pytest.approx(sign * math.log(2) / 0.5, rel=rtol)
    assert y[-1].item() == pytest.approx(2.0 if reverse else 0.5, rel=1e-6)
    (slope,) = torch.autograd.grad(t, rate)
    assert float(slope) == pytest.approx(-sign * math.log(2) / 0.25, rel=3 * rtol)


def test_an_event_on_the_line_between_two_steps():
    # Euler's first step of -y from 1 goes to 0.5; the line meets 0.8 after 0.4 of it.
    settings = {"method": "euler", "options": {"step_size": 0.5, "interp": "linear"}}
    t, y = odeint_event(decay, vector(1.0), 0.0, event_fn=lambda t, y: y[0] - 0.8, **settings)
    assert float(t) == pytest.approx(0.2, abs=1e-12)
    assert float(y[-1]) == pytest.approx(0.8, abs=1e-12)


def test_the_start_moves_an_event_in_fixed_steps(adjoint):
    t0 = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    settings = {"method": "rk4", "adjoint": adjoint, "options": {"step_size": 0.05}}
    t, _ = odeint_event(decay, vector(1.0), t0, event_fn=lambda t, y: y[0] - 0.5, **settings)
    assert float(torch.autograd.grad(t, t0)[0]) == pytest.approx(1.0, abs=1e-5)


def test_fixed_steps_without_end_are_bounded():
    with pytest.raises(MaxStepsError, match="max_steps=30 steps met no event"):
        odeint_event(
            decay,
            vector(1.0),
            0.0,
            event_fn=lambda t, y: y[0] + 1.0,
            method="rk4",
            options={"step_size": 0.1, "max_num_steps": 30},
        )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "rk4"}, r"event_fn with method='rk4' needs options\['step_size'\]"),
        ({"method": "rk4", "options": {"grid_constructor": lambda f, y, t: t}}, r"options\['step_size'\]"),
        ({"options": {"step_size": 0.1}}, "step_size is for fixed-step methods"),
        ({"method": "scipy_solver"}, "method='scipy_solver' looks for no events"),
    ],
)
def test_events_that_cannot_be_looked_for(settings, message):
    with pytest.raises(ValueError, match=message):
        odeint_event(decay, vector(1.0), 0.0, event_fn=lambda t, y: y[0] - 0.5, **settings)


# Gradients of times by Adams' methods


@pytest.mark.parametrize("method", ["explicit_adams", "implicit_adams"])
@pytest.mark.parametrize("kind", ["unequal", "equal", "equal, then others", "back in time"])
def test_times_of_adams_methods(method, kind, adjoint):
    steps = {
        "unequal": 0.01 + 0.01 * np.sin(np.arange(60)) ** 2,
        "equal": np.full(60, 0.02),
        "equal, then others": np.repeat([0.01, 0.03], 30),
        "back in time": np.full(60, -0.02),
    }[kind]
    t = torch.tensor(0.3 + np.append(0.0, np.cumsum(steps)), dtype=torch.float64, requires_grad=True)
    cotangent = torch.linspace(1, 2, len(t), dtype=torch.float64)
    y = odeint(lambda t, y: torch.cos(t) * y, vector(1.0), t, method=method, adjoint=adjoint)
    (found,) = torch.autograd.grad(cotangent @ y[:, 0], t)
    (expected,) = torch.autograd.grad(cotangent @ torch.exp(torch.sin(t) - torch.sin(t[0])), t)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


# The adjoint equation's own settings


def gradient_of_rate(**settings):
    field = Decay()
    y = odeint_adjoint(field, vector(1.0), [0.0, 2.0], **settings)
    n = len(field.times)
    return float(torch.autograd.grad(y[-1].sum(), field.rate)[0]), len(field.times) - n


def test_the_adjoint_equation_has_tolerances_of_its_own():
    exact = -2 * math.exp(-1.4)
    loose, few = gradient_of_rate(rtol=1e-10, atol=1e-10, adjoint_rtol=1e-3, adjoint_atol=1e-3)
    tight, many = gradient_of_rate(rtol=1e-10, atol=1e-10)
    assert 1e-8 < abs(loose - exact) < 1e-3
    assert abs(tight - exact) < 1e-8
    assert few < 0.3 * many


@pytest.mark.parametrize("other", ["rk4", "euler"])
def test_the_adjoint_equation_may_be_solved_by_another_method(other):
    # da/dt = rate a, solved back in steps of h, multiplies a by the method's stability function.
    z, y0 = -0.7 * 0.25, vector(1.0).requires_grad_()
    growth = sum(z**k / math.factorial(k) for k in range({"rk4": 5, "euler": 2}[other]))
    field = Decay()
    y = odeint_adjoint(field, y0, [0.0, 2.0], adjoint_method=other, adjoint_options={"step_size": 0.25})
    n = len(field.times)
    (gradient,) = torch.autograd.grad(y[-1].sum(), y0)
    assert float(gradient) == pytest.approx(growth**8, rel=1e-12)
    assert min(field.times[n:]) >= 0.0


def test_a_grid_of_the_adjoint_equations_own():
    spans = []

    def constructor(func, y, t):
        spans.append(t.tolist())
        return torch.linspace(float(t[0]), float(t[1]), 11, dtype=torch.float64)

    y0 = vector(1.0).requires_grad_()
    options = {"grid_constructor": constructor}
    y = odeint_adjoint(Decay(), y0, [0.0, 1.0, 2.0], adjoint_method="euler", adjoint_options=options)
    (gradient,) = torch.autograd.grad(y[-1].sum(), y0)
    assert float(gradient) == pytest.approx((1 - 0.07) ** 20, rel=1e-12)
    assert spans == [[2.0, 1.0], [1.0, 0.0]]


def test_a_multistep_adjoint_of_a_stiff_solve():
    y0 = vector(1.0).requires_grad_()
    y = odeint_adjoint(
        Decay(), y0, [0.0, 2.0], method="kvaerno5", adjoint_method="implicit_adams", adjoint_options={"step_size": 0.02}
    )
    assert float(torch.autograd.grad(y[-1].sum(), y0)[0]) == pytest.approx(math.exp(-1.4), rel=1e-6)


@pytest.mark.parametrize("shape", [(), (2,), (2, 3)])
def test_a_norm_of_the_adjoint_equations_own(shape):
    seen = []

    def norm(state):
        seen.append([tuple(part.shape) for part in state])
        return state[1].abs().max()

    field = Decay()
    y0 = torch.ones(shape, dtype=torch.float64)
    odeint_adjoint(field, y0, [0.0, 1.0], adjoint_options={"norm": norm})[-1].sum().backward()
    # Time, state, adjoint, and the parameters' gradients.
    assert seen
    assert all(shapes == [(), shape, shape, (), (3,)] for shapes in seen)


def test_a_norm_receives_the_parts_of_a_tuple():
    seen = []

    def norm(state):
        seen.append([tuple(part.shape) for part in state])
        return state[1].abs().max()

    def field(t, y):
        return -y[0], -2 * y[1]

    y0 = (torch.ones(2, 3, requires_grad=True), torch.ones(4))
    odeint_adjoint(field, y0, [0.0, 1.0], adjoint_options={"norm": norm})[0][-1].sum().backward()
    assert seen
    assert all(shapes == [(), (2, 3), (4,), (2, 3), (4,)] for shapes in seen)


def test_what_a_norm_leaves_out_may_be_wrong():
    exact = -2 * math.exp(-1.4)
    settings = {"rtol": 1e-9, "atol": 1e-9}
    careless, few = gradient_of_rate(**settings, adjoint_options={"norm": lambda state: 0 * state[0]})
    options = {"norm": lambda state: max(part.abs().max() for part in state)}
    careful, many = gradient_of_rate(**settings, adjoint_options=options)
    assert abs(careful - exact) < 1e-7 < abs(careless - exact)
    assert few < 0.5 * many


def test_the_norm_of_the_solve_is_that_of_state_and_adjoint():
    def norms(**settings):
        seen = []

        def norm(state):
            seen.append(tuple(state.shape))
            return state.abs().max()

        odeint_adjoint(Decay(), vector(1.0, 2.0), [0.0, 1.0], options={"norm": norm}, **settings)[-1].sum().backward()
        return seen

    assert norms() == norms(adjoint_options={})
    assert len(norms()) > len(norms(adjoint_options={"norm": lambda state: state[1].abs().max()}))


def test_the_seminorm_by_its_name_saves_evaluations():
    exact = -2 * math.exp(-1.4)
    semi, few = gradient_of_rate(rtol=1e-8, atol=1e-8, adjoint_options={"norm": "seminorm"})
    full, many = gradient_of_rate(rtol=1e-8, atol=1e-8)
    assert abs(semi - exact) < 1e-6
    assert abs(full - exact) < 1e-7
    assert few <= many


def test_only_chosen_parameters_get_gradients():
    field, other = Decay(), torch.ones(2, requires_grad=True)
    y = odeint_adjoint(field, vector(1.0), [0.0, 2.0], adjoint_params=(field.idle, other))
    y[-1].sum().backward() if y.requires_grad else None
    assert field.rate.grad is None
    assert torch.equal(field.idle.grad, torch.zeros(3, dtype=torch.float64))
    assert torch.equal(other.grad, torch.zeros(2))


def test_no_parameters_may_be_chosen():
    field, y0 = Decay(), vector(1.0).requires_grad_()
    odeint_adjoint(field, y0, [0.0, 2.0], adjoint_params=())[-1].sum().backward()
    assert float(y0.grad) == pytest.approx(math.exp(-1.4), rel=1e-6)
    assert field.rate.grad is None


@pytest.mark.parametrize("method", ["dopri5", "scipy_solver"])
def test_parameters_may_come_from_a_generator(method):
    field = Decay()
    y = odeint_adjoint(field, vector(1.0), [0.0, 2.0], method=method, adjoint_params=field.parameters())
    assert float(torch.autograd.grad(y[-1].sum(), field.rate)[0]) == pytest.approx(-2 * math.exp(-1.4), rel=1e-5)


@pytest.mark.parametrize("n_chosen", [0, 1, 4])
def test_parameters_of_a_field_with_its_own_pullback(n_chosen):
    torch.manual_seed(0)
    field, y0 = MLPField(2, (3,)).double(), torch.randn(5, 2, dtype=torch.float64)
    chosen = list(field.parameters())[:n_chosen]
    y0.requires_grad_()
    found = torch.autograd.grad(odeint_adjoint(field, y0, [0.0, 1.0], adjoint_params=chosen)[-1].sum(), [y0, *chosen])
    expected = torch.autograd.grad(odeint(field, y0, [0.0, 1.0])[-1].sum(), [y0, *chosen])
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_parameters_that_need_no_gradient_are_left_out_of_a_norm_with_a_warning():
    field = Decay()
    field.idle.requires_grad_(False)
    options = {"norm": lambda state: state[1].abs().max()}
    with pytest.warns(UserWarning, match="1 of adjoint_params do not require grad"):
        odeint_adjoint(field, vector(1.0), [0.0, 1.0], adjoint_params=field.parameters(), adjoint_options=options)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"adjoint_rtol": -1.0}, ValueError, "adjoint_rtol must be a finite number >= 0, got -1.0"),
        ({"adjoint_atol": [1e-3, 1e-3]}, ValueError, "adjoint_atol must be a finite number >= 0"),
        ({"adjoint_method": "rk5"}, ValueError, "method='rk5' is not known"),
        ({"adjoint_method": "scipy_solver"}, ValueError, "goes with method='scipy_solver' alone"),
        (
            {"adjoint_method": "rk4", "options": {"first_step": 0.1}},
            ValueError,
            r"whose options \['first_step'\] it can't",
        ),
        (
            {"adjoint_options": {"norm": "l2"}},
            ValueError,
            r"adjoint_options\['norm'\] must be \"seminorm\" or a callable",
        ),
        ({"adjoint_options": {"nrom": 1}}, ValueError, r"adjoint_options has unknown keys \['nrom'\]"),
        ({"adjoint_options": {"compile": True}}, ValueError, r"adjoint_options has unknown keys \['compile'\]"),
        ({"adjoint_options": {"step_size": 0.1}}, ValueError, "step_size is for fixed-step methods; method='dopri5'"),
        ({"adjoint_options": {"interp": "cubic"}}, ValueError, r"adjoint_options \['interp'\] play no part"),
        ({"adjoint_options": "seminorm"}, TypeError, "adjoint_options must be a dict"),
        ({"adjoint_params": [1.0]}, TypeError, r"adjoint_params must hold torch tensors, got \['float'\]"),
        ({"adjoint_paramz": ()}, TypeError, "adjoint_paramz"),
    ],
    ids=str,
)
def test_what_is_wrong_with_the_adjoints_arguments_is_said_before_the_solve(settings, error, message):
    field = Decay()
    with pytest.raises(error, match=message):
        odeint_adjoint(field, vector(1.0), [0.0, 1.0], **settings)
    assert not field.times


# Dense output


@pytest.mark.parametrize("method", ["dopri5", "dopri8", "bosh3", "kvaerno5"])
@pytest.mark.parametrize("end", [2.0, -2.0])
def test_a_dense_solution_and_its_gradients(method, end):
    field, y0 = Decay(), vector(1.0, 2.0).requires_grad_()
    solution = odeint_dense(field, y0, torch.tensor(0.0), torch.tensor(end), rtol=1e-9, atol=1e-9, method=method)
    t = (vector(0.0, 0.3, 1.1, 2.0) * math.copysign(1.0, end)).requires_grad_()
    y = solution(t)
    exact = torch.exp(-field.rate * t)[:, None] * y0
    torch.testing.assert_close(y, exact, rtol=1e-5, atol=0)
    cotangent = torch.randn(4, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    inputs = [t, y0, field.rate]
    found = torch.autograd.grad((cotangent * y).sum(), inputs)
    for one, other in zip(found, torch.autograd.grad((cotangent * exact).sum(), inputs), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


def test_a_dense_solution_in_fixed_steps():
    settings = {"method": "euler", "options": {"step_size": 0.5, "interp": "linear"}}
    solution = odeint_dense(decay, vector(1.0), 0.0, 1.0, **settings)
    assert float(solution(0.25)) == pytest.approx(0.75)
    assert float(solution(1.0)) == pytest.approx(0.25)
    assert not solution(0.25).requires_grad


def test_a_dense_solution_is_recorded_only_where_it_is_wanted():
    field = Decay()
    with torch.no_grad():
        solution = odeint_dense(field, vector(1.0), 0.0, 1.0)
    assert not solution(vector(0.5)).requires_grad
    assert not odeint_dense(decay, vector(1.0), 0.0, 1.0)(0.5).requires_grad
    with torch.no_grad():
        assert not odeint_dense(field, vector(1.0), 0.0, 1.0)(0.5).requires_grad


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"y0": (torch.ones(1),)}, TypeError, "y0 must be a torch tensor, got tuple"),
        ({"method": "scipy_solver"}, ValueError, "method='scipy_solver' is not known"),
        ({"t1": 0.0}, ValueError, "t0 and t1 must be strictly"),
        ({"options": {"stepsize": 1}}, ValueError, r"options has unknown keys \['stepsize'\]"),
    ],
    ids=str,
)
def test_what_a_dense_solution_refuses(arguments, error, message):
    arguments = {"y0": torch.ones(1), "t0": 0.0, "t1": 1.0, **arguments}
    with pytest.raises(error, match=message):
        odeint_dense(decay, **arguments)


def test_a_dense_solution_has_an_end():
    with pytest.raises(ValueError, match=r"t must lie inside the time span \[0.0, 1.0\]"):
        odeint_dense(decay, torch.ones(1), 0.0, 1.0)(1.1)


@pytest.mark.parametrize("name", [None, "fixed_adams"])
def test_torchdiffeqs_other_names_for_methods(name):
    t, y0 = torch.linspace(0.0, 1.0, 11), vector(1.0)
    y = odeint(lambda t, y: -y, y0, t, method=name)
    assert float(y[-1, 0]) == pytest.approx(0.36787944, abs=1e-5)

"""The observed order of every method, at the ends of steps and inside them."""

import math

import numpy as np
import pytest
import torch

from skode.solvers import METHODS, solve_ivp

# A spiral onto the unit circle at a changing angular speed: nonlinear, coupled, time-dependent, known in closed form.
GROWTH, SPEED, WOBBLE, FREQUENCY, RADIUS = 0.2, 4.0, 1.0, 2.0, 0.8
END = 2.0

# Numbers of equal steps between which the order is observed: powers of 2, so that no step size is rounded. By default
# fine enough for the leading term of the error; methods of high order end where rounding begins.
STEPS = {"dopri8": (16, 32), "gl6": (16, 32), "radauIIA5": (32, 64), "gl4": (32, 64), "kvaerno5": (32, 64)}
FINE_STEPS = (128, 256)

# The highest order whose conditions the interpolant solves inside the step; see tests/solvers/tableaus. Adams' formula
# is its own interpolant.
INTERPOLANT_ORDER = {
    "euler": 1,
    "midpoint": 2,
    "heun2": 2,
    "heun3": 2,
    "rk4": 3,
    "adaptive_heun": 2,
    "fehlberg2": 2,
    "bosh3": 3,
    "tsit5": 4,
    "dopri5": 4,
    "dopri8": 5,
    "implicit_euler": 1,
    "implicit_midpoint": 1,
    "trapezoid": 2,
    "radauIIA3": 2,
    "radauIIA5": 3,
    "gl4": 2,
    "gl6": 3,
    "sdirk2": 2,
    "trbdf2": 2,
    "kvaerno3": 3,
    "kvaerno5": 4,
    "explicit_adams": 4,
    "implicit_adams": 4,
}
ONE_STEP = [name for name in METHODS if "adams" not in name]


def field(t, y):
    turned = torch.stack([-y[1], y[0]])
    return GROWTH * (1 - (y**2).sum()) * y + (SPEED + WOBBLE * torch.cos(FREQUENCY * t)) * turned


def exact(t):
    t = torch.as_tensor(t, dtype=torch.float64)
    radius = (1 + (RADIUS**-2 - 1) * torch.exp(-2 * GROWTH * t)) ** -0.5
    angle = SPEED * t + WOBBLE / FREQUENCY * torch.sin(FREQUENCY * t)
    return torch.stack([radius * torch.cos(angle), radius * torch.sin(angle)], dim=-1)


def equal_steps(name, h):
    """Arguments that make a method take steps of size h."""
    method = METHODS[name]
    if not method.adaptive:
        return {"method": name, "step_size": h}
    if method.implicit:  # whose equations are solved only as well as the tolerances ask
        return {"method": name, "rtol": 1e-12, "atol": 1e-12, "first_step": h, "max_step": h, "min_step": h}
    return {"method": name, "rtol": 1e3, "atol": 1e3, "first_step": h, "max_step": h}


def largest_error(t, y):
    return torch.linalg.vector_norm(y - exact(t), dim=-1).max().item()


def observed_order(errors):
    return math.log2(errors[0] / errors[1])


def test_the_closed_form_is_a_solution():
    t = torch.linspace(0.0, END, 9, dtype=torch.float64, requires_grad=True)
    states = exact(t)
    slopes = torch.stack([torch.autograd.grad(states[:, i].sum(), t, retain_graph=True)[0] for i in (0, 1)], dim=-1)
    for time, state, slope in zip(t, states, slopes, strict=True):
        torch.testing.assert_close(field(time, state), slope, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("name", METHODS)
def test_states_at_the_ends_of_steps_have_the_order_of_the_method(name):
    errors = []
    for n in STEPS.get(name, FINE_STEPS):
        solution = solve_ivp(field, (0.0, END), exact(0.0), **equal_steps(name, END / n))
        assert len(solution.t) == n + 1
        errors.append(largest_error(solution.t, solution.y))
    assert abs(observed_order(errors) - METHODS[name].order) < 0.2


@pytest.mark.parametrize("name", METHODS)
def test_states_inside_steps_have_the_order_of_the_interpolant_and_one_more(name):
    # An interpolant of order q makes a local error of order q + 1, which is not carried on.
    errors = []
    for n in STEPS.get(name, FINE_STEPS):
        inside = np.add.outer(np.arange(n), [0.23, 0.6]).ravel() * (END / n)
        solution = solve_ivp(field, (0.0, END), exact(0.0), t_eval=inside, **equal_steps(name, END / n))
        assert solution.n_accepted == n
        errors.append(largest_error(solution.t, solution.y))
    assert abs(observed_order(errors) - min(METHODS[name].order, INTERPOLANT_ORDER[name] + 1)) < 0.2


@pytest.mark.parametrize("name", ONE_STEP)
def test_dense_output_of_one_step_has_the_order_of_the_interpolant(name):
    starts = np.arange(8) / 8
    errors = []
    for h in (2**-5, 2**-6):
        worst = 0.0
        for start in starts:
            span = (start, start + h)
            solution = solve_ivp(field, span, exact(start), dense_output=True, **equal_steps(name, h))
            assert solution.n_accepted == 1
            inside = start + h * torch.tensor([0.23, 0.6], dtype=torch.float64)
            worst = max(worst, largest_error(inside, solution.sol(inside)))
        errors.append(worst)
    assert abs(observed_order(errors) - (INTERPOLANT_ORDER[name] + 1)) < 0.2


@pytest.mark.parametrize("name", METHODS)
def test_the_order_holds_backward_in_time(name):
    errors = []
    for n in STEPS.get(name, FINE_STEPS):
        solution = solve_ivp(field, (END, 0.0), exact(END), **equal_steps(name, END / n))
        assert len(solution.t) == n + 1
        errors.append(largest_error(solution.t, solution.y))
    assert abs(observed_order(errors) - METHODS[name].order) < 0.2

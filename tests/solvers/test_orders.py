"""The observed order of every method, at the ends of steps and inside them."""

import math

import numpy as np
import pytest
import torch

from skode.solvers import METHODS, solve_ivp
from tests.solvers.problems import steps_of

# A spiral onto the unit circle at a changing angular speed: nonlinear, coupled, time-dependent, known in closed form.
GROWTH, SPEED, WOBBLE, FREQUENCY, RADIUS = 0.2, 4.0, 1.0, 2.0, 0.8
END = 2.0

# The order is observed between a number of equal steps and twice as many: powers of 2, so that no step size is rounded.
# The finest is fine enough for the leading term of the error; where that is lost in rounding, the order shows earlier.
# So it does for implicit methods of order 2 and more, whose steps cost most.
FINEST, FINEST_IMPLICIT = 256, 64
LOST_IN_ROUNDING = 5e-12

ONE_STEP = [name for name in METHODS if "adams" not in name]


def field(t, y):
    turned = torch.stack([-y[1], y[0]])
    return GROWTH * (1 - (y**2).sum()) * y + (SPEED + WOBBLE * torch.cos(FREQUENCY * t)) * turned


def exact(t):
    t = torch.as_tensor(t, dtype=torch.float64)
    radius = (1 + (RADIUS**-2 - 1) * torch.exp(-2 * GROWTH * t)) ** -0.5
    angle = SPEED * t + WOBBLE / FREQUENCY * torch.sin(FREQUENCY * t)
    return torch.stack([radius * torch.cos(angle), radius * torch.sin(angle)], dim=-1)


def largest_error(t, y):
    return torch.linalg.vector_norm(y - exact(t), dim=-1).max().item()


def observed_order(name, error):
    """Of a method, and a function from the number of steps to the error."""
    implicit = METHODS[name].implicit and METHODS[name].order > 1 and "adams" not in name
    n = FINEST_IMPLICIT if implicit else FINEST
    coarse, fine = error(n // 2), error(n)
    while fine < LOST_IN_ROUNDING:
        n //= 2
        coarse, fine = error(n // 2), coarse
    return math.log2(coarse / fine)


def test_the_closed_form_is_a_solution():
    t = torch.linspace(0.0, END, 9, dtype=torch.float64, requires_grad=True)
    states = exact(t)
    slopes = torch.stack([torch.autograd.grad(states[:, i].sum(), t, retain_graph=True)[0] for i in (0, 1)], dim=-1)
    for time, state, slope in zip(t, states, slopes, strict=True):
        torch.testing.assert_close(field(time, state), slope, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("name", METHODS)
def test_states_at_the_ends_of_steps_have_the_order_of_the_method(name):
    def error(n):
        solution = solve_ivp(field, (0.0, END), exact(0.0), **steps_of(name, END / n, equations=1e-12))
        assert len(solution.t) == n + 1
        return largest_error(solution.t, solution.y)

    assert abs(observed_order(name, error) - METHODS[name].order) < 0.2


@pytest.mark.parametrize("name", METHODS)
def test_states_inside_steps_have_the_order_of_the_interpolant_and_one_more(name):
    # The interpolant's local error, of one order more, is at the same places of every step, and is not carried on.
    def error(n):
        inside = np.add.outer(np.arange(n), [0.23, 0.6]).ravel() * (END / n)
        solution = solve_ivp(field, (0.0, END), exact(0.0), t_eval=inside, **steps_of(name, END / n, equations=1e-12))
        assert solution.n_accepted == n
        return largest_error(solution.t, solution.y)

    method = METHODS[name]
    assert abs(observed_order(name, error) - min(method.order, method.interpolant_order + 1)) < 0.2


@pytest.mark.parametrize("name", ONE_STEP)
def test_dense_output_of_one_step_has_the_order_of_the_interpolant(name):
    starts = np.arange(8) / 8
    errors = []
    for h in (2**-5, 2**-6):
        worst = 0.0
        for start in starts:
            span = (start, start + h)
            solution = solve_ivp(field, span, exact(start), dense_output=True, **steps_of(name, h, equations=1e-12))
            assert solution.n_accepted == 1
            inside = start + h * torch.tensor([0.23, 0.6], dtype=torch.float64)
            worst = max(worst, largest_error(inside, solution.sol(inside)))
        errors.append(worst)
    assert abs(math.log2(errors[0] / errors[1]) - (METHODS[name].interpolant_order + 1)) < 0.2


@pytest.mark.parametrize("name", METHODS)
def test_the_order_holds_backward_in_time(name):
    def error(n):
        solution = solve_ivp(field, (END, 0.0), exact(END), **steps_of(name, END / n, equations=1e-12))
        assert len(solution.t) == n + 1
        return largest_error(solution.t, solution.y)

    assert abs(observed_order(name, error) - METHODS[name].order) < 0.2

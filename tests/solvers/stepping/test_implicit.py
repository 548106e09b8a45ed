"""Implicit steps solve the equations of their stages, and pull back through them."""

import math
from functools import cache

import numpy as np
import pytest
import scipy.integrate
import scipy.optimize
import torch

from skode.solvers import ConvergenceError, odeint, solve_ivp
from skode.solvers.tableaus import METHODS
from skode.solvers.tolerances import Tolerances

T, H = 0.3, 0.1
ADAPTIVE = ["kvaerno3", "kvaerno5"]


def test_a_step_is_what_its_definition_says(implicit_tableau, field, y, started, definition):
    expected = definition(implicit_tableau, field, T, H, y)
    stepper = started(implicit_tableau, field, y)
    taken = stepper.attempt(T, H, y)
    torch.testing.assert_close(taken.y_next, expected.y_next, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(taken.stages.view_as(expected.stages), expected.stages, rtol=1e-12, atol=1e-12)
    if implicit_tableau.adaptive:
        torch.testing.assert_close(stepper.error(taken), expected.error, rtol=0, atol=1e-13)


def test_a_step_solves_what_scipy_solves(implicit_tableau, started):
    def numpy_field(t, y):
        return np.array([y[1], 5 * (1 - y[0] ** 2) * y[1] - y[0] + math.sin(t)])

    def func(t, y):
        return torch.stack([y[1], 5 * (1 - y[0] ** 2) * y[1] - y[0] + torch.sin(torch.as_tensor(t))])

    y0, s = np.array([1.5, -0.3]), implicit_tableau.n_stages
    a, b, c = np.array(implicit_tableau.a), np.array(implicit_tableau.b), implicit_tableau.c

    def missed(flat):
        k = flat.reshape(s, 2)
        return (k - [numpy_field(T + c[i] * H, y0 + H * a[i] @ k) for i in range(s)]).ravel()

    k = scipy.optimize.root(missed, np.tile(numpy_field(T, y0), s), tol=1e-14).x
    assert np.abs(missed(k)).max() < 1e-12
    k = k.reshape(s, 2)
    taken = started(implicit_tableau, func, torch.from_numpy(y0)).attempt(T, H, torch.from_numpy(y0))
    np.testing.assert_allclose(taken.y_next, y0 + H * b @ k, rtol=1e-12)


@pytest.mark.parametrize("shape", [(), (4,), (1, 3), (2, 2, 3)])
def test_states_have_any_shape(implicit_tableau, shape, started, definition, draw):
    def func(t, y):
        return torch.sin(t + y) - y

    y = draw(*shape)
    taken = started(implicit_tableau, func, y).attempt(T, H, y)
    assert taken.y_next.shape == shape
    expected = definition(implicit_tableau, func, T, H, y).y_next
    torch.testing.assert_close(taken.y_next, expected, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("h", [H, -H])
def test_pulling_a_step_is_its_vector_jacobian_product(implicit_tableau, field, p, y, h, started, definition, draw):
    s, takes_over = implicit_tableau.n_stages, implicit_tableau.fsal
    lam, given = draw(*y.shape), draw(s, *y.shape)
    carried = draw(1, y.numel()) if takes_over else None
    total = given.clone()
    if takes_over:
        total[-1] += carried[0].view_as(y)
    expected = definition(implicit_tableau, field, T, h, y).pulled(lam, total, [p], takes_over=takes_over)

    taken = started(implicit_tableau, field, y).attempt(T, h, y)
    taken.stages = taken.stages.clone()
    # As in a reverse sweep, by a stepper that has solved nothing.
    stepper = started(implicit_tableau, field, y, parameters=(p,))
    stepper.remake(taken, taken.stages[0], last_is_used=True)
    session = stepper.field.session()
    pulled = stepper.pull(taken, session, lam, carried, given.flatten(1))
    torch.testing.assert_close(pulled.y, expected[0], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(session.parameter_gradients()[0], expected[1], rtol=1e-12, atol=1e-12)
    if takes_over:
        torch.testing.assert_close(pulled.carried.view_as(y), expected[2], rtol=1e-12, atol=1e-12)
    else:
        assert pulled.carried is None


def vanishes_at_the_end(t, y):
    return -y + 3 * torch.relu(1 - t) * y.mean(0)


def vanishes_at_the_start(t, y):
    return -y + 3 * t * y.mean(0)


def vanishes_at_zero(t, y):
    return 1 - y + y.mean(0) ** 2


@pytest.mark.parametrize("func", [vanishes_at_the_end, vanishes_at_the_start, vanishes_at_zero])
@pytest.mark.parametrize("name", ["trapezoid", "gl4", "sdirk2"])
@pytest.mark.parametrize("adjoint", ["discrete", "backprop"])
def test_samples_that_depend_on_each_other_for_a_while_only(func, name, adjoint, draw):
    y0, direction, size = torch.zeros(4, 2, dtype=torch.float64), draw(4, 2), 1e-3
    if func is not vanishes_at_zero:
        y0 += draw(4, 2)

    def loss(y):
        end = odeint(func, y, [0.0, 1.5], method=name, adjoint=adjoint, options={"step_size": 0.15})[-1]
        return (end**2).sum()

    at = y0.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(at), at)
    values = {i: loss(y0 + i * size * direction).item() for i in (-2, -1, 1, 2)}
    slope = (8 * (values[1] - values[-1]) - (values[2] - values[-2])) / (12 * size)
    assert (gradient * direction).sum().item() == pytest.approx(slope, rel=1e-8)


def towards_zero(t, y):
    """``y1 = y - h sign(y1)`` has no solution for ``|y| < h``."""
    return -torch.sign(y)


@pytest.mark.parametrize("graph", [False, True])
@pytest.mark.parametrize("name", ["implicit_euler", "sdirk2", "radauIIA3"])
def test_a_fixed_step_without_solution_is_refused(name, started, graph):
    y = torch.full((2, 1), 0.1, dtype=torch.float64)
    stepper = started(METHODS[name], towards_zero, y, graph=graph)
    with pytest.raises(ConvergenceError, match="smaller steps") as caught:
        stepper.attempt(T, 0.5, y)
    assert (caught.value.time, caught.value.step_size) == (T, 0.5)
    solved = started(METHODS[name], towards_zero, y, graph=graph).attempt(T, 0.05, y).y_next
    torch.testing.assert_close(solved, y - 0.05, rtol=1e-14, atol=0)


def wild(t, y):
    return torch.exp(y) - 1e3 * torch.sin(50 * y)


@pytest.mark.parametrize("name", ADAPTIVE)
@pytest.mark.parametrize("graph", [False, True])
@pytest.mark.parametrize("h", [0.5, 10.0, 50.0])
def test_a_step_that_is_not_solved_is_not_accepted(name, graph, h, started):
    tolerances, unsolved = Tolerances(1e-3, 1e-6), 0
    for start in (1.0, 3.0, 6.0, -3.0):
        y = torch.tensor([[start]], dtype=torch.float64)
        stepper = started(METHODS[name], wild, y, graph=graph, tolerances=tolerances)
        taken = stepper.attempt(0.0, h, y)
        if not (stepper.inner if graph else stepper).failed.any():
            continue
        unsolved += 1
        ratio = tolerances.error_ratio(stepper.error(taken).detach(), y, taken.y_next.detach())
        assert not ratio < 100.0
    assert unsolved


@pytest.mark.parametrize("name", ADAPTIVE)
def test_only_the_samples_that_are_not_solved_are_tried_again(name, started, definition):
    def func(t, y):
        return torch.tensor([[1.0], [0.0]], dtype=torch.float64) * wild(t, y) - y

    y = torch.tensor([[6.0], [1.0]], dtype=torch.float64)
    h = torch.tensor([[0.05], [0.05]], dtype=torch.float64)
    stepper = started(METHODS[name], func, y)
    taken = stepper.attempt(torch.zeros(2, 1, dtype=torch.float64), h, y)
    assert stepper.failed.tolist() == [True, False]
    alone = definition(METHODS[name], lambda t, y: -y, 0.0, 0.05, y[1:])
    torch.testing.assert_close(taken.y_next[1:], alone.y_next, rtol=1e-12, atol=0)
    torch.testing.assert_close(stepper.error(taken)[1:], alone.error, rtol=0, atol=1e-13)


def wild_but_held(t, y):
    return wild(t, y) - 1e3 * y


@cache
def end_of_wild_but_held(start):
    """At t = 1, by SciPy."""
    return scipy.integrate.solve_ivp(
        lambda t, x: wild_but_held(t, torch.from_numpy(x)).numpy(),
        (0, 1),
        [start],
        method="Radau",
        rtol=1e-9,
        atol=1e-11,
    ).y[0, -1]


@pytest.mark.parametrize("name", ADAPTIVE)
@pytest.mark.parametrize("adjoint", ["discrete", "backprop"])
@pytest.mark.parametrize("step_control", ["shared", "per_sample"])
def test_a_first_step_far_too_large_shrinks_until_it_is_solved(name, adjoint, step_control):
    y0 = torch.tensor([[0.03], [0.9]], dtype=torch.float64)
    options = {"method": name, "rtol": 1e-5, "atol": 1e-7, "first_step": 1.0}
    found = solve_ivp(
        wild_but_held,
        (0.0, 1.0),
        y0.clone().requires_grad_(),
        t_eval=[1.0],
        adjoint=adjoint,
        step_control=step_control,
        **options,
    )
    assert np.sum(np.asarray(found.n_rejected)) > 0
    for i in range(2):
        expected = end_of_wild_but_held(float(y0[i]))
        np.testing.assert_allclose(found.y.detach().reshape(2)[i], expected, rtol=1e-6)


@pytest.mark.parametrize("name", ADAPTIVE)
def test_a_retried_column_of_step_sizes_is_solved_with_its_own_matrices(name, y, started, definition):
    # A tensor's address may be taken by the next one once it is gone.
    def func(t, y):
        return -20 * y + torch.sin(y.roll(1, -1))

    stepper = started(METHODS[name], func, y)
    t = torch.zeros(2, 1, dtype=torch.float64)
    for size in (0.4, 0.2, 0.1, 0.05, 0.02):
        taken = stepper.attempt(t, torch.full((2, 1), size, dtype=torch.float64), y)
        assert not stepper.failed.any()
        expected = definition(METHODS[name], func, 0.0, size, y).y_next
        torch.testing.assert_close(taken.y_next, expected, rtol=1e-12, atol=1e-12)
        del taken


def test_a_stiff_problem_takes_few_steps():
    # Robertson's reaction (Hairer, Wanner II, section IV.1).
    def robertson(t, y):
        a, b, c = y
        slow, fast, square = 0.04 * a, 1e4 * b * c, 3e7 * b**2
        return torch.stack([fast - slow, slow - fast - square, square])

    y0 = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
    found = solve_ivp(robertson, (0.0, 40.0), y0, t_eval=[40.0], method="kvaerno5", rtol=1e-6, atol=1e-10)
    assert found.n_accepted + found.n_rejected < 150
    # The end at t = 40 that LSODE's documentation gives (A. C. Hindmarsh).
    np.testing.assert_allclose(found.y[0], [7.158e-01, 9.185e-06, 2.842e-01], rtol=2e-4)


FIXED_IMPLICIT = [
    *("implicit_euler", "implicit_midpoint", "trapezoid", "radauIIA3", "radauIIA5", "gl4", "gl6", "sdirk2", "trbdf2")
]


@pytest.mark.parametrize("method", FIXED_IMPLICIT)
@pytest.mark.parametrize(("size", "dtype"), [(0.0, torch.float64), (1e-12, torch.float64), (1e-8, torch.float32)])
def test_states_as_small_as_may_be_have_gradients(method, size, dtype):
    """What the stages leave of their equations is rounding relative to the step too, not to the state alone."""
    for seed in range(2):
        generator = torch.Generator().manual_seed(seed)
        weight = torch.randn(3, 3, generator=generator).to(dtype).requires_grad_()
        y0 = (size * torch.randn(4, 3, generator=generator).to(dtype)).requires_grad_()

        def gradients(adjoint, weight=weight, y0=y0):
            how = {"method": method, "step_size": 0.1, "adjoint": adjoint}
            end = solve_ivp(lambda t, y: torch.tanh(y @ weight + 1.0), (0, 1), y0, t_eval=[1.0], **how).y
            return torch.autograd.grad(end.sum(), [weight, y0])

        tolerance = 1e-3 if dtype == torch.float32 else 1e-7
        for found, expected in zip(gradients("discrete"), gradients("backprop"), strict=True):
            torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("method", FIXED_IMPLICIT)
def test_a_field_that_changes_between_solve_and_gradient_is_refused_at_any_state(method):
    factor = [1.0]
    y0 = torch.zeros(4, 3, dtype=torch.float64, requires_grad=True)
    how = {"method": method, "step_size": 0.1, "t_eval": [1.0]}
    end = solve_ivp(lambda t, y: factor[0] * torch.tanh(y + 1.0), (0, 1), y0, **how).y
    factor[0] = 1.01
    with pytest.raises(RuntimeError, match="gave other values when it was evaluated again"):
        end.sum().backward()

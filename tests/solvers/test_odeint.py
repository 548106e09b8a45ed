"""``odeint`` against closed forms and against SciPy's DOP853 at tight tolerance."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import scipy.integrate
import torch
from torch import nn

from skode.solvers import MaxStepsError, odeint, odeint_adjoint, odeint_event, solve_ivp


@dataclass(frozen=True)
class InitialValueProblem:
    """A problem, solved from t=0 to ``end`` and to ``-before``; ``exact(t)`` where the solution is known."""

    rates: Callable
    y0: tuple[float, ...]
    end: float
    before: float
    exact: Callable | None = None


def pendulum(t, y):
    return torch.stack([y[1], -torch.sin(y[0])])


def lotka_volterra(t, y):
    prey, predators = y
    return torch.stack([1.5 * prey - prey * predators, prey * predators - 3.0 * predators])


def van_der_pol(t, y):
    return torch.stack([y[1], (1 - y[0] ** 2) * y[1] - y[0]])


def lorenz(t, y):
    x, y, z = y
    return torch.stack([10 * (y - x), x * (28 - z) - y, x * y - 8 / 3 * z])


def two_body(t, y):
    position, velocity = y[:2], y[2:]
    return torch.cat([velocity, -position / torch.linalg.vector_norm(position) ** 3])


def kepler_orbit(t, e=0.5):
    """Position and velocity on an orbit of semi-major axis 1, by Newton's method on Kepler's equation."""
    anomaly = t.copy()
    for _ in range(50):
        anomaly -= (anomaly - e * np.sin(anomaly) - t) / (1 - e * np.cos(anomaly))
    rate = 1 / (1 - e * np.cos(anomaly))
    b = np.sqrt(1 - e**2)
    return np.stack([np.cos(anomaly) - e, b * np.sin(anomaly), -np.sin(anomaly) * rate, b * np.cos(anomaly) * rate], 1)


PROBLEMS = {
    "oscillator": InitialValueProblem(
        lambda t, y: torch.stack([y[1], -4 * y[0]]),
        (1.0, 1.0),
        3.0,
        3.0,
        lambda t: np.stack([np.cos(2 * t) + np.sin(2 * t) / 2, np.cos(2 * t) - 2 * np.sin(2 * t)], 1),
    ),
    "logistic": InitialValueProblem(
        lambda t, y: y * (1 - y), (0.1,), 10.0, 5.0, lambda t: 1 / (1 + 9 * np.exp(-t))[:, None]
    ),
    # y' = a(t) y + b(t), with the solution sin(t) + exp(sin(t))
    "linear with time": InitialValueProblem(
        lambda t, y: torch.cos(t) * (y - torch.sin(t)) + torch.cos(t),
        (1.0,),
        5.0,
        5.0,
        lambda t: (np.sin(t) + np.exp(np.sin(t)))[:, None],
    ),
    "explicit in time": InitialValueProblem(
        lambda t, y: -2 * t * y**2, (1.0,), 5.0, 5.0, lambda t: 1 / (1 + t**2)[:, None]
    ),
    "two bodies": InitialValueProblem(two_body, (0.5, 0.0, 0.0, np.sqrt(3.0)), 7.0, 3.0, kepler_orbit),
    "Lotka-Volterra": InitialValueProblem(lotka_volterra, (1.0, 1.0), 5.0, 2.0),
    "Van der Pol": InitialValueProblem(van_der_pol, (2.0, 0.0), 5.0, 0.5),
    "pendulum": InitialValueProblem(pendulum, (3.0, 0.0), 8.0, 5.0),
    "Lorenz": InitialValueProblem(lorenz, (1.0, 1.0, 1.0), 1.0, 0.1),
}


@pytest.fixture(scope="module", params=[(name, way) for name in PROBLEMS for way in ("forward", "backward")], ids=str)
def problem_and_reference(request):
    """A problem, its output times, and DOP853's solution there."""
    name, way = request.param
    problem = PROBLEMS[name]
    t = np.linspace(0.0, problem.end if way == "forward" else -problem.before, 11)

    def rates(t, y):
        return problem.rates(torch.tensor(t, dtype=torch.float64), torch.from_numpy(y)).numpy()

    reference = scipy.integrate.solve_ivp(rates, (t[0], t[-1]), problem.y0, "DOP853", t, rtol=1e-13, atol=1e-14)
    return problem, t, reference.y.T


def test_solutions_agree_with_dop853_and_closed_forms(problem_and_reference):
    problem, t, reference = problem_and_reference
    method = "dopri5" if t[-1] > 0 else "tsit5"
    y0 = torch.tensor(problem.y0, dtype=torch.float64)
    y = odeint(problem.rates, y0, torch.from_numpy(t), rtol=1e-12, atol=1e-13, method=method).numpy()
    size = np.abs(reference).max()
    assert np.abs(y - reference).max() < 1e-10 * size
    if problem.exact is not None:
        assert np.abs(y - problem.exact(t)).max() < 1e-10 * size


def test_there_and_back_again(adaptive_method):
    y0 = torch.tensor([3.0, 0.0], dtype=torch.float64)
    settings = {"method": adaptive_method, "rtol": 1e-7, "atol": 1e-7}
    there = odeint(pendulum, y0, [0.0, 5.0], **settings)[-1]
    back = odeint(pendulum, there, [5.0, 0.0], **settings)[-1]
    assert (there - y0).abs().max() > 1.0
    torch.testing.assert_close(back, y0, rtol=0, atol=2e-5)


ORDERS = {"euler": 1, "midpoint": 2, "rk4": 4, "bosh3": 3, "tsit5": 5, "dopri5": 5}
# Few enough steps that rounding stays out of sight, enough that the leading term of the error dominates.
N_STEPS = {1: [200, 400, 800], 2: [100, 200, 400], 3: [50, 100, 200], 4: [40, 80, 160], 5: [30, 60, 120]}


def test_the_error_falls_with_the_step_size_as_the_order_says(method):
    # y' = -2 t y^2, y(0) = 1 has the solution 1 / (1 + t^2); 1/2 at t = 1
    sizes = 1.0 / np.array(N_STEPS[ORDERS[method]])
    errors = []
    for size in sizes.tolist():
        if method in ("euler", "midpoint", "rk4"):
            settings = {"options": {"step_size": size}}
        else:
            settings = {"rtol": 1e3, "atol": 1e3, "options": {"first_step": size, "max_step": size}}
        y = odeint(
            lambda t, y: -2 * t * y**2, torch.ones(1, dtype=torch.float64), [0.0, 1.0], method=method, **settings
        )
        errors.append(abs(y[-1].item() - 0.5))
    slope, _ = np.polyfit(np.log(sizes), np.log(errors), 1)
    assert slope == pytest.approx(ORDERS[method], abs=0.2)


@pytest.mark.parametrize("rtol", [1e-3, 1e-5, 1e-7])
def test_the_error_follows_the_tolerance(adaptive_method, rtol):
    y0 = torch.tensor([1.0, 1.0], dtype=torch.float64)
    oscillator = PROBLEMS["oscillator"]
    t = np.linspace(0.0, 5.0, 6)
    y = odeint(oscillator.rates, y0, t, rtol=rtol, atol=rtol, method=adaptive_method).numpy()
    error = np.abs(y - oscillator.exact(t)).max()
    # Local errors add up over the steps; neither ignored nor paid for in vain.
    assert 0.01 * rtol < error < 50 * rtol


def test_fixed_steps_go_from_each_time_to_the_next():
    def step(t, h, y):
        k1 = pendulum(t, y)
        k2 = pendulum(t + h / 3, y + h * k1 / 3)
        k3 = pendulum(t + 2 * h / 3, y + h * (k2 - k1 / 3))
        k4 = pendulum(t + h, y + h * (k1 - k2 + k3))
        return y + h * (k1 + 3 * k2 + 3 * k3 + k4) / 8

    times = [0.0, 0.5, 0.7, 1.5]
    expected = [torch.tensor([1.0, 0.0], dtype=torch.float64)]
    for t, t_next in itertools.pairwise(times):
        expected.append(step(t, t_next - t, expected[-1]))
    y = odeint(pendulum, expected[0], times, method="rk4")
    torch.testing.assert_close(y, torch.stack(expected), rtol=1e-14, atol=1e-15)


def test_fixed_steps_of_a_given_size_do_not_depend_on_the_output_times(fixed_method, counted):
    y0 = torch.tensor([1.0, 0.0], dtype=torch.float64)
    few, many = counted(pendulum), counted(pendulum)
    settings = {"method": fixed_method, "options": {"step_size": 0.1}}
    y_few = odeint(few, y0, [0.0, 1.0], **settings)
    y_many = odeint(many, y0, torch.linspace(0, 1, 200, dtype=torch.float64), **settings)
    assert few.times == many.times
    assert torch.equal(y_few, y_many[[0, -1]])


def test_output_times_never_move_steps(adaptive_method, counted, adjoint):
    y0 = torch.tensor([1.0, 0.0], dtype=torch.float64)
    few, many = counted(pendulum), counted(pendulum)
    coarse = torch.linspace(0, 10, 3, dtype=torch.float64)
    fine = torch.linspace(0, 10, 201, dtype=torch.float64)
    settings = {"method": adaptive_method, "adjoint": adjoint, "rtol": 1e-5}
    y_few = odeint(few, y0, coarse, **settings)
    y_many = odeint(many, y0, fine, **settings)
    assert few.times == many.times
    assert torch.equal(y_few[-1], y_many[-1])
    # Inside a step one output and several are different matrix products, which may round differently: the weights
    # of tsit5's interpolant are differences of numbers up to 60.
    torch.testing.assert_close(y_few, y_many[::100], rtol=0, atol=1e-14)


def test_the_first_output_is_the_initial_state(method):
    y0 = torch.tensor([1.1, 2.2])
    assert torch.equal(odeint(pendulum, y0, [2.0, 3.0, 4.0], rtol=1e-4, method=method)[0], y0)


def test_a_single_time_gives_the_initial_state_and_its_gradient(method, adjoint):
    y0 = torch.tensor([1.1, 2.2], requires_grad=True)
    y = odeint(pendulum, y0, [2.0], method=method, adjoint=adjoint)
    assert y.shape == (1, 2)
    y.sum().backward()
    assert torch.equal(y[0].detach(), y0.detach())
    assert torch.equal(y0.grad, torch.ones(2))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(), (1,), (4,), (2, 3), (2, 3, 4)])
def test_states_of_any_shape(method, shape, dtype):
    y0 = torch.linspace(1.0, 2.0, int(np.prod(shape)), dtype=dtype).reshape(shape)
    t = torch.linspace(0, 1, 21, dtype=dtype)
    y = odeint(lambda t, y: -y, y0, t, rtol=1e-6, atol=1e-6, method=method)
    assert y.shape == (21, *shape)
    assert y.dtype == dtype
    error_of = {"euler": 0.05, "midpoint": 1e-3}
    torch.testing.assert_close(y[10], y0 * np.exp(-0.5), rtol=error_of.get(method, 1e-5), atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(), (1,), (4,), (2, 3), (2, 3, 4)])
def test_gradients_of_states_of_any_shape(adjoint, shape, dtype):
    y0 = torch.linspace(1.0, 2.0, int(np.prod(shape)), dtype=dtype).reshape(shape).requires_grad_()
    w = torch.tensor(0.5, dtype=dtype, requires_grad=True)
    t = torch.tensor([0.0, 1.0, 2.0], dtype=dtype, requires_grad=True)
    y = odeint(lambda t, y: -w * y, y0, t, rtol=1e-6, atol=1e-6, adjoint=adjoint)
    y[1:].sum().backward()
    at_1, at_2 = np.exp(-0.5), np.exp(-1.0)
    rates = -0.5 * y0.detach().sum().item() * torch.tensor([-at_1 - at_2, at_1, at_2], dtype=dtype)
    torch.testing.assert_close(t.grad, rates, rtol=1e-4, atol=0)
    torch.testing.assert_close(y0.grad, torch.full_like(y0, at_1 + at_2), rtol=1e-5, atol=0)
    expected = -(at_1 + 2 * at_2) * y0.detach().sum()
    torch.testing.assert_close(w.grad, expected, rtol=1e-5, atol=0)


def test_memory_layout_of_the_state_makes_no_difference(method, adjoint):
    values = torch.linspace(-1, 1, 12, dtype=torch.float64)
    layouts = [values.view(3, 4), values.view(3, 4).t().contiguous().t(), values.repeat_interleave(2)[::2].view(3, 4)]
    assert not layouts[1].is_contiguous()
    found = []
    for layout in layouts:
        y0 = layout.clone(memory_format=torch.preserve_format).requires_grad_()
        y = odeint(lambda t, y: torch.sin(y) - t * y.flip(0), y0, [0.0, 0.5, 1.0], method=method, adjoint=adjoint)
        (gradient,) = torch.autograd.grad((y**2).sum(), y0)
        found.append((y.detach(), gradient))
    for y, gradient in found[1:]:
        assert torch.equal(y, found[0][0])
        assert torch.equal(gradient, found[0][1])


def test_an_expanded_state_gathers_its_gradient(adjoint):
    y0 = torch.tensor([1.0, 2.0], dtype=torch.float64, requires_grad=True)
    y = odeint(lambda t, y: -y, y0.expand(3, 2), [0.0, 1.0], rtol=1e-10, atol=1e-10, adjoint=adjoint)
    y[-1].sum().backward()
    torch.testing.assert_close(y0.grad, torch.full((2,), 3 * np.exp(-1), dtype=torch.float64), rtol=1e-8, atol=0)


def test_the_initial_state_is_left_alone(method, adjoint):
    y0 = torch.tensor([1.0, 0.0], requires_grad=True)
    before = y0.detach().clone()
    odeint(pendulum, y0, [0.0, 1.0], rtol=1e-4, method=method, adjoint=adjoint).sum().backward()
    assert torch.equal(y0, before)


@pytest.mark.parametrize(
    "t", [[0, 1, 2], (0.0, 1.0, 2.0), np.array([0, 1, 2]), torch.tensor([0, 1, 2]), torch.tensor([0.0, 1.0, 2.0])]
)
def test_times_may_be_any_numbers(t):
    y = odeint(lambda t, y: -y, torch.ones(1, dtype=torch.float64), t)
    torch.testing.assert_close(y[:, 0], torch.exp(-torch.tensor([0.0, 1.0, 2.0], dtype=torch.float64)))


def test_an_empty_batch_gives_empty_outputs_and_gradients(method, adjoint):
    y0 = torch.zeros((0, 2), requires_grad=True)
    w = torch.ones(2, requires_grad=True)
    y = odeint(lambda t, y: w * y, y0, [0.0, 0.3, 1.0], method=method, adjoint=adjoint)
    assert y.shape == (3, 0, 2)
    y.sum().backward()
    assert y0.grad.shape == (0, 2)
    assert torch.equal(w.grad, torch.zeros(2))


@pytest.mark.parametrize("n_ulps", [1, 2, 5, 100])
def test_a_span_of_a_few_rounding_errors_is_solved(method, n_ulps):
    end = 1.0 + n_ulps * np.finfo(float).eps
    y = odeint(lambda t, y: 1e10 * torch.ones_like(y), torch.zeros(1, dtype=torch.float64), [1.0, end], method=method)
    assert y[-1].item() == pytest.approx(1e10 * (end - 1.0), rel=1e-10)


def test_a_purely_relative_tolerance_serves_a_component_that_starts_at_zero(adaptive_method):
    oscillator = PROBLEMS["oscillator"]
    y0 = torch.tensor([1.0, 0.0], dtype=torch.float64)
    y = odeint(oscillator.rates, y0, [0.0, 0.5], rtol=1e-7, atol=0.0, method=adaptive_method)
    expected = torch.tensor([np.cos(1.0), -2 * np.sin(1.0)], dtype=torch.float64)
    torch.testing.assert_close(y[-1], expected, rtol=1e-6, atol=0)


def test_a_purely_relative_tolerance_serves_a_state_that_stays_zero(adaptive_method, counted):
    func = counted(pendulum)
    y = odeint(func, torch.zeros(2, dtype=torch.float64), [1.0, 2.0], atol=0.0, method=adaptive_method)
    assert torch.equal(y, torch.zeros(2, 2, dtype=torch.float64))
    assert func.n_calls < 100


def test_options_are_the_arguments_of_solve_ivp(counted):
    by_odeint, by_solve_ivp, free = counted(pendulum), counted(pendulum), counted(pendulum)
    y0 = torch.tensor([1.0, 0.0], dtype=torch.float64)
    steps = {"first_step": 0.01, "max_step": 0.05}
    odeint(by_odeint, y0, [0.0, 1.0], rtol=1e-3, atol=1e-6, options=steps)
    solve_ivp(by_solve_ivp, (0.0, 1.0), y0, rtol=1e-3, atol=1e-6, **steps)
    odeint(free, y0, [0.0, 1.0], rtol=1e-3, atol=1e-6)
    assert by_odeint.times == by_solve_ivp.times != free.times


def test_a_first_step_beyond_the_end_is_cut(adaptive_method, counted):
    func = counted(lambda t, y: -y)
    y = odeint(func, torch.ones(1), [0.0, 0.1], rtol=1e-2, method=adaptive_method, options={"first_step": 7.0})
    assert max(func.times) == pytest.approx(0.1)
    assert y[-1].item() == pytest.approx(np.exp(-0.1), rel=1e-4)


def test_max_num_steps_is_the_number_of_attempts():
    y0 = torch.ones(1, dtype=torch.float64)
    settings = {"rtol": 1.0, "atol": 1.0}
    options = {"first_step": 0.1, "max_step": 0.1, "max_num_steps": 10}
    odeint(lambda t, y: -y, y0, [0.0, 1.0], **settings, options=options)
    with pytest.raises(MaxStepsError, match="max_steps=9 "):
        odeint(lambda t, y: -y, y0, [0.0, 1.0], **settings, options={**options, "max_num_steps": 9})


def test_two_solves_are_identical_to_the_last_bit(method, adjoint):
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(8, 8, generator=generator).requires_grad_()
    y0 = torch.randn(16, 8, generator=generator).requires_grad_()

    def solve():
        y = odeint(
            lambda t, y: torch.tanh(y @ weight + t), y0, [0.0, 0.5, 1.0], rtol=1e-4, method=method, adjoint=adjoint
        )
        return y, *torch.autograd.grad((y**2).sum(), [y0, weight])

    for one, other in zip(solve(), solve(), strict=True):
        assert torch.equal(one, other)


def test_without_anything_to_differentiate_nothing_is_recorded(method, adjoint):
    w = torch.ones(2, requires_grad=True)
    assert not odeint(lambda t, y: -y, torch.ones(2), [0.0, 1.0], method=method, adjoint=adjoint).requires_grad
    with torch.no_grad():
        y = odeint(lambda t, y: -w * y, w, [0.0, 1.0], rtol=1e-4, method=method, adjoint=adjoint)
    assert not y.requires_grad
    with torch.inference_mode():
        again = odeint(lambda t, y: -w * y, w, [0.0, 1.0], rtol=1e-4, method=method, adjoint=adjoint)
    assert torch.equal(y, again)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"method": "RK45"}, ValueError, r"method='RK45' is not known.*SciPy's RK45 is nearest to 'dopri5'"),
        ({"options": 0.1}, TypeError, r"options must be a dict.* got 0.1"),
        ({"options": [0.1]}, TypeError, r"options must be a dict.* got \[0.1\]"),
        ({"method": "rk45"}, ValueError, r"method='rk45' is not known.*dopri5"),
        ({"adjoint": "adjoint"}, ValueError, r"adjoint='adjoint' is not known.*backprop.*continuous.*discrete"),
        ({"adjoint": None}, ValueError, r"adjoint=None is not known"),
        ({"options": {"stepsize": 0.1}}, ValueError, r"options has unknown keys \['stepsize'\].*step_size"),
        ({"rtol": -1e-3}, ValueError, r"rtol must be a finite number >= 0, got -0.001"),
        ({"rtol": float("nan")}, ValueError, r"rtol .* got nan"),
        ({"rtol": "tight"}, ValueError, r"rtol .* got 'tight'"),
        ({"rtol": True}, ValueError, r"rtol .* got True"),
        ({"atol": -1e-3}, ValueError, r"atol must be a finite number >= 0, got -0.001"),
        ({"atol": float("inf")}, ValueError, r"atol .* got inf"),
        ({"rtol": 0, "atol": 0}, ValueError, r"rtol and atol must not both be 0"),
        ({"options": {"first_step": 0.0}}, ValueError, r"first_step must be a finite number > 0 or None, got 0.0"),
        ({"options": {"max_step": -1.0}}, ValueError, r"max_step must be a finite number > 0 or None, got -1.0"),
        ({"options": {"max_num_steps": 0}}, ValueError, r"max_steps must be an integer >= 1, got 0"),
        ({"options": {"max_num_steps": 2.5}}, ValueError, r"max_steps must be an integer >= 1, got 2.5"),
        ({"options": {"memory_budget": -1}}, ValueError, r"memory_budget.* must be an integer >= 0, got -1"),
        ({"options": {"step_size": 0.1}}, ValueError, r"step_size is for fixed-step methods; method='dopri5'"),
        ({"method": "rk4", "options": {"step_size": -0.1}}, ValueError, r"step_size .* got -0.1"),
        ({"t": [0.0, 1.0, 1.0]}, ValueError, r"t must be strictly .* but t\[1\]=1.0 is followed by 1.0"),
        ({"t": [0.0, 2.0, 1.0]}, ValueError, r"t must be strictly .* but t\[1\]=2.0 is followed by 1.0"),
        ({"t": [2.0, 2.0]}, ValueError, r"t must be strictly .* but t\[0\]=2.0 is followed by 2.0"),
        ({"t": [0.0, float("nan")]}, ValueError, r"t contains NaN or infinity"),
        ({"t": [0.0, float("inf")]}, ValueError, r"t contains NaN or infinity"),
        ({"t": []}, ValueError, r"t must be one-dimensional and not empty, got shape \(0,\)"),
        ({"t": 1.0}, ValueError, r"t must be one-dimensional and not empty, got shape \(\)"),
        ({"t": [[0.0, 1.0]]}, ValueError, r"t must be one-dimensional and not empty, got shape \(1, 2\)"),
        ({"t": ["now", "then"]}, TypeError, r"t must hold real numbers, got \['now', 'then'\]"),
        ({"t": [0.0, 1.0j]}, TypeError, r"t must hold real numbers, got \[0.0, 1j\]"),
        ({"t": None}, TypeError, r"t must hold real numbers, got None"),
        ({"y0": torch.ones(2, dtype=torch.int64)}, TypeError, r"y0 must be float32 or float64, got torch.int64"),
        ({"y0": torch.ones(2, dtype=torch.float16)}, TypeError, r"y0 must be float32 or float64, got torch.float16"),
        ({"y0": [1.0, 2.0]}, TypeError, r"y0 must be a torch tensor, got list: pass torch.as_tensor\(y0\)"),
        ({"y0": np.ones(2)}, TypeError, r"y0 must be a torch tensor, got ndarray"),
        ({"y0": torch.tensor([1.0, float("nan")])}, ValueError, r"y0 contains NaN or infinity"),
        ({"y0": torch.tensor([1.0, float("inf")])}, ValueError, r"y0 contains NaN or infinity"),
    ],
)
def test_what_is_wrong_is_named_with_its_value(arguments, error, message):
    arguments = {"y0": torch.ones(2), "t": [0.0, 1.0], **arguments}
    with pytest.raises(error, match=message):
        odeint(lambda t, y: -y, **arguments)


@pytest.mark.parametrize("t0", [[0.0, 1.0], torch.zeros(2)])
def test_an_event_is_looked_for_from_one_time(t0):
    with pytest.raises(ValueError, match="t0 must be one number, the initial time"):
        odeint_event(lambda t, y: -y, torch.ones(2), t0, event_fn=lambda t, y: y[0] - 0.5)


def test_an_event_that_never_comes_is_said_not_to():
    with pytest.raises(MaxStepsError, match=r"steps met no event; .* See that event_fn changes its sign"):
        odeint_event(
            lambda t, y: -y, torch.ones(1), 0.0, event_fn=lambda t, y: y[0] + 1.0, options={"max_num_steps": 20}
        )


def test_odeint_adjoint_is_the_continuous_one_with_torchdiffeqs_arguments():
    net = nn.Linear(2, 2).double()
    y0, times = torch.ones(3, 2, dtype=torch.float64), torch.linspace(0.0, 1.0, 3)

    def gradient(solver, **settings):
        y = solver(lambda t, y: torch.tanh(net(y)), y0, times, **settings)
        return torch.autograd.grad(y.square().sum(), list(net.parameters()))

    found = gradient(odeint_adjoint, adjoint_params=tuple(net.parameters()))
    assert all(map(torch.equal, found, gradient(odeint, adjoint="continuous")))
    semi = gradient(odeint_adjoint, adjoint_options={"norm": "seminorm"})
    assert all(map(torch.equal, semi, gradient(odeint, adjoint="continuous", options={"seminorm": True})))

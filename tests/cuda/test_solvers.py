"""Solves on the device give the states and gradients of the same solves on the CPU."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from skode.dynamics import ConvField, EvolvingField, MLPField, flow_field
from skode.dynamics.fields import FIELDS
from skode.solvers import (
    METHODS,
    ConvergenceError,
    MaxStepsError,
    NonFiniteDerivativeError,
    SolverError,
    odeint,
    odeint_adjoint,
    solve_ivp,
)
from skode.timeseries.driven import CovariatePaths, DrivenField
from skode.timeseries.panel import Panel
from tests.cuda.problems import generator, randn

ADJOINTS = ["discrete", "continuous", "backprop"]
ADAPTIVE = [name for name in METHODS if METHODS[name].adaptive]
CONTROLS = [(name, control) for name in METHODS for control in ("shared", "per_sample")[: 1 + (name in ADAPTIVE)]]
TIMES = [0.3, 0.75, 1.0]


def settings_of(method):
    """Tolerances at which every method takes some steps, whose errors are well above rounding."""
    if method not in ADAPTIVE:
        return {"method": method, "step_size": 0.25}
    coarse = {"adaptive_heun": 1e-3, "fehlberg2": 1e-3, "bosh3": 1e-4, "kvaerno3": 1e-4}
    tolerance = coarse.get(method, 1e-5)
    settings = {"method": method, "rtol": tolerance, "atol": tolerance}
    if method == "dopri8":  # the error of whose first step is below rounding, which would choose the next one
        settings |= {"first_step": 0.2, "max_step": 0.2}
    return settings


def states(*shape, dtype=torch.float64):
    """Initial states that require grad; five of three features."""
    return randn(*(shape or (5, 3))).to(dtype).requires_grad_()


def away_from_zero(field):
    """A field all of whose parameters matter, in float64."""
    field = field.double()
    with torch.no_grad():
        for i, parameter in enumerate(field.parameters()):
            parameter += 0.3 * randn(*parameter.shape, seed=10 + i)
    return field


def mlp(activation="tanh", hidden=(8,), **options):
    return away_from_zero(MLPField(3, hidden, activation, generator=generator(), **options))


class PlainField(nn.Module):
    """A module without a pullback of its own."""

    def __init__(self, n_features=3):
        super().__init__()
        self.weight = nn.Parameter(randn(n_features, n_features))
        self.drift = nn.Parameter(randn(n_features, seed=2))

    def forward(self, t, y):
        return torch.tanh(y @ self.weight.t() + torch.sin(3 * t) * self.drift) - 0.5 * y


def closure_over(weight):
    """A function that depends on a tensor, of which nothing is known but what it returns."""
    return lambda t, y: torch.tanh(y @ weight.t() + t) - 0.5 * y


@pytest.fixture
def solved(with_gradients):
    """A function that solves at a place, and gives the states, and the gradients of initial states and parameters."""

    def solve(place, field, y0, *, t_span=(0.0, 1.0), t_eval=TIMES, build=None, **settings):
        field, y0 = place(field), place(y0)
        func = field if build is None else build(field)
        y = place.here(solve_ivp(func, t_span, y0, t_eval=t_eval, **settings).y)
        return with_gradients([y], [y0, *field.parameters()])

    return solve


@pytest.fixture(params=ADJOINTS)
def adjoint(request):
    return request.param


@pytest.fixture(params=["shared", "per_sample"])
def step_control(request):
    return request.param


# Methods


@pytest.mark.parametrize(("method", "control"), CONTROLS)
def test_every_method_adjoint_and_step_control(agree, solved, method, control, adjoint):
    settings = {**settings_of(method), "adjoint": adjoint, "step_control": control}
    agree(lambda place: solved(place, mlp(), states(), **settings))


KINDS = ["dopri5", "tsit5", "dopri8", "rk4", "kvaerno3", "explicit_adams"]


@pytest.mark.parametrize("method", KINDS)
def test_modules_without_a_pullback(agree, solved, method, adjoint):
    agree(lambda place: solved(place, PlainField(), states(), adjoint=adjoint, **settings_of(method)))


@pytest.mark.parametrize("method", KINDS)
def test_closures(agree, with_gradients, method, adjoint):
    def compute(place):
        weight, y0 = place(randn(3, 3).requires_grad_()), place(states())
        settings = {**settings_of(method), "adjoint": adjoint, "t_eval": TIMES}
        y = place.here(solve_ivp(closure_over(weight), (0.0, 1.0), y0, **settings).y)
        return with_gradients([y], [y0, weight])

    agree(compute)


@pytest.mark.parametrize("method", ["dopri5", "bosh3"])
def test_modules_without_a_pullback_per_sample(agree, solved, method, adjoint):
    settings = {**settings_of(method), "adjoint": adjoint, "step_control": "per_sample"}
    agree(lambda place: solved(place, PlainField(), states(), **settings))


@pytest.mark.parametrize("step_control", ["shared", "per_sample"])
def test_counts_are_those_of_the_cpu(agree, step_control):
    def compute(place):
        settings = {**settings_of("dopri5"), "step_control": step_control}
        solution = solve_ivp(place(mlp()), (0.0, 2.0), place(states()), t_eval=[2.0], **settings)
        return [solution.n_accepted, solution.n_rejected, solution.nfev]

    agree(compute)


def test_the_seminorm(agree, solved):
    agree(lambda place: solved(place, mlp(), states(), adjoint="continuous", seminorm=True, **settings_of("dopri5")))


@pytest.mark.parametrize("solver", ["LSODA", "RK45"])
def test_scipys_solvers(agree, with_gradients, solver):
    def compute(place):
        field, y0 = place(mlp()), place(states())
        y = odeint(field, y0, [0.0, 0.4, 1.0], method="scipy_solver", rtol=1e-6, options={"solver": solver})
        return with_gradients([place.here(y)], [y0, *field.parameters()])

    agree(compute)


# Whatever the errors, which are far from what is allowed.
EQUAL_STEPS = {"rtol": 1.0, "atol": 1.0, "first_step": 0.1, "max_step": 0.1}


# Fields


@pytest.mark.parametrize("activation", ["tanh", "logistic", "softplus", "relu", "silu"])
def test_activations(agree, solved, activation, step_control):
    settings = {**settings_of("dopri5"), "step_control": step_control}
    # Where there are kinks, what is rounding in one step is much more in the size of the next.
    settings |= EQUAL_STEPS if activation == "relu" else {}
    agree(lambda place: solved(place, mlp(activation), states(), **settings))


@pytest.mark.parametrize("hidden", [(), (8,), (7, 5), (6, 5, 4)], ids=str)
@pytest.mark.parametrize("time_dependent", [True, False])
def test_perceptrons_of_any_depth(agree, solved, hidden, time_dependent, adjoint):
    field = mlp(hidden=hidden, time_dependent=time_dependent)
    agree(lambda place: solved(place, field, states(), adjoint=adjoint, **settings_of("dopri5")))


@pytest.mark.parametrize("name", sorted(FIELDS))
def test_named_fields(agree, solved, name, step_control, adjoint):
    field = away_from_zero(FIELDS[name](3, (8,), "tanh", generator=generator()))
    settings = {**settings_of("dopri5"), "step_control": step_control, "adjoint": adjoint}
    agree(lambda place: solved(place, field, states(), **settings))


def test_evolving_weights(agree, solved, adjoint):
    field = away_from_zero(EvolvingField(3, (8,), generator=generator()))
    agree(lambda place: solved(place, field, states(), adjoint=adjoint, **settings_of("dopri5")))


@pytest.mark.parametrize("evolving", [False, True])
def test_convolutions_of_images(agree, solved, evolving, adjoint):
    field = away_from_zero(ConvField(4, (4,), evolving_weights=evolving, n_pixels=16, generator=generator()))
    settings = {"method": "dopri5", "rtol": 1e-4, "atol": 1e-4, "adjoint": adjoint}
    agree(lambda place: solved(place, field, states(2, 4, 4, 4), **settings))


@pytest.mark.parametrize("hidden", [(8,), (7, 5), (6, 5, 4)], ids=str)
@pytest.mark.parametrize("energy", [False, True])
def test_flows(agree, solved, hidden, energy, step_control):
    settings = {**settings_of("dopri5"), "step_control": step_control}
    joint = states(5, 4 + energy)
    agree(
        lambda place: solved(
            place, mlp(hidden=hidden), joint, build=lambda field: flow_field(field, energy=energy), **settings
        )
    )


@pytest.mark.parametrize("name", sorted(FIELDS))
def test_flows_with_estimates_and_penalties(agree, with_gradients, name):
    def compute(place):
        field = place(away_from_zero(FIELDS[name](3, (8,), "tanh", generator=generator())))
        noise, joint = place(torch.sign(randn(5, 3, seed=3))), place(states(5, 6))
        flow = flow_field(field, noise=noise, estimate=True, energy=True, jacobian=True)
        y = place.here(solve_ivp(flow, (0.0, 1.0), joint, t_eval=TIMES, **settings_of("dopri5")).y)
        return with_gradients([y], [joint, *field.parameters()])

    agree(compute)


def driven(place):
    """A perceptron of a state and of covariates that follow paths of their own, in six series of some rows each."""
    rng = np.random.RandomState(0)
    lengths = [4, 3, 1, 5, 2, 4]
    ids = np.repeat(np.arange(6), lengths)
    time = np.concatenate([np.append(0.0, np.sort(rng.uniform(0, 2, n - 1))) for n in lengths])
    panel = Panel.of(ids, time, rng.normal(size=(len(ids), 2)), np.zeros((len(ids), 1)))
    field = place(away_from_zero(DrivenField(3, 2, (8,), "silu", generator())))
    return field, field.along(CovariatePaths.of(panel, 2.0, torch.float64, place.device))


@pytest.mark.parametrize("method", ["dopri5", "rk4"])
def test_dynamics_driven_by_covariates(agree, with_gradients, method, step_control, adjoint):
    def compute(place):
        field, func = driven(place)
        z = place(states(6, 3))
        settings = {**settings_of(method), "step_control": step_control, "adjoint": adjoint}
        settings |= EQUAL_STEPS if method == "dopri5" else {}  # the paths have kinks
        y = place.here(solve_ivp(func, (0.0, 1.0), func.states(z), t_eval=TIMES, **settings).y)
        return with_gradients([y], [z, *field.parameters()])

    agree(compute)


def test_dynamics_driven_by_covariates_over_spans_of_each_series(agree, with_gradients):
    spans = torch.tensor([[0.0, 1.0], [0.0, 0.7], [0.5, 0.0], [0.2, 0.2], [0.0, 1.3], [0.1, 0.9]], dtype=torch.float64)

    def compute(place):
        field, func = driven(place)
        z = place(states(6, 3))
        settings = {"t_eval": spans, "step_control": "per_sample", "rtol": 1e-3, "atol": 1e-3}
        y = place.here(solve_ivp(func, spans, func.states(z), **settings).y)
        return with_gradients([y], [z, *field.parameters()])

    agree(compute)


@pytest.mark.parametrize("shape", [(3,), (1, 3), (4, 2, 3), (2, 2, 2, 3)], ids=str)
def test_states_of_any_shape(agree, solved, shape, adjoint):
    agree(lambda place: solved(place, PlainField(), states(*shape), adjoint=adjoint, **settings_of("dopri5")))


@pytest.mark.parametrize("n", [1, 2, 300])
def test_batches_of_any_size(agree, solved, n, step_control):
    settings = {**settings_of("dopri5"), "step_control": step_control}
    agree(lambda place: solved(place, mlp(), states(n, 3), **settings))


@pytest.mark.parametrize("method", ["dopri5", "rk4"])
@pytest.mark.parametrize("own_pullback", [True, False])
def test_float32(agree, solved, method, own_pullback, adjoint):
    field = (mlp() if own_pullback else PlainField()).float()
    # Error estimates, from which step sizes follow, are known in single precision to some 1e-4 only.
    settings = {"method": method, **EQUAL_STEPS} if method in ADAPTIVE else settings_of(method)
    y0 = states(dtype=torch.float32)
    agree(lambda place: solved(place, field, y0, adjoint=adjoint, **settings), rtol=2e-4, atol=2e-4)


# Times


def test_backward_in_time(agree, solved, step_control, adjoint):
    settings = {**settings_of("dopri5"), "step_control": step_control, "adjoint": adjoint}
    agree(lambda place: solved(place, mlp(), states(), t_span=(1.0, -0.5), t_eval=[0.8, 0.1, -0.5], **settings))


@pytest.mark.parametrize("method", ["dopri5", "rk4"])
def test_a_span_of_no_length(agree, solved, method, adjoint):
    settings = {**settings_of(method), "adjoint": adjoint}
    agree(lambda place: solved(place, mlp(), states(), t_span=(0.5, 0.5), t_eval=[0.5], **settings))


# One of no length, and one backward.
SPANS = torch.tensor([[0.0, 1.0], [0.5, 2.0], [1.0, -0.5], [0.3, 0.3], [0.0, 0.4]], dtype=torch.float64)
NAN = math.nan
RAGGED = torch.tensor(
    [[0.2, 0.9, 1.0], [2.0, 0.7, NAN], [0.6, -0.5, 0.1], [0.3, 0.3, NAN], [NAN, NAN, NAN]], dtype=torch.float64
)


@pytest.mark.parametrize("method", ["dopri5", "bosh3", "rk4"])
@pytest.mark.parametrize("field", [mlp, PlainField])
def test_times_of_each_sample(agree, solved, field, method, step_control, adjoint):
    settings = {**settings_of(method), "step_control": step_control, "adjoint": adjoint}
    agree(lambda place: solved(place, field(), states(), t_span=SPANS, t_eval=RAGGED, **settings))


@pytest.mark.parametrize("t_span", [(0.0, 2.0), SPANS], ids=["common span", "own spans"])
def test_gradients_of_times(agree, with_gradients, t_span, step_control, adjoint):
    def compute(place):
        field, y0 = place(mlp()), place(states())
        span = torch.as_tensor(t_span, dtype=torch.float64).clone().requires_grad_()
        own = torch.where(RAGGED < 0, 0.2, RAGGED) if span.ndim == 1 else RAGGED
        t_eval = own.clone().requires_grad_()
        settings = {**settings_of("dopri5"), "step_control": step_control, "adjoint": adjoint}
        y = place.here(solve_ivp(field, span, y0, t_eval=t_eval, **settings).y)
        found = with_gradients([y], [y0, span, t_eval, *field.parameters()])
        assert all(times.device.type == "cpu" for times in found[2:4] if times is not None)
        return found

    agree(compute)


@pytest.mark.parametrize("method", ["dopri5", "rk4", "kvaerno3"])
def test_gradients_of_times_of_the_whole_batch(agree, with_gradients, method, adjoint):
    def compute(place):
        field, y0 = place(mlp()), place(states())
        span, t_eval = (torch.tensor(t, dtype=torch.float64, requires_grad=True) for t in ([0.0, 1.1], TIMES))
        y = place.here(solve_ivp(field, span, y0, t_eval=t_eval, adjoint=adjoint, **settings_of(method)).y)
        return with_gradients([y], [y0, span, t_eval, *field.parameters()])

    agree(compute)


def test_times_on_the_device_are_times(agree, with_gradients):
    def compute(place):
        field, y0 = place(mlp()), place(states())
        span, t_eval = place(torch.tensor([0.0, 1.0])), place(torch.tensor([0.25, 0.75]).requires_grad_())
        y = place.here(solve_ivp(field, span, y0, t_eval=t_eval, **settings_of("dopri5")).y)
        return with_gradients([y], [y0, t_eval])

    agree(compute, rtol=1e-6, atol=1e-6)  # the times' gradients are in their own precision


def test_the_ends_of_all_steps(agree, step_control):
    def compute(place):
        settings = {**settings_of("dopri5"), "step_control": step_control}
        solution = solve_ivp(place(mlp()), (0.0, 2.0), place(states()), **settings)
        assert solution.t.device.type == "cpu"
        return [solution.t, place.here(solution.y)]

    agree(compute)


@pytest.mark.parametrize("method", ["dopri5", "dopri8", "kvaerno5", "rk4"])
def test_dense_output(agree, method):
    def compute(place):
        settings = {**settings_of(method), "dense_output": True}
        sol = solve_ivp(place(mlp()), (0.0, 2.0), place(states()), **settings).sol
        return [place.here(sol([0.0, 0.3, 1.7, 2.0])), place.here(sol(0.5))]

    agree(compute)


def switched(t, y):
    """A field with a jump at 0.6."""
    return torch.where(t < 0.6, 1.0, -2.0) * torch.sin(y + t)


@pytest.mark.parametrize("stop_times", [{"jump_t": [0.6]}, {"step_t": [0.25, 0.6]}, {"step_t": [0.3], "jump_t": [0.6]}])
def test_times_where_steps_must_end(agree, with_gradients, stop_times, adjoint):
    def compute(place):
        y0 = place(states())
        settings = {**settings_of("tsit5"), "adjoint": adjoint, "t_eval": TIMES, **stop_times}
        if "jump_t" not in stop_times:
            settings["t_span"] = (0.0, 0.55)
            settings["t_eval"] = TIMES[:1]
        y = solve_ivp(switched, settings.pop("t_span", (0.0, 1.0)), y0, **settings).y
        return with_gradients([place.here(y)], [y0])

    agree(compute)


# Options


@pytest.mark.parametrize(
    "options",
    [
        {"norm": "rms"},
        {"norm": "max"},
        {"norm": "mixed"},
        {"norm": lambda x: x.abs().mean()},
        {"controller": "I"},
        {"controller": "PI"},
        {"controller": "PID"},
        {"controller": (0.4, 0.2, 0.1)},
        {"first_step": 0.05},
        {"min_step": 0.2},
        {"max_step": 0.1},
        {"memory_budget": 0},
        {"memory_budget": 4_000},
        {"max_steps": 100},
    ],
    ids=lambda options: ",".join(f"{k}={v if not callable(v) else 'callable'}" for k, v in options.items()),
)
@pytest.mark.parametrize("field", [mlp, PlainField])
def test_options(agree, solved, field, options, step_control):
    settings = {**settings_of("dopri5"), "step_control": step_control, **options}
    agree(lambda place: solved(place, field(), states(), **settings))


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("method", ["dopri5", "rk4", "kvaerno3"])
def test_solves_without_gradients(agree, context, method, step_control):
    def compute(place):
        field, y0 = place(mlp()), place(states())
        with context():
            y = solve_ivp(field, (0.0, 1.0), y0, t_eval=TIMES, step_control=step_control, **settings_of(method)).y
        assert not y.requires_grad
        return [place.here(y).clone()]

    agree(compute)


# torchdiffeq's door


@pytest.mark.parametrize("method", ["dopri5", "rk4", "implicit_adams"])
def test_odeint(agree, with_gradients, method, adjoint):
    def compute(place):
        field, y0 = place(mlp()), place(states())
        t = torch.linspace(0, 1, 5, dtype=torch.float64)
        y = odeint(field, y0, t, method=method, adjoint=adjoint, rtol=1e-5, atol=1e-6)
        return with_gradients([place.here(y)], [y0, *field.parameters()])

    agree(compute)


def newton(w):
    """A body and a clock: position, velocity, and the time itself."""

    def rates(t, state):
        position, velocity, clock = state
        return velocity, -w * position * torch.cos(clock + t), torch.ones_like(clock)

    return rates


@pytest.mark.parametrize("solve", [odeint, odeint_adjoint])
@pytest.mark.parametrize("method", ["dopri5", "rk4", "radauIIA5"])
def test_tuple_states(agree, with_gradients, solve, method):
    def compute(place):
        position = randn(2, 3).requires_grad_()
        y0 = place((position, states(2, 3), torch.tensor(0.1, dtype=torch.float64, requires_grad=True)))
        w = place(torch.tensor(1.3, dtype=torch.float64, requires_grad=True))
        t = torch.tensor([0.0, 0.5, 1.0]) if method in ADAPTIVE else torch.linspace(0, 1, 5)
        parts = solve(newton(w), y0, t, method=method, rtol=1e-6, atol=1e-6)
        return with_gradients([place.here(part) for part in parts], [*y0, w])

    agree(compute)


def test_gradients_of_odeints_times(agree, with_gradients):
    def compute(place):
        field, y0 = place(mlp()), place(states())
        t = torch.tensor([0.0, 0.4, 1.0], dtype=torch.float64, requires_grad=True)
        return with_gradients([place.here(odeint(field, y0, t, rtol=1e-6, atol=1e-6))], [y0, t])

    agree(compute)


# Failures


def caught(field, y0, **settings):
    settings = {"t_span": (0.0, 2.0), "t_eval": [2.0], **settings}
    with pytest.raises(SolverError) as raised:
        solve_ivp(field, settings.pop("t_span"), y0, **settings)
    return raised.value


def always_nan(t, y):
    return y * math.nan


def nan_in_sample_two(t, y):
    return torch.where(torch.arange(len(y), device=y.device)[:, None] == 2, math.nan, -y)


def stiff(t, y):
    return -1e8 * (y - torch.cos(t))


def explode(t, y):
    """``1 / (1 / y0 - t)``."""
    return y**2


def towards_zero(t, y):
    return -torch.sign(y)


def ones(*shape):
    return torch.ones(shape, dtype=torch.float64)


@pytest.mark.parametrize(
    ("error", "field", "settings"),
    [
        (NonFiniteDerivativeError, always_nan, {}),
        (NonFiniteDerivativeError, always_nan, {"method": "rk4", "step_size": 0.1}),
        (NonFiniteDerivativeError, always_nan, {"method": "kvaerno3"}),
        (NonFiniteDerivativeError, nan_in_sample_two, {}),
        (NonFiniteDerivativeError, nan_in_sample_two, {"step_control": "per_sample"}),
        (MaxStepsError, stiff, {"max_steps": 50}),
        (MaxStepsError, stiff, {"max_steps": 50, "step_control": "per_sample"}),
        (MaxStepsError, torch.sin, {"method": "rk4", "step_size": 0.01, "max_steps": 20}),
        (ConvergenceError, towards_zero, {"method": "implicit_euler", "step_size": 0.5}),
    ],
)
def test_errors_are_those_of_the_cpu(device, error, field, settings):
    if field is torch.sin:
        field = lambda t, y: torch.sin(y)  # noqa: E731
    y0 = 0.1 * ones(4, 1) if error is ConvergenceError else ones(4, 3)
    expected, found = caught(field, y0, **settings), caught(field, y0.to(device), **settings)
    assert type(found) is type(expected) is error
    assert found.sample == expected.sample
    assert found.time == pytest.approx(expected.time, rel=1e-3, abs=1e-9)
    assert found.step_size == pytest.approx(expected.step_size, rel=1e-3)
    assert found.reason == expected.reason


@pytest.mark.parametrize("method", ["dopri5", "tsit5"])
def test_an_explosion_is_found_where_it_is_on_the_cpu(device, method, step_control):
    y0 = torch.tensor([[0.1], [1.0], [0.2]], dtype=torch.float64)
    settings = {"method": method, "step_control": step_control, "rtol": 1e-4, "max_steps": 500}
    expected, found = caught(explode, y0, **settings), caught(explode, y0.to(device), **settings)
    assert type(found) is type(expected)
    assert found.sample == expected.sample
    assert found.time == pytest.approx(expected.time, abs=1e-6)


@pytest.mark.parametrize("adjoint", ["discrete", "backprop"])
def test_what_can_be_answered_of_a_failed_solve(agree, with_gradients, step_control, adjoint):
    # The second sample explodes at time 1; near there rounding is felt too much to be compared.
    def compute(place):
        y0 = place(torch.tensor([[0.1], [1.0], [0.2]], dtype=torch.float64, requires_grad=True))
        settings = {"step_control": step_control, "adjoint": adjoint, "rtol": 1e-5, "max_steps": 200}
        t_eval = [0.25, 0.5, 1.5, 2.0]
        solution = solve_ivp(explode, (0.0, 2.0), y0, t_eval=t_eval, on_failure="nan", **settings)
        failed = [int(sample) for sample in solution.failures]
        status = torch.as_tensor(solution.status).cpu()
        return [*with_gradients([place.here(solution.y)], [y0]), status, torch.tensor(failed)]

    agree(compute, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("mistake", ["y0", "field"])
def test_a_problem_on_two_devices_is_an_error(gpu, mistake):
    field, y0 = mlp(), states()
    field, y0 = (field.to(gpu), y0) if mistake == "y0" else (field, y0.detach().to(gpu))
    with pytest.raises((RuntimeError, ValueError, TypeError), match=r"device|cuda"):
        solve_ivp(field, (0.0, 1.0), y0)

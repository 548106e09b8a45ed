"""torchdiffeq's ``options``: each does what it says, and what cannot be is refused by name."""

import itertools
import math
import shutil

import pytest
import torch

from skode.solvers import METHODS, MaxStepsError, odeint, solve_ivp
from tests.solvers.problems import decay, vector

# Step sizes


def test_first_step(counted):
    # dopri5's second stage lies at a fifth of the first step.
    field = counted(decay)
    odeint(field, vector(1.0), [0.0, 1.0], options={"first_step": 0.05})
    assert field.times[0] == 0.0
    assert min(time for time in field.times if time > 0) == pytest.approx(0.01, rel=1e-12)


@pytest.mark.parametrize("method", ["dopri5", "tsit5", "dopri8", "kvaerno5"])
def test_max_step(method, counted):
    field = counted(decay)
    odeint(field, vector(1.0), [0.0, 1.0], method=method, rtol=0.1, atol=0.1, options={"max_step": 0.01})
    times = sorted(set(field.times))
    assert max(b - a for a, b in itertools.pairwise(times)) <= 0.01 + 1e-12
    free = counted(decay)
    odeint(free, vector(1.0), [0.0, 1.0], method=method, rtol=0.1, atol=0.1)
    assert field.n_calls > 5 * free.n_calls


def test_max_step_may_be_infinite():
    settings = {"y0": vector(1.0), "t": [0.0, 1.0]}
    assert torch.equal(odeint(decay, **settings, options={"max_step": math.inf}), odeint(decay, **settings))


@pytest.mark.parametrize("step_control", ["shared", "per_sample"])
def test_min_step_is_taken_whatever_its_error(step_control):
    def hard(t, y):
        return -200 * (y - torch.cos(t))

    settings = {"rtol": 1e-10, "atol": 1e-10, "step_control": step_control}
    solution = solve_ivp(hard, (0.0, 0.1), torch.zeros(1, 1).double(), min_step=1e-3, **settings)
    t = solution.t.reshape(-1)
    assert (t.diff()[:-1] >= 1e-3 - 1e-15).all()
    assert int(solution.n_accepted) <= 100
    free = solve_ivp(hard, (0.0, 0.1), torch.zeros(1, 1).double(), **settings)
    assert int(free.n_accepted) > int(solution.n_accepted)


def test_min_step_of_zero_is_none():
    settings = {"y0": vector(1.0), "t": [0.0, 1.0]}
    assert torch.equal(odeint(decay, **settings, options={"min_step": 0.0}), odeint(decay, **settings))


@pytest.mark.timeout(20)
def test_max_num_steps():
    with pytest.raises(MaxStepsError, match="max_steps=7"):
        odeint(decay, vector(1.0), [0.0, 100.0], options={"max_num_steps": 7})


# Times that steps end at


@pytest.mark.parametrize("method", ["dopri5", "tsit5", "dopri8", "kvaerno5"])
@pytest.mark.parametrize("end", [1.0, -1.0])
def test_steps_end_at_step_t(method, end):
    times = [0.31 * end, 0.77 * end]
    solution = solve_ivp(decay, (0.0, end), vector(1.0), method=method, step_t=times)
    assert set(times) <= set(solution.t.tolist())
    assert ((solution.t.diff() * end) > 0).all()
    free = solve_ivp(decay, (0.0, end), vector(1.0), method=method)
    assert not set(times) & set(free.t.tolist())


def test_step_t_in_any_order_at_the_ends_and_outside():
    solution = solve_ivp(decay, (0.0, 1.0), vector(1.0), step_t=[0.7, 5.0, 0.2, 0.0, 1.0, -3.0, 0.7])
    assert {0.2, 0.7} <= set(solution.t.tolist())
    assert solution.t.tolist() == sorted(set(solution.t.tolist()))
    assert (solution.t[0], solution.t[-1]) == (0.0, 1.0)


def switch(t, y):
    """Grows by 1 until ``t = 1``, shrinks by 2 from then on, both a unit of time."""
    return torch.where(t < 1.0, 1.0, -2.0) * torch.ones_like(y)


# kvaerno5 is left out: one of its stages lies beyond the end of its step, at c = 1.23.
@pytest.mark.parametrize("method", [name for name in METHODS if METHODS[name].adaptive and name != "kvaerno5"])
@pytest.mark.parametrize("way", ["forward", "backward"])
def test_a_field_with_a_jump_is_solved_exactly(method, way):
    times = [0.0, 0.5, 1.0, 1.5, 3.0]
    exact = vector(0.0, 0.5, 1.0, 0.0, -3.0)
    if way == "backward":
        times, exact = times[::-1], exact.flip(0)
    y = odeint(switch, exact[:1], times, method=method, options={"jump_t": [1.0]})
    torch.testing.assert_close(y[:, 0], exact, rtol=0, atol=1e-13)


@pytest.mark.parametrize("method", ["dopri5", "tsit5", "dopri8", "bosh3"])
def test_a_known_jump_costs_fewer_steps(method, counted):
    known, unknown = counted(switch), counted(switch)
    odeint(known, vector(0.0), [0.0, 3.0], method=method, options={"jump_t": [1.0]})
    y = odeint(unknown, vector(0.0), [0.0, 3.0], method=method)
    assert known.n_calls < 0.5 * unknown.n_calls
    assert abs(float(y[-1]) + 3.0) > 1e-12  # what it finds without is not exact


@pytest.mark.parametrize("method", [name for name in METHODS if METHODS[name].adaptive])
def test_the_field_is_never_evaluated_at_a_jump(method, counted):
    field = counted(switch)
    odeint(field, vector(0.0), [0.0, 3.0], method=method, options={"jump_t": [1.0]})
    assert 1.0 not in field.times
    assert math.nextafter(1.0, 2.0) in field.times


def test_several_jumps(adjoint):
    """A square wave: rate and sign change at every integer."""
    rate = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    y0 = vector(1.0).requires_grad_()

    def square_wave(t, y):
        return torch.where(torch.floor(t) % 2 == 0, rate, -2 * rate) * y

    y = odeint(
        square_wave, y0, [0.0, 3.5], adjoint=adjoint, rtol=1e-10, atol=1e-12, options={"jump_t": [1.0, 2.0, 3.0]}
    )
    exact = y0 * torch.exp(rate * (1 - 2 + 1 - 1))
    torch.testing.assert_close(y[-1], exact, rtol=1e-9, atol=0)
    torch.testing.assert_close(
        torch.autograd.grad(y[-1].sum(), (y0, rate)), torch.autograd.grad(exact.sum(), (y0, rate)), rtol=1e-7, atol=1e-8
    )


# Norms


def test_a_norm_decides_what_the_tolerance_is_about():
    y0 = vector(1.0, 1.0)

    def slow_and_fast(t, y):
        return torch.stack([-y[0], 20 * torch.cos(20 * t)])

    def error(norm):
        y = odeint(slow_and_fast, y0, [0.0, 3.0], rtol=1e-8, atol=1e-8, options={"norm": norm})
        return abs(float(y[-1, 1]) - 1 - math.sin(60.0))

    assert error(lambda x: x.abs().max()) < 1e-6
    assert error(lambda x: x[:1].abs().max()) > 1e-4


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("rms", lambda x: x.square().mean().sqrt()),
        ("max", lambda x: x.abs().max()),
        ("mixed", lambda x: x.square().mean(dim=-1).sqrt().max()),
    ],
)
def test_norms_by_name_are_what_they_say(name, function):
    y0 = torch.randn(6, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    settings = {"rtol": 1e-6, "atol": 1e-6}

    def field(t, y):
        return torch.sin(3 * y) + torch.cos(5 * t)

    by_name = odeint(field, y0, [0.0, 2.0], **settings, options={"norm": name})
    by_hand = odeint(field, y0, [0.0, 2.0], **settings, options={"norm": function})
    torch.testing.assert_close(by_name, by_hand, rtol=1e-10, atol=1e-10)


def test_a_norm_receives_tuples_where_the_state_is_one():
    seen = []

    def norm(parts):
        seen.append([part.shape for part in parts])
        assert isinstance(parts, tuple)
        return max(part.abs().max() for part in parts)

    def func(t, y):
        return -y[0], y[0].sum() * torch.ones_like(y[1])

    y0 = (torch.ones(2, 3), torch.zeros(4))
    odeint(func, y0, [0.0, 1.0], options={"norm": norm})
    assert seen
    assert all(shapes == [(2, 3), (4,)] for shapes in seen)


def test_a_norm_by_name_serves_tuples_too():
    def func(t, y):
        return -y[0], -2 * y[1]

    y0 = (torch.ones(2, 3).double(), torch.ones(4).double())
    named = odeint(func, y0, [0.0, 1.0], options={"norm": "max"})
    callable_ = odeint(func, y0, [0.0, 1.0], options={"norm": lambda parts: max(p.abs().max() for p in parts)})
    for one, other in zip(named, callable_, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=0)


def test_dtype_is_accepted_and_times_are_exact_always():
    y0 = torch.ones(2)
    plain = odeint(decay, y0, [0.0, 1.0])
    for dtype in (torch.float64, torch.float32, None):
        assert torch.equal(odeint(decay, y0, [0.0, 1.0], options={"dtype": dtype}), plain)


# Grids of fixed steps


def test_grid_constructor():
    seen = []

    def constructor(func, y0, t):
        seen.append((func, y0, t))
        return torch.tensor([0.0, 0.1, 0.3, 0.6, 1.0], dtype=torch.float64)

    y0 = vector(1.0)
    y = odeint(decay, y0, [0.0, 0.3, 1.0], method="euler", options={"grid_constructor": constructor})
    expected = vector(1.0, 0.9 * 0.8, 0.9 * 0.8 * 0.7 * 0.6)
    torch.testing.assert_close(y[:, 0], expected, rtol=1e-15, atol=0)
    assert seen[0][1] is y0
    assert seen[0][2].tolist() == [0.0, 0.3, 1.0]


def test_grid_constructor_back_in_time():
    def constructor(func, y0, t):
        return torch.tensor([1.0, 0.5, 0.0])

    y = odeint(decay, vector(1.0), [1.0, 0.0], method="euler", options={"grid_constructor": constructor})
    assert float(y[-1]) == 1.5**2


@pytest.mark.parametrize("grid", [[0.0, 0.5], [0.1, 1.0], [0.0, 0.6, 0.4, 1.0], [0.0], [0.0, math.nan, 1.0]], ids=str)
def test_grids_that_do_not_span_the_times_are_refused(grid):
    with pytest.raises(ValueError, match="grid_constructor"):
        odeint(
            decay,
            vector(1.0),
            [0.0, 1.0],
            method="rk4",
            options={"grid_constructor": lambda f, y, t: torch.tensor(grid)},
        )


@pytest.mark.parametrize("method", ["euler", "midpoint", "heun3", "rk4"])
def test_perturb_keeps_the_field_from_being_evaluated_at_the_grid(method, counted):
    def discontinuous(t, y):
        if float(t) in (0.5, 1.0):
            raise AssertionError("evaluated at a jump")
        return torch.where(t < 0.5, 1.0, -1.0) * torch.ones_like(y)

    field = counted(discontinuous)
    y = odeint(field, vector(0.0), [0.0, 1.0], method=method, options={"step_size": 0.25, "perturb": True})
    assert float(y[-1]) == pytest.approx(0.0, abs=1e-14)
    assert 0.5 not in field.times
    with pytest.raises(AssertionError, match="evaluated"):
        odeint(counted(discontinuous), vector(0.0), [0.0, 1.0], method=method, options={"step_size": 0.25})


# Controllers


@pytest.mark.parametrize("controller", ["I", "PI", "PID", (0.7, -0.4, 0.0)], ids=str)
def test_controllers_meet_the_tolerance(controller):
    y = odeint(
        lambda t, y: torch.cos(t) * y,
        vector(1.0),
        [0.0, 10.0],
        rtol=1e-9,
        atol=1e-9,
        options={"controller": controller},
    )
    assert float(y[-1]) == pytest.approx(math.exp(math.sin(10.0)), abs=1e-7)


def test_controllers_choose_different_steps(counted):
    def calls(controller):
        field = counted(lambda t, y: torch.cos(3 * t) * y)
        odeint(field, vector(1.0), [0.0, 10.0], options={"controller": controller})
        return field.times

    assert len({tuple(calls(name)) for name in ("I", "PI", "PID")}) == 3


# What is refused


@pytest.mark.parametrize(
    ("method", "options", "named"),
    [
        ("dopri5", {"frist_step": 0.1}, "frist_step"),
        ("dopri5", {"step_size": 0.1}, "step_size"),
        ("dopri5", {"first_step": 0.0}, "first_step"),
        ("dopri5", {"first_step": -0.1}, "first_step"),
        ("dopri5", {"max_step": 0.0}, "max_step"),
        ("dopri5", {"min_step": -1.0}, "min_step"),
        ("dopri5", {"min_step": 0.2, "max_step": 0.1}, "min_step"),
        ("dopri5", {"max_num_steps": 0}, "max_num_steps|max_steps"),
        ("dopri5", {"max_num_steps": 1.5}, "max_num_steps|max_steps"),
        ("dopri5", {"norm": "l7"}, "norm"),
        ("dopri5", {"controller": "PDI"}, "controller"),
        ("dopri5", {"controller": (0.0, 0.0, 0.0)}, "controller"),
        ("dopri5", {"controller": (1.0,)}, "controller"),
        ("dopri5", {"step_t": [0.5, math.nan]}, "step_t"),
        ("dopri5", {"jump_t": [math.inf]}, "jump_t"),
        ("dopri5", {"memory_budget": -1}, "memory_budget"),
        ("dopri5", {"grid_constructor": lambda f, y, t: t}, "grid_constructor"),
        ("dopri5", {"solver": "LSODA"}, "solver"),
        ("rk4", {"step_size": 0.1, "grid_constructor": lambda f, y, t: t}, "grid_constructor"),
        ("rk4", {"step_size": 0.1, "step_t": [0.5]}, "step_t"),
        ("rk4", {"step_size": 0.1, "jump_t": [0.5]}, "jump_t"),
        ("rk4", {"step_size": 0.0}, "step_size"),
        ("rk4", {"step_size": 0.1, "first_step": 0.1}, "first_step"),
        ("rk4", {"step_size": 0.1, "min_step": 0.1}, "min_step"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else value,
)
def test_wrong_and_contradictory_options_are_refused_by_name(method, options, named):
    with pytest.raises(ValueError, match=named):
        odeint(decay, vector(1.0), [0.0, 1.0], method=method, options=options)


def test_options_are_left_as_they_were():
    options = {"first_step": 0.1, "norm": lambda parts: max(part.abs().max() for part in parts)}
    before = dict(options)
    odeint(lambda t, y: (-y[0],), (vector(1.0),), [0.0, 1.0], options=options)
    assert options == before


def test_solve_ivp_refuses_stop_times_where_spans_are_per_sample():
    for name in ("step_t", "jump_t"):
        with pytest.raises(ValueError, match=name):
            solve_ivp(decay, [[0.0, 1.0], [0.0, 2.0]], torch.ones(2, 1), t_eval=[0.5], **{name: [0.3]})


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
@pytest.mark.timeout(240)
@pytest.mark.filterwarnings("ignore")
def test_a_compiled_field_gives_the_same_numbers(tanh_field_class, batch):
    def solved(compile):
        layer = torch.nn.Linear(3, 3, dtype=torch.float64)
        with torch.no_grad():
            layer.weight.copy_(tanh_field_class(3).weight)
            layer.bias.fill_(0.1)
        y0 = batch.clone().requires_grad_()
        y = odeint(lambda t, y: torch.tanh(layer(y)) * torch.cos(t), y0, [0.0, 0.5, 1.0], options={"compile": compile})
        return y, torch.autograd.grad(y.square().sum(), (y0, *layer.parameters()))

    torch.testing.assert_close(solved(True), solved(False), rtol=1e-9, atol=1e-9)

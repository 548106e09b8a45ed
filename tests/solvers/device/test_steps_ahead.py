"""Solves whose times and step sizes stay on the device give what the host gives."""

import math

import pytest
import torch
from torch import nn

from skode.dynamics import flow_field
from skode.dynamics.convolutional import ConvField
from skode.solvers import (
    METHODS,
    MaxStepsError,
    NonFiniteDerivativeError,
    StepSizeUnderflowError,
    odeint,
    odeint_event,
    solve_ivp,
)
from skode.solvers.device.attempts import Attempts
from skode.solvers.device.control import Controls
from skode.solvers.device.eligibility import runs_ahead
from skode.solvers.device.steps_ahead import StepsAhead
from skode.solvers.fields.autograd import AutogradField
from skode.solvers.forward.problem import Gradients, Problem, RequestedOutputs, TimeSpan
from skode.solvers.forward.step_control import StepControl, Stops
from skode.solvers.forward.step_size import first_step_size
from skode.solvers.tolerances import NORMS, Tolerances
from tests.solvers.problems import EQUAL, EXPLICIT, OWN_TIMES, SPANS, TAKING_OVER, explode

TOLERANCES = {"rtol": 1e-3, "atol": 1e-3}
OUTPUTS = {"inside": [0.15, 0.4, 0.83], "at the end": [1.0], "both": [0.0, 0.31, 1.0], "every step": None}
SPECIAL = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


class Forced(nn.Module):
    """A user's module: ``-k sin(y) + sin(w t)``."""

    def __init__(self):
        super().__init__()
        self.k = nn.Parameter(torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64))
        self.w = nn.Parameter(torch.tensor(1.5, dtype=torch.float64))

    def forward(self, t, y):
        return -self.k * torch.sin(y) + torch.sin(self.w * t)


def oscillator(t, y):
    """With a frequency that grows, so that some steps are rejected."""
    x, v = y.unbind(-1)
    return torch.stack([v, -((1 + 20 * t.reshape(-1)) ** 2) * x], dim=-1)


# Methods, adjoints, output times


@pytest.mark.parametrize("where", OUTPUTS)
@pytest.mark.parametrize("adjoint", ["discrete", "continuous"])
@pytest.mark.parametrize("method", EXPLICIT)
def test_methods_adjoints_and_output_times(agree, solved, y0, method, adjoint, where):
    func = Forced()
    settings = {"method": method, "adjoint": adjoint, "t_eval": OUTPUTS[where], **TOLERANCES}
    counts = method in TAKING_OVER  # others evaluate a first stage again where a step is rejected
    agree(lambda: solved(func, y0, (0.0, 1.0), counts=counts, **settings), rtol=1e-11, n_replayed=0)


@pytest.mark.parametrize("adjoint", ["discrete", "continuous"])
@pytest.mark.parametrize("method", ["bosh3", "dopri8", "fehlberg2"])
def test_backward_in_time(agree, solved, y0, method, adjoint):
    func = Forced()
    settings = {"method": method, "adjoint": adjoint, "t_eval": [0.7, 0.2, -0.5], **TOLERANCES}
    agree(lambda: solved(func, y0, (1.0, -0.5), counts=method in TAKING_OVER, **settings), rtol=1e-11)


@pytest.mark.parametrize("method", EXPLICIT)
def test_steps_that_are_rejected(agree, method, randn):
    def compute():
        solution = solve_ivp(oscillator, (0.0, 1.5), randn(2, 2), method=method, first_step=0.5)
        counts = [solution.n_accepted, solution.n_rejected]
        assert counts[1] > 0
        return [solution.t, solution.y, *counts, *([solution.nfev] if method in TAKING_OVER else [])]

    agree(compute, rtol=1e-9)  # the errors of single steps are much smaller than those allowed, see dopri8


@pytest.mark.parametrize("adjoint", ["discrete", "continuous"])
@pytest.mark.parametrize(
    "settings",
    [
        {"min_step": 0.2, "rtol": 1e-8},
        {"max_step": 0.05},
        {"first_step": 0.01},
        {"first_step": 1.0, "rtol": 1e-9, "atol": 1e-9},
        {"min_step": 0.05, "max_step": 0.3, "first_step": 0.01},
        {"norm": "max"},
        {"norm": "mixed"},
        {"norm": lambda x: x[..., 0].abs().amax()},
        {"controller": "PI"},
        {"controller": "PID", "rtol": 1e-7},
        {"controller": (0.5, -0.1, 0.05)},
        {"memory_budget": 0},
        {"memory_budget": 900},
        {"atol": 0.0},
        {"rtol": 0.0},
    ],
    ids=lambda settings: "-".join(settings),
)
def test_settings(agree, solved, y0, settings, adjoint):
    func = Forced()
    agree(lambda: solved(func, y0, t_eval=[0.3, 1.0], adjoint=adjoint, **{**TOLERANCES, **settings}), rtol=1e-11)


@pytest.mark.parametrize("seminorm", [False, True])
def test_the_adjoint_equation_with_a_seminorm(agree, solved, y0, seminorm):
    func = Forced()
    agree(lambda: solved(func, y0, t_eval=[0.3, 1.0], adjoint="continuous", seminorm=seminorm), rtol=1e-11)


@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (2, 2, 3), (0, 3)], ids=str)
def test_states_of_any_shape(agree, randn, shape):
    def compute():
        y0 = randn(*shape).requires_grad_()
        y = solve_ivp(lambda t, y: torch.cos(3 * t) * y, (0.0, 2.0), y0, t_eval=[0.7, 2.0], **TOLERANCES).y
        return [y.detach(), *torch.autograd.grad(y.sum(), y0)]

    agree(compute, rtol=1e-11)


def test_states_whose_memory_is_not_contiguous(agree, solved, randn):
    func, y0 = Forced(), randn(3, 4).t()
    agree(lambda: solved(func, y0, t_eval=[0.3, 1.0], **TOLERANCES), rtol=1e-11)


def test_float32(agree, solved, y0):
    func = Forced().float()
    agree(lambda: solved(func, y0.float(), t_eval=[0.3, 1.0], **EQUAL), rtol=1e-5)


def test_a_span_of_no_length(agree, y0):
    agree(lambda: [solve_ivp(Forced(), (1.0, 1.0), y0, t_eval=[1.0]).y.detach()])


@pytest.mark.parametrize("method", ["dopri5", "dopri8", "fehlberg2"])
def test_dense_output(agree, y0, method):
    def compute():
        dense = solve_ivp(Forced(), (0.0, 1.0), y0, method=method, dense_output=True, **TOLERANCES).sol
        return [dense(t).detach() for t in (0.0, 0.123, 0.5, 1.0)]

    agree(compute, rtol=1e-11)


@pytest.mark.parametrize("adjoint", ["discrete", "continuous"])
@pytest.mark.parametrize("outputs", ["given", "every step"])
def test_times_that_require_grad(agree, y0, outputs, adjoint, with_gradients):
    func = Forced()

    def compute():
        span = torch.tensor([0.1, 1.2], dtype=torch.float64, requires_grad=True)
        times = torch.tensor([0.4, 1.1], dtype=torch.float64, requires_grad=True) if outputs == "given" else None
        y = solve_ivp(func, span, y0, t_eval=times, adjoint=adjoint, **TOLERANCES).y
        return with_gradients(y, [span, *([] if times is None else [times]), *func.parameters()])

    agree(compute, rtol=1e-10)


def test_backprop_is_the_hosts(agree, solved, y0):
    func = Forced()
    agree(lambda: solved(func, y0, t_eval=[0.3, 1.0], adjoint="backprop"), rtol=0.0)


# Fields


def closure():
    rate = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64, requires_grad=True)
    return (lambda t, y: -rate * torch.sin(y) * (1 + t)), [rate]


@pytest.mark.parametrize("adjoint", ["discrete", "continuous"])
@pytest.mark.parametrize("memory_budget", [None, 3000, 0])
def test_closures(agree, solved, y0, adjoint, memory_budget):
    func, leaves = closure()
    settings = {"adjoint": adjoint, "memory_budget": memory_budget, "t_eval": [0.3, 1.0], **TOLERANCES}
    agree(lambda: solved(func, y0, leaves=leaves, **settings), rtol=1e-11)


@pytest.mark.parametrize("adjoint", ["discrete", "continuous"])
@pytest.mark.parametrize("memory_budget", [None, 3000, 0])
def test_a_field_with_a_pullback_but_without_tapes(agree, solved, randn, tanh_field, adjoint, memory_budget):
    settings = {"adjoint": adjoint, "memory_budget": memory_budget, "t_eval": [0.3, 1.0], **TOLERANCES}
    agree(lambda: solved(tanh_field, randn(4, 3), **settings), rtol=1e-11)


@pytest.mark.parametrize("adjoint", ["discrete", "continuous"])
@pytest.mark.parametrize("activation", ["tanh", "logistic", "softplus", "relu", "silu"])
def test_perceptrons(agree, solved, y0, mlp, activation, adjoint):
    func = mlp((6, 5), activation=activation)
    agree(lambda: solved(func, y0, t_eval=[0.35, 1.0], adjoint=adjoint, **EQUAL), n_replayed=0)


@pytest.mark.parametrize("adjoint", ["discrete", "continuous"])
@pytest.mark.parametrize("hidden", [(8,), (6, 5), (6, 5, 4)], ids=len)
def test_flows(agree, solved, mlp, randn, hidden, adjoint):
    field = mlp(hidden)
    settings = {"t_eval": [0.35, 1.0], "adjoint": adjoint, "leaves": list(field.parameters()), **EQUAL}
    agree(lambda: solved(flow_field(field, energy=True), randn(4, 5), **settings))


@pytest.mark.parametrize("adjoint", ["discrete", "continuous"])
def test_convolutions(agree, solved, randn, adjoint):
    field = ConvField(4, (4,), n_pixels=9, generator=torch.Generator().manual_seed(0)).double()
    with torch.no_grad():
        field.norms[-1].weight.fill_(0.5)
    agree(lambda: solved(field, randn(2, 4, 3, 3), t_eval=[0.35, 1.0], adjoint=adjoint, **EQUAL))


@pytest.mark.parametrize("adjoint", ["discrete", "continuous"])
@pytest.mark.parametrize("kind", ["module", "mlp"])
def test_own_spans_on_common_steps(agree, solved, y0, mlp, kind, adjoint):
    func = Forced() if kind == "module" else mlp()
    settings = {"t_eval": torch.tensor(OWN_TIMES, dtype=torch.float64), "adjoint": adjoint, **EQUAL}
    agree(lambda: solved(func, y0, torch.tensor(SPANS, dtype=torch.float64), **settings))


def test_steps_that_must_end_at_given_times_are_the_hosts(agree, solved, y0):
    func = Forced()
    for stop_times in ({"step_t": [0.5]}, {"jump_t": [0.5]}):
        agree(lambda given=stop_times: solved(func, y0, t_eval=[1.0], **given), rtol=0.0)


# Modes, and several backward passes


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_without_gradients(agree, y0, mlp, mode):
    def compute():
        with mode():
            return [solve_ivp(func, (0.0, 1.0), y0, t_eval=[0.3, 1.0], **TOLERANCES).y for func in (Forced(), mlp())]

    agree(compute, rtol=1e-11)


@pytest.mark.parametrize("kind", ["module", "mlp", "closure"])
def test_two_backward_passes(agree, y0, mlp, kind):
    func, leaves = closure() if kind == "closure" else (Forced() if kind == "module" else mlp(), None)
    leaves = list(func.parameters()) if leaves is None else leaves

    def compute():
        start = y0.clone().requires_grad_()
        y = solve_ivp(func, (0.0, 1.0), start, t_eval=[0.35, 1.0], **EQUAL).y
        wanted = [start, *leaves]
        return [torch.autograd.grad(y[0].sum(), wanted, retain_graph=True), torch.autograd.grad(y.sum(), wanted)]

    agree(compute)


# Events


class Zero:
    """An event: where a linear function of the state is zero."""

    def __init__(self, *, rowwise, terminal=False, direction=0.0):
        self.rowwise, self.terminal, self.direction = rowwise, terminal, direction

    def __call__(self, t, y):
        return y[:, 0] if self.rowwise else y[0, 0]


@pytest.mark.parametrize("terminal", [False, True, 2])
@pytest.mark.parametrize("rowwise", [False, True])
def test_events(agree, randn, rowwise, terminal):
    event = Zero(rowwise=rowwise, terminal=terminal)

    def compute():
        y0 = randn(3, 2).requires_grad_()
        solution = solve_ivp(oscillator, (0.0, 1.0), y0, events=event, t_eval=[0.1, 0.5, 1.0], **TOLERANCES)
        (states,) = solution.y_events
        found = [solution.t, solution.y.detach(), solution.t_events[0].detach(), states.detach(), solution.status]
        return [*found, *torch.autograd.grad(torch.nan_to_num(states).sum(), y0)]

    agree(compute, rtol=1e-9)


def test_odeint_event_without_end(agree, randn):
    def compute():
        return list(odeint_event(oscillator, randn(2, 2), torch.tensor(0.0), event_fn=lambda t, y: y[0, 0] - y[1, 0]))

    agree(compute, rtol=1e-9)


def test_odeint(agree, y0):
    times = torch.tensor([0.0, 0.3, 1.0], dtype=torch.float64)
    agree(lambda: [odeint(Forced(), y0, times, **TOLERANCES).detach()], rtol=1e-11)


# Errors


def leaving(t, y):
    return torch.where(t > 0.5, math.nan, -y)


ERRORS = {
    "too many steps": (oscillator, (0.0, 9.0), {"max_steps": 20}, MaxStepsError),
    "one step too few": (
        lambda t, y: -y,
        (0.0, 1.0),
        {"first_step": 0.1, "max_step": 0.1, "max_steps": 9},
        MaxStepsError,
    ),
    "leaving the domain": (leaving, (0.0, 1.0), {}, NonFiniteDerivativeError),
    "never finite": (lambda t, y: y * math.nan, (0.0, 1.0), {}, NonFiniteDerivativeError),
    "never finite, first step given": (lambda t, y: y / 0.0, (0.0, 1.0), {"first_step": 0.1}, NonFiniteDerivativeError),
    "not finite in one sample": (
        lambda t, y: torch.where(y[:, :1] > 1.5, math.inf, y),
        (0.0, 1.0),
        {},
        NonFiniteDerivativeError,
    ),
    "singular": (explode, (0.0, 3.0), {"max_steps": 2000}, None),
    "overflow": (lambda t, y: 800 * y, (0.0, 1.0), {"rtol": 1e-2, "norm": "max"}, NonFiniteDerivativeError),
}


@pytest.mark.parametrize("on_failure", ["raise", "nan"])
@pytest.mark.parametrize("error", ERRORS)
def test_errors(agree, outcome, error, on_failure):
    func, span, settings, kind = ERRORS[error]
    y0 = torch.tensor([[1.0, 2.0], [2.0, -1.0]], dtype=torch.float64)
    times = None if on_failure == "raise" else [0.25 * span[1], span[1]]

    def compute():
        found = outcome(lambda: solve_ivp(func, span, y0, on_failure=on_failure, t_eval=times, **settings))
        if isinstance(found, Exception):
            assert kind is None or isinstance(found, kind)
            return [found]
        assert found.status == -1
        y = torch.nan_to_num(found.y, posinf=1e300, neginf=-1e300)
        return [found.t, y, found.n_accepted, found.n_rejected, *found.failures.values()]

    agree(compute, rtol=1e-6)


def test_a_step_size_at_which_time_stands_still(agree, outcome):
    def kink(t, y):
        return 1e8 * torch.sign(t - 0.5) * torch.ones_like(y)

    def compute():
        error = outcome(
            lambda: solve_ivp(
                kink, (0.0, 1.0), torch.zeros(1, 1, dtype=torch.float64), rtol=0.0, atol=1e-14, max_steps=9000
            )
        )
        assert isinstance(error, StepSizeUnderflowError)
        return [error]

    agree(compute)


def test_exactly_as_many_steps_as_it_takes(agree, y0):
    settings = {"first_step": 0.1, "max_step": 0.1, "max_steps": 10}
    agree(lambda: [solve_ivp(lambda t, y: -y, (0.0, 1.0), y0, **settings).y])


@pytest.mark.parametrize("norm", ["rms", "max"])
@pytest.mark.parametrize("field", ["decay", "constant", "mlp"])
@pytest.mark.parametrize("bad", SPECIAL)
def test_a_state_that_is_not_finite(ahead, y0, mlp, bad, field, norm):
    func = {"decay": lambda t, y: -y, "constant": lambda t, y: torch.ones_like(y), "mlp": mlp()}[field]
    y0[2, 1] = SPECIAL[bad]
    for on_failure in ("raise", "nan", "raise"):
        with pytest.raises(ValueError, match="y0 contains NaN or infinity"):
            solve_ivp(func, (0.0, 1.0), y0, norm=norm, on_failure=on_failure)


@pytest.mark.parametrize("bad", SPECIAL)
def test_a_state_that_is_not_finite_where_the_norm_does_not_look(ahead, y0, bad):
    y0[2, 1] = SPECIAL[bad]
    with pytest.raises(ValueError, match="y0 contains NaN or infinity"):
        solve_ivp(lambda t, y: torch.cos(t) - 0.0 * y, (0.0, 1.0), y0, norm=lambda x: x[:, 0].abs().amax())


def test_states_that_are_large_are_finite(agree):
    y0 = torch.full((2, 3), 1e308, dtype=torch.float64)  # whose sum overflows
    agree(lambda: [solve_ivp(lambda t, y: -y, (0.0, 1.0), y0, norm="max").y], rtol=1e-11)


def test_a_norm_that_is_no_number(agree, outcome, y0):
    agree(lambda: [outcome(lambda: solve_ivp(Forced(), (0.0, 1.0), y0, norm=torch.abs))])


@pytest.mark.parametrize(
    "error", [lambda t, y: y[:2], lambda t, y: y.float(), lambda t, y: 1.0], ids=["shape", "dtype", "type"]
)
def test_what_a_field_may_not_return(ahead, y0, error):
    with pytest.raises((ValueError, TypeError), match="must"):
        solve_ivp(error, (0.0, 1.0), y0)


# Which solves, and the first step


def problem(field, method="dopri5", span=(0.0, 1.0), **control):
    tolerances = control.pop("tolerances", Tolerances(1e-3, 1e-6))
    return Problem(
        field,
        torch.empty(0),
        TimeSpan(*span),
        METHODS[method],
        StepControl(tolerances, **control),
        RequestedOutputs(),
        Gradients("discrete", memory_budget=0),
    )


def test_which_solves_run_ahead(y0, ahead):
    for method, settings, expected in [
        *((name, {}, True) for name in EXPLICIT),
        *((name, {}, False) for name in METHODS if name not in EXPLICIT),
        ("dopri5", {"per_sample": True}, True),
        ("dopri5", {"stops": Stops(times=(0.5,))}, False),
        ("dopri5", {"stops": Stops(nudged=True)}, False),
        ("dopri5", {"span": (1.0, 1.0)}, False),
        ("dopri5", {"span": (0.0, math.inf)}, False),
    ]:
        assert runs_ahead(problem(None, method, **settings), y0) is expected, (method, settings)
    assert not runs_ahead(problem(None), y0[:0])


def test_no_solve_runs_ahead_elsewhere(y0):
    assert not runs_ahead(problem(None), y0)


def test_the_host_seldom_waits(ahead, y0, monkeypatch):
    looks, look = [], StepsAhead.attempt
    monkeypatch.setattr(StepsAhead, "attempt", lambda self, n: looks.append(n) or look(self, n))
    solution = solve_ivp(Forced(), (0.0, 3.0), y0, max_step=0.05, first_step=0.05)
    assert solution.n_accepted == 60
    assert sum(looks) < 80
    assert len(looks) < 10


@pytest.mark.parametrize("norm", list(NORMS))
@pytest.mark.parametrize("tolerances", [(1e-3, 1e-6), (1e-6, 0.0)], ids=str)
@pytest.mark.parametrize("span", [(0.0, 1.0), (2.0, -1.0), (0.0, 1e-9)], ids=str)
def test_the_first_step_is_the_hosts(ahead, norm, tolerances, span, randn):
    fields = {
        "decay": lambda t, y: -y * (1 + t),
        "fast": lambda t, y: -1e6 * y,
        "zero": lambda t, y: torch.zeros_like(y),
        "tiny": lambda t, y: 1e-20 * torch.ones_like(y),
        "not finite": lambda t, y: y / 0.0,
        "soon not finite": lambda t, y: torch.where(t == span[0], -y, math.nan),
    }
    for y in (randn(3, 2), torch.zeros(3, 2, dtype=torch.float64), 1e-8 * randn(3, 2)):
        for name, func in fields.items():
            field, test = AutogradField(func, ()), Tolerances(*tolerances, NORMS[norm])
            f0, length = field(span[0], y), span[1] - span[0]
            expected = first_step_size(field, span[0], y, f0, span=length, order=4, tolerances=test)
            posed = problem(field, span=span, tolerances=test)
            controls = Controls.of(posed.control, 4, math.copysign(1.0, length))
            t0, t1 = (torch.tensor(t, dtype=torch.float64) for t in span)
            attempts = Attempts(posed.tableau, field, y, test, controls, t1, pullable=False)
            found = attempts.first_size(t0, y, f0, (t1 - t0).abs())
            assert float(found) == pytest.approx(abs(expected), rel=1e-12), name


@pytest.mark.parametrize("step_control", ["shared", "per_sample"])
def test_complex_states_are_solved_on_the_usual_way(step_control, ahead):
    """Whose error test of moduli the device does not know."""
    rates = torch.tensor([[1j], [-1 + 2j]], dtype=torch.complex128, requires_grad=True)
    state = torch.cat([torch.ones_like(rates), rates], dim=1)
    y = solve_ivp(
        lambda t, z: torch.stack([z[:, 1] * z[:, 0], 0 * z[:, 1]], dim=1),
        (0.0, 1.5),
        state,
        t_eval=[1.5],
        rtol=1e-7,
        atol=1e-8,
        step_control=step_control,
    ).y
    exact = torch.exp(1.5 * rates[:, 0])
    y = y[:, 0, 0] if step_control == "per_sample" and y.shape[0] == 2 else y[0, :, 0]
    torch.testing.assert_close(y, exact, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(
        torch.autograd.grad(y.real.sum(), rates), torch.autograd.grad(exact.real.sum(), rates), rtol=1e-5, atol=1e-5
    )

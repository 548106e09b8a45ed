"""``step_control="per_sample"`` on the device: every sample takes the steps that the host gives it."""

import math

import pytest
import torch
from torch import nn

from skode.dynamics import flow_field
from skode.dynamics.convolutional import ConvField
from skode.solvers import (
    MaxStepsError,
    NonFiniteDerivativeError,
    solve_ivp,
)
from skode.solvers.device.per_sample_ahead import ActiveSamplesAhead
from tests.solvers.problems import EQUAL, EXPLICIT, OWN_TIMES, SPANS, TAKING_OVER, explode

TOLERANCES = {"rtol": 1e-3, "atol": 1e-3}
OUTPUTS = {"inside": [0.15, 0.4, 0.83], "at the end": [1.0], "every step": None}


class Forced(nn.Module):
    """A user's module: ``-k y sin(y) + sin(w t)``, by samples, of which the later ones are harder."""

    def __init__(self):
        super().__init__()
        self.k = nn.Parameter(torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64))
        self.w = nn.Parameter(torch.tensor(3.5, dtype=torch.float64))

    def forward(self, t, y):
        return -self.k * y * torch.sin(y) + torch.sin(self.w * t)


@pytest.fixture
def y0(randn):
    return randn(4, 3) * torch.tensor([0.1, 1.0, 2.0, 8.0], dtype=torch.float64)[:, None]


@pytest.fixture
def each_solved(solved):
    """The same with steps of the samples' own."""

    def solve(*arguments, **settings):
        return solved(*arguments, step_control="per_sample", **settings)

    return solve


def double(values):
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize("where", OUTPUTS)
@pytest.mark.parametrize("method", EXPLICIT)
def test_methods_and_output_times(agree, each_solved, y0, method, where):
    func = Forced()
    settings = {"method": method, "t_eval": OUTPUTS[where], **TOLERANCES}
    agree(lambda: each_solved(func, y0, counts=method in TAKING_OVER, **settings), rtol=1e-11, n_replayed=0)


@pytest.mark.parametrize("adjoint", ["discrete", "continuous"])
@pytest.mark.parametrize("method", ["bosh3", "dopri5", "fehlberg2"])
def test_own_spans_and_ragged_output_times(agree, each_solved, y0, method, adjoint):
    func = Forced()
    settings = {"method": method, "adjoint": adjoint, "t_eval": double(OWN_TIMES), **TOLERANCES}
    agree(lambda: each_solved(func, y0, double(SPANS), counts=method in TAKING_OVER, **settings), rtol=1e-11)


@pytest.mark.parametrize("method", ["bosh3", "dopri8", "adaptive_heun"])
def test_own_spans_without_output_times(agree, each_solved, y0, method):
    func = Forced()
    settings = {"method": method, **TOLERANCES}
    agree(lambda: each_solved(func, y0, double(SPANS), counts=method in TAKING_OVER, **settings), rtol=1e-11)


@pytest.mark.parametrize("adjoint", ["discrete", "continuous"])
def test_backward_in_time(agree, each_solved, y0, adjoint):
    func = Forced()
    agree(lambda: each_solved(func, y0, (1.0, -0.5), t_eval=[0.7, -0.5], adjoint=adjoint, **TOLERANCES), rtol=1e-11)


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
def test_settings(agree, each_solved, y0, settings):
    func = Forced()
    given = {**TOLERANCES, **settings}
    agree(lambda: each_solved(func, y0, double(SPANS), t_eval=double(OWN_TIMES), **given), rtol=1e-10)


def test_times_that_require_grad(agree, y0, with_gradients):
    def compute():
        spans, times = (double(x).requires_grad_() for x in (SPANS, OWN_TIMES))
        y = solve_ivp(Forced(), spans, y0, t_eval=times, step_control="per_sample", **TOLERANCES).y
        return with_gradients(y, [spans, times])

    agree(compute, rtol=1e-10)


@pytest.mark.parametrize("adjoint", ["discrete", "continuous"])
@pytest.mark.parametrize("kind", ["mlp", "deep mlp", "flow", "convolutions", "pullback", "closure"])
def test_fields(agree, each_solved, y0, mlp, randn, tanh_field, kind, adjoint):
    leaves = None
    if kind == "flow":
        field = mlp((6, 5))
        func, y0, leaves = flow_field(field, energy=True), randn(4, 5), list(field.parameters())
    elif kind == "convolutions":
        func = ConvField(4, (4,), n_pixels=9, generator=torch.Generator().manual_seed(0)).double()
        nn.init.constant_(func.norms[-1].weight, 0.5)
        y0 = randn(4, 4, 3, 3)
    elif kind == "closure":
        rate = torch.tensor(1.5, dtype=torch.float64, requires_grad=True)
        func, leaves = (lambda t, y: -rate * torch.sin(y) * (1 + t)), [rate]
    else:
        func = {"mlp": mlp, "deep mlp": lambda: mlp((6, 5)), "pullback": lambda: tanh_field}[kind]()
    spans, times = ((0.0, 1.0), [0.35, 1.0]) if kind == "pullback" else (double(SPANS), double(OWN_TIMES))
    settings = {"leaves": leaves, "t_eval": times, "adjoint": adjoint, **EQUAL}
    agree(lambda: each_solved(func, y0, spans, **settings), n_replayed=0)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_without_gradients(agree, y0, mode):
    def compute():
        with mode():
            return [solve_ivp(Forced(), double(SPANS), y0, t_eval=double(OWN_TIMES), step_control="per_sample").y]

    agree(compute, rtol=1e-11)


def test_solve_after_solve(agree, each_solved, y0, mlp, move):
    def compute():
        func, found = mlp(), []
        for i in range(4):
            move(func, i)
            found += each_solved(func, y0 + 0.1 * i, t_eval=[0.35, 1.0], **EQUAL)
        return found

    agree(compute, n_replayed=0)


@pytest.mark.parametrize("terminal", [False, True])
@pytest.mark.parametrize("spans", ["common", "own"])
def test_events(agree, y0, spans, terminal):
    def event(t, y):
        return torch.sin(4 * t.reshape(-1) + y[:, 0] + 0.5)

    event.terminal = terminal

    def compute():
        start, span = y0.clone().requires_grad_(), (0.0, 3.0) if spans == "common" else double(SPANS)
        settings = {"events": event, "step_control": "per_sample", **TOLERANCES}
        solution = solve_ivp(Forced(), span, start, **settings)
        (states,) = solution.y_events
        found = [solution.t, solution.y.detach(), solution.t_events[0].detach(), states.detach(), solution.status]
        return [*found, *torch.autograd.grad(torch.nan_to_num(states).sum(), start)]

    agree(compute, rtol=1e-9)


# Errors


ERRORS = {
    "too many steps": (lambda t, y: torch.sin(y**2 * t), {"max_steps": 12, "rtol": 1e-6}, MaxStepsError),
    "leaving the domain": (lambda t, y: torch.where(t * y > 1.5, math.nan, 0.1 * y), {}, NonFiniteDerivativeError),
    "never finite": (lambda t, y: torch.where(y > 1.0, math.nan, -y), {}, NonFiniteDerivativeError),
    "singular": (explode, {"max_steps": 500}, None),
    "overflow": (lambda t, y: 500 * y**3, {"norm": "max"}, None),
}


@pytest.mark.parametrize("on_failure", ["raise", "nan"])
@pytest.mark.parametrize("error", ERRORS)
def test_errors(agree, outcome, error, on_failure):
    func, settings, kind = ERRORS[error]
    settings = {"step_control": "per_sample", "on_failure": on_failure, "t_eval": [0.2, 2.0], **settings}

    def compute():
        found = outcome(lambda: solve_ivp(func, (0.0, 2.0), double([[0.1], [0.2], [1.5], [9.0]]), **settings))
        if isinstance(found, Exception):
            assert kind is None or isinstance(found, kind)
            return [found]
        assert found.status.min() == -1
        return [found.y, found.n_accepted, found.n_rejected, found.status, *found.failures.values()]

    agree(compute, rtol=1e-9)


@pytest.mark.parametrize("on_failure", ["raise", "nan"])
@pytest.mark.parametrize("field", ["decay", "constant"])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_state_that_is_not_finite(ahead, y0, bad, field, on_failure):
    func = {"decay": lambda t, y: -y, "constant": lambda t, y: torch.ones_like(y)}[field]
    y0[2, 1] = bad
    with pytest.raises(ValueError, match="y0 contains NaN or infinity"):
        solve_ivp(func, (0.0, 1.0), y0, step_control="per_sample", on_failure=on_failure)


def test_one_sample_and_an_empty_batch(agree, each_solved, y0):
    func = Forced()
    settings = {"t_eval": [0.3, 1.0], **TOLERANCES}
    agree(lambda: each_solved(func, y0[:1], **settings), rtol=1e-11)
    agree(lambda: [solve_ivp(func, (0.0, 1.0), y0[:0], step_control="per_sample", **settings).y.detach()])


def test_samples_that_have_arrived_leave(ahead, y0, monkeypatch):
    sizes, attempt = [], ActiveSamplesAhead._attempt
    monkeypatch.setattr(ActiveSamplesAhead, "_attempt", lambda self: sizes.append(self.on_device) or attempt(self))
    ends = double([[0.0, 0.1], [0.0, 0.2], [0.0, 1.0], [0.0, 5.0]])
    solve_ivp(Forced(), ends, y0, t_eval=ends[:, 1:], step_control="per_sample", **EQUAL)
    assert sizes == sorted(sizes, reverse=True)
    assert (sizes[0], sizes[-1]) == (4, 1)


def test_the_host_seldom_waits(ahead, y0, monkeypatch):
    looks, further = [], ActiveSamplesAhead._further
    monkeypatch.setattr(ActiveSamplesAhead, "_further", lambda self: looks.append(1) or further(self))
    solve_ivp(Forced(), (0.0, 5.0), y0, step_control="per_sample", **EQUAL)
    assert len(looks) < 8

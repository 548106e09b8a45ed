"""Recordings of solves: used from the second solve of a kind on, they answer as solves without them do."""

import copy
import math
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

from skode.dynamics import MLPField, flow_field
from skode.solvers import (
    METHODS,
    MaxStepsError,
    NonFiniteDerivativeError,
    solve_ivp,
)
from skode.solvers.device import replay
from tests.solvers.device.recorded import N, convolutions, gradients, n_kept, solve
from tests.solvers.problems import EQUAL, EXPLICIT, OWN_TIMES, SPANS

TOLERANCES = {"rtol": 1e-4, "atol": 1e-4}
OUTPUTS = {"inside": [0.15, 0.4, 0.83], "both": [0.0, 0.31, 1.0], "every step": None}


@pytest.fixture
def sequence(agree, solved, move):
    """A function that compares solves, between which parameters are changed, with those that the host makes."""

    def check(make, y0, t_span=(0.0, 1.0), *, agreement=1e-12, n=N, n_replayed=None, **settings):
        def compute():
            field, found = make(), []
            for i in range(n):
                move(field, i)
                found += solved(field, y0 * (1 + 0.1 * i), t_span, **settings)
            return found

        agree(compute, rtol=agreement, n_replayed=n - 1 if n_replayed is None else n_replayed)

    return check


# What is solved


@pytest.mark.parametrize("where", OUTPUTS)
@pytest.mark.parametrize("method", EXPLICIT)
def test_methods_and_output_times(sequence, mlp, y0, method, where):
    sequence(mlp, y0, method=method, t_eval=OUTPUTS[where], counts=METHODS[method].fsal, n=3, **EQUAL)


@pytest.mark.parametrize("method", ["bosh3", "dopri8", "fehlberg2"])
def test_the_continuous_adjoint(sequence, mlp, y0, method):
    settings = {"method": method, "adjoint": "continuous", "t_eval": [0.35, 1.0]}
    sequence(mlp, y0, counts=METHODS[method].fsal, n=3, **settings, **EQUAL)


@pytest.mark.parametrize("adjoint", ["discrete", "continuous"])
@pytest.mark.parametrize("activation", ["tanh", "logistic", "softplus", "relu", "silu"])
def test_perceptrons(sequence, mlp, y0, activation, adjoint):
    settings = {"t_eval": [0.35, 1.0], "adjoint": adjoint, **EQUAL}
    sequence(lambda: mlp((6, 5), activation=activation), y0, n=3, **settings)


@pytest.mark.parametrize("settings", [{"fold_tanh": False}, {"time_dependent": False}, {"hidden": ()}], ids=str)
def test_other_perceptrons(sequence, mlp, y0, settings):
    sequence(lambda: mlp(**settings), y0, t_eval=[0.35, 1.0], **EQUAL)


@pytest.mark.parametrize("adjoint", ["discrete", "continuous"])
@pytest.mark.parametrize("hidden", [(8,), (6, 5)], ids=len)
def test_flows(sequence, mlp, randn, hidden, adjoint):
    settings = {"t_eval": [0.35, 1.0], "adjoint": adjoint, **EQUAL}
    sequence(lambda: flow_field(mlp(hidden), energy=True), randn(4, 5), **settings)


@pytest.mark.parametrize("adjoint", ["discrete", "continuous"])
@pytest.mark.parametrize("time_dependent", [True, False])
def test_convolutions(sequence, randn, time_dependent, adjoint):
    settings = {"t_eval": [0.35, 1.0], "adjoint": adjoint, **EQUAL}
    sequence(lambda: convolutions(time_dependent=time_dependent), randn(2, 4, 3, 3), n=3, **settings)


@pytest.mark.parametrize("adjoint", ["discrete", "continuous"])
@pytest.mark.parametrize("kind", ["tensors", "lists"])
def test_own_spans(sequence, mlp, y0, kind, adjoint):
    spans, times = SPANS, OWN_TIMES
    if kind == "tensors":
        spans, times = (torch.tensor(x, dtype=torch.float64) for x in (spans, times))
    sequence(mlp, y0, spans, t_eval=times, adjoint=adjoint, **EQUAL)


def test_own_spans_that_are_others_in_each_solve(agree, mlp, y0, solved):
    def compute():
        field, found = mlp(), []
        for i in range(N):
            spans = torch.tensor(SPANS, dtype=torch.float64) * (1 + 0.2 * i) - 0.1 * i
            found += solved(field, y0, spans, t_eval=spans[:, 1:], **EQUAL)
        return found

    agree(compute, n_replayed=N - 1)


def test_backward_in_time(sequence, mlp, y0):
    sequence(mlp, y0, (1.0, -0.5), t_eval=[0.7, -0.5], **EQUAL)


def test_spans_and_output_times_that_are_others_in_each_solve(agree, mlp, y0, solved):
    def compute():
        field, found = mlp(), []
        for i in range(6):
            times = [[1.0], [0.4, 1.0], [0.1, 0.2, 1.0 + 0.1 * i], None][i % 4]
            found += solved(field, y0, (0.05 * i, 1.0 + 0.2 * i), t_eval=times, **EQUAL)
        return found

    agree(compute, n_replayed=5)


def test_more_steps_than_one_recording_has(sequence, mlp, y0):
    sequence(mlp, y0, t_eval=[0.013, 0.5, 0.77, 1.0], n=3, **{**EQUAL, "first_step": 0.03, "max_step": 0.03})


@pytest.mark.parametrize("method", ["dopri5", "fehlberg2"])
def test_steps_that_are_rejected(agree, solved, y0, mlp, method):
    def compute():
        field, found = mlp(), []
        with torch.no_grad():
            field.layers[0].weight *= 6.0
        for i in range(N):
            found += solved(field, y0 + 0.1 * i, method=method, first_step=1.0, rtol=1e-4, t_eval=[0.35, 1.0])
        assert found[-1] > 0
        return [part for part in found if isinstance(part, torch.Tensor)]

    agree(compute, rtol=1e-9, n_replayed=N - 1)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"min_step": 0.2, "rtol": 1e-8},
        {"max_step": 0.05},
        {"first_step": 0.01},
        {"norm": "max"},
        {"norm": "mixed"},
        {"controller": "PI"},
        {"controller": "PID", "rtol": 1e-7},
        {"controller": (0.5, -0.1, 0.05)},
        {"memory_budget": 0},
        {"memory_budget": 4000},
        {"memory_budget": 12000},
        {"atol": 0.0},
    ],
    ids=lambda settings: "-".join(map(str, settings.values())),
)
def test_settings(sequence, mlp, y0, settings):
    sequence(mlp, y0, agreement=1e-10, n=4, t_eval=[0.3, 1.0], **{**TOLERANCES, **settings})


@pytest.mark.parametrize("seminorm", [False, True])
def test_the_adjoint_equation_with_a_seminorm(sequence, mlp, y0, seminorm):
    settings = {"adjoint": "continuous", "seminorm": seminorm, "t_eval": [0.3, 1.0], **TOLERANCES}
    sequence(mlp, y0, agreement=1e-10, n=3, **settings)


def test_float32(agree, mlp, y0, solved):
    def compute():
        field = mlp().float()
        return [solved(field, y0.float() + 0.1 * i, t_eval=[0.35, 1.0], **EQUAL) for i in range(N)]

    agree(compute, rtol=1e-5, n_replayed=N - 1)


def test_shapes_by_turns(agree, mlp, randn, solved):
    def compute():
        field = mlp()
        return [solved(field, randn(n, 3), t_eval=[0.35, 1.0], **EQUAL) for n in (4, 1, 4, 1, 7, 1, 4, 7)]

    agree(compute, n_replayed=5)


@pytest.mark.parametrize("terminal", [False, True])
@pytest.mark.parametrize("rowwise", [False, True])
def test_events(agree, mlp, y0, rowwise, terminal):
    def event(t, y):
        values = torch.sin(9 * t.reshape(-1) + y[:, 0])
        return values if rowwise else values[0]

    event.terminal = terminal

    def compute():
        field, found = mlp(), []
        for i in range(N):
            start = (y0 + 0.1 * i).requires_grad_()
            solution = solve_ivp(field, (0.0, 1.0), start, events=event, t_eval=[0.1, 0.5, 1.0], **EQUAL)
            found += [solution.t, solution.y.detach(), solution.t_events[0].detach(), solution.status]
            found += torch.autograd.grad(torch.nan_to_num(solution.y_events[0]).sum(), [start, *field.parameters()])
        return found

    agree(compute, rtol=1e-9, n_replayed=N - 1)


# What changes in between


def by_data(i, field):
    for parameter in field.parameters():
        parameter.data = parameter.data * 1.1


def by_new_parameters(i, field):
    for layer in field.layers:
        layer.weight = nn.Parameter(1.1 * layer.weight.detach())


def by_state_dict(i, field):
    state = {name: 1.1 * value for name, value in field.state_dict().items()}
    field.load_state_dict(state, assign=i % 2 == 0)


def which_parameters(i, field):
    field.layers[0].weight.requires_grad_(i % 2 == 0)


def none_of_the_parameters(i, field):
    field.requires_grad_(i % 2 == 0)


def dtype(i, field):
    field.float().double()


@pytest.mark.parametrize(
    "change",
    [by_data, by_new_parameters, by_state_dict, which_parameters, none_of_the_parameters, dtype],
    ids=lambda change: change.__name__,
)
@pytest.mark.parametrize("kind", ["mlp", "convolutions"])
def test_what_changes_between_solves(agree, mlp, randn, solved, kind, change):
    def compute():
        field, found = mlp() if kind == "mlp" else convolutions(), []
        y0 = randn(4, 3) if kind == "mlp" else randn(2, 4, 3, 3)
        for i in range(5):
            change(i, field)
            leaves = [p for p in field.parameters() if p.requires_grad]
            found += solved(field, y0, leaves=leaves, t_eval=[0.35, 1.0], **EQUAL)
        return found

    agree(compute)


def test_a_copy_goes_on_by_itself(agree, mlp, move, y0):
    def compute():
        field, found = mlp(), []
        found += [gradients(field, y0) for _ in range(3)]
        other = copy.deepcopy(field)
        for i in range(4):
            move(other, i)
            found += [gradients(one, y0) for one in (field, other)]
        return found

    agree(compute)


def test_an_optimiser(agree, mlp, y0):
    def compute():
        field, found = mlp(), []
        optimiser = torch.optim.SGD(field.parameters(), lr=1e-2)
        for _ in range(8):
            optimiser.zero_grad()
            loss = solve(field, y0).square().mean()
            loss.backward()
            optimiser.step()
            found.append(loss.detach())
        return [*found, *field.parameters()]

    agree(compute, n_replayed=7)


def test_parameters_that_were_changed_before_the_backward_pass_are_refused(ahead, mlp, move, y0):
    field = mlp()
    for i in range(3):
        y = solve(field, y0)
        move(field, i)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            y.sum().backward()


@pytest.mark.parametrize("kind", ["mlp", "convolutions"])
def test_tied_parameters(agree, mlp, randn, solved, kind):
    def compute():
        if kind == "mlp":
            field, y0 = mlp((4, 4, 4)), randn(4, 3)
            field.layers[2] = field.layers[1]
        else:
            field, y0 = convolutions(), randn(2, 4, 3, 3)
            field.norms[1] = field.norms[0]
        parameters = list(field.parameters())
        found = [solved(field, y0 + 0.1 * i, t_eval=[0.35, 1.0], **EQUAL) for i in range(N)]
        assert all(one is other for one, other in zip(field.parameters(), parameters, strict=True))
        return found

    agree(compute)


# Which are alive, in which order, in which mode


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 2, 0)], ids=str)
@pytest.mark.parametrize("kind", ["mlp", "flow", "convolutions"])
def test_backward_passes_in_any_order(agree, mlp, randn, kind, order):
    def compute():
        make = {"mlp": mlp, "flow": lambda: flow_field(mlp()), "convolutions": convolutions}[kind]
        shape = {"mlp": (4, 3), "flow": (4, 4), "convolutions": (2, 4, 3, 3)}[kind]
        field, found = make(), []
        for k in range(2):
            starts = [randn(*shape, seed=3 * k + i).requires_grad_() for i in range(3)]
            losses = [solve(field, y0).square().sum() for y0 in starts]
            by_solve = {i: torch.autograd.grad(losses[i], [starts[i], *field.parameters()]) for i in order}
            found += [*losses, *(by_solve[i] for i in range(3))]
        return found

    agree(compute, n_replayed=5)


@pytest.mark.parametrize("t_eval", [[0.35, 1.0], None], ids=["given", "every step"])
@pytest.mark.parametrize("method", ["dopri5", "adaptive_heun"])
def test_two_backward_passes(agree, mlp, y0, method, t_eval):
    def compute():
        field, found = mlp(), []
        for _ in range(3):
            start = y0.clone().requires_grad_()
            y = solve(field, start, method=method, t_eval=t_eval)
            wanted = [start, *field.parameters()]
            found.append(torch.autograd.grad(y[0].sum(), wanted, retain_graph=True))
            solve(field, 2 * y0)  # another one in between
            found += [torch.autograd.grad(y.sum(), wanted, retain_graph=True) for _ in range(2)]
        return found

    agree(compute, n_replayed=5 if method == "dopri5" else 4)


def test_what_was_solved_survives_the_next_solves(ahead, mlp, y0):
    field, kept = mlp(), []
    for i in range(4):
        start = (y0 + i).requires_grad_()
        dense = [solve(field, start, **settings) for settings in ({}, {"t_eval": None}, {"adjoint": "continuous"})]
        kept.append((start, dense, [y.detach().clone() for y in dense]))
    first = [torch.autograd.grad(sum(y.sum() for y in ys), start)[0] for start, ys, _ in kept]
    again = [gradient.clone() for gradient in first]
    for i in range(4):
        gradients(field, y0 - i)
    assert all(torch.equal(y, copied) for _, ys, copies in kept for y, copied in zip(ys, copies, strict=True))
    assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))


@pytest.mark.parametrize("modes", ["no_grad", "inference", "by turns"])
def test_modes(agree, mlp, y0, modes):
    def compute():
        field, found = mlp(), []
        chosen = {"no_grad": [torch.no_grad], "inference": [torch.inference_mode]}
        for i in range(6):
            for mode in chosen.get(modes, [torch.inference_mode, torch.no_grad]):
                with mode():
                    found.append(solve(field, y0 + 0.1 * i).clone())
            if modes == "by turns":
                found += gradients(field, y0)
        return found

    agree(compute, n_replayed=16 if modes == "by turns" else 5)


@pytest.mark.parametrize("kind", ["mlp", "convolutions"])
def test_a_model_that_was_made_in_inference_mode(agree, mlp, randn, kind):
    def compute():
        with torch.inference_mode():
            field, y0 = (mlp(), randn(4, 3)) if kind == "mlp" else (convolutions(), randn(2, 4, 3, 3))
            return [solve(field, y0 + 0.1 * i).clone() for i in range(4)]

    agree(compute)


def test_states_of_inference_mode(agree, mlp, y0):
    def compute():
        field = mlp()
        with torch.inference_mode():
            start = y0.clone()
        with torch.no_grad():
            return [solve(field, start) for _ in range(4)]

    agree(compute, n_replayed=3)


# Errors


def test_weights_that_become_nan_and_recover(agree, outcome, mlp, y0):
    def compute():
        field, found = mlp(), []
        kept = field.layers[0].bias.detach().clone()
        for i in range(8):
            with torch.no_grad():
                field.layers[0].bias[0] = math.nan if i in (2, 3, 5) else kept[0]
            found.append(outcome(lambda: solve(field, y0).detach()))
            assert isinstance(found[-1], NonFiniteDerivativeError) is (i in (2, 3, 5))
        return found

    agree(compute, n_replayed=7)


def test_a_first_attempt_that_leaves_the_domain(agree, outcome, randn):
    """Values overflow where the first step ends, not where it starts."""

    def compute():
        field = MLPField(2, (4,), "softplus", generator=torch.Generator().manual_seed(0)).double()
        with torch.no_grad():
            field.layers[1].weight.fill_(1e160)
            field.layers[0].weight.fill_(1e160)
            field.layers[0].bias.fill_(-1.0)
        settings = {"first_step": 1.0, "max_steps": 60, "norm": "max", "t_eval": [1.0]}
        y0 = torch.zeros(2, 2, dtype=torch.float64)
        return [outcome(lambda: solve_ivp(field, (0.0, 1.0), y0, **settings)) for _ in range(4)]

    agree(compute, rtol=1e-9)


@pytest.mark.parametrize("on_failure", ["raise", "nan"])
def test_too_many_steps(agree, outcome, mlp, y0, on_failure):
    def compute():
        field, found = mlp(), []
        for i in range(6):
            settings = {"max_steps": 3 if i % 2 else 100, "on_failure": on_failure}
            found.append(outcome(lambda given=settings: solve(field, y0, **given).detach()))
            assert on_failure == "nan" or isinstance(found[-1], MaxStepsError) is (i % 2 == 1)
        return found

    agree(compute, n_replayed=5)


def test_gradients_up_to_a_failure(agree, mlp, y0):
    def compute():
        field = mlp()
        return [gradients(field, y0, max_steps=3, on_failure="nan", t_eval=[0.2, 0.55]) for _ in range(4)]

    agree(compute)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_state_that_is_not_finite(ahead, mlp, y0, bad):
    field, wrong = mlp(), y0.clone()
    wrong[2, 1] = bad
    for _ in range(4):
        with pytest.raises(ValueError, match="y0 contains NaN or infinity"):
            solve(field, wrong)
        assert torch.isfinite(solve(field, y0)).all()


def test_the_host_waits_once(ahead, mlp, y0, monkeypatch):
    looks, look = [], replay.Replay.ahead

    def noted(self, n, **settings):
        looks.append(n)
        return look(self, n, **settings)

    monkeypatch.setattr(replay.Replay, "ahead", noted)
    field = mlp()
    for _ in range(4):
        looks.clear()
        solve(field, y0)
    assert looks == [5]


# Several at the same time


def test_a_solve_inside_another_one_has_recordings_of_its_own(ahead, mlp, y0, replays):
    field = mlp().requires_grad_(False)
    expected = solve(field, y0)
    inner = []

    def event(t, y):
        if len(replays) and len(inner) < 3:
            inner.append(solve(field, y0))
        return y[0, 0] - 100.0

    for _ in range(3):
        solve(field, y0)
    replays.clear()
    outer = solve(field, y0, events=event)
    assert len(inner) == 3
    for found in (*inner, outer):
        torch.testing.assert_close(found, expected, rtol=1e-13, atol=1e-13)
    assert len(replays) == 4
    assert replays[1] is not replays[0]
    assert n_kept() == 2


@pytest.mark.parametrize("kind", ["mlp", "convolutions"])
def test_threads(ahead, mlp, randn, kind, replays):
    field = mlp() if kind == "mlp" else convolutions()
    shape = (4, 3) if kind == "mlp" else (2, 4, 3, 3)
    starts = [randn(*shape, seed=i) for i in range(4)]
    expected = [gradients(field, y0) for y0 in starts]
    together = threading.Barrier(4)

    def work(i):
        together.wait(20.0)
        return [gradients(field, starts[i]) for _ in range(6)]

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(work, range(4)))
    for solves, reference in zip(found, expected, strict=True):
        for one in solves:
            torch.testing.assert_close(one, reference, rtol=1e-12, atol=1e-12)
    assert 1 <= n_kept() <= 4

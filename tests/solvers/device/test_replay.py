"""Recordings of solves: used from the second solve of a kind on, they answer as solves without them do."""

import copy
import gc
import math
import threading
import warnings
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

from skode.dynamics import MLPField, flow_field
from skode.dynamics.convolutional import ConvField
from skode.solvers import (
    METHODS,
    MaxStepsError,
    NonFiniteDerivativeError,
    devices,
    free_idle_memory,
    solve_ivp,
)
from skode.solvers.device import bundle, kinds, replay
from skode.solvers.device.eligibility import recordable
from skode.solvers.device.kinds import KINDS
from tests.solvers.problems import EQUAL, EXPLICIT, OWN_TIMES, SPANS

TOLERANCES = {"rtol": 1e-4, "atol": 1e-4}
OUTPUTS = {"inside": [0.15, 0.4, 0.83], "both": [0.0, 0.31, 1.0], "every step": None}
#: Solves of one kind. The first of them makes no recordings.
N = 5


@pytest.fixture
def y0(randn):
    return randn(4, 3)


@pytest.fixture
def sequence(agree, solved, move):
    """A function that compares solves, between which parameters are changed, with those of the host's march."""

    def check(make, y0, t_span=(0.0, 1.0), *, agreement=1e-12, n=N, n_replayed=None, **settings):
        def compute():
            field, found = make(), []
            for i in range(n):
                move(field, i)
                found += solved(field, y0 * (1 + 0.1 * i), t_span, **settings)
            return found

        agree(compute, rtol=agreement, n_replayed=n - 1 if n_replayed is None else n_replayed)

    return check


def convolutions(hidden=(4,), **settings):
    field = ConvField(4, hidden, n_pixels=9, generator=torch.Generator().manual_seed(0), **settings).double()
    nn.init.constant_(field.norms[-1].weight, 0.5)
    return field


def n_kept():
    """How many recordings no solve is using."""
    return sum(len(idle) for idle in KINDS.kept.values())


def solve(field, y0, **settings):
    """One of a kind."""
    return solve_ivp(field, (0.0, 1.0), y0, **{"t_eval": [0.35, 1.0], **EQUAL, **settings}).y


def gradients(field, y0, **settings):
    """Of a loss, by the state and the parameters."""
    y0 = y0.clone().requires_grad_()
    return torch.autograd.grad(solve(field, y0, **settings).square().sum(), [y0, *field.parameters()])


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


# What is not recorded


class OtherForward(MLPField):
    def forward(self, t, z):
        return 0.5 * super().forward(t, z)


class OtherConvolutions(ConvField):
    def forward(self, t, z):
        return 0.5 * super().forward(t, z)


def hooked(field):
    field.register_forward_hook(lambda module, inputs, output: 0.5 * output)
    return field


def hooked_inside(field):
    field.layers[0].register_forward_hook(lambda module, inputs, output: 0.5 * output)
    return field


def parametrized(field):
    parametrizations.weight_norm(field.layers[0])
    return field


def of_its_own(field):
    forward = field.forward
    field.forward = lambda t, z: 0.5 * forward(t, z)
    return field


@pytest.mark.parametrize("change", [hooked, hooked_inside, parametrized], ids=lambda change: change.__name__)
@pytest.mark.parametrize("kind", ["mlp", "convolutions", "flow"])
def test_hooked_and_parametrized_fields_are_not_recorded(agree, mlp, randn, kind, change):
    def compute():
        inner = convolutions() if kind == "convolutions" else mlp()
        field = flow_field(inner) if kind == "flow" else inner
        y0 = randn(*{"mlp": (4, 3), "convolutions": (2, 4, 3, 3), "flow": (4, 4)}[kind])
        change(field if change is hooked else inner)
        assert recordable(field, y0) is None
        return [solve(field, y0).detach() for _ in range(3)]

    with torch.no_grad():
        agree(compute, n_replayed=0)


@pytest.mark.parametrize("change", [hooked, hooked_inside, parametrized, of_its_own], ids=lambda c: c.__name__)
@pytest.mark.parametrize("kind", ["mlp", "convolutions"])
def test_a_field_that_is_changed_after_it_was_recorded(agree, mlp, randn, kind, change):
    def compute():
        field, y0 = (mlp(), randn(4, 3)) if kind == "mlp" else (convolutions(), randn(2, 4, 3, 3))
        found = [gradients(field, y0) for _ in range(2)]
        field = change(field)
        return [*found, *(gradients(field, y0) for _ in range(2))]

    agree(compute, n_replayed=None if change is of_its_own else 1)


def test_subclasses_with_another_forward(agree, randn):
    generator = torch.Generator().manual_seed(0)
    fields = {
        OtherForward(3, (8,), generator=generator).double(): randn(4, 3),
        OtherConvolutions(4, (4,), n_pixels=9, generator=generator).double(): randn(2, 4, 3, 3),
    }
    for field, y0 in fields.items():
        nn.init.constant_(getattr(field, "norms", field.layers)[-1].weight, 0.5)
        agree(lambda field=field, y0=y0: [gradients(field, y0) for _ in range(3)])


def test_subclasses_with_the_same_forward_are_recorded(agree, y0):
    class Named(MLPField):
        """With something else of its own."""

        name = "named"

    field = Named(3, (8,), generator=torch.Generator().manual_seed(0)).double()
    agree(lambda: [gradients(field, y0) for _ in range(3)], n_replayed=2)


def test_a_part_that_is_put_in_another_one_s_place(agree, randn):
    """With the same parameters, at the same addresses."""

    class Halved(nn.Module):
        def __init__(self, layer):
            super().__init__()
            self.weight, self.bias = layer.weight, layer.bias

        def forward(self, z):
            return 0.5 * torch.nn.functional.conv2d(z, self.weight, self.bias, padding=1)

    def compute():
        field, y0 = convolutions(), randn(2, 4, 3, 3)
        found = [gradients(field, y0) for _ in range(2)]
        field.layers[0] = Halved(field.layers[0])
        return [*found, *(gradients(field, y0) for _ in range(2))]

    agree(compute)


def test_an_attribute_of_a_part_that_is_changed(agree, randn):
    def compute():
        field, y0 = convolutions(), randn(2, 4, 3, 3)
        found = [gradients(field, y0) for _ in range(2)]
        field.norms[0].eps = 0.1
        return [*found, *(gradients(field, y0) for _ in range(2))]

    agree(compute)


def test_nothing_is_recorded_on_a_device_that_is_waited_for(mlp, y0, replays):
    field = mlp()
    for _ in range(3):
        solve(field, y0)
    assert recordable(field, y0) is None
    assert not replays
    assert not n_kept()


@pytest.mark.parametrize(
    "settings",
    [
        {"adjoint": "backprop"},
        {"step_control": "per_sample"},
        {"norm": lambda x: x.abs().amax()},
        {"jump_t": [0.5]},
        {"dense_output": True},
        {"method": "kvaerno3", "first_step": None},
        {"method": "rk4", "first_step": None, "max_step": None, "step_size": 0.1},
    ],
    ids=lambda settings: "-".join(settings),
)
def test_solves_that_are_not_recorded(ahead, mlp, y0, replays, settings):
    field = mlp()
    for _ in range(3):
        solve(field, y0, **settings)
    assert not replays


def test_recorded_solves_have_gradients_of_times(ahead, mlp, y0, replays):
    field = mlp()
    for _ in range(3):
        t_eval = torch.tensor([0.35, 1.0], dtype=torch.float64, requires_grad=True)
        y = solve(field, y0, t_eval=t_eval)
        (found,) = torch.autograd.grad(y.sum(), t_eval)
        expected = torch.stack([field(t, state).sum() for t, state in zip(t_eval.detach(), y.detach(), strict=True)])
        torch.testing.assert_close(found, expected.detach(), rtol=1e-12, atol=1e-12)
    assert replays


# Modules of users


class Plain(nn.Module):
    """With an attribute, a buffer, a switch and a part."""

    def __init__(self, randn):
        super().__init__()
        self.layer = nn.Linear(3, 3).double()
        self.frozen = nn.Parameter(randn(3, seed=4), requires_grad=False)
        self.register_buffer("shift", randn(3, seed=5))
        self.rate, self.settings = 1.0, {"damped": False}
        with torch.no_grad():
            self.layer.weight.copy_(randn(3, 3, seed=6))
            self.layer.bias.zero_()

    def forward(self, t, y):
        value = self.rate * torch.tanh(self.layer(y) + self.shift * torch.sin(3 * t)) + self.frozen
        return value - y if self.settings["damped"] else value


def nothing(i, field):
    pass


def attribute(i, field):
    field.rate = 1.0 + i // 3


def attribute_inside(i, field):
    field.settings["damped"] = i >= 3


def buffer_in_place(i, field):
    field.shift += 0.1


def buffer_anew(i, field):
    field.shift = field.shift + 0.1


def buffer_data(i, field):
    field.shift.data = field.shift.data + 0.1


def frozen_parameter(i, field):
    field.frozen += 0.1


def part(i, field):
    if i == 3:
        field.layer = nn.Sequential(field.layer, nn.Tanh())


def forward_of_the_class(i, field):
    if i == 3:
        type(field).forward = lambda self, t, y: -self.layer(y)


CHANGES = [
    nothing,
    attribute,
    attribute_inside,
    buffer_in_place,
    buffer_anew,
    buffer_data,
    frozen_parameter,
    part,
    forward_of_the_class,
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_what_a_module_reads_is_read_anew(agree, randn, y0, solved, change):
    def compute():
        field, found = type("Own", (Plain,), {})(randn), []
        for i in range(5):
            with torch.no_grad():
                change(i, field)
            leaves = list(field.layer.parameters())
            found += solved(field, y0, leaves=leaves, t_eval=[0.35, 1.0], **EQUAL)
        return found

    agree(compute)


class Around(nn.Module):
    """A module that is made anew for each solve, around one that stays."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, t, y):
        return torch.tanh(self.inner(y))


@pytest.mark.parametrize("lengths", [[1.0] * 6, [0.3, 1.0, 0.5, 2.0, 0.3, 1.0, 2.5]], ids=["equal", "by turns"])
def test_modules_made_anew_around_the_same_parameters(agree, randn, y0, solved, lengths):
    def compute():
        inner, found = Plain(randn).layer, []
        for length in lengths:
            found += solved(Around(inner), y0, (0.0, length), t_eval=[length], **EQUAL)
        return found

    agree(compute)


def test_a_shallow_copy_outlives_the_module(agree, randn, y0, solved):
    def compute():
        field = Plain(randn)
        other, found, leaves = copy.copy(field), [], list(field.layer.parameters())
        for length in (1.0, 1.0, 0.5):
            found += solved(field, y0, (0.0, length), leaves=leaves, t_eval=[length], **EQUAL)
        del field
        gc.collect()
        for length in (1.0, 0.5, 2.0):
            found += solved(other, y0, (0.0, length), leaves=leaves, t_eval=[length], **EQUAL)
        return found

    agree(compute)


def test_a_module_that_draws_at_random_or_counts(ahead, y0):
    """Evaluations that leave something behind are not the same if they are only replayed."""

    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight, self.n_calls = nn.Parameter(torch.ones(3, dtype=torch.float64)), 0

        def forward(self, t, y):
            self.n_calls += 1
            return -self.weight * y

    field = Counting()
    for _ in range(4):
        before = field.n_calls
        solution = solve_ivp(field, (0.0, 1.0), y0, **EQUAL)
        assert field.n_calls - before >= solution.nfev


# How recordings are kept


def test_the_first_solve_makes_no_recording(ahead, mlp, y0, replays):
    field, numbers = mlp(), []
    for _ in range(4):
        solve(field, y0)
        numbers.append((len(replays), n_kept()))
    assert numbers == [(0, 0), (1, 1), (2, 1), (3, 1)]


def test_recordings_go_with_their_model(ahead, mlp, y0):
    field, other = mlp(), convolutions()
    known = len(KINDS.known)
    for _ in range(3):
        gradients(field, y0)
        solve(field, y0, adjoint="continuous")
        gradients(other, torch.ones(2, 4, 3, 3, dtype=torch.float64))
    assert n_kept() == 3
    del field
    gc.collect()
    assert n_kept() == 1
    del other
    gc.collect()
    assert n_kept() == 0
    assert len(KINDS.known) == known


def test_modules_keep_their_parameters(ahead, randn, y0):
    """Also while they are recorded."""
    field, seen = Plain(randn), []
    parameters = dict(field.named_parameters())

    def event(t, y):
        seen.append(all(one is parameters[name] for name, one in field.named_parameters()))
        return y[0, 0] - 100.0

    for _ in range(4):
        solve(field, y0, events=event)
    assert all(seen)
    assert all(one is parameters[name] for name, one in field.named_parameters())
    assert all(type(one) is nn.Parameter for one in field.parameters())


def test_recordings_do_not_keep_the_model(ahead, mlp, y0):
    """Nor what autograd knows of it."""
    field = mlp()
    held = [weakref.ref(parameter) for parameter in field.parameters()]
    for _ in range(3):
        y = solve(field, y0)
        y.sum().backward()
    del field, y
    gc.collect()
    assert not any(ref() is not None for ref in held)


def test_a_model_that_goes_while_its_solution_is_kept(agree, mlp, y0):
    def compute():
        field, start = mlp(), y0.clone().requires_grad_()
        for _ in range(3):
            y = solve(field, start)
        parameters = list(field.parameters())
        del field
        gc.collect()
        found = torch.autograd.grad(y.sum(), [start, *parameters], retain_graph=True)
        del parameters
        return [*found, *torch.autograd.grad(y.sum(), start)]

    agree(compute)


def test_models_that_come_and_go_at_the_same_addresses(agree, mlp, move, y0):
    def compute():
        found = []
        for i in range(6):
            field = mlp()
            move(field, i)
            found += [gradients(field, y0) for _ in range(3)]
            del field
        return found

    agree(compute)


def test_only_so_many_kinds_are_kept(ahead, mlp, randn, monkeypatch):
    monkeypatch.setattr(kinds, "MOST_KINDS", 3)
    fields = [mlp() for _ in range(3)]

    def sizes():
        return [key[3][0][0] for key in KINDS.kept]

    for i in range(6):
        for _ in range(2):
            solve(fields[i % 3], randn(i + 1, 3))
        assert len(KINDS.kept) == min(i + 1, 3)
    assert sizes() == [4, 5, 6]
    solve(fields[0], randn(4, 3))
    assert sizes() == [5, 6, 4]
    solve(fields[0], randn(1, 3))  # once more
    assert sizes() == [6, 4, 1]


def test_a_field_of_more_kinds_than_are_kept(agree, mlp, randn, monkeypatch):
    monkeypatch.setattr(kinds, "MOST_KINDS", 3)

    def compute():
        field = mlp()
        return [gradients(field, randn(n, 3)) for n in (1, 2, 3, 4, 5) for _ in range(3)]

    agree(compute)


def test_only_so_many_bytes_are_kept(ahead, mlp, randn, monkeypatch):
    monkeypatch.setattr(kinds, "total_memory", lambda device: 0)
    field = mlp()
    for n in range(1, 4):
        for _ in range(3):
            solve(field, randn(n, 3))
        assert len(KINDS.kept) == 1


def test_only_so_many_kinds_are_remembered(ahead, mlp, randn, monkeypatch):
    monkeypatch.setattr(kinds, "MOST_SEEN", 3)
    field = mlp()
    for n in range(1, 7):
        solve(field, randn(n, 3))
        assert len(KINDS.known) == min(n, 3)


def test_free_idle_memory_forgets_them(ahead, mlp, y0, replays):
    field = mlp()
    for _ in range(3):
        solve(field, y0)
    free_idle_memory()
    assert not n_kept()
    before = gradients(field, y0)
    assert n_kept() == 1
    torch.testing.assert_close(gradients(field, y0), before, rtol=1e-12, atol=1e-12)
    assert len(set(map(id, replays))) >= 2


def test_bundles_are_used_again(ahead, mlp, y0, monkeypatch):
    made, make = [], replay.Bundle.__init__

    def noted(self, *arguments, **settings):
        made.append(self)
        make(self, *arguments, **settings)

    monkeypatch.setattr(replay.Bundle, "__init__", noted)
    field = mlp()
    for _ in range(3):
        gradients(field, y0)
    n_made = len(made)
    for _ in range(4):
        gradients(field, y0)
    assert len(made) == n_made  # those of solves that are gone
    kept = [solve(field, y0) for _ in range(4)]
    assert len(made) == n_made + 3
    kept.clear()
    kept = [solve(field, y0) for _ in range(4)]
    assert len(made) == n_made + 3


def test_few_recordings_are_made_where_the_step_size_is_bounded(ahead, mlp, y0, replays):
    """The steps that are left are counted with the size that they will have."""
    field = mlp()
    for _ in range(2):
        solve(field, y0)
    (recorded,) = replays
    assert sum(map(len, recorded.idle.values())) <= 3


def test_the_clock_is_looked_at_once(ahead, mlp, y0, monkeypatch):
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


def test_a_recording_that_cannot_be_made_is_not_tried_again(ahead, mlp, y0, monkeypatch):
    def refuse(*arguments, **settings):
        raise RuntimeError("no graphs here")

    monkeypatch.setattr(replay, "Bundle", refuse)
    field = mlp()
    expected = solve(field, y0)
    with pytest.warns(UserWarning, match="could not be captured as CUDA graphs, and runs without: no graphs here"):
        assert torch.equal(solve(field, y0), expected)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(solve(field, y0), expected)


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


def test_no_two_solves_have_the_same_recordings(ahead, mlp, randn, monkeypatch):
    """Threads that wait for each other in the middle of their solves."""
    field, y0 = mlp(), randn(4, 3)
    for _ in range(3):
        expected = solve(field, y0)
    together, used, ahead_of = threading.Barrier(4), [], replay.Replay.ahead

    def waiting(self, n, *, opens_solve):
        lease = ahead_of(self, n, opens_solve=opens_solve)
        if opens_solve:
            used.append(self)
            together.wait(20.0)
        return lease

    monkeypatch.setattr(replay.Replay, "ahead", waiting)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: solve(field, y0, t_eval=[0.35, 1.0]), range(4)))
    assert len(set(map(id, used))) == 4
    for y in found:
        torch.testing.assert_close(y, expected, rtol=1e-13, atol=1e-13)


# What must not go by a recording


class Frozen(torch.nn.Module):
    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weight = torch.nn.Parameter(torch.randn(3, 3, generator=generator, dtype=torch.float64))
        frozen = torch.randn(3, 3, generator=generator, dtype=torch.float64)
        self.frozen = torch.nn.Parameter(frozen, requires_grad=False)

    def forward(self, t, y):
        return torch.tanh(y @ self.weight) @ self.frozen


def test_a_frozen_parameter_that_is_changed_before_the_gradient_is_asked_for(ahead, y0):
    field = Frozen()
    for _ in range(3):
        end = solve_ivp(field, (0.0, 1.0), y0, t_eval=[1.0]).y.sum()
        end.backward()
    end = solve_ivp(field, (0.0, 1.0), y0, t_eval=[1.0]).y.sum()
    with torch.no_grad():
        field.frozen.mul_(2.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        end.backward()


@pytest.mark.parametrize("globally", [False, True])
def test_backward_hooks_are_called(agree, y0, globally):
    def tenfold(module, grad_input, grad_output):
        return tuple(None if x is None else 10.0 * x for x in grad_input)

    def compute():
        field, found, start = Frozen(), [], y0.clone().requires_grad_()
        for i in range(5):
            if i == 3:
                register = torch.nn.modules.module.register_module_full_backward_hook if globally else None
                handle = register(tenfold) if register else field.register_full_backward_hook(tenfold)
            end = solve_ivp(field, (0.0, 1.0), start, t_eval=[1.0]).y.sum()
            found += torch.autograd.grad(end, [start, field.weight])
        handle.remove()
        return found

    agree(compute, rtol=1e-10)


def test_checkpoints(agree, y0):
    def compute():
        field, found, start = Frozen(), [], y0.clone().requires_grad_()
        for _ in range(3):
            end = checkpoint(
                lambda y: solve_ivp(field, (0.0, 1.0), y, t_eval=[1.0]).y.sum(), start, use_reentrant=False
            )
            found += torch.autograd.grad(end, [start, field.weight])
        return found

    agree(compute, rtol=1e-10)


def test_a_module_that_cannot_be_copied(agree, y0):
    class Single:
        def __deepcopy__(self, memo):
            raise TypeError("there is one of me")

    def compute():
        field, found = Frozen(), []
        field.single = Single()
        for _ in range(3):
            found.append(solve_ivp(field, (0.0, 1.0), y0, t_eval=[1.0]).y)
        return found

    agree(compute, rtol=1e-10, n_replayed=0)


def test_ways_back_are_few_however_steps_are_rejected(ahead, monkeypatch):
    """A recording is not made for each of the ways in which attempts may be good or not."""
    monkeypatch.setattr(bundle, "MOST_WAYS_BACK", 3)
    generator = torch.Generator().manual_seed(0)
    field = MLPField(2, (16,), "tanh", False, generator=generator).double()
    with torch.no_grad():
        field.layers[0].weight.mul_(4.0)
    found = []
    for _ in range(30):
        start = torch.randn(3, 2, generator=generator, dtype=torch.float64).requires_grad_()
        settings = {"t_eval": [3.0], "rtol": 1e-5, "atol": 1e-5, "first_step": 1.0}
        end = solve_ivp(field, (0.0, 3.0), start, **settings).y.square().sum()
        found.append((start, torch.autograd.grad(end, start)[0], settings))
    bundles = [b for (kept,) in KINDS.kept.values() for idle in kept.idle.values() for b in idle]
    assert max(len(one.backward) for one in bundles) > 3
    assert all(len(steps) == 1 for one in bundles for steps, *_ in list(one.backward)[3:])
    devices.ASYNCHRONOUS.discard("cpu")
    for start, gradient, settings in found:
        end = solve_ivp(field, (0.0, 3.0), start, **settings).y.square().sum()
        torch.testing.assert_close(torch.autograd.grad(end, start)[0], gradient, rtol=1e-9, atol=1e-9)

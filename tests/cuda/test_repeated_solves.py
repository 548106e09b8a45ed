"""Solve after solve with one field, whose parameters, attributes or surroundings change in between.

What a solve prepares on the device for the next one, such as a recorded graph of kernels, must not make the next one
answer for what was before: a sequence of solves gives on the device what it gives on the CPU.
"""

import copy
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

from skode.dynamics import MLPField, flow_field
from skode.dynamics.convolutional import ConvField
from skode.solvers import solve_ivp
from tests.cuda.problems import randn

#: Solves in a sequence: more than it takes until something prepared is used again.
N_SOLVES = 6

TIMES = [0.4, 1.0]
TOLERANCES = {"rtol": 1e-4, "atol": 1e-4}


def mlp(hidden=(8,)):
    return MLPField(3, hidden, generator=torch.Generator().manual_seed(0)).double()


class PlainField(nn.Module):
    """A module without a pullback, with an attribute, a buffer and a switch."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(randn(3, 3))
        self.register_buffer("shift", randn(3, seed=2))
        self.rate = 1.0
        self.damped = False

    def forward(self, t, y):
        value = self.rate * torch.tanh(y @ self.weight.t() + self.shift * torch.sin(3 * t))
        return value - y if self.damped else value


FIELDS = {"own pullback": lambda: mlp((6, 5)), "plain": PlainField}


@pytest.fixture(params=list(FIELDS))
def field(request):
    return FIELDS[request.param]()


@pytest.fixture(params=["discrete", "continuous", "backprop"])
def adjoint(request):
    return request.param


@pytest.fixture(params=["shared", "per_sample", "rk4", "implicit_midpoint"])
def settings(request):
    """Ways to solve."""
    if request.param in ("shared", "per_sample"):
        return {"step_control": request.param, **TOLERANCES}
    return {"method": request.param, "step_size": 0.25}


@pytest.fixture
def sequence(agree, with_gradients):
    """A function that compares solves, before each of which something is changed, with the same on the CPU."""

    def check(field, change, *, n=N_SOLVES, y0=None, adjoint="discrete", **settings):
        """``change(i, field)`` may return settings, or a state, of the i-th solve."""

        def compute(place):
            moved, found = place(field), []
            for i in range(n):
                changed = change(i, moved) or {}
                start = changed.pop("y0", randn(5, 3, seed=20 + i) if y0 is None else y0)
                start = place(start.requires_grad_())
                chosen = {"t_span": (0.0, 1.0), "t_eval": TIMES, "adjoint": adjoint, **settings, **changed}
                y = place.here(solve_ivp(moved, chosen.pop("t_span"), start, **chosen).y)
                leaves = [start, *(p for p in moved.parameters() if p.requires_grad)]
                found += with_gradients([y], leaves)
            return found

        agree(compute)

    return check


# What changes in between


def unchanged(i, field):
    """Another state only."""


def in_place(i, field):
    """As an optimiser changes parameters."""
    with torch.no_grad():
        for j, parameter in enumerate(field.parameters()):
            parameter += 0.1 * randn(*parameter.shape, seed=100 * i + j).to(parameter)


def by_data(i, field):
    """As older code does."""
    for j, parameter in enumerate(field.parameters()):
        parameter.data = parameter.data + 0.1 * randn(*parameter.shape, seed=100 * i + j).to(parameter)


def by_state_dict(i, field):
    state = {name: value + 0.1 * randn(*value.shape, seed=i).to(value) for name, value in field.state_dict().items()}
    field.load_state_dict(state, assign=i % 2 == 0)


def by_new_parameters(i, field):
    for name, parameter in list(field.named_parameters()):
        owner = field.get_submodule(name.rpartition(".")[0])
        moved = parameter.detach() + 0.1 * randn(*parameter.shape, seed=i).to(parameter)
        setattr(owner, name.rpartition(".")[2], nn.Parameter(moved))


def batch_size(i, field):
    return {"y0": randn([5, 7, 5, 1, 7, 5][i], 3, seed=i)}


def tolerance(i, field):
    return {"rtol": [1e-5, 1e-3, 1e-6][i % 3]}


def span(i, field):
    return {"t_span": (0.5 * (i % 3), 2.0 + i), "t_eval": [1.5, 2.0]}


def output_times(i, field):
    return {"t_eval": [[1.0], [0.4, 1.0], [0.1, 0.2, 0.3]][i % 3]}


def which_parameters(i, field):
    next(field.parameters()).requires_grad_(i % 2 == 0)


def train_and_eval(i, field):
    field.train(i % 2 == 0)


CHANGES = [
    unchanged,
    in_place,
    by_data,
    by_state_dict,
    by_new_parameters,
    batch_size,
    tolerance,
    span,
    output_times,
    which_parameters,
    train_and_eval,
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_change_between_solves(sequence, field, change):
    sequence(field, change, **TOLERANCES)


@pytest.mark.parametrize("change", [in_place, by_new_parameters, which_parameters], ids=lambda change: change.__name__)
@pytest.mark.parametrize("adjoint", ["continuous", "backprop"])
def test_a_change_between_solves_with_other_adjoints(sequence, field, change, adjoint):
    sequence(field, change, adjoint=adjoint, n=5, **TOLERANCES)


@pytest.mark.parametrize("change", [in_place, batch_size], ids=lambda change: change.__name__)
def test_a_change_between_solves_of_other_steps(sequence, field, change, settings):
    sequence(field, change, n=5, **settings)


def test_precision_changes(agree, with_gradients, field):
    def compute(place):
        moved, found = place(field), []
        for i, dtype in enumerate([torch.float64, torch.float32, torch.float64, torch.float32, torch.float64]):
            moved = moved.to(dtype)
            y0 = place(randn(5, 3, seed=i).to(dtype).requires_grad_())
            y = solve_ivp(moved, (0.0, 1.0), y0, t_eval=TIMES, rtol=1e-3, atol=1e-3).y
            assert y.dtype == dtype
            found += with_gradients([y], [y0, *moved.parameters()])
        return found

    agree(compute, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("adjoint", ["discrete", "backprop"])
def test_an_optimiser(agree, field, adjoint):
    def compute(place):
        moved, y0, losses = place(field), place(randn(5, 3)), []
        optimiser = torch.optim.Adam(moved.parameters(), lr=1e-2)
        for _ in range(8):
            optimiser.zero_grad()
            loss = solve_ivp(moved, (0.0, 1.0), y0, t_eval=TIMES, adjoint=adjoint, **TOLERANCES).y.square().mean()
            loss.backward()
            optimiser.step()
            losses.append(loss.detach())
        assert losses[-1] < losses[0]
        return [*losses, *moved.parameters()]

    agree(compute, rtol=1e-7, atol=1e-7)  # Adam divides by gradients, of which some are small


def test_weights_that_were_moved_stay_where_the_field_is(agree):
    """A field that is copied after a solve, and goes on by itself."""

    def compute(place):
        field, y0, found = place(mlp()), place(randn(5, 3)), []
        for _ in range(3):
            found.append(solve_ivp(field, (0.0, 1.0), y0, t_eval=TIMES, **TOLERANCES).y)
        other = copy.deepcopy(field)
        for i in range(4):
            in_place(i, other)
            found += [solve_ivp(f, (0.0, 1.0), y0, t_eval=TIMES, **TOLERANCES).y for f in (field, other)]
        return found

    agree(compute)


# What is not a parameter


def attribute(i, field):
    field.rate = [1.0, 2.0, -0.5][i % 3]


def switch(i, field):
    field.damped = i % 2 == 1


def buffer_in_place(i, field):
    field.shift += 0.1


def buffer_anew(i, field):
    field.shift = field.shift + 0.1


@pytest.mark.parametrize(
    "change", [attribute, switch, buffer_in_place, buffer_anew], ids=lambda change: change.__name__
)
def test_what_else_a_module_holds_is_read_anew(sequence, change, adjoint):
    sequence(PlainField(), change, adjoint=adjoint, n=5, **TOLERANCES)


@pytest.mark.parametrize("change", [attribute, buffer_anew], ids=lambda change: change.__name__)
def test_what_else_a_module_holds_is_read_anew_with_other_steps(sequence, change, settings):
    sequence(PlainField(), change, n=5, **settings)


def test_what_a_closure_holds_is_read_anew(agree, with_gradients, adjoint):
    def compute(place):
        weight, found, held = place(randn(3, 3).requires_grad_()), [], {"rate": 1.0, "weight": None}

        def func(t, y):
            return held["rate"] * torch.tanh(y @ held["weight"].t())

        for i in range(5):
            held["rate"] = 1.0 + i % 2
            held["weight"] = weight if i < 3 else 0.5 * weight
            y0 = place(randn(5, 3, seed=i).requires_grad_())
            y = solve_ivp(func, (0.0, 1.0), y0, t_eval=TIMES, adjoint=adjoint, **TOLERANCES).y
            found += with_gradients([y], [y0, weight])
        return found

    agree(compute)


class Branching(PlainField):
    """Whose value the host decides on: by the time, or by the state."""

    def __init__(self, by):
        super().__init__()
        self.by = by

    def forward(self, t, y):
        early = float(t) < 0.5 if self.by == "time" else float(y.detach().sum()) < 0.0
        return super().forward(t, y) * (1.0 if early else -0.5)


@pytest.mark.parametrize("way", [{"method": "rk4", "step_size": 0.25}, {"method": "dopri5", "jump_t": [0.5]}], ids=str)
@pytest.mark.parametrize("by", ["time", "state"])
def test_a_field_that_branches_on_the_host(sequence, by, way, adjoint):
    tolerances = TOLERANCES if way["method"] == "dopri5" else {}
    # All states far on one side, so that none comes near the other by rounding.
    y0 = None if by == "time" else torch.sign(randn(1, 1)) * (randn(5, 3).abs() + 3.0)
    sequence(Branching(by), in_place, n=4, y0=y0, adjoint=adjoint, **way, **tolerances)


class Counting(PlainField):
    """A field that counts its evaluations, and whose value depends on none of them."""

    n_calls = 0

    def forward(self, t, y):
        self.n_calls += 1
        return super().forward(t, y)


def test_a_module_is_called_in_every_solve(device):
    field, counts = Counting().to(device), []
    for i in range(5):
        before = field.n_calls
        solution = solve_ivp(field, (0.0, 1.0), randn(5, 3, seed=i).to(device), t_eval=TIMES, **TOLERANCES)
        counts.append((field.n_calls - before, solution.nfev))
    assert all(n_calls >= nfev for n_calls, nfev in counts)


def test_hooks_are_run(agree):
    def compute(place):
        field, y0 = place(PlainField()), place(randn(5, 3))
        found = [solve_ivp(field, (0.0, 1.0), y0, t_eval=TIMES, **TOLERANCES).y for _ in range(3)]
        hook = field.register_forward_hook(lambda module, inputs, output: 0.5 * output)
        found.append(solve_ivp(field, (0.0, 1.0), y0, t_eval=TIMES, **TOLERANCES).y)
        hook.remove()
        found.append(solve_ivp(field, (0.0, 1.0), y0, t_eval=TIMES, **TOLERANCES).y)
        return found

    agree(compute)


@pytest.mark.parametrize("method", ["dopri5", "rk4"])
def test_dropout_under_backprop(device, method):
    field = nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Dropout(0.2), nn.Linear(16, 3)).to(device)
    y0 = randn(5, 3).float().to(device).requires_grad_()
    settings = (
        {"method": method, "step_size": 0.25} if method == "rk4" else {"method": method, "rtol": 0.1, "atol": 0.1}
    )
    settings |= {"max_steps": 500, "min_step": 0.1} if method == "dopri5" else {}
    states = []
    for _ in range(4):
        y = solve_ivp(lambda t, y: field(y), (0.0, 1.0), y0, t_eval=[1.0], **settings).y
        y.sum().backward()
        states.append(y.detach())
    assert all(torch.isfinite(y).all() for y in states)
    assert not torch.equal(states[2], states[3])  # another draw in every solve
    assert all(torch.isfinite(p.grad).all() for p in [y0, *field.parameters()])


def test_a_flow_whose_field_changes(agree, with_gradients):
    def compute(place):
        field, found = place(mlp()), []
        flow = flow_field(field, energy=True)
        for i in range(N_SOLVES):
            in_place(i, field)
            joint = place(randn(5, 5, seed=i).requires_grad_())
            y = solve_ivp(flow, (0.0, 1.0), joint, t_eval=TIMES, **TOLERANCES).y
            found += with_gradients([y], [joint, *field.parameters()])
        return found

    agree(compute)


# What goes on at the same time, or in another order


def test_two_fields_by_turns(agree, with_gradients):
    def compute(place):
        first, second, found = place(mlp()), place(mlp((6, 5))), []
        for i in range(N_SOLVES):
            for field in (first, second):
                y0 = place(randn(5, 3, seed=i).requires_grad_())
                y = solve_ivp(field, (0.0, 1.0), y0, t_eval=TIMES, **TOLERANCES).y
                found += with_gradients([y], [y0, *field.parameters()])
        return found

    agree(compute)


def test_fields_that_come_and_go(agree):
    """New modules at the addresses of old ones."""

    def compute(place):
        y0, found = place(randn(5, 3)), []
        for i in range(8):
            field = mlp()
            in_place(i, field)
            field = place(field)
            found += [solve_ivp(field, (0.0, 1.0), y0, t_eval=TIMES, **TOLERANCES).y for _ in range(2)]
            del field
        return found

    agree(compute)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)], ids=str)
def test_backward_passes_in_any_order(agree, field, adjoint, order):
    def compute(place):
        moved, found = place(field), []
        for _ in range(3):
            starts = [place(randn(5, 3, seed=i).requires_grad_()) for i in range(3)]
            settings = {"t_eval": TIMES, "adjoint": adjoint, **TOLERANCES}
            losses = [solve_ivp(moved, (0.0, 1.0), y0, **settings).y.square().sum() for y0 in starts]
            gradients = {i: torch.autograd.grad(losses[i], [starts[i], *moved.parameters()]) for i in order}
            found += [*losses, *(gradient for i in range(3) for gradient in gradients[i])]
        return found

    agree(compute)


def test_the_states_of_a_solve_survive_the_next(device, field):
    field = field.to(device)
    solutions, copies = [], []
    for i in range(N_SOLVES):
        y0 = randn(5, 3, seed=i).to(device).requires_grad_()
        y = solve_ivp(field, (0.0, 1.0), y0, t_eval=TIMES, **TOLERANCES).y
        solutions.append((y0, y))
        copies.append(y.detach().clone())
    gradients = [torch.autograd.grad(y.sum(), y0)[0] for y0, y in solutions]
    kept = [gradient.clone() for gradient in gradients]
    for i in range(N_SOLVES):
        y0 = randn(5, 3, seed=50 + i).to(device).requires_grad_()
        solve_ivp(field, (0.0, 1.0), y0, t_eval=TIMES, **TOLERANCES).y.sum().backward()
    assert all(torch.equal(y, copy) for (_, y), copy in zip(solutions, copies, strict=True))
    assert all(torch.equal(one, other) for one, other in zip(gradients, kept, strict=True))


def test_backward_twice(agree, field, adjoint):
    def compute(place):
        moved, y0 = place(field), place(randn(5, 3).requires_grad_())
        for _ in range(3):
            y = solve_ivp(moved, (0.0, 1.0), y0, t_eval=TIMES, adjoint=adjoint, **TOLERANCES).y
            loss = y.square().sum()
            loss.backward(retain_graph=True)
            once = y0.grad.clone()
            loss.backward()
            torch.testing.assert_close(y0.grad, 2 * once, rtol=1e-9, atol=1e-9)
            y0.grad = None
        return [p.grad for p in moved.parameters()]

    agree(compute)


def test_gradients_of_gradients(agree):
    def compute(place):
        field, y0, found = place(mlp()), place(randn(5, 3).requires_grad_()), []
        for _ in range(3):
            y = solve_ivp(field, (0.0, 1.0), y0, t_eval=[1.0], adjoint="backprop", **TOLERANCES).y
            (first,) = torch.autograd.grad(y.square().sum(), y0, create_graph=True)
            found += torch.autograd.grad(first.square().sum(), [y0, *field.parameters()])
        return found

    agree(compute, rtol=1e-8, atol=1e-8)


def test_with_and_without_gradients_by_turns(agree, with_gradients, field, settings):
    def compute(place):
        moved, found = place(field), []
        for i in range(9):
            y0 = place(randn(5, 3, seed=i).requires_grad_())
            in_place(i, moved)
            if i % 3 == 0:
                y = solve_ivp(moved, (0.0, 1.0), y0, t_eval=TIMES, **settings).y
                found += with_gradients([y], [y0, *moved.parameters()])
                continue
            with torch.no_grad() if i % 3 == 1 else torch.inference_mode():
                found.append(solve_ivp(moved, (0.0, 1.0), y0, t_eval=TIMES, **settings).y.clone())
        return found

    agree(compute)


@pytest.mark.parametrize("shared", [True, False], ids=["one field", "a field each"])
def test_threads(device, with_gradients, field, shared):
    fields = [field.to(device)] * 4 if shared else [copy.deepcopy(field).to(device) for _ in range(4)]
    states = [randn(5 + i % 2, 3, seed=i).to(device) for i in range(12)]

    def solve(i):
        y0 = states[i].clone().requires_grad_()
        y = solve_ivp(fields[i % 4], (0.0, 1.0), y0, t_eval=TIMES, **TOLERANCES).y
        return with_gradients([y], [y0, *fields[i % 4].parameters()])

    expected = [solve(i) for i in range(len(states))]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(solve, range(len(states))))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def test_convolutions_in_bfloat16(gpu):
    """Recorded, they are what they were when they were not."""
    generator = torch.Generator().manual_seed(0)
    field = ConvField(8, (8,), autocast=True, generator=generator).to(gpu)
    images = torch.randn(4, 8, 7, 7, generator=generator).to(gpu)
    settings = {"t_eval": [1.0], "rtol": 1.0, "atol": 1.0, "first_step": 0.25, "max_step": 0.25}

    def gradients(module):
        loss = solve_ivp(module, (0.0, 1.0), images, **settings).y.square().sum()
        return [loss.detach(), *torch.autograd.grad(loss, list(module.parameters()))]

    for i in range(5):
        with torch.no_grad():
            for parameter in field.parameters():
                parameter.add_(0.1)
        recorded, anew = gradients(field), gradients(copy.deepcopy(field))
        for one, other in zip(recorded, anew, strict=True):
            assert (one - other).norm() <= 0.02 * other.norm() + 1e-3, i


def test_another_stream(gpu, with_gradients, field):
    field = field.to(gpu)

    def solve(i):
        y0 = randn(5, 3, seed=i).to(gpu).requires_grad_()
        y = solve_ivp(field, (0.0, 1.0), y0, t_eval=TIMES, **TOLERANCES).y
        # Graphs that are kept would have autograd go on on the stream that they were made on, and say so.
        return [x.detach() for x in with_gradients([y], [y0, *field.parameters()])]

    expected = [solve(i) for i in range(5)]
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        found = [solve(i) for i in range(5)]
    torch.cuda.current_stream().wait_stream(stream)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_after_a_failed_solve_the_next_is_right(agree, field):
    def compute(place):
        moved, y0, found = place(field), place(randn(5, 3)), []
        for _ in range(3):
            found.append(solve_ivp(moved, (0.0, 1.0), y0, t_eval=TIMES, **TOLERANCES).y)
            with pytest.raises(RuntimeError, match="max_steps"):
                solve_ivp(moved, (0.0, 1.0), y0, t_eval=TIMES, rtol=1e-9, atol=1e-9, max_steps=2)
        return found

    agree(compute)


def test_a_field_that_raises_in_the_middle_does_no_harm(agree):
    class Raising(PlainField):
        n_calls, at = 0, None

        def forward(self, t, y):
            self.n_calls += 1
            if self.n_calls == self.at:
                raise KeyError("mine")
            return super().forward(t, y)

    def compute(place):
        field, y0, found = place(Raising()), place(randn(5, 3)), []
        for i in range(6):
            found.append(solve_ivp(field, (0.0, 1.0), y0, t_eval=TIMES, **TOLERANCES).y)
            field.at = field.n_calls + 1 + 4 * i
            with pytest.raises(KeyError, match="mine"):
                solve_ivp(field, (0.0, 1.0), y0, t_eval=TIMES, rtol=1e-8, atol=1e-8)
        return found

    agree(compute)

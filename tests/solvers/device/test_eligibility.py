"""Which solves are recorded, and which must not be."""

import copy
import gc

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

from skode.dynamics import MLPField, flow_field
from skode.dynamics.convolutional import ConvField
from skode.solvers import solve_ivp
from skode.solvers.device.eligibility import recordable
from tests.solvers.device.recorded import Frozen, Plain, convolutions, gradients, n_kept, solve
from tests.solvers.problems import EQUAL


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


def test_a_frozen_parameter_that_is_changed_before_the_gradient_is_computed(ahead, y0):
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

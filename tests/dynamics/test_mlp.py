import copy
import pickle

import pytest
import torch
from torch import nn
from torch.nn import functional

from skode.dynamics import MLPField, affine
from skode.solvers import odeint, solve_ivp
from tests.dynamics.drawn import drawn

N, D = 7, 3
LAYERS = [(), (5,), (5, 4), (5, 4, 6)]
TORCH = {
    "tanh": torch.tanh,
    "logistic": torch.sigmoid,
    "softplus": functional.softplus,
    "relu": torch.relu,
    "silu": functional.silu,
}


def double_field(hidden, activation="tanh", time_dependent=True):
    """A float64 field all of whose parameters, biases too, are away from 0."""
    generator = torch.Generator().manual_seed(1)
    return drawn(MLPField(D, hidden, activation, time_dependent, generator=generator), generator)


def plain(field, t, z):
    """The field written with torch's own layers."""
    x = torch.cat([z, t.expand(len(z), 1)], dim=1) if field.time_dependent else z
    *hidden, last = field.layers
    for layer in hidden:
        x = TORCH[field.activation](layer(x))
    return last(x)


def points(time):
    generator = torch.Generator().manual_seed(2)
    z = torch.randn(N, D, generator=generator, dtype=torch.float64)
    cotangent = torch.randn(N, D, generator=generator, dtype=torch.float64)
    per_sample = torch.rand(N, 1, generator=generator, dtype=torch.float64)
    return z, {"scalar": torch.tensor(0.3, dtype=torch.float64), "per sample": per_sample}[time], cotangent


@pytest.fixture(params=LAYERS, ids=lambda hidden: f"{len(hidden)} hidden layers")
def hidden(request):
    return request.param


@pytest.fixture(params=[True, False], ids=["f(t, z)", "f(z)"])
def time_dependent(request):
    return request.param


@pytest.fixture(params=["scalar", "per sample"])
def time(request):
    return request.param


def test_value_is_that_of_torchs_layers(hidden, activation, time_dependent, time):
    field = double_field(hidden, activation, time_dependent)
    z, t, _ = points(time)
    torch.testing.assert_close(field(t, z), plain(field, t, z), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(field.linearize(t, z)[0], plain(field, t, z), rtol=1e-12, atol=1e-12)


def test_a_python_float_is_a_time(hidden, time_dependent):
    field = double_field(hidden, time_dependent=time_dependent)
    z, _, _ = points("scalar")
    expected = plain(field, torch.tensor(0.7, dtype=torch.float64), z)
    torch.testing.assert_close(field(0.7, z), expected, rtol=1e-12, atol=1e-12)


def test_pullback_is_autograds(hidden, activation, time_dependent, time):
    field = double_field(hidden, activation, time_dependent)
    z, t, cotangent = points(time)
    with torch.no_grad():
        _, residuals = field.linearize(t, z)
        grad_z, deltas = field.pullback(residuals, cotangent)
        grad_parameters = field.parameter_gradients([(residuals, deltas)])

    z.requires_grad_()
    parameters = list(field.parameters())
    expected = torch.autograd.grad(
        plain(field, t, z), [z, *parameters], cotangent, allow_unused=True, materialize_grads=True
    )
    assert len(grad_parameters) == len(parameters)
    for found, wanted in zip([grad_z, *grad_parameters], expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)


def test_autograd_through_the_field_agrees_with_its_pullback(hidden, time):
    field = double_field(hidden)
    z, t, cotangent = points(time)
    _, residuals = field.linearize(t, z)
    grad_z, _ = field.pullback(residuals, cotangent)
    z.requires_grad_()
    (expected,) = torch.autograd.grad(field(t, z), z, cotangent)
    torch.testing.assert_close(grad_z, expected, rtol=1e-12, atol=1e-12)


def test_parameter_gradients_sum_over_a_tape_of_evaluations(hidden, time_dependent):
    field = double_field(hidden, time_dependent=time_dependent)
    tape, total = [], torch.zeros((), dtype=torch.float64)
    for t in (0.1, torch.tensor(0.4, dtype=torch.float64), torch.rand(N, 1, dtype=torch.float64)):
        z, _, cotangent = points("scalar")
        _, residuals = field.linearize(t, z)
        tape.append((residuals, field.pullback(residuals, cotangent)[1]))
        total = total + (plain(field, torch.as_tensor(t, dtype=torch.float64), z) * cotangent).sum()
    expected = torch.autograd.grad(total, list(field.parameters()))
    torch.testing.assert_close(field.parameter_gradients(tape), list(expected), rtol=1e-12, atol=1e-12)


def test_a_bound_field_follows_the_weights():
    field = double_field((5,))
    bound = field.bind()
    z, t, _ = points("scalar")
    before = bound(t, z)
    with torch.no_grad():
        for parameter in field.parameters():
            parameter.mul_(2.0)
    after = bound(t, z)
    assert not torch.equal(before, after)
    torch.testing.assert_close(after, plain(field, t, z), rtol=1e-12, atol=1e-12)


def test_a_field_without_time_ignores_it():
    field = double_field((5,), time_dependent=False)
    z, _, _ = points("scalar")
    assert torch.equal(field(0.0, z), field(5.0, z))


def test_parameters_stand_in_layer_order_weight_then_bias():
    shapes = [tuple(p.shape) for p in MLPField(2, (5, 4)).parameters()]
    assert shapes == [(5, 3), (5,), (4, 5), (4,), (2, 4), (2,)]


def test_initial_weights_come_from_the_generator_alone():
    torch.manual_seed(0)
    first = MLPField(2, (8,), generator=torch.Generator().manual_seed(3))
    torch.manual_seed(1)
    second = MLPField(2, (8,), generator=torch.Generator().manual_seed(3))
    other = MLPField(2, (8,), generator=torch.Generator().manual_seed(4))
    assert all(torch.equal(p, q) for p, q in zip(first.parameters(), second.parameters(), strict=True))
    assert not torch.equal(first.layers[0].weight, other.layers[0].weight)


def test_torchs_global_random_state_is_left_alone(generator):
    before = torch.get_rng_state()
    MLPField(2, (8, 8), generator=generator)
    affine(3, 4, generator)
    assert torch.equal(before, torch.get_rng_state())


def test_initial_weights_fill_glorots_range_and_biases_are_zero(generator):
    layer = affine(40, 60, generator)
    bound = (6 / 100) ** 0.5
    assert layer.weight.abs().max() <= bound
    # variance of a uniform on [-b, b] is b^2 / 3; its standard error over 2,400 draws is about 2 %
    assert layer.weight.var().item() == pytest.approx(bound**2 / 3, rel=0.1)
    assert not layer.bias.any()


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda field: pickle.loads(pickle.dumps(field))])
def test_a_copy_is_equal_and_its_own(activation, copied):
    field = double_field((5, 4), activation)
    z, t, _ = points("scalar")
    twin = copied(field)
    before = field(t, z)
    assert torch.equal(twin(t, z), before)
    with torch.no_grad():
        nn.utils.vector_to_parameters(
            torch.zeros(sum(p.numel() for p in twin.parameters())).double(), twin.parameters()
        )
    assert torch.equal(field(t, z), before)
    assert not twin(t, z).any()


def test_small_states_keep_their_precision_where_tanh_is_not_folded():
    errors = {}
    for fold in (True, False):
        field = MLPField(4, (32, 32), fold_tanh=fold, time_dependent=False, generator=torch.Generator().manual_seed(0))
        y0 = 1e-4 * torch.randn(8, 4, generator=torch.Generator().manual_seed(1))
        settings = {"rtol": 1e-6, "atol": 1e-12, "t_eval": [1.0]}
        for steps in ("shared", "per_sample"):
            with torch.no_grad():
                found = solve_ivp(field.float(), (0.0, 1.0), y0, step_control=steps, **settings).y[-1].double()
                truth = solve_ivp(field.double(), (0.0, 1.0), y0.double(), step_control=steps, **settings).y[-1]
            errors[fold, steps] = float((found - truth).norm() / truth.norm())
    assert errors[False, "per_sample"] < 1e-6 < errors[True, "per_sample"]
    assert errors[False, "shared"] < 1e-6 > errors[True, "shared"]  # the fused path has nothing to fold


def test_a_perceptron_says_what_states_it_takes():
    field = MLPField(3, (4,))
    for wrong in (torch.ones(3), torch.ones(5, 2), torch.ones(5, 3, dtype=torch.float64), torch.tensor(1.0)):
        with pytest.raises(ValueError, match=r"MLPField takes states of shape \(n, 3\) and torch.float32"):
            odeint(field, wrong, [0.0, 1.0])

"""FFJORD's layers."""

import copy
import pickle

import pytest
import torch

from skode.dynamics import ConcatSquashField, exact_divergence
from skode.dynamics.concatsquash import ConcatSquashLayer
from skode.solvers import solve_ivp
from tests.dynamics.drawn import TIMES, D, N, ValueAndDivergence, drawn


def double_field(hidden, activation="tanh"):
    generator = torch.Generator().manual_seed(1)
    return drawn(ConcatSquashField(D, hidden, activation, generator=generator), generator)


def test_a_layer_is_its_formula(generator):
    layer = ConcatSquashLayer(3, 2, generator).double()
    x = torch.randn(5, 3, generator=generator, dtype=torch.float64)
    W, b = layer.affine.weight, layer.affine.bias
    a, c, v = layer.squash.weight[:, 0], layer.squash.bias, layer.shift[:, 0]
    t = torch.tensor([[0.7]], dtype=torch.float64)
    expected = (x @ W.t() + b) * torch.sigmoid(a * 0.7 + c) + v * 0.7
    torch.testing.assert_close(layer(layer.gate(t), t, x), expected, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("hidden", [(5,), (5, 4)])
def test_divergence_is_the_trace_of_the_jacobian(hidden, activation, t, z):
    field = double_field(hidden, activation)
    value, divergence = field.value_and_divergence(t, z)
    expected_value, expected = exact_divergence(field, t, z)
    torch.testing.assert_close(value, expected_value, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(divergence, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("hidden", [(5,), (5, 4)])
def test_nothing_else_comes_out_where_grad_is_disabled(hidden, activation, t, z):
    field = double_field(hidden, activation)
    expected = field.value_and_divergence(t, z)
    with torch.no_grad():
        found = field.value_and_divergence(t, z)
    torch.testing.assert_close(found, tuple(x.detach() for x in expected), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("hidden", [(3,), (3, 4)])
def test_value_and_divergence_are_differentiated_right(hidden, smooth_activation, t, z):
    both = ValueAndDivergence(double_field(hidden, smooth_activation))
    names, parameters = zip(*both.named_parameters(), strict=True)

    def outputs(z, *parameters):
        return torch.func.functional_call(both, dict(zip(names, parameters, strict=True)), (t, z))

    leaves = [x.detach().clone().requires_grad_() for x in (z, *parameters)]
    assert torch.autograd.gradcheck(outputs, leaves)


@pytest.mark.parametrize("hidden", [(5,), (5, 4)])
def test_times_are_differentiated_right(hidden, z):
    field = double_field(hidden)
    for t in (TIMES["scalar"], TIMES["per sample"]):
        leaf = t.clone().requires_grad_()
        assert torch.autograd.gradcheck(lambda t: field.value_and_divergence(t, z), (leaf,))


@pytest.mark.parametrize("hidden", [(), (5,), (5, 4), (5, 4, 6)])
def test_samples_may_have_times_of_their_own(hidden, z):
    field, times = double_field(hidden), TIMES["per sample"]
    one_by_one = torch.cat([field(times[i, 0], z[i : i + 1]) for i in range(N)])
    torch.testing.assert_close(field(times, z), one_by_one, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("hidden", [(), (5, 4, 6)])
def test_other_depths_say_that_they_have_no_analytic_divergence(hidden, z):
    field = double_field(hidden)
    assert not field.has_analytic_divergence
    with pytest.raises(ValueError, match=r"one or two hidden layers, not hidden_layer_sizes=.*use exact_divergence"):
        field.value_and_divergence(0.0, z)


@pytest.mark.parametrize("hidden", [(5,), (5, 4)])
def test_one_or_two_hidden_layers_have_an_analytic_divergence(hidden):
    assert double_field(hidden).has_analytic_divergence


def test_gates_lie_between_0_and_1_and_move_with_time():
    field = ConcatSquashField(2, generator=torch.Generator().manual_seed(0))
    times = torch.linspace(-5, 5, 50)[:, None]
    for layer in field.layers:
        gates = layer.gate(times)
        assert ((gates > 0) & (gates < 1)).all()
        assert (gates.std(0) > 0).all()


def test_weights_come_from_the_generator_alone():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first, again, other = (
        ConcatSquashField(2, generator=torch.Generator().manual_seed(seed)).state_dict() for seed in (0, 0, 1)
    )
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["layers.0.shift"], other["layers.0.shift"])


def test_fields_are_copied_and_pickled(activation, z):
    field = double_field((5, 4), activation)
    for again in (copy.deepcopy(field), pickle.loads(pickle.dumps(field))):
        assert torch.equal(again(0.5, z), field(0.5, z))


def test_all_weights_are_trained_through_a_solve(z):
    field = double_field((5, 4))

    def gradients(adjoint):
        y = solve_ivp(field, (0, 1), z, adjoint=adjoint, rtol=1e-3, atol=1e-5).y[-1]
        return torch.autograd.grad(y.square().sum(), list(field.parameters()))

    for found, truth in zip(gradients("discrete"), gradients("backprop"), strict=True):
        assert truth.any()
        torch.testing.assert_close(found, truth, rtol=1e-6, atol=1e-8)


def test_unknown_activations_are_refused():
    with pytest.raises(ValueError, match="activation='cosine' is not known"):
        ConcatSquashField(2, activation="cosine")

"""Planar flows in continuous time, with gates."""

import copy
import pickle

import pytest
import torch

from skode.dynamics import GatedPlanarField, exact_divergence
from skode.solvers import solve_ivp
from tests.dynamics.drawn import TIMES, D, N, ValueAndDivergence, drawn


def double_field(activation="tanh", n_units=5):
    generator = torch.Generator().manual_seed(1)
    return drawn(GatedPlanarField(D, n_units, activation, hidden=4, generator=generator), generator)


def test_divergence_is_the_trace_of_the_jacobian(activation, t, z):
    field = double_field(activation)
    value, divergence = field.value_and_divergence(t, z)
    expected_value, expected = exact_divergence(field, t, z)
    torch.testing.assert_close(value, expected_value, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(divergence, expected, rtol=1e-12, atol=1e-12)


def test_nothing_else_comes_out_where_grad_is_disabled(activation, t, z):
    field = double_field(activation)
    expected = field.value_and_divergence(t, z)
    with torch.no_grad():
        found = field.value_and_divergence(t, z)
    torch.testing.assert_close(found, tuple(x.detach() for x in expected), rtol=1e-12, atol=1e-12)


def test_value_and_divergence_are_differentiated_right(smooth_activation, t, z):
    both = ValueAndDivergence(double_field(smooth_activation))
    names, parameters = zip(*both.named_parameters(), strict=True)

    def outputs(z, *parameters):
        return torch.func.functional_call(both, dict(zip(names, parameters, strict=True)), (t, z))

    leaves = [x.detach().clone().requires_grad_() for x in (z, *parameters)]
    assert torch.autograd.gradcheck(outputs, leaves)


def test_times_are_differentiated_right(z):
    field = double_field()
    for t in (TIMES["scalar"], TIMES["per sample"]):
        leaf = t.clone().requires_grad_()
        assert torch.autograd.gradcheck(lambda t: field.value_and_divergence(t, z), (leaf,))


def test_samples_may_have_times_of_their_own(z):
    field, times = double_field(), TIMES["per sample"]
    one_by_one = torch.cat([field(times[i, 0], z[i : i + 1]) for i in range(N)])
    torch.testing.assert_close(field(times, z), one_by_one, rtol=1e-13, atol=1e-13)


def test_one_unit_with_a_constant_gate_is_the_planar_flow(z):
    # f(z) = u tanh(w.z + b), div f = (1 - tanh^2) u.w, times the gate: sigmoid(log 3) = 3/4
    field = double_field(n_units=1)
    with torch.no_grad():
        field.gates.last.weight.zero_()
        field.gates.last.bias.fill_(3.0).log_()
    u, w, b = field.directions[:, 0], field.units.weight[0], field.units.bias[0]
    s = torch.tanh(z @ w + b)
    for t in (0.0, 0.7):
        value, divergence = field.value_and_divergence(t, z)
        torch.testing.assert_close(value, 0.75 * torch.outer(s, u), rtol=1e-13, atol=1e-13)
        torch.testing.assert_close(divergence, 0.75 * (1 - s**2) * (u @ w), rtol=1e-13, atol=1e-13)


def test_a_shut_gate_stills_its_unit(z):
    field, twin = double_field(), double_field()
    with torch.no_grad():
        field.gates.last.weight[2], field.gates.last.bias[2] = 0.0, -1000.0
        twin.directions[:, 2] = 0.0
    torch.testing.assert_close(field(0.4, z), twin(0.4, z), rtol=1e-13, atol=1e-13)


def test_gates_lie_between_0_and_1_and_move_with_time():
    field = GatedPlanarField(2, generator=torch.Generator().manual_seed(0))
    gates = field.gates(torch.linspace(-10, 10, 50)[:, None])
    assert gates.shape == (50, 64)
    assert ((gates > 0) & (gates < 1)).all()
    assert (gates.std(0) > 0).all()


def test_weights_come_from_the_generator_alone():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first, again, other = (
        GatedPlanarField(2, generator=torch.Generator().manual_seed(seed)).state_dict() for seed in (0, 0, 1)
    )
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["directions"], other["directions"])


def test_fields_are_copied_and_pickled(activation, z):
    field = double_field(activation)
    for again in (copy.deepcopy(field), pickle.loads(pickle.dumps(field))):
        assert torch.equal(again(0.5, z), field(0.5, z))


def test_all_weights_are_trained_through_a_solve(z):
    field = double_field()

    def gradients(adjoint):
        y = solve_ivp(field, (0, 1), z, adjoint=adjoint, rtol=1e-3, atol=1e-5).y[-1]
        return torch.autograd.grad(y.square().sum(), list(field.parameters()))

    for found, truth in zip(gradients("discrete"), gradients("backprop"), strict=True):
        assert truth.any()
        torch.testing.assert_close(found, truth, rtol=1e-6, atol=1e-8)


def test_unknown_activations_are_refused():
    with pytest.raises(ValueError, match="activation='cosine' is not known"):
        GatedPlanarField(2, activation="cosine")

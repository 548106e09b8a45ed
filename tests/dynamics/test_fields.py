"""What holds for every vector field that has a name; whoever registers one finds it tested here."""

import copy
import pickle

import pytest
import torch
from torch.func import functional_call, jacrev, vmap

from skode.dynamics.divergence import field_divergence
from skode.dynamics.fields import FIELDS
from skode.solvers import OffersPullback, solve_ivp
from tests.dynamics.drawn import TIMES, D, N, drawn

HIDDEN = [(), (5,), (5, 4), (5, 4, 6)]


@pytest.fixture(params=FIELDS)
def name(request):
    return request.param


@pytest.fixture(params=HIDDEN, ids=lambda hidden: f"{len(hidden)} hidden layers")
def hidden(request):
    return request.param


def made(name, hidden=(5,), activation="tanh", seed=0):
    return FIELDS[name](D, hidden, activation, generator=torch.Generator().manual_seed(seed))


def double_field(name, hidden=(5,), activation="tanh"):
    """A float64 field all of whose parameters, biases too, are away from 0."""
    return drawn(made(name, hidden, activation), torch.Generator().manual_seed(1))


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rates_have_the_states_shape_and_dtype(name, hidden, dtype):
    field = made(name, hidden).to(dtype)
    for n in (0, 1, N):
        rates = field(0.5, torch.zeros(n, D, dtype=dtype))
        assert rates.shape == (n, D)
        assert rates.dtype == dtype


def test_samples_do_not_depend_on_each_other_nor_on_how_time_is_given(name, hidden, z):
    field, times = double_field(name, hidden), TIMES["per sample"]
    together = field(times, z)
    for i in range(N):
        for time in (times[i : i + 1], times[i, 0], float(times[i])):
            close(field(time, z[i : i + 1]), together[i : i + 1])


def test_rates_depend_on_time_and_state(name, hidden, z):
    field = double_field(name, hidden)
    assert (field(0.2, z) - field(0.7, z)).abs().max() > 1e-9
    assert (field(0.2, z) - field(0.2, z + 1)).abs().max() > 1e-9


def test_initial_weights_come_from_the_generator_alone(name):
    before = torch.get_rng_state()
    first, again, other = (made(name, seed=seed).state_dict() for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)
    assert all(torch.isfinite(weights).all() for weights in first.values())


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda field: pickle.loads(pickle.dumps(field))])
def test_a_copy_is_equal(name, activation, copied, z):
    field = double_field(name, activation=activation)
    assert torch.equal(copied(field)(0.5, z), field(0.5, z))


def test_an_unknown_activation_is_refused(name):
    with pytest.raises(ValueError, match="activation='cosine' is not known"):
        made(name, activation="cosine")


def test_value_is_differentiated_right(name, smooth_activation, t, z):
    field = double_field(name, activation=smooth_activation)
    names, parameters = zip(*field.named_parameters(), strict=True)

    def value(z, *parameters):
        return functional_call(field, dict(zip(names, parameters, strict=True)), (t, z))

    assert torch.autograd.gradcheck(value, [x.detach().clone().requires_grad_() for x in (z, *parameters)])


def test_its_own_pullback_is_autograds(name, hidden, activation, t, z, generator):
    field = double_field(name, hidden, activation)
    if not isinstance(field, OffersPullback):
        return  # it is differentiated by autograd
    cotangent = torch.randn(N, D, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        value, residuals = field.linearize(t, z)
        grad_z, deltas = field.pullback(residuals, cotangent)
        grad_parameters = field.parameter_gradients([(residuals, deltas)])
    close(value, field(t, z))

    z.requires_grad_()
    inputs = [z, *field.parameters()]
    expected = torch.autograd.grad(field(t, z), inputs, cotangent, allow_unused=True, materialize_grads=True)
    close([grad_z, *grad_parameters], list(expected))


def test_parameter_gradients_sum_over_a_tape_of_evaluations(name, hidden, z, generator):
    field = double_field(name, hidden)
    if not isinstance(field, OffersPullback):
        return
    tape, total = [], torch.zeros((), dtype=torch.float64)
    for t in TIMES.values():
        cotangent = torch.randn(N, D, generator=generator, dtype=torch.float64)
        with torch.no_grad():
            _, residuals = field.linearize(t, z)
            tape.append((residuals, field.pullback(residuals, cotangent)[1]))
        total = total + (field(t, z) * cotangent).sum()
    expected = torch.autograd.grad(total, list(field.parameters()), allow_unused=True, materialize_grads=True)
    close(list(field.parameter_gradients(tape)), list(expected))


def test_divergence_is_the_trace_of_the_jacobian(name, hidden, activation, t, z):
    field = double_field(name, hidden, activation)
    times = torch.as_tensor(t, dtype=torch.float64).expand(N, 1)
    jacobians = vmap(jacrev(lambda row, time: field(time[None], row[None])[0]))(z, times)
    value, divergence = field_divergence(field, t, z)
    close(value, field(t, z))
    close(divergence, torch.einsum("nii->n", jacobians))


def test_divergence_is_differentiated_right(name, smooth_activation, z):
    class Divergence(torch.nn.Module):
        def __init__(self, field):
            super().__init__()
            self.field = field

        def forward(self, z):
            return field_divergence(self.field, 0.3, z)[1]

    module = Divergence(double_field(name, activation=smooth_activation))
    names, parameters = zip(*module.named_parameters(), strict=True)

    def divergence(z, *parameters):
        return functional_call(module, dict(zip(names, parameters, strict=True)), (z,))

    assert torch.autograd.gradcheck(divergence, [x.detach().clone().requires_grad_() for x in (z, *parameters)])


@pytest.mark.parametrize("step_control", ["shared", "per_sample"])
def test_all_weights_are_trained_by_the_gradients_of_the_solve(name, hidden, step_control, z):
    field = double_field(name, hidden)
    settings = {"step_control": step_control, "rtol": 1e-3, "atol": 1e-5}

    def gradients(adjoint):
        y = solve_ivp(field, (0, 1), z, adjoint=adjoint, **settings).y[-1]
        return torch.autograd.grad(y.square().sum(), list(field.parameters()))

    for found, expected in zip(gradients("discrete"), gradients("backprop"), strict=True):
        assert expected.any()
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-8)

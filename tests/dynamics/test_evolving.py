"""Weights that evolve with time."""

import copy
import pickle

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp as scipy_solve_ivp
from torch import nn

from skode import ODENetClassifier, ODENetRegressor
from skode.dynamics import EvolvingField, MLPField
from skode.dynamics.convolutional import ConvField, convolution
from skode.dynamics.evolving import EvolvingLayer, WeightODE
from skode.dynamics.mlp import affine
from skode.solvers import solve_ivp

pytestmark = pytest.mark.filterwarnings("ignore:Maximum iterations:sklearn.exceptions.ConvergenceWarning")


def generator():
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("n_sets", [1, 2, 4])
def test_the_coefficients_solve_their_ode(n_sets):
    coefficients = WeightODE(n_sets, generator()).double()
    operator = coefficients.operator.detach().numpy()
    start = np.eye(n_sets)[0]
    times = np.array([0.0, 0.3, 1.0])
    truth = scipy_solve_ivp(lambda t, c: operator @ c, (0, 1), start, t_eval=times, rtol=1e-12, atol=1e-12).y.T
    np.testing.assert_allclose(coefficients(torch.tensor(times)[:, None]).detach().numpy(), truth, rtol=1e-10)
    np.testing.assert_allclose(coefficients(0.3).detach().numpy(), truth[1], rtol=1e-10)


def test_weights_obey_a_linear_ode_of_their_own():
    # d theta / dt = sum_k (A c)_k theta_k, by autograd
    coefficients, layer = WeightODE(2, generator()).double(), EvolvingLayer([affine(3, 2, None) for _ in range(2)])
    layer.double()
    t = torch.tensor(0.4, dtype=torch.float64)
    _, rate = torch.autograd.functional.jvp(
        lambda t: torch.tensordot(coefficients(t), layer.weight, 1), t, torch.ones_like(t)
    )
    moved = coefficients.operator @ coefficients(t)
    torch.testing.assert_close(rate, torch.tensordot(moved, layer.weight, 1))


def layers():
    yield EvolvingLayer([affine(3, 2, generator()) for _ in range(2)]), torch.randn(5, 3, generator=generator())
    made = EvolvingLayer([convolution(3, 2, 3, generator()) for _ in range(2)])
    yield made, torch.randn(5, 3, 4, 6, generator=generator())


def test_weights_of_each_sample_are_those_of_all_with_its_coefficients():
    for layer, x in layers():
        c = torch.randn(5, 2, generator=generator())
        one_by_one = torch.cat([layer(x[i : i + 1], c[i]) for i in range(5)])
        torch.testing.assert_close(layer(x, c), one_by_one, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("time_dependent", [False, True])
def test_weights_that_stand_still_make_a_perceptron(time_dependent):
    field = EvolvingField(3, (5, 4), time_dependent=time_dependent, generator=generator())
    plain = MLPField(3, (5, 4), time_dependent=time_dependent)
    with torch.no_grad():
        field.coefficients.operator.zero_()
        for layer, own in zip(plain.layers, field.layers, strict=True):
            layer.weight.copy_(own.weight[0])
            layer.bias.copy_(own.bias[0])
    z = torch.randn(7, 3, generator=generator())
    torch.testing.assert_close(field(0.6, z), plain(0.6, z))


FIELDS = {
    "perceptron": (lambda: EvolvingField(3, (5,), generator=generator()), (6, 3)),
    "convolutions": (lambda: ConvField(4, (6,), evolving_weights=True, generator=generator()), (6, 4, 3, 3)),
}


@pytest.fixture(params=FIELDS)
def field_and_state(request):
    make, shape = FIELDS[request.param]
    field = make().double()
    for module in field.modules():
        if isinstance(module, nn.GroupNorm):
            nn.init.ones_(module.weight)
    return field, torch.randn(shape, generator=generator(), dtype=torch.float64)


def test_samples_may_have_times_of_their_own(field_and_state):
    field, z = field_and_state
    times = torch.linspace(0, 1, 6, dtype=torch.float64)
    values = field(times.view(-1, *[1] * (z.ndim - 1)), z)
    torch.testing.assert_close(values, torch.cat([field(times[i], z[i : i + 1]) for i in range(6)]))


def test_all_weights_and_their_operator_are_differentiated(field_and_state):
    field, z = field_and_state
    parameters = list(field.parameters())

    def end(adjoint):
        y = solve_ivp(field, (0, 1), z, adjoint=adjoint, rtol=1e-3, atol=1e-5).y[-1]
        return torch.autograd.grad(y.square().sum(), parameters)

    for found, truth in zip(end("discrete"), end("backprop"), strict=True):
        assert truth.any()
        torch.testing.assert_close(found, truth, rtol=1e-6, atol=1e-8)


def test_fields_are_copied_and_pickled(field_and_state):
    field, z = field_and_state
    for again in (copy.deepcopy(field), pickle.loads(pickle.dumps(field))):
        assert torch.equal(again(0.5, z), field(0.5, z))


def test_estimators_take_evolving_weights():
    rng = np.random.RandomState(0)
    X = rng.normal(size=(60, 4))
    settings = {"state_size": 6, "hidden_layer_sizes": (8,), "max_iter": 30, "learning_rate_init": 1e-2}
    settings |= {"evolving_weights": True, "random_state": 0, "input_dropout": 0.0}
    clf = ODENetClassifier(**settings).fit(X, X[:, 0] * X[:, 1] > 0)
    assert isinstance(clf.module_.field, EvolvingField)
    assert clf.loss_curve_[-1] < 0.7 * clf.loss_curve_[0]
    np.testing.assert_allclose(clf.predict_proba(X)[:5], clf.predict_proba(X[:5]), rtol=1e-10)
    reg = ODENetRegressor(**settings, image_shape=(1, 2, 2)).fit(X, X[:, 0])
    assert isinstance(reg.module_.fields[0].layers[0], EvolvingLayer)
    np.testing.assert_allclose(reg.predict(X)[:5], reg.predict(X[:5]), rtol=1e-6)
    with pytest.raises(ValueError, match="evolving_weights=True is for the built-in fields"):
        clf.set_params(field=nn.Linear(2, 2)).fit(X, X[:, 0] > 0)


def test_the_penalty_on_weights_leaves_biases_and_the_operator_alone():
    for field in (EvolvingField(3, (5,)), ConvField(4, (6,), evolving_weights=True, generator=generator())):
        penalised = {name for name, p in field.named_parameters() if p.ndim > 1}
        assert penalised == {f"layers.{i}.weight" for i in range(2)}


@pytest.mark.parametrize("penalty", ["kinetic_energy", "jacobian_norm", "local_error", "steer"])
@pytest.mark.parametrize("adjoint", ["discrete", "continuous", "backprop"])
def test_evolving_weights_take_every_penalty_and_adjoint(penalty, adjoint):
    X = np.random.RandomState(0).normal(size=(40, 3)).astype(np.float32)
    settings = {"state_size": 4, "hidden_layer_sizes": (5,), "max_iter": 2, "random_state": 0}
    reg = ODENetRegressor(evolving_weights=True, adjoint=adjoint, **{penalty: 0.1}, **settings).fit(X, X[:, 0])
    assert np.isfinite(reg.predict(X)).all()
    reg.partial_fit(X, X[:, 0])
    assert np.isfinite(reg.loss_)

import pickle

import numpy as np
import pytest
import torch

from skode.dynamics import ACTIVATIONS, MLPField
from skode.dynamics.activations import get_activation

KNOWN = {
    "tanh": np.tanh,
    "logistic": lambda x: 1 / (1 + np.exp(-x)),
    "softplus": lambda x: np.logaddexp(0, x),
    "relu": lambda x: np.maximum(x, 0),
    "silu": lambda x: x / (1 + np.exp(-x)),
}


@pytest.fixture
def x():
    # without 0, where relu has no derivative
    return torch.linspace(-6, 6, 50, dtype=torch.float64)


def test_values_are_the_functions_the_names_say(activation, x):
    value = ACTIVATIONS[activation].value(x)
    np.testing.assert_allclose(value, KNOWN[activation](x.numpy()), rtol=1e-13, atol=1e-15)


def test_values_are_pickled_with_the_fields_that_hold_them(activation, x):
    value = ACTIVATIONS[activation].value
    assert torch.equal(pickle.loads(pickle.dumps(value))(x), value(x))


def test_slope_is_the_first_derivative(activation, x):
    h = ACTIVATIONS[activation]
    x.requires_grad_()
    s = h.value(x)
    (derivative,) = torch.autograd.grad(s.sum(), x)
    kept = h.kept(x, s).detach()
    torch.testing.assert_close(h.slope(kept), derivative, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(h.slope_into(kept, torch.empty_like(x)), derivative, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(h.pull(torch.ones_like(kept), kept), derivative, rtol=1e-12, atol=1e-14)


def test_curvature_is_the_second_derivative(smooth_activation, x):
    h = ACTIVATIONS[smooth_activation]
    x.requires_grad_()
    s = h.value(x)
    (p,) = torch.autograd.grad(s.sum(), x, create_graph=True)
    (derivative,) = torch.autograd.grad(p.sum(), x)
    kept, p = h.kept(x, s).detach(), p.detach()
    torch.testing.assert_close(h.curvature(kept, p), derivative, rtol=1e-11, atol=1e-13)
    d, g = torch.ones_like(p), torch.full_like(p, 3.0)
    pulled = h.pull_with_curvature(d + h.curvature_shift * g, g, kept, p)
    torch.testing.assert_close(pulled, p + 3.0 * derivative, rtol=1e-11, atol=1e-13)


def test_relu_has_no_curvature(x):
    h = ACTIVATIONS["relu"]
    s = h.value(x)
    assert not h.curvature(s, h.slope(s)).any()


@pytest.mark.parametrize("far", [30.0, 100.0, 800.0])
def test_derivatives_stay_finite_and_right_far_from_the_origin(activation, far):
    h = ACTIVATIONS[activation]
    x = torch.tensor([-far, far], dtype=torch.float64)
    kept = h.kept(x, h.value(x))
    p = h.slope(kept)
    slopes_at_infinity = {"tanh": [0, 0], "logistic": [0, 0]}.get(activation, [0, 1])
    np.testing.assert_allclose(p, slopes_at_infinity, atol=1e-11)
    np.testing.assert_allclose(h.curvature(kept, p), 0, atol=1e-11)


def test_softplus_is_exact_beyond_torchs_default_threshold():
    x = torch.tensor([25.0], dtype=torch.float64)
    np.testing.assert_allclose(ACTIVATIONS["softplus"].value(x) - x, np.exp(-25.0), rtol=1e-3)


@pytest.mark.parametrize("name", ["Tanh", "gelu", "", None, 3, ["tanh"]])
def test_an_unknown_name_is_refused_with_those_known(name):
    with pytest.raises(ValueError, match=r"activation=.* is not known; choose one of .*tanh"):
        get_activation(name)


def test_a_field_with_an_unknown_activation_is_refused_when_built():
    with pytest.raises(ValueError, match="activation='swish'"):
        MLPField(2, (4,), "swish")

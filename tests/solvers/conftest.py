"""Methods, adjoints, and vector fields that several test modules solve."""

import math

import pytest
import torch
from torch import nn

from tests.solvers.problems import TABLEAUS

FIXED = ["euler", "midpoint", "rk4"]
ADAPTIVE = ["bosh3", "tsit5", "dopri5"]


@pytest.fixture(params=FIXED + ADAPTIVE)
def method(request):
    return request.param


@pytest.fixture(params=ADAPTIVE)
def adaptive_method(request):
    return request.param


@pytest.fixture(params=FIXED)
def fixed_method(request):
    return request.param


@pytest.fixture(params=["discrete", "continuous", "backprop"])
def adjoint(request):
    return request.param


@pytest.fixture(params=["discrete", "continuous"])
def graphless_adjoint(request):
    """The adjoints that keep no autograd graph of the solve."""
    return request.param


@pytest.fixture(params=["discrete", "backprop"])
def exact_adjoint(request):
    """The adjoints whose gradient is that of the computed solution."""
    return request.param


@pytest.fixture
def equal_steps():
    """Arguments that make ``solve_ivp`` take steps of (nearly) equal size, whatever the method."""

    def arguments(method, size):
        if method in FIXED:
            return {"method": method, "step_size": size}
        return {"method": method, "rtol": 1e3, "atol": 1e3, "first_step": size, "max_step": size}

    return arguments


class Counted:
    """A vector field that counts its evaluations and remembers their times."""

    def __init__(self, func):
        self.func = func
        self.times = []

    def __call__(self, t, y):
        self.times.append(float(t))
        return self.func(t, y)

    @property
    def n_calls(self):
        return len(self.times)


@pytest.fixture
def counted():
    return Counted


class TanhField(nn.Module):
    """``tanh(W y + b + t v)``, with its own pullback; counts what is called."""

    def __init__(self, n_features, seed=0, dtype=torch.float64):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)

        def draw(*shape):
            drawn = torch.randn(*shape, generator=generator, dtype=torch.float64) / math.sqrt(n_features)
            return nn.Parameter(drawn.to(dtype))

        self.weight = draw(n_features, n_features)
        self.bias = draw(n_features)
        self.drift = draw(n_features)
        self.n_forward = self.n_linearize = self.n_pullback = 0

    def forward(self, t, y):
        self.n_forward += 1
        return torch.tanh(y @ self.weight.t() + self.bias + t * self.drift)

    def linearize(self, t, y):
        self.n_linearize += 1
        value = torch.tanh(y @ self.weight.t() + self.bias + t * self.drift)
        return value, (t, y, value)

    def pullback(self, residuals, cotangent):
        self.n_pullback += 1
        _, _, value = residuals
        delta = cotangent * (1 - value**2)
        return delta @ self.weight, delta

    def parameter_gradients(self, tape):
        weight = sum(delta.t() @ y for (_, y, _), delta in tape)
        bias = sum(delta.sum(0) for _, delta in tape)
        drift = sum((t * delta).sum(0) for (t, _, _), delta in tape)
        return [weight, bias, drift]

    def reset_counts(self):
        self.n_forward = self.n_linearize = self.n_pullback = 0


@pytest.fixture
def tanh_field_class():
    return TanhField


@pytest.fixture
def tanh_field():
    return TanhField(3)


@pytest.fixture
def batch():
    """Five states of three features."""
    return torch.randn(5, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.fixture(params=list(TABLEAUS))
def tableau(request):
    return TABLEAUS[request.param]


@pytest.fixture(params=[name for name, tableau in TABLEAUS.items() if not tableau.implicit])
def explicit_tableau(request):
    return TABLEAUS[request.param]


@pytest.fixture(params=[name for name, tableau in TABLEAUS.items() if tableau.implicit])
def implicit_tableau(request):
    return TABLEAUS[request.param]


@pytest.fixture(params=[name for name, tableau in TABLEAUS.items() if tableau.adaptive])
def adaptive_tableau(request):
    return TABLEAUS[request.param]

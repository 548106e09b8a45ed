import pytest
import torch
from torch import nn
from torch.func import jacrev, vmap

from skode.dynamics import (
    ConcatSquashField,
    GatedPlanarField,
    MLPField,
    analytic_divergence,
    exact_divergence,
    flow_field,
)
from skode.dynamics.divergence import field_divergence, offers_divergence
from tests.dynamics.drawn import drawn

N, D = 6, 3


def double_field(hidden, activation="tanh", time_dependent=True, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return drawn(MLPField(D, hidden, activation, time_dependent, generator=generator), generator)


def trace_of_jacobian(field, t, z):
    """tr(df/dz) from the whole Jacobian of each row."""
    times = t.expand(len(z), 1)
    jacobians = vmap(jacrev(lambda row, time: field(time[None], row[None])[0]))(z, times)
    return torch.einsum("nii->n", jacobians)


@pytest.fixture
def z():
    return torch.randn(N, D, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


@pytest.fixture(params=["scalar", "per sample"])
def t(request):
    return {
        "scalar": torch.tensor(0.3, dtype=torch.float64),
        "per sample": torch.linspace(0, 1, N, dtype=torch.float64)[:, None],
    }[request.param]


@pytest.mark.parametrize("time_dependent", [True, False])
@pytest.mark.parametrize("hidden", [(5,), (5, 4)])
def test_analytic_divergence_is_the_trace_of_the_jacobian(hidden, time_dependent, activation, t, z):
    field = double_field(hidden, activation, time_dependent)
    value, divergence = analytic_divergence(field, t, z)
    torch.testing.assert_close(divergence, trace_of_jacobian(field, t, z), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(value, field(t, z), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("hidden", [(), (5,), (5, 4), (5, 4, 6)])
def test_exact_divergence_is_the_trace_of_the_jacobian(hidden, activation, t, z):
    field = double_field(hidden, activation)
    value, divergence = exact_divergence(field, t, z)
    torch.testing.assert_close(divergence, trace_of_jacobian(field, t, z), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(value, field(t, z), rtol=1e-12, atol=1e-12)


def test_divergence_of_a_linear_field_is_its_matrixs_trace(z):
    A = torch.randn(D, D, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    _, divergence = exact_divergence(lambda t, z: z @ A.t(), torch.tensor(0.0), z)
    torch.testing.assert_close(divergence, torch.trace(A).expand(N), rtol=1e-13, atol=1e-13)


def test_divergence_of_a_field_that_ignores_its_state_is_zero(z):
    for constant in (lambda t, z: torch.ones_like(z), lambda t, z: torch.ones_like(z) * t):
        value, divergence = exact_divergence(constant, torch.tensor(2.0, dtype=torch.float64), z)
        assert value.shape == z.shape
        assert not divergence.any()


def test_exact_divergence_works_for_any_module(z):
    module = nn.Sequential(nn.Linear(D, 4), nn.SiLU(), nn.Linear(4, D)).double()
    _, divergence = exact_divergence(lambda t, z: module(z), torch.tensor(0.0), z)
    expected = torch.einsum("nii->n", vmap(jacrev(module))(z))
    torch.testing.assert_close(divergence, expected, rtol=1e-12, atol=1e-12)


def test_both_divergences_have_the_same_gradients(smooth_activation, z, t):
    field = double_field((5, 4), smooth_activation)
    gradients = []
    for divergence_of in (analytic_divergence, exact_divergence):
        leaf = z.clone().requires_grad_()
        _, divergence = divergence_of(field, t, leaf)
        gradients.append(torch.autograd.grad((divergence**2).sum(), [leaf, *list(field.parameters())[:-1]]))
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-11, atol=1e-12)


def test_nothing_is_recorded_where_grad_is_disabled(z):
    field = double_field((5,))
    with torch.no_grad():
        value, divergence = exact_divergence(field, torch.tensor(0.3, dtype=torch.float64), z)
    assert not value.requires_grad
    assert not divergence.requires_grad
    assert not z.requires_grad


@pytest.mark.parametrize("hidden", [(), (5, 4, 6)])
def test_analytic_divergence_refuses_what_it_does_not_know(hidden, z):
    with pytest.raises(ValueError, match=r"one or two hidden layers; use exact_divergence"):
        analytic_divergence(double_field(hidden), 0.0, z)


def with_another_forward(kind):
    class Halved(kind):
        def forward(self, t, z):
            return 0.5 * super().forward(t, z)

    return Halved(D, (5, 4))


def with_a_forward_of_the_instance(kind):
    field = kind(D, (5, 4))
    original = field.forward
    field.forward = lambda t, z: 0.5 * original(t, z)
    return field


def with_a_hook(kind):
    field = kind(D, (5, 4))
    field.register_forward_hook(lambda module, inputs, output: 0.5 * output)
    return field


class Wrapper(nn.Module):
    """Takes whatever it does not define itself from the field inside."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def __getattr__(self, name):
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("inner"), name)

    def forward(self, t, z):
        return 0.5 * self.inner(t, z)


CHANGED = {
    "subclass": with_another_forward,
    "instance": with_a_forward_of_the_instance,
    "hook": with_a_hook,
    "wrapper": lambda kind: Wrapper(kind(D, (5, 4))),
}


@pytest.mark.parametrize("kind", [MLPField, ConcatSquashField, GatedPlanarField])
@pytest.mark.parametrize("changed", CHANGED)
def test_a_divergence_is_not_taken_from_another_forward(changed, kind, t, z):
    field = CHANGED[changed](kind).double()
    assert not offers_divergence(field)
    value, divergence = field_divergence(field, t, z)
    expected_value, expected = exact_divergence(field, t, z)
    assert torch.equal(value, expected_value)
    assert torch.equal(divergence, expected)
    rates = flow_field(field)(t, torch.cat([z, torch.zeros(N, 1, dtype=z.dtype)], 1))
    torch.testing.assert_close(rates, torch.cat([expected_value, -expected[:, None]], 1), rtol=1e-12, atol=1e-12)
    with pytest.raises(ValueError, match="use exact_divergence"):
        analytic_divergence(field, t, z)


def test_a_subclass_with_the_same_forward_keeps_its_divergence(t, z):
    class Named(MLPField):
        name = "named"

    field = Named(D, (5,)).double()
    assert offers_divergence(field)
    _, divergence = field_divergence(field, t, z)
    torch.testing.assert_close(divergence, trace_of_jacobian(field, t, z), rtol=1e-12, atol=1e-12)


def test_a_subclass_with_a_forward_and_a_divergence_of_its_own_is_believed(t, z):
    class Doubled(MLPField):
        def forward(self, t, z):
            return 2.0 * super().forward(t, z)

        def value_and_divergence(self, t, z):
            value, divergence = super().value_and_divergence(t, z)
            return 2.0 * value, 2.0 * divergence

    field = Doubled(D, (5,)).double()
    joint = torch.cat([z, torch.zeros(N, 1, dtype=z.dtype)], 1)
    for divergence in (analytic_divergence(field, t, z)[1], -flow_field(field)(t, joint)[:, -1]):
        torch.testing.assert_close(divergence, exact_divergence(field, t, z)[1], rtol=1e-12, atol=1e-12)

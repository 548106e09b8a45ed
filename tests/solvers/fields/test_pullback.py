"""A field with its own pullback and the same function under autograd give the same numbers."""

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from skode.dynamics import MLPField
from skode.solvers import odeint, solve_ivp
from skode.solvers.fields.pullback import has_own_pullback

TIMES = torch.linspace(0.0, 2.0, 7, dtype=torch.float64)


def solved(field, func, y0, **options):
    """Outputs and gradients of ``func`` (the field itself, or a function that calls it), all as one list."""
    y0 = y0.clone().requires_grad_()
    y = odeint(func, y0, TIMES, rtol=1e-6, atol=1e-8, **options)
    loss = (y * torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view(y.shape)).sum()
    return [y.detach(), *torch.autograd.grad(loss, [y0, *field.parameters()])]


def assert_same(found, expected, rtol):
    for one, other in zip(found, expected, strict=True):
        assert torch.linalg.vector_norm(one - other) <= rtol * torch.linalg.vector_norm(other)


def test_pullback_and_autograd_give_the_same_numbers(tanh_field, batch, method, adjoint):
    options = {"method": method, "adjoint": adjoint}
    own = solved(tanh_field, tanh_field, batch, **options)
    autograd = solved(tanh_field, lambda t, y: tanh_field(t, y), batch, **options)
    assert_same(own, autograd, rtol=1e-12)


@pytest.mark.parametrize("memory_budget", [0, 5_000])
def test_recomputed_activations_give_the_numbers_of_kept_ones(tanh_field, batch, adaptive_method, memory_budget):
    # One evaluation keeps 240 bytes: 5,000 are spent after some of the steps.
    options = {"method": adaptive_method}
    kept = solved(tanh_field, tanh_field, batch, **options)
    recomputed = solved(tanh_field, tanh_field, batch, **options, options={"memory_budget": memory_budget})
    assert_same(recomputed, kept, rtol=1e-13)


def test_kept_activations_save_evaluations_in_the_backward_pass(tanh_field, batch):
    evaluations = {}
    for memory_budget in (2**28, 0):
        y = odeint(tanh_field, batch, TIMES, options={"memory_budget": memory_budget})
        tanh_field.reset_counts()
        y.sum().backward()
        evaluations[memory_budget] = tanh_field.n_forward + tanh_field.n_linearize
    assert evaluations[2**28] <= 1 < 20 < evaluations[0]


def test_the_pullback_is_used_where_it_is_offered(tanh_field, batch, graphless_adjoint):
    odeint(tanh_field, batch, TIMES, adjoint=graphless_adjoint).sum().backward()
    assert tanh_field.n_pullback > 10


def test_per_sample_spans_use_the_pullback_and_give_the_same_numbers(tanh_field, batch, adjoint):
    spans = torch.tensor([[0.0, 1.0], [1.0, 3.0], [2.0, 0.0], [0.5, 0.6], [1.0, 1.0]], dtype=torch.float64)
    times = spans[:, :1] + (spans[:, 1:] - spans[:, :1]) * torch.tensor([0.3, 1.0, 0.6], dtype=torch.float64)
    found = []
    for func in (tanh_field, lambda t, y: tanh_field(t, y)):
        y0 = batch.clone().requires_grad_()
        y = solve_ivp(func, spans, y0, t_eval=times, rtol=1e-6, atol=1e-8, adjoint=adjoint).y
        found.append([y.detach(), *torch.autograd.grad((y**2).sum(), [y0, *tanh_field.parameters()])])
        if func is tanh_field and adjoint != "backprop":
            assert tanh_field.n_pullback > 10
        tanh_field.reset_counts()
    assert_same(*found, rtol=1e-12)


def test_times_that_require_grad_pass_through_the_pullback(tanh_field, batch, graphless_adjoint):
    found = []
    for func in (tanh_field, lambda t, y: tanh_field(t, y)):
        t = TIMES.clone().requires_grad_()
        y = odeint(func, batch, t, rtol=1e-6, atol=1e-8, adjoint=graphless_adjoint)
        found.append(torch.autograd.grad((y**2).sum(), [t, tanh_field.drift]))
    assert_same(*found, rtol=1e-12)
    assert tanh_field.n_pullback > 10


def test_per_sample_times_that_require_grad_pass_through_the_pullback(tanh_field, batch):
    spans = torch.tensor([[0.0, 1.0]] * 5, dtype=torch.float64)
    times = torch.tensor([[0.5, 1.0]] * 5, dtype=torch.float64, requires_grad=True)
    y = solve_ivp(tanh_field, spans, batch, t_eval=times, rtol=1e-9, atol=1e-9).y
    (grad_times, _) = torch.autograd.grad(y.sum(), [times, tanh_field.drift])
    assert tanh_field.n_pullback > 10
    expected = tanh_field(times[..., None], y).sum(-1)
    torch.testing.assert_close(grad_times, expected, rtol=1e-6, atol=1e-8)


def test_changed_weights_are_seen_by_the_next_solve(tanh_field, batch):
    before = odeint(tanh_field, batch, TIMES).detach()
    with torch.no_grad():
        tanh_field.bias.add_(0.5)
    after = odeint(tanh_field, batch, TIMES).detach()
    torch.testing.assert_close(after, odeint(lambda t, y: tanh_field(t, y), batch, TIMES).detach())
    assert (after - before).abs().max() > 0.1


def test_a_field_is_bound_once_per_solve(tanh_field, batch):
    class Bound:
        """Offers the pullback; what ``bind`` returns answers the calls."""

        def __init__(self):
            self.n_bound = 0

        def bind(self):
            self.n_bound += 1
            return tanh_field

        def parameters(self):
            return tanh_field.parameters()

        def refuse(self, *args, **kwargs):
            raise AssertionError("called although bound")

        __call__ = linearize = pullback = parameter_gradients = refuse

    bound = Bound()
    assert_same(solved(tanh_field, bound, batch), solved(tanh_field, tanh_field, batch), rtol=0)
    assert bound.n_bound == 1


def overriding_subclass(cls):
    class Shifted(cls):
        def forward(self, t, y):
            return super().forward(t, y) + 1

    return Shifted(3)


def overriding_instance(cls):
    field = cls(3)
    inner = field.forward
    field.forward = lambda t, y: inner(t, y) + 1
    return field


def with_forward_hook(cls):
    field = cls(3)
    field.register_forward_hook(lambda module, inputs, output: output + 1)
    return field


def with_forward_pre_hook(cls):
    field = cls(3)
    field.register_forward_pre_hook(lambda module, inputs: (inputs[0], 2 * inputs[1]))
    return field


def with_parametrized_weight(cls):
    class Doubled(nn.Module):
        def forward(self, weight):
            return 2 * weight

    field = cls(3)
    parametrize.register_parametrization(field, "weight", Doubled())
    return field


@pytest.mark.parametrize(
    "change",
    [overriding_subclass, overriding_instance, with_forward_hook, with_forward_pre_hook, with_parametrized_weight],
)
def test_a_field_whose_forward_no_longer_belongs_to_its_pullback_takes_autograd(
    tanh_field_class, batch, graphless_adjoint, change
):
    field = change(tanh_field_class)
    assert not has_own_pullback(field)
    found = solved(field, field, batch, adjoint=graphless_adjoint)
    assert field.n_pullback == 0
    expected = solved(field, field, batch, adjoint="backprop")
    assert_same(found, expected, rtol=1e-4 if graphless_adjoint == "continuous" else 1e-12)
    unchanged = tanh_field_class(3)
    assert (found[0] - solved(unchanged, unchanged, batch)[0]).abs().max() > 0.1


def test_a_subclass_that_overrides_both_keeps_its_pullback(tanh_field_class):
    class Negative(tanh_field_class):
        def forward(self, t, y):
            return -super().forward(t, y)

        def linearize(self, t, y):
            value, residuals = super().linearize(t, y)
            return -value, residuals

        def pullback(self, residuals, cotangent):
            return super().pullback(residuals, -cotangent)

    assert has_own_pullback(Negative(3))


def test_a_subclass_that_adds_nothing_keeps_its_pullback(tanh_field_class):
    assert has_own_pullback(type("Same", (tanh_field_class,), {})(3))


def test_a_plain_callable_offers_no_pullback():
    assert not has_own_pullback(lambda t, y: y)
    assert not has_own_pullback(nn.Linear(2, 2))


def test_a_wrapper_that_passes_attributes_on_is_called_itself():
    class Wrapped(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def __getattr__(self, name):
            try:
                return super().__getattr__(name)
            except AttributeError:
                return getattr(self.inner, name)

        def forward(self, t, y):
            return 2 * self.inner(t, y)

    inner = MLPField(2, (4,), generator=torch.Generator().manual_seed(0)).double()
    y0 = torch.ones(3, 2, dtype=torch.float64)
    wrapped = solve_ivp(Wrapped(inner), (0.0, 1.0), y0, t_eval=[1.0], rtol=1e-8, atol=1e-8)
    expected = solve_ivp(lambda t, y: 2 * inner(t, y), (0.0, 1.0), y0, t_eval=[1.0], rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(wrapped.y, expected.y)

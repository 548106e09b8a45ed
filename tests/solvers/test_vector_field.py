"""A field with its own pullback and the same function under autograd give the same numbers."""

import math

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from skode.solvers import odeint, solve_ivp
from skode.solvers.fields.autograd import AutogradField
from skode.solvers.fields.bind import as_field
from skode.solvers.fields.pullback import PullbackField, has_own_pullback

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


def test_as_field_wraps_and_evaluates_at_the_start(tanh_field, batch):
    field, value, tape = as_field(tanh_field, 0.5, batch, differentiate=True)
    assert isinstance(field, PullbackField)
    assert tape is not None
    torch.testing.assert_close(value, tanh_field(0.5, batch).detach())
    field, value, tape = as_field(lambda t, y: tanh_field(t, y), 0.5, batch, differentiate=True)
    assert isinstance(field, AutogradField)
    assert tape is not None
    assert [id(p) for p in field.parameters] == [id(p) for p in tanh_field.parameters()]
    torch.testing.assert_close(value, tanh_field(0.5, batch).detach())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_func_receives_a_time_of_the_state_dtype_and_no_dimension(dtype, method, adjoint):
    seen = []

    def func(t, y):
        seen.append((t.dtype, t.shape))
        return -y

    y0 = torch.ones(2, dtype=dtype, requires_grad=True)
    odeint(func, y0, torch.tensor([0.0, 1.0], dtype=torch.float64), rtol=1e-5, method=method, adjoint=adjoint)[
        -1
    ].sum().backward()
    assert set(seen) == {(dtype, torch.Size())}


def test_func_may_turn_the_time_into_a_number(graphless_adjoint):
    y0 = torch.ones(1, dtype=torch.float64, requires_grad=True)
    y = odeint(lambda t, y: -float(t) * t.numpy().item() * y, y0, [0.0, 1.0], adjoint=graphless_adjoint)
    y[-1].sum().backward()
    torch.testing.assert_close(y0.grad, torch.exp(torch.tensor([-1 / 3], dtype=torch.float64)), rtol=1e-7, atol=0)


def test_a_field_may_use_autograd_itself(adjoint):
    # Newton's equation in the potential V(q) = w q^4 / 4, with the force taken by autograd.
    w = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)

    def newton(t, y):
        with torch.enable_grad():
            q = y[:1] if y.requires_grad else y[:1].detach().requires_grad_()
            (force,) = torch.autograd.grad((w * q**4 / 4).sum(), q, create_graph=True)
        return torch.cat([y[1:], -force])

    y0 = torch.tensor([1.0, 0.5], dtype=torch.float64, requires_grad=True)
    found = []
    for func in (newton, lambda t, y: torch.stack([y[1], -w * y[0] ** 3])):
        y = odeint(func, y0, [0.0, 2.0], rtol=1e-7, atol=1e-7, adjoint=adjoint)
        found.append([y.detach(), *torch.autograd.grad(y[-1].sum(), [y0, w])])
    assert_same(*found, rtol=1e-11)


def test_a_constant_field(method, adjoint):
    y0 = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    y = odeint(lambda t, y: torch.ones_like(y), y0, [0.0, 3.0], method=method, adjoint=adjoint)
    y[-1].sum().backward()
    torch.testing.assert_close(y[-1].detach(), torch.full((2,), 3.0, dtype=torch.float64))
    torch.testing.assert_close(y0.grad, torch.ones(2, dtype=torch.float64))


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (lambda y: None, TypeError, "must return a tensor, got NoneType"),
        (lambda y: y.tolist(), TypeError, "must return a tensor, got list"),
        (lambda y: (y,), TypeError, "must return a tensor, got tuple"),
        (lambda y: y[:1], ValueError, r"returned shape \(1,\) for a state of shape \(2,\)"),
        (lambda y: y.sum(), ValueError, r"returned shape \(\) for a state of shape \(2,\)"),
        (lambda y: y[None], ValueError, r"returned shape \(1, 2\) for a state of shape \(2,\)"),
        (lambda y: y.float(), TypeError, r"returned torch.float32 .* state of torch.float64"),
        (lambda y: y.to(torch.complex128), TypeError, r"returned torch.complex128 .* state of torch.float64"),
    ],
)
def test_what_func_returns_is_checked(value, error, message, adjoint):
    with pytest.raises(error, match=rf"func\(t, y\) {message}"):
        odeint(lambda t, y: value(y), torch.ones(2, dtype=torch.float64), [0.0, 1.0], adjoint=adjoint)


# What a user's function does wrong


@pytest.mark.parametrize("adjoint", ["discrete", "continuous", "backprop"])
@pytest.mark.parametrize(
    "func",
    [lambda y: -y, lambda t, y: y @ torch.ones(5, 5), lambda t, y: -y.detach().numpy()[7], lambda t, y: y.mul_(-1.0)],
    ids=["takes no time", "of another size", "numpy", "in place"],
)
def test_an_error_inside_func_says_what_it_was_called_with(func, adjoint):
    y0 = torch.ones(4, 3, requires_grad=True)
    with pytest.raises(Exception) as caught:
        odeint(func, y0, TIMES, adjoint=adjoint)
    (note,) = caught.value.__notes__
    assert "func(t, y), with a time t and a state y of shape (4, 3), torch.float32" in note


def test_what_is_not_callable_is_refused():
    with pytest.raises(TypeError, match=r"func must be a callable func\(t, y\), got Tensor"):
        odeint(torch.ones(3), torch.ones(3), TIMES)


def energy(y, stiffness):
    """Of particles with positions ``y[..., 0]`` and momenta ``y[..., 1]``, in a potential of the fourth order."""
    return stiffness * (y[..., 0] ** 4 / 4 + y[..., 1] ** 2 / 2)


def hamiltonian(slopes):
    """The field of a Hamiltonian whose slopes are computed by ``slopes(y, stiffness)``."""

    def of_stiffness(stiffness):
        def func(t, y):
            by_position, by_momentum = slopes(y, stiffness).unbind(-1)
            return torch.stack([by_momentum, -by_position], dim=-1)

        return func

    return of_stiffness


def by_hand(y, stiffness):
    return stiffness * torch.stack([y[..., 0] ** 3, y[..., 1]], dim=-1)


def by_autograd(y, stiffness):
    return torch.autograd.grad(energy(y, stiffness).sum(), y, create_graph=True)[0]


def by_autograd_as_it_should_be(y, stiffness):
    with torch.enable_grad():
        return by_autograd(y.requires_grad_(), stiffness)


def by_torch_func(y, stiffness):
    return torch.func.grad(lambda y: energy(y, stiffness).sum())(y)


def by_torch_func_of_each_sample(y, stiffness):
    return torch.func.vmap(torch.func.jacrev(lambda y: energy(y, stiffness)))(y)


def by_jacobian(y, stiffness):
    return torch.autograd.functional.jacobian(lambda y: energy(y, stiffness).sum(), y, create_graph=True)


SLOPES = [by_autograd, by_autograd_as_it_should_be, by_torch_func, by_torch_func_of_each_sample, by_jacobian]
WAYS = {
    "discrete": {"adjoint": "discrete"},
    "recomputed": {"adjoint": "discrete", "memory_budget": 0},
    "continuous": {"adjoint": "continuous"},
    "backprop": {"adjoint": "backprop"},
    "per_sample": {"step_control": "per_sample"},
    "implicit": {"method": "kvaerno5"},
    "implicit backprop": {"method": "kvaerno5", "adjoint": "backprop"},
}


@pytest.mark.parametrize("how", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("slopes", SLOPES)
def test_fields_may_differentiate_with_respect_to_their_state(slopes, how):
    def solve(slopes, how, *, state_moves=True):
        y0 = torch.tensor([[1.0, 0.5], [0.3, -0.8]], dtype=torch.float64, requires_grad=state_moves)
        stiffness = torch.tensor(1.3, dtype=torch.float64, requires_grad=True)
        y = solve_ivp(hamiltonian(slopes)(stiffness), (0, 0.5), y0, t_eval=[0.2, 0.5], rtol=1e-2, atol=1e-2, **how).y
        moving = (y0, stiffness) if state_moves else (stiffness,)
        gradients = torch.autograd.grad((y[-1] ** 2).sum() + y[0, 0, 0], moving)
        assert y0.requires_grad is state_moves
        return [y.detach(), *gradients]

    expected = solve(by_hand, how)
    torch.testing.assert_close(solve(slopes, how), expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(solve(slopes, how, state_moves=False), [expected[0], expected[2]], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("slopes", SLOPES)
def test_they_may_also_where_nothing_is_differentiated(slopes, adjoint):
    y0, stiffness = torch.tensor([[1.0, 0.5], [0.3, -0.8]]), torch.tensor(1.3)
    expected = solve_ivp(hamiltonian(by_hand)(stiffness), (0.0, 0.5), y0, adjoint=adjoint).y
    found = solve_ivp(hamiltonian(slopes)(stiffness), (0.0, 0.5), y0, adjoint=adjoint).y
    torch.testing.assert_close(found, expected)
    assert not y0.requires_grad
    assert not found.requires_grad
    with torch.no_grad():
        stiffness.requires_grad_()
        torch.testing.assert_close(solve_ivp(hamiltonian(slopes)(stiffness), (0.0, 0.5), y0).y, expected)


@pytest.mark.parametrize("step_control", ["shared", "per_sample"])
@pytest.mark.parametrize("slopes", SLOPES)
def test_they_may_also_where_times_move_and_events_are_found(slopes, adjoint, step_control):
    def solve(slopes):
        y0 = torch.tensor([[1.0, 0.5], [0.3, -0.8]], dtype=torch.float64)
        stiffness = torch.tensor(1.3, dtype=torch.float64, requires_grad=True)
        span = torch.tensor([0.0, 1.5], dtype=torch.float64, requires_grad=True)
        t_eval = torch.tensor([[0.0, 0.4], [0.9, torch.nan]], dtype=torch.float64, requires_grad=True)
        how = {"t_eval": t_eval, "events": lambda t, y: y[:, 1] + 0.2, "step_control": step_control, "adjoint": adjoint}
        found = solve_ivp(hamiltonian(slopes)(stiffness), span, y0, rtol=1e-6, atol=1e-6, **how)
        loss = found.y[0].sum() + found.y[1, 0, 1] + found.t_events[0].sum() + found.y_events[0].sum()
        return loss.detach(), *torch.autograd.grad(loss, [stiffness, span, t_eval])

    torch.testing.assert_close(solve(slopes), solve(by_hand), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("slopes", SLOPES)
def test_their_times_may_be_wider_than_their_state(slopes, adjoint):
    stiffness, late = torch.tensor(1.3, requires_grad=True), 1.7e9

    def func(t, y):
        return (torch.cos(t - late) * hamiltonian(slopes)(stiffness)(t, y)).to(y.dtype)

    y0 = torch.tensor([[1.0, 0.5], [0.3, -0.8]])
    y = solve_ivp(func, (late, late + 1), y0, adjoint=adjoint, rtol=1e-5, atol=1e-5).y[-1]
    # The flow of the field without the cosine, for as long as the integral of that.
    truth = solve_ivp(hamiltonian(by_hand)(stiffness), (0, math.sin(1)), y0.double(), rtol=1e-9, atol=1e-9).y[-1]
    torch.testing.assert_close(y.detach(), truth.detach().float(), rtol=1e-4, atol=1e-4)


def test_fields_that_differentiate_what_requires_no_grad_fail_as_in_torch(adjoint):
    def func(t, y):
        return torch.autograd.grad((y.detach() ** 2).sum(), y)[0]

    with pytest.raises(RuntimeError, match="does not require grad"):
        solve_ivp(func, (0.0, 1.0), torch.ones(2), adjoint=adjoint)

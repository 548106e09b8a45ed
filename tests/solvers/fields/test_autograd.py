"""Fields that autograd differentiates: what they receive, and may do."""

import math

import pytest
import torch

from skode.solvers import odeint, solve_ivp

TIMES = torch.linspace(0.0, 2.0, 7, dtype=torch.float64)


def assert_same(found, expected, rtol):
    for one, other in zip(found, expected, strict=True):
        assert torch.linalg.vector_norm(one - other) <= rtol * torch.linalg.vector_norm(other)


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

"""A tuple of tensors is solved as the one flat state that holds them."""

import math

import pytest
import torch

from skode.solvers import odeint


def newton(t, state):
    """A body and a clock: position, velocity, and the time itself."""
    position, velocity, clock = state
    return velocity, -position * torch.cos(clock), torch.ones_like(clock)


@pytest.fixture
def y0():
    position = torch.linspace(-1, 1, 6, dtype=torch.float64).view(2, 3)
    return position, position.flip(0), torch.tensor(0.0, dtype=torch.float64)


def flat_newton(t, y):
    position, velocity = y[:12].view(2, 2, 3)
    return torch.cat([velocity.reshape(-1), (-position * torch.cos(y[12])).reshape(-1), torch.ones_like(y[12:])])


def test_each_part_keeps_its_shape_and_gets_the_flat_solution(method, y0, adjoint):
    options = {"norm": "rms"}  # over everything, as that of the flat state
    y = odeint(newton, y0, torch.linspace(0, 1, 5), method=method, adjoint=adjoint, options=options)
    assert isinstance(y, tuple)
    assert [part.shape for part in y] == [(5, 2, 3), (5, 2, 3), (5,)]
    flat = odeint(flat_newton, torch.cat([part.reshape(-1) for part in y0]), torch.linspace(0, 1, 5), method=method)
    torch.testing.assert_close(torch.cat([part.reshape(5, -1) for part in y], dim=1), flat, rtol=0, atol=1e-14)


def test_gradients_reach_each_part_and_the_parameters(y0, adjoint):
    w = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    y0 = tuple(part.clone().requires_grad_() for part in y0)

    def func(t, state):
        a, b, c = state
        return w * a, -w * b, w * torch.ones_like(c)

    a, b, c = odeint(func, y0, [0.0, 2.0], rtol=1e-10, atol=1e-10, adjoint=adjoint)
    gradients = torch.autograd.grad(a[-1].sum() + b[-1].sum() + c[-1], [*y0, w])
    grow, shrink = torch.exp(2 * w.detach()), torch.exp(-2 * w.detach())
    expected = [grow.expand(2, 3), shrink.expand(2, 3), torch.tensor(1.0, dtype=torch.float64)]
    expected.append(2 * grow * y0[0].detach().sum() - 2 * shrink * y0[1].detach().sum() + 2)
    for one, other in zip(gradients, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-9)


def test_parts_that_the_loss_leaves_out_do_no_harm(y0, adjoint):
    y0 = tuple(part.clone().requires_grad_() for part in y0)
    position, _, _ = odeint(newton, y0, [0.0, 1.0], adjoint=adjoint)
    position[-1].sum().backward()
    assert all(part.grad is not None and part.grad.isfinite().all() for part in y0)


def test_memory_layout_of_a_part_makes_no_difference(y0):
    strided = y0[0].t().contiguous().t()
    assert not strided.is_contiguous()
    for one, other in zip(odeint(newton, y0, [0.0, 1.0]), odeint(newton, (strided, *y0[1:]), [0.0, 1.0]), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("rates", "error", "message"),
    [
        (lambda a, b: None, TypeError, r"func\(t, y\) must return a tuple of tensors, as y is, got None"),
        (lambda a, b: a, TypeError, r"must return a tuple of tensors, as y is, got tensor"),
        (lambda a, b: (a, None), TypeError, r"must return a tuple of tensors"),
        (
            lambda a, b: (a,),
            ValueError,
            r"returned tensors of shapes \[\(2,\)\] for a state of shapes \[\(2,\), \(3,\)\]",
        ),
        (lambda a, b: (b, a), ValueError, r"returned tensors of shapes \[\(3,\), \(2,\)\]"),
        (lambda a, b: (a.double(), b.double()), TypeError, r"returned torch.float64 .* state of torch.float32"),
    ],
)
def test_what_func_returns_is_checked(rates, error, message):
    with pytest.raises(error, match=message):
        odeint(lambda t, y: rates(*y), (torch.ones(2), torch.ones(3)), [0.0, 1.0])


@pytest.mark.parametrize(
    ("y0", "error", "message"),
    [
        ((), TypeError, r"y0 must hold torch tensors, got \[\]"),
        ((torch.ones(2), 1.0), TypeError, r"y0 must hold torch tensors, got \['Tensor', 'float'\]"),
        ((torch.ones(2), torch.ones(2).double()), TypeError, r"y0 must share dtype and device, got .*float32.*float64"),
        ((torch.ones(2), torch.tensor(float("nan"))), ValueError, r"y0 contains NaN"),
    ],
)
def test_what_is_wrong_with_y0_is_named(y0, error, message):
    with pytest.raises(error, match=message):
        odeint(lambda t, y: y, y0, [0.0, 1.0])


def test_no_part_is_solved_less_exactly_for_standing_beside_a_large_and_easy_one():
    # A fast oscillation of two numbers beside a thousand that stand still: each part has its own error norm.
    fast, still = torch.tensor([1.0, 0.0], dtype=torch.float64), torch.zeros(1000, dtype=torch.float64)

    def func(t, state):
        x, rest = state
        return torch.stack([10 * x[1], -10 * x[0]]), torch.zeros_like(rest)

    def alone(t, x):
        return torch.stack([10 * x[1], -10 * x[0]])

    t = torch.tensor([0.0, 2.0])
    beside, _ = odeint(func, (fast, still), t, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(beside, odeint(alone, fast, t, rtol=1e-6, atol=1e-6), rtol=0, atol=1e-12)
    diluted, _ = odeint(func, (fast, still), t, rtol=1e-6, atol=1e-6, options={"norm": "rms"})
    exact = torch.tensor([math.cos(20.0), -math.sin(20.0)], dtype=torch.float64)
    assert (diluted[1] - exact).abs().max() > 3 * (beside[1] - exact).abs().max()

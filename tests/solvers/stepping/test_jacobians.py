"""Jacobians of a field, block by block, and whether its samples are independent."""

import pytest
import torch

from skode.dynamics import MLPField
from skode.solvers.fields.autograd import AutogradField
from skode.solvers.fields.pullback import PullbackField
from skode.solvers.stepping.jacobians import Blocks


def rows(t, y):
    return torch.sin(y) * y.roll(1, -1) + t


def mixed(t, y):
    return rows(t, y) - 0.01 * y.mean(0)


def evaluated(field, y, t=0.4):
    """A tape with the field's value at a state."""
    tape = field.tape(y, 1, pullable=True)
    tape.place(0).copy_(y.reshape(-1))
    tape.evaluate(0, t, torch.empty_like(y))
    return tape


def full(func, y):
    n = y.numel()
    t = torch.tensor(0.4, dtype=y.dtype)
    return torch.autograd.functional.jacobian(lambda y: func(t, y), y).view(n, n)


@pytest.mark.parametrize("shape", [(), (4,), (3, 2), (2, 2, 3)])
def test_each_sample_has_its_own_jacobian(shape, draw):
    y, field = draw(*shape), AutogradField(rows if shape else lambda t, y: torch.sin(y), ())
    blocks = Blocks(y)
    found = blocks.jacobians(field, evaluated(field, y), 0, y)
    assert (
        found.shape
        == (blocks.n, blocks.size, blocks.size)
        == ((shape[0] if len(shape) > 1 else 1),) + (blocks.size,) * 2
    )
    expected = full(field.func, y).view(blocks.n, blocks.size, blocks.n, blocks.size)
    for i in range(blocks.n):
        torch.testing.assert_close(found[i], expected[i, :, i], rtol=1e-13, atol=1e-14)


def test_a_whole_state_has_one_jacobian(draw):
    y, field = draw(3, 2), AutogradField(mixed, ())
    found = Blocks(y, whole=True).jacobians(field, evaluated(field, y), 0, y)
    torch.testing.assert_close(found[0], full(mixed, y), rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize(("func", "independent"), [(rows, True), (mixed, False)])
def test_samples_that_depend_on_each_other_are_found(func, independent, draw):
    y, field = draw(3, 2), AutogradField(func, ())
    blocks, tape = Blocks(y), evaluated(field, y)
    assert blocks.holds(field, tape, 0, y, blocks.jacobians(field, tape, 0, y)) is independent


def test_one_block_depends_on_nothing_else(draw):
    y, field = draw(3, 2), AutogradField(mixed, ())
    blocks, tape = Blocks(y, whole=True), evaluated(field, y)
    assert blocks.holds(field, tape, 0, y, blocks.jacobians(field, tape, 0, y))


def test_a_field_with_its_own_pullback_has_the_same_jacobians(draw):
    net = MLPField(3, (5,), generator=torch.Generator().manual_seed(0)).double()
    y, blocks = draw(4, 3), None
    found = []
    for field in (PullbackField(net), AutogradField(net, tuple(net.parameters()))):
        blocks, tape = Blocks(y), evaluated(field, y)
        found.append(blocks.jacobians(field, tape, 0, y))
        assert blocks.holds(field, tape, 0, y, found[-1])
    torch.testing.assert_close(*found, rtol=1e-12, atol=1e-13)


def test_jacobians_leave_no_gradients_of_parameters(draw):
    w = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    y, field = draw(3, 2), AutogradField(lambda t, y: w * y, (w,))
    Blocks(y).jacobians(field, evaluated(field, y), 0, y)
    assert w.grad is None


def test_a_step_size_multiplies_its_own_block(draw):
    blocks, h = Blocks(draw(3, 2)), torch.tensor([[1.0], [2.0], [3.0]])
    assert blocks.column(0.5) == 0.5
    assert (torch.ones(3, 2, 2) * blocks.column(h)).sum((1, 2)).tolist() == [4.0, 8.0, 12.0]

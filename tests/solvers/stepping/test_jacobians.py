"""Jacobians of a field, block by block, and whether its samples are independent."""

import pytest
import torch

from skode.dynamics import MLPField
from skode.solvers import solve_ivp
from skode.solvers.fields.autograd import AutogradField
from skode.solvers.fields.pullback import PullbackField
from skode.solvers.stepping.jacobians import Blocks, SharedJacobian


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


class Parts:
    """A state and two others that follow it linearly, all with one Jacobian."""

    matrix = torch.tensor([[-2.0, 1.0], [0.5, -300.0]], dtype=torch.float64)

    def __call__(self, t, y):
        return y @ self.matrix.T

    def part_jacobians(self, t, y):
        return self.matrix.expand(len(y), 2, 2)


@pytest.mark.parametrize("n_stages", [1, 3])
def test_parts_with_one_jacobian_are_solved_for_with_its_matrix(n_stages):
    y = torch.zeros(4, 3, 2, dtype=torch.float64)
    shared = SharedJacobian.offered(AutogradField(Parts(), ()), y)
    assert torch.equal(shared.jacobians(torch.zeros(()), y), Parts.matrix.expand(4, 2, 2))
    generator = torch.Generator().manual_seed(0)
    small = torch.randn(4, 2 * n_stages, 2 * n_stages, generator=generator, dtype=torch.float64)
    residual = torch.randn(4, n_stages, 3, 2, generator=generator, dtype=torch.float64)
    found = shared.solve(torch.linalg.lu_factor(small), residual.reshape(4, -1, 1)).view(residual.shape)
    for part in range(3):
        expected = torch.linalg.solve(small, residual[:, :, part].reshape(4, -1, 1)).view(4, n_stages, 2)
        torch.testing.assert_close(found[:, :, part], expected)
    assert SharedJacobian.offered(AutogradField(rows, ()), y) is None
    assert SharedJacobian.offered(AutogradField(Parts(), ()), y[:, 0]) is None


@pytest.mark.parametrize("method", ["kvaerno5", "radauIIA5"])
def test_solutions_do_not_depend_on_whose_jacobian_newtons_method_takes(method, draw):
    class Plain(Parts):
        part_jacobians = property()  # there is none

    settings = {"step_size": 0.01} if method == "radauIIA5" else {"rtol": 1e-8, "atol": 1e-10}
    y0 = draw(4, 3, 2).to(torch.float64)
    with torch.no_grad():
        found, expected = (
            solve_ivp(func(), (0.0, 0.1), y0, t_eval=[0.1], method=method, **settings).y for func in (Parts, Plain)
        )
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-9)

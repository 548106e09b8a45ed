"""A gradient of first order is one gradient, as numbers: all else is refused by name."""

import pytest
import torch
from torch.autograd import forward_ad

from skode.solvers import odeint

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")

SOLVES = {
    "discrete": {"adjoint": "discrete"},
    "continuous": {"adjoint": "continuous"},
    "scipy_solver": {"method": "scipy_solver"},
}


@pytest.fixture
def start():
    return torch.tensor([1.0, 0.5], dtype=torch.float64, requires_grad=True)


def end(start, how):
    return odeint(lambda t, y: -y * y.flip(0), start, [0.0, 1.0], **how)[-1]


@pytest.mark.parametrize("how", SOLVES.values(), ids=SOLVES)
def test_several_cotangents_at_once_are_refused(start, how):
    message = r"several cotangents at once.*vectorize=False.*adjoint='backprop'"
    with pytest.raises(RuntimeError, match=message):
        torch.autograd.functional.jacobian(lambda y: end(y, how), start, vectorize=True)
    value = end(start, how)
    with pytest.raises(RuntimeError, match=message):
        torch.autograd.grad(value, start, torch.eye(2, dtype=torch.float64), is_grads_batched=True)
    value = end(start, how)
    with pytest.raises(RuntimeError, match=message):
        torch.func.vmap(lambda given: torch.autograd.grad(value, start, given)[0])(torch.eye(2, dtype=torch.float64))


@pytest.mark.parametrize("how", SOLVES.values(), ids=SOLVES)
def test_cotangents_with_tangents_are_refused(start, how):
    value = end(start, how)
    with forward_ad.dual_level(), pytest.raises(RuntimeError, match=r"forward-mode AD.*adjoint='backprop'"):
        torch.autograd.grad(value, start, forward_ad.make_dual(torch.ones_like(start), torch.ones_like(start)))


def test_backprop_takes_both(start):
    how = {"adjoint": "backprop"}
    expected = torch.autograd.functional.jacobian(lambda y: end(y, how), start)
    found = torch.autograd.functional.jacobian(lambda y: end(y, how), start, vectorize=True)
    torch.testing.assert_close(found, expected)
    value = end(start, how)
    with forward_ad.dual_level():
        given = forward_ad.make_dual(torch.ones(2, dtype=torch.float64), torch.tensor([1.0, 0.0], dtype=torch.float64))
        (gradient,) = torch.autograd.grad(value, start, given)
        torch.testing.assert_close(forward_ad.unpack_dual(gradient).tangent, expected[0])

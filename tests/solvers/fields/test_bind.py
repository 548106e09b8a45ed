"""A field as the engine takes it, from what users pass."""

import pytest
import torch

from skode.solvers import odeint
from skode.solvers.fields.autograd import AutogradField
from skode.solvers.fields.bind import as_field
from skode.solvers.fields.pullback import PullbackField

TIMES = torch.linspace(0.0, 2.0, 7, dtype=torch.float64)


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


def test_what_is_not_callable_is_refused():
    with pytest.raises(TypeError, match=r"func must be a callable func\(t, y\), got Tensor"):
        odeint(torch.ones(3), torch.ones(3), TIMES)

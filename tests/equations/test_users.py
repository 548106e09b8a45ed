"""Errors inside functions of the user's: they name the function, and what it was given."""

import numpy as np
import pytest
import torch

from skode import NeuralODERegressor, ODERegressor

T = np.linspace(0.0, 3.0, 20)
X, Y = T[:, None], np.exp(-T)


def decay(t, y, p):
    return -(p["rate"] * y[..., 0])[..., None]


WRONG = [
    ({"rhs": lambda t, y, p: y[..., 5]}, r"rhs\(t, y, p\) fails with IndexError: .*y of shape \(1, 2, 1\)"),
    ({"rhs": lambda t, y, p: p["speed"] * y}, r"rhs\(t, y, p\) fails with KeyError: 'speed'\. .*p holding 'rate' of"),
    ({"rhs": lambda t, y, p: y @ torch.ones(3, 3)}, r"rhs\(t, y, p\) fails with RuntimeError: .*t of shape \(1, 1\)"),
    ({"rhs": lambda t, y, p: y.size_of()}, r"rhs\(t, y, p\) fails with AttributeError: "),
    ({"rhs": lambda t, y: y}, r"rhs\(t, y, p\) fails with TypeError: "),
    ({"observe": lambda t, y, p: y[..., 3]}, r"observe\(t, y, p\) fails with IndexError: "),
    ({"initial": lambda p: p["start"]}, r"initial\(p\) fails with KeyError: 'start'\. It was called with p holding"),
    ({"doses": {"x1": lambda amount, p: amount[7]}}, r"jump\(amount, p\) fails with IndexError: .*amount of shape"),
]


@pytest.mark.parametrize(("change", "message"), WRONG)
def test_errors_of_functions_name_these_and_shapes(change, message):
    data = np.column_stack([T, T == 1.0]) if "doses" in change else X
    with pytest.raises(ValueError, match=message) as caught:
        ODERegressor(**{"rhs": decay, "params": {"rate": (1.0, 0, None)}, **change}).fit(data, Y)
    assert caught.value.__cause__ is not None
    assert not isinstance(caught.value.__cause__, ValueError)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"rhs": lambda t, y, p: -p["rate"][..., None] * y[0]}, ValueError, r"rhs\(t, y, p\) mixes .*not y\[0\]"),
        ({"rhs": lambda t, y, p: decay(t, y, p).float()}, TypeError, r"rhs\(t, y, p\) returned torch.float32; it must"),
        ({"observe": lambda t, y, p: y / y.mean()}, ValueError, r"observe\(t, y, p\) mixes the samples"),
        ({"initial": lambda p: p["rate"]}, ValueError, r"initial\(p\) must return a tensor of shape \(..., 1\), here"),
        ({"initial": lambda p: p["rate"].detach()[..., None]}, ValueError, r"initial\(p\) breaks autograd"),
    ],
)
def test_functions_treat_each_sample_by_itself(change, error, message):
    with pytest.raises(error, match=message):
        ODERegressor(**{"rhs": decay, "params": {"rate": (1.0, 0, None)}, **change}).fit(X, Y)


def test_errors_later_on_the_way_do_too():
    calls = []

    def breaking(t, y, p):
        calls.append(1)
        return decay(t, y, p) if len(calls) < 40 else y[..., 5]

    with pytest.raises(ValueError, match=r"rhs\(t, y, p\) fails with IndexError: "):
        ODERegressor(breaking, {"rate": (1.0, 0, None)}).fit(X, Y)


def test_errors_of_the_users_own_classes_are_as_they_were():
    class OwnError(Exception):
        pass

    def breaking(t, y, p):
        raise OwnError

    with pytest.raises(OwnError):
        ODERegressor(breaking, {"rate": 1.0}).fit(X, Y)


@pytest.mark.parametrize(
    ("known", "message"),
    [
        (lambda t, y, p: y[..., 5], r"known\(t, y, p\) fails with IndexError: .*y of shape \(1, 2, 1\)"),
        (lambda t, y, p: p["a"] * y, r"known\(t, y, p\) fails with KeyError: 'a'\. .*p holding 'rate' of shape"),
        (lambda t, y, p: -p["rate"].detach()[..., None] * y, r"known\(t, y, p\) breaks autograd"),
        (lambda t, y, p: y[..., 0], r"known\(t, y, p\) must return a tensor of shape"),
    ],
)
def test_a_known_part_is_looked_at_before_the_fit(known, message):
    with pytest.raises(ValueError, match=message):
        NeuralODERegressor("linear", known, {"rate": 1.0}).fit(X, Y)

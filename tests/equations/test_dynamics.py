import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from skode.equations.dynamics import Driver, PlainField, SensitivityField, along
from tests.equations.systems import lotka_volterra, system


def test_along_differentiates_row_by_row():
    primal = torch.tensor([[[1.0, 2.0], [1.0, 2.0]]], dtype=torch.float64)
    value, derivative = along(lambda x: x[..., :1] ** 2 * x[..., 1:], primal, torch.eye(2, dtype=torch.float64)[None])
    assert value.tolist() == [[[2.0], [2.0]]]
    assert derivative.tolist() == [[[4.0], [1.0]]]


def test_along_a_constant_is_zero():
    primal = torch.ones(1, 2, 3, dtype=torch.float64)
    assert not along(torch.zeros_like, primal, primal)[1].any()


def test_threads_take_turns_at_forward_mode():
    primal = torch.ones(1, 2, 3, dtype=torch.float64)

    def slow(x):
        time.sleep(0.01)
        return 2.0 * x

    with ThreadPoolExecutor(4) as pool:
        for _, derivative in pool.map(lambda _: along(slow, primal, primal), range(8)):
            assert (derivative == 2.0).all()


def test_sensitivities_follow_the_variational_equation():
    names = ("a", "b", "c", "d")
    model = system(lotka_volterra, ("x", "y"), names)
    generator = torch.Generator().manual_seed(0)
    values, slopes = torch.rand(2, 3, 4, generator=generator, dtype=torch.float64).unbind(0)
    Y = torch.rand(3, 7, 2, generator=generator, dtype=torch.float64)
    driver = Driver(None, torch.arange(3))
    found = SensitivityField(model, values, slopes, driver)(torch.zeros(3, 1, 1), Y)
    torch.testing.assert_close(found[:, 0], PlainField(model, values, driver)(torch.zeros(3, 1), Y[:, 0]))

    def f(y, p):
        return lotka_volterra(0.0, y, dict(zip(names, p, strict=True)))

    for i in range(3):
        by_state, by_parameters = torch.autograd.functional.jacobian(f, (Y[i, 0], values[i]))
        torch.testing.assert_close(found[i, 1:3], Y[i, 1:3] @ by_state.T)
        torch.testing.assert_close(found[i, 3:], Y[i, 3:] @ by_state.T + (by_parameters * slopes[i]).T)


def test_fields_are_taken_apart_by_sample():
    model = system(lotka_volterra, ("x", "y"), ("a", "b", "c", "d"))
    values = torch.rand(3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    Y = torch.ones(3, 7, 2, dtype=torch.float64)
    rows = torch.tensor([2, 0])
    field = SensitivityField(model, values, values, Driver(None, torch.arange(3)))
    torch.testing.assert_close(field.take(rows)(torch.zeros(2, 1, 1), Y[rows]), field(torch.zeros(3, 1, 1), Y)[rows])


@pytest.mark.parametrize(
    ("rhs", "message"),
    [
        (lambda t, y, p: y[..., 0], r"rhs\(t, y, p\) must return a tensor of y's shape, \(..., 2\)"),
        (lambda t, y, p: y.tolist(), r"rhs\(t, y, p\) must return a torch tensor, got list"),
    ],
)
def test_a_right_hand_side_of_another_shape_is_refused(rhs, message):
    with pytest.raises((ValueError, TypeError), match=message):
        system(rhs, ("x", "y"), ()).derivative(torch.zeros(()), torch.ones(3, 2), {})


def test_outputs_are_states_or_a_function():
    y, p = torch.arange(6.0).reshape(3, 2), {"scale": torch.tensor(2.0)}
    states = system(lotka_volterra, ("x", "y"), (), observe=(1, 0))
    assert torch.equal(states.outputs(torch.zeros(()), y, p), y[:, [1, 0]])
    function = system(lotka_volterra, ("x", "y"), (), observe=lambda t, y, p: p["scale"] * y[..., 0])
    assert torch.equal(function.outputs(torch.zeros(()), y, p), 2.0 * y[:, :1])
    wrong = system(lotka_volterra, ("x", "y"), (), observe=lambda t, y, p: y[:1])
    with pytest.raises(ValueError, match=r"observe\(t, y, p\) must return a tensor of shape"):
        wrong.outputs(torch.zeros(()), y, p)

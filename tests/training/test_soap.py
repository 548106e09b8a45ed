import copy

import numpy as np
import pytest
import torch

from skode.training import soap
from skode.training.soap import EVERY, MEAN, OUTER, SEEN, SOAP, SQUARE, TINY


def gradients(shape, n, seed=0):
    return list(np.random.default_rng(seed).normal(size=(n, *shape)) * np.linspace(0.1, 3.0, shape[0])[:, None])


def steps(shape, given, lr=0.1, **settings):
    """Where a parameter that starts from 0 is after each of some gradients."""
    parameter = torch.zeros(shape, dtype=torch.float64, requires_grad=True)
    optimizer, places = SOAP([parameter], lr, **settings), []
    for gradient in given:
        parameter.grad = torch.as_tensor(gradient)
        optimizer.step()
        places.append(parameter.detach().numpy().copy())
    return places


def by_formula(given, lr=0.1):
    """The same, by the algorithm of the paper as it is written."""
    m, n = given[0].shape
    outer, bases = [np.zeros((m, m)), np.zeros((n, n))], [None, None]
    mean, square, place, places = np.zeros((m, n)), np.zeros((m, n)), np.zeros((m, n)), []
    for k, G in enumerate(given):
        for i, side in enumerate((G, G.T)):
            outer[i] = OUTER * outer[i] + (1 - OUTER) * side @ side.T
            if k == 0:
                bases[i] = np.linalg.eigh(outer[i])[1]
            elif k % EVERY == 0:
                shift = SEEN * np.linalg.norm(outer[i])  # with the same eigenvectors
                bases[i] = np.linalg.qr(outer[i] @ bases[i] + shift * bases[i])[0]
        if k == 0:
            places.append(place)
            continue
        left, right = bases
        mean = MEAN * mean + (1 - MEAN) * G
        square = SQUARE * square + (1 - SQUARE) * (left.T @ G @ right) ** 2
        turned = left.T @ mean @ right / (1 - MEAN**k)
        place = place - lr * left @ (turned / (np.sqrt(square / (1 - SQUARE**k)) + TINY)) @ right.T
        places.append(place)
    return places


def test_steps_are_those_of_the_paper():
    given = gradients((3, 3), 2 * EVERY + 3)
    np.testing.assert_allclose(steps((3, 3), given), by_formula(given), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("rank", [1, 3, 6])
def test_rounding_does_not_choose_directions(rank):
    """The first gradients have few directions; in the others, eigenvectors are anybody's choice."""
    rng = np.random.default_rng(1)
    given = [rng.normal(size=(12, rank)) @ rng.normal(size=(rank, 9)) for _ in range(3 * EVERY)]
    rounded = [gradient + 1e-15 * rng.normal(size=gradient.shape) for gradient in given]
    np.testing.assert_allclose(steps((12, 9), rounded), steps((12, 9), given), atol=1e-8)


def test_steps_turn_with_the_coordinates():
    given = gradients((3, 3), 2 * EVERY + 3)
    rng = np.random.default_rng(1)
    U, V = (np.linalg.qr(rng.normal(size=(3, 3)))[0] for _ in range(2))
    turned = steps((3, 3), [U @ G @ V for G in given])
    np.testing.assert_allclose(turned, [U @ place @ V for place in steps((3, 3), given)], rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("shape", [(5,), (2, 3, 2), ()])
def test_what_is_no_matrix_takes_the_steps_of_adam(shape):
    given = np.random.default_rng(0).normal(size=(7, *shape))
    parameter = torch.zeros(shape, dtype=torch.float64, requires_grad=True)
    adam = torch.optim.Adam([parameter], lr=0.1, betas=(MEAN, SQUARE), eps=TINY)
    for gradient in given[1:]:  # the first one sets bases
        parameter.grad = torch.as_tensor(gradient)
        adam.step()
    np.testing.assert_allclose(steps(shape, given)[-1], parameter.detach().numpy(), rtol=1e-10)


def test_a_side_too_long_keeps_its_coordinates(monkeypatch):
    given = gradients((4, 2), 5)
    monkeypatch.setattr(soap, "LONGEST_SIDE", 3)
    place = steps((4, 2), given)[-1]
    # Turning the short side turns the steps with it; the long one is Adam's, which changes with it.
    U, V = (np.linalg.qr(np.random.default_rng(1).normal(size=(n, n)))[0] for n in (4, 2))
    np.testing.assert_allclose(steps((4, 2), [G @ V for G in given])[-1], place @ V, rtol=1e-7, atol=1e-9)
    assert np.abs(steps((4, 2), [U @ G for G in given])[-1] - U @ place).max() > 1e-3
    assert np.abs(steps((4, 2), np.array(given), lr=0.0)[-1]).max() == 0.0


def test_the_penalty_adds_its_gradient():
    parameter = torch.tensor([[1.0, -2.0], [0.5, 3.0]], requires_grad=True)
    other = copy.deepcopy(parameter)
    parameter.grad, other.grad = torch.ones(2, 2), 1.0 + 0.3 * other.detach()
    chosen = SOAP([parameter], 0.1, decay=0.3), SOAP([other], 0.1)
    for optimizer in chosen:
        optimizer.step()
    assert torch.equal(parameter, other)  # both have set their bases only
    for optimizer in chosen:
        optimizer.step()
    assert not torch.equal(parameter, torch.tensor([[1.0, -2.0], [0.5, 3.0]]))
    torch.testing.assert_close(parameter, other)


@pytest.mark.parametrize("shape", [(2, 2), (3,)])
def test_parameters_stay_where_a_gradient_is_not_finite(shape):
    parameter = torch.ones(shape, requires_grad=True)
    parameter.grad = torch.ones(shape)
    optimizer = SOAP([parameter], 0.1)
    for _ in range(2):
        optimizer.step()
    before = parameter.detach().clone()
    optimizer.found_inf = torch.ones(())
    parameter.grad = torch.full(shape, torch.nan)
    optimizer.step()
    assert torch.equal(parameter.detach(), before)


def test_another_optimiser_goes_on_from_its_state():
    given = [torch.as_tensor(gradient) for gradient in gradients((3, 2), 2 * EVERY)]
    whole, halves = (torch.zeros(3, 2, dtype=torch.float64, requires_grad=True) for _ in range(2))
    first, second, other = SOAP([halves], 0.1), SOAP([halves], 0.1), SOAP([whole], 0.1)
    for i, gradient in enumerate(given):
        if i == EVERY + 3:
            second.go_on_from(first.state())
        whole.grad, halves.grad = gradient, gradient
        other.step()
        (first if i < EVERY + 3 else second).step()
    assert torch.equal(whole, halves)
    second.clear()
    assert halves.grad is None

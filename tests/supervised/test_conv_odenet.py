"""The convolutional ODE-Net."""

import numpy as np
import pytest
import torch

from skode import ODENetClassifier
from skode.solvers import solve_ivp
from skode.supervised.conv_odenet import ConvODENet
from tests.dtypes import dtypes_of_values


def generator():
    return torch.Generator().manual_seed(0)


def net(image_shape=(1, 8, 8), **changed):
    settings = {"n_channels": 4, "augment_dim": 0, "n_blocks": 1, "hidden_layer_sizes": (6,), "time_dependent": True}
    return ConvODENet(image_shape, 3, **{**settings, **changed}, generator=generator())


def away_from_zero(made):
    with torch.no_grad():
        for field in made.fields:
            field.norms[-1].weight.fill_(0.1)
    return made


@pytest.mark.parametrize("adjoint", ["discrete", "continuous", "backprop"])
def test_gradients_under_autocast_are_those_of_float32_but_for_rounding(adjoint):
    # Many samples: rounding moves the kinks of ReLU past single ones, which changes the gradients of these by much.
    x = torch.randn(200, 196, generator=generator())

    def gradient(autocast):
        made = away_from_zero(net((1, 14, 14), n_channels=14, n_blocks=2, augment_dim=2, hidden_layer_sizes=(14,)))
        made.set_autocast(autocast)

        def solve(*arguments, **settings):
            return solve_ivp(*arguments, **settings, rtol=1e-2, atol=1e-2, adjoint=adjoint)

        states = made.solutions(x, solve)[-1].y[-1]
        made.head(made.features(states)).square().mean().backward()
        assert {p.grad.dtype for p in made.parameters()} == {torch.float32}
        return torch.cat([p.grad.flatten() for p in made.parameters()])

    plain, cast = gradient(False), gradient(True)
    off = torch.linalg.vector_norm(cast - plain) / torch.linalg.vector_norm(plain)
    assert 1e-4 < off < 0.06


def test_a_network_under_autocast_convolves_in_bfloat16_and_solves_and_answers_in_float32():
    made = away_from_zero(net((1, 28, 28), n_blocks=2))
    made.set_autocast(True)
    convolved = dtypes_of_values(made, torch.nn.Conv2d)
    states = []

    def solve(field, t_span, y0, **settings):
        states.append(y0.dtype)
        return solve_ivp(field, t_span, y0, rtol=1e-2, atol=1e-2, **settings)

    solutions = made.solutions(torch.randn(2, 784), solve)
    assert set(convolved) == {torch.bfloat16}
    assert len(convolved) > 2 + 1 + 2  # the embedding's, that between the ODEs, and the fields'
    outputs = made.head(made.features(solutions[-1].y[-1]))
    assert {*states, *(solution.y.dtype for solution in solutions), outputs.dtype} == {torch.float32}
    made.set_autocast(False)
    convolved.clear()
    made.solutions(torch.randn(2, 784), solve)
    assert set(convolved) == {torch.float32}


@pytest.mark.parametrize(
    ("image_shape", "side"), [((1, 28, 28), (7, 7)), ((3, 32, 32), (4, 4)), ((1, 8, 8), (4, 4)), ((2, 7, 5), (7, 5))]
)
def test_images_are_made_smaller_before_the_first_ode(image_shape, side):
    x = torch.randn(2, int(np.prod(image_shape)))
    solutions = net(image_shape).solutions(x, solve_ivp)
    assert solutions[-1].y.shape == (1, 2, 4, *side)


def test_blocks_halve_the_image_and_zeros_are_appended():
    made = net((1, 14, 14), n_blocks=3, augment_dim=2)
    solutions = made.solutions(torch.randn(2, 196), solve_ivp)
    assert [solution.y.shape[2:] for solution in solutions] == [(6, 7, 7), (6, 4, 4), (6, 2, 2)]
    assert made.head(made.features(solutions[-1].y[-1])).shape == (2, 3)


def test_the_papers_network_has_the_papers_size():
    made = ConvODENet(
        (1, 28, 28), 10, n_channels=64, augment_dim=0, n_blocks=1, hidden_layer_sizes=(64,), time_dependent=True,
        generator=generator(),
    )  # fmt: skip
    assert 0.11e6 < sum(p.numel() for p in made.parameters()) <= 0.22e6


def test_states_too_small_to_be_normalised_are_refused():
    X = np.eye(8)
    with pytest.raises(ValueError, match=r"leave a last state of 1 x 1 x 1 numbers; fewer than 16"):
        ODENetClassifier(image_shape=(8, 1, 1), state_size=1).fit(X, np.arange(8) % 2)

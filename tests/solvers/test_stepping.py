"""One step: what the formulas of a Runge-Kutta method say, forward and pulled back."""

import numpy as np
import pytest
import torch

from skode.solvers import METHODS, Statistics
from skode.solvers.integrate import weights_tensor
from skode.solvers.stepping import GraphStepper, Stepper, pull_step
from skode.solvers.vector_field import AutogradField

T, H = 0.3, 0.2


def field(t, y):
    return torch.sin(y) * t - y.flip(0) ** 2


@pytest.fixture
def y():
    return torch.linspace(0.5, 1.5, 6, dtype=torch.float64).view(2, 3)


def by_the_formulas(tableau, y, t=T, h=H):
    """Stages, result and error estimate, as the tableau's docstring defines them."""
    stages = []
    for c, row in zip(tableau.c, tableau.a, strict=True):
        stages.append(field(t + c * h, y + h * sum((a * k for a, k in zip(row, stages, strict=True)), 0 * y)))
    y_next = y + h * sum(b * k for b, k in zip(tableau.b, stages, strict=True))
    error = h * sum(e * k for e, k in zip(tableau.e or (0.0,) * len(stages), stages, strict=True))
    return torch.stack(stages), y_next, error


def started(tableau, y, kind):
    if kind is Stepper:
        return Stepper(tableau, AutogradField(field, ()), y, field(T, y), Statistics())
    stepper = GraphStepper(tableau, field, y, Statistics())
    stepper.begin(T, y)
    return stepper


@pytest.mark.parametrize("kind", [Stepper, GraphStepper])
def test_a_step_is_what_the_formulas_say(method, y, kind):
    tableau = METHODS[method]
    stages, expected, expected_error = by_the_formulas(tableau, y)
    stepper = started(tableau, y, kind)
    y_next, error = stepper.attempt(T, H, y)
    torch.testing.assert_close(y_next, expected, rtol=1e-14, atol=1e-15)
    assert (error is None) == (not tableau.adaptive)
    if error is not None:
        torch.testing.assert_close(error, expected_error, rtol=0, atol=1e-15)
    theta = np.array([0.0, 0.3, 1.0])
    weights = weights_tensor(tableau, theta, y)
    inside = stepper.interpolate(H, y, weights)
    expected_inside = y + H * torch.einsum("ms,sij->mij", weights, stages)
    torch.testing.assert_close(inside, expected_inside, rtol=1e-14, atol=1e-15)
    torch.testing.assert_close(inside[0], y, rtol=0, atol=0)
    rows = torch.tensor([1, 0, 1])
    own = stepper.interpolate_rows(H, y, weights, rows)
    torch.testing.assert_close(own, inside[[0, 1, 2], rows], rtol=1e-14, atol=1e-15)


@pytest.mark.parametrize("kind", [Stepper, GraphStepper])
def test_the_next_step_starts_from_the_last_stage_where_it_can(method, y, kind):
    tableau = METHODS[method]
    stepper = started(tableau, y, kind)
    y_next, _ = stepper.attempt(T, H, y)
    stepper.accept()
    before = stepper.statistics.nfev
    first = stepper.begin(T + H, y_next)
    assert stepper.statistics.nfev - before == (0 if tableau.first_same_as_last else 1)
    torch.testing.assert_close(first.view_as(y), field(T + H, y_next), rtol=1e-14, atol=1e-15)


@pytest.mark.parametrize("kind", [Stepper, GraphStepper])
def test_a_rejected_step_leaves_no_trace(adaptive_method, y, kind):
    stepper = started(METHODS[adaptive_method], y, kind)
    stepper.attempt(T, 17 * H, y)
    stepper.begin(T, y)
    y_next, _ = stepper.attempt(T, H, y)
    torch.testing.assert_close(y_next, by_the_formulas(METHODS[adaptive_method], y)[1], rtol=1e-14, atol=1e-15)


def test_pulling_a_step_back_is_its_vector_jacobian_product(method, y):
    tableau = METHODS[method]
    generator = torch.Generator().manual_seed(0)
    cotangent, output_cotangent = torch.randn(2, *y.shape, generator=generator, dtype=torch.float64)
    theta = np.array([0.4])
    weights = weights_tensor(tableau, theta, y)

    # Autograd through the formulas, for a loss on the result and on one output inside the step. The last stage of
    # a method whose first is the same as the last belongs to the next step.
    y_in, t_in, h_in = y.clone().requires_grad_(), *(torch.tensor(x, dtype=torch.float64) for x in (T, H))
    t_in.requires_grad_(), h_in.requires_grad_()
    stages, y_next, _ = by_the_formulas(tableau, y_in, t_in, h_in)
    n_own = tableau.n_stages - tableau.first_same_as_last
    leans_on = H * torch.einsum("s,sij->ij", weights[0, :n_own], stages[:n_own])
    loss = (cotangent * y_next).sum() + (output_cotangent * leans_on).sum()
    expected = torch.autograd.grad(loss, [y_in, t_in, h_in])

    autograd_field = AutogradField(field, (), with_time=True)
    stepper = Stepper(tableau, autograd_field, y, field(T, y), Statistics())
    residuals, states = [], []
    for c, row in zip(tableau.c[:n_own], tableau.a, strict=False):
        states.append(y + H * sum((a * k for a, k in zip(row, stages.detach(), strict=False)), 0 * y))
        residuals.append(autograd_field.linearize(T + c * H, states[-1])[1])
    stage_cotangents = H * weights[0][:, None] * output_cotangent.reshape(1, -1)
    pulled = pull_step(
        stepper,
        autograd_field.session(),
        H,
        residuals,
        stages.detach().flatten(1),
        cotangent,
        stage_cotangents,
    )
    torch.testing.assert_close(pulled.grad_y, expected[0], rtol=1e-13, atol=1e-14)
    assert pulled.grad_t == pytest.approx(expected[1].item(), rel=1e-12)
    assert pulled.grad_h == pytest.approx(expected[2].item(), rel=1e-12)

"""Penalties along a solve, against closed forms."""

import math

import pytest
import torch
from torch import nn

from skode import ODENetClassifier
from skode.solvers import METHODS, local_error
from skode.training import PenalisedSolver, Regularisation, Solver

SOLVER = Solver(rtol=1e-9, atol=1e-11)


class Growth(nn.Module):
    """``dz/dt = A z`` with a diagonal A."""

    def __init__(self):
        super().__init__()
        self.rates = nn.Parameter(torch.tensor([0.5, -1.0], dtype=torch.float64))

    def forward(self, t, z):
        return self.rates.view(2, *[1] * (z.ndim - 2)) * z


def generator():
    return torch.Generator().manual_seed(0)


def solved(field, y0, **strengths):
    solver = PenalisedSolver(SOLVER, Regularisation(**strengths), generator())
    solution = solver(field, (0.0, 1.0), y0, t_eval=(1.0,), first_step=1.0)
    return solution, solver.penalty


@pytest.fixture(params=[(3, 2), (3, 2, 4, 5)], ids=["tables", "images"])
def y0(request):
    return torch.randn(request.param, generator=generator(), dtype=torch.float64)


def kinetic(rates, y0):
    a = rates.view(2, *[1] * (y0.ndim - 2))
    return (a / 2 * y0**2 * (torch.exp(2 * a) - 1)).flatten(1).mean(1).mean()


def test_the_kinetic_energy_is_the_integral_along_the_solution(y0):
    field = Growth()
    solution, penalty = solved(field, y0, kinetic_energy=3.0)
    expected = 3.0 * kinetic(field.rates, y0)
    torch.testing.assert_close(penalty, expected, rtol=1e-6, atol=0)
    ours, truth = (torch.autograd.grad(p, field.rates)[0] for p in (penalty, expected))
    torch.testing.assert_close(ours, truth, rtol=1e-5, atol=0)
    torch.testing.assert_close(solution.y[-1], y0 * torch.exp(field.rates.view(2, *[1] * (y0.ndim - 2))))


def test_the_jacobians_norm_is_that_of_the_field(y0):
    field = Growth()
    _, penalty = solved(field, y0, jacobian_norm=2.0)
    # for a diagonal Jacobian every random sign gives the norm itself
    expected = 2.0 * field.rates.square().mean()
    torch.testing.assert_close(penalty, expected, rtol=1e-6, atol=0)
    ours, truth = (torch.autograd.grad(p, field.rates)[0] for p in (penalty, expected))
    torch.testing.assert_close(ours, truth, rtol=1e-5, atol=1e-12)


def test_penalties_add_up(y0):
    field = Growth()
    both = solved(field, y0, kinetic_energy=3.0, jacobian_norm=2.0)[1]
    torch.testing.assert_close(
        both, 3.0 * kinetic(field.rates, y0) + 2.0 * field.rates.square().mean(), rtol=1e-6, atol=0
    )


def test_nothing_is_penalised_by_default(y0):
    assert not Regularisation()
    solution, penalty = solved(Growth(), y0)
    assert penalty == 0.0
    assert solution.y.shape == (1, *y0.shape)


def test_the_end_varies_by_as_much_as_is_said():
    field, y0 = Growth(), torch.ones(1, 2, dtype=torch.float64)
    solver = PenalisedSolver(SOLVER, Regularisation(steer=0.25), generator())
    with torch.no_grad():
        ends = [math.log(float(solver(field, (0.0, 1.0), y0, (1.0,), 1.0).y[-1, 0, 0])) / 0.5 for _ in range(200)]
    assert 0.75 < min(ends) < 0.76
    assert 1.24 < max(ends) < 1.25
    assert sum(ends) / 200 == pytest.approx(1.0, abs=0.03)


@pytest.mark.parametrize("method", [name for name, m in METHODS.items() if m.adaptive and not m.implicit])
def test_a_local_error_is_that_of_the_methods_step(method):
    y = torch.tensor([[1.0, 2.0]], dtype=torch.float64, requires_grad=True)
    field, h = Growth(), 0.3
    error = local_error(field, 0.2, h, y, method=method)
    # for dy/dt = a y the stages are polynomials in z = a h, found by the tableau itself
    tableau = METHODS[method]
    for i, rate in enumerate(field.rates.tolist()):
        stages = []
        for row in tableau.a:
            stages.append(rate * (y[0, i].item() + h * sum(a * k for a, k in zip(row, stages, strict=False))))
        expected = h * sum(e * k for e, k in zip(tableau.e, stages, strict=True))
        assert error[0, i].item() == pytest.approx(expected, rel=1e-9, abs=1e-14)
    assert torch.autograd.grad(error.sum(), y)[0].shape == (1, 2)


@pytest.mark.parametrize("method", ["rk4", "kvaerno5", "implicit_adams"])
def test_methods_without_such_an_estimate_are_refused(method):
    with pytest.raises(ValueError, match=f"method='{method}' has no error estimate"):
        local_error(Growth(), 0.0, 0.1, torch.ones(1, 2, dtype=torch.float64), method=method)


def test_the_penalty_on_local_errors_estimates_their_sum():
    field, y0 = Growth(), torch.ones(4, 2, dtype=torch.float64)
    loose = Solver(rtol=1e-2, atol=1e-2)
    solver = PenalisedSolver(loose, Regularisation(local_error=2.0), generator())
    solver(field, (0.0, 1.0), y0, (1.0,), 1.0)  # a single step
    penalty = solver.penalty.item()
    inside = float(torch.rand((), generator=generator(), dtype=torch.float64))
    state = y0 * torch.exp(field.rates.detach() * inside)
    expected = 2.0 * local_error(field, inside, 1.0, state).detach().square().mean().sqrt()
    assert penalty == pytest.approx(float(expected), rel=5e-3)  # the state is read off an interpolant


@pytest.mark.parametrize(
    ("name", "strength"), [("kinetic_energy", 10.0), ("jacobian_norm", 10.0), ("local_error", 1e3)]
)
@pytest.mark.filterwarnings("ignore:Maximum iterations:sklearn.exceptions.ConvergenceWarning")
def test_a_penalised_classifier_has_easier_dynamics(name, strength):
    X = torch.randn(80, 2, generator=generator()).numpy()
    y = (X**2).sum(1) > 1.4
    common = {"hidden_layer_sizes": (16,), "state_size": 8, "max_iter": 40, "learning_rate_init": 3e-2, "alpha": 0.0}
    free, held = (
        ODENetClassifier(**common, input_dropout=0.0, random_state=0, **{name: value}).fit(X, y)
        for value in (0.0, strength)
    )

    def energy(classifier):
        states = torch.as_tensor(classifier.trajectory(X, [0.0, 0.5, 1.0]))
        field = classifier.module_.field
        with torch.no_grad():
            return sum(float(field(t, states[:, i]).square().mean()) for i, t in enumerate((0.0, 0.5, 1.0)))

    assert energy(held) < 0.5 * energy(free)
    assert held.predict(X).shape == (80,)

"""Solves as graphs take the steps of the solver."""

import pytest
import torch

from skode.dynamics import MLPField
from skode.serving import TracedSolver
from skode.solvers import METHODS
from skode.solvers.tableaus import ButcherTableau
from skode.training import Solver
from tests.serving.loops import python_loop

EXPLICIT = sorted(name for name, m in METHODS.items() if isinstance(m, ButcherTableau) and not m.implicit)


@pytest.fixture(autouse=True)
def _loops_by_python(monkeypatch):
    monkeypatch.setattr(torch, "while_loop", python_loop)


@pytest.fixture(scope="module")
def field():
    """Dynamics that take some steps, and other ones from each start."""
    field = MLPField(3, (16,), generator=torch.Generator().manual_seed(0)).double().requires_grad_(False)
    field.layers[0].weight.mul_(4.0)
    return field


@pytest.fixture(scope="module")
def start():
    return torch.randn(6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def both(field, solver, *arguments, **options):
    """The states by a graph's operations, and the solver's."""
    with torch.no_grad():
        return TracedSolver(solver)(field, *arguments, **options).y, solver(field, *arguments, **options).y


@pytest.mark.parametrize("method", EXPLICIT)
@pytest.mark.parametrize("first_step", [None, 1.0])
def test_the_end_is_that_of_the_solver(field, start, method, first_step):
    found, expected = both(
        field, Solver(method, rtol=1e-3, atol=1e-4), (0.0, 1.0), start, t_eval=(1.0,), first_step=first_step
    )
    torch.testing.assert_close(found, expected, rtol=0.0, atol=1e-10)


@pytest.mark.parametrize("method", ["dopri5", "bosh3", "rk4"])
def test_outputs_at_times_of_each_sample(field, start, method):
    ends = torch.tensor([1.0, 2.0, -1.0, 0.0, 0.5, -2.0], dtype=torch.float64)
    span = torch.stack([torch.zeros_like(ends), ends], dim=1)
    times = ends[:, None] * torch.tensor([0.0, 0.3, 0.31, 0.9, 1.0], dtype=torch.float64)
    times[1, 3:] = torch.nan
    found, expected = both(field, Solver(method, rtol=1e-4, atol=1e-6), span, start, t_eval=times)
    torch.testing.assert_close(found, expected, rtol=0.0, atol=1e-10, equal_nan=True)
    assert torch.isnan(found[1, 3:]).all()


def test_single_precision_keeps_its_accuracy(field, start):
    single = MLPField(3, (16,)).requires_grad_(False)
    single.load_state_dict(field.state_dict())
    found, expected = both(single, Solver(), (0.0, 1.0), start.float(), t_eval=(1.0,), first_step=1.0)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=0.0, atol=1e-5)


def test_a_row_does_not_depend_on_the_others(field, start):
    solver = TracedSolver(Solver())
    with torch.no_grad():
        whole = solver(field, (0.0, 1.0), start, t_eval=(1.0,)).y[0]
        alone = solver(field, (0.0, 1.0), start[2:3], t_eval=(1.0,)).y[0]
    torch.testing.assert_close(alone[0], whole[2], rtol=0.0, atol=1e-10)


@pytest.mark.parametrize(
    "rate",
    [
        pytest.param(lambda t, y: torch.full_like(y, torch.nan), id="not a number"),
        pytest.param(lambda t, y: 5.0 * y**2, id="infinite before the end"),
        pytest.param(lambda t, y: -1e5 * (y - torch.cos(t)), id="too many steps"),
    ],
)
def test_samples_that_cannot_go_on_are_nan_and_the_others_not(rate):
    start = torch.tensor([[1.0, 1.0], [1.0, 0.0]], dtype=torch.float64)

    def field(t, y):
        state, is_hard = y[:, :1], y[:, 1:]
        return torch.cat([torch.where(is_hard > 0, rate(t, state), state), torch.zeros_like(state)], dim=1)

    with torch.no_grad():
        found = TracedSolver(Solver(max_steps=60))(field, (0.0, 1.0), start, t_eval=(1.0,)).y[0]
    assert torch.isnan(found[0]).all()
    torch.testing.assert_close(found[1, 0], torch.tensor(1.0, dtype=torch.float64).exp(), rtol=1e-3, atol=0.0)


@pytest.mark.parametrize("method", ["kvaerno5", "explicit_adams"])
def test_methods_that_are_no_explicit_runge_kutta_are_refused_by_name(method):
    with pytest.raises(ValueError, match=rf"method='{method}' can't be exported.*'dopri5'"):
        TracedSolver(Solver(method))

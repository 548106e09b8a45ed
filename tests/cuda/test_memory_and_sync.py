"""What solves and fits leave behind on the device, and how often they wait for it."""

import gc
import warnings

import numpy as np
import pytest
import torch
from sklearn.datasets import make_moons

from skode import CNFDensityEstimator, ODENetClassifier
from skode.dynamics import MLPField
from skode.solvers import free_idle_memory, solve_ivp
from tests.cuda.problems import randn

pytestmark = pytest.mark.filterwarnings("ignore:Maximum iterations:sklearn.exceptions.ConvergenceWarning")

#: Waits of the host for the device that a solve with its gradient may take.
MOST_WAITS = 4


#: Bytes that may be held more after many calls: less than one small tensor for each.
SLACK = 2**12


def mlp(device, dtype=torch.float64):
    return MLPField(3, (16, 16), generator=torch.Generator().manual_seed(0)).to(device=device, dtype=dtype)


def allocated():
    gc.collect()
    gc.collect()  # what the first brought back to life for a moment
    torch.cuda.synchronize()
    return torch.cuda.memory_allocated()


def grows_by(act, n=50):
    """Bytes more that are held after n calls than after some."""
    for i in range(8):
        act(i)
    before = allocated()
    for i in range(n - 8):
        act(i)
    return allocated() - before


# Memory


def solve_with_gradient(field, i, n=20, **settings):
    y0 = randn(n, 3, seed=i % 4).to(field.layers[0].weight).requires_grad_()
    solve_ivp(field, (0.0, 1.0), y0, t_eval=[1.0], rtol=1e-2, atol=1e-2, **settings).y.square().sum().backward()
    field.zero_grad()


@pytest.mark.parametrize(
    ("settings", "n"),
    [
        ({}, 50),
        ({"adjoint": "continuous"}, 20),
        ({"adjoint": "backprop"}, 20),
        ({"step_control": "per_sample"}, 20),
        ({"memory_budget": 0}, 20),
    ],
    ids=str,
)
def test_solves_leave_nothing_behind(gpu, settings, n):
    field = mlp(gpu)
    assert grows_by(lambda i: solve_with_gradient(field, i, **settings), n) <= SLACK


def test_fields_that_are_gone_leave_nothing_behind(gpu):
    def act(i):
        field = mlp(gpu)
        for _ in range(3):
            solve_with_gradient(field, i)

    assert grows_by(act, n=20) <= SLACK


def test_batches_of_many_sizes_do_not_pile_up(gpu):
    """The memory kept for each size that was solved is bounded, and freed on request."""
    field = mlp(gpu)
    before = allocated()
    assert grows_by(lambda i: solve_with_gradient(field, i, n=10 + i), n=40) < 2 * 2**26
    free_idle_memory()
    assert allocated() <= before + SLACK


@pytest.mark.parametrize(("estimator", "n"), [(ODENetClassifier, 50), (CNFDensityEstimator, 25)])
def test_fits_leave_nothing_behind(gpu, estimator, n):
    X, y = make_moons(60, noise=0.1, random_state=0)
    model = estimator((8,), device=str(gpu), max_iter=1, random_state=0)
    assert grows_by(lambda i: model.fit(X, y), n) <= SLACK


def test_predictions_leave_nothing_behind(gpu):
    X, y = make_moons(60, noise=0.1, random_state=0)
    clf = ODENetClassifier((8,), device=str(gpu), max_iter=1, random_state=0).fit(X, y)
    assert grows_by(lambda i: clf.predict_proba(X), n=30) <= SLACK


def test_an_estimator_that_is_gone_gives_its_memory_back(gpu):
    X, y = make_moons(60, noise=0.1, random_state=0)

    def act(i):
        clf = ODENetClassifier((256,), state_size=256, device=str(gpu), max_iter=1, random_state=0).fit(X, y)
        clf.predict(X)

    act(0)
    before = allocated()
    for i in range(5):
        act(i)
    assert allocated() <= before + SLACK


def test_a_failed_solve_gives_its_memory_back(gpu):
    field, y0 = mlp(gpu), randn(1000, 3).to(gpu)

    def act(i):
        with pytest.raises(RuntimeError, match="max_steps"):
            solve_ivp(field, (0.0, 1.0), y0, rtol=1e-12, atol=1e-12, max_steps=5)

    assert grows_by(act, n=20) <= SLACK


# Waiting


def waits(act):
    """How often the host waits for the device while something is done."""
    mode = torch.cuda.get_sync_debug_mode()
    torch.cuda.synchronize()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            act()
        finally:
            torch.cuda.set_sync_debug_mode(mode)
    return sum("synchronizing CUDA operation" in str(warning.message) for warning in caught)


def test_waits_are_counted(gpu):
    x = torch.ones(3, device=gpu)
    assert waits(lambda: [x.sum().item() for _ in range(5)]) >= 5
    assert waits(lambda: x + 1) == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_solve_and_its_gradient_hardly_wait(gpu, dtype):
    field = mlp(gpu, dtype)
    y0 = randn(64, 3).to(gpu, dtype).requires_grad_()
    solution = None

    def act():
        nonlocal solution
        solution = solve_ivp(field, (0.0, 1.0), y0, t_eval=[1.0], rtol=1e-4, atol=1e-4)
        solution.y.square().sum().backward()

    for _ in range(8):
        act()
    found = waits(act)
    assert solution.n_accepted >= 2
    assert found <= MOST_WAITS


def test_a_solve_without_gradient_hardly_waits(gpu):
    field, y0 = mlp(gpu), randn(64, 3).to(gpu)

    def act():
        with torch.no_grad():
            solve_ivp(field, (0.0, 1.0), y0, t_eval=[0.5, 1.0], rtol=1e-5, atol=1e-5)

    for _ in range(8):
        act()
    assert waits(act) <= MOST_WAITS


def test_a_solve_of_fixed_steps_hardly_waits(gpu):
    field, y0 = mlp(gpu), randn(64, 3).to(gpu).requires_grad_()

    def act():
        solve_ivp(field, (0.0, 1.0), y0, t_eval=[1.0], method="rk4", step_size=0.05).y.square().sum().backward()

    for _ in range(8):
        act()
    assert waits(act) <= MOST_WAITS


def test_waits_do_not_grow_with_the_number_of_steps(gpu):
    field, y0 = mlp(gpu), randn(64, 3).to(gpu).requires_grad_()
    counts = []
    for end in (1.0, 16.0):

        def act(end=end):
            solution = solve_ivp(field, (0.0, end), y0, t_eval=[end], rtol=1e-4, atol=1e-4)
            solution.y.square().sum().backward()
            return solution

        for _ in range(8):
            act()
        counts.append((int(act().n_accepted), waits(act)))
    (few, waits_of_few), (many, waits_of_many) = counts
    assert many > 2 * few
    assert waits_of_many <= waits_of_few + np.ceil(many / 8)

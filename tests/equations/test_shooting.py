"""Derivatives along segments, condensed and reduced, against single shooting and dense linear algebra."""

import numpy as np
import pytest

from skode.equations.elimination import Linearised
from skode.equations.initial import InitialStates
from skode.equations.layout import Cells, Layout
from skode.equations.parameters import Parameter, Scales
from skode.equations.sensitivities import SolverSettings
from skode.equations.shooting import Model, condense, shoot
from tests.equations.systems import lotka_volterra, system

NAMES = ("a", "b", "c", "d")
PARAMETERS = [Parameter(name, value, 0.0) for name, value in zip(NAMES, (1.0, 0.5, 1.2, 0.4), strict=True)]
MODEL = Model(
    system(lotka_volterra, ("x", "y"), NAMES, observe=(0,)),
    Scales([*PARAMETERS, Parameter("initial x", 3.0)]),
    4,
    InitialStates(None, (4, 1.0)),
    SolverSettings("dopri5", 1e-9, 1e-11),
)
CODES = np.repeat([0, 1], [9, 6])
TIME = np.concatenate([np.linspace(0.0, 4.0, 9), np.linspace(0.5, 3.0, 6)])
LAYOUT = Layout.of(CODES, TIME, np.ones((15, 1)), np.ones(15), np.array([0.0, 0.0]), 4)
CELLS = Cells.of(LAYOUT, np.arange(2))
U = np.stack([MODEL.scales.start, MODEL.scales.start + 0.1])


def consistent_nodes(layout, u):
    return MODEL.states(u, None, np.arange(2), layout.t0, layout.node_times()).numpy().copy()


def solved(u, layout=LAYOUT):
    return shoot(MODEL, layout, None, CELLS if layout is LAYOUT else Cells.of(layout, np.arange(2)), u,
                 consistent_nodes(layout, u), 1000)  # fmt: skip


def test_starts_that_follow_the_solution_leave_no_defects():
    np.testing.assert_allclose(solved(U).defects, 0.0, atol=1e-7)


def test_condensed_slopes_are_those_of_single_shooting():
    condensed = condense(LAYOUT, CELLS, solved(U), np.ones(2))
    one = Layout.of(CODES, TIME, np.ones((15, 1)), np.ones(15), np.array([0.0, 0.0]), 1)
    alone = condense(one, Cells.of(one, np.arange(2)), solved(U, one), np.ones(2))
    np.testing.assert_allclose(condensed.mean_slopes, alone.mean_slopes, rtol=1e-5, atol=1e-6)
    step = 1e-5
    for j in range(5):
        moved = np.zeros(5)
        moved[j] = step
        difference = (solved(U + moved, one).mean - solved(U - moved, one).mean) / (2.0 * step)
        np.testing.assert_allclose(condensed.mean_slopes[..., j], difference, rtol=1e-4, atol=1e-5)


def linearised(seed=0):
    rng = np.random.default_rng(seed)
    nodes = consistent_nodes(LAYOUT, U)
    nodes[:, 1:] += 0.1 * rng.normal(size=nodes[:, 1:].shape)
    shots = shoot(MODEL, LAYOUT, None, CELLS, U, nodes, 1000)
    weights = rng.uniform(1.0, 5.0, shots.defects.shape)
    weights[:, -1] = 0.0
    return Linearised(LAYOUT, CELLS, shots, shots.mean - 1.0, shots.mean_slopes, shots.defects, weights)


def dense(form, cell, damping):
    """The whole Gauss-Newton system of a cell, in (unknowns, starts but the first), and its gradient."""
    n_nodes, n = form.shots.defects.shape[1:]
    size = 5 + (n_nodes - 1) * n
    rows = []
    start = np.zeros((n_nodes, n, size))
    start[0, :, :5] = form.shots.start_slopes[cell]
    for j in range(1, n_nodes):
        start[j, :, 5 + (j - 1) * n : 5 + j * n] = np.eye(n)
    parameters = np.eye(4, size)
    for row in np.flatnonzero(CELLS.row_cell == cell):
        slopes = form.slopes[row]
        rows.append(
            (slopes[:, :n] @ start[LAYOUT.node[CELLS.rows[row]]] + slopes[:, n:] @ parameters, form.residuals[row])
        )
    for j in range(n_nodes - 1):
        slopes, root = form.shots.end_slopes[cell, j], np.sqrt(form.weights[cell, j])
        by = slopes[:, :n] @ start[j] + slopes[:, n:] @ parameters - start[j + 1]
        rows.append((root[:, None] * by, root * form.defects[cell, j]))
    jacobian, residuals = np.concatenate([row[0] for row in rows]), np.concatenate([row[1] for row in rows])
    added = np.concatenate([np.zeros(5), np.tile(damping, n_nodes - 1)])
    return jacobian.T @ jacobian + np.diag(added), jacobian.T @ residuals


@pytest.mark.parametrize("cell", [0, 1])
def test_elimination_is_the_dense_solution(cell):
    form, damping = linearised(), np.array([[0.3, 0.7], [0.2, 0.1]])
    reduced = form.reduced(damping)
    matrix, gradient = dense(form, cell, damping[cell])
    own = matrix[5:, 5:]
    np.testing.assert_allclose(
        reduced.matrix[cell],
        matrix[:5, :5] - matrix[:5, 5:] @ np.linalg.solve(own, matrix[5:, :5]),
        rtol=1e-8,
        atol=1e-8,
    )
    step = -np.linalg.solve(matrix, gradient)
    both = np.stack([step[:5]] * 2)
    np.testing.assert_allclose(np.linalg.solve(reduced.matrix[cell], -reduced.gradient[cell]), step[:5], rtol=1e-6)
    np.testing.assert_allclose(reduced.nodes(both)[cell, 1:].ravel(), step[5:], rtol=1e-6, atol=1e-9)


def test_the_gain_is_that_of_the_quadratic_model():
    form = linearised()
    reduced = form.reduced(np.zeros((2, 2)))
    step = np.stack([-np.linalg.solve(reduced.matrix[i], reduced.gradient[i]) for i in range(2)])
    nodes = reduced.nodes(step)
    loss, penalty = form.gain(form.moved(step, nodes))
    for cell in range(2):
        matrix, gradient = dense(form, cell, np.zeros(2))
        expected = 0.5 * gradient @ np.linalg.solve(matrix, gradient)
        found = loss[CELLS.row_cell == cell].sum() + penalty[cell]
        assert found == pytest.approx(expected, rel=1e-6)


def test_segments_that_start_beyond_all_numbers_have_no_solution():
    nodes = consistent_nodes(LAYOUT, U)
    sound = shoot(MODEL, LAYOUT, None, CELLS, U, nodes.copy(), 1000)
    nodes[1, 2] = [np.inf, np.nan]
    shots = shoot(MODEL, LAYOUT, None, CELLS, U, nodes, 1000)
    assert np.isnan(shots.defects[1, 2]).all()
    np.testing.assert_array_equal(shots.defects[0], sound.defects[0])
    rows = CELLS.row_cell == 0
    np.testing.assert_array_equal(shots.mean[rows], sound.mean[rows])

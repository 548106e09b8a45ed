"""A step without a graph is what its method's definition says, and pulls back as the chain rule says."""

import math

import numpy as np
import pytest
import torch

from skode.solvers.stepping.step import NO_EDGES, stage_time
from skode.solvers.tableaus import METHODS

T, H = 0.3, 0.2
CARRYING = ["bosh3", "tsit5", "dopri5", "dopri8"]


def close(found, expected, rtol=1e-13):
    torch.testing.assert_close(found, expected, rtol=rtol, atol=rtol)


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("h", [H, -H])
def test_a_step_is_what_its_definition_says(explicit_tableau, field, y, h, keep, started, definition):
    expected = definition(explicit_tableau, field, T, h, y)
    stepper = started(explicit_tableau, field, y, keep=keep)
    taken = stepper.attempt(T, h, y)
    close(taken.y_next, expected.y_next)
    close(taken.stages.view_as(expected.stages), expected.stages)
    if explicit_tableau.adaptive:
        torch.testing.assert_close(stepper.error(taken), expected.error, rtol=0, atol=1e-14)


@pytest.mark.parametrize("shape", [(), (4,), (1, 3), (2, 2, 3), (0, 3)])
def test_states_have_any_shape(explicit_tableau, shape, started, definition, draw):
    def func(t, y):
        return torch.sin(t + y) - y

    y = draw(*shape)
    taken = started(explicit_tableau, func, y).attempt(T, H, y)
    assert taken.y_next.shape == shape
    close(taken.y_next, definition(explicit_tableau, func, T, H, y).y_next)


def test_the_next_step_starts_from_the_last_stage_where_it_can(explicit_tableau, field, y, started, definition):
    stepper = started(explicit_tableau, field, y)
    y1 = stepper.attempt(T, H, y).y_next.clone()
    stepper.accept()
    before = stepper.statistics.nfev
    y2 = stepper.attempt(T + H, H, y1).y_next
    assert stepper.statistics.nfev - before == explicit_tableau.n_stages - explicit_tableau.fsal
    close(y2, definition(explicit_tableau, field, T + H, H, y1).y_next)


def test_a_rejected_step_leaves_no_trace_but_its_first_stage(explicit_tableau, field, y, started, definition):
    stepper = started(explicit_tableau, field, y)
    stepper.attempt(T, 17 * H, y)
    assert stepper.statistics.nfev == explicit_tableau.n_stages - 1  # the first is known at the start
    close(stepper.attempt(T, H, y).y_next, definition(explicit_tableau, field, T, H, y).y_next)
    assert stepper.statistics.nfev == 2 * (explicit_tableau.n_stages - 1)


def test_a_state_survives_the_steps_tried_from_it(explicit_tableau, field, y, started):
    stepper = started(explicit_tableau, field, y)
    y1 = stepper.attempt(T, H, y).y_next
    stepper.accept()
    before = y1.clone()
    for h in (3 * H, H):
        stepper.attempt(T + H, h, y1)
    assert torch.equal(y1, before)


@pytest.mark.parametrize("kept", [False, True])
def test_pulling_a_step_is_its_vector_jacobian_product(explicit_tableau, field, p, y, kept, started, definition, draw):
    s, takes_over = explicit_tableau.n_stages, explicit_tableau.fsal
    lam, given = draw(*y.shape), draw(s, *y.shape)
    carried = draw(1, y.numel()) if takes_over else None
    whole = definition(explicit_tableau, field, T, H, y)
    total = given.clone()
    if takes_over:
        total[-1] += carried[0].view_as(y)
    expected = whole.pulled(lam, total, [p], takes_over=takes_over)

    stepper = started(explicit_tableau, field, y, parameters=(p,), keep=kept)
    if kept and not takes_over:
        stepper.first_is_current = False
    taken = stepper.attempt(T, H, y)
    if not kept:
        taken.stages = taken.stages.clone()
        close(stepper.remake(taken, taken.stages[0], last_is_used=True), whole.y_next)
    session = stepper.field.session()
    pulled = stepper.pull(taken, session, lam, carried, given.flatten(1))
    close(pulled.y, expected[0])
    close(session.parameter_gradients()[0], expected[1])
    if takes_over:
        close(pulled.carried.view_as(y), expected[2])
    else:
        assert pulled.carried is None


@pytest.mark.parametrize("name", CARRYING)
def test_a_last_stage_that_nothing_uses_is_not_evaluated_again(name, field, y, started, definition, draw, p):
    tableau = METHODS[name]
    lam = draw(*y.shape)
    stepper = started(tableau, field, y, parameters=(p,))
    taken = stepper.attempt(T, H, y)
    stepper.statistics.nfev = 0
    stepper.remake(taken, taken.stages[0].clone(), last_is_used=False)
    assert stepper.statistics.nfev == tableau.n_stages - 2
    session = stepper.field.session()
    pulled = stepper.pull(taken, session, lam, None, None)
    none = torch.zeros(tableau.n_stages, *y.shape, dtype=torch.float64)
    expected = definition(tableau, field, T, H, y).pulled(lam, none, [p], takes_over=True)
    close(pulled.y, expected[0])
    close(session.parameter_gradients()[0], expected[1])


def column(*values, dtype=torch.float64):
    return torch.tensor(values, dtype=dtype)[:, None]


def rows(t, y):
    return torch.sin(3 * y) * torch.cos(t) - 0.5 * y.roll(1, -1) ** 2 + t * y


def test_a_column_of_step_sizes_is_one_step_per_sample(tableau, y, started, definition, draw):
    t, h = column(0.3, -1.0), column(0.02, -0.005)
    stepper = started(tableau, rows, y, t=t)
    taken = stepper.attempt(t, h, y)
    lam = draw(*y.shape)
    taken.stages = taken.stages.clone()
    found = taken.y_next.clone()
    error = stepper.error(taken) if tableau.adaptive else None
    stepper.remake(taken, taken.stages[0].clone(), last_is_used=True)
    pulled = stepper.pull(taken, stepper.field.session(), lam, None, None)
    for i in range(2):
        one = slice(i, i + 1)
        alone = definition(tableau, rows, t[i].item(), h[i].item(), y[one])
        close(found[one], alone.y_next, 1e-12)
        if error is not None:
            torch.testing.assert_close(error[one], alone.error, rtol=0, atol=1e-13)
        none = torch.zeros_like(alone.stages)
        expected = alone.pulled(lam[one], none, [], takes_over=tableau.fsal)
        close(pulled.y[one], expected[0], 1e-12)
        if tableau.fsal:
            close(pulled.carried.view_as(y)[one], expected[1], 1e-12)


@pytest.mark.parametrize("graph", [False, True])
def test_samples_that_move_on_and_samples_that_stay(adaptive_tableau, y, started, definition, graph):
    t, h = column(0.3, -1.0), column(0.02, 0.01)
    stepper = started(adaptive_tableau, rows, y, t=t, graph=graph)
    taken = stepper.attempt(t, h, y)
    moved = torch.tensor([[False], [True]])
    part = stepper.part(taken, torch.tensor([1]))
    expected = definition(adaptive_tableau, rows, -1.0, 0.01, y[1:])
    close(part.y_next, expected.y_next, 1e-12)
    close(part.stages.view_as(expected.stages), expected.stages, 1e-12)
    states = torch.where(moved, taken.y_next, y)
    stepper.accept_some(moved)
    again = stepper.attempt(column(0.3, -0.99), column(0.01, 0.02), states).y_next
    close(again[:1], definition(adaptive_tableau, rows, 0.3, 0.01, states[:1]).y_next, 1e-12)
    close(again[1:], definition(adaptive_tableau, rows, -0.99, 0.02, states[1:]).y_next, 1e-12)


@pytest.mark.parametrize("graph", [False, True])
def test_a_stepper_of_some_samples_goes_on_with_them(adaptive_tableau, y, started, definition, graph):
    t, h = column(0.3, -1.0), column(0.02, 0.01)
    stepper = started(adaptive_tableau, rows, y, t=t, graph=graph)
    y1 = stepper.attempt(t, h, y).y_next.clone()
    stepper.accept()
    last = stepper.take(torch.tensor([1]))
    found = last.attempt(column(-0.99), column(0.03), y1[1:]).y_next
    close(found, definition(adaptive_tableau, rows, -0.99, 0.03, y1[1:]).y_next, 1e-12)


@pytest.mark.parametrize("graph", [False, True])
def test_after_a_discontinuity_the_first_stage_is_evaluated_anew(adaptive_tableau, y, started, definition, graph):
    def jumps(t, y):
        return torch.where(torch.as_tensor(t, dtype=torch.float64) <= 0.5, 1.0, -2.0) * y

    stepper = started(adaptive_tableau, jumps, y, graph=graph)
    y1 = stepper.attempt(T, 0.5 - T, y, (False, True)).y_next.clone()
    stepper.accept()
    stepper.restart(0.5, 0.01, y1, (True, False))
    found = stepper.attempt(0.5, 0.01, y1, (True, False)).y_next
    close(found, definition(adaptive_tableau, lambda t, y: -2.0 * y, 0.5, 0.01, y1).y_next, 1e-12)


@pytest.mark.parametrize("numpy_type", [np.float32, np.float64])
@pytest.mark.parametrize(("t", "h"), [(0.0, 1.0), (1.0, -1.0), (0.25, 0.5), (-3.0, 2.0), (1e6, -0.5)])
def test_evaluations_at_the_ends_are_moved_into_the_step_by_one_rounding(numpy_type, t, h):
    like = torch.zeros(1, dtype={np.float32: torch.float32, np.float64: torch.float64}[numpy_type])
    start, end = numpy_type(t), numpy_type(t + h)
    infinity = numpy_type(math.copysign(math.inf, h))
    first, last = float(np.nextafter(start, infinity)), float(np.nextafter(end, -infinity))
    assert min(t, t + h) < first < max(t, t + h)
    assert stage_time(t, h, 0.0, (True, True), like.dtype) == first == stage_time(t, h, 0.0, (True, False), like.dtype)
    assert stage_time(t, h, 1.0, (True, True), like.dtype) == last == stage_time(t, h, 1.0, (False, True), like.dtype)
    assert stage_time(t, h, 0.0, (False, True), like.dtype) == t
    assert stage_time(t, h, 1.0, (True, False), like.dtype) == t + h
    assert stage_time(t, h, 0.5, (True, True), like.dtype) == t + 0.5 * h
    for c in (0.0, 0.5, 1.0):
        assert stage_time(t, h, c, NO_EDGES, like.dtype) == t + c * h


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_columns_of_times_are_moved_where_marked(dtype):
    t, h = column(0.0, 1.0, 2.0, 3.0, dtype=dtype), column(0.5, -0.5, 0.5, -0.5, dtype=dtype)
    here = torch.tensor([[True], [True], [False], [False]])
    up, down = math.inf, -math.inf
    inwards = torch.tensor([[up], [down], [up], [down]], dtype=dtype)
    found = stage_time(t, h, 0.0, (here, ~here), t.dtype)
    assert torch.equal(found, torch.where(here, torch.nextafter(t, inwards), t))
    found = stage_time(t, h, 1.0, (~here, here), t.dtype)
    assert torch.equal(found, torch.where(here, torch.nextafter(t + h, -inwards), t + h))
    assert torch.equal(stage_time(t, h, 0.0, (True, True), t.dtype), torch.nextafter(t, inwards))
    assert found.dtype == dtype


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("graph", [False, True])
@pytest.mark.parametrize("h", [0.1, -0.1])
def test_stages_of_a_nudged_step_lie_inside_it(tableau, dtype, graph, h, started):
    seen = []

    def func(t, y):
        seen.append(float(torch.as_tensor(t).detach()))
        return -y

    t, y = 0.7, torch.ones(1, 1, dtype=dtype)
    stepper = started(tableau, func, y, graph=graph)
    y1 = stepper.attempt(t - h, h, y, (True, True)).y_next
    stepper.accept()
    seen.clear()
    stepper.attempt(t, h, y1, (True, True))
    if max(tableau.c) > 1.0:
        pytest.skip("kvaerno5 has a stage beyond the step")
    at_start = {torch.tensor(t, dtype=dtype).item()} if tableau.implicit else set()  # of the Jacobian
    ends = [torch.tensor(x, dtype=dtype).item() for x in sorted((t, t + h))]
    assert seen
    outside = [time for time in set(seen) - at_start if not ends[0] < time < ends[1]]
    assert not outside

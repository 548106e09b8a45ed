"""Every output is answered once, by the step that it lies in."""

import itertools

import numpy as np
import pytest

from skode.solvers.forward.output_times import EveryStep, OutputTimes, OwnOutputTimes, Positions


def answers(times, boundaries, rows=None):
    """(output, step, theta, row) of all readings over the steps between the boundaries; step -1 is the start."""
    direction = 1.0 if boundaries[-1] >= boundaries[0] else -1.0
    readout = OutputTimes(np.array(times, dtype=float), rows, direction)
    found = []
    start = readout.at_start(boundaries[0])
    steps = [(-1, start)] if start is not None else []
    for n, (t, t_next) in enumerate(itertools.pairwise(boundaries)):
        steps += [(n, reading) for reading in readout.in_step(t, t_next)]
    for n, reading in steps:
        owners = [None] * len(reading.positions) if reading.rows is None else reading.rows.tolist()
        found += zip(reading.positions.tolist(), [n] * len(owners), reading.theta.tolist(), owners, strict=True)
    return sorted(found)


def test_outputs_lie_at_the_start_inside_steps_and_at_their_ends():
    assert answers([0.0, 0.25, 1.0, 2.5, 3.0], [0.0, 1.0, 3.0]) == [
        (0, -1, 0.0, None),
        (1, 0, 0.25, None),
        (2, 0, 1.0, None),
        (3, 1, 0.75, None),
        (4, 1, 1.0, None),
    ]


def test_backward_in_time():
    assert answers([3.0, 2.5, 1.0, 0.25, 0.0], [3.0, 1.0, 0.0]) == [
        (0, -1, 0.0, None),
        (1, 0, 0.25, None),
        (2, 0, 1.0, None),
        (3, 1, 0.75, None),
        (4, 1, 1.0, None),
    ]


def test_outputs_of_single_samples_come_in_any_order_and_repeated():
    rows = np.array([0, 0, 1, 1, 2])
    assert answers([2.0, 0.5, 0.5, 0.0, 0.5], [0.0, 1.0, 2.0], rows) == [
        (0, 1, 1.0, 0),
        (1, 0, 0.5, 0),
        (2, 0, 0.5, 1),
        (3, -1, 0.0, 1),
        (4, 0, 0.5, 2),
    ]


@pytest.mark.parametrize("direction", [1.0, -1.0])
def test_each_of_many_outputs_is_answered_once_in_the_right_step(direction):
    rng = np.random.default_rng(0)
    boundaries = direction * np.concatenate([[0.0], np.sort(rng.uniform(0, 1, 30)), [1.0]])
    times = np.concatenate([direction * rng.uniform(0, 1, 500), boundaries, boundaries])
    found = answers(times, boundaries, rows=np.arange(len(times)))
    assert [output for output, *_ in found] == list(range(len(times)))
    for output, n, theta, _ in found:
        t, t_next = (boundaries[0], boundaries[0]) if n == -1 else boundaries[n : n + 2]
        assert t + theta * (t_next - t) == pytest.approx(times[output], abs=1e-15)
        assert 0.0 <= theta <= 1.0


def test_no_outputs():
    assert answers([], [0.0, 1.0, 2.0]) == []


def test_readings_say_where_they_lie():
    readout = OutputTimes(np.array([0.0, 0.5, 1.0]), None, 1.0)
    start, (inside, end) = readout.at_start(0.0), readout.in_step(0.0, 1.0)
    assert [(r.theta.tolist(), r.at_end) for r in (start, inside, end)] == [
        ([0.0], False),
        ([0.5], False),
        ([1.0], True),
    ]


def test_every_step_is_answered_at_its_end():
    positions = Positions(0)
    readout = EveryStep(positions)
    readings = [readout.at_start(0.0), *readout.in_step(0.0, 0.3), *readout.in_step(0.3, 1.0)]
    assert [(r.positions.tolist(), r.theta.tolist()) for r in readings] == [([0], [0.0]), ([1], [1.0]), ([2], [1.0])]
    assert positions.n == 3
    assert np.concatenate(positions.times).tolist() == [0.0, 0.3, 1.0]


def test_every_step_of_each_sample_is_answered_at_its_end():
    positions = Positions(5)  # of outputs known in advance
    readout = EveryStep(positions, 2)
    readings = [
        readout.at_start(0.0),
        *readout.in_step(np.array([0.0, 0.0]), np.array([0.3, 0.6])),
        *readout.in_step(np.array([0.3]), np.array([1.0]), np.array([1])),
    ]
    assert [r.positions.tolist() for r in readings] == [[5, 6], [7, 8], [9]]
    assert np.concatenate(positions.times).tolist() == [0.0, 0.0, 0.3, 0.6, 1.0]
    assert np.concatenate(positions.rows).tolist() == [0, 1, 0, 1, 1]


def test_outputs_of_samples_with_steps_of_their_own():
    boundaries = [np.array([0.0, 0.7, 2.0]), np.array([3.0, 2.5, 2.1, 2.0]), np.array([1.0, 2.5]), np.array([2.0, 2.0])]
    rng, rows = np.random.default_rng(0), np.repeat([0, 1, 3], 20)  # nothing of sample 2, and 3 goes nowhere
    times = np.concatenate([rng.uniform(0.0, 2.0, 20), rng.uniform(2.0, 3.0, 20), np.full(20, 2.0)])
    times[:3], times[20:26] = boundaries[0], [3.0, 3.0, 2.5, 2.5, 2.0, 2.0]
    shuffled = rng.permutation(60)
    rows, times = rows[shuffled], times[shuffled]
    readout = OwnOutputTimes(times, rows, np.array([b[[0, -1]] for b in boundaries]))
    start = readout.at_start(0.0)
    answered = list(start.positions)
    assert sorted(answered) == np.flatnonzero(times == np.array([0.0, 3.0, 1.0, 2.0])[rows]).tolist()
    for samples, steps in (([0, 2], [0, 0]), ([1], [0]), ([0, 1], [1, 1]), ([1], [2])):
        t, t_next = (np.array([boundaries[i][n + k] for i, n in zip(samples, steps, strict=True)]) for k in (0, 1))
        for reading in readout.in_step(t, t_next, np.array(samples)):
            assert reading.at_end == (reading.theta == 1.0).any()
            assert (rows[reading.positions] == np.array(samples)[reading.rows]).all()
            there = t[reading.rows] + reading.theta * (t_next - t)[reading.rows]
            np.testing.assert_allclose(there, times[reading.positions], atol=1e-15)
            assert ((reading.theta > 0.0) & (reading.theta <= 1.0)).all()
            answered.extend(reading.positions)
    assert sorted(answered) == list(range(60))


def test_the_same_outputs_of_all_samples_with_steps_of_their_own():
    readout = OwnOutputTimes(np.array([0.5, 0.0, 2.0]), None, np.array([[0.0, 2.0], [0.0, 2.0]]))
    start = readout.at_start(0.0)
    assert (start.positions.tolist(), start.rows.tolist()) == ([2, 3], [0, 1])
    inside, end = readout.in_step(np.zeros(2), np.array([2.0, 1.0]), np.array([0, 1]))
    assert (inside.positions.tolist(), inside.theta.tolist(), inside.rows.tolist()) == ([0, 1], [0.25, 0.5], [0, 1])
    assert (end.positions.tolist(), end.at_end) == ([4], True)
    (end,) = readout.in_step(np.ones(1), np.full(1, 2.0), np.array([1]))
    assert (end.positions.tolist(), end.rows.tolist()) == ([5], [0])

import numpy as np
import pytest

from skode.equations.events import Course, Events

DOSES = np.array([0, 0, 1]), np.array([1.0, 1.0, 2.0]), np.array([[5.0], [6.0], [7.0]])
JUMPS = np.array([[0.5, 1.0, np.nan], [3.0, np.nan, np.nan]])


@pytest.fixture
def events():
    return Events.of(2, DOSES, JUMPS)


def test_doses_and_jumps_are_in_order_and_a_jump_at_a_dose_is_one_event(events):
    assert events.pointer.tolist() == [0, 3, 5]
    assert events.time.tolist() == [0.5, 1.0, 1.0, 2.0, 3.0]
    assert events.dose.tolist() == [-1, 0, 1, 2, -1]


def test_events_before_times(events):
    series, t = np.array([0, 0, 1, 1]), np.array([1.0, 0.7, 3.0, 9.0])
    assert events.until(series, t).tolist() == [3, 1, 2, 2]
    assert events.until(series, t, inclusive=False).tolist() == [1, 1, 1, 2]
    assert events.until(series[:, None], t[:, None]).tolist() == [[3], [1], [2], [2]]


def test_the_course_forward_and_backward(events):
    spans = np.array([[0.0, 1.0], [4.0, 2.5]])
    times = np.array([[0.7, 1.0, 1.0], [2.5, np.nan, np.nan]])
    course = events.course(np.array([0, 1]), spans, times, np.array([[0, 1, 2, 3], [2, 1, 0, 0]]))
    assert course.passed.tolist() == [[1, 2, 3], [1, 0, 0]]
    np.testing.assert_array_equal(course.stops, [[0.5, 1.0, 1.0], [3.0, np.nan, np.nan]])
    assert course.doses.tolist() == [[-1, 0, 1], [-1, -1, -1]]
    assert course.take(np.array([1])).stops.tolist()[0][0] == 3.0


def test_a_course_without_events():
    course = Course.smooth(np.zeros((2, 2)), np.zeros((2, 3)))
    assert course.stops.shape == course.doses.shape == (2, 0)
    none = Events.of(2, (np.zeros(0, int), np.zeros(0), np.zeros((0, 1))), np.full((2, 1), np.nan))
    times = np.zeros((1, 1))
    assert none.course(np.array([1]), np.zeros((1, 2)), times, np.zeros((1, 2), int)).stops.shape == (1, 0)

import numpy as np
import torch
from numpy.testing import assert_array_equal

from skode.timeseries.events import EventTensors
from skode.timeseries.panel import Panel

LIKE = torch.zeros(0, dtype=torch.float64)
NAN = np.nan

#: Two series; of the first a dose at its start, two at time 2, and an observation between these.
SERIES = np.array(["a", "a", "a", "a", "a", "a", "b", "b"])
TIME = np.array([10.0, 11.0, 12.0, 12.0, 12.0, 14.0, 0.0, 4.0])
AMOUNTS = np.array([[3.0], [0.0], [5.0], [0.0], [7.0], [0.0], [0.0], [0.0]])
Y = np.array([[1.0], [2.0], [NAN], [3.0], [NAN], [4.0], [5.0], [6.0]])
INPUT = np.array([[0.0], [0.0], [1.0], [1.0], [2.0], [2.0], [4.0], [4.0]])


def panel(amounts=AMOUNTS):
    return Panel.of(SERIES, TIME, INPUT, Y, amounts=amounts)


def test_doses_are_events_and_observations_stand_among_them():
    known = panel()
    events = EventTensors.of(known.observed(), known, LIKE, 2.0, linear=True)
    assert_array_equal(events.time, [[0.0, 1.0, 1.0], [np.inf] * 3])
    assert_array_equal(events.amounts[..., 0], [[3.0, 5.0, 7.0], [0.0] * 3])
    assert_array_equal(events.before, [[0, 1, 2, 3], [0, 0, 0, 0]])  # slots that are not used hold 0
    assert_array_equal(events.since_last()[..., 0], [[0.0, 3.0, 5.0, 7.0], [0.0] * 4])
    assert_array_equal(events.take(torch.tensor([1])).time, [[np.inf] * 3])
    assert_array_equal(events.later(torch.tensor([[0.5], [0.0]])).time[0], [-0.5, 0.5, 0.5])


def test_inputs_that_jump_are_events_where_there_is_no_dose():
    none = panel(amounts=np.zeros((8, 1)))
    events = EventTensors.of(none, none, LIKE, 1.0, linear=False)
    assert_array_equal(events.time, [[2.0], [np.inf]])  # the last of the rows at one time holds
    assert not events.amounts.any()
    both = panel()
    assert_array_equal(EventTensors.of(both, both, LIKE, 1.0, linear=False).time[0], [0.0, 2.0, 2.0])
    without = panel(amounts=None)
    assert EventTensors.of(without, without, LIKE, 1.0, linear=True).time.shape == (2, 0)
    assert EventTensors.of(without, without, LIKE, 1.0, linear=True).since_last().shape == (2, 6, 0)


def test_nodes_between_slots_count_the_events_before_them():
    known = panel()
    events = EventTensors.of(known.observed(), known, LIKE, 1.0, linear=True)
    slots = torch.tensor([[0.0, 1.0, 2.0, 4.0], [0.0, 4.0, NAN, NAN]], dtype=torch.float64)
    nodes = torch.tensor([[1.5, 3.0], [1.0, 2.0]], dtype=torch.float64)
    _, order = torch.sort(torch.cat([slots, nodes], dim=1), dim=1)
    assert_array_equal(events.with_nodes(nodes, order).before, [[0, 1, 1, 2, 3, 3], [0] * 6])


def test_what_is_told_later_replaces_doses_at_its_times():
    first = panel()
    again = first.joined(panel())
    assert_array_equal(again.doses.amounts[again.doses.given][:, 0], [3.0, 5.0, 7.0])
    other = Panel.of(
        np.array(["a", "a", "a"]), np.array([12.0, 11.0, 12.0]), np.zeros((3, 1)), np.full((3, 1), NAN),
        amounts=np.array([[9.0], [0.0], [0.0]]),
    )  # fmt: skip
    joined = first.joined(other)
    assert_array_equal(joined.doses.amounts[joined.doses.given][:, 0], [3.0, 9.0])
    # A row without doses beside comes behind those that are known at its time, one of theirs before them.
    plain = Panel.of(
        np.array(["a"]), np.array([12.0]), np.zeros((1, 1)), np.full((1, 1), NAN), amounts=np.zeros((1, 1))
    )
    assert plain.after(first).doses.rank.tolist() == [2]
    assert other.after(first).doses.rank.tolist() == [0, 0, 1]

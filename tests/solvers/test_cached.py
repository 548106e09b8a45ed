"""Properties computed once."""

import os
import threading

import pytest

from skode.solvers.cached import cached
from tests.forked import outcome


class Thing:
    n_computed = 0
    slow = None

    @cached
    def number(self):
        """A number."""
        self.n_computed += 1
        if self.slow is not None:
            self.slow()
        return self.n_computed


def test_a_property_is_computed_once_and_can_be_set():
    thing = Thing()
    assert thing.number == thing.number == 1
    thing.number = 5
    assert thing.number == 5
    assert Thing.number.__doc__ == "A number."


def test_threads_that_compute_it_together_get_one_value():
    thing, together, found = Thing(), threading.Barrier(4), []
    thing.slow = together.wait
    threads = [threading.Thread(target=lambda: found.append(thing.number)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [thing.number] * 4


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks here")
def test_a_forked_child_computes_what_a_thread_is_computing():
    thing, inside, leave = Thing(), threading.Event(), threading.Event()
    thing.slow = lambda: (
        inside.set(),
        leave.wait(0.0 if threading.current_thread() is threading.main_thread() else None),
    )
    thread = threading.Thread(target=lambda: thing.number)
    thread.start()
    inside.wait()
    assert outcome(lambda: thing.number == 2) == "true"
    leave.set()
    thread.join()

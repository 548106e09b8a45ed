import os
import threading

import pytest
import torch

from skode.solvers.fused import threads
from tests.forked import held_by_another_thread, outcome


class Library:
    """A library of products that has a number of threads."""

    def __init__(self, n):
        self.n = n

    def get_num_threads(self):
        return self.n

    def set_num_threads(self, n):
        self.n = n


@pytest.fixture
def library(monkeypatch):
    monkeypatch.setitem(vars(threads.one_thread), "libraries", [found := Library(4)])
    return found


def test_threads_come_back_when_the_last_solve_is_done(library):
    with threads.one_thread:
        assert library.n == 1
        with threads.one_thread:
            assert library.n == 1
        assert library.n == 1
    assert library.n == 4
    library.n = 3
    threads.one_thread.restore()
    assert library.n == 3


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks here")
def test_a_forked_child_has_the_threads_that_another_thread_held(library):
    with held_by_another_thread(threads.one_thread):
        assert library.n == 1
        assert outcome(lambda: library.n == 4 and threads.one_thread.users == 0) == "true"
        assert library.n == 1
    assert library.n == 4


def test_solves_that_overlap_leave_the_number_as_it_was(library):
    inside, leave = threading.Event(), threading.Event()

    def hold():
        with threads.one_thread:
            inside.set()
            leave.wait()

    other = threading.Thread(target=hold)
    other.start()
    inside.wait()
    with threads.one_thread:
        pass
    assert library.n == 1  # the other one needs it still
    leave.set()
    other.join()
    assert library.n == 4


def test_what_is_small(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert threads.is_small(256, 128)
    assert not threads.is_small(257, 128)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert threads.is_small(2**20, 128)

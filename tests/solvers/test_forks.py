"""A process may fork whatever its threads are doing."""

import os
import threading

import numpy as np
import pytest
import torch
from torch import nn

from skode.dynamics import MLPField
from skode.solvers import forks, free_idle_memory, odeint
from skode.solvers.buffer_pool import BufferPool
from skode.solvers.device.kinds import KINDS
from skode.solvers.forks import Lock
from tests.every_estimator import cases
from tests.forked import held_by_another_thread, meanwhile, outcome

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks here"),
    pytest.mark.filterwarnings("ignore:Maximum iterations:sklearn.exceptions.ConvergenceWarning"),
]


def test_a_child_finds_locks_free_and_its_parent_keeps_them():
    lock = Lock()
    with held_by_another_thread(lock):
        assert outcome(lambda: lock.acquire(blocking=False)) == "true"
        assert not lock.acquire(blocking=False)
    with lock, lock:
        pass


def test_locks_of_finished_solves_are_forgotten():
    before = len(forks._locks)
    odeint(MLPField(2, (3,)), torch.ones(1, 2, requires_grad=True), [0.0, 1.0]).sum().backward()
    assert len(forks._locks) == before


def test_a_child_solves_while_a_thread_has_the_lock_of_the_pools():
    field, y0 = MLPField(2, (3,)), torch.ones(1, 2, requires_grad=True)
    expected = odeint(field, y0, [0.0, 1.0]).detach()
    assert BufferPool.total

    def same():
        kept = BufferPool.total
        y = odeint(field, y0, [0.0, 1.0])
        y.sum().backward()
        free_idle_memory()
        return kept == 0 and torch.equal(y.detach(), expected)

    with held_by_another_thread(BufferPool.lock), held_by_another_thread(KINDS.lock):
        assert outcome(same) == "true"
    free_idle_memory()


class Halting(nn.Module):
    """A field whose pullback halts in threads of that name."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([[0.5, 1.0], [-1.0, 0.2]], dtype=torch.float64))
        self.halted, self.go_on, self.n_pulled = threading.Event(), threading.Event(), 0

    def forward(self, t, y):
        return torch.tanh(y @ self.weight)

    def linearize(self, t, y):
        value = torch.tanh(y @ self.weight)
        return value, (y, value)

    def pullback(self, residuals, cotangent):
        y, value = residuals
        self.n_pulled += 1
        if threading.current_thread().name == "halting" and self.n_pulled == 9:
            self.halted.set()
            self.go_on.wait()
        delta = cotangent * (1.0 - value**2)
        return delta @ self.weight.t(), (y, delta)

    def parameter_gradients(self, tape):
        return [sum(y.t() @ delta for (y, _), (_, delta) in tape)]


def test_a_child_pulls_back_a_graph_that_a_thread_is_pulling_back():
    field = Halting()
    y0 = torch.tensor([[1.0, 2.0]], dtype=torch.float64, requires_grad=True)
    y = odeint(field, y0, [0.0, 2.0])[-1].sum()
    expected = torch.autograd.grad(y, [y0, field.weight], retain_graph=True)
    y = odeint(field, y0, [0.0, 2.0])[-1].sum()
    field.n_pulled = 0
    thread = threading.Thread(
        target=lambda: torch.autograd.grad(y, [y0, field.weight], retain_graph=True), name="halting"
    )
    thread.start()
    field.halted.wait()

    def same():
        found = torch.autograd.grad(y, [y0, field.weight])
        return all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))

    assert outcome(same) == "true"
    field.go_on.set()
    thread.join()


def test_children_of_a_process_whose_threads_predict_answer_as_it_does():
    every = cases()
    names = ("ODENetClassifier", "CNFDensityEstimator", "LatentODERegressor")
    models = [(every[name].estimator.fit(*every[name].data[0]), every[name]) for name in names]

    def answers():
        return [case.answer(model, case.data[0][0]) for model, case in models]

    def predicting(i):
        model, case = models[i]

        def predict(goes_on):
            while goes_on():
                case.answer(model, case.data[0][0])

        return predict

    expected = answers()
    with meanwhile(*(predicting(i) for i in range(3))):
        found = [outcome(lambda: all(map(np.array_equal, answers(), expected))) for _ in range(10)]
    assert found == ["true"] * 10

"""What the adjoints keep between the forward and the backward pass."""

import weakref

import pytest
import torch


class RemembersStates:
    """A vector field that knows which of the states it was given are still alive."""

    def __init__(self):
        self.states = []

    def __call__(self, t, y):
        self.states.append(weakref.ref(y))
        return torch.sin(y)

    @property
    def n_alive(self):
        return sum(state() is not None for state in self.states)


@pytest.fixture
def remembers_states():
    return RemembersStates()


@pytest.fixture
def saved_tensors():
    """A function that runs another and tells how many tensors autograd saved for the backward pass."""

    def count(run):
        saved = []

        def pack(tensor):
            saved.append(tensor.shape)
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            run()
        return len(saved)

    return count

"""Settings of the whole test run."""

import gc
import os

# The models here are small: more threads only wait for each other, and for those of other workers. Set before any
# library of matrices is loaded, for this process, for workers and for the processes that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch

from skode.training.checkpoint import Checkpoint

torch.set_num_threads(1)  # also where the user's setting, or a library loaded earlier, says more


class Cut(BaseException):
    """The end of the process."""


@pytest.fixture
def cut(monkeypatch):
    """Sets at which look at its checkpoint, then written, a fit is cut off; returns a list with their number."""
    looks, look = [0, None], Checkpoint.look

    def counted(checkpoint):
        if checkpoint._step is None:
            return
        looks[0] += 1
        if looks[0] == looks[1]:
            checkpoint.interval = 0.0
            look(checkpoint)
            raise Cut

    def after(n=None):
        looks[:] = [0, n]
        return looks

    monkeypatch.setattr(Checkpoint, "look", counted)
    after.Cut = Cut
    return after


def pytest_collection_finish(session):
    """Spare garbage collections all that stays anyway: the libraries, and thousands of tests."""
    gc.collect()
    gc.freeze()

"""The times next to a discontinuity."""

import math

import numpy as np
import pytest
import torch

from skode.solvers.nearest_time import nearest_time


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("t", [0.0, 0.1, -3.0, 1e6])
def test_the_neighbours_of_a_time(t, dtype):
    kind = {torch.float32: np.float32, torch.float64: np.float64}[dtype]
    for direction in (1.0, 1e-30, -2.0):
        exact, nearest = nearest_time(t, direction, dtype)
        assert exact.dtype == nearest.dtype == dtype
        assert float(exact) == float(kind(t))
        assert float(nearest) == float(np.nextafter(kind(t), kind(math.copysign(math.inf, direction))))


def test_each_time_has_a_side_of_its_own():
    times, sides = np.array([0.5, 0.5, 2.0]), np.array([1.0, -1.0, -3.0])
    _, nearest = nearest_time(times, sides, torch.float64)
    assert nearest.tolist() == np.nextafter(times, sides * np.inf).tolist()
    _, column = nearest_time(0.5, torch.tensor([[1.0], [-1.0]]), torch.float32)
    assert column.shape == (2, 1)
    assert column[1] < 0.5 < column[0]


def test_neighbours_have_no_graph():
    t = torch.tensor(0.5, requires_grad=True)
    assert not any(x.requires_grad for x in nearest_time(t, t, torch.float32))

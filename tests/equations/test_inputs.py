import numpy as np
import pytest
import torch

from skode.equations.inputs import Inputs

CODES = np.array([0, 0, 0, 1])
TIMES = np.array([0.0, 1.0, 3.0, 5.0])
COLUMNS = np.array([[0.0, 10.0], [2.0, 10.0], [6.0, 20.0], [7.0, 70.0]])


def at(inputs, series, t):
    found = inputs.at(torch.tensor([series]), torch.tensor([[t]], dtype=torch.float64))
    return {name: value.item() for name, value in found.items()}


@pytest.mark.parametrize(
    ("t", "linear", "previous"),
    [(-1.0, 0.0, 0.0), (0.0, 0.0, 0.0), (0.5, 1.0, 0.0), (1.0, 2.0, 2.0), (2.0, 4.0, 2.0), (3.0, 6.0, 6.0), (9, 6, 6)],
)
def test_inputs_between_and_beyond_rows(t, linear, previous):
    assert at(Inputs.of(["u", "v"], CODES, TIMES, COLUMNS, linear=True), 0, t)["u"] == pytest.approx(linear)
    assert at(Inputs.of(["u", "v"], CODES, TIMES, COLUMNS, linear=False), 0, t)["u"] == previous


def test_series_have_their_own():
    inputs = Inputs.of(["u", "v"], CODES, TIMES, COLUMNS, linear=True)
    assert at(inputs, 1, 0.0) == at(inputs, 1, 99.0) == {"u": 7.0, "v": 70.0}
    both = inputs.at(torch.tensor([1, 0]), torch.full((2, 1), 2.0, dtype=torch.float64))
    np.testing.assert_allclose(both["v"], [[70.0], [15.0]])


def test_of_rows_at_one_time_the_last_holds():
    inputs = Inputs.of(
        ["u"], np.zeros(3, dtype=int), np.array([0.0, 1.0, 1.0]), np.array([[0.0], [1.0], [5.0]]), linear=True
    )
    assert at(inputs, 0, 1.0) == {"u": 5.0}
    assert at(inputs, 0, 0.5) == {"u": 2.5}

"""Arguments of simulations: errors that name them, and columns by name or in order."""

import numpy as np
import pandas as pd
import pytest

from skode.equations.columns import Columns
from skode.equations.simulation import numbers, read_inputs, read_start, read_times, read_values

T = np.array([0.0, 1.0, 2.0])
COLUMNS = Columns(("temp", "dose", "tested"), ("dose",), "tested")


@pytest.mark.parametrize(
    ("read", "message"),
    [
        (lambda: read_start([[0.0], [1.0, 2.0]], ("a",)), "y0 must hold numbers, in rows of one length"),
        (lambda: read_start("a", ("a",)), "y0 must hold numbers"),
        (lambda: read_start([np.nan], ("a",)), "y0 holds NaN or infinity"),
        (lambda: read_start([1.0, 2.0], ("a",)), r"y0 must be of shape \(1,\) or \(n, 1\), for \['a'\]"),
        (lambda: read_times([0.0, [1.0]]), "times must hold numbers, in rows of one length"),
        (lambda: read_times(pd.date_range("2020-01-01", periods=2)), "times must hold numbers"),
        (lambda: read_times([0.0, 2.0, 1.0]), "times must be of one dimension and in order"),
        (lambda: read_times([0.0, 1.0, 1.0]), "without repetitions"),
        (lambda: read_times([0.0, np.inf]), "times holds NaN or infinity"),
        (lambda: read_values([1.0], ["a"]), "params must be a dict of names to numbers"),
        (lambda: read_values({"b": 1.0}, ["a"]), "params names 'b', which is not a parameter"),
        (lambda: read_values({"a": [1.0, 2.0]}, ["a"]), r"params\['a'\] must be one number"),
        (lambda: read_values({"a": "fast"}, ["a"]), r"params\['a'\] must hold numbers"),
    ],
)
def test_wrong_arguments_are_named(read, message):
    with pytest.raises(ValueError, match=message):
        read()


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (None, r"inputs must hold \['temp', 'dose'\] at the times"),
        ([[1.0, 0.0], [1.0], [1.0, 0.0]], "inputs must hold numbers, in rows of one length"),
        (np.zeros((3, 3)), r"inputs must be of shape \(3, 2\).*got \(3, 3\)"),
        (pd.DataFrame({"temp": T}), "inputs has no column 'dose'"),
        (pd.DataFrame({"temp": [1.0, np.nan, 2.0], "dose": 0.0}), "inputs holds NaN or infinity"),
        (pd.DataFrame({"temp": T, "dose": [np.inf, 0.0, 0.0]}), "inputs holds NaN or infinity"),
    ],
)
def test_wrong_inputs_are_named(inputs, message):
    with pytest.raises(ValueError, match=message):
        read_inputs(inputs, T, COLUMNS, linear=True)


def test_inputs_go_by_name_or_in_order():
    frame = pd.DataFrame({"dose": [np.nan, 5.0, 0.0], "other": "x", "temp": [3.0, 4.0, 6.0]})
    for given in (frame, frame[["temp", "dose"]].to_numpy(), frame[["temp", "dose"]].set_axis(["a", "b"], axis=1)):
        found = read_inputs(given, T, COLUMNS, linear=True)
        assert found.names == ["temp"]
        assert found.values[0, :, 0].tolist() == [3.0, 4.0, 6.0]
        assert found.events.time.tolist() == [1.0]
        assert found.events.amounts.tolist() == [[5.0]]
    backward = read_inputs(frame.assign(dose=0.0)[::-1], T[::-1], COLUMNS, linear=True)
    assert backward.values[0, :, 0].tolist() == [3.0, 4.0, 6.0]


def test_there_may_be_no_inputs():
    assert read_inputs(None, T, Columns(()), linear=True) is None
    assert read_inputs(None, T, Columns(("dose",), ("dose",)), linear=True) is None
    with pytest.raises(ValueError, match="the model was fitted without any"):
        read_inputs(T, T, Columns(()), linear=True)
    assert read_inputs([1.0, np.nan, 0.0], T, Columns(("dose",), ("dose",)), linear=True).events.time.tolist() == [0.0]


def test_numbers_that_may_be_missing():
    assert np.isnan(numbers([np.nan], "x", maybe_missing=True)).all()
    with pytest.raises(ValueError, match="x holds NaN or infinity"):
        numbers([np.inf], "x", maybe_missing=True)

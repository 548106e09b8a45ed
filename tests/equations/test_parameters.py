import math

import numpy as np
import pytest
import torch

from skode.equations.parameters import FURTHEST_LOG, Parameter, Scales, known_names, read_parameters


def test_a_number_is_a_start_without_bounds():
    (parameter,) = read_parameters({"a": 2})
    assert parameter == Parameter("a", 2.0, -math.inf, math.inf)
    assert not parameter.log


@pytest.mark.parametrize(
    ("given", "log"),
    [((0.5, 0, None), True), ((0.5, 0.0, 3.0), True), ((0.0, 0, None), False), ((0.5, -1, 1), False), (0.5, False)],
)
def test_the_scale_is_logarithmic_above_a_bound_of_zero(given, log):
    assert read_parameters({"a": given})[0].log is log


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((2.0, 0.0, 1.0), r"params\['a'\] starts at 2.0, which its bounds, 0.0 and 1.0, exclude"),
        ((0.5, 1.0, 0.0), "the first must be below the second"),
        ((0.5, 0.0), r"params\['a'\]=\(0.5, 0.0\) has 2 entries: .* with None for no bound"),
        ("high", r"params\['a'\]='high': its start is 'high', but must be a number"),
        ((1.0, [0.0], None), r"its low is \[0.0\], but must be a number, or None for no bound"),
        ((1.0, 0.0, "inf"), "its high is 'inf'"),
        (True, "its start is True"),
        (math.inf, "start at a finite number"),
        (math.nan, "its start is nan"),
    ],
)
def test_wrong_entries_are_refused_by_name(given, message):
    with pytest.raises(ValueError, match=message):
        read_parameters({"a": given})


@pytest.mark.parametrize("given", [np.array([0.5, 0.0, 1.0]), torch.tensor([0.5, 0.0, 1.0])])
def test_arrays_are_entries_too(given):
    assert read_parameters({"a": given}) == read_parameters({"a": (0.5, 0.0, 1.0)})
    assert read_parameters({"a": given[0]}) == read_parameters({"a": 0.5})


@pytest.mark.parametrize(("given", "message"), [([1.0], "must be a dict"), ({1: 1.0}, "names that are str")])
def test_parameters_are_a_dict_by_name(given, message):
    with pytest.raises(ValueError, match=message):
        read_parameters(given)


def test_names_must_be_known():
    assert known_names("a", ["a", "b"], "fixed") == ["a"]
    with pytest.raises(ValueError, match=r"fixed names 'c', which is not in params; they are \['a', 'b'\]"):
        known_names(["a", "c"], ["a", "b"], "fixed")


def test_scales_go_there_and_back_with_slopes():
    scales = Scales(read_parameters({"a": (0.5, 0, None), "b": (-1.0, -2.0, 3.0), "c": (2.0, 0.0, 8.0)}))
    values = np.array([[0.3, 1.0, 4.0]])
    u = scales.scaled(values)
    np.testing.assert_allclose(u, [[np.log(0.3), 1.0, np.log(4.0)]])
    np.testing.assert_allclose(scales.values(u), values)
    moved = (scales.values(u + 1e-6) - scales.values(u - 1e-6)) / 2e-6
    np.testing.assert_allclose(scales.slopes(u), moved, rtol=1e-8)
    np.testing.assert_allclose(scales.low, [np.log(0.5) - FURTHEST_LOG, -2.0, np.log(2.0) - FURTHEST_LOG])
    np.testing.assert_allclose(scales.high, [np.log(0.5) + FURTHEST_LOG, 3.0, np.log(8.0)])

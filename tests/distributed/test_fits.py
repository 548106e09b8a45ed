"""A fit of two processes is that of one."""

import numpy as np
import pytest

from tests.distributed.fits import NOT_REPEATED, TO_ROUNDING, TO_TOLERANCE, fitted
from tests.distributed.launch import Job

#: Modes are found to a tolerance.
FOUND = {"posterior", "log-weights"}

ALL = [*TO_ROUNDING, *TO_TOLERANCE, *NOT_REPEATED]


@pytest.fixture(scope="module")
def of_two(tmp_path_factory):
    """What all fits end with in each of two processes."""
    results = Job(tmp_path_factory.mktemp("fits"), "tests.distributed.fits:fitted", ALL).results()
    for result in results:
        if not isinstance(result, dict):
            raise AssertionError(result)
    return results


@pytest.mark.parametrize("name", ALL)
def test_all_processes_end_with_the_same_to_the_bit(of_two, name):
    first, second = (result[name] for result in of_two)
    assert first.keys() == second.keys()
    for key, value in first.items():
        np.testing.assert_array_equal(value, second[key], err_msg=key)


@pytest.mark.parametrize("name", [*TO_ROUNDING, *TO_TOLERANCE])
def test_it_is_the_fit_of_one_process(of_two, name):
    alone = fitted([name])[name]
    for key, value in alone.items():
        if name in TO_TOLERANCE:
            if key == "nfe_forward_":
                continue
            tolerance = 1e-4
        elif key in FOUND:
            tolerance = 1e-7
        else:
            tolerance = 1e-10
        np.testing.assert_allclose(of_two[0][name][key], value, rtol=tolerance, atol=tolerance, err_msg=key)

"""Fits of two processes that share a device."""

import numpy as np
import pytest

from tests.distributed.fits import fitted_on
from tests.distributed.launch import Job

NAMES = ["classifier", "penalties", "density", "latent"]


@pytest.fixture(scope="module")
def of_two(device, tmp_path_factory):
    """What fits end with in each of two processes."""
    results = Job(tmp_path_factory.mktemp("device"), "tests.distributed.fits:fitted_on", device.type, NAMES).results()
    for result in results:
        assert isinstance(result, dict), result
    return results


@pytest.mark.parametrize("name", NAMES)
def test_it_is_the_fit_of_one_process(device, of_two, name):
    alone = fitted_on(device.type, [name])[name]
    for key, value in alone.items():
        np.testing.assert_array_equal(of_two[0][name][key], of_two[1][name][key], err_msg=key)
        np.testing.assert_allclose(of_two[0][name][key], value, rtol=1e-6, atol=1e-6, err_msg=key)

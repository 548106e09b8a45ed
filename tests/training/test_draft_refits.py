"""Refits that fail leave a former model as it was: answers, attributes, mode of the network, pickle."""

import pytest

from tests.failing_refits import differences, fitted, table

pytestmark = [
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
    pytest.mark.filterwarnings("ignore:X does not have valid feature names:UserWarning"),
]


@pytest.mark.parametrize(("name", "way", "warm"), table())
def test_a_refit_that_fails_changes_nothing(name, way, warm):
    assert differences(*fitted(name, way), way, warm) == []

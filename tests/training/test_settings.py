import re

import pytest
from sklearn.utils._param_validation import InvalidParameterError

from skode import ODENetRegressor
from skode.solvers import METHODS
from skode.training.settings import Choices


@pytest.mark.parametrize(("name", "known"), [("method", METHODS), ("adjoint", ["backprop", "continuous", "discrete"])])
def test_what_there_is_to_choose_from_is_listed_in_order(name, known):
    with pytest.raises(InvalidParameterError, match=f"The '{name}' parameter.*Got 'nonsense'") as caught:
        ODENetRegressor(**{name: "nonsense"}).fit([[0.0], [1.0]], [0.0, 1.0])
    listed = re.search(r"among {(.*)}", str(caught.value)).group(1)
    assert listed == ", ".join(repr(option) for option in sorted(known))


def test_only_what_is_listed_may_be_chosen():
    choices = Choices({"b", "a"})
    assert choices.is_satisfied_by("a")
    assert not choices.is_satisfied_by("c")
    assert not choices.is_satisfied_by(1)

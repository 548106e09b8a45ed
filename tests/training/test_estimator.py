"""What all estimators share."""

import copy
import pickle

import pytest
from sklearn.datasets import make_moons
from torch import nn

from skode import ODENetClassifier


@pytest.fixture
def classifier():
    X, y = make_moons(20, random_state=0)
    model = ODENetClassifier((4,), state_size=3, max_iter=1, batch_size=20, random_state=0)
    return model.fit(X, y)


class Elsewhere(nn.Linear):
    """A layer that says it is on another device, and remembers whether it was asked to come to the CPU."""

    came = False

    def parameters(self, recurse=True):
        return iter([nn.Parameter(self.weight.detach().to("meta"))])

    def cpu(self):
        self.came = True
        return self


def test_a_copy_shares_the_module_where_it_is_and_a_pickle_has_it_on_the_cpu(classifier):
    classifier.module_ = Elsewhere(2, 2)
    copied = copy.copy(classifier)
    assert copied.module_ is classifier.module_
    assert not copied.module_.came
    assert pickle.loads(pickle.dumps(classifier)).module_.came
    assert copied.set_params(rtol=0.5) is not classifier
    assert classifier.rtol != 0.5

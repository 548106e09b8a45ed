"""What all estimators share."""

import copy
import pickle
import re
import warnings

import numpy as np
import pytest
from sklearn.datasets import make_moons
from sklearn.exceptions import ConvergenceWarning
from torch import nn

from skode import CNFDensityEstimator, LatentODERegressor, ODENetClassifier, ODENetRegressor


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


X = np.random.RandomState(0).normal(size=(12, 2))


@pytest.mark.parametrize(
    ("estimator", "name", "value"),
    [
        (CNFDensityEstimator(), "hidden_layer_sizes", 10**9),
        (CNFDensityEstimator(field="gated_planar"), "hidden_layer_sizes", (10**9,)),
        (ODENetClassifier(), "hidden_layer_sizes", (64, 10**9)),
        (ODENetClassifier(), "state_size", 10**9),
        (ODENetRegressor(), "augment_dim", 10**9),
        (ODENetRegressor(evolving_weights=True), "hidden_layer_sizes", (10**6, 10**6)),
        (LatentODERegressor(), "hidden_layer_sizes", 10**9),
        (LatentODERegressor(), "latent_size", 10**9),
        (LatentODERegressor(encoder="rnn"), "encoder_size", 10**9),
        (LatentODERegressor(max_iter=1), "n_draws", 10**12),
    ],
)
def test_a_size_that_no_memory_holds_is_named_and_changes_nothing(estimator, name, value):
    estimator.set_params(**{name: value})
    before = dict(vars(estimator))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(
            MemoryError, match=rf"too small for this fit: lower one of .*{name}={re.escape(str(value))}"
        ):
            estimator.fit(X, (X[:, 0] > 0).astype(int))
    assert vars(estimator) == before


def test_weights_that_become_infinite_are_gone_back_from():
    # A penalty this strong takes the weights to infinity in one update: the state that the ODE starts from is NaN.
    estimator = ODENetRegressor((4,), state_size=4, alpha=1e300, max_iter=3, random_state=0)
    with pytest.warns(ConvergenceWarning, match="The state from which the ODE starts is NaN or infinite"):
        estimator.fit(X, X[:, 0])
    assert np.isfinite(estimator.predict(X)).all()

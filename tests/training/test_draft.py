"""A fit that fails, in whatever way, leaves the estimator as it was."""

import numpy as np
import pandas as pd
import pytest
import torch

from skode import CNFDensityEstimator, CNFRegressor, LatentODERegressor, ODENetClassifier, ODENetRegressor
from skode.training import draft
from skode.training.loop import _Training

rng = np.random.RandomState(0)
X = rng.normal(size=(60, 2))
ROWS = pd.DataFrame({"series": np.arange(60) // 10, "time": np.tile(np.arange(10.0), 6)})
COMMON = {"hidden_layer_sizes": (4,), "max_iter": 2, "n_iter_no_change": None, "random_state": 0}
CASES = {
    "classifier": (ODENetClassifier(**COMMON), (X, X[:, 0] > 0)),
    "regressor": (ODENetRegressor(**COMMON), (X, X[:, 0])),
    "density": (CNFDensityEstimator(**COMMON), (X,)),
    "conditional": (CNFRegressor(**COMMON), (X, X[:, 0])),
    "latent": (
        LatentODERegressor("series", "time", latent_size=2, encoder_size=4, n_draws=4, **COMMON),
        (ROWS, X[:, 0]),
    ),
}
ERRORS = [RuntimeError("broken"), KeyboardInterrupt(), MemoryError("none left")]


@pytest.fixture(params=CASES)
def case(request):
    estimator, data = CASES[request.param]
    return type(estimator)(**estimator.get_params()), data


def state_of(estimator):
    """Copies of the weights."""
    return {name: value.clone() for name, value in estimator.module_.state_dict().items()}


def raises(error):
    def fail(*args):
        raise error

    return fail


@pytest.mark.parametrize("warm_start", [False, True])
@pytest.mark.parametrize("error", ERRORS, ids=lambda e: type(e).__name__)
def test_a_fit_that_fails_after_weights_have_changed_changes_nothing(case, error, warm_start, monkeypatch):
    estimator, data = case
    monkeypatch.setattr(_Training, "_warn", lambda training: None)
    estimator.set_params(warm_start=warm_start).fit(*data)
    attributes, weights, mode = dict(vars(estimator)), state_of(estimator), estimator.module_.training
    monkeypatch.setattr(_Training, "_warn", raises(error))
    with pytest.raises(type(error)):
        estimator.fit(*data)
    assert vars(estimator).keys() == attributes.keys()
    torch.testing.assert_close(state_of(estimator), weights, rtol=0, atol=0)
    assert estimator.module_.training == mode


@pytest.mark.parametrize("error", ERRORS, ids=lambda e: type(e).__name__)
def test_all_attributes_are_as_before(error):
    estimator = ODENetRegressor()
    estimator.learned_, estimator.changed_ = [1], [1]
    before = dict(vars(estimator))

    def fit():
        with draft(estimator, changed_in_place=("changed_", "absent_")) as new:
            new.learned_ = [2]
            new.changed_.append(2)
            new.new_ = 3
            raise error

    with pytest.raises(type(error)):
        fit()
    assert vars(estimator) == {**before, "learned_": [1], "changed_": [1]}


def test_what_goes_well_stays():
    estimator = ODENetRegressor()
    estimator.former_ = estimator.other_ = 1
    with draft(estimator) as new:
        new.learned_ = 1
        del new.former_
        estimator.set_params(alpha=3.0)  # by another thread
        assert not hasattr(estimator, "learned_")
    assert estimator.learned_ == estimator.other_ == 1
    assert estimator.alpha == 3.0
    assert not hasattr(estimator, "former_")


def test_a_want_of_memory_names_the_sizes():
    told = r"too small for this fit: lower one of batch_size='auto', hidden_layer_sizes"
    with pytest.raises(MemoryError, match=told), draft(ODENetRegressor()):
        raise torch.OutOfMemoryError("out")


class Noted:
    """A callback that notes whether it was set up and torn down, and whose fit fails."""

    def __init__(self, error):
        self.error, self.calls = error, []

    def setup(self, estimator, context):
        self.calls.append("setup")

    def teardown(self, estimator, context):
        self.calls.append("teardown")

    def on_fit_task_begin(self, estimator, context, **task):
        pass

    def on_fit_task_end(self, estimator, context, **task):
        raise self.error


@pytest.mark.filterwarnings("ignore:Maximum iterations")
@pytest.mark.parametrize("warm", [False, True], ids=["first fit", "goes on"])
def test_callbacks_of_a_fit_that_fails_are_torn_down(case, warm):
    estimator, data = case
    if warm:
        estimator.set_params(warm_start=True).fit(*data)
    noted = Noted(RuntimeError("broken"))
    with pytest.raises(RuntimeError, match="broken"):
        estimator.set_callbacks(noted).fit(*data)
    assert noted.calls == ["setup", "teardown"]
    assert hasattr(estimator, "module_") == warm
    assert not any(name.startswith(("_callback_fit", "_skl_callbacks_to")) for name in vars(estimator))


def test_an_error_without_a_message_is_named_by_its_type(monkeypatch):
    monkeypatch.setattr(_Training, "_warn", raises(MemoryError()))
    with pytest.raises(MemoryError, match=r"as it was before\. \(MemoryError\)"):
        ODENetRegressor(**COMMON).fit(X, X[:, 0])

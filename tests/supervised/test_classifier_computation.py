import copy
import pickle

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV, cross_val_score, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler

from skode import ODENetClassifier
from skode.dynamics import ConvField
from skode.dynamics.products import onednn_is_faster
from skode.supervised import fitted as answers
from tests.supervised.tiny import TINY
from tests.weights import same_weights, weights

pytestmark = pytest.mark.filterwarnings("ignore:Maximum iterations:sklearn.exceptions.ConvergenceWarning")

# Dtype and device


def test_torchs_default_dtype_is_no_obstacle(moons):
    onednn_is_faster.cache_clear()
    torch.set_default_dtype(torch.float64)
    try:
        onednn_is_faster()
        assert ODENetClassifier(**{**TINY, "max_iter": 30}).fit(*moons).score(*moons) > 0.8
    finally:
        torch.set_default_dtype(torch.float32)


def test_a_model_fitted_elsewhere_is_pickled_for_the_cpu_and_used_where_device_says(moons, monkeypatch):
    X, _ = moons
    clf = ODENetClassifier(**TINY).fit(*moons)
    expected = clf.predict_proba(X)
    # There may be no other device to compute on: 'meta' knows shapes only, and moving to it loses the weights.
    moved = []

    def cpu(module):
        moved.append(module)
        return clf.module_

    elsewhere = copy.copy(clf)
    elsewhere.module_ = copy.deepcopy(clf.module_).to("meta")
    monkeypatch.setattr(type(clf.module_), "cpu", cpu)
    loaded = pickle.loads(pickle.dumps(elsewhere))
    assert len(moved) == 1
    assert {p.device.type for p in elsewhere.module_.parameters()} == {"meta"}
    np.testing.assert_array_equal(loaded.predict_proba(X), expected)
    monkeypatch.setattr(answers, "resolve_device", torch.device)  # it refuses a device without numbers
    loaded.set_params(device="meta")
    assert loaded._checked(X).device.type == "meta"
    assert {p.device.type for p in loaded.module_.parameters()} == {"meta"}


def test_float32_input_is_computed_in_float32(moons):
    X, y = moons
    clf = ODENetClassifier(**TINY, device="cpu").fit(X.astype(np.float32), y)
    assert {p.dtype for p in clf.module_.parameters()} == {torch.float32}
    assert clf.predict_proba(X.astype(np.float32)).dtype == np.float32


def test_dtype_overrides_that_of_the_input(moons):
    X, y = moons
    clf = ODENetClassifier(**TINY, dtype="float32").fit(X, y)
    assert {p.dtype for p in clf.module_.parameters()} == {torch.float32}


def test_float32_and_float64_learn_nearly_the_same(moons):
    X, y = moons
    single, double = (ODENetClassifier(**TINY, dtype=dtype).fit(X, y) for dtype in ("float32", "float64"))
    np.testing.assert_allclose(single.predict_proba(X), double.predict_proba(X), atol=1e-3)


def test_training_is_in_float32_and_prediction_in_the_dtype_of_the_data(moons):
    X, y = moons
    for given in (np.float32, np.float64):
        clf = ODENetClassifier(**TINY).fit(X.astype(given), y)
        assert clf.predict_proba(X.astype(given)).dtype == given
        assert all(torch.equal(w.float().to(w.dtype), w) for w in weights(clf))
    tight = ODENetClassifier(**TINY, rtol=1e-8, atol=1e-8).fit(X, y)
    assert not all(torch.equal(w.float().double(), w) for w in weights(tight))


@pytest.fixture(scope="module")
def digits():
    """Half of the digits to learn from, and half to answer."""
    X, y = load_digits(return_X_y=True)
    return train_test_split(X, y, train_size=0.5, random_state=0, stratify=y)


IMAGES = {
    "image_shape": (1, 8, 8),
    "state_size": 12,
    "hidden_layer_sizes": (12,),
    "learning_rate_init": 1e-2,
    "rtol": 1e-2,
    "atol": 1e-2,
    "device": "cpu",
    "random_state": 0,
}


@pytest.fixture(scope="module")
def in_bfloat16(digits):
    """A classifier of images that has learned in bfloat16; tests must not change it."""
    X, _, y, _ = digits
    return ODENetClassifier(**IMAGES, max_iter=8, dtype="bfloat16").fit(X, y)


def test_bfloat16_learns_images_as_well_as_float32(digits, in_bfloat16):
    X, X_new, y, y_new = digits
    single = ODENetClassifier(**IMAGES, max_iter=8, dtype="float32").fit(X, y)
    assert in_bfloat16.score(X_new, y_new) > max(0.9, single.score(X_new, y_new) - 0.02)
    assert not same_weights(single, in_bfloat16)
    np.testing.assert_allclose(in_bfloat16.loss_curve_, single.loss_curve_, rtol=0.1)


def test_bfloat16_leaves_weights_and_answers_in_float32(digits, in_bfloat16):
    X = digits[0][:20]
    assert {p.dtype for p in in_bfloat16.module_.parameters()} == {torch.float32}
    assert in_bfloat16.module_.fields[0].autocast
    for answer in (in_bfloat16.predict_proba, in_bfloat16.predict_log_proba, in_bfloat16.transform):
        assert answer(X).dtype == np.float32
    assert in_bfloat16.trajectory(X, [0.0, 1.0]).dtype == np.float32


def test_bfloat16_is_kept_by_pickles_and_clones(digits, in_bfloat16):
    X, _, y, _ = digits
    again = pickle.loads(pickle.dumps(in_bfloat16))
    np.testing.assert_array_equal(again.predict_proba(X[:50]), in_bfloat16.predict_proba(X[:50]))
    assert again.module_.autocast
    assert clone(in_bfloat16).set_params(max_iter=1).fit(X, y).module_.fields[0].autocast


def test_a_fitted_classifier_answers_in_the_precision_it_was_fitted_in(digits, in_bfloat16):
    X = digits[0][:50]
    other = copy.deepcopy(in_bfloat16).set_params(dtype="float32")
    np.testing.assert_array_equal(other.predict_proba(X), in_bfloat16.predict_proba(X))


@pytest.mark.parametrize("go_on", ["fit", "partial_fit"])
def test_training_goes_on_in_bfloat16_and_in_others(digits, go_on):
    X, y = digits[0][:100], digits[2][:100]
    clf = ODENetClassifier(**IMAGES, max_iter=1, warm_start=True, dtype="float64").fit(X, y)

    def found(dtype):
        getattr(clf.set_params(dtype=dtype), go_on)(X, y)
        module = clf.module_
        assert module.fields[0].autocast == module.autocast
        return module.autocast, module.head.weight.dtype

    assert found("bfloat16") == (True, torch.float32)
    assert found(None) == (True, torch.float32)
    assert found("float64") == (False, torch.float64)
    assert found(None) == (False, torch.float64)


class Watched(torch.nn.Module):
    """A field that notes whether it is evaluated under autocast, and what its convolution makes."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.seen = torch.nn.Conv2d(12, 12, 3, padding=1), set()

    def forward(self, t, z):
        value = self.layer(z)
        self.seen.add((torch.is_autocast_enabled("cpu"), torch.is_autocast_cache_enabled(), z.dtype, value.dtype))
        return torch.tanh(value)


def test_a_field_of_ones_own_is_evaluated_under_autocast(digits):
    X, y = digits[0][:100], digits[2][:100]
    clf = ODENetClassifier(**IMAGES, max_iter=1, field=Watched(), n_blocks=2, warm_start=True, dtype="bfloat16")
    clf.fit(X, y)
    fields = list(clf.module_.fields)
    assert all(isinstance(field, Watched) for field in fields)
    under_autocast = {(True, False, torch.float32, torch.bfloat16)}
    assert [field.seen for field in fields] == [under_autocast] * 2
    pickle.loads(pickle.dumps(clf)).predict(X)
    assert clf.predict_proba(X).dtype == np.float32
    assert [field.seen for field in fields] == [under_autocast] * 2
    for field in fields:
        field.seen.clear()
    clf.set_params(dtype="float32").fit(X, y)
    fields = list(clf.module_.fields)  # copies, for a fit that fails is to change nothing
    assert [field.seen for field in fields] == [{(False, True, torch.float32, torch.float32)}] * 2


def test_a_built_in_field_given_by_the_user_is_evaluated_under_autocast(digits):
    X, y = digits[0][:100], digits[2][:100]
    own = ConvField(12, (4,), n_pixels=16, generator=torch.Generator().manual_seed(0))
    for dtype, made in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        clf = ODENetClassifier(**IMAGES, max_iter=1, field=own, dtype=dtype).fit(X, y)
        found = set()
        clf.module_.fields[0].layers[0].register_forward_hook(lambda *given, found=found: found.add(given[-1].dtype))
        clf.predict(X)
        assert found == {made}


def test_a_field_of_ones_own_that_returns_another_dtype_is_refused_under_autocast_too(digits):
    class Double(torch.nn.Module):
        def forward(self, t, z):
            return z.double()

    with pytest.raises(TypeError, match="float64"):
        ODENetClassifier(**IMAGES, field=Double(), dtype="bfloat16").fit(digits[0][:50], digits[2][:50])


def test_integer_and_list_input_is_taken(moons):
    X, y = (10 * moons[0]).astype(int), moons[1]
    as_array = ODENetClassifier(**TINY).fit(X, y).predict_proba(X)
    as_lists = ODENetClassifier(**TINY).fit(X.tolist(), y.tolist()).predict_proba(X.tolist())
    np.testing.assert_array_equal(as_array, as_lists)


def test_rescaled_features_give_the_same_classifier(moons):
    X, y = moons
    plain = ODENetClassifier(**TINY, dtype="float64").fit(X, y)
    moved = ODENetClassifier(**TINY, dtype="float64").fit(X * [1000.0, 0.01] + [5.0, -3.0], y)
    np.testing.assert_allclose(plain.predict_proba(X), moved.predict_proba(X * [1000.0, 0.01] + [5.0, -3.0]), rtol=1e-8)


# scikit-learn's tools


def test_feature_names_are_remembered_and_compared(iris):
    X, y = iris
    clf = ODENetClassifier(**TINY).fit(X, y)
    assert clf.feature_names_in_.tolist() == X.columns.tolist()
    with pytest.raises(ValueError, match="feature names"):
        clf.predict(X.rename(columns={"petal width (cm)": "width"}))
    with pytest.raises(ValueError, match="feature names"):
        clf.predict(X[X.columns[::-1]])


def test_it_works_in_a_pipeline(moons):
    X, y = moons
    pipeline = make_pipeline(MinMaxScaler(), ODENetClassifier(**{**TINY, "max_iter": 15})).fit(X, y)
    assert pipeline.score(X, y) > 0.8


def test_grid_search_over_tolerances(moons):
    grid = GridSearchCV(ODENetClassifier(**TINY), {"rtol": [1e-2, 1e-4], "atol": [1e-3]}, cv=2).fit(*moons)
    assert set(grid.best_params_) == {"rtol", "atol"}
    assert grid.best_estimator_.rtol == grid.best_params_["rtol"]
    assert grid.cv_results_["mean_test_score"].shape == (2,)


def test_cross_validation(moons):
    scores = cross_val_score(ODENetClassifier(**{**TINY, "max_iter": 15}), *moons, cv=3)
    assert scores.mean() > 0.8

import copy
import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from joblib import Parallel, cpu_count, delayed
from sklearn import config_context
from sklearn.base import clone
from sklearn.datasets import load_digits, load_iris, make_classification, make_moons
from sklearn.exceptions import ConvergenceWarning, DataConversionWarning, NotFittedError
from sklearn.metrics import log_loss
from sklearn.model_selection import GridSearchCV, cross_val_score, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler

from skode import ODENetClassifier
from skode.dynamics import ConvField
from skode.dynamics.fields import FIELDS
from skode.dynamics.products import onednn_is_faster
from skode.solvers import SolverError
from skode.supervised import base
from skode.supervised.classifier import check_label_types
from tests.weights import same_weights, weights

pytestmark = pytest.mark.filterwarnings("ignore:Maximum iterations:sklearn.exceptions.ConvergenceWarning")

TINY = {
    "hidden_layer_sizes": (8,),
    "state_size": 4,
    "max_iter": 3,
    "learning_rate": "constant",
    "learning_rate_init": 1e-2,
    "alpha": 1e-4,
    "input_dropout": 0.0,
    "random_state": 0,
}


@pytest.fixture(scope="module")
def moons():
    return make_moons(60, noise=0.1, random_state=0)


@pytest.fixture(scope="module")
def iris():
    return load_iris(return_X_y=True, as_frame=True)


@pytest.fixture(scope="module")
def fitted(moons):
    """A classifier that has learned something; tests must not change it."""
    return ODENetClassifier(**{**TINY, "max_iter": 30}).fit(*moons)


# Learning


def test_it_learns_iris(iris):
    X, y = iris
    X_train, X_test, y_train, y_test = train_test_split(X, y, random_state=0, stratify=y)
    clf = ODENetClassifier((16,), state_size=8, learning_rate_init=2e-2, max_iter=40, random_state=0)
    assert clf.fit(X_train, y_train).score(X_test, y_test) > 0.9


def test_it_learns_what_no_linear_classifier_can():
    rng = np.random.RandomState(0)
    X = rng.uniform(-1, 1, (200, 2))
    y = (X[:, 0] * X[:, 1] > 0).astype(int)  # exclusive or
    clf = ODENetClassifier((16,), state_size=8, learning_rate_init=3e-2, max_iter=60, random_state=0)
    assert clf.fit(X[:150], y[:150]).score(X[150:], y[150:]) > 0.9


@pytest.mark.parametrize("adjoint", ["discrete", "continuous", "backprop"])
def test_every_adjoint_trains(moons, adjoint):
    clf = ODENetClassifier(**{**TINY, "max_iter": 5}, adjoint=adjoint).fit(*moons)
    assert clf.loss_curve_[-1] < clf.loss_curve_[0]


def test_the_adjoints_learn_the_same_weights_at_tight_tolerance(moons):
    fits = [
        ODENetClassifier(**TINY, adjoint=adjoint, rtol=1e-9, atol=1e-10).fit(*moons)
        for adjoint in ("discrete", "continuous", "backprop")
    ]
    for other in fits[1:]:
        for p, q in zip(weights(fits[0]), weights(other), strict=True):
            torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("method", ["euler", "rk4", "bosh3", "tsit5"])
def test_every_kind_of_method_trains(moons, method):
    clf = ODENetClassifier(**{**TINY, "max_iter": 5}, method=method).fit(*moons)
    assert clf.loss_curve_[-1] < clf.loss_curve_[0]


@pytest.mark.parametrize(("method", "stages"), [("euler", 1), ("midpoint", 2), ("rk4", 4)])
@pytest.mark.parametrize(("step_size", "steps"), [(None, 10), (0.25, 4)])
def test_fixed_step_methods_take_the_requested_steps(moons, method, stages, step_size, steps):
    clf = ODENetClassifier(**{**TINY, "max_iter": 1}, method=method, step_size=step_size).fit(*moons)
    assert clf.nfe_forward_[0] - stages * steps in (0, 1)  # one more for the slope at the end, where one is kept


@pytest.mark.parametrize("hidden_layer_sizes", [8, (8, 6), [8], np.array([8, 6]), ()])
def test_hidden_layer_sizes_may_be_written_in_any_of_the_usual_ways(moons, hidden_layer_sizes):
    clf = ODENetClassifier(**{**TINY, "hidden_layer_sizes": hidden_layer_sizes, "max_iter": 1}).fit(*moons)
    assert clf.module_.field.hidden_layer_sizes == tuple(np.atleast_1d(hidden_layer_sizes).astype(int))


def test_without_a_state_size_the_features_are_the_state(moons):
    clf = ODENetClassifier(**{**TINY, "state_size": None, "max_iter": 1}).fit(*moons)
    assert clf.module_.field.n_features == 2


def test_input_dropout_acts_in_training_only(moons):
    X, y = moons
    with_dropout = ODENetClassifier(**{**TINY, "input_dropout": 0.5}).fit(X, y)
    without = ODENetClassifier(**TINY).fit(X, y)
    assert with_dropout.loss_curve_[0] != without.loss_curve_[0]
    np.testing.assert_array_equal(with_dropout.predict_proba(X), with_dropout.predict_proba(X))


# Predictions


def test_probabilities_are_probabilities(fitted, moons):
    proba = fitted.predict_proba(moons[0])
    assert proba.shape == (60, 2)
    assert (proba >= 0).all()
    np.testing.assert_allclose(proba.sum(axis=1), 1.0, rtol=1e-12)


def test_log_probabilities_are_their_logarithms(fitted, moons):
    X = moons[0]
    np.testing.assert_allclose(fitted.predict_log_proba(X), np.log(fitted.predict_proba(X)), rtol=1e-10, atol=1e-12)


def test_log_probabilities_stay_finite_where_probabilities_round_to_zero(fitted):
    confident = clone(fitted).fit(*make_moons(60, noise=0.01, random_state=0))
    with torch.no_grad():
        confident.module_.head.weight.mul_(1e4)
    log_proba = confident.predict_log_proba([[0.0, 1.0], [1.0, -0.5]])
    assert np.isfinite(log_proba).all()
    assert log_proba.min() < -745  # exp of this is 0 in float64


def test_prediction_is_the_most_probable_class(iris):
    X, y = iris
    names = np.array(["virginica", "setosa", "versicolor"])[y]
    clf = ODENetClassifier(**{**TINY, "max_iter": 10}).fit(X, names)
    assert clf.classes_.tolist() == ["setosa", "versicolor", "virginica"]
    np.testing.assert_array_equal(clf.predict(X), clf.classes_[clf.predict_proba(X).argmax(axis=1)])


@pytest.mark.parametrize(
    "labels",
    [
        np.array(["no", "yes"]),
        np.array(["no", "yes"], dtype=object),
        np.array([False, True]),
        np.array([-1, 1]),
        np.array([3.0, 5.0]),
        pd.Series(["no", "yes"], dtype="category"),
    ],
    ids=["str", "object", "bool", "negative int", "whole float", "category"],
)
def test_labels_come_back_as_they_were_given(moons, labels):
    X, codes = moons
    y = labels.iloc[codes] if isinstance(labels, pd.Series) else labels[codes]
    clf = ODENetClassifier(**{**TINY, "max_iter": 15}).fit(X, y)
    assert set(clf.predict(X)) == set(labels)
    assert clf.score(X, y) > 0.8


def test_what_labels_are_called_changes_nothing(moons):
    X, y = moons
    plain = ODENetClassifier(**TINY).fit(X, y)
    named = ODENetClassifier(**TINY).fit(X, np.array(["a", "b"])[y])
    np.testing.assert_array_equal(plain.predict_proba(X), named.predict_proba(X))


def test_tolerance_is_read_when_predicting(fitted, moons):
    X = moons[0]
    reference = clone(fitted).set_params(rtol=1e-10, atol=1e-12)
    reference.__dict__.update({name: value for name, value in vars(fitted).items() if name.endswith("_")})
    evaluations = {}
    for rtol in (1e-1, 1e-4, 1e-8):
        other = pickle.loads(pickle.dumps(fitted)).set_params(rtol=rtol, atol=rtol)
        solution = other._solver()(other.module_.field, (0.0, 1.0), other.module_.embedding(torch.zeros(5, 2).double()))
        evaluations[rtol] = solution.nfev
        error = np.abs(other.predict_proba(X) - reference.predict_proba(X)).max()
        assert error < 10 * rtol
    assert evaluations[1e-1] <= evaluations[1e-4] < evaluations[1e-8]


def test_method_is_read_when_predicting(fitted, moons):
    X = moons[0]
    other = pickle.loads(pickle.dumps(fitted)).set_params(method="rk4")
    difference = np.abs(other.predict_proba(X) - fitted.predict_proba(X)).max()
    assert 0 < difference < 1e-2


def test_rows_are_answered_in_their_order(fitted, moons):
    X = moons[0]
    order = np.random.RandomState(0).permutation(len(X))
    np.testing.assert_allclose(fitted.predict_proba(X[order]), fitted.predict_proba(X)[order], rtol=1e-10)


# Repeatability


def test_two_fits_with_one_seed_are_identical_to_the_bit(moons):
    first, second = (ODENetClassifier(**TINY, early_stopping=True).fit(*moons) for _ in range(2))
    assert same_weights(first, second)
    assert first.loss_curve_ == second.loss_curve_


def test_a_random_state_object_is_consumed(moons):
    rng = np.random.RandomState(0)
    first, second = (ODENetClassifier(**{**TINY, "random_state": rng}).fit(*moons) for _ in range(2))
    assert not same_weights(first, second)


def test_other_seeds_give_other_weights(moons):
    first, second = (ODENetClassifier(**{**TINY, "random_state": seed}).fit(*moons) for seed in (0, 1))
    assert not same_weights(first, second)


def test_pickling_keeps_predictions_to_the_bit(fitted, moons):
    restored = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(restored.predict_proba(moons[0]), fitted.predict_proba(moons[0]))


def test_a_clone_is_not_fitted_and_fits_the_same(fitted, moons):
    twin = clone(fitted)
    with pytest.raises(NotFittedError):
        twin.predict(moons[0])
    assert same_weights(twin.fit(*moons), fitted)


def test_fitting_again_starts_afresh(moons):
    once = ODENetClassifier(**TINY).fit(*moons)
    twice = ODENetClassifier(**TINY).fit(*moons).fit(*moons)
    assert same_weights(once, twice)


def test_warm_start_goes_on_from_the_last_weights(moons):
    X, y = moons
    # Tight, because prediction and training choose their steps differently.
    clf = ODENetClassifier(**{**TINY, "max_iter": 10}, warm_start=True, rtol=1e-12, atol=1e-12).fit(X, y)
    loss = log_loss(y, clf.predict_proba(X))
    clf.set_params(max_iter=1).fit(X, y)
    assert clf.n_iter_ == 1
    assert clf.loss_curve_[0] == pytest.approx(loss, rel=1e-10)  # one batch: the loss before the first update


def test_warm_start_refuses_other_classes(moons):
    X, y = moons
    clf = ODENetClassifier(**TINY, warm_start=True).fit(X, y)
    with pytest.raises(ValueError, match=r"not among those of the first fit or of classes, \[0, 1\]: \[2\]"):
        clf.fit(X, 2 * y)


def test_warm_start_refuses_another_number_of_features(moons):
    X, y = moons
    clf = ODENetClassifier(**TINY, warm_start=True).fit(X, y)
    with pytest.raises(ValueError, match="features"):
        clf.fit(X[:, :1], y)


@pytest.mark.parametrize(
    ("name", "other"), [("hidden_layer_sizes", (9,)), ("augment_dim", 2), ("time_dependent", False)]
)
@pytest.mark.parametrize("go_on", ["fit", "partial_fit"])
def test_training_does_not_go_on_with_another_network_than_requested(moons, name, other, go_on):
    clf = ODENetClassifier(**TINY, warm_start=True).fit(*moons)
    clf.set_params(hidden_layer_sizes=np.atleast_1d(clf.hidden_layer_sizes))  # the same, written differently
    getattr(clf, go_on)(*moons)
    clf.set_params(**{name: other})
    with pytest.raises(ValueError, match=rf"{name}=.*was built with .*warm_start=False"):
        getattr(clf, go_on)(*moons)
    clf.set_params(warm_start=False).fit(*moons)


@pytest.mark.parametrize("field", FIELDS)
def test_every_named_field_learns_and_may_go_on(moons, field):
    X, y = moons
    clf = ODENetClassifier(**{**TINY, "max_iter": 20}, field=field, warm_start=True).fit(X, y)
    assert clf.module_.field.name == field
    assert clf.score(X, y) > 0.8
    assert clone(clf).fit(X, y).score(X, y) == clf.score(X, y)
    clf.fit(X, y)
    with pytest.raises(ValueError, match="hidden_layer_sizes="):
        clf.set_params(hidden_layer_sizes=(99,)).fit(X, y)


@pytest.mark.parametrize("unfit", [{"time_dependent": False}, {"evolving_weights": True}, {"image_shape": (1, 1, 2)}])
def test_a_named_field_is_refused_what_it_does_not_do(moons, unfit):
    with pytest.raises(ValueError, match="field"):
        ODENetClassifier(**TINY, field="concatsquash", **unfit).fit(*moons)


def test_training_does_not_go_on_with_another_field_and_goes_on_in_another_dtype(moons):
    class Own(torch.nn.Module):
        def forward(self, t, z):
            return -z

    X, y = moons
    clf = ODENetClassifier(**TINY, warm_start=True).fit(X.astype(np.float32), y)
    with pytest.raises(ValueError, match="field="):
        clf.set_params(field=Own()).fit(X, y)
    clf.set_params(field=None, dtype="float64").fit(X, y)
    assert clf.predict_proba(X).dtype == np.float64
    own = ODENetClassifier(**TINY, warm_start=True, field=Own()).fit(X, y)
    own.set_params(hidden_layer_sizes=(99,)).fit(X, y)  # which a field of one's own has no use for
    pickle.loads(pickle.dumps(clf)).fit(X, y)


def test_a_refused_fit_leaves_the_last_one_as_it_was(moons, fitted):
    clf, expected = copy.deepcopy(fitted), fitted.predict(moons[0])
    with pytest.raises(ValueError, match="image_shape"):
        clf.set_params(image_shape=(1, 2, 3)).fit(moons[0], np.arange(60) % 5)
    clf.set_params(image_shape=None)
    np.testing.assert_array_equal(clf.predict(moons[0]), expected)


def test_a_fit_that_fails_at_once_leaves_nothing_fitted(moons):
    class Broken(torch.nn.Module):
        def forward(self, t, z):
            return z * torch.nan

    clf = ODENetClassifier(**TINY, field=Broken())
    with pytest.raises(SolverError):
        clf.fit(*moons)
    with pytest.raises(NotFittedError):
        clf.predict(moons[0])


@pytest.mark.parametrize("t", [[], 0.5, [0.5, 0.2], [0.0, 1.5], [-0.1, 1.0], [0.0, np.nan]])
def test_depths_that_are_none_are_refused(fitted, moons, t):
    with pytest.raises(ValueError, match="t must be depths from 0 to 1"):
        fitted.trajectory(moons[0], t)


# Stopping


def test_early_stopping_keeps_the_weights_that_were_best_on_the_part_held_out():
    X, y = make_classification(120, 4, flip_y=0.4, random_state=0)
    clf = ODENetClassifier(
        **{**TINY, "max_iter": 12, "learning_rate_init": 0.1}, early_stopping=True, validation_fraction=0.3
    ).fit(X, y)
    assert clf.best_validation_score_ == max(clf.validation_scores_)
    assert len(clf.validation_scores_) == clf.n_iter_
    # the split is the first thing drawn
    rng = np.random.RandomState(0)
    _, held_out = train_test_split(np.arange(len(y)), test_size=0.3, random_state=rng, stratify=y)
    assert clf.score(X[held_out], y[held_out]) == clf.best_validation_score_
    assert clf.validation_scores_[-1] < clf.best_validation_score_  # so that keeping the last would have failed


def test_early_stopping_that_cannot_split_says_so(moons):
    with pytest.raises(ValueError, match=r"validation_fraction=0\.1 of 6 samples"):
        ODENetClassifier(**TINY, early_stopping=True).fit(moons[0][:6], [0, 0, 0, 1, 1, 1])


def test_without_early_stopping_there_are_no_validation_scores(fitted):
    assert fitted.validation_scores_ is None
    assert fitted.best_validation_score_ is None


def test_a_loss_that_does_not_improve_stops_training(moons):
    clf = ODENetClassifier(**{**TINY, "max_iter": 50}, tol=10.0, n_iter_no_change=2).fit(*moons)
    assert clf.n_iter_ == 3  # the first epoch counts as an improvement on nothing


@pytest.mark.filterwarnings("always:Maximum iterations:sklearn.exceptions.ConvergenceWarning")
def test_reaching_max_iter_warns(moons):
    with pytest.warns(ConvergenceWarning, match=r"Maximum iterations \(3\) reached"):
        ODENetClassifier(**TINY).fit(*moons)


# What it computes in, and where


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
    monkeypatch.setattr(base, "resolve_device", torch.device)  # it refuses a device without numbers
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


# Refusals


@pytest.fixture
def small():
    return make_classification(20, 4, random_state=0)


@pytest.mark.parametrize(("bad", "message"), [(np.nan, "Input X contains NaN"), (np.inf, "Input X contains infinity")])
def test_missing_and_infinite_features_are_refused(small, fitted, bad, message):
    X, y = small
    X[3, 1] = bad
    with pytest.raises(ValueError, match=message):
        ODENetClassifier(**TINY).fit(X, y)
    with pytest.raises(ValueError, match=message):
        fitted.predict(X[:, :2])


def test_one_class_is_refused(small):
    with pytest.raises(ValueError, match="at least 2 classes in y, but the data contains only one class: 7"):
        ODENetClassifier(**TINY).fit(small[0], np.full(20, 7))


def test_one_sample_is_refused(small):
    with pytest.raises(ValueError, match=r"only one class|1 sample"):
        ODENetClassifier(**TINY).fit(small[0][:1], small[1][:1])


def test_another_number_of_features_is_refused(fitted):
    with pytest.raises(ValueError, match="X has 3 features, but ODENetClassifier is expecting 2 features"):
        fitted.predict(np.zeros((4, 3)))


def test_a_one_dimensional_X_is_refused(small, fitted):
    with pytest.raises(ValueError, match="Expected 2D array, got 1D array"):
        ODENetClassifier(**TINY).fit(small[0][:, 0], small[1])
    with pytest.raises(ValueError, match="Expected 2D array, got 1D array"):
        fitted.predict([0.0, 1.0])


def test_a_y_of_another_length_is_refused(small):
    with pytest.raises(ValueError, match=r"inconsistent numbers of samples: \[20, 19\]"):
        ODENetClassifier(**TINY).fit(small[0], small[1][:-1])


def test_a_missing_y_is_refused(small):
    with pytest.raises(ValueError, match="requires y"):
        ODENetClassifier(**TINY).fit(small[0], None)


def test_a_missing_label_is_refused(small):
    X, y = small
    with pytest.raises(ValueError, match="Input y contains NaN"):
        ODENetClassifier(**TINY).fit(X, np.where(np.arange(20) == 3, np.nan, y))


def test_a_continuous_y_is_refused(small):
    with pytest.raises(ValueError, match="Unknown label type: continuous"):
        ODENetClassifier(**TINY).fit(small[0], np.linspace(0, 1, 20))


def test_several_outputs_of_several_classes_are_refused(small):
    with pytest.raises(ValueError, match="'multiclass-multioutput' is not supported"):
        ODENetClassifier(**TINY).fit(small[0], np.column_stack([small[1], 2 * small[1]]))


def test_strings_as_features_are_refused(small):
    with pytest.raises(ValueError, match="could not convert string to float"):
        ODENetClassifier(**TINY).fit([["a", "b"]] * 20, small[1])


@pytest.mark.parametrize(
    ("parameter", "bad"),
    [
        ("method", "dopri9"),
        ("method", None),
        ("rtol", -1e-3),
        ("rtol", "small"),
        ("atol", 0.0),
        ("atol", -1.0),
        ("adjoint", "exact"),
        ("activation", "gelu"),
        ("hidden_layer_sizes", 0),
        ("hidden_layer_sizes", (8, -1)),
        ("hidden_layer_sizes", (8, 2.5)),
        ("hidden_layer_sizes", ("a",)),
        ("hidden_layer_sizes", "64"),
        ("state_size", 0),
        ("state_size", 2.5),
        ("time_dependent", "yes"),
        ("device", "no such device"),
        ("device", 0),
        ("dtype", "float16"),
        ("max_iter", 0),
        ("max_iter", 1.5),
        ("n_iter_no_change", 0),
        ("tol", -1.0),
        ("alpha", -1e-4),
        ("batch_size", 0),
        ("batch_size", "all"),
        ("learning_rate_init", 0.0),
        ("validation_fraction", 1.0),
        ("validation_fraction", 0.0),
        ("step_size", 0.0),
        ("input_dropout", 1.0),
        ("input_dropout", -0.1),
        ("random_state", "seed"),
        ("early_stopping", "sometimes"),
        ("warm_start", 2),
        ("shuffle", None),
    ],
)
def test_a_bad_parameter_is_refused_by_name(small, parameter, bad):
    with pytest.raises(ValueError, match=parameter):
        ODENetClassifier(**{**TINY, parameter: bad}).fit(*small)


@pytest.mark.parametrize(("parameter", "bad"), [("rtol", -1.0), ("rtol", np.nan), ("atol", -1.0), ("method", "dopri9")])
def test_a_bad_parameter_set_after_fitting_is_refused_by_name_when_predicting(fitted, moons, parameter, bad):
    other = pickle.loads(pickle.dumps(fitted)).set_params(**{parameter: bad})
    with pytest.raises(ValueError, match=parameter):
        other.predict(moons[0])


# scikit-learn's manners


def test_html_shows_the_parameters_that_were_set():
    html = ODENetClassifier(rtol=0.0123)._repr_html_()
    assert "ODENetClassifier" in html
    assert "0.0123" in html


def test_sample_weights_are_routed_through_pipelines_and_searches(moons):
    X, y = moons
    weights = np.where(X[:, 0] > 0, 0.0, 1.0)
    expected = ODENetClassifier(**TINY).fit(X[weights > 0], y[weights > 0]).predict_proba(X)
    with config_context(enable_metadata_routing=True):
        clf = ODENetClassifier(**TINY).set_fit_request(sample_weight=True).set_score_request(sample_weight=True)
        search = GridSearchCV(make_pipeline(clf), {"odenetclassifier__rtol": [1e-3]}, cv=2)
        found = search.fit(X, y, sample_weight=weights).predict_proba(X)
    np.testing.assert_allclose(found, expected, atol=0.05)


def test_workers_of_a_search_share_the_cores():
    counts = Parallel(n_jobs=2, backend="loky")(delayed(torch.get_num_threads)() for _ in range(4))
    assert max(counts) <= max(1, cpu_count() // 2)


# What newcomers do


def test_labels_of_which_some_are_missing_are_counted(small):
    X, _ = small
    with pytest.raises(ValueError, match=rf"y has missing labels \(None or NaN\), 1 of {len(X)}: drop those samples"):
        ODENetClassifier(**TINY).fit(X, np.array([None, *["a", "b"] * len(X)][: len(X)], dtype=object))


@pytest.mark.parametrize(
    ("labels", "shown"),
    [
        (["no"] * 20 + ["maybe"] * 19 + ["yes"], "'yes'"),
        ([0] * 38 + [5, 9], "5, 9"),
        ([True] + [False] * 39, "True"),
    ],
    ids=["text", "numbers", "booleans"],
)
@pytest.mark.parametrize("fraction", [0.1, 0.5])
def test_classes_of_one_sample_are_named_where_some_are_to_be_set_aside(labels, shown, fraction):
    X = np.random.default_rng(0).normal(size=(40, 2))
    clf = ODENetClassifier(**TINY, early_stopping=True, validation_fraction=fraction)
    message = rf"set aside validation_fraction={fraction} of 40 samples: .* one sample only of \[{shown}\]"
    with pytest.raises(ValueError, match=message) as caught:
        clf.fit(X, np.array(labels))
    assert "raise validation_fraction" not in str(caught.value)
    clf.set_params(early_stopping=False).fit(X, np.array(labels))  # which is what it says


def test_samples_without_weight_do_not_count_among_those_of_a_class():
    X = np.random.default_rng(0).normal(size=(40, 2))
    weights = np.ones(40)
    weights[1] = 0.0
    with pytest.raises(ValueError, match=r"of 39 samples: .* one sample only of \['a'\]"):
        ODENetClassifier(**TINY, early_stopping=True).fit(X, np.array(["a"] * 2 + ["b"] * 38), weights)


@pytest.mark.parametrize(
    ("n", "fraction", "advice"),
    [
        (30, 0.01, "early_stopping=False, or raise validation_fraction to 0.08 or more"),
        (30, 0.99, "early_stopping=False, or lower validation_fraction to 0.88 or less"),
        (6, 0.2, "early_stopping=False, or raise validation_fraction to 0.4 or more"),
    ],
)
def test_what_is_advised_where_none_can_be_set_aside_does_help(n, fraction, advice):
    X, y = np.random.default_rng(0).normal(size=(n, 2)), np.arange(n) % 3
    clf = ODENetClassifier(**TINY, early_stopping=True, validation_fraction=fraction)
    with pytest.raises(ValueError, match=rf"of {n} samples: .*\. Set {advice}\."):
        clf.fit(X, y)
    clf.set_params(validation_fraction=float(advice.split()[-3])).fit(X, y)


@pytest.mark.parametrize("method", ["fit", "predict"])
def test_images_in_four_dimensions_are_shown_how_to_be_rows(fitted, method):
    images = np.zeros((6, 1, 4, 4))
    call = fitted.predict if method == "predict" else lambda X: ODENetClassifier(**TINY).fit(X, [0, 1] * 3)
    with pytest.raises(ValueError, match=r"X has shape \(6, 1, 4, 4\).*X\.reshape\(len\(X\), -1\).*image_shape="):
        call(images)


def test_a_column_of_labels_is_warned_of_at_the_callers_line(small):
    X, y = small
    with pytest.warns(DataConversionWarning, match="column-vector y") as caught:
        ODENetClassifier(**TINY).fit(X, y[:, None])
    assert caught[0].filename == __file__


def test_text_among_the_features_is_named(small):
    X, y = small
    frame = pd.DataFrame(X).assign(colour="red").rename(columns=str)
    with pytest.raises(ValueError, match=r"X has columns that hold no numbers: {'colour': '.*ODENetClassifier"):
        ODENetClassifier(**TINY).fit(frame, y)


# Answers are given in blocks


@pytest.mark.parametrize("image_shape", [None, (1, 8, 8)])
@pytest.mark.parametrize("method", ["dopri5", "rk4"])
def test_answers_do_not_depend_on_the_blocks_that_they_are_given_in(monkeypatch, image_shape, method):
    X, y = load_digits(return_X_y=True)
    X, y = X[:130], y[:130]
    images = {} if image_shape is None else {"image_shape": image_shape, "state_size": 4}
    clf = ODENetClassifier((16,), method=method, max_iter=2, early_stopping=True, random_state=0, **images)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        clf.fit(X, y)

    def answers():
        proba, (labels, nfe) = clf.predict_proba(X), clf.predict(X, return_nfe=True)
        return [proba, labels, nfe, clf.transform(X), clf.trajectory(X, [0.0, 0.5, 1.0]), np.array(clf.score(X, y))]

    expected = answers()
    monkeypatch.setattr(base, "BLOCK", 16 * 7 if image_shape is None else 4 * 64 * 7)
    for found, right in zip(answers(), expected, strict=True):
        np.testing.assert_allclose(found, right, rtol=1e-6, atol=1e-6)


def test_an_error_names_the_sample_among_all(monkeypatch):
    class Explodes(torch.nn.Module):
        def forward(self, t, z):
            return torch.where(z[:, :1] > 2.5, torch.inf, 0.0) * z.abs() + 0.0 * z if not self.training else -z

    X = np.random.default_rng(0).normal(size=(60, 2))
    X[:, 0].clip(-1.0, 1.0, out=X[:, 0])
    clf = ODENetClassifier(state_size=None, field=Explodes(), max_iter=1, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        clf.fit(X, (X[:, 1] > 0).astype(int))
    X[41, 0] = 100.0
    monkeypatch.setattr(base, "BLOCK", 64 * 10)
    with pytest.raises(SolverError, match="sample 41"):
        clf.predict(X)


@pytest.mark.parametrize(
    ("labels", "kinds"),
    [
        ([1, "a"], r"1 \(int\) and 'a' \(str\)"),
        (["a", 2.5], r"'a' \(str\) and 2.5 \(float\)"),
        ([True, "a"], r"True \(bool\) and 'a' \(str\)"),
        (["a", b"b"], r"'a' \(str\) and b'b' \(bytes\)"),
        ([np.int64(1), np.str_("a")], r"\(int64\) and .*\(str_\)"),
    ],
)
def test_labels_of_several_types_are_named(labels, kinds):
    y = np.array(labels * 10, dtype=object)
    for fit in (ODENetClassifier().fit, lambda X, y: ODENetClassifier().partial_fit(X, y, classes=[0, 1])):
        with pytest.raises(ValueError, match=f"y mixes labels of several types, such as .*{kinds}"):
            fit(np.zeros((20, 1)), y)


@pytest.mark.parametrize("labels", [[1, 2.5], [True, 2], ["a", np.str_("b")], [np.int64(1), 0]])
def test_labels_that_have_an_order_are_not_mixed(labels):
    check_label_types(np.array(labels, dtype=object))


@pytest.mark.parametrize("y", [[[1], [2, 3]] * 5, [[1]] * 9 + [[2, 3]]])
def test_errors_about_labels_name_them(y):
    with pytest.raises(ValueError, match=r"\by\b"):
        ODENetClassifier().fit(np.zeros((10, 1)), y)

import copy
import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import make_classification, make_moons
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.metrics import log_loss
from sklearn.model_selection import train_test_split

from skode import ODENetClassifier
from skode.dynamics.fields import FIELDS
from skode.solvers import SolverError
from tests.supervised.tiny import TINY
from tests.weights import same_weights, weights

pytestmark = pytest.mark.filterwarnings("ignore:Maximum iterations:sklearn.exceptions.ConvergenceWarning")

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
    clf = ODENetClassifier((16,), state_size=8, learning_rate_init=3e-2, max_iter=30, random_state=0)
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
    reference = pickle.loads(pickle.dumps(fitted)).set_params(rtol=1e-10, atol=1e-12)
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
    with pytest.raises(ValueError, match=r"labels \[2\], not among those of the first fit or of classes, \[0, 1\]"):
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


def test_early_stopping_trains_on_all_samples_for_the_epochs_that_were_best_on_the_part_held_out():
    X, y = make_classification(120, 4, flip_y=0.4, random_state=0)
    given = {**TINY, "max_iter": 12, "learning_rate_init": 0.1}
    clf = ODENetClassifier(**given, early_stopping=True, validation_fraction=0.3).fit(X, y)
    assert clf.best_validation_score_ == max(clf.validation_scores_)
    assert len(clf.validation_scores_) == clf.n_iter_ == 12
    n_best = int(np.argmax(clf.validation_scores_)) + 1
    assert n_best < 12  # so that training to the end would have failed
    ended = ODENetClassifier(**{**given, "max_iter": n_best}).fit(X, y)
    # From other weights, since the split is drawn before them, but with the same loss.
    assert log_loss(y, clf.predict_proba(X)) == pytest.approx(log_loss(y, ended.predict_proba(X)), rel=0.15)
    rng = np.random.RandomState(0)  # the split is the first thing drawn
    kept, held_out = train_test_split(np.arange(len(y)), test_size=0.3, random_state=rng, stratify=y)
    timed = clone(clf).set_params(max_time=1e6).fit(X, y)  # which does not train again, and keeps the best weights
    assert -log_loss(y[held_out], timed.predict_proba(X[held_out])) == pytest.approx(timed.best_validation_score_)
    assert log_loss(y[kept], timed.predict_proba(X[kept])) != log_loss(y[kept], clf.predict_proba(X[kept]))


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

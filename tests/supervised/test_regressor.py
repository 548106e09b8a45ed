"""ODENetRegressor, and what it shares with ODENetClassifier."""

import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.sparse import csr_matrix
from sklearn.base import clone
from sklearn.datasets import load_diabetes, load_digits, load_iris, make_moons
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV, cross_val_score, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler
from torch import nn

from skode import CNFDensityEstimator, LatentODERegressor, ODENetClassifier, ODENetRegressor
from tests.weights import same_weights

pytestmark = pytest.mark.filterwarnings("ignore:Maximum iterations:sklearn.exceptions.ConvergenceWarning")

TINY = {
    "hidden_layer_sizes": (8,),
    "state_size": 4,
    "max_iter": 5,
    "alpha": 1.0,
    "batch_size": 200,
    "learning_rate": "constant",
    "learning_rate_init": 1e-2,
    "random_state": 0,
}


def draw(n=60, seed=0):
    X = np.random.RandomState(seed).uniform(-2, 2, (n, 2))
    return X, np.sin(2 * X[:, 0]) + X[:, 1] ** 2


@pytest.fixture(scope="module")
def data():
    return draw()


@pytest.fixture(params=[ODENetRegressor, ODENetClassifier], ids=lambda kind: kind.__name__)
def kind(request):
    return request.param


@pytest.fixture
def task(kind):
    """An estimator with its X and y."""
    X, y = make_moons(60, noise=0.1, random_state=0)
    made = kind(**TINY)
    return made, X, (y if kind is ODENetClassifier else np.sin(3 * X[:, 0]))


def answers(estimator, X):
    return estimator.predict_proba(X) if hasattr(estimator, "predict_proba") else estimator.predict(X)


# Learning


def test_it_learns_a_curve_that_a_line_cannot():
    X, y = draw(400)
    X_test, y_test = draw(100, seed=1)
    reg = ODENetRegressor((32,), state_size=16, max_iter=200, learning_rate_init=3e-3, random_state=0)
    assert reg.fit(X, y).score(X_test, y_test) > 0.97
    assert Ridge().fit(X, y).score(X_test, y_test) < 0.5


def test_units_of_the_targets_do_not_matter(data):
    X, y = data
    plain = ODENetRegressor(**TINY).fit(X, y).predict(X)
    scaled = ODENetRegressor(**TINY).fit(X, 1e6 * y - 3e7).predict(X)
    np.testing.assert_allclose(scaled, 1e6 * plain - 3e7, rtol=1e-6)


def test_several_outputs(data):
    X, y = data
    Y = np.column_stack([y, 2 * y, X[:, 0]])
    reg = ODENetRegressor(**TINY).fit(X, Y)
    assert reg.predict(X).shape == (60, 3)
    assert reg.n_outputs_ == 3
    np.testing.assert_allclose(reg.predict(X[:7]), reg.predict(X)[:7], rtol=1e-10)
    one = ODENetRegressor(**TINY).fit(X, y[:, None])
    assert one.predict(X).shape == (60, 1)


def test_a_constant_target_is_predicted(data):
    X, _ = data
    reg = ODENetRegressor(**{**TINY, "max_iter": 300, "n_iter_no_change": None}).fit(X, np.full(60, 7.0))
    np.testing.assert_allclose(reg.predict(X), 7.0, atol=0.1)


def test_early_stopping_scores_by_r2(data):
    X, y = data
    reg = ODENetRegressor(**{**TINY, "max_iter": 30}, early_stopping=True, validation_fraction=0.3).fit(X, y)
    assert reg.best_validation_score_ == max(reg.validation_scores_) <= 1.0


# Weights


def test_a_weight_is_a_number_of_copies(task):
    estimator, X, y = task
    counts = np.random.RandomState(0).randint(0, 4, len(X))
    weighted = clone(estimator).fit(X, y, sample_weight=counts)
    order = np.random.RandomState(1).permutation(np.repeat(np.arange(len(X)), counts))
    repeated = clone(estimator).fit(X[order], y[order])
    assert same_weights(weighted, repeated)


@pytest.mark.parametrize("batch_size", ["auto", 16])
def test_the_order_of_the_samples_does_not_matter(task, batch_size):
    estimator, X, y = task
    estimator.set_params(batch_size=batch_size)
    order = np.random.RandomState(0).permutation(len(X))
    assert same_weights(clone(estimator).fit(X, y), clone(estimator).fit(X[order], y[order]))


def test_the_scale_of_the_weights_matters_to_the_penalty_alone(task):
    estimator, X, y = task
    estimator.set_params(alpha=0.0)
    some = np.random.RandomState(0).uniform(1, 2, len(X))
    first, second = (clone(estimator).fit(X, y, sample_weight=w) for w in (some, 8.0 * some))
    np.testing.assert_allclose(answers(first, X), answers(second, X), rtol=1e-9)


@pytest.mark.parametrize("wrong", [-1.0, np.nan])
def test_wrong_weights_are_refused(task, wrong):
    estimator, X, y = task
    sample_weight = np.ones(len(X))
    sample_weight[3] = wrong
    with pytest.raises(ValueError, match=r"(?i)weight"):
        estimator.fit(X, y, sample_weight=sample_weight)


def test_class_weight_moves_decisions():
    X, y = make_moons(200, noise=0.5, random_state=0)
    longer = {**TINY, "max_iter": 40}
    counts = [
        (ODENetClassifier(**longer, class_weight={0: 1.0, 1: w}).fit(X, y).predict(X) == 1).sum() for w in (0.05, 1, 20)
    ]
    assert counts[0] < counts[1] < counts[2]


def test_balanced_class_weights_are_those_of_the_samples():
    X, y = make_moons((90, 30), noise=0.2, random_state=0)
    given = {**TINY, "alpha": 0.0}
    balanced = ODENetClassifier(**given, class_weight="balanced").fit(X, y)
    by_hand = ODENetClassifier(**given).fit(X, y, sample_weight=np.where(y == 0, 120 / 180, 120 / 60))
    np.testing.assert_allclose(balanced.predict_proba(X), by_hand.predict_proba(X), rtol=1e-9)


def test_weights_that_sum_to_one_fit_as_well_as_those_that_are_one(task):
    estimator, X, y = task
    estimator.set_params(max_iter=30)
    ones, small = (clone(estimator).fit(X, y, sample_weight=w) for w in (np.ones(60), np.ones(60) / 60))
    np.testing.assert_allclose(answers(ones, X), answers(small, X), rtol=1e-4, atol=1e-5)


def test_tables_with_few_distinct_rows_are_trained_on_as_often_as_others():
    rng = np.random.RandomState(0)
    X = rng.randint(0, 2, (4000, 4))
    clf = ODENetClassifier(random_state=0, max_iter=60).fit(X, X.sum(1) % 2)
    assert clf.score(X, X.sum(1) % 2) == 1.0


def test_early_stopping_with_few_distinct_rows():
    X, _ = load_iris(return_X_y=True)
    clf = ODENetClassifier(**TINY, early_stopping=True).fit(np.repeat(X[[0, 60]], 75, 0), np.arange(150) % 2)
    assert len(clf.validation_scores_) == clf.n_iter_


def test_early_stopping_needs_two_samples_held_out(data):
    X, y = data
    with pytest.raises(ValueError, match="of 8 samples: two at least are needed to score"):
        ODENetRegressor(**TINY, early_stopping=True).fit(X[:8], y[:8])


def test_a_class_without_weight_is_still_a_class():
    X, y = load_iris(return_X_y=True)
    clf = ODENetClassifier(**TINY).fit(X, y, sample_weight=(y != 2) * 1.0)
    assert clf.classes_.tolist() == [0, 1, 2]
    assert clf.predict_proba(X).shape == (150, 3)


@pytest.mark.parametrize("wrong", [-5.0, np.nan, np.inf])
def test_wrong_class_weights_are_refused(wrong):
    X, y = make_moons(20, random_state=0)
    with pytest.raises(ValueError, match="class_weight must hold finite numbers >= 0"):
        ODENetClassifier(**TINY, class_weight={0: wrong}).fit(X, y)
    with pytest.raises(ValueError, match="leave no sample any weight"):
        ODENetClassifier(**TINY, class_weight={0: 0.0, 1: 0.0}).fit(X, y)


def test_penalties_are_weighted_as_losses_are(data):
    X, y = data
    w = np.where(np.arange(60) < 40, 1.0, 1e-12)
    reg = ODENetRegressor(**{**TINY, "alpha": 0.0}, kinetic_energy=10.0, shuffle=False)
    few, light = clone(reg).fit(X[:40], y[:40]), clone(reg).fit(X, y, sample_weight=w)
    light.scaler_, light.target_scaler_ = few.scaler_, few.target_scaler_
    np.testing.assert_allclose(light.predict(X), few.predict(X), rtol=1e-3, atol=1e-3)


# Many labels


def test_several_labels_at_once():
    X, _ = draw(300)
    Y = np.column_stack([X[:, 0] > 0, X[:, 1] > 0, X.sum(1) > 0]).astype(int)
    clf = ODENetClassifier((16,), state_size=8, max_iter=30, learning_rate_init=2e-2, random_state=0).fit(X, Y)
    assert clf.score(X, Y) > 0.85
    probabilities = clf.predict_proba(X)
    np.testing.assert_array_equal(clf.predict(X), (probabilities > 0.5).astype(int))
    np.testing.assert_allclose(np.log(probabilities), clf.predict_log_proba(X), rtol=1e-6, atol=1e-12)
    assert clf.classes_.tolist() == [0, 1, 2]


def test_labels_may_be_sparse_and_their_number_may_not_change():
    X, _ = draw(80)
    Y = np.column_stack([X[:, 0] > 0, X[:, 1] > 0, X.sum(1) > 0]).astype(int)
    dense, sparse = ODENetClassifier(**TINY).fit(X, Y), ODENetClassifier(**TINY).fit(X, csr_matrix(Y))
    assert same_weights(dense, sparse)
    with pytest.raises(ValueError, match=r"labels \[0, 1\], not among those of the first fit .* \[0, 1, 2\]"):
        dense.partial_fit(X, Y[:, :2])
    with pytest.raises(ValueError, match="y is binary, but the last fit's was multilabel-indicator"):
        dense.partial_fit(X, Y[:, 0])


def test_a_fit_that_is_refused_leaves_the_last_one_alone():
    X, y = load_iris(return_X_y=True)
    clf = ODENetClassifier(**TINY).fit(X, y)
    before = clf.predict(X)
    with pytest.raises(ValueError, match="only one class"):
        clf.fit(X, 0 * y)
    np.testing.assert_array_equal(clf.predict(X), before)


# Step by step


def test_partial_fits_go_on_with_curves_and_optimiser(task):
    estimator, X, y = task
    classes = {"classes": [0, 1]} if isinstance(estimator, ODENetClassifier) else {}
    for n in range(1, 13):
        estimator.partial_fit(X, y, **(classes if n == 1 else {}))
        assert estimator.n_iter_ == n == len(estimator.loss_curve_)
    assert estimator.loss_curve_[-1] < estimator.loss_curve_[0]


def test_a_partial_fit_from_one_batch_is_an_epoch_of_fit(task):
    estimator, X, y = task
    estimator.set_params(alpha=0.0)  # the penalty can't be divided by a number of samples not known yet
    whole = clone(estimator).set_params(max_iter=1).fit(X, y)
    assert same_weights(clone(estimator).partial_fit(X, y), whole)


def test_partial_fits_use_adams_moments_of_the_calls_before(task):
    estimator, X, y = task
    estimator.set_params(shuffle=False, input_dropout=0.0, alpha=0.0)
    whole = clone(estimator).set_params(max_iter=3).fit(X, y)
    step_by_step = clone(estimator)
    for _ in range(3):
        step_by_step.partial_fit(X, y)
    # the scaler's running statistics round differently
    np.testing.assert_allclose(answers(step_by_step, X), answers(whole, X), rtol=1e-6)


def test_a_partial_fit_goes_on_from_a_fit(task):
    estimator, X, y = task
    curve = estimator.fit(X, y).loss_curve_
    estimator.partial_fit(X, y)
    assert estimator.loss_curve_[:-1] == curve
    assert estimator.loss_curve_[-1] < curve[0]


def test_classes_that_were_not_announced_are_refused():
    X, y = make_moons(60, noise=0.1, random_state=0)
    clf = ODENetClassifier(**TINY).partial_fit(X[:30], y[:30], classes=[0, 1])
    with pytest.raises(ValueError, match=r"labels \[2\], not among those of the first fit or of classes, \[0, 1\]"):
        clf.partial_fit(X, 2 * y)


def test_classes_stay_those_of_the_first_call():
    X, y = make_moons(60, noise=0.1, random_state=0)
    clf = ODENetClassifier(**TINY).partial_fit(X, y, classes=[0, 1]).partial_fit(X, y, classes=[1, 0])
    with pytest.raises(ValueError, match=r"classes=\[0, 1, 2\], but those of the first call were \[0, 1\]"):
        clf.partial_fit(X, y, classes=[0, 1, 2])


def test_a_class_that_comes_later_is_learned():
    X, y = make_moons(60, noise=0.1, random_state=0)
    clf = ODENetClassifier(**TINY).partial_fit(X[y == 0], y[y == 0], classes=[0, 1])
    assert clf.partial_fit(X[y == 1], y[y == 1]).predict_proba(X).shape == (60, 2)


def test_a_partial_fit_after_a_fit_goes_on_gently():
    X, y = load_iris(return_X_y=True)
    clf = ODENetClassifier(learning_rate_init=1e-2, batch_size=200, max_iter=50, random_state=0).fit(X, y)
    before = clf.score(X, y)
    for _ in range(3):
        assert clf.partial_fit(X, y).score(X, y) > before - 0.05


def test_balanced_weights_are_refused_for_a_part_of_the_data():
    X, y = make_moons(20, random_state=0)
    with pytest.raises(ValueError, match="pass weights as a dict"):
        ODENetClassifier(**TINY, class_weight="balanced").partial_fit(X, y, classes=[0, 1])


# Architectures


def test_zeros_are_appended_to_the_state(task):
    estimator, X, y = task
    estimator.set_params(augment_dim=3, state_size=None).fit(X, y)
    states = estimator.trajectory(X, [0.0, 1.0])
    assert states.shape == (60, 2, 5)
    assert not states[:, 0, 2:].any()
    assert states[:, 1, 2:].any()


def test_a_field_of_ones_own_is_copied_and_trained(task):
    estimator, X, y = task

    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.layer = nn.Linear(4, 4).double()

        def forward(self, t, z):
            return torch.tanh(self.layer(z)) * torch.cos(t)

    own = Own()
    before = own.layer.weight.detach().clone()
    estimator.set_params(field=own).fit(X, y)
    assert torch.equal(own.layer.weight, before)
    assert not torch.equal(estimator.module_.field.layer.weight, before)
    assert np.isfinite(answers(clone(estimator).fit(X, y), X)).all()


@pytest.mark.parametrize("go_on", ["fit", "partial_fit"])
def test_bfloat16_is_refused_for_tables(task, go_on):
    estimator, X, y = task
    estimator.set_params(dtype="bfloat16")
    with pytest.raises(ValueError, match=r"dtype='bfloat16' is for images.*states of tables are small.*'float32'"):
        getattr(estimator, go_on)(X, y)
    assert not hasattr(estimator, "module_")


@pytest.mark.parametrize("other", [CNFDensityEstimator, LatentODERegressor])
def test_bfloat16_is_refused_by_estimators_that_have_no_images(other):
    with pytest.raises(ValueError, match=r"The 'dtype' parameter of .* must be .*'bfloat16'"):
        other(dtype="bfloat16").fit(np.zeros((5, 2)), np.zeros(5))


def test_images_in_bfloat16_lead_to_numbers():
    X, _ = load_digits(n_class=3, return_X_y=True)
    X = X[:150]
    y = X.reshape(-1, 8, 8)[:, :, :4].mean((1, 2))
    settings = {"image_shape": (1, 8, 8), "state_size": 8, "hidden_layer_sizes": (8,), "max_iter": 15, "rtol": 1e-2}
    settings |= {"learning_rate_init": 1e-2, "batch_size": 30, "random_state": 0, "atol": 1e-2}
    single, half = (ODENetRegressor(**settings, dtype=dtype).fit(X, y) for dtype in ("float32", "bfloat16"))
    assert not same_weights(single, half)
    assert half.score(X, y) > max(0.7, single.score(X, y) - 0.1)
    assert half.predict(X).dtype == single.predict(X).dtype
    assert {p.dtype for p in half.module_.parameters()} == {torch.float32}


def test_a_field_of_the_wrong_size_is_refused_with_the_shapes(task):
    estimator, X, y = task

    class Wrong(nn.Module):
        def forward(self, t, z):
            return z[:, :2]

    with pytest.raises(ValueError, match=r"shape \(60, 2\) for a state of shape \(60, 4\)"):
        estimator.set_params(field=Wrong()).fit(X, y)


class Noisy(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.norm, self.drop = nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5)

    def forward(self, t, z):
        return torch.tanh(self.drop(self.norm(self.layer(z))))


def test_a_field_with_dropout_and_batch_statistics_predicts_the_same_every_time(task):
    estimator, X, y = task
    estimator.set_params(field=Noisy(), adjoint="backprop")
    first, second = clone(estimator).fit(X, y), clone(estimator).fit(X, y)
    assert first.loss_curve_ == second.loss_curve_
    np.testing.assert_array_equal(answers(first, X), answers(first, X))
    np.testing.assert_allclose(answers(first, X)[:3], answers(first, X[:3]), rtol=1e-9)


def test_a_field_that_starts_from_zero_can_have_its_local_errors_penalised(task):
    estimator, X, y = task

    class FromZero(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 4)
            nn.init.zeros_(self.layer.weight)
            nn.init.zeros_(self.layer.bias)

        def forward(self, t, z):
            return self.layer(z)

    estimator.set_params(field=FromZero(), local_error=0.1).fit(X, y)
    assert estimator.n_iter_ == 5
    assert estimator.loss_curve_[-1] < estimator.loss_curve_[0]


@pytest.mark.parametrize("method", ["kvaerno3", "rk4"])
def test_local_errors_need_a_method_that_estimates_them(task, method):
    estimator, X, y = task
    with pytest.raises(
        ValueError, match=f"local_error=0.1 needs an adaptive explicit method such as dopri5, not '{method}'"
    ):
        estimator.set_params(method=method, local_error=0.1).fit(X, y)


# What is inside


def test_the_transform_is_the_state_at_the_end(task):
    estimator, X, y = task
    estimator.fit(X, y)
    states = estimator.transform(X)
    assert states.shape == (60, 4)
    np.testing.assert_allclose(states, estimator.trajectory(X, [0.5, 1.0])[:, -1], rtol=1e-12)
    assert list(estimator.get_feature_names_out()) == [f"{type(estimator).__name__.lower()}{i}" for i in range(4)]
    frame = estimator.set_output(transform="pandas").transform(X)
    assert isinstance(frame, pd.DataFrame)


def test_the_state_makes_features_for_another_model(task):
    estimator, X, y = task
    assert make_pipeline(clone(estimator), Ridge()).fit(X, y).predict(X).shape == (60,)


def test_depth_grows_as_the_tolerance_falls(task):
    estimator, X, y = task
    estimator.fit(X, y)
    depths = []
    for tol in (1e-1, 1e-7, 1e-11):
        answer, nfe = estimator.set_params(rtol=tol, atol=tol).predict(X, return_nfe=True)
        assert nfe.shape == (60,)
        np.testing.assert_array_equal(answer, estimator.predict(X))
        np.testing.assert_array_equal(nfe[:5], estimator.predict(X[:5], return_nfe=True)[1])
        depths.append(nfe.mean())
    assert depths[0] < depths[1] < depths[2]


# Manners


def test_cross_validation_search_pickle_and_pipelines(data):
    X, y = data
    model = make_pipeline(MinMaxScaler(), ODENetRegressor(**TINY))
    assert len(cross_val_score(model, X, y, cv=3)) == 3
    search = GridSearchCV(ODENetRegressor(**TINY), {"rtol": [1e-1, 1e-3]}, cv=2).fit(X, y)
    fitted = pickle.loads(pickle.dumps(search.best_estimator_))
    np.testing.assert_array_equal(fitted.predict(X), search.predict(X))


def test_a_learning_rate_that_diverges_ends_in_a_model_and_a_warning():
    X, y = train_test_split(*load_diabetes(return_X_y=True), random_state=0)[::2]
    reg = ODENetRegressor(**{**TINY, "learning_rate_init": 1e3, "max_iter": 20})
    with pytest.warns(ConvergenceWarning, match="diverged"):
        reg.fit(X, y)
    assert np.isfinite(reg.predict(X)).all()
    assert all(torch.isfinite(p).all() for p in reg.module_.parameters())


def test_one_update_that_diverges_leaves_a_usable_model():
    X, y = load_diabetes(return_X_y=True)
    wild = ODENetRegressor(learning_rate_init=100.0, activation="relu", max_iter=1, random_state=0)
    with pytest.warns(ConvergenceWarning, match="Lower learning_rate_init"):
        assert np.isfinite(clone(wild).fit(X[:150], y[:150]).predict(X)).all()
    with pytest.warns(ConvergenceWarning, match="Lower learning_rate_init"):
        wild.partial_fit(X[:150], y[:150])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # it may or may not come again at a lower rate
        for _ in range(3):
            assert np.isfinite(wild.partial_fit(X[:150], y[:150]).predict(X)).all()


def test_targets_of_one_column_and_of_none_may_follow_each_other(data):
    X, y = data
    reg = ODENetRegressor(**TINY, warm_start=True).fit(X, y[:, None])
    assert reg.fit(X, y).predict(X).shape == (60,)
    assert reg.fit(X, y[:, None]).predict(X).shape == (60, 1)


def test_another_number_of_outputs_is_refused_when_going_on(data):
    X, y = data
    reg = ODENetRegressor(**TINY, warm_start=True).fit(X, y)
    with pytest.raises(ValueError, match="y has 2 outputs, but the last fit had 1"):
        reg.fit(X, np.column_stack([y, y]))


# Common mistakes


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (["a", "b"] * 30, r"y holds text \(such as 'a'\), but ODENetRegressor"),
        (pd.Series(["a", "b"] * 30, dtype="category"), r"y holds text \(such as 'a'\), but ODENetRegressor"),
        (pd.Series(pd.date_range("2020-01-01", periods=60)), r"y holds datetime64.*, but ODENetRegressor"),
    ],
)
def test_targets_that_are_no_numbers_are_said_to_be(data, y, message):
    with pytest.raises(ValueError, match=message):
        ODENetRegressor(**TINY).fit(data[0], y)


def test_where_nothing_can_be_set_aside_it_is_said_what_to_do(data):
    X, y = data
    with pytest.raises(ValueError, match=r"validation_fraction=0\.1 of 5 samples.* Set early_stopping=False"):
        ODENetRegressor(**TINY, early_stopping=True).fit(X[:5], y[:5])


@pytest.mark.parametrize(
    ("n", "fraction", "advice"),
    [
        (2, 0.5, r"\. Set early_stopping=False\."),
        (1, 0.1, r"\. Set early_stopping=False\."),
        (5, 0.99, "or lower validation_fraction to 0.7 or less"),
        (5, 0.1, "or raise validation_fraction to 0.3 or more"),
    ],
)
def test_what_is_advised_where_nothing_can_be_set_aside_does_help(data, n, fraction, advice):
    X, y = data[0][:n], data[1][:n]
    reg = ODENetRegressor(**TINY, early_stopping=True, validation_fraction=fraction)
    with pytest.raises(ValueError, match=rf"of {n} samples: .*{advice}"):
        reg.fit(X, y)
    if "validation_fraction" in advice:
        reg.set_params(validation_fraction=float(advice.split()[-3])).fit(X, y)


@pytest.mark.parametrize(("value", "n_outputs"), [(1e-6, 1), (-3e-4, 2), (1e-30, 1), (-1e8, 2)])
def test_a_target_of_one_value_is_predicted_whatever_its_size(value, n_outputs):
    X = np.random.default_rng(0).normal(size=(60, 3))
    y = np.full((60, n_outputs), value)
    y[:, 1:] = X[:, 1:2]
    model = ODENetRegressor(max_iter=20, random_state=0).fit(X, y if n_outputs > 1 else y[:, 0])
    predicted = model.predict(X).reshape(60, -1)
    np.testing.assert_allclose(predicted[:, 0], value, rtol=0.2)

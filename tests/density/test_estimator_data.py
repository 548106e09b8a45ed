import math
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.datasets import make_moons
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.mixture import GaussianMixture
from torch import nn

from skode import CNFDensityEstimator
from skode.density import estimator
from skode.density.objectives import FlowMatching
from tests.density.swirl import Swirl
from tests.density.tiny import TINY
from tests.weights import same_weights

pytestmark = pytest.mark.filterwarnings("ignore:Maximum iterations:sklearn.exceptions.ConvergenceWarning")

# Data as they come


def test_the_score_of_a_sample_does_not_depend_on_the_others(fitted, moons):
    together = fitted.score_samples(moons)
    alone = np.concatenate([fitted.score_samples(moons[i : i + 1]) for i in range(20)])
    np.testing.assert_allclose(alone, together[:20], rtol=1e-9, atol=1e-9)


def test_many_samples_are_answered_in_parts_that_leave_no_trace(fitted, moons):
    many = np.tile(moons, (6, 1))[:2300]
    np.testing.assert_allclose(
        fitted.score_samples(many)[-300:], fitted.score_samples(many[-300:]), rtol=1e-9, atol=1e-9
    )
    base = np.random.RandomState(0).standard_normal((2300, 2))
    np.testing.assert_allclose(fitted.inverse_transform(base)[-5:], fitted.inverse_transform(base[-5:]), atol=1e-9)


def test_heavy_tails_are_followed():
    X = np.random.RandomState(0).standard_t(2, size=(2000, 2))
    held_out = np.random.RandomState(1).standard_t(2, size=(2000, 2))
    flow = CNFDensityEstimator((32,), max_iter=10, random_state=0).fit(X)
    from scipy.stats import t as student

    truth = student(2).logpdf(held_out).sum(1).mean()
    assert truth - flow.score(held_out) < 0.15
    assert np.isfinite(flow.sample(2000, random_state=0)).all()
    assert np.abs(flow.sample(2000, random_state=0)).max() > 8.0


def test_an_outlier_does_not_spoil_the_rest(moons):
    spoiled = np.concatenate([moons, [[1e6, -1e6]]])
    flow = CNFDensityEstimator(**{**TINY, "max_iter": 20}).fit(spoiled)
    assert flow.score(moons) > GaussianMixture(1).fit(moons).score(moons) - 0.2


def test_a_column_that_looks_discrete_is_warned_of(moons):
    X = np.column_stack([moons, np.arange(len(moons)) % 3])
    with pytest.warns(UserWarning, match=r"columns \[2\]: they look discrete") as warned:
        flow = CNFDensityEstimator(**TINY, categorical_features=None).fit(X)
    assert warned[0].filename == __file__  # it points at who called fit
    assert np.isfinite(flow.score_samples(X)).all()


@pytest.mark.parametrize("shape", [(2, 1), (5, 2), (10, 25)])
def test_tiny_samples_and_more_columns_than_rows_work(shape):
    X = np.random.RandomState(0).normal(size=shape)
    flow = CNFDensityEstimator(**TINY).fit(X)
    assert np.isfinite(flow.score_samples(X)).all()
    assert flow.sample(3, random_state=0).shape == (3, shape[1])


def test_equal_columns_do_not_break_it(moons):
    X = np.column_stack([moons, moons[:, 0]])
    with pytest.warns(UserWarning, match=r"Columns \[0, 2\] are linearly dependent"):
        flow = CNFDensityEstimator(**TINY).fit(X)
    assert np.isfinite(flow.score_samples(X)).all()


def test_integers_are_taken_for_numbers(moons):
    X = np.round(100 * moons).astype(int)
    flow = CNFDensityEstimator(**TINY).fit(X)
    assert flow.score_samples(X).dtype == np.float64


def test_going_on_with_another_field_is_refused(moons):
    flow = CNFDensityEstimator(**TINY, warm_start=True).fit(moons)
    with pytest.raises(ValueError, match="hidden_layer_sizes"):
        flow.set_params(hidden_layer_sizes=(9,)).fit(moons)


def test_a_fit_that_fails_at_once_leaves_nothing_fitted(moons):
    class Broken(nn.Module):
        def forward(self, t, z):
            return torch.full_like(z, math.nan)

    flow = CNFDensityEstimator(**TINY, field=Broken())
    with pytest.raises(Exception, match="NaN"):
        flow.fit(moons)
    with pytest.raises(NotFittedError):
        flow.score_samples(moons)


def test_densities_of_classes_classify(moons):
    X, y = make_moons(400, noise=0.2, random_state=0)
    densities = [CNFDensityEstimator((16,), max_iter=20, random_state=0).fit(X[y == k]) for k in (0, 1)]
    test, truth = make_moons(400, noise=0.2, random_state=1)
    predicted = np.argmax([density.score_samples(test) for density in densities], axis=0)
    assert np.mean(predicted == truth) > 0.9


class Dropping(Swirl):
    """A field with dropout, and with what differs between training and use."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Dropout(0.5), nn.Linear(16, 2))


@pytest.mark.parametrize("early_stopping", [False, True])
def test_answers_are_those_of_a_module_in_use_not_in_training(moons, early_stopping):
    settings = {**TINY, "max_iter": 1, "method": "rk4", "adjoint": "backprop", "early_stopping": early_stopping}
    flow = CNFDensityEstimator(**settings, field=Dropping()).fit(moons[:64])
    assert not flow.module_.training
    np.testing.assert_array_equal(flow.score_samples(moons), flow.score_samples(moons))


@pytest.mark.parametrize("broken", [{"activation": "relu"}, {"validation_fraction": 0.9999}, {"device": "no such"}])
def test_a_refit_that_fails_leaves_the_flow_of_before(moons, broken):
    flow = CNFDensityEstimator(**TINY).fit(moons)
    before, learned = flow.score_samples(moons), dict(vars(flow))
    with pytest.raises(ValueError, match=r"relu|validation_fraction|test_size|train set|device"):
        flow.set_params(**broken).fit(1000.0 * moons)
    assert vars(flow) == learned | broken
    np.testing.assert_array_equal(flow.set_params(device="cpu").score_samples(moons), before)


def test_units_do_not_matter_where_samples_come_twice(moons):
    twice = np.concatenate([moons, moons[:1]])
    scores = [CNFDensityEstimator(**TINY).fit(s * twice).score_samples(s * twice) + 2 * np.log(s) for s in (1.0, 512.0)]
    np.testing.assert_allclose(*scores, atol=1e-6)


def test_an_interruption_of_matching_ends_the_fit(moons, monkeypatch):
    def interrupted(self, rows):
        raise KeyboardInterrupt

    monkeypatch.setattr(FlowMatching, "loss", interrupted)
    flow = CNFDensityEstimator(**TINY, matching_iter=5)
    with pytest.warns(UserWarning, match="interrupted by user"):
        flow.fit(moons)
    assert flow.n_iter_ == 0
    assert np.isfinite(flow.score_samples(moons)).all()


def test_a_warm_start_refuses_columns_without_density_too(moons):
    flow = CNFDensityEstimator(**TINY, warm_start=True).fit(moons)
    with pytest.raises(ValueError, match="no density"):
        flow.fit(np.column_stack([moons[:, 0], np.ones(len(moons))]))


def test_discreteness_is_warned_of_whatever_the_scale_of_weights():
    rng = np.random.RandomState(0)
    X = np.column_stack([rng.randint(0, 2, 100), rng.normal(size=100)])
    with pytest.warns(UserWarning, match="look discrete"):
        CNFDensityEstimator(**TINY, categorical_features=None).fit(X, sample_weight=np.full(100, 0.01))


def test_a_field_of_another_shape_is_refused_by_name(moons):
    class Flat(nn.Module):
        def forward(self, t, z):
            return z[:, :1]

    with pytest.raises(ValueError, match="field returned shape"):
        CNFDensityEstimator(**TINY, field=Flat()).fit(moons)


def test_what_is_kept_are_means_of_weights(moons, monkeypatch):
    averaged = CNFDensityEstimator(**TINY).fit(moons)
    monkeypatch.setattr(estimator, "AVERAGING", 0.0)
    plain = CNFDensityEstimator(**TINY).fit(moons)
    assert averaged.loss_curve_ == plain.loss_curve_
    assert not same_weights(averaged, plain)


# Refusals


@pytest.mark.parametrize(("bad", "message"), [(np.nan, "Input X contains NaN"), (np.inf, "Input X contains infinity")])
def test_missing_and_infinite_values_are_refused(fitted, moons, bad, message):
    X = moons[:20].copy()
    X[3, 1] = bad
    with pytest.raises(ValueError, match=message):
        CNFDensityEstimator(**TINY).fit(X)
    with pytest.raises(ValueError, match=message):
        fitted.score_samples(X)


def test_one_sample_is_refused(moons):
    with pytest.raises(ValueError, match="a minimum of 2 is required"):
        CNFDensityEstimator(**TINY).fit(moons[:1])


def test_a_constant_column_is_refused_by_position_or_name(moons):
    X = np.column_stack([moons, np.full(len(moons), 3.0)])
    with pytest.raises(ValueError, match=r"columns with one value only .*no density: \[2\]"):
        CNFDensityEstimator(**TINY).fit(X)
    with pytest.raises(ValueError, match=r"no density: \['site'\]"):
        CNFDensityEstimator(**TINY).fit(pd.DataFrame(X, columns=["a", "b", "site"]))


def test_relu_is_refused(moons):
    with pytest.raises(ValueError, match="activation='relu' has no continuous divergence"):
        CNFDensityEstimator(**TINY, activation="relu").fit(moons)


def test_another_number_of_features_is_refused(fitted):
    with pytest.raises(ValueError, match="X has 3 features, but CNFDensityEstimator is expecting 2 features"):
        fitted.score_samples(np.zeros((4, 3)))


@pytest.mark.parametrize(
    ("parameter", "bad"),
    [
        ("method", "dopri9"),
        ("rtol", -1e-3),
        ("atol", -1.0),
        ("adjoint", "exact"),
        ("activation", "gelu"),
        ("hidden_layer_sizes", (8, -1)),
        ("device", "no such device"),
        ("dtype", "float16"),
        ("max_iter", 0),
        ("batch_size", 0),
        ("learning_rate_init", 0.0),
        ("validation_fraction", 1.0),
        ("n_iter_no_change", 0),
        ("field", "resnet"),
        ("objective", "score"),
        ("matching_iter", -1),
        ("divergence", "trace"),
        ("marginals", "uniform"),
        ("kinetic_energy", -1.0),
        ("jacobian_norm", -1.0),
    ],
)
def test_a_bad_parameter_is_refused_by_name(moons, parameter, bad):
    with pytest.raises(ValueError, match=parameter):
        CNFDensityEstimator(**{**TINY, parameter: bad}).fit(moons[:20])


def test_a_column_whose_spread_drowns_in_rounding_is_refused():
    rng = np.random.RandomState(0)
    X = np.column_stack([rng.randn(200), 1e9 + 1e-5 * rng.randn(200)])
    with pytest.raises(ValueError, match=r"one value only .*: \[1\]"):
        CNFDensityEstimator().fit(X)


def test_values_too_large_to_standardise_are_refused():
    with pytest.raises(ValueError, match="too large"):
        CNFDensityEstimator().fit(np.random.RandomState(0).randn(20, 2) * 1e200)


def test_a_warm_start_refuses_other_columns_and_keeps_working(moons):
    X = moons
    flow = CNFDensityEstimator(hidden_layer_sizes=4, max_iter=1, warm_start=True, random_state=0).fit(X)
    with pytest.raises(ValueError, match="3 features"):
        flow.fit(np.column_stack([X, X[:, 0]]))
    flow.fit(X.astype(np.float32))
    assert flow.score_samples(X).shape == (len(X),)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_linearly_dependent_columns_are_warned_of_by_name(dtype, scale):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(rng.normal(size=(200, 3)), columns=["a", "b", "other"]).astype(dtype)
    frame["sum"] = scale * (frame["a"] + 2.0 * frame["b"])
    with pytest.warns(
        UserWarning, match=r"Columns \['a', 'b', 'sum'\] are linearly dependent.*Drop 1 of them"
    ) as warned:
        CNFDensityEstimator((4,), max_iter=1, random_state=0).fit(frame)
    assert warned[0].filename == __file__


@pytest.mark.parametrize("share", [1e-4, 1e-2])
def test_columns_that_nearly_follow_from_each_other_are_not(share):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 3))
    X[:, 2] = X[:, 0] - X[:, 1] + share * rng.normal(size=200)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        warnings.simplefilter("ignore", ConvergenceWarning)
        CNFDensityEstimator((4,), max_iter=1, random_state=0).fit(X)


def test_fewer_samples_than_columns_are_not_said_to_be_dependent():
    X = np.random.default_rng(0).normal(size=(5, 8))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        warnings.simplefilter("ignore", ConvergenceWarning)
        CNFDensityEstimator((4,), max_iter=1, early_stopping=False, random_state=0).fit(X)


# Noise, splits and samples far away


@pytest.mark.parametrize(
    "settings",
    [
        {"divergence": "hutchinson"},
        {"divergence": "hutchinson", "learning_rate_init": 0.5, "max_iter": 3},
        {"divergence": "hutchinson", "kinetic_energy": 0.0, "batch_size": 7},
        {"jacobian_norm": 0.1, "learning_rate_init": 0.5},
        {"jacobian_norm": 1.0, "divergence": "hutchinson", "field": "concatsquash", "learning_rate_init": 1.0},
    ],
)
def test_a_loss_with_noise_is_evaluated_where_training_did_not_lower_it(settings):
    # Samples whose paths take very different numbers of steps, after a single update, which may raise the loss.
    X = np.random.RandomState(0).standard_t(1.5, size=(40, 3))
    model = CNFDensityEstimator((8,), max_iter=1, early_stopping=False, random_state=0).set_params(**settings).fit(X)
    assert np.isfinite(model.score_samples(X)).all()
    assert np.isfinite(model.loss_)


@pytest.mark.parametrize(("n", "fraction"), [(12, 0.99), (30, 0.999), (2, 0.9), (5, 1 - 1e-9)])
def test_a_split_that_leaves_nothing_to_train_on_names_its_parameter(n, fraction):
    X = np.random.RandomState(0).normal(size=(n, 2))
    model = CNFDensityEstimator(**TINY, validation_fraction=fraction)
    with pytest.raises(ValueError, match=rf"can't set aside validation_fraction={fraction} of {n} samples.*lower"):
        model.fit(X)


@pytest.mark.parametrize(
    ("dtype", "far"), [(np.float64, 1e160), (np.float64, -1e200), (np.float32, 1e25), (np.float32, 1e37)]
)
def test_log_densities_that_underflow_are_warned_of(moons, dtype, far):
    model = CNFDensityEstimator(**TINY, marginals="normal").fit(moons.astype(dtype))
    X = moons[:3].astype(dtype)
    X[1] *= far
    with pytest.warns(
        UserWarning, match="The log-densities of 1 of 3 samples, such as number 1, are beyond the numbers"
    ):
        log_density = model.score_samples(X)
    assert log_density[1] == -np.inf
    assert np.isfinite(log_density[[0, 2]]).all()
    with pytest.warns(UserWarning, match="minus infinity"):
        assert model.score(X) == -np.inf


def test_samples_that_a_flow_can_not_hold_are_refused(moons):
    model = CNFDensityEstimator(**TINY).fit(moons.astype(np.float32))
    for call in (model.score_samples, model.transform, lambda X: model.trajectory(X, [0.0, 1.0])):
        with pytest.raises(ValueError, match="X holds values too large to standardise"):
            call(np.array([[1e300, 0.0]]))
    with pytest.raises(ValueError, match="X holds values too large to standardise"):
        model.inverse_transform(np.array([[1e300, 0.0]]))


def test_points_beyond_all_numbers_are_warned_of():
    X = np.sinh(3 * np.random.RandomState(0).normal(size=(200, 1)))
    model = CNFDensityEstimator(**TINY, marginals="johnson").fit(X)
    with pytest.warns(
        UserWarning, match="The points of 1 of 2 samples, such as number 1, are beyond the numbers of float64"
    ):
        points = model.inverse_transform(np.array([[0.1], [1e5]]))
    assert np.isfinite(points[0]).all()


def test_errors_about_points_of_the_base_name_them(fitted):
    with pytest.raises(ValueError, match=r"^X: Input contains NaN"):
        fitted.inverse_transform(np.array([[np.nan, 0.0]]))


def test_more_samples_than_memory_holds_are_refused_by_name(fitted):
    with pytest.raises(MemoryError, match=r"n_samples=1000000000000000 takes more memory than there is: lower it"):
        fitted.sample(10**15)

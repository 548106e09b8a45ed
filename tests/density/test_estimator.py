import math
import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import energy_distance, ks_2samp, kstest
from sklearn.base import clone
from sklearn.datasets import load_iris, make_moons
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GridSearchCV, cross_val_score, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler
from torch import nn

from skode import CNFDensityEstimator
from skode.datasets import make_toy_density, toy_log_density
from skode.density import estimator
from skode.density.objectives import FlowMatching
from skode.dynamics.fields import FIELDS
from tests.weights import same_weights, weights

pytestmark = pytest.mark.filterwarnings("ignore:Maximum iterations:sklearn.exceptions.ConvergenceWarning")

TINY = {"hidden_layer_sizes": (8,), "max_iter": 3, "learning_rate_init": 1e-2, "random_state": 0}


@pytest.fixture(scope="module")
def moons():
    return make_moons(400, noise=0.1, random_state=0)[0]


@pytest.fixture(scope="module")
def fitted(moons):
    """A flow that has learned something; tests must not change it."""
    return CNFDensityEstimator((32,), learning_rate_init=1e-2, max_iter=15, random_state=0).fit(moons)


class Quadrature:
    """The fitted density on a fine grid over a wide box (trapezoidal rule)."""

    def __init__(self, estimator, box=((-3.0, 4.0), (-2.5, 3.0)), n=281):
        self.x, self.y = (np.linspace(*side, n) for side in box)
        points = np.stack(np.meshgrid(self.x, self.y, indexing="ij"), axis=-1).reshape(-1, 2)
        self.log_density = estimator.score_samples(points).reshape(n, n)
        self.density = np.exp(self.log_density)

    def total(self):
        return np.trapezoid(np.trapezoid(self.density, self.y, axis=1), self.x)

    def marginal_cdf(self, axis):
        along, across = (self.x, self.y) if axis == 0 else (self.y, self.x)
        marginal = np.trapezoid(self.density, across, axis=1 - axis)
        cdf = np.concatenate([[0], np.cumsum((marginal[1:] + marginal[:-1]) / 2 * np.diff(along))])
        return lambda value: np.interp(value, along, cdf / cdf[-1])

    def draw(self, n_samples, rng):
        """Points drawn from the gridded density, jittered within their cells."""
        mass = self.density.ravel() / self.density.sum()
        cells = rng.choice(len(mass), n_samples, p=mass)
        i, j = np.unravel_index(cells, self.density.shape)
        jitter = rng.uniform(-0.5, 0.5, (n_samples, 2)) * [self.x[1] - self.x[0], self.y[1] - self.y[0]]
        return np.column_stack([self.x[i], self.y[j]]) + jitter


@pytest.fixture(scope="module")
def quadrature(fitted):
    return Quadrature(fitted)


# The density is one


def test_the_density_integrates_to_one(quadrature):
    assert quadrature.total() == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize("hidden_layer_sizes", [(), (8, 8), (6, 6, 6)])
def test_the_density_integrates_to_one_whatever_the_field(moons, hidden_layer_sizes):
    flow = CNFDensityEstimator(**{**TINY, "hidden_layer_sizes": hidden_layer_sizes}).fit(moons)
    assert Quadrature(flow, ((-6, 7), (-5, 5.5)), 101).total() == pytest.approx(1.0, abs=1e-3)


def test_a_one_dimensional_density_integrates_to_one_and_fits():
    rng = np.random.RandomState(0)
    X = np.concatenate([rng.normal(-2, 0.5, 150), rng.normal(2, 0.5, 150)])[:, None]
    flow = CNFDensityEstimator((16,), learning_rate_init=3e-2, max_iter=25, random_state=0).fit(X)
    grid = np.linspace(-10, 10, 2001)
    density = np.exp(flow.score_samples(grid[:, None]))
    assert np.trapezoid(density, grid) == pytest.approx(1.0, abs=1e-3)
    assert flow.score(X) > GaussianMixture(1).fit(X).score(X) + 0.3
    assert flow.sample(7).shape == (7, 1)


def test_a_linear_flow_of_normal_data_is_the_normal_density():
    rng = np.random.RandomState(0)
    X = rng.multivariate_normal([1.0, -2.0], [[2.0, 0.6], [0.6, 0.5]], 300)
    flow = CNFDensityEstimator(
        (),
        marginals="normal",
        kinetic_energy=0.0,
        learning_rate_init=3e-2,
        max_iter=200,
        early_stopping=False,
        batch_size=300,
        random_state=0,
    ).fit(X)
    gaussian = GaussianMixture(1, reg_covar=0.0).fit(X)
    np.testing.assert_allclose(flow.score_samples(X), gaussian.score_samples(X), atol=0.05)


# Samples follow the density


def test_marginals_of_samples_are_those_of_the_density(fitted, quadrature):
    samples = fitted.sample(2000, random_state=0)
    for axis in (0, 1):
        assert kstest(samples[:, axis], quadrature.marginal_cdf(axis)).pvalue > 0.01


def test_samples_have_the_log_densities_that_draws_from_the_density_have(fitted, quadrature):
    samples = fitted.sample(2000, random_state=1)
    draws = quadrature.draw(2000, np.random.RandomState(0))
    assert ks_2samp(fitted.score_samples(samples), fitted.score_samples(draws)).pvalue > 0.01


def test_samples_and_draws_from_the_density_cannot_be_told_apart_along_any_direction(fitted, quadrature):
    samples = fitted.sample(1000, random_state=2)
    draws = quadrature.draw(1000, np.random.RandomState(1))
    rng = np.random.RandomState(2)
    both, n = np.concatenate([samples, draws]), len(samples)
    directions = np.stack([[math.cos(a), math.sin(a)] for a in np.linspace(0, math.pi, 5)[:-1]])

    def distance(order):
        projected = both[order] @ directions.T
        return sum(energy_distance(p[:n], p[n:]) for p in projected.T)

    observed = distance(np.arange(2 * n))
    permuted = [distance(rng.permutation(2 * n)) for _ in range(99)]
    assert (1 + sum(d >= observed for d in permuted)) / 100 > 0.01


def test_mean_log_density_of_samples_is_minus_the_entropy(fitted, quadrature):
    p = quadrature.density
    entropy = -np.trapezoid(np.trapezoid(p * quadrature.log_density, quadrature.y, axis=1), quadrature.x)
    log_densities = fitted.score_samples(fitted.sample(4000, random_state=3))
    standard_error = log_densities.std() / math.sqrt(4000)
    assert abs(log_densities.mean() + entropy) < 4 * standard_error


def test_sampling_is_reproducible(fitted):
    np.testing.assert_array_equal(fitted.sample(5, random_state=0), fitted.sample(5, random_state=0))
    assert not np.array_equal(fitted.sample(5, random_state=0), fitted.sample(5, random_state=1))


def test_a_random_state_object_goes_on(fitted):
    rng = np.random.RandomState(0)
    assert not np.array_equal(fitted.sample(3, random_state=rng), fitted.sample(3, random_state=rng))


def test_one_sample_is_drawn_by_default(fitted):
    assert fitted.sample().shape == (1, 2)


@pytest.mark.parametrize("n_samples", [0, -1, 2.5, "3"])
def test_a_bad_number_of_samples_is_refused(fitted, n_samples):
    with pytest.raises(ValueError, match="n_samples"):
        fitted.sample(n_samples)


# Scores


def test_score_is_the_mean_log_density(fitted, moons):
    assert fitted.score(moons) == pytest.approx(fitted.score_samples(moons).mean(), rel=1e-12)


def test_it_beats_a_single_gaussian_on_points_held_out(fitted, moons):
    held_out = make_moons(300, noise=0.1, random_state=1)[0]
    assert fitted.score(held_out) > GaussianMixture(1).fit(moons).score(held_out) + 0.3


def test_log_density_follows_the_units_of_the_data(moons):
    scale, shift = np.array([1000.0, 0.01]), np.array([5.0, -3.0])
    plain = CNFDensityEstimator(**TINY).fit(moons)
    rescaled = CNFDensityEstimator(**TINY).fit(moons * scale + shift)
    np.testing.assert_allclose(
        rescaled.score_samples(moons * scale + shift), plain.score_samples(moons) - np.log(scale).sum(), atol=1e-7
    )
    np.testing.assert_allclose(
        rescaled.sample(5, random_state=0), plain.sample(5, random_state=0) * scale + shift, rtol=1e-7
    )


def test_tolerance_is_read_when_scoring(fitted, moons):
    def scored(tolerance):
        copy = pickle.loads(pickle.dumps(fitted)).set_params(rtol=tolerance, atol=tolerance)
        return copy.score_samples(moons[:50])

    errors = [np.abs(scored(tolerance) - scored(1e-11)).max() for tolerance in (1e-2, 1e-5, 1e-8)]
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 1e-6


def test_method_is_read_when_scoring(fitted, moons):
    tight = pickle.loads(pickle.dumps(fitted)).set_params(rtol=1e-6, atol=1e-6)
    other = pickle.loads(pickle.dumps(fitted)).set_params(method="rk4", step_size=0.02)
    np.testing.assert_allclose(other.score_samples(moons), tight.score_samples(moons), atol=1e-3)
    assert not np.array_equal(other.score_samples(moons), fitted.score_samples(moons))


def test_far_away_the_density_is_low_and_finite(fitted):
    far = fitted.score_samples([[100.0, 100.0], [-50.0, 0.0]])
    assert np.isfinite(far).all()
    assert (far < -100).all()


# Training


@pytest.mark.parametrize("adjoint", ["discrete", "continuous", "backprop"])
@pytest.mark.parametrize("hidden_layer_sizes", [(8,), (8, 8), (4, 4, 4)])
def test_every_adjoint_trains(moons, adjoint, hidden_layer_sizes):
    settings = {**TINY, "hidden_layer_sizes": hidden_layer_sizes}
    flow = CNFDensityEstimator(**settings, adjoint=adjoint).fit(moons[:100])
    assert flow.loss_curve_[-1] < flow.loss_curve_[0]


def test_the_adjoints_learn_the_same_weights_at_tight_tolerance(moons):
    fits = [
        CNFDensityEstimator(**TINY, adjoint=adjoint, rtol=1e-9, atol=1e-10).fit(moons[:100])
        for adjoint in ("discrete", "continuous", "backprop")
    ]
    for other in fits[1:]:
        for p, q in zip(weights(fits[0]), weights(other), strict=True):
            torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("activation", ["tanh", "logistic", "softplus"])
def test_every_smooth_activation_trains(moons, activation):
    flow = CNFDensityEstimator(**{**TINY, "max_iter": 6}, activation=activation).fit(moons)
    assert flow.loss_curve_[-1] < flow.loss_curve_[0]


def test_early_stopping_keeps_the_weights_that_were_best_on_the_part_held_out(moons):
    settings = {**TINY, "max_iter": 25, "batch_size": 10, "learning_rate_init": 0.3, "dtype": "float64"}
    # Tight, because scoring and validation choose their steps differently.
    settings |= {"learning_rate": "constant", "kinetic_energy": 0.0, "rtol": 1e-5, "atol": 1e-5}
    flow = CNFDensityEstimator(**settings, tol=0.0, validation_fraction=0.3).fit(moons[:60])
    assert flow.best_validation_score_ == max(flow.validation_scores_)
    assert flow.validation_scores_[-1] < flow.best_validation_score_ - 1e-2  # so that keeping the last fails below
    # the split is drawn after the seed of the initial weights
    rng = np.random.RandomState(0)
    rng.randint(np.iinfo(np.int32).max)
    _, held_out = train_test_split(np.arange(60), test_size=0.3, random_state=rng)
    standardised = (flow.score_samples(moons[held_out]) - flow.scaler_.log_det(moons[held_out])).mean()
    assert standardised == pytest.approx(flow.best_validation_score_, abs=1e-3)


def test_warm_start_goes_on_from_the_last_weights(moons):
    # Tight, because scoring and training choose their steps differently.
    settings = {**TINY, "batch_size": 400, "early_stopping": False, "rtol": 1e-12, "atol": 1e-12, "kinetic_energy": 0.0}
    flow = CNFDensityEstimator(**settings, warm_start=True).fit(moons)
    standardised = (flow.score_samples(moons) - flow.scaler_.log_det(moons)).mean()
    flow.set_params(max_iter=1).fit(moons)
    assert flow.n_iter_ == 1
    assert flow.loss_curve_[0] == pytest.approx(-standardised, rel=1e-10)  # the loss before the first update


@pytest.mark.filterwarnings("always:Maximum iterations:sklearn.exceptions.ConvergenceWarning")
def test_reaching_max_iter_warns(moons):
    with pytest.warns(ConvergenceWarning, match=r"Maximum iterations \(3\) reached"):
        CNFDensityEstimator(**TINY, learning_rate="constant").fit(moons[:50])


def test_a_likelihood_that_does_not_improve_stops_training(moons):
    flow = CNFDensityEstimator(**{**TINY, "max_iter": 50}, tol=10.0, n_iter_no_change=2).fit(moons[:50])
    assert flow.n_iter_ == 3


def test_two_fits_with_one_seed_are_identical_to_the_bit(moons):
    first, second = (CNFDensityEstimator(**TINY).fit(moons) for _ in range(2))
    assert same_weights(first, second)
    assert first.loss_curve_ == second.loss_curve_


def test_y_changes_nothing(moons):
    assert same_weights(CNFDensityEstimator(**TINY).fit(moons), CNFDensityEstimator(**TINY).fit(moons, moons[:, 0]))


def test_float32_input_is_computed_in_float32(moons):
    flow = CNFDensityEstimator(**TINY, device="cpu").fit(moons.astype(np.float32))
    assert {p.dtype for p in flow.module_.parameters()} == {torch.float32}
    double = CNFDensityEstimator(**TINY).fit(moons)
    np.testing.assert_allclose(flow.score_samples(moons), double.score_samples(moons), atol=1e-2)


# scikit-learn's tools


def test_pickling_keeps_scores_to_the_bit(fitted, moons):
    restored = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(restored.score_samples(moons), fitted.score_samples(moons))
    np.testing.assert_array_equal(restored.sample(3, random_state=0), fitted.sample(3, random_state=0))


def test_a_clone_is_not_fitted_and_fits_the_same(moons):
    flow = CNFDensityEstimator(**TINY).fit(moons)
    twin = clone(flow)
    with pytest.raises(NotFittedError):
        twin.score_samples(moons)
    with pytest.raises(NotFittedError):
        twin.sample()
    assert same_weights(twin.fit(moons), flow)


def test_it_works_at_the_end_of_a_pipeline(moons):
    pipeline = make_pipeline(MinMaxScaler(), CNFDensityEstimator(**TINY)).fit(moons)
    alone = CNFDensityEstimator(**TINY).fit(moons)
    volume = np.log(pipeline[0].scale_).sum()  # the scaler's own change of units
    np.testing.assert_allclose(pipeline.score_samples(moons) + volume, alone.score_samples(moons), atol=1e-6)


def test_grid_search_over_tolerances_finds_the_more_likely(moons):
    grid = GridSearchCV(CNFDensityEstimator(**TINY), {"rtol": [1e-2, 1e-4], "atol": [1e-3]}, cv=2).fit(moons)
    candidates = grid.cv_results_["params"]
    scores = [cross_val_score(clone(grid.estimator).set_params(**p), moons, cv=2).mean() for p in candidates]
    np.testing.assert_array_equal(grid.cv_results_["mean_test_score"], scores)
    assert grid.best_params_ == candidates[int(np.argmax(scores))]


def test_cross_validation(moons):
    scores = cross_val_score(CNFDensityEstimator(**TINY), moons, cv=2)
    assert np.isfinite(scores).all()


def test_feature_names_are_remembered_and_compared(moons):
    frame = pd.DataFrame(moons, columns=["a", "b"])
    flow = CNFDensityEstimator(**TINY).fit(frame)
    assert flow.feature_names_in_.tolist() == ["a", "b"]
    with pytest.raises(ValueError, match="feature names"):
        flow.score_samples(frame.rename(columns={"b": "c"}))


def test_more_dimensions_work():
    X = load_iris().data
    flow = CNFDensityEstimator(**{**TINY, "max_iter": 8}).fit(X)
    assert flow.score(X) > GaussianMixture(1, covariance_type="diag").fit(X).score(X)
    assert flow.sample(3).shape == (3, 4)


# To the base and back


def test_inverse_transform_returns_what_transform_was_given(fitted, moons):
    tight = pickle.loads(pickle.dumps(fitted)).set_params(rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(tight.inverse_transform(tight.transform(moons)), moons, atol=1e-7)
    np.testing.assert_allclose(fitted.inverse_transform(fitted.transform(moons)), moons, atol=1e-2)


def test_samples_come_from_a_standard_normal_base(fitted):
    base = fitted.transform(fitted.sample(2000, random_state=0))
    assert all(kstest(column, "norm").pvalue > 0.01 for column in base.T)
    again = np.random.RandomState(0).standard_normal((2000, 2))
    np.testing.assert_allclose(base, again, atol=0.02)


def test_the_density_is_the_bases_by_the_change_of_variables(fitted, moons):
    tight = pickle.loads(pickle.dumps(fitted)).set_params(rtol=1e-9, atol=1e-10)
    x, h = moons[0], 1e-5
    shifted = [tight.transform(x[None] + s) - tight.transform(x[None] - s) for s in h * np.eye(2)]
    jacobian = np.concatenate(shifted).T / (2.0 * h)
    z = tight.transform(x[None])[0]
    expected = -0.5 * z @ z - math.log(2.0 * math.pi) + np.linalg.slogdet(jacobian)[1]
    assert tight.score_samples(x[None])[0] == pytest.approx(expected, abs=1e-5)


def test_transform_names_its_columns_and_makes_frames(moons):
    frame = pd.DataFrame(moons, columns=["a", "b"])
    flow = CNFDensityEstimator(**TINY).set_output(transform="pandas").fit(frame)
    base = flow.transform(frame)
    assert base.columns.tolist() == flow.get_feature_names_out().tolist()
    assert base.index.equals(frame.index)


def test_points_of_the_base_must_have_its_dimension(fitted):
    with pytest.raises(ValueError, match="X has 3 features, but the base has 2"):
        fitted.inverse_transform(np.zeros((4, 3)))


# Along time


def test_paths_lead_from_the_base_to_the_samples(fitted, moons):
    paths = fitted.trajectory(moons[:7], [0.0, 0.25, 1.0])
    assert paths.shape == (7, 3, 2)
    np.testing.assert_allclose(paths[:, -1], moons[:7], atol=1e-10)
    base = fitted.transform(moons[:7]) * np.exp(fitted.module_.log_scale.detach().numpy())
    np.testing.assert_allclose(paths[:, 0], fitted.scaler_.inverse_transform(base), atol=1e-2)


def test_the_density_at_every_time_integrates_to_one(fitted):
    class At:
        def __init__(self, t):
            self.t = t

        def score_samples(self, X):
            return fitted.log_prob(X, self.t)

    for t in (0.0, 0.5):
        assert Quadrature(At(t), ((-6, 7), (-5, 5.5)), 101).total() == pytest.approx(1.0, abs=1e-3)


def test_the_density_of_the_data_is_that_at_the_end_and_the_bases_is_normal(fitted, moons):
    np.testing.assert_array_equal(fitted.log_prob(moons, 1.0), fitted.score_samples(moons))
    scale = np.exp(fitted.module_.log_scale.detach().numpy())
    z = fitted.scaler_.transform(moons) / scale
    expected = -0.5 * (z**2).sum(1) - np.log(2 * math.pi) - np.log(scale).sum() + fitted.scaler_.log_det(moons)
    np.testing.assert_allclose(fitted.log_prob(moons, 0.0), expected, rtol=1e-10)


@pytest.mark.parametrize("t", [-0.1, 1.1, math.nan])
def test_a_time_outside_the_flow_is_refused(fitted, moons, t):
    with pytest.raises(ValueError, match="t must be a time"):
        fitted.log_prob(moons, t)


@pytest.mark.parametrize("t", [[], [0.5, 0.2], [0.0, 1.5], 0.5])
def test_times_of_paths_must_rise_within_the_flow(fitted, moons, t):
    with pytest.raises(ValueError, match="t must be"):
        fitted.trajectory(moons, t)


# Fields


class Swirl(nn.Module):
    """A field of a user's own."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 2))

    def forward(self, t, z):
        return self.layers(z)


@pytest.mark.parametrize("field", [*FIELDS, Swirl()], ids=str)
def test_every_field_learns_and_integrates_to_one(moons, field):
    flow = CNFDensityEstimator(**{**TINY, "max_iter": 15, "rtol": 1e-4, "atol": 1e-4}, field=field).fit(moons)
    assert flow.score(moons) > GaussianMixture(1).fit(moons).score(moons) + 0.02
    assert Quadrature(flow, ((-6, 7), (-5, 5.5)), 101).total() == pytest.approx(1.0, abs=1e-3)


def test_a_field_of_ones_own_is_copied(moons):
    field = Swirl()
    before = [p.detach().clone() for p in field.parameters()]
    flow = CNFDensityEstimator(**TINY, field=field).fit(moons)
    assert all(torch.equal(p, q) for p, q in zip(before, field.parameters(), strict=True))
    assert not any(torch.equal(p, q) for p, q in zip(before, flow.module_.field.parameters(), strict=True))


def test_more_planar_units_fit_better(moons):
    settings = {**TINY, "max_iter": 8, "learning_rate_init": 3e-2}
    scores = [
        CNFDensityEstimator(**{**settings, "hidden_layer_sizes": width}, field="gated_planar").fit(moons).score(moons)
        for width in (1, 16)
    ]
    assert scores[1] > scores[0] + 0.1


# Objectives and penalties


@pytest.mark.parametrize(("objective", "max_iter"), [("likelihood", 10), ("flow_matching", 60)])
def test_both_objectives_learn_a_normal_density(objective, max_iter):
    rng = np.random.RandomState(0)
    X = rng.multivariate_normal([1.0, -2.0], [[2.0, 0.6], [0.6, 0.5]], 4000)
    flow = CNFDensityEstimator((16,), objective=objective, max_iter=max_iter, random_state=0).fit(X)
    assert flow.score(X) == pytest.approx(GaussianMixture(1).fit(X).score(X), abs=0.05)


def test_flow_matching_learns_without_a_solve(moons):
    flow = CNFDensityEstimator((32,), objective="flow_matching", max_iter=50, learning_rate_init=1e-2, random_state=0)
    flow.fit(moons)
    assert flow.score(moons) > GaussianMixture(1).fit(moons).score(moons) + 0.2
    assert flow.nfe_forward_ == [0.0] * 50
    assert Quadrature(flow.set_params(rtol=1e-5, atol=1e-5), n=141).total() == pytest.approx(1.0, abs=2e-3)


def test_flow_matching_gives_likelihood_a_better_start(moons):
    settings = {**TINY, "hidden_layer_sizes": (32,), "max_iter": 1}
    plain = CNFDensityEstimator(**settings).fit(moons)
    matched = CNFDensityEstimator(**settings, matching_iter=100).fit(moons)
    assert len(matched.matching_curve_) == 100
    assert matched.n_iter_ == 1
    assert matched.score(moons) > plain.score(moons) + 0.1


@pytest.mark.parametrize("field", ["mlp", "concatsquash"])
def test_an_estimated_divergence_trains_and_the_density_is_exact(moons, field):
    settings = {**TINY, "max_iter": 15, "rtol": 1e-4, "atol": 1e-4}
    flow = CNFDensityEstimator(**settings, field=field, divergence="hutchinson").fit(moons)
    assert flow.score(moons) > GaussianMixture(1).fit(moons).score(moons)
    np.testing.assert_array_equal(flow.score_samples(moons), flow.score_samples(moons))
    assert Quadrature(flow, ((-6, 7), (-5, 5.5)), 101).total() == pytest.approx(1.0, abs=1e-3)


def test_the_kinetic_energy_makes_paths_shorter(moons):
    settings = {**TINY, "hidden_layer_sizes": (16,), "max_iter": 10}
    free, held = (CNFDensityEstimator(**settings, kinetic_energy=k).fit(moons) for k in (0.0, 1.0))

    def length(flow):
        steps = np.diff(flow.trajectory(moons, np.linspace(0, 1, 20)), axis=1)
        return np.linalg.norm(steps, axis=2).sum(1).mean()

    assert length(held) < 0.9 * length(free)


def test_a_penalty_on_the_jacobian_makes_it_smaller(moons):
    settings = {**TINY, "hidden_layer_sizes": (16,), "max_iter": 10, "kinetic_energy": 0.0}
    free, held = (CNFDensityEstimator(**settings, jacobian_norm=k).fit(moons) for k in (0.0, 1.0))

    def norm(flow):
        z = torch.tensor(flow.scaler_.transform(moons[:50]))
        field = flow.module_.field
        rows = [torch.func.jacrev(lambda z: field(torch.tensor(0.5).double(), z[None])[0])(x) for x in z]
        return torch.stack(rows).square().sum((1, 2)).mean().item()

    assert norm(held) < 0.5 * norm(free)


# Weights


def test_a_weight_counts_how_often_a_sample_comes(moons):
    counts = np.random.RandomState(0).randint(0, 3, len(moons))
    weighted = CNFDensityEstimator(**TINY).fit(moons, sample_weight=counts)
    repeated = CNFDensityEstimator(**TINY).fit(np.repeat(moons, counts, axis=0))
    np.testing.assert_allclose(weighted.score_samples(moons), repeated.score_samples(moons), atol=1e-6)


def test_weights_move_the_density(moons):
    left = moons[:, 0] < 0.5
    flow = CNFDensityEstimator(**TINY).fit(moons, sample_weight=np.where(left, 10.0, 1.0))
    plain = CNFDensityEstimator(**TINY).fit(moons)
    gain = flow.score_samples(moons) - plain.score_samples(moons)
    assert gain[left].mean() > 0.2
    assert gain[~left].mean() < -0.2


def test_equal_weights_change_nothing(moons):
    plain = CNFDensityEstimator(**TINY).fit(moons)
    assert same_weights(plain, CNFDensityEstimator(**TINY).fit(moons, sample_weight=np.ones(len(moons))))


def test_the_score_with_weights_is_that_of_repeated_samples(fitted, moons):
    counts = np.random.RandomState(0).randint(0, 4, len(moons))
    repeated = np.repeat(moons, counts, axis=0)
    assert fitted.score(moons, sample_weight=counts) == pytest.approx(fitted.score(repeated), rel=1e-6)
    assert fitted.score(moons, sample_weight=counts) != pytest.approx(fitted.score(moons), rel=1e-6)
    with pytest.raises(ValueError, match="Negative values in data passed to `sample_weight`"):
        fitted.score(moons, sample_weight=-np.ones(len(moons)))


def test_negative_weights_are_refused(moons):
    with pytest.raises(ValueError, match="Negative values in data passed to `sample_weight`"):
        CNFDensityEstimator(**TINY).fit(moons, sample_weight=-np.ones(len(moons)))


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
        flow = CNFDensityEstimator(**TINY).fit(X)
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
        CNFDensityEstimator(**TINY).fit(X, sample_weight=np.full(100, 0.01))


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


# Toys


@pytest.mark.parametrize("name", ["two_circles", "eight_gaussians"])
def test_samples_of_toys_are_like_those_of_the_truth(name):
    X = make_toy_density(name, 3000, random_state=0)
    flow = CNFDensityEstimator(random_state=0, max_iter=16, learning_rate_init=1e-2).fit(X)
    fresh = make_toy_density(name, 1000, random_state=1)
    samples = flow.sample(1000, random_state=2)
    # The largest of the Kolmogorov-Smirnov distances along 8 directions, beside those of two halves mixed anew.
    angles = np.linspace(0, math.pi, 9)[:-1]
    both = np.concatenate([fresh, samples]) @ np.stack([np.cos(angles), np.sin(angles)])

    def distance(order):
        mixed = both[order]
        return max(ks_2samp(mixed[:1000, j], mixed[1000:, j]).statistic for j in range(8))

    rng = np.random.RandomState(3)
    others = [distance(rng.permutation(2000)) for _ in range(49)]
    assert distance(np.arange(2000)) <= 1.3 * max(others)
    truth = toy_log_density(name, fresh).mean()
    assert truth - flow.score(fresh) < 0.15


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

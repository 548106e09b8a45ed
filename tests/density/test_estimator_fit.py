import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GridSearchCV, cross_val_score, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler

from skode import CNFDensityEstimator
from skode.density import settings
from skode.dynamics.fields import FIELDS
from skode.training import estimator as training_estimator
from skode.training import loop
from tests.density.quadrature import Quadrature
from tests.density.swirl import Swirl
from tests.density.tiny import TINY
from tests.weights import same_weights, weights

pytestmark = pytest.mark.filterwarnings("ignore:Maximum iterations:sklearn.exceptions.ConvergenceWarning")

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


# Fields


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


# Many samples


@pytest.fixture
def many(monkeypatch):
    """The optimisers and solvers of fits, with more samples than are many."""
    monkeypatch.setattr(settings, "MANY", 50)
    seen = []
    train = loop.train

    def noted(objective, n_samples, chosen, rng, **kwargs):
        seen.append((objective, chosen))
        return train(objective, n_samples, chosen, rng, **kwargs)

    monkeypatch.setattr(training_estimator, "train", noted)
    return seen


def test_many_samples_are_trained_on_by_another_optimiser_and_at_a_looser_tolerance(moons, many):
    flow = CNFDensityEstimator(**{**TINY, "max_iter": 2}, rtol=1e-4, atol=1e-5).fit(moons)
    ((likelihood, chosen),) = many
    assert chosen.optimizer == "soap"
    assert (likelihood.solver.rtol, likelihood.solver.atol) == (1e-3, 1e-4)
    assert flow.n_iter_ == 2


def test_few_samples_are_trained_on_as_they_were(moons, many, monkeypatch):
    monkeypatch.setattr(settings, "MANY", 10**6)
    CNFDensityEstimator(**TINY, rtol=1e-4, atol=1e-5).fit(moons)
    ((likelihood, chosen),) = many
    assert chosen.optimizer == "adam"
    assert (likelihood.solver.rtol, likelihood.solver.atol) == (1e-4, 1e-5)


def test_many_samples_have_fewer_epochs_of_likelihood_but_not_of_matching(moons, many):
    one = {**TINY, "max_iter": "auto", "hidden_layer_sizes": (2,), "batch_size": 1000}
    assert CNFDensityEstimator(**one).fit(moons).n_iter_ == settings.auto_max_iter(len(many[0][0].x)) < 70
    assert CNFDensityEstimator(**one, objective="flow_matching").fit(moons).n_iter_ == 70
    assert [chosen.optimizer for _, chosen in many] == ["soap", "adam"]


def test_a_weight_counts_how_often_one_of_many_samples_comes(moons, many):
    weights = np.where(moons[:, 0] > 0.0, 2.0, 1.0)
    repeated = np.repeat(moons, weights.astype(int), axis=0)
    few = {**TINY, "early_stopping": False}
    once, again = CNFDensityEstimator(**few).fit(moons, sample_weight=weights), CNFDensityEstimator(**few).fit(repeated)
    np.testing.assert_allclose(once.score_samples(moons), again.score_samples(moons), rtol=1e-6)


def test_many_samples_are_learned_within_their_time_and_gone_on_with(moons, many):
    flow = CNFDensityEstimator(**{**TINY, "max_iter": 4}, warm_start=True, max_time=1e6).fit(moons)
    before = flow.score(moons)
    again = flow.fit(moons)
    assert again.score(moons) > before
    same = CNFDensityEstimator(**{**TINY, "max_iter": 4}).fit(moons)
    assert same.score(moons) == before

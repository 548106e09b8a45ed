import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import make_moons

import skode
from skode import CNFDensityEstimator
from tests.density.tiny import TINY
from tests.weights import same_weights

X = make_moons(200, noise=0.1, random_state=0)[0]
PARTS = [X[:80], X[80:130], X[130:]]


def in_parts(estimator, parts=PARTS):
    for part in parts:
        estimator.partial_fit(part)
    return estimator


def integral(cnf, n=120):
    """The total probability on a grid."""
    x, y = (np.linspace(low, high, n) for low, high in ((-3.5, 4.5), (-3.0, 3.5)))
    points = np.stack(np.meshgrid(x, y), -1).reshape(-1, 2)
    return np.exp(cnf.score_samples(points)).sum() * (x[1] - x[0]) * (y[1] - y[0])


def test_calls_count_on():
    cnf = in_parts(CNFDensityEstimator(**TINY))
    assert cnf.n_iter_ == len(cnf.loss_curve_) == len(cnf.nfe_forward_) == 3
    assert cnf.n_samples_seen_ == 200
    assert cnf.stacking_weights_.tolist() == [1.0]
    assert cnf.n_features_in_ == 2


def test_the_map_is_that_of_the_first_call_and_the_density_stays_one():
    cnf = CNFDensityEstimator(**TINY).partial_fit(X)
    mean, whitening = cnf.scaler_.mean, cnf.scaler_.whitening
    cnf.partial_fit(1.5 * X[:60] + 0.5)  # of another place and spread
    assert cnf.scaler_.mean is not None
    assert (cnf.scaler_.mean == mean).all()
    assert (cnf.scaler_.whitening == whitening).all()
    assert integral(cnf) == pytest.approx(1.0, abs=0.01)


def test_answers_are_of_the_running_mean_of_the_weights():
    """By plain Adam over the same batches, and the mean computed by hand."""
    settings = {**TINY, "batch_size": 40, "shuffle": False, "kinetic_energy": 0.0}
    cnf = CNFDensityEstimator(**settings).partial_fit(X)
    # Averages of before and after one call, from the weights in training.
    first = [weight.clone() for weight in cnf._record.weights]
    assert cnf._record.n_updates == 5
    mean = [parameter.detach().clone().float() for parameter in cnf.module_.parameters()]
    cnf.partial_fit(X[:40])  # one update
    assert cnf._record.n_updates == 6
    for parameter, before, average, raw in zip(cnf.module_.parameters(), first, mean, cnf._record.weights, strict=True):
        assert (raw != before).any()
        share = 6 / 15  # (1 + 5) / (10 + 5)
        torch.testing.assert_close(parameter.detach().float(), share * average + (1 - share) * raw)


def test_the_mean_goes_on_where_a_call_ends():
    settings = {**TINY, "batch_size": 40, "shuffle": False, "kinetic_energy": 0.0, "method": "rk4", "step_size": 0.25}
    once, twice = (CNFDensityEstimator(**settings).partial_fit(X) for _ in range(2))
    once.partial_fit(X)
    in_parts(twice, [X[:80], X[80:]])
    assert same_weights(once, twice)
    for one, other in zip(once._record.weights, twice._record.weights, strict=True):
        assert (one == other).all()


def test_it_learns_what_a_fit_learns():
    test = make_moons(1000, noise=0.1, random_state=1)[0]
    settings = {"hidden_layer_sizes": (16,), "random_state": 0, "stacking": False}
    many = make_moons(1000, noise=0.1, random_state=2)[0]
    fitted = CNFDensityEstimator(max_iter=15, **settings).fit(many)
    cnf = CNFDensityEstimator(**settings)
    for _ in range(15):
        in_parts(cnf, np.array_split(many, 5))
    assert cnf.score(test) > fitted.score(test) - 0.05


def test_it_follows_data_that_change():
    cnf = in_parts(CNFDensityEstimator(**{**TINY, "hidden_layer_sizes": (16,)}), [X] * 20)
    moved = X + np.array([0.5, 0.0])
    before = cnf.score(moved)
    in_parts(cnf, [moved] * 40)
    assert cnf.score(moved) > before + 0.3


def test_seeds_are_others_at_each_call():
    """Noise of flow matching that came again with the same samples would be learnt with them."""
    cnf = CNFDensityEstimator(objective="flow_matching", **TINY)
    drawn = []
    for _ in range(2):
        drawn.append(cnf._random_state_of_call().randint(2**31))
        cnf.partial_fit(X)
    again = CNFDensityEstimator(objective="flow_matching", **TINY)
    assert drawn[0] != drawn[1]
    assert same_weights(in_parts(again, [X, X]), cnf)


def test_a_fit_goes_on_with_the_densities_beside_it():
    cnf = CNFDensityEstimator(**{**TINY, "stacking": True}).fit(X)
    weights, beside = cnf.stacking_weights_, [density.means.clone() for density in cnf._densities_beside]
    before = cnf.score_samples(X)
    epochs = cnf.n_iter_
    cnf.partial_fit(X[:50])
    assert cnf.n_iter_ == epochs + 1
    assert cnf.n_samples_seen_ == 250
    assert (cnf.stacking_weights_ == weights).all()
    assert len(beside) == len(weights) - 1 > 0
    for density, means in zip(cnf._densities_beside, beside, strict=True):
        assert (density.means == means).all()  # in double precision, to the bit
    assert (cnf.score_samples(X) != before).any()
    assert cnf.score(X) > before.mean() - 0.05


def test_a_fit_begins_anew():
    cnf = in_parts(CNFDensityEstimator(**TINY)).fit(X)
    assert same_weights(cnf, CNFDensityEstimator(**TINY).fit(X))
    assert cnf.n_samples_seen_ == 200
    assert cnf._record is None


@pytest.mark.parametrize("copied", [lambda cnf, path: pickle.loads(pickle.dumps(cnf)), "saved"])
def test_copies_go_on_as_the_estimator_does(copied, tmp_path):
    cnf = in_parts(CNFDensityEstimator(**TINY))
    if copied == "saved":
        cnf.save(tmp_path / "cnf.skode")
        other = skode.load(tmp_path / "cnf.skode")
    else:
        other = copied(cnf, tmp_path)
    assert (other.score_samples(X) == cnf.score_samples(X)).all()
    assert same_weights(other.partial_fit(X), cnf.partial_fit(X))
    assert other._record.n_updates == cnf._record.n_updates


def test_a_clone_knows_nothing():
    cnf = in_parts(CNFDensityEstimator(**TINY))
    assert same_weights(clone(cnf).partial_fit(X), CNFDensityEstimator(**TINY).partial_fit(X))


def test_a_call_that_fails_changes_nothing():
    cnf = in_parts(CNFDensityEstimator(**TINY))
    before, weights, curve = cnf.score_samples(X), pickle.dumps(cnf._record), list(cnf.loss_curve_)

    for wrong in (np.full((3, 2), np.nan), X[:, :1], 1e300 * X):
        with pytest.raises(ValueError, match="X"):
            cnf.partial_fit(wrong)
    assert (cnf.score_samples(X) == before).all()
    assert pickle.dumps(cnf._record) == weights
    assert cnf.loss_curve_ == curve
    assert cnf.n_samples_seen_ == 200


def test_a_pass_that_fails_midway_changes_nothing(monkeypatch):
    cnf = CNFDensityEstimator(**TINY).fit(X)
    before, curve = cnf.score_samples(X), list(cnf.loss_curve_)

    def failing(*args):
        raise RuntimeError("out of luck")

    monkeypatch.setattr("skode.training.loop._Training._see_that_it_is_usable", failing)
    with pytest.raises(RuntimeError, match="out of luck"):
        cnf.partial_fit(X)
    assert (cnf.score_samples(X) == before).all()
    assert cnf.loss_curve_ == curve


def test_names_are_checked():
    frame = pd.DataFrame(X, columns=["a", "b"])
    cnf = CNFDensityEstimator(**TINY).partial_fit(frame)
    assert cnf.feature_names_in_.tolist() == ["a", "b"]
    with pytest.raises(ValueError, match="feature names"):
        cnf.partial_fit(frame.rename(columns={"a": "c"}))


def test_another_architecture_is_refused():
    cnf = CNFDensityEstimator(**TINY).partial_fit(X)
    with pytest.raises(ValueError, match="hidden_layer_sizes"):
        cnf.set_params(hidden_layer_sizes=(9,)).partial_fit(X)


def test_another_objective_begins_with_new_moments():
    cnf = CNFDensityEstimator(**TINY).partial_fit(X)
    cnf.set_params(objective="flow_matching").partial_fit(X)
    assert np.isfinite(cnf.set_params(objective="likelihood").partial_fit(X).score(X))


def test_a_share_of_all_samples_is_refused():
    with pytest.raises(ValueError, match=r"contamination=0.1 .* set contamination='auto'"):
        CNFDensityEstimator(**TINY, contamination=0.1).partial_fit(X)


def test_the_threshold_is_that_of_the_present_density():
    cnf = CNFDensityEstimator(**TINY).partial_fit(X)
    first = cnf.offset_
    cnf.partial_fit(X)
    assert cnf.offset_ != first
    assert cnf.offset_ == pickle.loads(pickle.dumps(cnf)).offset_


def test_one_sample_will_do_later():
    cnf = CNFDensityEstimator(**TINY).partial_fit(X)
    assert np.isfinite(cnf.partial_fit(X[:1]).score(X))
    with pytest.raises(ValueError, match="minimum of 2"):
        CNFDensityEstimator(**TINY).partial_fit(X[:1])


def test_weights_count_copies():
    weights = np.array([0.0, 1.0, 2.0] * 60)
    rows = X[:180]
    weighted = CNFDensityEstimator(**TINY).partial_fit(rows, sample_weight=weights)
    copied = CNFDensityEstimator(**TINY).partial_fit(np.repeat(rows, weights.astype(int), axis=0))
    assert weighted.n_samples_seen_ == copied.n_samples_seen_ == 180
    np.testing.assert_allclose(weighted.score_samples(X), copied.score_samples(X), rtol=1e-6)


def test_discrete_columns_have_the_values_of_the_first_call():
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"kind": rng.choice(["x", "y"], 200), "size": rng.normal(size=200)})
    cnf = CNFDensityEstimator(**TINY).partial_fit(frame).partial_fit(frame[:50])
    probabilities = np.exp(cnf.score_samples(frame.assign(kind="x"))) + np.exp(
        cnf.score_samples(frame.assign(kind="y"))
    )
    assert np.isfinite(probabilities).all()
    assert set(cnf.sample(50, random_state=0)["kind"]) <= {"x", "y"}
    cnf.partial_fit(frame[:20].assign(kind="new"))  # not seen at the first call


def test_flow_matching_begins_the_first_call():
    cnf = CNFDensityEstimator(**TINY, matching_iter=2).partial_fit(X)
    assert len(cnf.matching_curve_) == 2
    assert cnf.partial_fit(X).n_iter_ == 2
    assert len(cnf.matching_curve_) == 2


def test_batches_and_penalty_count_all_samples(monkeypatch):
    seen = []

    def noted(n_samples):
        seen.append(n_samples)
        return 1.0

    monkeypatch.setattr("skode.density.estimator.auto_kinetic_energy", noted)
    in_parts(CNFDensityEstimator(**TINY))
    assert seen == [80, 130, 200]


def test_a_limit_of_time_ends_a_call():
    cnf = CNFDensityEstimator(**{**TINY, "batch_size": 10}, max_time=1e-9)
    cnf.partial_fit(X)
    assert cnf._record.n_updates == 1
    assert cnf.set_params(max_time=None).partial_fit(X)._record.n_updates == 21

"""Predictions, scores, densities and latent states of a fitted latent ODE."""

import copy
import pickle
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import norm
from sklearn.exceptions import ConvergenceWarning, UndefinedMetricWarning
from sklearn.metrics import r2_score

from skode import LatentODERegressor
from tests.timeseries.waves import TINY, conditioned_pair, make_waves, tight

pytestmark = pytest.mark.filterwarnings("ignore:Maximum iterations:sklearn.exceptions.ConvergenceWarning")


# Missing values


def test_score_is_sklearns_where_nothing_is_missing(fitted, waves):
    X, y = waves
    assert fitted.score(X, y) == pytest.approx(r2_score(y, fitted.predict(X)), rel=1e-12)
    weight = np.linspace(1, 2, len(y))
    assert fitted.score(X, y, weight) == pytest.approx(r2_score(y, fitted.predict(X), sample_weight=weight), rel=1e-12)


def test_score_leaves_out_what_was_not_observed(fitted, waves):
    X, y = waves
    seen = np.arange(len(y)) % 4 != 0
    expected = r2_score(y[seen], fitted.predict(X)[seen])
    assert fitted.score(X, np.where(seen, y, np.nan)) == pytest.approx(expected, rel=1e-12)


def test_score_is_the_mean_over_outputs(waves):
    X, y = waves
    Y = np.column_stack([y, y**2])
    model = LatentODERegressor(**TINY).fit(X, Y)
    assert model.score(X, Y) == pytest.approx(r2_score(Y, model.predict(X)), rel=1e-12)


@pytest.mark.parametrize("shape", [(-1,), (-1, 1)])
def test_predictions_have_the_shape_of_y(waves, shape):
    X, y = waves
    y = y.reshape(shape)
    mean, std = LatentODERegressor(**TINY).fit(X, y).predict(X, return_std=True)
    assert mean.shape == std.shape == y.shape


# Uncertainty and the prior


def test_the_prediction_is_less_certain_than_the_white_noise(fitted, waves):
    _, std = fitted.predict(waves[0], return_std=True)
    assert (std > fitted.noise_std_ * np.sqrt(1.0 - fitted.noise_share_)).all()


# Noise with a memory


def test_asking_for_the_spread_does_not_change_the_mean(fitted, waves):
    np.testing.assert_array_equal(fitted.predict(waves[0]), fitted.predict(waves[0], return_std=True)[0])


def test_series_never_seen_get_the_prior(fitted):
    t = np.linspace(0, 3, 6)
    first, second = (fitted.predict(pd.DataFrame({"id": [i] * 6, "t": t}), return_std=True) for i in ("new", "newer"))
    np.testing.assert_array_equal(first, second)
    _, known_std = fitted.predict(pd.DataFrame({"id": ["s0"] * 6, "t": t}), return_std=True)
    assert first[1].mean() > known_std.mean()


def test_an_id_of_another_type_is_one_never_seen(fitted):
    query = pd.DataFrame({"id": [0], "t": [1.0]})
    with pytest.warns(UserWarning, match="ids are integer here, but were string in fit"):
        answer = fitted.predict(query)
    np.testing.assert_array_equal(answer, fitted.predict(query.assign(id="new")))


def test_known_and_unknown_series_may_be_asked_together(fitted, waves):
    X = waves[0].iloc[:4]
    new = X.assign(id="new")
    model = tight(fitted)
    together = model.predict(pd.concat([new, X]))
    np.testing.assert_allclose(together, np.concatenate([model.predict(new), model.predict(X)]), rtol=1e-7)


def test_times_before_the_first_observation_are_answered(fitted):
    t = [-3.0, -1.0, 0.0, 1.0]
    mean = fitted.predict(pd.DataFrame({"id": ["s1"] * 4, "t": t}))
    assert np.isfinite(mean).all()


def test_the_answer_is_continuous_at_the_first_observation(fitted, waves):
    X, _ = waves
    start = X["t"][X["id"] == "s1"].min()
    query = pd.DataFrame({"id": ["s1"] * 3, "t": [start - 1e-6, start, start + 1e-6]})
    before, at, after = fitted.predict(query)
    assert before == pytest.approx(at, abs=1e-4)
    assert after == pytest.approx(at, abs=1e-4)


# Repeatability and scikit-learn's tools


def test_tolerance_is_read_when_predicting(fitted, waves):
    X, _ = waves
    reference = tight(fitted).predict(X)
    errors = []
    for tolerance in (1e-1, 1e-3, 1e-6):
        other = pickle.loads(pickle.dumps(fitted)).set_params(rtol=tolerance, atol=tolerance)
        errors.append(np.abs(other.predict(X) - reference).max())
    assert errors[0] > errors[2]
    assert errors[2] < 1e-4


# Refusals


def test_many_short_series_beside_a_long_one_are_answered_as_each_alone():
    model, X, _ = conditioned_pair()
    query = pd.concat([pd.DataFrame({"series": 0, "time": np.linspace(0, 2, 300)}), X])
    together = model.predict(query)
    alone = np.concatenate([model.predict(query[(query["series"] == s).to_numpy()]) for s in range(6)])
    order = np.argsort(query["series"].to_numpy(), kind="stable")
    np.testing.assert_allclose(together[order], alone, atol=0.02)


# Densities


def test_score_samples_is_the_density_of_the_predictive_mixture(fitted, waves):
    """By hand for one latent state's worth: the posterior put at a point gives a normal density."""
    X, y = waves
    model = pickle.loads(pickle.dumps(fitted))
    model.posterior_ = replace(model.posterior_, factor=torch.zeros_like(model.posterior_.factor), n_of_prior=0)
    model.module_.likelihood.whiten()
    model.module_.likelihood.colour(0, 0.5, 1.0)
    mean, std = model.predict(X, return_std=True)
    assert (std < model.noise_std_).all()  # of its noise the part with a memory is known in part
    np.testing.assert_allclose(model.score_samples(X, y), norm.logpdf(y, mean, std), rtol=1e-6, atol=1e-8)


def test_densities_integrate_to_one(fitted):
    query = pd.DataFrame({"id": ["s0"], "t": [1.3]})
    mean, std = (values[0] for values in fitted.predict(query, return_std=True))
    grid = np.linspace(mean - 12 * std, mean + 12 * std, 801)
    many = pd.concat([query] * len(grid))
    density = np.exp(fitted.score_samples(many, grid))
    assert np.trapezoid(density, grid) == pytest.approx(1, abs=1e-4)
    assert np.trapezoid(density * grid, grid) == pytest.approx(mean, abs=1e-3)
    assert np.trapezoid(density * (grid - mean) ** 2, grid) == pytest.approx(std**2, rel=1e-3)


def test_densities_are_in_the_units_of_y(waves):
    X, y = waves
    first, second = (LatentODERegressor(**TINY).fit(X, scale * y + 3) for scale in (1.0, 100.0))
    difference = first.score_samples(X, y + 3) - second.score_samples(X, 100 * y + 3)
    np.testing.assert_allclose(difference, np.log(100), rtol=1e-4)


def test_rows_without_observation_have_no_density_and_the_others_keep_theirs(fitted, waves):
    X, y = waves
    missing = np.where(np.arange(len(y)) % 3 == 0, np.nan, y)
    density = fitted.score_samples(X, missing)
    np.testing.assert_array_equal(np.isnan(density), np.isnan(missing))
    seen = ~np.isnan(missing)
    np.testing.assert_allclose(density[seen], fitted.score_samples(X, y)[seen], rtol=1e-7)


def test_outputs_of_a_row_are_judged_together(waves):
    X, y = waves
    Y = np.column_stack([y, 10 * y])
    model = LatentODERegressor(**TINY).fit(X, Y)
    half = np.where(np.array([True, False]), Y, np.nan)
    other = np.where(np.array([False, True]), Y, np.nan)
    # A latent state that is certain: then outputs are independent.
    model.posterior_ = replace(model.posterior_, factor=torch.zeros_like(model.posterior_.factor), n_of_prior=0)
    np.testing.assert_allclose(
        model.score_samples(X, Y), model.score_samples(X, half) + model.score_samples(X, other), rtol=1e-7
    )


def test_densities_come_in_the_order_of_the_rows(fitted, waves):
    X, y = waves
    order = np.random.RandomState(1).permutation(len(y))
    np.testing.assert_allclose(
        fitted.score_samples(X.iloc[order], y[order]), fitted.score_samples(X, y)[order], rtol=1e-4
    )


def test_densities_of_counts_are_probabilities(waves):
    X, y = waves
    model = LatentODERegressor(**TINY, likelihood="poisson").fit(X, np.round(y))
    many = pd.concat([X.iloc[[7]]] * 60)
    assert np.exp(model.score_samples(many, np.arange(60.0))).sum() == pytest.approx(1, abs=1e-6)


# Latent states


def test_latent_states_are_of_each_series(fitted, waves):
    X, _ = waves
    states = fitted.latent_states()
    assert states.shape == (8, 4)
    assert states.index.name == "id"
    assert sorted(states.index) == sorted(X["id"].unique())
    assert states.columns.tolist() == list(fitted.get_feature_names_out())
    by_row = fitted.transform(X)
    assert by_row.shape == (len(X), 4)
    np.testing.assert_array_equal(by_row, states.loc[X["id"]].to_numpy())
    assert (np.abs(states.to_numpy()) > 1e-3).any()


def test_an_unseen_series_has_the_priors_latent_state(fitted, waves):
    X, _ = waves
    query = pd.concat([X[:2].assign(id="new"), X[:1]])
    states = fitted.transform(query)
    assert not states[:2].any()
    assert states[2].any()


def test_latent_states_as_a_frame(fitted, waves):
    X, _ = waves
    model = pickle.loads(pickle.dumps(fitted)).set_output(transform="pandas")
    frame = model.transform(X)
    assert isinstance(frame, pd.DataFrame)
    assert frame.columns.tolist() == list(model.get_feature_names_out())
    assert frame.index.equals(X.index)


def test_latent_trajectories_start_at_the_latent_state_and_move(fitted):
    first = pd.DataFrame({"id": fitted.context_.ids, "t": fitted.context_.origins})
    model = pickle.loads(pickle.dumps(fitted))
    model.posterior_ = replace(model.posterior_, factor=torch.zeros_like(model.posterior_.factor), n_of_prior=0)
    np.testing.assert_allclose(model.latent_trajectory(first), model.transform(first), atol=1e-6)
    moved = model.latent_trajectory(first.assign(t=first["t"] + 1))
    assert np.abs(moved - model.transform(first)).max() > 0.01


# The answers, by brute force


@pytest.mark.parametrize("likelihood", ["gaussian", "bernoulli", "poisson"])
@pytest.mark.parametrize("latent_size", [1, 2])
def test_predictions_and_densities_are_those_of_a_grid_of_initial_states(likelihood, latent_size, by_hand):
    rng = np.random.RandomState(1)
    X, y = make_waves(6, 6)
    y = {"gaussian": y, "bernoulli": (y > 5).astype(float), "poisson": rng.poisson(y - 3.9).astype(float)}[likelihood]
    settings = {**TINY, "latent_size": latent_size, "max_iter": 2, "dtype": "float64", "rtol": 1e-8, "atol": 1e-8}
    model = LatentODERegressor(**settings, likelihood=likelihood).set_params(n_draws=512).fit(X, y)
    scale, shift = (model.y_scaler_.scale_[0], model.y_scaler_.mean_[0]) if likelihood == "gaussian" else (1.0, 0.0)
    hand = by_hand(model.module_)
    axis = np.linspace(-5.5, 5.5, 401 if latent_size == 1 else 81)
    z0 = np.stack(np.meshgrid(*[axis] * latent_size), axis=-1).reshape(-1, latent_size)
    for name in X["id"].unique()[:2]:
        rows = (X["id"] == name).to_numpy()
        start = float(model.context_.origins[model.context_.ids.get_loc(name)])
        times, values = ((X["t"][rows] - start) / model.time_scale_).to_numpy(), (y[rows, None] - shift) / scale
        log_joint = hand.log_likelihood(z0, times, values) - 0.5 * (z0**2).sum(1)
        weights = np.exp(log_joint - log_joint.max())
        weights /= weights.sum()
        query = start + np.array([0.0, 1.3, 2.9])
        eta = hand.eta(z0, (query - start) / model.time_scale_)
        means = hand.mean(eta)
        mean = np.einsum("n,nto->t", weights, means)
        std = np.sqrt(np.einsum("n,nto->t", weights, hand.variance(eta) + (means - mean[:, None]) ** 2))
        given = np.full((3, 1), values[0, 0])
        density = np.log(weights @ np.exp(hand.log_prob(eta, given)[..., 0])) - np.log(scale)
        questions = pd.DataFrame({"id": name, "t": query})
        found_mean, found_std = model.predict(questions, return_std=True)
        np.testing.assert_array_less(np.abs(found_mean - (mean * scale + shift)), 0.02 * std * scale)
        np.testing.assert_allclose(found_std, std * scale, rtol=0.02)
        np.testing.assert_allclose(model.score_samples(questions, np.full(3, y[rows][0])), density, atol=0.02)


# Faults that users found


def test_a_score_of_nothing_is_nan(brief, waves):
    X, _ = waves
    alone = np.arange(len(X)) == 3
    for y, weights in ((np.full(len(X), np.nan), None), (waves[1], alone.astype(float))):
        with pytest.warns(UndefinedMetricWarning, match="score is NaN: R\\^2 needs two rows"):
            assert np.isnan(brief.score(X, y, weights))


def test_what_is_asked_too_far_away_says_so(brief, waves):
    X, _ = waves
    with pytest.raises(RuntimeError, match="Ask for times closer to the data"):
        brief.predict(X[:1].assign(t=-1e7))


# Common mistakes


def test_ids_of_another_type_are_warned_of_and_others_are_the_priors_silently(tiny_waves):
    model, X, _ = tiny_waves
    with pytest.warns(UserWarning, match="ids are integer here, but were string in fit") as caught:
        from_numbers = model.predict(X.assign(id=X["id"].str[1:].astype(int)))
    assert caught[0].filename == __file__
    np.testing.assert_allclose(from_numbers, model.predict(X.assign(id="new" + X["id"])))


def test_an_unknown_series_asked_long_before_it_is_taken_to_start_is_warned_of(tiny_waves):
    model, X, _ = tiny_waves
    start = X.groupby("id")["t"].min().median()
    query = pd.DataFrame({"id": ["s0", "typo", "typo"], "t": [start - 9.0, start, start - 0.9 * model.time_scale_]})
    model.predict(query)  # 's0' is known
    with pytest.warns(
        UserWarning, match="Series not known are taken to start .* 'typo' is queried long before"
    ) as caught:
        model.predict(query.assign(t=start - 1.1 * model.time_scale_))
    assert caught[0].filename == __file__


def test_an_unknown_series_is_named_as_its_id_is_written(tiny_waves):
    model, X, _ = tiny_waves
    early = {"t": [X["t"].min() - 2.0 * model.time_scale_] * 2}
    with pytest.warns(UserWarning, match="and 77 is queried long before that"):
        model.predict(pd.DataFrame({"id": [77, "s0"], **early}, dtype=object).infer_objects())
    numbers = copy.copy(model)
    numbers.context_ = replace(model.context_, ids=pd.RangeIndex(model.context_.n_series))
    with pytest.warns(UserWarning, match="and 77 is queried long before that"):
        numbers.predict(pd.DataFrame({"id": [77, 0], **early}))


def test_an_explosion_far_from_the_data_is_warned_of(tiny_waves):
    model, X, _ = tiny_waves
    wild = pickle.loads(pickle.dumps(model))
    with torch.no_grad():
        wild.module_.decoder.linear.weight.mul_(1e9)
    with pytest.warns(ConvergenceWarning, match=r"more than 1e\+06 standard deviations"):
        wild.predict(X)


def test_values_far_from_what_is_predicted_are_warned_of_where_their_density_underflows(tiny_waves):
    model, X, y = tiny_waves
    far = np.asarray(y, dtype=float).copy()
    far[1] = 1e200
    with pytest.warns(UserWarning, match="The log-densities of 1 of .* samples, such as number 1"):
        density = model.score_samples(X, far)
    assert density[1].item() == -np.inf
    with pytest.raises(ValueError, match="y holds values too large to square"):
        model.score(X, far)

import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone

import skode
from skode import LatentODERegressor
from skode.datasets import make_spirals
from tests.timeseries.decays import known_rate, long_frame, regressor
from tests.weights import same_weights

X, Y = make_spirals(n_series=12, n_observations=12, random_state=0)
Y = Y.to_numpy()
IDS = X["series"].unique()
SETTINGS = {
    "series": "series",
    "time": "time",
    "latent_size": 3,
    "hidden_layer_sizes": (8,),
    "encoder_size": 6,
    "n_draws": 4,
    "rtol": 1e-2,
    "atol": 1e-2,
    "max_iter": 4,
    "random_state": 0,
}


def of(ids, frame=X, y=Y):
    rows = frame["series"].isin(ids).to_numpy()
    return frame[rows], y[rows]


FIRST, SECOND = of(IDS[:5]), of(IDS[5:])


def in_parts(model, parts=(FIRST, SECOND)):
    for part in parts:
        model.partial_fit(*part)
    return model


def test_calls_count_on():
    model = in_parts(LatentODERegressor(**SETTINGS))
    assert model.n_iter_ == len(model.loss_curve_) == 2
    n_batches = [5, 7]  # of one series each: a fifth of them
    assert model._record.n_updates == sum(n_batches)
    assert model.feature_names_in_.tolist() == ["series", "time"]


def test_the_model_is_conditioned_on_the_series_of_the_last_call():
    model = in_parts(LatentODERegressor(**SETTINGS))
    assert sorted(model.context_.ids) == sorted(IDS[5:])
    assert len(model.posterior_.mean) == 7
    unknown = model.predict(FIRST[0])
    everything = model.condition(*FIRST)
    assert sorted(everything.context_.ids) == sorted(IDS)
    assert (everything.predict(FIRST[0]) != unknown).any()
    # Those that were known have the posteriors that they had.
    np.testing.assert_allclose(everything.predict(SECOND[0]), model.predict(SECOND[0]), rtol=1e-12)


def test_units_and_sizes_are_those_of_the_first_call():
    model = LatentODERegressor(**{**SETTINGS, "hidden_layer_sizes": "auto", "latent_size": "auto"}).partial_fit(*FIRST)
    units, sizes = pickle.dumps(model._units), model.sizes_
    model.partial_fit(SECOND[0], 100.0 * SECOND[1])
    assert pickle.dumps(model._units) == units
    assert model.sizes_.hidden_layer_sizes == sizes.hidden_layer_sizes
    assert model.sizes_.batch_size == 1


def test_training_goes_on_from_the_weights_and_not_their_mean():
    model = LatentODERegressor(**{**SETTINGS, "warm_up": 0.0}).partial_fit(*FIRST)
    trained = [weight.clone() for weight in model._record.weights]
    mean = [p.detach().clone() for p in model.module_.parameters()]
    assert any((a.double() != b.double()).any() for a, b in zip(trained, mean, strict=True))
    model.partial_fit(*of(IDS[:1]))  # one series: an epoch has two updates at least
    n = model._record.n_updates
    assert n == 7
    n_moved = 0
    for raw, start, average, now in zip(model._record.weights, trained, mean, model.module_.parameters(), strict=True):
        # After the first of two updates the weights are not known, but lie on the way.
        n_moved += bool((raw != start).any() and (now.detach().float() != average.float()).any())
    assert n_moved > 5


def test_the_warm_up_is_over_the_updates_of_a_fit(monkeypatch):
    progress = []
    follow = skode.timeseries.elbo.NegativeELBO.follow

    def noted(self, value):
        progress.append((value, self.settings.warm_up))
        follow(self, value)

    monkeypatch.setattr(skode.timeseries.elbo.NegativeELBO, "follow", noted)
    in_parts(LatentODERegressor(**SETTINGS))
    # Four epochs of five series each are twenty updates.
    values = [value for value, _ in progress]
    np.testing.assert_allclose(values, np.arange(12) / 20)
    assert {warm_up for _, warm_up in progress} == {0.5}


def test_noise_that_is_held_is_that_of_residuals_after_each_call():
    model = LatentODERegressor(**SETTINGS)
    for part in (FIRST, SECOND):
        model.partial_fit(*part)
        likelihood = model.module_.likelihood
        assert not likelihood.is_held
        assert (torch.exp(likelihood.log_noise) != 0.3).all()


def test_it_learns_what_a_fit_learns():
    """In as many epochs, and on rows to come of series that it has not been trained on."""
    own = {"max_iter": 30, "encoder_size": 12, "hidden_layer_sizes": (16,), "noise": "white", "posterior": "encoder"}
    settings = {**SETTINGS, **own}
    many, y = make_spirals(n_series=40, n_observations=20, random_state=1)
    y = y.to_numpy()
    new, y_new = make_spirals(n_series=20, n_observations=20, random_state=2)
    y_new = y_new.to_numpy()
    early = (new.groupby("series").cumcount() < 12).to_numpy()
    new = new.assign(series=-1 - new["series"])
    fitted = LatentODERegressor(**settings, early_stopping=False).fit(many, y)
    model = LatentODERegressor(**settings)
    parts = [of(ids, many, y) for ids in np.array_split(many["series"].unique(), 2)]
    for _ in range(30):
        in_parts(model, parts)
    scores = [m.condition(new[early], y_new[early]).score(new[~early], y_new[~early]) for m in (fitted, model)]
    assert scores[1] > scores[0] - 0.1
    assert scores[1] > 0.5


def test_a_fit_goes_on_without_warm_up(monkeypatch):
    model = LatentODERegressor(**SETTINGS).fit(*FIRST)
    epochs = model.n_iter_
    warm = []
    follow = skode.timeseries.elbo.NegativeELBO.follow

    def noted(self, value):
        warm.append((value, self.settings.warm_up))
        follow(self, value)

    monkeypatch.setattr(skode.timeseries.elbo.NegativeELBO, "follow", noted)
    in_parts(model, (SECOND, FIRST))
    assert model.n_iter_ == epochs + 2
    assert set(warm) == {(1.0, 0.0)}


def test_a_fit_begins_anew():
    model = in_parts(LatentODERegressor(**SETTINGS)).fit(*FIRST)
    assert same_weights(model, LatentODERegressor(**SETTINGS).fit(*FIRST))
    assert model._record is None
    assert model._n_planned == 0


@pytest.mark.parametrize("saved", [False, True])
def test_copies_go_on_as_the_model_does(saved, tmp_path):
    model = LatentODERegressor(**SETTINGS).partial_fit(*FIRST)
    if saved:
        model.save(tmp_path / "model.skode")
        other = skode.load(tmp_path / "model.skode")
    else:
        other = pickle.loads(pickle.dumps(model))
    assert same_weights(other.partial_fit(*SECOND), model.partial_fit(*SECOND))
    assert (other.predict(X) == model.predict(X)).all()


def test_conditioned_models_stay_as_they_are():
    model = LatentODERegressor(**SETTINGS).partial_fit(*FIRST)
    other = model.condition(*SECOND)
    before = other.predict(X)
    model.partial_fit(*SECOND)
    assert (other.predict(X) == before).all()
    assert (model.predict(X) != before).any()


def test_a_call_that_fails_changes_nothing():
    model = LatentODERegressor(**SETTINGS).partial_fit(*FIRST)
    before, record = model.predict(X), pickle.dumps(model._record)
    x, y = SECOND
    for wrong in ((x[["time"]], y), (x, y[:, :1]), (x, np.full_like(y, np.inf))):
        with pytest.raises(ValueError, match=r"series|outputs|infinity"):
            model.partial_fit(*wrong)
    assert (model.predict(X) == before).all()
    assert pickle.dumps(model._record) == record
    assert model.n_iter_ == 1


def test_a_failure_after_training_changes_nothing(monkeypatch):
    model = LatentODERegressor(**SETTINGS).partial_fit(*FIRST)
    before, weights = model.predict(X), [p.detach().clone() for p in model.module_.parameters()]

    def failing(*args, **kwargs):
        raise RuntimeError("out of luck")

    with monkeypatch.context() as patch:
        patch.setattr("skode.timeseries.fitted.infer", failing)
        with pytest.raises(RuntimeError, match="out of luck"):
            model.partial_fit(*SECOND)
    assert (model.predict(X) == before).all()
    assert all((a == b).all() for a, b in zip(weights, model.module_.parameters(), strict=True))


def test_a_clone_knows_nothing():
    model = in_parts(LatentODERegressor(**SETTINGS))
    expected = LatentODERegressor(**SETTINGS).partial_fit(*FIRST)
    assert same_weights(clone(model).partial_fit(*FIRST), expected)


def test_an_output_may_be_missing_in_a_later_part():
    x, y = SECOND
    without = np.column_stack([y[:, 0], np.full(len(y), np.nan)])
    with pytest.raises(ValueError, match="never observed"):
        LatentODERegressor(**SETTINGS).partial_fit(x, without)
    model = LatentODERegressor(**SETTINGS).partial_fit(*FIRST).partial_fit(x, without)
    assert np.isfinite(model.predict(x)).all()


def test_weights_count_copies():
    x, y = FIRST
    weights = np.where(np.arange(len(x)) % 3 == 0, 2.0, 1.0)
    weighted = LatentODERegressor(**SETTINGS).partial_fit(x, y, sample_weight=weights)
    twice = np.repeat(np.arange(len(x)), weights.astype(int))
    copied = LatentODERegressor(**SETTINGS).partial_fit(x.iloc[twice], y[twice])
    np.testing.assert_allclose(weighted.predict(X), copied.predict(X), rtol=1e-6)


def test_other_parts_may_have_other_covariates_only_by_name():
    rng = np.random.default_rng(0)
    frame = X.assign(dose=rng.normal(size=len(X)))
    model = LatentODERegressor(**SETTINGS).partial_fit(*of(IDS[:5], frame))
    with pytest.raises(ValueError, match="feature names"):
        model.partial_fit(*FIRST)
    model.partial_fit(*of(IDS[5:], frame))
    assert np.isfinite(model.predict(frame)).all()


@pytest.mark.parametrize(
    "changed",
    [
        {"observation_times": "poisson"},
        {"posterior": "encoder"},
        {"likelihood": "poisson"},
        {"bound": "iwae", "n_samples": 2},
        {"kl_annealing": 0.5},
        {"periods": [3.0]},
    ],
)
def test_with_other_parameters(changed):
    y = np.abs(np.round(Y)) if changed.get("likelihood") == "poisson" else Y
    model = LatentODERegressor(**{**SETTINGS, **changed})
    in_parts(model, (of(IDS[:5], y=y), of(IDS[5:], y=y)))
    assert np.isfinite(model.predict(X)).all()
    assert np.isfinite(model.score_samples(X, y)).all()


def test_known_dynamics_are_refused():
    with pytest.raises(ValueError, match=r"dynamics.*all series at once.*dynamics=None"):
        regressor(known_rate()).partial_fit(*long_frame()[:2])


def test_another_architecture_is_refused():
    model = LatentODERegressor(**SETTINGS).partial_fit(*FIRST)
    with pytest.raises(ValueError, match="latent_size"):
        model.set_params(latent_size=4).partial_fit(*SECOND)


def test_frames_whose_ids_are_the_index():
    model = LatentODERegressor(**SETTINGS).partial_fit(*FIRST)
    expected = pickle.loads(pickle.dumps(model)).partial_fit(*SECOND)
    x, y = SECOND
    indexed = model.partial_fit(x.set_index("series"), pd.DataFrame(y))
    assert (indexed.predict(X) == expected.predict(X)).all()

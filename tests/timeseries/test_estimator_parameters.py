"""Each parameter's effect; parameters that are refused."""

import numpy as np
import pandas as pd
import pytest
import torch

from skode import LatentODERegressor
from skode.timeseries.encoders import ENCODERS
from tests.timeseries.waves import TINY, conditioned_pair, weights

pytestmark = pytest.mark.filterwarnings("ignore:Maximum iterations:sklearn.exceptions.ConvergenceWarning")


# Refusals


def test_a_warm_start_refuses_times_and_outputs_of_another_kind():
    model, X, y = conditioned_pair()
    model.set_params(warm_start=True)
    with pytest.raises(ValueError, match="holds a date, but held a number"):
        model.fit(X.assign(time=pd.to_datetime(X["time"], unit="D")), y)
    with pytest.raises(ValueError, match="y has 1 outputs, but the model was fitted to 2"):
        model.fit(X, y["x"])
    model.predict(X)  # and it still answers


@pytest.mark.parametrize(
    ("parameter", "other"),
    [("likelihood", "bernoulli"), ("encoder", "rnn"), ("observation_times", "poisson"), ("latent_size", 5)],
)
def test_a_warm_start_refuses_to_build_another_network(waves, parameter, other):
    X, y = waves
    y = (y > 5).astype(float)
    model = LatentODERegressor(**TINY, warm_start=True).fit(X, y)
    with pytest.raises(ValueError, match=parameter):
        model.set_params(**{parameter: other}).fit(X, y)


def test_alpha_shrinks_the_weights(waves):
    settings = {**TINY, "max_iter": 5}

    def size(alpha):
        model = LatentODERegressor(**settings, alpha=alpha).fit(*waves)
        return sum(float((w**2).sum()) for w in weights(model) if w.ndim > 1)

    assert size(100.0) < 0.9 * size(0.0)


# Each way to fit


@pytest.mark.parametrize(
    "options",
    [
        {"likelihood": "bernoulli"},
        {"likelihood": "poisson"},
        *({"encoder": name} for name in ENCODERS),
        {"bound": "iwae", "n_samples": 3},
        {"n_samples": 2},
        {"kl_annealing": 0.5},
        {"posterior": "encoder"},
        {"forecasting": 0.0},
        {"forecasting": 1.0},
        {"observation_times": "poisson"},
        {"hidden_layer_sizes": ()},
        {"likelihood": "bernoulli", "observation_times": "poisson", "encoder": "ode_rnn", "bound": "iwae"},
        {"early_stopping": True, "likelihood": "poisson", "observation_times": "poisson"},
        {"n_draws": 1},
        {"n_draws": 5},
        {"method": "rk4", "observation_times": "poisson"},
        {"adjoint": "continuous"},
        {"adjoint": "backprop"},
        {"method": "kvaerno3", "max_iter": 1, "rtol": 1e-1, "atol": 1e-1},
        {"learning_rate": "constant"},
        {"dtype": "float64"},
        {"dtype": "float32"},
        {"noise": "coloured"},
        {"noise": "coloured", "observation_times": "poisson", "early_stopping": False},
        {"noise": "coloured", "dtype": "float32", "n_draws": 1},
    ],
    ids=lambda options: ",".join(f"{k}={v}" for k, v in options.items()),
)
@pytest.mark.parametrize("with_covariates", [False, True], ids=["bare", "driven"])
def test_each_way_to_fit_answers_everything(waves, options, with_covariates):
    X, y = waves
    if "noise" not in options:  # a memory takes some series
        X, y = X[:30], y[:30]
    kind = options.get("likelihood")
    y = {"bernoulli": (y > 5).astype(float), "poisson": np.round(y)}.get(kind, y)
    if with_covariates:
        X = X.assign(u=np.cos(X["t"]))
    model = LatentODERegressor(**{**TINY, **options}).fit(X, y)
    if "noise" in options:
        assert model.noise_share_[0] > 0.1
    query = pd.concat([X, X[:5].assign(id="new"), X[:5].assign(t=9.0)])
    mean, std = model.predict(query, return_std=True)
    assert np.isfinite(mean).all()
    assert (std > 0).all()
    assert np.isfinite(model.score_samples(X, y)).all()
    drawn = model.sample_y(query, 3)
    assert drawn.shape == (len(query), 3)
    assert np.isfinite(drawn).all()
    assert np.isfinite(model.latent_trajectory(query)).all()
    assert np.isfinite(model.latent_states().to_numpy()).all()
    sampled = model.sample(2, [0.0, 1.0, 2.0], random_state=0)
    assert np.isfinite(sampled.drop(columns="id").to_numpy()).all()
    assert np.isfinite(model.condition(X[:5].assign(id="new"), y[:5]).predict(query)).all()
    if kind == "bernoulli":
        assert ((mean >= 0) & (mean <= 1)).all()
        assert set(np.unique(drawn)) <= {0, 1}
    if kind == "poisson":
        assert (mean > 0).all()
        np.testing.assert_array_equal(drawn, np.round(drawn))
    if "observation_times" in options:
        assert (model.predict_intensity(query) > 0).all()
    else:
        with pytest.raises(AttributeError, match="observation_times"):
            model.predict_intensity(query)


@pytest.mark.parametrize(("likelihood", "bad"), [("bernoulli", 2.0), ("poisson", -1.0)])
def test_values_that_cannot_be_observed_are_refused(waves, likelihood, bad):
    X, y = waves
    good = (y > 5).astype(float)
    model = LatentODERegressor(**TINY, likelihood=likelihood).fit(X, good)
    wrong = np.where(np.arange(len(y)) == 3, bad, good)
    for ask in (model.fit, model.condition, model.score_samples):
        with pytest.raises(ValueError, match=likelihood):
            ask(X, wrong)
    with pytest.raises(AttributeError, match="noise"):
        _ = model.noise_std_


def test_float32_arrays_answer_everything(waves):
    X, y = waves
    array = np.column_stack([pd.factorize(X["id"])[0], X["t"], np.cos(X["t"])]).astype(np.float32)
    settings = {**TINY, "series": 0, "time": 1}
    model = LatentODERegressor(**settings, observation_times="poisson", device="cpu").fit(array, y.astype(np.float32))
    for answers in (model.predict(array), model.score_samples(array, y), model.sample_y(array), model.transform(array)):
        assert np.isfinite(answers).all()
    assert np.isfinite(model.condition(array, y).predict(array)).all()
    assert {p.dtype for p in model.module_.parameters()} == {torch.float32}

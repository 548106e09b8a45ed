"""Small fitted estimators of every kind, and what they answer.

Files under ``data/`` name the functions ``decay`` and ``start`` of this module, which therefore stay.
"""

import warnings

import numpy as np
import pandas as pd
import torch
from torch import nn

from skode import (
    CNFDensityEstimator,
    CNFRegressor,
    KnownDynamics,
    LatentODERegressor,
    NeuralODERegressor,
    ODENetClassifier,
    ODENetRegressor,
    ODERegressor,
)


def decay(t, y, p):
    return -p["rate"][..., None] * y


def start(p):
    return p["start"][..., None]


def growth(t, y, p):
    return p["rate"][..., None] * y


class Field(nn.Module):
    """A field of a user's, of three states."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, t, z):
        return torch.tanh(self.layer(z))


class OwnClassifier(ODENetClassifier):
    """An estimator of a user's."""

    def fit(self, X, y):
        self.note = "attributes of users' estimators have any names"
        return super().fit(X, y)


def table():
    """Thirty rows of numbers, categories and gaps, with classes."""
    rng = np.random.default_rng(0)
    X = pd.DataFrame(rng.normal(size=(30, 2)), columns=["a", "b"])
    X["kind"] = pd.Categorical(np.array(["u", "v", "w"])[np.arange(30) % 3])
    X.loc[3, "a"] = np.nan
    return X, np.array(["no", "yes"])[(rng.normal(size=30) > 0).astype(int)]


def numbers():
    """Thirty rows of three numbers."""
    return np.random.default_rng(0).normal(size=(30, 3))


def images():
    """Twelve images of one channel, and their classes."""
    return np.random.default_rng(0).normal(size=(12, 64)), np.arange(12) % 2


def panel(times="number", n_outputs=1):
    """Five series of seven observations; times are numbers, dates, dates with a zone, or periods."""
    rng = np.random.default_rng(0)
    X = pd.DataFrame({"id": np.repeat([f"s{i}" for i in range(5)], 7), "time": np.tile(np.arange(7.0), 5)})
    y = np.sin(X["time"].to_numpy()[:, None] + np.arange(n_outputs)) + rng.normal(0.0, 0.1, (35, n_outputs))
    days = pd.Timestamp("2020-03-27") + pd.to_timedelta(X["time"], "D")
    if times == "date":
        X["time"] = days
    elif times == "zone":
        X["time"] = days.dt.tz_localize("Europe/Berlin")
    elif times == "period":
        X["time"] = days.dt.to_period("D")
    return X, y[:, 0] if n_outputs == 1 else y


def decaying():
    """Three series of a state that decays."""
    rng, time = np.random.default_rng(0), np.linspace(0.0, 4.0, 8)
    X = pd.DataFrame({"id": np.repeat(["a", "b", "c"], 8), "time": np.tile(time, 3)})
    return X, pd.DataFrame({"dose": 5.0 * np.exp(-0.7 * X["time"]) + rng.normal(0.0, 0.1, 24)})


BRIEF = {"max_iter": 1, "random_state": 0, "hidden_layer_sizes": (6,)}
NET = {**BRIEF, "alpha": 0.1}
FLOW = {**BRIEF, "stacking": False}
SERIES = {"series": "id", "time": "time"}
LATENT = {**SERIES, **BRIEF, "latent_size": 3, "encoder_size": 6}

CASES = {
    "classifier": lambda: (ODENetClassifier(**NET, early_stopping=True), *table()),
    "multilabel": lambda: (ODENetClassifier(**NET), numbers(), (numbers() > 0.0)[:, :2].astype(int)),
    "own field": lambda: (ODENetClassifier(**NET, state_size=3, field=Field()), *table()),
    "evolving": lambda: (ODENetClassifier(**NET, evolving_weights=True, warm_start=True), numbers(), np.arange(30) % 3),
    "images": lambda: (ODENetClassifier(**NET, image_shape=(1, 8, 8), dtype="bfloat16"), *images()),
    "regressor": lambda: (ODENetRegressor(**NET, likelihood="gaussian", augment_dim=1), table()[0], numbers()[:, 0]),
    "outputs": lambda: (ODENetRegressor(**NET, field="gated_planar", warm_start=True), numbers(), numbers()[:, :2]),
    "density": lambda: (CNFDensityEstimator(**BRIEF), numbers(), None),
    "discrete": lambda: (CNFDensityEstimator(**FLOW, method="euler", step_size=0.5), table()[0][["b", "kind"]], None),
    "johnson": lambda: (CNFDensityEstimator(**FLOW, field="concatsquash", marginals="johnson"), numbers(), None),
    "conditional": lambda: (CNFRegressor(**BRIEF, warm_start=True), table()[0], numbers()[:, :2]),
    "latent": lambda: (LatentODERegressor(**LATENT), *panel()),
    "calendar": lambda: (LatentODERegressor(**LATENT, periods=["3D"], warm_start=True), *panel("zone", 2)),
    "periods": lambda: (LatentODERegressor(**LATENT, encoder="rnn", noise="white", n_draws=4), *panel("period")),
    "known": lambda: (
        LatentODERegressor(
            **SERIES,
            max_iter=1,
            random_state=0,
            dynamics=KnownDynamics(decay, {"rate": (0.5, 0, None)}, states=["dose"], observe="dose"),
        ),
        *decaying(),
    ),
    "equations": lambda: (
        ODERegressor(
            decay, {"rate": (0.5, 0, None), "start": 4.0}, states=["dose"], initial=start, per_series=["rate"], **SERIES
        ),
        *decaying(),
    ),
    "field": lambda: (NeuralODERegressor(**SERIES, field="polynomial", max_iter=2), *panel(n_outputs=2)),
    "added field": lambda: (
        NeuralODERegressor(
            **SERIES, field="mlp", hidden_layer_sizes=(3,), known=growth, params={"rate": 0.1}, max_iter=1
        ),
        *panel(n_outputs=2),
    ),
}

#: Classes and functions of this file that each needs.
TRUSTED = [decay, start, growth, Field]


def fitted(case):
    """The estimator of a case, fitted, with its data."""
    return fitted_to(*CASES[case]())


def fitted_to(estimator, X, y):
    """An estimator fitted to data, with these."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of fits that end early
        return estimator.fit(X) if y is None else estimator.fit(X, y), X, y


def answers(model, X, y):
    """Predictions of a model before and after further training, by name."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = {"predict": model.predict(X), **ANSWERS[type(model)](model, X, y)}
        if getattr(model, "warm_start", False):
            found["refitted"] = model.fit(X, y).predict(X)
    return found


def _of_a_classifier(model, X, y):
    return {"proba": model.predict_proba(X), "partially": model.partial_fit(X, y).predict_proba(X)}


def _of_a_regressor(model, X, y):
    interval = {"interval": model.predict_interval(X)} if model.likelihood == "gaussian" else {}
    return {**interval, "partially": model.partial_fit(X, y).predict(X)}


def _of_a_density(model, X, y):
    return {"log-densities": model.score_samples(X), "sample": model.sample(3, random_state=1)}


def _of_a_conditional_density(model, X, y):
    return {"log-densities": model.log_density(X, y), "sample": model.sample_y(X, 2, random_state=1)}


def _of_a_latent_ode(model, X, y):
    drawn = {"sample": model.sample_y(X, 2, random_state=1), "states": model.latent_states()}
    return {**drawn, "std": model.predict(X, return_std=True), "conditioned": model.condition(X[:3], y[:3]).predict(X)}


def _of_equations(model, X, y):
    return {"summary": model.summary(), "states": model.predict_states(X)}


def _of_a_field(model, X, y):
    return {"std": model.predict(X, return_std=True), "conditioned": model.condition(X[:3], y[:3]).predict(X)}


ANSWERS = {
    ODENetClassifier: _of_a_classifier,
    ODENetRegressor: _of_a_regressor,
    CNFDensityEstimator: _of_a_density,
    CNFRegressor: _of_a_conditional_density,
    LatentODERegressor: _of_a_latent_ode,
    ODERegressor: _of_equations,
    NeuralODERegressor: _of_a_field,
}

"""Series, settings and comparisons that tests of the latent ODE's estimator share."""

import pickle

import numpy as np
import pandas as pd
import torch

from skode import LatentODERegressor
from skode.datasets import make_spirals

TINY = {
    "series": "id",
    "time": "t",
    "latent_size": 3,
    "hidden_layer_sizes": (8,),
    "encoder_size": 8,
    "n_draws": 8,
    "max_iter": 2,
    "random_state": 0,
    "noise": "white",  # which spares a search; where a memory matters, tests ask for it
    # Loose, for speed; where the solver's error matters, tests set their own.
    "rtol": 1e-2,
    "atol": 1e-2,
}


#: The default tolerances.
USUAL = {"rtol": 1e-3, "atol": 1e-3}


def make_waves(n_series=8, n_rows=10, seed=0):
    """Sines of random phase at irregular times; ids are not in order."""
    rng = np.random.RandomState(seed)
    ids = np.repeat(rng.permutation(n_series), n_rows)
    t = np.sort(rng.uniform(0, 4, (n_series, n_rows)), axis=1).ravel()
    phase = rng.uniform(0, 2 * np.pi, n_series)
    y = np.sin(1.5 * t + phase[ids]) + 5.0 + 0.05 * rng.standard_normal(len(t))
    return pd.DataFrame({"id": [f"s{i}" for i in ids], "t": t}), y


def weights(model):
    return [p.detach().clone() for p in model.module_.parameters()]


def same_weights(first, second):
    return all(torch.equal(p, q) for p, q in zip(weights(first), weights(second), strict=True))


def tight(model):
    return pickle.loads(pickle.dumps(model)).set_params(rtol=1e-9, atol=1e-11)


def conditioned_pair():
    X, y = make_spirals(n_series=6, n_observations=6, random_state=0)
    model = LatentODERegressor("series", "time", max_iter=2, latent_size=2, hidden_layer_sizes=4, random_state=0)
    model.fit(X, y)
    return model, X, y

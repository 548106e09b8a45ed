"""Series that decay, whose marginal likelihoods are known in closed form, shared by tests of known dynamics."""

import numpy as np
import pandas as pd

from skode import KnownDynamics, LatentODERegressor

TIMES = np.linspace(0.0, 3.0, 7)
TIGHT = {"rtol": 1e-6, "atol": 1e-8}


def decay(t, y, p):
    return -p["rate"][..., None] * y


def driven(t, y, p):
    return (p["u"] - p["rate"] * y[..., 0])[..., None]


def doubled(t, y, p):
    """A read-out of all that it may depend on."""
    return 2.0 * y[..., 0] + 3.0 * p["rate"] + t


def long_frame(n_series=12, noise=0.1, rate=0.7, amount=(5.0, 1.0), seed=0, first=0.0):
    """``amount * exp(-rate * t)`` from ``first`` on, with the true amounts and rates."""
    rng = np.random.RandomState(seed)
    amounts = amount[0] + amount[1] * rng.standard_normal(n_series)
    rates = np.broadcast_to(rate, n_series)
    X = pd.DataFrame({"series": np.repeat(np.arange(n_series), len(TIMES)), "time": np.tile(first + TIMES, n_series)})
    clean = amounts[:, None] * np.exp(-np.outer(rates, TIMES))
    return X, (clean + noise * rng.standard_normal(clean.shape)).ravel(), amounts, rates


def regressor(dynamics, **parameters):
    settings = {"max_iter": 1, "encoder_size": 6, "noise": "white", "early_stopping": False, "random_state": 0}
    keys = {"series": "series", "time": "time"}
    return LatentODERegressor(dynamics=dynamics, **{**keys, **settings, **parameters})


def known_rate(**parameters):
    return KnownDynamics(decay, {"rate": 0.7}, **{"states": ["dose"], "observe": "dose", "fixed": "rate", **parameters})

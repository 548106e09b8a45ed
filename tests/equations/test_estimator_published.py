"""Real data: the estimates that have been published, within their standard errors."""

import numpy as np
import pandas as pd
import pytest
import torch

from skode import ODERegressor
from skode.datasets import load_hare_lynx, load_influenza, load_theophylline


def test_hares_and_lynxes():
    # Posterior means of B. Carpenter's "Predator-Prey Population Dynamics" (2018), as posteriordb has them to three
    # digits: alpha, beta, gamma, delta, initial states, and scales of log-normal noise.
    published = {
        "alpha": 0.547,
        "beta": 0.0277,
        "gamma": 0.800,
        "delta": 0.0241,
        "initial hare": 34.0,
        "initial lynx": 5.94,
    }

    def rhs(t, y, p):
        hare, lynx = y.unbind(-1)
        return torch.stack([(p["alpha"] - p["beta"] * lynx) * hare, (p["delta"] * hare - p["gamma"]) * lynx], dim=-1)

    X, y = load_hare_lynx(return_X_y=True)
    start = {"alpha": (1.0, 0, None), "beta": (0.05, 0, None), "gamma": (1.0, 0, None), "delta": (0.05, 0, None)}
    initial = {"hare": (30.0, 0, None), "lynx": (4.0, 0, None)}
    model = ODERegressor(rhs, start, initial=initial, time="year", noise="lognormal", n_restarts=0).fit(X, y)
    summary = model.summary()
    for name, value in published.items():
        assert abs(summary.loc[name, "estimate"] - value) < 0.5 * summary.loc[name, "std_error"]
    np.testing.assert_allclose(model.noise_scale_, [0.248, 0.251], atol=0.043)  # the posterior's standard deviation


# Fits to each subject alone, of the logarithms of ka, ke and cl: J. C. Pinheiro, D. M. Bates, "Mixed-Effects Models in
# S and S-PLUS", Springer, 2000, section 8.1.3 (nlsList of SSfol).
THEOPHYLLINE = """
1 0.5752 -2.9196 -3.9159
2 0.6640 -2.2861 -3.1063
3 0.8976 -2.5081 -3.2301
4 0.1583 -2.4365 -3.2861
5 0.3863 -2.4255 -3.1326
6 0.1516 -2.3074 -2.9733
7 -0.3860 -2.2803 -2.9643
8 0.3188 -2.3865 -3.0691
9 2.1829 -2.4461 -3.4210
10 -0.3631 -2.6042 -3.4283
11 1.3479 -2.3225 -2.8604
12 -0.1828 -2.2483 -3.1702
"""


def test_theophylline_of_each_subject():
    def rhs(t, y, p):
        gut, blood = y.unbind(-1)
        absorbed = p["ka"] * gut
        return torch.stack([-absorbed, absorbed - p["ke"] * blood], dim=-1)

    def concentration(t, y, p):  # the volume is clearance over elimination
        return y[..., 1] * p["ke"] / p["cl"]

    X, y = load_theophylline(return_X_y=True)
    model = ODERegressor(
        rhs,
        {"ka": (1.5, 0, None), "ke": (0.1, 0, None), "cl": (0.04, 0, None)},
        states=["gut", "blood"],
        observe=concentration,
        initial={"gut": "dose", "blood": 0.0},
        per_series=["ka", "ke", "cl"],
        series="subject",
        time="hour",
    ).fit(X, y)
    published = np.array([line.split() for line in THEOPHYLLINE.strip().split("\n")], dtype=float)
    summary = model.summary()
    relative = summary["std_error"] / summary["estimate"]
    for name, column in zip(["ka", "ke", "cl"], published[:, 1:].T, strict=True):
        missed = (np.log(model.params_[name].to_numpy()) - column) / relative.loc[name].to_numpy()
        assert np.abs(missed).max() < 0.02


def test_influenza():
    # J. D. Murray, "Mathematical Biology", 3rd ed., Springer, 2002, section 10.2: r = 2.18e-3 a day for each of 763
    # boys, a = 0.44 a day, from one infected boy.
    def rhs(t, y, p):
        new, recovered = p["r"] * y[..., 0] * y[..., 1], p["a"] * y[..., 1]
        return torch.stack([-new, new - recovered], dim=-1)

    X, y = load_influenza(return_X_y=True)
    X = pd.concat([pd.DataFrame({"day": [0]}), X])  # the day before the first count
    y = pd.concat([pd.Series([np.nan]), y])
    start = {"r": (1e-3, 0, None), "a": (0.2, 0, None)}
    model = ODERegressor(
        rhs, start, states=["S", "I"], observe="I", initial=[762.0, 1.0], time="day", n_restarts=0
    ).fit(X, y)
    summary = model.summary()
    for name, value in {"r": 2.18e-3, "a": 0.44}.items():
        assert summary.loc[name, "estimate"] == pytest.approx(value, abs=summary.loc[name, "std_error"])

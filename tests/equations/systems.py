"""Equations that tests of several modules solve, in torch and in NumPy."""

import numpy as np
import pandas as pd
import torch
from scipy.integrate import solve_ivp

from skode.equations.dynamics import System


def sir(t, y, p):
    new, recovered = p["beta"] * y[..., 0] * y[..., 1], p["gamma"] * y[..., 1]
    return torch.stack([-new, new - recovered, recovered], dim=-1)


def lotka_volterra(t, y, p):
    prey, predators = y[..., 0], y[..., 1]
    eaten = prey * predators
    return torch.stack([p["a"] * prey - p["b"] * eaten, p["d"] * eaten - p["c"] * predators], dim=-1)


def compartments(t, y, p):
    gut, blood, tissue = y.unbind(-1)
    absorbed, out, back = p["ka"] * gut, p["k12"] * blood, p["k21"] * tissue
    return torch.stack([-absorbed, absorbed - p["ke"] * blood - out + back, out - back], dim=-1)


def robertson(t, y, p):
    a, b, c = y.unbind(-1)
    first, second, third = p["k1"] * a, p["k2"] * b * b, p["k3"] * b * c
    return torch.stack([third - first, first - second - third, second], dim=-1)


def growth(t, y, p):
    size = y[..., 0]
    return (p["rate"] * size * (1.0 - size / p["capacity"]))[..., None]


def logistic(t, rate, capacity, start):
    """The closed form."""
    return capacity / (1.0 + (capacity / start - 1.0) * np.exp(-rate * t))


def decay(t, y, p):
    return -(p["rate"] * y[..., 0])[..., None]


def in_numpy(rhs):
    """A right-hand side for SciPy, with the parameters behind the state."""

    def func(t, y, p):
        p = {name: torch.tensor(value, dtype=torch.float64) for name, value in p.items()}
        return rhs(torch.tensor(t), torch.tensor(y), p).numpy()

    return func


def solved(rhs, p, y0, t, method="DOP853"):
    """States at times, by SciPy, to ten digits or so."""
    span = (t[0], t[-1])
    return solve_ivp(in_numpy(rhs), span, y0, method, t_eval=t, args=(p,), rtol=1e-10, atol=1e-12).y.T


def observations(rhs, p, y0, t, noise, seed, method="DOP853"):
    """Observed states with noise of a share of their spread; a frame with times, and values."""
    states = solved(rhs, p, y0, t, method)
    rng = np.random.default_rng(seed)
    return pd.DataFrame({"t": t}), states + noise * states.std(axis=0) * rng.normal(size=states.shape)


def system(rhs, states, names, observe=(0,), constants=None):
    return System(rhs, observe, tuple(states), tuple(names), constants or {})


def one_compartment(t, y, p):
    gut, blood = y.unbind(-1)
    absorbed = p["ka"] * gut
    return torch.stack([-absorbed, absorbed - p["ke"] * blood], dim=-1)


def superposed(t, doses, ka, ke, share=1.0):
    """Gut and blood by the closed form, of doses (time, amount) into the gut that was empty; after those at one time.

    Shape (n_times, 2).
    """
    states = np.zeros((len(t), 2))
    for when, amount in doses:
        since = np.maximum(t - when, 0.0)
        gut, left = np.exp(-ka * since), np.exp(-ke * since)
        states += (t >= when)[:, None] * share * amount * np.stack([gut, ka / (ka - ke) * (left - gut)], axis=1)
    return states

"""What tests of several modules share: the latent ODE once more, in NumPy and SciPy."""

import numpy as np
import pytest
from scipy.integrate import quad, solve_ivp
from scipy.special import expit, gammaln

from skode import LatentODERegressor
from skode.training import Solver
from tests.timeseries.waves import TINY, USUAL, make_waves

ACTIVATIONS = {"tanh": np.tanh, "silu": lambda x: x * expit(x)}


class ByHand:
    """A ``LatentODE`` evaluated without its own code, nor torch's.

    Parameters
    ----------
    module : LatentODE
        Whose weights to take.
    u : callable, default=None
        Covariates of a time, of shape (n_covariates,); None: there are none.
    """

    def __init__(self, module, u=None):
        def pair(layer):
            return layer.weight.detach().double().numpy(), layer.bias.detach().double().numpy()

        self.layers = [pair(layer) for layer in module.field.layers]
        self.activation = ACTIVATIONS[module.field.activation]
        self.readouts = {
            name: [pair(part) for part in (decoder.linear, decoder.hidden, decoder.bent)]
            for name, decoder in (("y", module.decoder), ("rate", module.log_intensity))
            if decoder is not None
        }
        self.kind = type(module.likelihood).__name__
        noise = getattr(module.likelihood, "log_noise", None)
        self.sigma = None if noise is None else np.exp(noise.detach().double().numpy())
        self.u = u or (lambda t: np.empty(0))

    def field(self, t, z):
        x = self._with_covariates(t, z)
        for i, (weight, bias) in enumerate(self.layers):
            x = x @ weight.T + bias
            if i < len(self.layers) - 1:
                x = self.activation(x)
        return x

    def path(self, z0, times, max_step=np.inf):
        """States of shape (n, n_times, latent_size) from n initial ones, at increasing times from 0 on."""
        z0, times = np.atleast_2d(np.asarray(z0, dtype=float)), np.asarray(times, dtype=float)
        if times[-1] == 0:
            return np.repeat(z0[:, None], len(times), axis=1)
        solution = solve_ivp(
            lambda t, z: self.field(t, z.reshape(z0.shape)).ravel(),
            (0.0, times[-1]),
            z0.ravel(),
            dense_output=True,
            rtol=1e-9,
            atol=1e-10,
            method="DOP853",
            max_step=max_step,
        )
        return np.moveaxis(solution.sol(times).reshape(*z0.shape, len(times)), 2, 1)

    def decoder(self, t, z, name="y"):
        linear, hidden, bent = self.readouts[name]
        x = self._with_covariates(t, z)
        h = x @ hidden[0].T + hidden[1]
        return x @ linear[0].T + linear[1] + (h * expit(h)) @ bent[0].T + bent[1]

    def eta(self, z0, times):
        """Of shape (n, n_times, n_outputs)."""
        states = self.path(z0, times)
        return np.stack([self.decoder(t, states[:, i]) for i, t in enumerate(times)], axis=1)

    def log_prob(self, eta, y):
        """Of each value; NaN where nothing was observed."""
        if self.kind == "Gaussian":
            return -0.5 * ((y - eta) / self.sigma) ** 2 - np.log(self.sigma) - 0.5 * np.log(2 * np.pi)
        if self.kind == "Bernoulli":
            return np.where(y == 1, np.log(expit(eta)), np.log(expit(-eta))) + 0 * y
        return y * eta - np.exp(eta) - gammaln(y + 1)

    def mean(self, eta):
        return {"Gaussian": lambda x: x, "Bernoulli": expit, "Poisson": np.exp}[self.kind](eta)

    def variance(self, eta):
        if self.kind == "Gaussian":
            return np.broadcast_to(self.sigma**2, eta.shape)
        return np.exp(eta) if self.kind == "Poisson" else expit(eta) * expit(-eta)

    def log_likelihood(self, z0, times, y):
        """Of the values observed, of shape (n,)."""
        return np.nansum(self.log_prob(self.eta(z0, times), y), axis=(1, 2))

    def log_process(self, z0, times, window):
        """Log-density of a series' times after the window's start, for one initial state."""

        def log_rate(t):
            return self.decoder(t, self.path(z0, [t])[0], "rate")[0, 0]

        integral, _ = quad(lambda t: np.exp(log_rate(t)), *window, epsabs=1e-7, epsrel=1e-7)
        return sum(log_rate(t) for t in times if t > window[0]) - integral

    def _with_covariates(self, t, z):
        u = np.asarray(self.u(t), dtype=float)
        return np.concatenate([z, np.broadcast_to(u, (len(z), len(u)))], axis=1)


@pytest.fixture
def by_hand():
    return ByHand


@pytest.fixture
def tight_solver():
    """A solver for the tests: exact to 1e-8 or so."""
    return Solver(rtol=1e-9, atol=1e-10, max_steps=10_000)


@pytest.fixture(scope="session")
def waves():
    return make_waves()


@pytest.fixture(scope="session")
def fitted(waves):
    """A model that has learned something; tests must not change it."""
    settings = {**TINY, **USUAL, "hidden_layer_sizes": (16,), "encoder_size": 16, "latent_size": 4, "max_iter": 90}
    return LatentODERegressor(**{**settings, "noise": "coloured"}, early_stopping=False).fit(*waves)


@pytest.fixture(scope="session")
def brief(waves):
    return LatentODERegressor(**TINY).fit(*waves)


@pytest.fixture(scope="session")
def tiny_waves():
    X, y = make_waves(n_series=4)
    return LatentODERegressor(**TINY).fit(X, y), X, y

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.stats import multivariate_normal

from skode import KnownDynamics
from tests.timeseries.decays import TIMES, decay, known_rate, long_frame, regressor


def marginal(y, rate, median, spread, noise):
    """Log-likelihood of decays of one rate, amounts integrated out; with the density of the spread."""
    e = np.exp(-rate * TIMES)
    covariance = spread**2 * np.outer(e, e) + noise**2 * np.eye(len(TIMES))
    return multivariate_normal(median * e, covariance).logpdf(y.reshape(-1, len(TIMES))).sum() + np.log(spread)


def test_it_is_the_maximum_of_the_marginal_likelihood():
    """Of shared rates, amounts' median and spread, and the noise together; in closed form, as all is linear in them."""
    X, y, _, _ = long_frame(noise=0.5)
    dynamics = KnownDynamics(
        decay, {"rate": (0.5, 0.0, None)}, states=["dose"], initial=[(4.0, None, None)], observe="dose", per_series=()
    )
    model = regressor(dynamics, rtol=1e-5, atol=1e-5).fit(X, y)

    def loss(x):
        return -marginal(y, np.exp(x[0]), x[1], np.exp(x[2]), np.exp(x[3]))

    best = minimize(loss, [np.log(0.5), 4.0, 0.0, 0.0], tol=1e-10)
    median, high = model.priors_.loc["dose", ["median", "high"]]
    found = [np.log(model.params_["rate"]), median, np.log((high - median) / 1.96), np.log(model.noise_std_[0])]
    assert loss(found) - best.fun < 0.2
    np.testing.assert_allclose(found, best.x, atol=0.1 * np.sqrt(np.diag(best.hess_inv)).max())


def test_a_prior_of_what_is_shared_counts():
    X, y, _, _ = long_frame(noise=0.5)
    rates = []
    for spread in (1e-3, 100.0):
        dynamics = KnownDynamics(
            decay,
            {"rate": (0.5, 0.0, None)},
            states=["dose"],
            observe="dose",
            per_series=(),
            priors={"rate": spread},
        )
        rates.append(regressor(dynamics).fit(X, y).params_["rate"])
    assert rates[0] == pytest.approx(0.5, abs=0.01)
    assert rates[1] == pytest.approx(0.7, abs=0.05)


@pytest.mark.parametrize("n_series", [1, 4])
def test_of_few_series_the_population_stays_as_it_is(n_series):
    X, y, _, _ = long_frame(n_series)
    model = regressor(known_rate(initial=[(4.0, None, None)])).fit(X, y)
    assert model.priors_.loc["dose"].tolist() == pytest.approx([4.0, 4.0 * (1 - 1.96), 4.0 * (1 + 1.96)])


def test_weights_are_repeated_rows():
    X, y, _, _ = long_frame(6)
    weights = np.random.RandomState(0).randint(1, 3, len(X))
    model = regressor(known_rate(), max_iter=1)
    weighted = model.fit(X, y, sample_weight=weights).latent_states()
    rows = np.repeat(np.arange(len(X)), weights)
    np.testing.assert_array_equal(model.fit(X.iloc[rows], y[rows]).latent_states(), weighted)

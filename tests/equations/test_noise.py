import numpy as np
import pytest
from scipy import stats

from skode import ODERegressor
from skode.equations.noise import NOISES, Binomial
from tests.equations.systems import decay

RNG = np.random.default_rng(0)
MEAN = RNG.uniform(1.0, 5.0, (6, 2))
SCALE = np.array([0.3, 0.7])
COUNTS = RNG.poisson(MEAN).astype(float)
VALUES = {name: COUNTS if name == "poisson" else MEAN * RNG.uniform(0.5, 2.0, MEAN.shape) for name in NOISES}
DENSITIES = {
    "gaussian": lambda y: stats.norm.logpdf(y, MEAN, SCALE),
    "student": lambda y: stats.t.logpdf(y, 4, MEAN, SCALE),
    "lognormal": lambda y: stats.lognorm.logpdf(y, SCALE, scale=MEAN),
    "poisson": lambda y: stats.poisson.logpmf(y, MEAN),
}


@pytest.mark.parametrize("name", NOISES)
def test_loss_is_scipys(name):
    y = VALUES[name]
    np.testing.assert_allclose(NOISES[name].loss(y, MEAN, SCALE), -DENSITIES[name](y), rtol=1e-12)


@pytest.mark.parametrize("name", NOISES)
def test_residuals_have_the_gradient_of_the_loss(name):
    noise, y = NOISES[name], VALUES[name]
    residuals, slopes = noise.residuals(y, MEAN, SCALE)
    step = 1e-6
    gradient = (noise.loss(y, MEAN + step, SCALE) - noise.loss(y, MEAN - step, SCALE)) / (2 * step)
    np.testing.assert_allclose(residuals * slopes, gradient, atol=1e-7)


@pytest.mark.parametrize("name", ["gaussian", "student", "lognormal"])
def test_squares_average_to_the_likeliest_scale(name):
    noise, y, scale = NOISES[name], VALUES[name], SCALE
    for _ in range(500):
        scale = np.sqrt(noise.squares(y, MEAN, scale).mean(axis=0))
    for factor in (0.99, 1.01):
        assert (noise.loss(y, MEAN, factor * scale).sum(axis=0) > noise.loss(y, MEAN, scale).sum(axis=0)).all()


@pytest.mark.parametrize(
    ("name", "distribution"),
    [
        ("gaussian", stats.norm(2.0, 0.3)),
        ("student", stats.t(4, 2.0, 0.3)),
        ("lognormal", stats.lognorm(0.3, scale=2.0)),
        ("poisson", stats.poisson(2.0)),
    ],
)
def test_spread_is_the_standard_deviation(name, distribution):
    spread = NOISES[name].spread(np.array([[2.0]]), np.array([0.3]))
    np.testing.assert_allclose(spread, [[distribution.std()]], rtol=1e-12)


@pytest.mark.parametrize(("name", "y"), [("poisson", -1.0), ("poisson", 0.5), ("lognormal", 0.0)])
def test_impossible_values_are_refused(name, y):
    with pytest.raises(ValueError, match=f"y holds {y:g}.* with noise='{name}'"):
        NOISES[name].check(np.array([1.0, y]))


TRIALS = RNG.integers(1, 9, MEAN.shape).astype(float)
PROBABILITY = RNG.uniform(0.05, 0.95, MEAN.shape)
SUCCESSES = RNG.binomial(TRIALS.astype(int), PROBABILITY).astype(float)


def test_binomial_loss_is_scipys_and_residuals_have_its_gradient():
    noise, shares, step = Binomial(TRIALS), SUCCESSES / TRIALS, 1e-6
    expected = -stats.binom.logpmf(SUCCESSES, TRIALS, PROBABILITY)
    np.testing.assert_allclose(noise.loss(shares, PROBABILITY, SCALE), expected, rtol=1e-9, atol=1e-12)
    residuals, slopes = noise.residuals(shares, PROBABILITY, SCALE)
    ahead, behind = (noise.loss(shares, PROBABILITY + s, SCALE) for s in (step, -step))
    np.testing.assert_allclose(residuals * slopes, (ahead - behind) / (2 * step), atol=1e-6)
    np.testing.assert_allclose(slopes**2, TRIALS / (PROBABILITY * (1.0 - PROBABILITY)))  # Fisher's information
    np.testing.assert_allclose(noise.spread(PROBABILITY, SCALE), stats.binom.std(TRIALS, PROBABILITY))
    np.testing.assert_allclose(noise.size(PROBABILITY) * PROBABILITY, stats.binom.mean(TRIALS, PROBABILITY))


def test_binomial_rows_have_their_own_trials():
    some = Binomial(TRIALS).of(np.array([3, 1]))
    np.testing.assert_array_equal(some.trials, TRIALS[[3, 1]])
    with pytest.raises(ValueError, match=r"y holds 3; with noise='binomial'.*, here 2"):
        Binomial(np.array([9.0, 2.0])).check(np.array([3.0, 3.0]))
    with pytest.raises(ValueError, match=r"y holds 0\.5"):
        Binomial(np.array([9.0])).check(np.array([0.5]))


def test_certain_outcomes_have_no_loss_and_what_is_no_probability_has_none():
    noise, outcome = Binomial(np.full(4, 3.0)), np.array([0.0, 1.0, 0.0, 1.0])
    mean = np.array([0.0, 1.0, -0.1, 1.1])
    np.testing.assert_allclose(noise.loss(outcome, mean, SCALE), [0.0, 0.0, np.nan, np.nan], atol=1e-7)
    assert np.isfinite(noise.residuals(outcome, mean, SCALE)[0][:2]).all()


@pytest.mark.parametrize(
    ("noise", "y"), [(NOISES["poisson"], 0.0), (Binomial(np.full(1, 5.0)), 0.0), (Binomial(np.full(1, 5.0)), 1.0)]
)
def test_starts_near_extreme_observations_have_a_finite_loss_for_all_others(noise, y):
    mean = noise.interior(np.array([y]))
    assert 0.0 < abs(mean[0] - y) < 0.6
    for other in (0.0, 1.0):
        assert np.isfinite(noise.loss(np.array([other]), mean, SCALE[:1])).all()
        assert np.abs(noise.residuals(np.array([other]), mean, SCALE[:1])[1]).max() < 10.0


@pytest.mark.parametrize("seed", range(3))
def test_a_probability_that_starts_at_one_is_estimated_as_by_the_likelihood(seed):
    t = np.repeat(np.arange(6) * 0.8, 4)
    n = np.random.default_rng(seed).binomial(10, np.exp(-0.6 * t))
    model = ODERegressor(decay, {"rate": (1.0, 0, None)}, initial=[1.0], noise="binomial", trials=10).fit(t[:, None], n)
    rates = np.linspace(0.3, 1.2, 9001)
    logliks = stats.binom.logpmf(n, 10, np.exp(-rates[:, None] * t)).sum(axis=1)
    assert model.params_["rate"] == pytest.approx(rates[np.argmax(logliks)], abs=2e-4)
    assert model.loglik_ == pytest.approx(logliks.max(), abs=1e-5)

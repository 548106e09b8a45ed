import numpy as np
import pytest
from scipy import stats

from skode import ODERegressor
from skode.equations.noise import NOISES, Binomial, Combined
from tests.equations.systems import decay

RNG = np.random.default_rng(0)
MEAN = RNG.uniform(1.0, 5.0, (6, 2))
SCALE = np.array([0.3, 0.7])
PROPORTION = np.array([0.2, 0.1])
SCALES = {name: np.concatenate([SCALE, PROPORTION]) if NOISES[name].n_scales == 2 else SCALE for name in NOISES}
COUNTS = RNG.poisson(MEAN).astype(float)
VALUES = {name: COUNTS if name == "poisson" else MEAN * RNG.uniform(0.5, 2.0, MEAN.shape) for name in NOISES}
DENSITIES = {
    "gaussian": lambda y: stats.norm.logpdf(y, MEAN, SCALE),
    "student": lambda y: stats.t.logpdf(y, 4, MEAN, SCALE),
    "proportional": lambda y: stats.norm.logpdf(y, MEAN, np.hypot(SCALE, PROPORTION * MEAN)),
    "combined": lambda y: stats.norm.logpdf(y, MEAN, np.hypot(SCALE, PROPORTION * MEAN)),
    "lognormal": lambda y: stats.lognorm.logpdf(y, SCALE, scale=MEAN),
    "poisson": lambda y: stats.poisson.logpmf(y, MEAN),
}


@pytest.mark.parametrize("name", NOISES)
def test_loss_is_scipys(name):
    y = VALUES[name]
    np.testing.assert_allclose(NOISES[name].loss(y, MEAN, SCALES[name]), -DENSITIES[name](y), rtol=1e-12)


@pytest.mark.parametrize("name", NOISES)
def test_residuals_have_the_gradient_of_the_loss(name):
    noise, y, scale = NOISES[name], VALUES[name], SCALES[name]
    residuals, slopes = noise.residuals(y, MEAN, scale)
    step = 1e-6
    gradient = (noise.loss(y, MEAN + step, scale) - noise.loss(y, MEAN - step, scale)) / (2 * step)
    np.testing.assert_allclose(residuals * slopes, gradient, atol=1e-7)


@pytest.mark.parametrize("name", ["gaussian", "student", "lognormal"])
def test_squares_average_to_the_likeliest_scale(name):
    noise, y, scale = NOISES[name], VALUES[name], SCALE
    for _ in range(500):
        scale = noise.updated_scale(y, MEAN, scale)
    for factor in (0.99, 1.01):
        assert (noise.loss(y, MEAN, factor * scale).sum(axis=0) > noise.loss(y, MEAN, scale).sum(axis=0)).all()


@pytest.mark.parametrize("mean", [-3.0, 0.0, 1.0, 20.0])
def test_information_of_a_mean_in_the_variance_is_the_mean_second_derivative(mean):
    noise, scale, step = NOISES["combined"], np.array([0.3, 0.2]), 1e-3
    y = mean + np.hypot(0.3, 0.2 * mean) * np.random.default_rng(0).normal(size=(400_000, 1))
    ahead, here, behind = (noise.loss(y, np.full_like(y, mean + s), scale) for s in (step, 0.0, -step))
    curvature = (ahead - 2.0 * here + behind) / step**2
    slopes = noise.residuals(y, np.full_like(y, mean), scale)[1]
    error = curvature.std() / np.sqrt(len(y))
    assert slopes[0, 0] ** 2 == pytest.approx(curvature.mean(), abs=4.0 * error)


def test_each_update_of_two_scales_raises_the_likelihood_up_to_its_maximum():
    rng, noise = np.random.default_rng(0), NOISES["combined"]
    mean = rng.uniform(-4.0, 4.0, (3000, 1))
    y = mean + np.hypot(0.3, 0.2 * mean) * rng.normal(size=mean.shape)
    scale = np.sqrt(noise.first_squares(y, mean).mean(axis=0))
    losses = [noise.loss(y, mean, scale).sum()]
    for _ in range(200):
        scale = noise.updated_scale(y, mean, scale)
        losses.append(noise.loss(y, mean, scale).sum())
    assert (np.diff(losses) <= 1e-9).all()
    for factor in ([0.99, 1.0], [1.01, 1.0], [1.0, 0.99], [1.0, 1.01]):
        assert noise.loss(y, mean, scale * factor).sum() > losses[-1]
    np.testing.assert_allclose(scale, [0.3, 0.2], rtol=0.05)


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


def test_sizes_of_proportional_noise_have_an_offset_and_a_least_value():
    noise = Combined(offset=np.array([1.0]), least=np.array([2.0]))
    spread = noise.spread(np.array([[3.0], [-1.0]]), np.array([0.3, 0.1]))
    np.testing.assert_allclose(spread, np.sqrt([[0.09 + 0.01 * (16.0 + 4.0)], [0.09 + 0.01 * 4.0]]))


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


def growth(seed, additive=0.05, proportion=0.1):
    """Logistic growth from small values, with noise of two parts."""
    t = np.repeat(np.linspace(0.0, 8.0, 40), 3)
    y = 5.0 / (1.0 + 49.0 * np.exp(-t))
    return t[:, None], y + np.hypot(additive, proportion * y) * np.random.default_rng(seed).normal(size=len(t))


def logistic(t, y, p):
    return (p["r"] * y[..., 0] * (1.0 - y[..., 0] / p["K"])).unsqueeze(-1)


def fitted_growth(noise, X, y):
    return ODERegressor(
        logistic, {"r": (0.8, 0, None), "K": (4.0, 0, None)}, initial=[(0.2, 0, None)], noise=noise
    ).fit(X, y)


def test_both_parts_of_noise_are_recovered_and_are_the_likeliest():
    X, y = growth(0)
    models = {noise: fitted_growth(noise, X, y) for noise in ("combined", "proportional", "gaussian")}
    model = models["combined"]
    assert model.noise_scale_[0] == pytest.approx(0.05, rel=0.3)
    assert model.noise_proportion_[0] == pytest.approx(0.1, rel=0.3)
    assert model.params_["K"] == pytest.approx(5.0, rel=0.03)
    assert model.params_["r"] == pytest.approx(1.0, rel=0.05)
    assert model.aic_ < min(models["proportional"].aic_, models["gaussian"].aic_) - 10.0
    n = len(y)  # unknowns: two parameters and the initial state
    assert model.aic_ == pytest.approx(2.0 * (3 + 2) - 2.0 * model.loglik_)
    assert models["proportional"].aic_ == pytest.approx(2.0 * (3 + 1) - 2.0 * models["proportional"].loglik_)
    mean, std = model.predict(X, return_std=True)
    sigma = np.sqrt((n - 3) / n) * np.hypot(model.noise_scale_, model.noise_proportion_ * mean)
    assert model.loglik_ == pytest.approx(stats.norm.logpdf(y, mean, sigma).sum(), abs=1e-4)
    assert (std > np.hypot(model.noise_scale_, model.noise_proportion_ * mean)).all()


def test_small_values_tell_an_initial_state_where_noise_is_proportional():
    errors = {noise: [] for noise in ("proportional", "gaussian")}
    for seed in range(6):
        X, y = growth(seed, additive=0.0)
        for noise, found in errors.items():
            found.append(fitted_growth(noise, X, y).initial_states_.iloc[0, 0] - 0.1)
    proportional, gaussian = (np.sqrt(np.mean(np.square(found))) for found in errors.values())
    assert proportional < 0.5 * gaussian


def test_intervals_cover_the_truth_as_often_as_they_say():
    n_series = 60
    series = [growth(seed) for seed in range(n_series)]
    X = np.concatenate([np.column_stack([np.full(len(t), k), t]) for k, (t, _) in enumerate(series)])
    model = ODERegressor(
        logistic,
        {"r": (0.8, 0, None), "K": (4.0, 0, None)},
        initial=[(0.2, 0, None)],
        series=0,
        time=1,
        per_series=["r", "K"],
        noise="combined",
    ).fit(X, np.concatenate([y for _, y in series]))
    ends = model.conf_int(0.9).to_numpy().reshape(3, n_series, 2)  # of each unknown for each series
    truth = np.array([[1.0], [5.0], [0.1]])
    covered = ((ends[..., 0] <= truth) & (ends[..., 1] >= truth)).mean(axis=1)
    assert (np.abs(covered - 0.9) < 3.0 * np.sqrt(0.09 / n_series)).all(), covered

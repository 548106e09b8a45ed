import numpy as np
import pytest
from scipy import stats

from skode.equations.noise import NOISES

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

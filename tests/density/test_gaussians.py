import numpy as np
import pytest
import torch
from scipy.stats import kstest, multivariate_normal, norm

from skode.density.gaussians import Gaussians

WEIGHTS, MEANS = np.array([0.3, 0.7]), np.array([[1.0, 2.0], [-1.0, 0.5]])
COVARIANCES = np.array([[[1.0, 0.4], [0.4, 0.5]], [[0.2, 0.0], [0.0, 0.1]]])


@pytest.mark.parametrize("n_covariances", [1, 2])
@pytest.mark.parametrize("t", [0.0, 0.3, 1.0])
def test_log_densities_are_scipys_at_all_times(n_covariances, t):
    covariances = COVARIANCES[:n_covariances]
    z = np.random.RandomState(0).standard_normal((20, 2))
    found = Gaussians(WEIGHTS, MEANS, covariances).log_prob(torch.from_numpy(z), t).numpy()
    density = sum(
        w * multivariate_normal(t * m, (1 - t) ** 2 * np.eye(2) + t**2 * covariances[min(k, n_covariances - 1)]).pdf(z)
        for k, (w, m) in enumerate(zip(WEIGHTS, MEANS, strict=True))
    )
    np.testing.assert_allclose(found, np.log(density), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("n_covariances", [1, 2])
def test_samples_follow_the_density(n_covariances):
    covariances = COVARIANCES[:n_covariances]
    samples = Gaussians(WEIGHTS, MEANS, covariances).sample(3000, np.random.RandomState(0))
    for direction in ([1.0, 0.0], [0.6, -0.8]):
        a = np.array(direction)
        spreads = [np.sqrt(a @ covariances[min(k, n_covariances - 1)] @ a) for k in range(2)]

        def cdf(x, a=a, spreads=spreads):
            return sum(w * norm(m @ a, s).cdf(x) for w, m, s in zip(WEIGHTS, MEANS, spreads, strict=True))

        assert kstest(samples @ a, cdf).pvalue > 0.01

import numpy as np
import pytest
from scipy.stats import johnsonsu, kstest
from sklearn.covariance import ledoit_wolf

from skode.density.gaussianisation import Gaussianisation, Johnson, heavy_tailed, shrunk_correlation

ALL = np.arange(3)


def samples(n=400):
    """Correlated columns: one normal, one skewed with heavy tails, one with heavy tails."""
    rng = np.random.RandomState(0)
    z = rng.multivariate_normal(np.zeros(3), [[1.0, 0.6, 0.2], [0.6, 1.0, 0.0], [0.2, 0.0, 1.0]], n)
    return np.column_stack([3.0 + 2.0 * z[:, 0], np.exp(1.5 * z[:, 1]), 100.0 * np.sinh(2.0 * z[:, 2])])


@pytest.fixture(params=["auto", "johnson", "normal"])
def fitted(request):
    X = samples()
    return Gaussianisation.fit(X, np.ones(len(X)), marginals=request.param), X


def test_the_inverse_leads_back(fitted):
    scaler, X = fitted
    np.testing.assert_allclose(scaler.inverse_transform(scaler.transform(X)), X, rtol=1e-9, atol=1e-9)


def test_log_det_is_that_of_the_numerical_jacobian(fitted):
    scaler, X = fitted
    for x in X[:5]:
        steps = 1e-6 * np.abs(x).clip(1.0)
        shifted = [(scaler.transform((x + s)[None]) - scaler.transform((x - s)[None]))[0] for s in np.diag(steps)]
        jacobian = np.array(shifted).T / (2.0 * steps)
        assert scaler.log_det(x[None])[0] == pytest.approx(np.linalg.slogdet(jacobian)[1], abs=1e-6)


@pytest.mark.parametrize("marginals", ["auto", "johnson"])
def test_what_it_makes_of_its_data_is_white_up_to_the_shrinkage(marginals):
    X = samples()
    Z = Gaussianisation.fit(X, np.ones(len(X)), marginals=marginals).transform(X)
    np.testing.assert_allclose(Z.mean(0), 0.0, atol=1e-10)
    np.testing.assert_allclose(np.cov(Z.T), np.eye(3), atol=0.05)


def test_johnsons_marginals_become_normal():
    X = samples(2000)
    Z = Gaussianisation.fit(X, np.ones(len(X)), marginals="johnson").transform(X)
    assert all(kstest(z, "norm").pvalue > 0.01 for z in Z.T)


@pytest.mark.parametrize("parameters", [(0.0, 1.0), (-2.0, 1.5), (1.0, 0.8)])
def test_johnsons_distribution_is_fitted_as_well_as_the_truth(parameters):
    x = johnsonsu.rvs(*parameters, loc=5.0, scale=3.0, size=4000, random_state=0)[:, None]
    found = Johnson.fit(x, np.ones(len(x)), np.array([0]))
    z = found.transform(x)[:, 0]
    likelihood = np.mean(-0.5 * z**2 - 0.5 * np.log(2.0 * np.pi) + found.log_det(x))
    assert likelihood == pytest.approx(johnsonsu.logpdf(x[:, 0], *parameters, loc=5.0, scale=3.0).mean(), abs=5e-3)


def test_weights_count_how_often_a_sample_comes():
    X = samples(60)
    counts = np.random.RandomState(1).randint(1, 4, len(X))
    weighted = Gaussianisation.fit(X, counts.astype(float), marginals="johnson")
    repeated = Gaussianisation.fit(np.repeat(X, counts, axis=0), np.ones(counts.sum()), marginals="johnson")
    # The number of quantiles is that of the rows, which differ.
    np.testing.assert_allclose(weighted.transform(X), repeated.transform(X), atol=0.1)
    weighted = Gaussianisation.fit(X, counts.astype(float), marginals="normal")
    repeated = Gaussianisation.fit(np.repeat(X, counts, axis=0), np.ones(counts.sum()), marginals="normal")
    np.testing.assert_allclose(weighted.transform(X), repeated.transform(X), rtol=1e-9, atol=1e-9)


def test_heavy_tails_are_told_from_others():
    rng = np.random.RandomState(0)
    X = np.column_stack(
        [rng.normal(size=3000), rng.laplace(size=3000), rng.uniform(size=3000), rng.standard_cauchy(3000)]
    )
    assert heavy_tailed(X, np.ones(len(X))).tolist() == [1, 3]


def test_auto_bends_the_heavy_tailed_columns_alone():
    X = samples()
    assert Gaussianisation.fit(X, np.ones(len(X)), marginals="auto").marginals.columns.tolist() == [1, 2]


def test_the_correlation_is_ledoits_and_wolfs():
    Y = np.random.RandomState(0).normal(size=(30, 8)) @ np.random.RandomState(1).normal(size=(8, 8))
    Y = (Y - Y.mean(0)) / Y.std(0)
    np.testing.assert_allclose(
        shrunk_correlation(Y, np.ones(30), least=31), ledoit_wolf(Y, assume_centered=True)[0], rtol=1e-10, atol=1e-12
    )


def test_with_enough_samples_the_correlation_is_taken_as_it_is():
    Y = np.random.RandomState(0).normal(size=(30, 2)) @ [[1.0, 0.999], [0.0, 0.01]]
    Y = (Y - Y.mean(0)) / Y.std(0)
    np.testing.assert_allclose(shrunk_correlation(Y, np.ones(30), least=30), np.corrcoef(Y.T), rtol=1e-10)


def test_nearly_equal_columns_are_white_afterwards():
    X = np.random.RandomState(0).normal(size=(300, 2)) @ [[1.0, 1.0], [0.0, 1e-3]]
    Z = Gaussianisation.fit(X, np.ones(300), marginals="auto").transform(X)
    np.testing.assert_allclose(np.cov(Z.T, bias=True), np.eye(2), atol=1e-6)


def test_more_columns_than_samples_and_equal_columns_have_an_inverse():
    rng = np.random.RandomState(0)
    wide = rng.normal(size=(10, 30))
    equal = np.repeat(rng.normal(size=(50, 1)), 2, axis=1)
    for X in (wide, equal):
        scaler = Gaussianisation.fit(X, np.ones(len(X)), marginals="auto")
        assert np.isfinite(scaler.log_det(X)).all()
        np.testing.assert_allclose(scaler.inverse_transform(scaler.transform(X)), X, atol=1e-6)


def test_an_outlier_does_not_squeeze_the_others_together():
    x = np.random.RandomState(0).normal(size=(1000, 1))
    x[0] = 1e6
    Z = Gaussianisation.fit(x, np.ones(1000), marginals="auto").transform(x)
    assert Z[1:].std() > 0.5
    assert Z.max() < 100.0

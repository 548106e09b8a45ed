import numpy as np
import pytest
import torch
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GridSearchCV, KFold
from sklearn.neighbors import KernelDensity

from skode.density.mixtures import BANDWIDTHS, FOLDS, Validation, clusters, expectation_maximisation


@pytest.fixture(scope="module")
def Z():
    rng = np.random.RandomState(0)
    return np.concatenate([rng.normal(-1.0, 0.3, (150, 2)), rng.normal([1.0, 0.5], [0.6, 0.2], (150, 2))])


@pytest.mark.parametrize("kind", ["full", "tied", "diag"])
@pytest.mark.parametrize("n_components", [1, 2])
def test_mixtures_are_scikit_learns(Z, kind, n_components):
    ones = np.ones(len(Z))
    ours = expectation_maximisation(Z, ones, clusters(Z, ones, n_components, 0), kind)
    theirs = GaussianMixture(n_components, covariance_type=kind, random_state=0).fit(Z)
    np.testing.assert_allclose(ours.log_prob(torch.from_numpy(Z)), theirs.score_samples(Z), atol=2e-2)


@pytest.mark.parametrize("kind", ["full", "tied", "diag"])
def test_a_weight_counts_how_often_a_sample_comes(Z, kind):
    counts = 1 + np.arange(len(Z)) % 3
    labels = clusters(Z, counts.astype(float), 2, 0)
    weighted = expectation_maximisation(Z, counts.astype(float), labels, kind)
    repeated = expectation_maximisation(
        np.repeat(Z, counts, axis=0), np.ones(counts.sum()), np.repeat(labels, counts), kind
    )
    points = torch.from_numpy(Z)
    torch.testing.assert_close(weighted.log_prob(points), repeated.log_prob(points))


def test_the_kernel_density_is_that_of_a_grid_search(Z):
    candidate = Validation(Z, np.ones(len(Z)), seed=0).kernel()
    folds = KFold(FOLDS, shuffle=True, random_state=0)
    search = GridSearchCV(KernelDensity(), {"bandwidth": BANDWIDTHS}, cv=folds).fit(Z)
    np.testing.assert_allclose(candidate.density.log_prob(torch.from_numpy(Z)), search.score_samples(Z), rtol=1e-6)
    assert candidate.left_out.mean() == pytest.approx(search.best_score_ / len(Z) * FOLDS, rel=1e-6)


def test_samples_left_out_are_scored_by_fits_to_others(Z):
    validation = Validation(Z, np.ones(len(Z)), seed=0)
    candidate = validation.mixture("full")
    train, test = validation.folds[0]
    labels = clusters(Z[train], np.ones(len(train)), len(candidate.density.means), 0)
    others = expectation_maximisation(Z[train], np.ones(len(train)), labels, "full")
    np.testing.assert_allclose(candidate.left_out[test], others.log_prob(torch.from_numpy(Z[test])))
    assert candidate.left_out.mean() < candidate.density.log_prob(torch.from_numpy(Z)).numpy().mean()

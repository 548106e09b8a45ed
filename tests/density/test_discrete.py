import numpy as np
import pytest
from scipy.stats import kstest, multivariate_normal, norm
from sklearn.ensemble import IsolationForest
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import KernelDensity

from skode import CNFDensityEstimator
from skode.density import discrete
from skode.density.discrete import Dequantiser, discrete_groups
from tests.density.tiny import TINY

pytestmark = pytest.mark.filterwarnings("ignore:Maximum iterations:sklearn.exceptions.ConvergenceWarning")

SHARES, MEANS, SPREADS = np.array([0.5, 0.3, 0.2]), np.array([0.0, 3.0, -2.0]), np.array([0.5, 1.0, 0.3])


def kinds(n, seed):
    """Categories, and a number whose distribution depends on them."""
    rng = np.random.RandomState(seed)
    kind = rng.choice(3, n, p=SHARES)
    return kind, MEANS[kind] + SPREADS[kind] * rng.standard_normal(n)


def one_hot(kind, x):
    return np.column_stack([x, np.eye(3)[kind]])


@pytest.fixture(scope="module")
def of_kinds():
    return CNFDensityEstimator(**{**TINY, "max_iter": 10}, contamination=0.05).fit(one_hot(*kinds(600, 0)))


@pytest.fixture(scope="module")
def stack_of_kinds():
    return CNFDensityEstimator(**{**TINY, "stacking": True}).fit(one_hot(*kinds(600, 0)))


# Cells


def test_points_are_standard_normal_and_lead_back_to_their_samples():
    X = np.column_stack([np.random.RandomState(0).poisson(2.0, 4000), np.zeros(4000)]).astype(float)
    dequantiser = Dequantiser.fit(X, np.ones(len(X)), [np.array([0])], [])
    points = dequantiser.drawn(X, np.random.RandomState(1))
    assert kstest(points[:, 0], norm.cdf).pvalue > 0.01
    np.testing.assert_array_equal(dequantiser.samples(points), X)
    np.testing.assert_array_equal(dequantiser.samples(dequantiser.middle(X)), X)


@pytest.mark.parametrize("unordered", [[], [0, 1]])
def test_probabilities_are_integrals_over_cells(unordered, monkeypatch):
    monkeypatch.setattr(discrete, "FEWEST_POINTS", 4096)
    monkeypatch.setattr(discrete, "MOST_POINTS", 4096)
    rng = np.random.RandomState(0)
    X = np.column_stack([rng.randint(0, 3, 300), rng.randint(0, 2, 300), rng.standard_normal(300)]).astype(float)
    dequantiser = Dequantiser.fit(X, np.ones(len(X)), [np.array([0]), np.array([1])], unordered)
    law = multivariate_normal(np.zeros(3), [[1.0, 0.5, 0.2], [0.5, 1.0, 0.0], [0.2, 0.0, 1.0]])
    found = np.exp(dequantiser.log_density(np.array([[1.0, 0.0, 0.3]]), law.logpdf))[0]
    (_, first), (_, second) = dequantiser.discrete
    low = norm.ppf([first.edges[1], second.edges[0]])
    high = norm.ppf([first.edges[2], second.edges[1]])
    # Given the number, the other two are normal, and the integral is that over a rectangle.
    covariance = np.array([[1.0, 0.5], [0.5, 1.0]]) - np.outer([0.2, 0.0], [0.2, 0.0])
    given = multivariate_normal(np.array([0.2, 0.0]) * 0.3, covariance)
    low = np.maximum(low, -12.0)
    assert found == pytest.approx(given.cdf(high, lower_limit=low) * norm.pdf(0.3), rel=1e-2)


@pytest.mark.parametrize(("n_columns", "error"), [(1, 0.01), (2, 0.02), (3, 0.03)])
def test_probabilities_of_categories_add_up(n_columns, error):
    """Of a density whose mass lies in the middles of cells and spills over a little, as that of a trained flow does."""
    rng = np.random.RandomState(n_columns)
    X = rng.choice(3, size=(400, n_columns), p=[0.5, 0.3, 0.2]).astype(float)
    dequantiser = Dequantiser.fit(X, np.ones(400), [np.array([j]) for j in range(n_columns)], list(range(n_columns)))
    kernel = KernelDensity(bandwidth=0.04).fit(dequantiser.drawn(X, rng))
    every = np.stack(np.meshgrid(*[[0.0, 1.0, 2.0]] * n_columns), axis=-1).reshape(-1, n_columns)
    probabilities = np.exp(dequantiser.log_density(every, kernel.score_samples))
    assert probabilities.sum() == pytest.approx(1.0, abs=error)


def test_weights_count_samples_in_the_cells():
    X, weights = np.array([[0.0], [1.0], [1.0]]), np.array([2.0, 1.0, 1.0])
    of = [
        Dequantiser.fit(x, w, [np.array([0])], []).discrete[0][1]
        for x, w in ((X, weights), (np.repeat(X, weights.astype(int), axis=0), np.ones(4)))
    ]
    np.testing.assert_allclose(of[0].edges, of[1].edges)


# Which columns are discrete


def test_groups_and_columns_of_few_numbers_are_found():
    rng = np.random.RandomState(0)
    kind, x = kinds(500, 0)
    X = np.column_stack([one_hot(kind, x), rng.randint(0, 2, 500), rng.poisson(3.0, 500), np.round(x, 1)])
    found = [group.tolist() for group in discrete_groups(X, [], find=True)]
    assert found == [[1, 2, 3], [4], [5]]
    assert [group.tolist() for group in discrete_groups(X, [6], find=False)] == [[6]]


@pytest.mark.parametrize("n", [60, 400])
def test_a_column_with_one_common_value_among_many_is_not_discrete(n):
    x = np.maximum(np.random.RandomState(0).standard_normal(n), 0.0)
    assert discrete_groups(x[:, None], [], find=True) == []


# The estimator


@pytest.fixture(scope="module")
def probabilities(of_kinds):
    """Those of the categories, by integrals of the density over the number."""
    x = np.linspace(-6.0, 8.0, 400)
    return [np.trapezoid(np.exp(of_kinds.score_samples(one_hot(np.full(len(x), k), x))), x) for k in range(3)]


def test_the_density_adds_up_over_categories_and_integrates_over_numbers(probabilities):
    assert sum(probabilities) == pytest.approx(1.0, abs=0.03)


def test_likelihood_is_near_that_of_the_truth(stack_of_kinds):
    kind, x = kinds(600, 1)
    truth = np.log(SHARES[kind]) + norm.logpdf(x, MEANS[kind], SPREADS[kind])
    assert stack_of_kinds.score(one_hot(kind, x)) > truth.mean() - 0.15


def test_samples_are_valid_and_follow_the_categories(of_kinds, probabilities):
    draws = of_kinds.sample(2000, random_state=0)
    np.testing.assert_array_equal(np.sort(draws[:, 1:], axis=1), np.tile([0.0, 0.0, 1.0], (2000, 1)))
    np.testing.assert_allclose(draws[:, 1:].mean(0), probabilities, atol=0.06)


def test_a_group_is_one_variable_of_the_base(of_kinds):
    X = one_hot(*kinds(20, 2))
    base = of_kinds.transform(X)
    assert base.shape == (20, 2)
    assert len(of_kinds.get_feature_names_out()) == 2
    back = of_kinds.inverse_transform(base)
    np.testing.assert_array_equal(back[:, 1:], X[:, 1:])
    np.testing.assert_allclose(back[:, 0], X[:, 0], atol=1e-2)
    assert of_kinds.trajectory(X, [0.0, 1.0]).shape == (20, 2, 4)


def test_a_number_of_another_category_is_an_anomaly(of_kinds):
    assert of_kinds.predict(one_hot(np.array([0, 1, 2]), MEANS)).tolist() == [1, 1, 1]
    assert of_kinds.decision_function(one_hot(np.array([2]), np.array([5.0]))) < 0.0


def test_anomalies_in_categories_are_found_as_well_as_by_an_isolation_forest(stack_of_kinds):
    # Columns are likely one by one, and a category does not go with its number.
    (kind, x), (new, new_x) = kinds(600, 0), kinds(300, 1)
    wrong = (new + 1 + np.arange(300) % 2) % 3
    X, good, bad = one_hot(kind, x), one_hot(new, new_x), one_hot(wrong, new_x)
    forest = IsolationForest(random_state=0).fit(X)
    is_bad = np.repeat([0, 1], 300)

    def area(score):
        return roc_auc_score(is_bad, -score)

    log_prob = [np.log(SHARES[c]) + norm.logpdf(new_x, MEANS[c], SPREADS[c]) for c in (new, wrong)]
    best = area(np.concatenate(log_prob))
    found, by_forest = (area(model.score_samples(np.concatenate([good, bad]))) for model in (stack_of_kinds, forest))
    assert found > by_forest
    assert found > best - 0.02


def test_values_that_were_not_seen_are_unlikely(of_kinds):
    likely, unlikely = of_kinds.score_samples(np.array([[0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]]))
    assert unlikely < likely - 3.0

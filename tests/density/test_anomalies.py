import numpy as np
import pytest
from sklearn.ensemble import IsolationForest
from sklearn.exceptions import NotFittedError
from sklearn.utils.estimator_checks import (
    check_outlier_contamination,
    check_outliers_fit_predict,
    check_outliers_train,
)

from skode import CNFDensityEstimator
from skode.density.anomalies import AUTO_SHARE, N_DRAWS
from tests.density.quadrature import Quadrature
from tests.density.tiny import TINY

pytestmark = pytest.mark.filterwarnings("ignore:Maximum iterations:sklearn.exceptions.ConvergenceWarning")

CHECKS = (check_outlier_contamination, check_outliers_fit_predict, check_outliers_train)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_scikit_learns_checks_of_outlier_detectors(check):
    check("CNFDensityEstimator", CNFDensityEstimator(**TINY))


def test_contamination_is_the_share_of_training_samples_that_are_anomalies(moons):
    flow = CNFDensityEstimator(**TINY, contamination=0.1)
    labels = flow.fit_predict(moons)
    assert np.mean(labels == -1) == pytest.approx(0.1, abs=1 / len(moons))
    np.testing.assert_array_equal(flow.predict(moons) == -1, flow.score_samples(moons) < flow.offset_)
    np.testing.assert_allclose(flow.decision_function(moons), flow.score_samples(moons) - flow.offset_)


def test_contamination_counts_weights(moons):
    weights = np.where(np.arange(len(moons)) < 50, 4.0, 1.0)
    flow = CNFDensityEstimator(**TINY, contamination=0.1).fit(moons, sample_weight=weights)
    share = weights[flow.predict(moons) == -1].sum() / weights.sum()
    assert share == pytest.approx(0.1, abs=weights.max() / weights.sum())


def test_one_percent_of_the_density_is_below_the_automatic_threshold(moons):
    flow = CNFDensityEstimator(**TINY).fit(moons)
    quadrature = Quadrature(flow, ((-6, 7), (-5, 5.5)), 121)
    p = np.where(quadrature.log_density < flow.offset_, quadrature.density, 0.0)
    below = np.trapezoid(np.trapezoid(p, quadrature.y, axis=1), quadrature.x)
    assert below == pytest.approx(AUTO_SHARE, abs=4 * np.sqrt(AUTO_SHARE / N_DRAWS))


def test_labels_are_those_of_isolation_forests(moons):
    far = np.array([[10.0, 10.0]])
    flow, forest = CNFDensityEstimator(**TINY).fit(moons), IsolationForest(random_state=0).fit(moons)
    np.testing.assert_array_equal(flow.predict(far), forest.predict(far))
    assert flow.predict(far).dtype == forest.predict(far).dtype


def test_there_is_no_threshold_before_a_fit():
    with pytest.raises(NotFittedError):
        _ = CNFDensityEstimator().offset_


@pytest.mark.parametrize("contamination", [0.0, 0.6, "some"])
def test_a_share_that_is_none_is_refused(moons, contamination):
    with pytest.raises(ValueError, match="contamination"):
        CNFDensityEstimator(**TINY, contamination=contamination).fit(moons)

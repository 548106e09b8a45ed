"""Score, depth and time against tolerance."""

import numpy as np
import pytest
from sklearn.datasets import make_moons
from sklearn.metrics import get_scorer

from skode import ODENetClassifier
from skode.inspection import tolerance_curve

pytestmark = pytest.mark.filterwarnings("ignore:Maximum iterations:sklearn.exceptions.ConvergenceWarning")
X, Y = make_moons(60, noise=0.1, random_state=0)


@pytest.fixture(scope="module")
def fitted():
    return ODENetClassifier((8,), state_size=4, max_iter=20, learning_rate_init=1e-2, random_state=0).fit(X, Y)


def test_each_row_is_a_prediction_at_that_tolerance(fitted):
    curve = tolerance_curve(fitted, X, Y, tolerances=[1.0, 1e-3, 1e-9])
    assert list(curve.columns) == ["tolerance", "score", "nfe", "seconds"]
    for row in curve.itertuples():
        fitted.set_params(rtol=row.tolerance, atol=row.tolerance)
        assert row.score == fitted.score(X, Y)
        assert row.nfe == fitted.predict(X, return_nfe=True)[1].mean()
    assert curve["nfe"].iloc[-1] > curve["nfe"].iloc[0]
    assert (curve["seconds"] > 0).all()


def test_the_estimator_is_left_as_it_is(fitted):
    fitted.set_params(rtol=1e-3, atol=1e-4)
    before = fitted.predict_proba(X)
    tolerance_curve(fitted, X, Y)
    assert (fitted.rtol, fitted.atol) == (1e-3, 1e-4)
    np.testing.assert_array_equal(fitted.predict_proba(X), before)


def test_any_scorer_will_do(fitted):
    curve = tolerance_curve(fitted, X, Y, tolerances=[1e-3], scoring=get_scorer("neg_log_loss"))
    assert curve["score"].iloc[0] == get_scorer("neg_log_loss")(fitted.set_params(rtol=1e-3, atol=1e-3), X, Y)

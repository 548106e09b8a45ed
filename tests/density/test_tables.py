import numpy as np
import pandas as pd
import pytest

from skode import CNFDensityEstimator
from tests.density.test_discrete import kinds
from tests.density.tiny import TINY

pytestmark = pytest.mark.filterwarnings("ignore:Maximum iterations:sklearn.exceptions.ConvergenceWarning")


@pytest.mark.parametrize("categories", ["text", "category", "bool"])
def test_frames_come_back_with_their_dtypes(categories):
    kind, x = kinds(150, 0)
    column = pd.Series(np.array(["a", "b", "c"])[kind])
    column = {"text": column, "category": column.astype("category"), "bool": column == "a"}[categories]
    frame = pd.DataFrame({"kind": column, "x": x, "count": np.arange(150) % 4})
    flow = CNFDensityEstimator(**TINY, contamination=0.1, rtol=1e-2, atol=1e-2).fit(frame)
    draws = flow.sample(20, random_state=0)
    pd.testing.assert_series_equal(draws.dtypes, frame.dtypes)
    assert set(draws["kind"]) <= set(column)
    assert np.isfinite(flow.score_samples(draws)).all()
    assert flow.predict(draws).shape == (20,)
    assert flow.feature_names_in_.tolist() == ["kind", "x", "count"]


def test_a_category_that_was_not_seen_is_unlikely_and_a_missing_one_refused():
    kind, x = kinds(150, 0)
    frame = pd.DataFrame({"kind": np.array(["a", "b", "c"])[kind], "x": x})
    flow = CNFDensityEstimator(**TINY).fit(frame)
    known, unknown = flow.score_samples(pd.DataFrame({"kind": ["a", "?"], "x": [0.0, 0.0]}))
    assert unknown < known - 3.0
    with pytest.raises(ValueError, match="NaN"):
        flow.score_samples(pd.DataFrame({"kind": ["a", None], "x": [0.0, 0.0]}))


@pytest.mark.parametrize("features", [[1], ["count"], [False, True]])
def test_columns_are_named_by_position_name_or_mask(features):
    rng = np.random.RandomState(0)
    frame = pd.DataFrame({"x": rng.standard_normal(100), "count": rng.poisson(30.0, 100)})
    flow = CNFDensityEstimator(**TINY, categorical_features=features).fit(frame)
    assert flow.sample(20, random_state=0)[:, 1] == pytest.approx(np.round(flow.sample(20, random_state=0)[:, 1]))


@pytest.mark.parametrize("features", [[5], ["b"], [True]])
def test_columns_that_are_none_are_refused(moons, features):
    with pytest.raises(ValueError, match="categorical_features"):
        CNFDensityEstimator(**TINY, categorical_features=features).fit(moons)


def test_categories_can_be_refused():
    frame = pd.DataFrame({"kind": ["a", "b"] * 20, "x": np.arange(40.0)})
    with pytest.raises(ValueError, match="hold no numbers"):
        CNFDensityEstimator(**TINY, categorical_features=None).fit(frame)

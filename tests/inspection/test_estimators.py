"""What displays say of searches and pipelines, which they can't look into."""

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skode.inspection import (
    DensityEvolutionDisplay,
    ODEFitDisplay,
    ProfileDisplay,
    SeriesForecastDisplay,
    TrainingCurveDisplay,
    TrajectoryDisplay,
    VectorFieldDisplay,
    tolerance_curve,
)

X = np.random.default_rng(0).standard_normal((20, 2))
Y = X[:, 0]
LOOKS = {
    "trajectory": lambda estimator: TrajectoryDisplay.from_estimator(estimator, X),
    "training": TrainingCurveDisplay.from_estimator,
    "tolerance": lambda estimator: tolerance_curve(estimator, X, Y),
    "evolution": lambda estimator: DensityEvolutionDisplay.from_estimator(estimator, X),
    "series": lambda estimator: SeriesForecastDisplay.from_estimator(estimator, X, Y),
    "equations": lambda estimator: ODEFitDisplay.from_estimator(estimator, X, Y),
    "profile": ProfileDisplay.from_estimator,
    "field": lambda estimator: VectorFieldDisplay.from_estimator(estimator, X),
}


@pytest.mark.parametrize("look", LOOKS)
def test_of_a_search_the_best_estimator_is_to_be_passed(look):
    search = GridSearchCV(LinearRegression(), {"positive": [True, False]}, cv=2).fit(X, Y)
    with pytest.raises(TypeError, match=r"estimator must .*; got a GridSearchCV: pass its best_estimator_\.$"):
        LOOKS[look](search)


@pytest.mark.parametrize("look", LOOKS)
def test_of_a_pipeline_the_last_step_is_to_be_passed(look):
    pipeline = make_pipeline(StandardScaler(), LinearRegression()).fit(X, Y)
    rows = "" if look in ("training", "profile") else r", with X as that step sees it: pipeline\[:-1\]\.transform\(X\)"
    message = rf"estimator must .*; got a Pipeline: pass its last step, pipeline\[-1\]{rows}\.$"
    with pytest.raises(TypeError, match=message):
        LOOKS[look](pipeline)

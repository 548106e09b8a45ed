import warnings

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skode import CNFDensityEstimator, ODENetRegressor
from skode.training import warn_caller, warn_of_overflow

X = np.random.RandomState(0).normal(size=(30, 2))
Y = X.sum(axis=1)


def regressor():
    return ODENetRegressor((3,), state_size=2, max_iter=1, learning_rate="constant", random_state=0)


def line_of(warning):
    assert warning.filename == __file__
    with open(__file__) as file:
        return file.read().splitlines()[warning.lineno - 1]


def test_a_warning_points_at_the_caller_of_the_library():
    with pytest.warns(UserWarning, match="look here") as caught:
        warn_caller("look here", UserWarning)
    assert "warn_caller(" in line_of(caught[0])


@pytest.mark.parametrize("how", ["fit", "pipeline", "search"])
def test_it_does_so_through_whatever_fits(how):
    estimator = {
        "fit": regressor,
        "pipeline": lambda: make_pipeline(StandardScaler(), regressor()),
        "search": lambda: GridSearchCV(regressor(), {"alpha": [1.0]}, cv=2),
    }[how]()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        estimator.fit(X, Y)  # here
    found = [warning for warning in caught if issubclass(warning.category, ConvergenceWarning)]
    assert found
    assert all(line_of(warning).endswith("# here") for warning in found)


def test_that_a_column_looks_discrete_is_said_there_too():
    discrete = np.c_[X, np.arange(30) // 20]
    cnf = CNFDensityEstimator((3,), max_iter=1, random_state=0, categorical_features=None)
    with pytest.warns(UserWarning, match="look discrete") as caught:
        cnf.fit(np.tile(discrete, (2, 1)) + np.repeat([[0, 0, 0], [1e-3, 0, 0]], 30, axis=0))
    assert "cnf.fit(" in line_of(caught[0])


def test_where_everything_is_inside_the_library_the_outermost_line_is_named(monkeypatch):
    class Everything:
        def __contains__(self, package):
            return True

    monkeypatch.setattr("skode.training.caller.BETWEEN", Everything())
    with pytest.warns(UserWarning, match="nobody called"):
        warn_caller("nobody called", UserWarning)


@pytest.mark.parametrize("lost", [np.inf, -np.inf, np.nan])
def test_values_beyond_their_dtype_are_counted_by_sample(lost):
    values = np.zeros((4, 2, 2), dtype=np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_overflow(values, "points", "infinite")
    values[2, 1], values[3, 0, 0] = lost, lost
    with pytest.warns(
        UserWarning, match="The points of 2 of 4 samples, such as number 2, are beyond the numbers of float32"
    ):
        warn_of_overflow(values, "points", "infinite")

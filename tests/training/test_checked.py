import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LinearRegression
from torch import nn

from skode import CNFDensityEstimator, ODENetClassifier
from skode.training import checked_data, field_is_theirs, numeric_targets

FRAME = pd.DataFrame({"a": [1.0, 2.0], "b": [3, 4]})


@pytest.mark.parametrize(
    ("column", "kind"),
    [
        (["x", "y"], "str"),
        (pd.Categorical(["x", "y"]), "category"),
        (pd.to_datetime(["2020-01-01", "2020-01-02"]), "datetime64"),
    ],
)
def test_columns_that_hold_no_numbers_are_named(column, kind):
    with pytest.raises(
        ValueError, match=rf"X has columns that hold no numbers: {{'c': '{kind}.*LinearRegression takes"
    ):
        checked_data(LinearRegression(), FRAME.assign(c=column), dtype=np.float64)


@pytest.mark.parametrize("column", [["5", "6"], [True, False], pd.Categorical([1, 2]), pd.array([1, 2], "Int64")])
def test_columns_that_can_be_read_as_numbers_are(column):
    X = checked_data(LinearRegression(), FRAME.assign(c=column), dtype=np.float64)
    np.testing.assert_array_equal(X[:, :2], FRAME)


def test_other_errors_are_scikit_learns():
    fitted = LinearRegression().fit(FRAME, [1, 2])
    with pytest.raises(ValueError, match="feature names should match"):
        checked_data(fitted, pd.DataFrame({"z": ["x", "y"]}), reset=False)
    with pytest.raises(ValueError, match="could not convert string to float"):
        checked_data(LinearRegression(), [["x"], ["y"]], dtype=np.float64)


@pytest.mark.parametrize("y", [["x", "y"], pd.Series(["x", "y"], dtype="category")])
def test_targets_that_are_text_are_said_to_be(y):
    with pytest.raises(ValueError, match=r"y holds text \(such as 'x'\), but Somebody predicts numbers"):
        numeric_targets(y, "Somebody")


def test_text_of_a_kind_that_scikit_learn_converts_is_named_too():
    with pytest.raises(ValueError, match=r"y holds text \(such as 'x'\), but LinearRegression predicts numbers"):
        checked_data(LinearRegression(), FRAME, pd.Series(["x", "y"], dtype="category"), y_numeric=True)


def test_targets_that_are_dates_are_said_to_be():
    with pytest.raises(ValueError, match=r"y holds datetime64.*divide by a unit of time"):
        numeric_targets(pd.Series(pd.to_datetime(["2020-01-01", "2020-01-02"])), "Somebody")


class TooWide(nn.Module):
    def __init__(self):
        super().__init__()
        self.map = nn.Linear(5, 5)

    def forward(self, t, z):
        return self.map(z)


@pytest.mark.parametrize(
    ("estimator", "shape"),
    [
        (ODENetClassifier(field=TooWide(), state_size=3, augment_dim=1, max_iter=1), "(n, 4)"),
        (CNFDensityEstimator(field=TooWide(), max_iter=1), "(n, 2)"),
    ],
)
def test_an_error_inside_a_field_of_the_users_says_how_it_is_called(estimator, shape):
    X = np.random.RandomState(0).normal(size=(20, 2))
    with pytest.raises(RuntimeError) as caught:
        estimator.fit(X, X[:, 0] > 0)
    (note,) = caught.value.__notes__
    assert note.startswith(f"field=TooWide(...) is called as field(t, z) with a time t and states z of shape {shape},")


def test_errors_of_other_kinds_pass_without_a_note():
    with pytest.raises(KeyError) as caught, field_is_theirs(TooWide(), "(n, 2)"):
        raise KeyError
    assert not hasattr(caught.value, "__notes__")

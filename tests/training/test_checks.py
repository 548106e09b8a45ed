from datetime import date, datetime

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LinearRegression

from skode import CNFDensityEstimator, ODENetClassifier, ODENetRegressor
from skode.training import (
    check_argument,
    check_column_names,
    check_data,
    check_numeric_targets,
    check_squares,
    check_weights,
)

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
        check_data(LinearRegression(), FRAME.assign(c=column), dtype=np.float64)


@pytest.mark.parametrize("column", [["5", "6"], [True, False], pd.Categorical([1, 2]), pd.array([1, 2], "Int64")])
def test_columns_that_can_be_read_as_numbers_are(column):
    X = check_data(LinearRegression(), FRAME.assign(c=column), dtype=np.float64)
    np.testing.assert_array_equal(X[:, :2], FRAME)


def test_other_errors_are_scikit_learns():
    fitted = LinearRegression().fit(FRAME, [1, 2])
    with pytest.raises(ValueError, match="feature names should match"):
        check_data(fitted, pd.DataFrame({"z": ["x", "y"]}), reset=False)
    with pytest.raises(ValueError, match="could not convert string to float"):
        check_data(LinearRegression(), [["x"], ["y"]], dtype=np.float64)


@pytest.mark.parametrize("y", [["x", "y"], pd.Series(["x", "y"], dtype="category")])
def test_targets_that_are_text_are_said_to_be(y):
    with pytest.raises(ValueError, match=r"y holds text \(such as 'x'\), but Somebody predicts numbers"):
        check_numeric_targets(y, "Somebody")


def test_text_of_a_kind_that_scikit_learn_converts_is_named_too():
    with pytest.raises(ValueError, match=r"y holds text \(such as 'x'\), but LinearRegression predicts numbers"):
        check_data(LinearRegression(), FRAME, pd.Series(["x", "y"], dtype="category"), y_numeric=True)


def test_targets_that_are_dates_are_said_to_be():
    with pytest.raises(ValueError, match=r"y holds datetime64.*divide by a unit of time"):
        check_numeric_targets(pd.Series(pd.to_datetime(["2020-01-01", "2020-01-02"])), "Somebody")


@pytest.mark.parametrize(
    ("y", "message"),
    [
        ([datetime(2020, 1, 1)] * 2, r"y holds datetime.*divide by a unit of time"),
        ([date(2020, 1, 1)] * 2, r"y holds date.*divide by a unit of time"),
        (np.array([1.0, {"a": 1}], dtype=object), r"y holds dict \(such as {'a': 1}\), but Somebody predicts numbers"),
        (np.array(["1.5", "low"]), r"y holds text \(such as 'low'\)"),
        (pd.Series([2.0, "low"], dtype=object), r"y holds text \(such as 'low'\)"),
    ],
    ids=["datetimes", "dates", "dicts", "text after a number", "text among objects"],
)
def test_the_value_that_is_no_number_is_shown(y, message):
    with pytest.raises(ValueError, match=message):
        check_numeric_targets(y, "Somebody")


MISSING = [pd.NA, pd.NaT, None, np.nan]


@pytest.mark.parametrize("missing", MISSING, ids=str)
@pytest.mark.parametrize("kind", [list, np.array, pd.Series])
def test_targets_that_miss_are_said_to_whatever_they_are_written_as(kind, missing):
    objects = [2.0, missing, 1.0]
    y = objects if kind is list else kind(objects, dtype=object)
    X = pd.DataFrame({"a": [1.0, 2.0, 3.0]})
    with pytest.raises(ValueError, match="Input y contains NaN"):
        ODENetRegressor().fit(X, y)
    labels = ["yes", missing, "no"]
    labels = labels if kind is list else kind(labels, dtype=object)
    with pytest.raises(ValueError, match=r"y has missing labels \(None or NaN\), 1 of 3: drop those samples"):
        ODENetClassifier().fit(X, labels)


@pytest.fixture(scope="module")
def fitted():
    X, small = np.array([[1.0], [2.0], [3.0]]), {"hidden_layer_sizes": (4,), "max_iter": 1, "alpha": 0.0}
    regressor = ODENetRegressor(**small).fit(X, [2.0, 0.0, 1.0])
    return X, regressor, ODENetClassifier(**small).fit(X, ["yes", "no", "no"])


@pytest.mark.parametrize("missing", MISSING, ids=str)
@pytest.mark.parametrize("kind", [list, np.array, pd.Series])
def test_targets_that_miss_are_refused_in_scores_as_in_fit(kind, missing, fitted):
    X, regressor, classifier = fitted
    objects, labels = [2.0, missing, 1.0], ["yes", missing, "no"]
    if kind is not list:
        objects, labels = kind(objects, dtype=object), kind(labels, dtype=object)
    with pytest.raises(ValueError, match="Input y contains NaN"):
        regressor.score(X, objects)
    with pytest.raises(ValueError, match=r"y has missing labels \(None or NaN\), 1 of 3: drop those samples"):
        classifier.score(X, labels)


def test_dates_have_no_score(fitted):
    X, regressor, _ = fitted
    with pytest.raises(ValueError, match=r"y holds datetime64.*predicts numbers"):
        regressor.score(X, pd.to_datetime(["2020-01-01", "2020-01-02", "2020-01-03"]))


@pytest.mark.parametrize("dtype", ["string", "str", "category", "boolean"])
def test_labels_that_miss_are_counted_whatever_their_dtype(dtype):
    labels = pd.Series([True, None, False] if dtype == "boolean" else ["yes", None, "no"], dtype=dtype)
    with pytest.raises(ValueError, match=r"y has missing labels .*1 of 3|Input y contains NaN"):
        ODENetClassifier().fit([[1.0], [2.0], [3.0]], labels)


def test_targets_that_are_infinite_among_objects_are_refused():
    with pytest.raises(ValueError, match="Input y contains infinity"):
        ODENetRegressor().fit([[1.0], [2.0]], np.array([1, np.inf], dtype=object))


@pytest.mark.parametrize("missing", MISSING, ids=str)
def test_columns_of_objects_that_miss_some_are_no_text(missing):
    frame = pd.DataFrame({"a": [1.0, 2.0], "b": pd.Series([True, missing], dtype=object)})
    for X in (frame, frame.to_numpy(dtype=object), frame.to_numpy(dtype=object).tolist()):
        with pytest.raises(ValueError, match=r"Input X contains NaN\.\nCNFDensityEstimator does not accept missing"):
            CNFDensityEstimator().fit(X)


def test_a_column_of_text_is_named_beside_one_that_misses_some():
    frame = pd.DataFrame({"a": pd.Series([1.0, pd.NA], dtype=object), "b": pd.Series([pd.NA, "x"], dtype=object)})
    with pytest.raises(ValueError, match=r"X has columns that hold no numbers: {'b': 'object'}"):
        CNFDensityEstimator(categorical_features=None).fit(frame)


def test_labels_that_are_text_are_not_blamed_for_text_in_an_array():
    with pytest.raises(ValueError, match="could not convert string to float: 'x'"):
        ODENetClassifier().fit(np.array([["x"], ["y"]], dtype=object), ["yes", "no"])


@pytest.mark.parametrize("names", [["a", "a"], ["a", "b", "a", "b"], [1, 1], ["a", 1, "a"]])
def test_columns_of_one_name_are_named(names):
    X = pd.DataFrame(np.zeros((3, len(names))), columns=names)
    twice = sorted({name for name in names if names.count(name) > 1})
    for check in (check_column_names, ODENetClassifier().fit, CNFDensityEstimator().fit):
        with pytest.raises(ValueError, match=rf"X has several columns of one name: \{str(twice)[:-1]}\]. Rename"):
            check(X, *[[0, 1, 0]] * (check != check_column_names))


def test_a_table_without_names_of_its_own_has_none_to_repeat():
    check_column_names(np.zeros((2, 2)))
    check_column_names(pd.DataFrame(np.zeros((2, 2))))


@pytest.mark.parametrize(
    "weights",
    [["heavy", "light"], "balanced", [1.0, None], [1.0, "a"], [1 + 1j, 1], [-1.0, 1.0], [0, 0], [1.0], [[1.0, 2.0]]],
)
def test_weights_that_are_none_are_refused_by_name(weights):
    with pytest.raises((ValueError, TypeError), match=r"sample_weight|Sample weights"):
        check_weights(weights, np.zeros((2, 1)))


def test_weights_are_floats_of_one_where_there_are_none():
    np.testing.assert_array_equal(check_weights(None, np.zeros((2, 1))), [1.0, 1.0])
    np.testing.assert_array_equal(check_weights(["1", "2.5"], np.zeros((2, 1))), [1.0, 2.5])


@pytest.mark.parametrize(
    ("X", "y", "argument"),
    [
        (np.ones((2, 1)) + 1j, [0, 1], "X"),
        (np.zeros(2), [0, 1], "X"),
        (np.zeros((2, 1)), [0j, 1j], "y"),
        (np.zeros((2, 1), dtype=[("a", float), ("b", int)]), [0, 1], "X"),
    ],
)
def test_errors_that_say_not_what_they_are_about_are_told(X, y, argument):
    with pytest.raises((ValueError, TypeError), match=f"^{argument}: "):
        check_data(LinearRegression(), X, y, dtype=[np.float64, np.float32])


def test_errors_that_name_an_argument_stay_as_they_are():
    with pytest.raises(TypeError, match=r"^sample_weight is odd$"), check_argument("y"):
        raise TypeError("sample_weight is odd")
    with pytest.raises(TypeError, match=r"^y: it is odd$"), check_argument("y"):
        raise TypeError("it is odd")


def test_a_score_of_what_is_too_large_to_square_is_refused():
    with pytest.raises(ValueError, match="y holds values too large to square"), check_squares("y"):
        np.square(np.array([1e200]))
    with check_squares("y"):
        assert np.square(np.array([1e150]))[0] == pytest.approx(1e300)


def test_the_largest_numbers_are_numbers():
    # Their sums are infinite with either sign in different parts, of which the sum is NaN.
    X = np.array([[1.7e308, -1.7e308] * 8 + [1.7e308] * 8]).T * np.ones(25)
    np.testing.assert_array_equal(check_data(LinearRegression(), X), X)
    with pytest.raises(ValueError, match="Input X contains NaN"):
        check_data(LinearRegression(), X * [np.nan])

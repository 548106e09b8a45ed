"""Tables with categories and missing values."""

import pickle

import numpy as np
import pandas as pd
import polars as pl
import pytest
from scipy.sparse import csr_matrix
from sklearn.base import clone
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from skode import ODENetClassifier, ODENetRegressor
from skode.supervised.columns import Columns
from tests.weights import same_weights

QUICK = {"hidden_layer_sizes": (8,), "state_size": 8, "alpha": 0.1, "max_iter": 20, "random_state": 0}


@pytest.fixture(scope="module")
def table():
    rng = np.random.RandomState(0)
    frame = pd.DataFrame(
        {"a": rng.normal(size=90), "kind": pd.Categorical(rng.choice(list("xyz"), 90)), "b": rng.normal(size=90)}
    )
    frame.loc[::4, "a"] = np.nan
    frame.loc[5, "kind"] = None
    y = frame["a"].fillna(3.0) + 4.0 * (frame["kind"] == "x") + frame["b"]
    return frame, y.to_numpy()


@pytest.fixture(scope="module")
def fitted(table):
    return ODENetRegressor(**QUICK).fit(*table)


def test_columns_are_what_one_hot_encoding_with_indicators_gives():
    X = np.array([[1.0, 0.0, np.nan], [2.0, 2.0, 5.0], [np.nan, np.nan, 6.0]])
    columns = Columns.of([X], X.shape[1], np.array([1]))
    nan = np.nan
    expected = [[1, nan, 1, 0, 0, 0, 1], [2, 5, 0, 1, 0, 0, 0], [nan, 6, 0, 0, 1, 1, 0]]
    np.testing.assert_array_equal(columns.expanded(X), expected)
    # A category that was not trained on is a missing one.
    np.testing.assert_array_equal(columns.expanded(np.array([[0.0, 1.0, 0.0]])), [[0, 0, 0, 0, 0, 1, 0]])
    plain = np.ones((2, 2))
    assert Columns.of([plain], plain.shape[1], np.array([], int)).expanded(plain) is plain


def test_a_column_without_any_value_is_nothing():
    X = np.array([[np.nan, 1.0], [np.nan, 2.0]])
    np.testing.assert_array_equal(Columns.of([X], X.shape[1], np.array([], int)).expanded(X), [[0, 1, 1], [0, 2, 1]])
    assert np.isfinite(ODENetRegressor(**QUICK).fit(X, [1.0, 2.0]).predict([[3.0, 1.0], [np.nan, np.nan]])).all()


def test_all_ways_to_name_categories_are_one(table, fitted):
    frame, y = table
    expected = fitted.predict(frame)
    text = frame.astype({"kind": object})
    for given in (["kind"], [1], [False, True, False]):
        reg = clone(fitted).set_params(categorical_features=given).fit(text, y)
        np.testing.assert_array_equal(reg.predict(text), expected)
    values = text.to_numpy()
    reg = clone(fitted).set_params(categorical_features=[1]).fit(values, y)
    np.testing.assert_array_equal(reg.predict(values), expected)
    polars = pl.from_pandas(frame)
    np.testing.assert_array_equal(clone(fitted).fit(polars, y).predict(polars), expected)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(fitted)).predict(frame), expected)
    assert fitted.feature_names_in_.tolist() == ["a", "kind", "b"]
    assert fitted.n_features_in_ == 3


@pytest.mark.parametrize("given", [["nobody"], [3], [True], [0.5], [None]])
def test_wrong_names_are_refused_as_by_gradient_boosting(table, given):
    frame, y = table
    messages = []
    for kind in (HistGradientBoostingRegressor, ODENetRegressor):
        with pytest.raises(ValueError, match="categorical_features") as caught:
            kind(categorical_features=given).fit(frame, y)
        messages.append(str(caught.value))
    assert messages[0] == messages[1]


def test_what_is_learned_of_categories_and_of_missing_values(table):
    frame, y = table
    reg = ODENetRegressor(**{**QUICK, "max_iter": 150, "learning_rate_init": 1e-2}).fit(frame, y)
    assert reg.score(frame, y) > 0.95
    base = pd.DataFrame({"a": [0.0], "kind": pd.Categorical(["y"]), "b": [0.0]})
    effect = reg.predict(base.assign(kind=pd.Categorical(["x"]))) - reg.predict(base)
    np.testing.assert_allclose(effect, 4.0, atol=1.0)
    np.testing.assert_allclose(reg.predict(base.assign(a=np.nan)) - reg.predict(base), 3.0, atol=1.0)
    unknown = reg.predict(base.assign(kind=pd.Categorical(["new"])))
    np.testing.assert_array_equal(unknown, reg.predict(base.assign(kind=pd.Categorical([None], ["x"]))))


def test_weights_copies_and_rows_without_weight(table):
    frame, y = table
    counts = np.random.RandomState(0).randint(0, 3, len(y))
    counts[frame["kind"] == "z"] = 0  # whose category is then as if it were not there
    weighted = ODENetRegressor(**QUICK).fit(frame, y, sample_weight=counts)
    rows = np.repeat(np.arange(len(y)), counts)
    repeated = ODENetRegressor(**QUICK).fit(frame.iloc[rows], y[rows])
    assert same_weights(weighted, repeated)
    np.testing.assert_array_equal(weighted.predict(frame), repeated.predict(frame))


def test_tools_of_scikit_learn(table, fitted):
    frame, y = table
    clf = ODENetClassifier(**{**QUICK, "early_stopping": True, "validation_fraction": 0.3})
    assert cross_val_score(clf, frame, y > np.median(y), cv=2).shape == (2,)
    pipe = make_pipeline(FunctionTransformer(), clone(fitted))
    np.testing.assert_array_equal(pipe.fit(frame, y).predict(frame), fitted.predict(frame))
    states = clone(fitted).set_output(transform="pandas").fit(frame, y).transform(frame)
    assert states.shape == (90, 8)
    on = clone(fitted).set_params(warm_start=True).fit(frame, y)
    before = on.loss_
    assert on.fit(frame, y).loss_ < before
    assert np.isfinite(on.partial_fit(frame.iloc[:7], y[:7]).predict(frame)).all()
    assert fitted.__sklearn_tags__().input_tags.allow_nan


def test_what_is_refused(table):
    frame, y = table
    many = pd.DataFrame({"id": pd.Categorical(np.arange(300))})
    with pytest.raises(ValueError, match=r"'id' is expected to have a cardinality <= 255 but .* 300"):
        ODENetRegressor(**QUICK).fit(many, np.arange(300.0))
    with pytest.raises(ValueError, match=r"hold no numbers: .*kind"):
        ODENetRegressor(**QUICK, categorical_features=None).fit(frame, y)
    images = np.zeros((6, 16))
    with pytest.raises(ValueError, match="categorical_features is for tables"):
        ODENetRegressor(**QUICK, categorical_features=[0], image_shape=(1, 4, 4)).fit(images, np.arange(6.0))
    images[0, 0] = np.nan
    with pytest.raises(ValueError, match="Input X contains NaN"):
        ODENetRegressor(**QUICK, image_shape=(1, 4, 4)).fit(images, np.arange(6.0))
    with pytest.raises(ValueError, match="Input X contains NaN"):
        ODENetRegressor(**QUICK).fit(csr_matrix(images), np.arange(6.0))
    with pytest.raises(ValueError, match="Input X contains infinity"):
        ODENetRegressor(**QUICK).fit(np.array([[np.inf], [1.0]]), [0.0, 1.0])

"""Fits of ODE-Nets to tables in blocks."""

import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import make_classification
from sklearn.exceptions import DataConversionWarning
from sklearn.preprocessing import StandardScaler

pytest.importorskip("pyarrow")

from skode import ODENetClassifier, ODENetRegressor, load
from skode.io import ArrayTable, ParquetTable
from skode.training import blocks as module
from tests.weights import same_weights

pytestmark = pytest.mark.filterwarnings("ignore:Maximum iterations:sklearn.exceptions.ConvergenceWarning")

SMALL = {"hidden_layer_sizes": (4,), "state_size": 4, "max_iter": 2, "random_state": 0, "alpha": 1.0}
N, ROWS = 300, 40


@pytest.fixture(autouse=True)
def small_pools(monkeypatch):
    monkeypatch.setattr(module, "POOL_BYTES", 3 * ROWS * 12)
    monkeypatch.setattr(module, "ANSWER_BYTES", 1)


@pytest.fixture(scope="module")
def data():
    X, y = make_classification(
        N, 3, n_informative=3, n_redundant=0, n_classes=3, n_clusters_per_class=1, random_state=0
    )
    return X.astype(np.float32) * [1.0, 10.0, 0.1] + [0.0, 5.0, 0.0], np.array(["a", "b", "c"])[y]


def in_blocks(X):
    return ArrayTable(X, block_rows=ROWS)


def written(path, frame, rows=ROWS):
    frame.to_parquet(path, row_group_size=rows)
    return ParquetTable(path)


@pytest.fixture
def memmap(data, tmp_path, monkeypatch):
    """The features as a memory map that counts as large."""
    monkeypatch.setattr("skode.io.arrays.SMALL_BYTES", 100)
    monkeypatch.setattr("skode.io.arrays.BLOCK_BYTES", ROWS * 3 * 8)
    np.save(tmp_path / "x.npy", data[0])
    return np.load(tmp_path / "x.npy", mmap_mode="r")


def test_the_scaler_is_that_of_a_fit_in_memory(data):
    X, y = data
    model = ODENetClassifier(**SMALL).fit(in_blocks(X), y)
    expected = ODENetClassifier(**SMALL).fit(X, y)
    np.testing.assert_allclose(model.scaler_.mean_, expected.scaler_.mean_, rtol=1e-12)
    np.testing.assert_allclose(model.scaler_.scale_, expected.scaler_.scale_, rtol=1e-12)
    np.testing.assert_array_equal(model.classes_, expected.classes_)


def test_one_block_without_shuffling_is_a_fit_in_memory_to_the_bit():
    rng = np.random.RandomState(0)
    X, y = rng.normal(size=(100, 3)), rng.normal(size=100)
    model = ODENetRegressor(**SMALL, shuffle=False, batch_size=30)
    same_weights(clone(model).fit(ArrayTable(X), y), clone(model).fit(X, y))


def test_answers_are_those_for_an_array_to_the_bit(data):
    X, y = data
    model = ODENetClassifier(**SMALL).fit(X, y)
    for answer in (model.predict, model.predict_proba, model.predict_log_proba, model.transform):
        np.testing.assert_array_equal(answer(in_blocks(X)), answer(X))
    times = [0.0, 0.5, 1.0]
    np.testing.assert_array_equal(model.trajectory(in_blocks(X), times), model.trajectory(X, times))
    for found, expected in zip(
        model.predict(in_blocks(X), return_nfe=True), model.predict(X, return_nfe=True), strict=True
    ):
        np.testing.assert_array_equal(found, expected)
    weights = np.arange(float(N))
    assert model.score(in_blocks(X), y, weights) == model.score(X, y, weights)


def test_a_large_memmap_is_read_in_blocks_and_is_the_same_fit_as_parquet(data, memmap, tmp_path):
    X, y = data
    table = written(tmp_path / "t.parquet", pd.DataFrame(X, columns=list("uvw")).assign(y=y))
    model = ODENetClassifier(**{**SMALL, "alpha": "auto"}, early_stopping=True)
    fits = [
        clone(model).fit(memmap, y),
        clone(model).fit(in_blocks(X), in_blocks(y)),
        clone(model).fit(table.drop("y"), table["y"]),
    ]
    for other in fits[1:]:
        same_weights(fits[0], other)
        assert other.validation_scores_ == fits[0].validation_scores_
    assert fits[2].feature_names_in_.tolist() == ["u", "v", "w"]
    np.testing.assert_array_equal(fits[0].predict_proba(memmap), fits[1].predict_proba(X))
    frame = pd.DataFrame(X, columns=list("uvw"))
    np.testing.assert_array_equal(fits[2].predict_proba(table.drop("y")), fits[2].predict_proba(frame))
    assert fits[2].score(table.drop("y"), table["y"]) == fits[2].score(frame, y)


def test_a_memmap_that_counts_as_small_is_an_array(data, memmap, monkeypatch):
    X, y = data
    monkeypatch.setattr("skode.io.arrays.SMALL_BYTES", memmap.nbytes)
    same_weights(ODENetClassifier(**SMALL).fit(memmap, y), ODENetClassifier(**SMALL).fit(X, y))


def test_it_learns_in_blocks(data):
    X, y = data
    order = np.argsort(y)  # so that blocks have one class each
    model = ODENetClassifier((16,), state_size=8, max_iter=15, batch_size=32, learning_rate_init=1e-2, random_state=0)
    assert model.fit(in_blocks(X[order]), y[order]).score(X, y) > 0.8


def test_search_and_held_out_rows_are_of_those_drawn(data, monkeypatch):
    X, y = data
    monkeypatch.setattr(module, "MOST_DRAWN", 100)
    monkeypatch.setattr("skode.supervised.in_blocks.MOST_HELD_OUT", 20)
    sizes = []
    best = "skode.supervised.base.best_strength"
    monkeypatch.setattr(best, lambda groups, *others: sizes.append(len(groups)) or (2, None))
    score = ODENetClassifier._validation_score
    held_out = set()
    monkeypatch.setattr(
        ODENetClassifier,
        "_validation_score",
        lambda self, samples: held_out.add(len(samples.y)) or score(self, samples),
    )
    model = ODENetClassifier(**{**SMALL, "alpha": "auto"}, early_stopping=True, validation_fraction=0.5)
    model.fit(in_blocks(X), y)
    assert sizes == [80]
    assert held_out == {20}


def test_missing_values_are_columns_of_their_own(data):
    X, y = data
    X = X.copy()
    X[::7, 1] = np.nan  # in every block
    X[250, 2] = np.nan  # in one
    model, expected = ODENetClassifier(**SMALL).fit(in_blocks(X), y), ODENetClassifier(**SMALL).fit(X, y)
    assert model._columns.missing.tolist() == [1, 2]
    np.testing.assert_allclose(model.scaler_.mean_, expected.scaler_.mean_, rtol=1e-12)
    np.testing.assert_array_equal(model.predict_proba(in_blocks(X)), model.predict_proba(X))


def test_categories_of_parquet_are_found_in_all_rows(data, tmp_path):
    X, y = data
    kind = np.where(np.arange(N) < 200, "x", "y").astype(object)
    kind[290:] = "z"
    frame = pd.DataFrame({"u": X[:, 0], "kind": pd.Categorical(kind), "y": y})
    table = written(tmp_path / "t.parquet", frame)
    model = ODENetClassifier(**SMALL).fit(table.drop("y"), table["y"])
    assert model._categories.encoder.categories_[0].tolist() == ["x", "y", "z"]
    np.testing.assert_array_equal(model.predict_proba(table.drop("y")), model.predict_proba(frame[["u", "kind"]]))
    expected = ODENetClassifier(**SMALL).fit(frame[["u", "kind"]], y)
    np.testing.assert_allclose(model.scaler_.mean_, expected.scaler_.mean_, rtol=1e-12)


def test_categories_may_be_numbers(data):
    X, y = data
    X = np.column_stack([X[:, 0], np.arange(N) // 100])
    model = ODENetClassifier(**SMALL, categorical_features=[1]).fit(in_blocks(X), y)
    assert model._categories.encoder.categories_[0].tolist() == [0.0, 1.0, 2.0]
    np.testing.assert_array_equal(model.predict_proba(in_blocks(X)), model.predict_proba(X))


def test_too_many_categories_are_refused(data):
    X = np.column_stack([data[0][:, 0], np.arange(N)])
    with pytest.raises(ValueError, match="Categorical feature 1 is expected to have a cardinality <= 255"):
        ODENetClassifier(**SMALL, categorical_features=[1]).fit(in_blocks(X), data[1])


def test_targets_are_standardised_as_in_memory(data):
    X, _ = data
    y = np.column_stack([X[:, 0] * 3.0 + 7.0, X[:, 1]])
    model = ODENetRegressor(**SMALL, likelihood="gaussian").fit(in_blocks(X), in_blocks(y))
    scaler = StandardScaler().fit(y)
    np.testing.assert_allclose(model.target_scaler_.mean_, scaler.mean_, rtol=1e-12)
    np.testing.assert_allclose(model.target_scaler_.scale_, scaler.scale_, rtol=1e-12)
    for found, expected in zip(
        model.predict(in_blocks(X), return_std=True), model.predict(X, return_std=True), strict=True
    ):
        np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(model.predict_interval(in_blocks(X)), model.predict_interval(X))


def test_weights_count_as_in_memory(data):
    X, y = data
    weights = np.tile([0.0, 1.0, 2.5], N // 3)
    model = ODENetClassifier(**SMALL, class_weight="balanced").fit(in_blocks(X), y, weights)
    expected = ODENetClassifier(**SMALL, class_weight="balanced").fit(X, y, weights)
    np.testing.assert_allclose(model.scaler_.mean_, expected.scaler_.mean_, rtol=1e-12)
    np.testing.assert_allclose(model.scaler_.var_, expected.scaler_.var_, rtol=1e-12)
    halves = {"a": 0.5, "b": 2.0, "c": 1.0}
    model, expected = (ODENetClassifier(**SMALL, class_weight=halves).fit(given, y) for given in (in_blocks(X), X))
    np.testing.assert_allclose(model.scaler_.mean_, expected.scaler_.mean_, rtol=1e-12)


def test_rows_without_weight_are_as_if_left_out(data):
    X, y = data
    weights = (np.arange(N) % 4 > 0).astype(float)
    X = X.copy()
    model = ODENetClassifier(**SMALL).fit(in_blocks(X), y, weights)
    X[weights == 0] *= 1e3
    same_weights(model, ODENetClassifier(**SMALL).fit(in_blocks(X), y, weights))


def test_several_labels(data):
    X, _ = data
    y = (X.mean(axis=0) < X).astype(int)
    model = ODENetClassifier(**SMALL).fit(in_blocks(X), in_blocks(y))
    assert model.predict(in_blocks(X)).shape == (N, 3)


def test_images(data):
    X = np.random.RandomState(0).uniform(size=(N, 16))
    model = ODENetClassifier((2,), state_size=2, image_shape=(1, 4, 4), max_iter=1, random_state=0)
    model.fit(in_blocks(X), data[1])
    np.testing.assert_allclose(model.scaler_.mean_, X.mean(), rtol=1e-12)
    np.testing.assert_array_equal(model.predict_proba(in_blocks(X)), model.predict_proba(X))


def test_training_goes_on_with_other_blocks(data):
    X, y = data
    model = ODENetClassifier(**SMALL, warm_start=True).fit(in_blocks(X[:200]), y[:200])
    mean = model.scaler_.mean_.copy()
    before = [p.clone() for p in model.module_.parameters()]
    model.fit(in_blocks(X), y)
    np.testing.assert_array_equal(model.scaler_.mean_, mean)
    assert any(not torch.equal(p, q) for p, q in zip(before, model.module_.parameters(), strict=True))
    model.partial_fit(in_blocks(X[:50]), in_blocks(y[:50]))  # which takes a batch into memory


def test_a_single_row_and_a_single_block(data):
    X, _ = data
    model = ODENetRegressor(**SMALL).fit(in_blocks(X[:1]), [1.0])
    np.testing.assert_allclose(model.predict(in_blocks(X[:1])), [1.0], atol=0.5)
    ODENetRegressor(**SMALL).fit(in_blocks(X[:ROWS]), X[:ROWS, 0])


@pytest.mark.parametrize("blocks", [[0], [1], [0, 1], [7], range(1, 8)])
def test_a_column_may_be_missing_in_whole_blocks(data, blocks):
    X, y = data
    X = X.copy()
    for block in blocks:
        X[block * ROWS : (block + 1) * ROWS, 1] = np.nan
    scaler = ODENetClassifier(**SMALL).fit(in_blocks(X), y).scaler_
    expected = ODENetClassifier(**SMALL).fit(X, y).scaler_
    np.testing.assert_allclose(scaler.mean_, expected.mean_, rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(scaler.scale_, expected.scale_, rtol=1e-12)


@pytest.mark.parametrize("early_stopping", [False, True])
def test_what_is_wrong_is_told_as_of_arrays(data, early_stopping):
    X, y = data
    bad = X.copy()
    bad[250, 1] = np.inf
    model = ODENetClassifier(**SMALL, early_stopping=early_stopping)
    with pytest.raises(ValueError, match="In rows 240 to 279, counted from 0: Input X contains infinity"):
        model.fit(in_blocks(bad), y)
    with pytest.raises(ValueError, match=r"inconsistent numbers of samples: \[300, 299\]"):
        model.fit(in_blocks(X), y[:-1])
    with pytest.raises(ValueError, match=r"Found array with 0 sample\(s\)"):
        model.fit(in_blocks(X[:0]), y[:0])
    with pytest.raises(ValueError, match="requires y to be passed"):
        model.fit(in_blocks(X), None)
    with pytest.raises(ValueError, match="only one class"):
        model.fit(in_blocks(X), np.zeros(N))
    with pytest.raises(ValueError, match=r"In rows 200 to 239, .*y has missing labels .*1 of 40"):
        model.fit(in_blocks(X), np.where(np.arange(N) == 200, np.nan, 1.0))
    with pytest.raises(ValueError, match="Unknown label type: continuous"):
        model.fit(in_blocks(X), X[:, 0])
    with pytest.raises(ValueError, match=r"In rows 200 to 239, .*y contains NaN"):
        ODENetRegressor(**SMALL).fit(in_blocks(X), np.where(np.arange(N) == 200, np.nan, 1.0))
    with pytest.warns(DataConversionWarning, match="A column-vector y was passed"):
        model.fit(in_blocks(X), in_blocks(y[:, None]))
    with pytest.raises(ValueError, match=r"In rows 0 to 299, .*X contains infinity"):
        model.predict(in_blocks(bad))
    with pytest.raises(ValueError, match="X has 2 features, but ODENetClassifier is expecting 3"):
        model.predict(in_blocks(X[:, :2]))


def test_columns_are_told_by_name(data, tmp_path):
    X, y = data
    table = written(tmp_path / "t.parquet", pd.DataFrame(X, columns=list("uvw")).assign(y=y))
    model = ODENetClassifier(**SMALL).fit(table[["u", "v", "w"]], y)
    with pytest.raises(ValueError, match="feature names should match"):
        model.predict(table[["u", "w", "v"]])
    with pytest.raises(ValueError, match=r"X has columns that hold no numbers: \{'y': 'str'\}"):
        ODENetClassifier(**SMALL).fit(table, y)
    with pytest.raises(ValueError, match=r"X is a column of shape \(300,\), but features are a table"):
        ODENetClassifier(**SMALL).fit(table["u"], y)


def test_a_model_is_saved_without_its_table(data, tmp_path):
    X, y = data
    model = ODENetClassifier(**SMALL).fit(in_blocks(X), y)
    model.save(tmp_path / "model")
    assert (tmp_path / "model").stat().st_size < 40_000
    np.testing.assert_array_equal(load(tmp_path / "model").predict_proba(X), model.predict_proba(X))
    assert len(pickle.dumps(model)) < 40_000


def test_targets_in_blocks_are_taken_into_memory_for_features_that_are_there(data):
    X, y = data
    same_weights(ODENetClassifier(**SMALL).fit(X, in_blocks(y)), ODENetClassifier(**SMALL).fit(X, y))

"""Fits of the density to tables in blocks."""

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone

pytest.importorskip("pyarrow")

from skode import CNFDensityEstimator
from skode.io import ArrayTable, ParquetTable
from skode.training import blocks as module
from tests.weights import same_weights

pytestmark = pytest.mark.filterwarnings("ignore:Maximum iterations:sklearn.exceptions.ConvergenceWarning")

SMALL = {"hidden_layer_sizes": (4,), "max_iter": 2, "random_state": 0, "rtol": 1e-2, "atol": 1e-2}
#: Without the densities beside the flow, which take most of the time, where a test is not about them.
ALONE = {**SMALL, "stacking": False}
N, ROWS = 300, 40


@pytest.fixture(autouse=True)
def small_pools(monkeypatch):
    monkeypatch.setattr(module, "POOL_BYTES", 3 * ROWS * 24)
    monkeypatch.setattr(module, "ANSWER_BYTES", 1)


@pytest.fixture(scope="module")
def X():
    rng = np.random.RandomState(0)
    X = rng.normal(size=(N, 3))
    X[:, 1] = X[:, 0] ** 2 + 0.3 * X[:, 1]
    return X * [1.0, 10.0, 0.1] + [0.0, 50.0, 0.0]


def in_blocks(X):
    return ArrayTable(X, block_rows=ROWS)


def test_the_map_to_the_flow_is_that_of_a_fit_in_memory(X, monkeypatch):
    weights = np.random.RandomState(1).exponential(size=N)
    expected = CNFDensityEstimator(**ALONE, marginals="normal").fit(X, sample_weight=weights)
    monkeypatch.setattr(module, "MOST_DRAWN", 100)
    model = CNFDensityEstimator(**ALONE, marginals="normal").fit(in_blocks(X), sample_weight=weights)
    np.testing.assert_allclose(model.scaler_.mean, expected.scaler_.mean, rtol=1e-12)
    np.testing.assert_allclose(model.scaler_.whitening, expected.scaler_.whitening, rtol=1e-11, atol=1e-12)


def test_answers_are_those_for_an_array_to_the_bit(X):
    many = np.tile(X, (8, 1))  # of more than one chunk
    model = CNFDensityEstimator(**SMALL).fit(X)
    for answer in (model.score_samples, model.transform, model.predict, model.decision_function):
        np.testing.assert_array_equal(answer(in_blocks(many)), answer(many))
    np.testing.assert_array_equal(model.log_prob(in_blocks(many), 0.5), model.log_prob(many, 0.5))
    np.testing.assert_array_equal(model.trajectory(in_blocks(X), [0.0, 1.0]), model.trajectory(X, [0.0, 1.0]))
    assert model.score(in_blocks(many)) == model.score(many)


def test_a_large_memmap_is_the_same_fit_as_parquet(X, tmp_path, monkeypatch):
    monkeypatch.setattr("skode.io.arrays.SMALL_BYTES", 100)
    monkeypatch.setattr("skode.io.arrays.BLOCK_BYTES", ROWS * 3 * 8)
    monkeypatch.setattr(module, "MOST_DRAWN", 200)
    np.save(tmp_path / "x.npy", X)
    pd.DataFrame(X, columns=list("uvw")).to_parquet(tmp_path / "x.parquet", row_group_size=ROWS)
    model = CNFDensityEstimator(**SMALL, contamination=0.1, matching_iter=1)
    memmap = np.load(tmp_path / "x.npy", mmap_mode="r")
    fits = [clone(model).fit(memmap), clone(model).fit(ParquetTable(tmp_path / "x.parquet"))]
    same_weights(*fits)
    assert fits[0].offset_ == fits[1].offset_
    assert fits[0].validation_scores_ == fits[1].validation_scores_
    assert fits[1].feature_names_in_.tolist() == ["u", "v", "w"]
    np.testing.assert_array_equal(fits[0].score_samples(memmap), fits[0].score_samples(X))


def test_it_learns_in_blocks(X, monkeypatch):
    expected = CNFDensityEstimator((16,), max_iter=20, random_state=0).fit(X).score(X)
    monkeypatch.setattr(module, "MOST_DRAWN", 200)
    order = np.argsort(X[:, 0])
    model = CNFDensityEstimator((16,), max_iter=20, random_state=0).fit(in_blocks(X[order]))
    assert model.score(X) > expected - 0.3


def test_rows_held_out_are_not_trained_on(X, monkeypatch):
    monkeypatch.setattr(module, "MOST_DRAWN", 200)
    monkeypatch.setattr("skode.density.in_blocks.MOST_HELD_OUT", 25)
    held_out, order = [], []
    train = CNFDensityEstimator._train

    def noted(self, samples, others, *rest):
        held_out.append(others.points)
        order.append(np.concatenate(list(samples.training(self._in_flow, self.module_.log_scale)[0].batches(7, None))))
        return train(self, samples, others, *rest)

    monkeypatch.setattr(CNFDensityEstimator, "_train", noted)
    CNFDensityEstimator(**ALONE, validation_fraction=0.3).fit(in_blocks(X))
    assert held_out[0].shape == (25, 3)
    assert len(np.unique(order[0])) == N - 25
    assert not np.isin(held_out[0][:, 0], X[order[0], 0]).any()


def test_discrete_columns_are_those_of_the_rows_drawn(X, monkeypatch):
    X = np.column_stack([X[:, :2], np.arange(N) % 3])
    model, expected = CNFDensityEstimator(**ALONE).fit(in_blocks(X)), CNFDensityEstimator(**ALONE).fit(X)
    np.testing.assert_allclose(model._dequantiser.discrete[0][1].edges, expected._dequantiser.discrete[0][1].edges)
    np.testing.assert_array_equal(model.score_samples(in_blocks(X)), model.score_samples(X))
    again = CNFDensityEstimator(**ALONE).fit(in_blocks(X))
    same_weights(model, again)


def test_categories_of_parquet_are_found_in_all_rows(X, tmp_path):
    X = X[: 3 * ROWS]
    kind = np.where(np.arange(len(X)) % 2, "x", "y").astype(object)
    kind[-20:] = "z"
    frame = pd.DataFrame({"u": X[:, 0], "kind": pd.Categorical(kind), "town": kind, "yes": X[:, 1] > 50.0})
    frame.to_parquet(tmp_path / "x.parquet", row_group_size=ROWS)
    table = ParquetTable(tmp_path / "x.parquet")
    model = CNFDensityEstimator(**SMALL).fit(table)
    drawn = model.sample(50, random_state=0)
    assert drawn.dtypes.astype(str).tolist() == frame.dtypes.astype(str).tolist()
    assert set(drawn["kind"]) | set(drawn["town"]) <= {"x", "y", "z"}
    np.testing.assert_array_equal(model.score_samples(table), model.score_samples(frame))


def test_rows_without_weight_are_as_if_left_out(X):
    weights = (np.arange(N) % 4 > 0).astype(float)
    model = CNFDensityEstimator(**SMALL).fit(in_blocks(X), sample_weight=weights)
    changed = X.copy()
    changed[weights == 0] *= 1e3
    same_weights(model, CNFDensityEstimator(**SMALL).fit(in_blocks(changed), sample_weight=weights))


def test_training_goes_on_with_other_blocks(X):
    model = CNFDensityEstimator(**ALONE, warm_start=True).fit(in_blocks(X[:200]))
    mean = model.scaler_.mean.copy()
    model.fit(in_blocks(X))
    np.testing.assert_array_equal(model.scaler_.mean, mean)


def test_what_is_wrong_is_told_as_of_arrays(X):
    model = CNFDensityEstimator(**ALONE)
    bad = X.copy()
    bad[250, 1] = np.nan
    with pytest.raises(ValueError, match="In rows 240 to 279, counted from 0: Input X contains NaN"):
        model.fit(in_blocks(bad))
    with pytest.raises(ValueError, match=r"Found array with 1 sample\(s\)"):
        model.fit(in_blocks(X[:1]))
    with pytest.raises(ValueError, match=r"one value only \(up to rounding\), which have no density: \[1\]"):
        model.fit(in_blocks(X * [1.0, 0.0, 1.0]))
    model.fit(in_blocks(X[:50]))
    with pytest.raises(ValueError, match="X has 2 features, but CNFDensityEstimator is expecting 3"):
        model.score_samples(in_blocks(X[:, :2]))

import pickle

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone

from skode import CNFDensityEstimator, ODENetClassifier, ODENetRegressor
from skode.io import ArrayTable, ParquetTable
from skode.io.partitions import PartitionTable, is_dask
from tests.weights import same_weights

dask = pytest.importorskip("dask")
da = pytest.importorskip("dask.array")
dd = pytest.importorskip("dask.dataframe")

RNG = np.random.default_rng(0)
X = RNG.normal(size=(120, 3))
Y = (X[:, 0] * X[:, 1] > 0).astype(int)
FRAME = pd.DataFrame(X, columns=["a", "b", "c"])
SMALL = {"hidden_layer_sizes": (6,), "max_iter": 2, "random_state": 0}
ESTIMATORS = {
    "classifier": ODENetClassifier(alpha=1e-3, **SMALL),
    "regressor": ODENetRegressor(alpha=1e-3, **SMALL),
    "density": CNFDensityEstimator(stacking=False, **SMALL),
}


def unknown(array):
    """The same array, whose chunks have sizes that are not known."""
    frame = dd.from_dask_array(array, columns=["a", "b", "c"])
    return frame[frame["a"] > -np.inf].to_dask_array()


def test_what_is_of_dask():
    assert is_dask(da.zeros(3))
    assert is_dask(dd.from_pandas(FRAME, npartitions=2))
    assert is_dask(dd.from_pandas(FRAME, npartitions=2)["a"])
    assert not any(map(is_dask, (X, FRAME, [1.0], None, da, dask.delayed(1))))


@pytest.mark.parametrize("counted", [False, True])
def test_an_array_is_read_by_chunk(counted):
    lazy = da.from_array(X, chunks=(50, 2))
    table = PartitionTable(unknown(lazy) if counted else lazy)
    assert table.shape == (120, 3)
    assert table.ends.tolist() == [50, 100, 120]
    assert table.names is None
    assert (table.read(0, 120) == X).all()
    assert (table.read(30, 110) == X[30:110]).all()
    assert (table.take(np.array([1, 60, 119])) == X[[1, 60, 119]]).all()


def test_a_frame_is_read_by_partition():
    frame = FRAME.assign(kind=pd.Categorical(RNG.choice(["x", "y"], 120)), n=RNG.integers(0, 9, 120).astype("int16"))
    lazy = dd.from_pandas(frame, npartitions=4)
    table = PartitionTable(lazy)
    assert table.names == ("a", "b", "c", "kind", "n")
    assert table.dtype == object
    pd.testing.assert_frame_equal(table.frame(40, 100).reset_index(drop=True), frame[40:100].reset_index(drop=True))
    numbers = PartitionTable(lazy[["a", "n"]])
    assert numbers.dtype == np.float64
    assert (numbers.read(3, 99) == frame[["a", "n"]].to_numpy()[3:99]).all()
    column = PartitionTable(lazy["n"])
    assert column.shape == (120,)
    assert column.dtype == np.int16
    assert (column.read(3, 99) == frame["n"].to_numpy()[3:99]).all()


def test_missing_values_of_any_dtype_are_nan():
    frame = pd.DataFrame({"a": pd.array([1, None, 3, 4], dtype="Int64"), "b": pd.array([1.0, 2, None, 4], "Float64")})
    table = PartitionTable(dd.from_pandas(frame, npartitions=2))
    np.testing.assert_equal(table.read(0, 4), [[1, 1], [np.nan, 2], [3, np.nan], [4, 4]])


def test_a_column_of_categories_has_their_dtype():
    column = dd.from_pandas(pd.DataFrame({"y": Y}), npartitions=2)["y"].astype("category")
    found = PartitionTable(column).read(0, 120)
    assert found.dtype == Y.dtype
    assert (found == Y).all()
    assert fitted("classifier", da.from_array(X, chunks=(60, 3)), column).classes_.tolist() == [0, 1]


def test_partitions_without_rows_are_left_out():
    lazy = dd.from_pandas(FRAME, npartitions=6)
    some = lazy[lazy["a"] > 1.8]
    assert (some.map_partitions(len).compute() == 0).any()
    table = PartitionTable(some)
    assert (np.diff(table.ends, prepend=0) > 0).all()
    assert (np.asarray(table) == some.compute().to_numpy()).all()
    nothing = lazy[lazy["a"] > 99.0]
    assert PartitionTable(nothing).read(0, 0).shape == (0, 3)
    for name in ESTIMATORS:
        with pytest.raises(ValueError, match="0 sample"):
            fitted(name, nothing, nothing["b"])


def test_one_partition_is_in_memory():
    computed = []

    def noted(block):
        computed.append(len(block))
        return block

    table = PartitionTable(da.from_array(X, chunks=(40, 3)).map_blocks(noted, meta=np.empty((0, 3))))
    assert not computed
    for first in range(0, 120, 20):
        table.read(first, first + 20)
    assert computed == [40, 40, 40]
    assert pickle.loads(pickle.dumps({**vars(table), "_parts": None} | {"_last": None}))["_last"] is None


def fitted(name, X, y, **weights):
    model = clone(ESTIMATORS[name])
    return model.fit(X, **weights) if name == "density" else model.fit(X, y, **weights)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_fits_are_those_of_other_tables_in_the_same_blocks(name):
    expected = fitted(name, ArrayTable(X, block_rows=40), Y)
    assert same_weights(fitted(name, da.from_array(X, chunks=(40, 2)), da.from_array(Y, chunks=50)), expected)
    assert same_weights(fitted(name, unknown(da.from_array(X, chunks=(40, 3))), Y), expected)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_a_fit_to_a_frame_is_that_to_parquet(name, tmp_path):
    path = tmp_path / "table.parquet"
    frame = FRAME.assign(y=Y)
    frame.to_parquet(path, row_group_size=40)
    table = ParquetTable(path)
    expected = fitted(name, table.drop("y"), table["y"])
    lazy = dd.concat([dd.from_pandas(frame[i : i + 40], npartitions=1) for i in (0, 40, 80)])
    model = fitted(name, lazy[["a", "b", "c"]], lazy["y"])
    assert same_weights(model, expected)
    assert model.feature_names_in_.tolist() == ["a", "b", "c"]


def test_weights_may_be_lazy():
    weights = RNG.uniform(0.5, 2.0, 120)
    lazy = da.from_array(X, chunks=(40, 3))
    expected = fitted("density", ArrayTable(X, block_rows=40), None, sample_weight=weights)
    assert same_weights(fitted("density", lazy, None, sample_weight=da.from_array(weights, chunks=60)), expected)


def test_anomalies_of_a_lazy_table():
    model = clone(ESTIMATORS["density"])
    found = model.fit_predict(da.from_array(X, chunks=(40, 3)))
    assert (found == model.predict(X)).all()


@pytest.mark.parametrize("name", ["classifier", "density"])
def test_partial_fit_takes_a_lazy_part(name):
    y = {"classifier": {"y": Y, "classes": [0, 1]}}.get(name, {})
    lazy = {key: da.from_array(value, chunks=60) if key == "y" else value for key, value in y.items()}
    model = clone(ESTIMATORS[name]).partial_fit(da.from_array(X, chunks=(60, 3)), **lazy)
    assert same_weights(model, clone(ESTIMATORS[name]).partial_fit(X, **y))


def test_targets_of_another_length_are_refused():
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        fitted("classifier", da.from_array(X, chunks=(40, 3)), da.from_array(Y[:80], chunks=40))


def test_what_has_no_columns_is_refused():
    with pytest.raises(ValueError, match="3 dimensions"):
        fitted("density", da.zeros((4, 2, 2)), None)


def test_a_lazy_fit_goes_on_from_a_checkpoint(tmp_path, cut):
    path = tmp_path / "fit.checkpoint"
    lazy = da.from_array(X, chunks=(40, 3))
    expected = fitted("density", lazy, None)
    cut(3)
    with pytest.raises(cut.Cut):
        clone(ESTIMATORS["density"]).set_params(checkpoint=path).fit(lazy)
    cut()
    # The content counts, and not the name that dask gives the array.
    again = da.concatenate([da.from_array(X[i : i + 40], chunks=-1) for i in (0, 40, 80)])
    assert same_weights(clone(ESTIMATORS["density"]).set_params(checkpoint=path).fit(again), expected)

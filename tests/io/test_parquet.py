"""Parquet in blocks: values, dtypes and names as pandas has them."""

import pickle

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("pyarrow")

from pyarrow import dataset

from skode.io import ParquetTable
from skode.io.sources import as_block_table


@pytest.fixture
def frame():
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "size": rng.normal(size=1000).astype(np.float32),
            "rooms": rng.integers(0, 9, 1000),
            "garden": pd.array([True, None] * 500, dtype="boolean"),
            "town": ["x", "y"] * 500,
            "kind": pd.Categorical(["u", "v"] * 500),
        },
        index=np.arange(1000) + 5,
    )


@pytest.fixture
def path(frame, tmp_path):
    frame.to_parquet(tmp_path / "homes.parquet", row_group_size=300)
    return tmp_path / "homes.parquet"


def test_numbers_are_those_of_the_frame(path, frame):
    table = ParquetTable(path)[["size", "rooms", "garden"]]
    assert table.shape == (1000, 3)
    assert table.dtype == np.float64
    assert table.ends.tolist() == [300, 600, 900, 1000]
    expected = frame[["size", "rooms", "garden"]].astype(np.float64).to_numpy()
    np.testing.assert_array_equal(np.asarray(table), expected)
    np.testing.assert_array_equal(table.read(250, 650), expected[250:650])
    np.testing.assert_array_equal(table.read(999, 1000), expected[999:])


def test_columns_of_single_precision_stay_so(path):
    assert ParquetTable(path)[["size"]].dtype == np.float32
    assert ParquetTable(path)["size"].dtype == np.float32
    assert ParquetTable(path)["rooms"].dtype == np.int64


def test_an_index_of_pandas_is_no_column(path):
    assert ParquetTable(path).names == ("size", "rooms", "garden", "town", "kind")


def test_text_and_categories_are_columns_of_text(path, frame):
    table = ParquetTable(path)
    assert table["town"].read(0, 3).tolist() == ["x", "y", "x"]
    assert table["kind"].read(299, 302).tolist() == frame["kind"].tolist()[299:302]
    assert list(table.not_numbers) == ["town", "kind"]


def test_drop_leaves_the_other_columns_in_order(path):
    assert ParquetTable(path).drop(["town", "size"]).names == ("rooms", "garden", "kind")


@pytest.mark.parametrize("wrong", ["price", ["size", "price"]])
def test_unknown_columns_are_named(path, wrong):
    with pytest.raises(ValueError, match=r"no columns \['price'\] in the table; it has \['size', "):
        ParquetTable(path)[wrong]
    with pytest.raises(ValueError, match=r"no columns \['price'\]"):
        ParquetTable(path).drop("price")


def test_some_rows_are_taken_in_order(path):
    table = ParquetTable(path)[["size", "rooms"]]
    rows = np.sort(np.random.default_rng(1).choice(1000, 50, replace=False))
    np.testing.assert_array_equal(table.take(rows), np.asarray(table)[rows])
    assert table.take(rows[:0]).shape == (0, 2)


def test_a_folder_is_the_files_in_order(frame, tmp_path):
    for number in (2, 0, 1):
        frame.iloc[number * 100 : (number + 1) * 100].to_parquet(tmp_path / f"part-{number}.parquet")
    table = ParquetTable(tmp_path)
    np.testing.assert_array_equal(np.asarray(table["rooms"]), frame["rooms"].to_numpy()[:300])
    assert table.ends.tolist() == [100, 200, 300]


def test_a_data_set_of_pyarrows_is_taken(path, frame):
    table = as_block_table(dataset.dataset(path))
    assert isinstance(table, ParquetTable)
    np.testing.assert_array_equal(np.asarray(table["rooms"]), frame["rooms"])


def test_files_without_rows(frame, tmp_path):
    frame.iloc[:0].to_parquet(tmp_path / "none.parquet")
    table = ParquetTable(tmp_path / "none.parquet")[["size", "rooms"]]
    assert table.shape == np.asarray(table).shape == (0, 2)


def test_a_group_of_rows_is_read_once_by_parts(path, monkeypatch):
    table = ParquetTable(path)[["size", "rooms"]]
    read = []

    class Counted:
        def __init__(self, group, number):
            self.group, self.number = group, number

        def to_table(self, **options):
            read.append(self.number)
            return self.group.to_table(**options)

    monkeypatch.setattr(table, "_groups", [(Counted(group, i), n) for i, (group, n) in enumerate(table._groups)])
    for start in range(0, 1000, 50):
        table.read(start, start + 50)
    assert read == [0, 1, 2, 3]


def test_frames_have_names_and_categories(path, frame):
    found = ParquetTable(path).frame(290, 310)
    assert isinstance(found["kind"].dtype, pd.CategoricalDtype)
    assert found["kind"].tolist() == frame["kind"].tolist()[290:310]
    numbers = ParquetTable(path)[["size", "rooms"]].frame(0, 0)
    assert numbers.columns.tolist() == ["size", "rooms"]
    assert len(numbers) == 0


def test_a_table_goes_to_other_processes(path):
    table = ParquetTable(path)[["size", "rooms"]]
    table.read(0, 10)
    np.testing.assert_array_equal(np.asarray(pickle.loads(pickle.dumps(table))), np.asarray(table))


@pytest.mark.parametrize("key", [0, slice(3), np.arange(4), np.ones(1000, dtype=bool)])
def test_rows_are_not_taken_by_index(path, key):
    with pytest.raises(TypeError, match=r"chosen by name.*table\.take\(positions\)"):
        ParquetTable(path)[key]


def test_a_column_is_chosen_once(path):
    with pytest.raises(ValueError, match="once each"):
        ParquetTable(path)[["size", "size"]]


def test_a_folder_without_files_is_told(tmp_path):
    with pytest.raises(ValueError, match="no files of Parquet"):
        ParquetTable(tmp_path)


@pytest.mark.parametrize(("other", "is_read"), [("float64", False), ("str", False), ("int32", True)])
def test_a_file_with_other_types_is_named(frame, tmp_path, other, is_read):
    frame[["rooms"]].to_parquet(tmp_path / "a.parquet")
    (frame[["rooms"]] + 0.5 * (other == "float64")).astype(other).to_parquet(tmp_path / "b.parquet")
    if other == "str":
        frame[["town"]].rename(columns={"town": "rooms"}).to_parquet(tmp_path / "b.parquet")
    table = ParquetTable(tmp_path)
    if is_read:
        assert np.asarray(table["rooms"])[1000:].tolist() == frame["rooms"].tolist()
        return
    with pytest.raises(ValueError, match=r"b\.parquet has columns of other types.*'rooms' of \w+ and not int64"):
        np.asarray(table)

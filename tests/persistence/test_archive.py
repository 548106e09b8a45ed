"""Objects come back from files as they were, and only what was allowed."""

import datetime
import functools
import math
from collections import OrderedDict
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from skode.dynamics import MLPField
from skode.persistence import UntrustedError, read_archive, write_archive
from skode.training import TrainingRecord
from tests.persistence.same import differences

BERLIN = ZoneInfo("Europe/Berlin")
DAYS = pd.date_range("2020-03-27", periods=4, tz=BERLIN)


def twice(x):
    return 2 * x


class Scaled(nn.Module):
    """A field of a user's."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.activation = torch.tanh

    def forward(self, t, z):
        return self.layer(z)


def there_and_back(content, path, trusted=()):
    write_archive(path, content, kind="test")
    return read_archive(path, kind="test", trusted=trusted)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "file.skode"


def seeded():
    random_state = np.random.RandomState(3)
    random_state.normal(size=7)
    return random_state


VALUES = {
    "plain": [None, True, False, 0, -1, 2**63 - 1, 2**200, -(2**64), 0.1, -0.0, 5e-324, "", 'ä\ud800\x00"\\'],
    "special floats": [math.nan, math.inf, -math.inf, complex(-0.0, math.nan)],
    "texts": ["ä\ud800" * 1000],
    "paths": [Path("a", "ä"), Path(), Path("/")],
    "bytes": [b"", bytes(range(256))],
    "containers": [
        (1, [2, {3}]),
        frozenset({("a", 1)}),
        {"b": 1, 2: "c", None: (), (1, "x"): 0},
        OrderedDict(b=1, a=2),
    ],
    "spans": [slice(1, None, 2), slice(None), range(3, 30, 4)],
    "long": [
        [0.1] * 40 + [math.nan],
        list(range(50)),
        [f"s{i}ä" for i in range(40)],
        [True, False] * 30,
        [None, 1] * 40,
    ],
    "arrays": [
        np.arange(12.0).reshape(3, 4),
        np.arange(12, dtype=">i2").reshape(3, 4).T,
        np.zeros(()),
        np.zeros((0, 3)),
    ],
    "transposed": [np.arange(24, dtype=np.float32).reshape(2, 3, 4).transpose(1, 2, 0), np.ones((2, 3)).T],
    "kinds of arrays": [np.array([True, False]), np.array(["a", "ää", ""]), np.array([b"a", b"bc"]), np.array([1j, 2])],
    "times": [np.array(["2020-01-01", "NaT"], "M8[ns]"), np.array([3, 4], "m8[D]"), np.array(1, "M8[25s]")],
    "objects": [np.array(["a", None, 1, 2.5, (1, 2)], dtype=object), np.array([[1, "b"]], dtype=object)],
    "numbers": [np.float64(0.1), np.float32(0.1), np.int8(-3), np.uint64(2**64 - 1), np.bool_(True), np.str_("a")],
    "moments": [np.datetime64("2020-01-01T00:00", "s"), np.timedelta64(5, "D"), np.float64("nan"), np.complex64(1j)],
    "types": [np.dtype("f4"), np.dtype("M8[ns]"), np.dtype(object), np.float64, torch.float16, torch.device("cpu")],
    "sizes": [torch.Size([2, 3])],
    "random states": [seeded(), torch.Generator().manual_seed(5)],
    "tensors": [
        torch.arange(6.0).reshape(2, 3).T,
        torch.zeros(()),
        torch.zeros(0, 2),
        torch.tensor([True]),
        torch.ones(2).bfloat16(),
    ],
    "gradients": [
        torch.ones(2, requires_grad=True),
        nn.Parameter(torch.ones(2, 3)),
        nn.Parameter(torch.ones(1), False),
    ],
    "complex tensors": [torch.view_as_complex(torch.randn(3, 2)), torch.ones(2, dtype=torch.complex128).conj() * 1j],
    "dates": [datetime.date(2020, 1, 2), datetime.datetime(2020, 10, 25, 2, 30, fold=1, tzinfo=BERLIN), BERLIN],
    "differences": [
        pd.Series(pd.to_timedelta([1, None], "h")),
        pd.Interval(1, 2.5),
        pd.to_timedelta([1], "h").array,
        [np.float64(0.1)] * 40,
    ],
    "offsets": [datetime.timedelta(-1, 3, 5), datetime.timezone(datetime.timedelta(hours=5.5)), datetime.UTC],
    "pandas dates": [pd.Timestamp("2020-10-25 02:30+01:00").tz_convert(BERLIN), pd.Timedelta("3h"), pd.NaT, pd.NA],
    "periods": [
        pd.Period("2020-03", "M"),
        pd.period_range("2020", periods=3, freq="Q-NOV"),
        pd.offsets.Week(weekday=2),
    ],
    "indexes": [
        pd.Index(["a", "b"], name="x"),
        pd.Index([1, 2]),
        pd.RangeIndex(3, 9, 2),
        DAYS,
        pd.Index([("a", 1)], tupleize_cols=False),
    ],
    "more indexes": [
        pd.MultiIndex.from_tuples([("a", 1), ("b", 2)], names=["x", None]),
        pd.to_timedelta([1, 2], "h"),
        pd.Index([1, None, "a"], dtype=object),
    ],
    "categories": [
        pd.CategoricalIndex(["b", "a"], ["b", "a"], ordered=True),
        pd.Categorical([None, 3]),
        pd.cut([1, 5], 2),
    ],
    "series": [
        pd.Series([1.0, 2.0], ["a", "b"], name=("x", 1)),
        pd.Series([1, None], dtype="Int64"),
        pd.Series(["a", None]),
    ],
    "frame": [
        pd.DataFrame({"a": [1, 2], 3: DAYS[:2], "c": pd.Categorical(["u", "v"]), "d": [True, False]}, index=["x", "y"])
    ],
    "records": [TrainingRecord([1.0, 0.5], optimizer_state={0: {"step": torch.tensor(1.0), "n": 3}})],
    "fields": [
        MLPField(2, (4,)),
        nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.RNN(3, 2), nn.ParameterList([torch.ones(1)])),
    ],
}


@pytest.mark.parametrize("kind", VALUES)
def test_values_come_back_as_they_were(kind, path):
    assert differences(VALUES[kind], there_and_back(VALUES[kind], path)) == []


def test_one_object_in_two_places_stays_one(path):
    weight, layer = nn.Parameter(torch.ones(2, 2)), nn.Linear(2, 2)
    tied = nn.Linear(2, 2)
    tied.weight = layer.weight
    found = there_and_back({"a": weight, "b": [weight], "c": nn.Sequential(layer, layer, tied)}, path)
    assert found["a"] is found["b"][0]
    assert found["c"][0] is found["c"][1]
    assert found["c"][2].weight is found["c"][0].weight


def test_the_modes_of_modules_are_kept(path):
    found = there_and_back(nn.Sequential(nn.Dropout(0.3), nn.Linear(1, 1).requires_grad_(False)).eval(), path)
    assert not found.training
    assert not found[1].weight.requires_grad


def test_functions_and_classes_of_users_are_found_by_name(path):
    content = {"rhs": twice, "field": Scaled(), "partial": functools.partial(twice, 3), "class": Scaled}
    names = [f"{__name__}.Scaled", f"{__name__}.twice"]
    write_archive(path, content, kind="test")
    with pytest.raises(UntrustedError) as refused:
        read_archive(path, kind="test", trusted=names[:1])
    assert refused.value.names == names[1:]
    found = read_archive(path, kind="test", trusted=[twice, Scaled])
    assert (found["rhs"], found["class"], found["partial"]()) == (twice, Scaled, 6)
    torch.testing.assert_close(found["field"].layer.weight, content["field"].layer.weight, rtol=0.0, atol=0.0)
    assert found["field"].activation is torch.tanh

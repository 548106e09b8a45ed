"""Digests are the same in every process, and differ where a fit may."""

import dataclasses
import functools
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import torch
from scipy.sparse import csr_matrix
from torch import nn

from skode.training.digests import digest


def first(x):
    return x + 1


def second(x):
    return x + 2


def scaled_by(a):
    return lambda x: a * x


def default_of(a):
    def scaled(x, *, a=a):
        return a * x

    return scaled


def applied(function):
    return lambda x: function(x)


def circular(a):
    def walk(n):
        return a if n == 0 else walk(n - 1)

    return walk


def scaled_by_global(x):
    return SCALE * x


SCALE = 2.0


class Field(nn.Module):
    def __init__(self, scale):
        super().__init__()
        self.scale = scale


@dataclasses.dataclass
class Rule:
    table: object

    def __call__(self, x):
        return self.table


LONG = np.arange(5000.0)


def category(*categories):
    return pd.Series(pd.Categorical(["a", "b"], categories), name="c")


FRAME = pd.DataFrame({"id": ["a", "b"], "when": pd.to_datetime(["2020-01-01", "2020-01-02"]), "x": [1.0, np.nan]})

VALUES = [
    None,
    True,
    1,
    1.0,
    2.0,
    "1",
    (1, 2),
    [1, 2],
    [[1], 2],
    {"a": 1},
    {"a": 2},
    np.array([1.0, 2.0]),
    np.array([1.0, 2.0], dtype=np.float32),
    np.array([[1.0, 2.0]]),
    np.array(["a", "b"], dtype=object),
    np.array([0.0]),
    np.array([-0.0]),
    torch.tensor([1.0, 2.0]),
    csr_matrix([[0.0, 1.0]]),
    csr_matrix([[1.0, 0.0]]),
    FRAME,
    FRAME.rename(columns={"x": "y"}),
    FRAME.assign(id=["a", "c"]),
    FRAME.assign(x=[1.0, 2.0]),
    FRAME.assign(when=FRAME["when"].dt.tz_localize("UTC")),
    FRAME["x"],
    np.random.RandomState(0),
    np.random.RandomState(1),
    first,
    second,
    scaled_by(1.0),
    scaled_by(2.0),
    functools.partial(first, 1),
    functools.partial(first, 2),
    nn.Linear(2, 2),
    nn.Tanh(),
    nn.Sigmoid(),
    object(),
    scaled_by([1.0]),
    scaled_by([2.0]),
    default_of(1.0),
    default_of(2.0),
    applied(first),
    applied(second),
    applied(torch.exp),
    circular(1),
    circular(2),
    torch.exp,
    torch.tanh,
    torch.func.vmap(torch.exp),
    torch.func.vmap(torch.tanh),
    Field(1.0),
    Field(2.0),
    Rule(LONG),
    Rule(np.where(LONG == 2000, 0, LONG)),
    Rule(LONG).__call__,
    category("a", "b"),
    category("b", "a"),
    category("a", "b", "c"),
    FRAME["x"].rename("y"),
    {"a", "b"},
]


def test_all_of_these_differ():
    digests = [digest(value) for value in VALUES]
    assert len(set(digests)) == len(VALUES)


def test_equal_values_have_equal_digests():
    assert digest(FRAME) == digest(FRAME.copy())
    assert digest(scaled_by(3)) == digest(scaled_by(3))
    assert digest(np.asfortranarray(np.eye(3)[:2])) == digest(np.eye(3)[:2].copy())
    assert digest(object()) == digest(object())
    torch.manual_seed(0)
    one = nn.Linear(2, 2)
    torch.manual_seed(0)
    assert digest(one) == digest(nn.Linear(2, 2))


def test_compiled_functions_count_as_what_they_compile():
    compiled = scaled_by(3)
    compiled._torchdynamo_orig_callable = first
    assert digest(compiled) == digest(first)


def test_globals_that_a_function_reads_are_part_of_it(monkeypatch):
    before = digest(scaled_by_global)
    monkeypatch.setitem(globals(), "SCALE", 3.0)
    assert digest(scaled_by_global) != before


def test_code_of_a_field_is_part_of_it(monkeypatch):
    before = digest(Field(1.0))
    monkeypatch.setattr(Field, "forward", lambda self, t, z: z, raising=False)
    assert digest(Field(1.0)) != before


VARYING = "[{'a': [1, 'b']}, frozenset('abcdef'), torch.exp, partial(torch.tanh), lambda x: x in {'a', 'b', 'c'}]"


def test_places_in_memory_and_orders_of_sets_do_not_count():
    imports = "import torch; from functools import partial; from skode.training.digests import digest"
    seed = "1" if os.environ.get("PYTHONHASHSEED") != "1" else "2"
    run = subprocess.run(
        [sys.executable, "-c", f"{imports}; print(digest({VARYING}))"],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONHASHSEED": seed},
    )
    assert run.stdout.strip() == digest(eval(VARYING, {"torch": torch, "partial": functools.partial}))

"""Digests are the same in every process, and differ where a fit may."""

import functools
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.sparse import csr_matrix
from torch import nn

from skode import ODENetClassifier
from skode.training.identity import differences, digest, identity


def first(x):
    return x + 1


def second(x):
    return x + 2


def scaled_by(a):
    return lambda x: a * x


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


def test_another_process_has_the_same_digest():
    code = (
        "import numpy as np; from skode.training.identity import digest; "
        "print(digest({'a': [1, 'b', np.arange(3.0)], 'b': frozenset('ab') and None}))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == digest({"a": [1, "b", np.arange(3.0)], "b": None})


def test_what_is_no_part_of_a_fit_does_not_count():
    X = np.eye(2)
    plain = identity(ODENetClassifier(), {"X": X})
    told = identity(ODENetClassifier(verbose=True, checkpoint="file", checkpoint_interval=1.0), {"X": X})
    assert not differences(plain, told)


@pytest.mark.parametrize("value", [3.5, None, [1, 2], "word"])
def test_data_that_fits_refuse_have_a_digest(value):
    identity(ODENetClassifier(), {"X": value})

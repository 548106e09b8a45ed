"""Objects that files can't hold are refused on saving, with their place."""

import functools
import io
import types
from importlib import resources
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import pytest
import torch

from skode.persistence import UnsavableError, encoder
from skode.persistence.archive import archive_of
from skode.persistence.codecs import BY_TAG
from skode.persistence.strict_json import parsed
from tests.persistence import test_archive


def looped():
    found = []
    found.append(found)
    return found


def deep():
    found = ()
    for _ in range(encoder.DEEPEST + 1):
        found = (found,)
    return found


class Slotted:
    __slots__ = ("x",)

    def __init__(self):
        self.x = 1


class Listed(list):
    """A list with a class of its own."""


def local():
    def function():
        pass

    return functools.partial(function)


def hooked():
    tensor = torch.ones(1, requires_grad=True)
    tensor.register_hook(lambda gradient: None)
    return tensor


def zone_of_a_file():
    return ZoneInfo.from_file(io.BytesIO(resources.files("tzdata.zoneinfo").joinpath("UTC").read_bytes()))


UNSAVABLE = {
    "contains itself": looped,
    "levels": deep,
    "<lambda>": lambda: lambda x: x,
    "a local one": local,
    "module": lambda: types,
    "generator": lambda: (x for x in "a"),
    "sparse": lambda: torch.eye(2).to_sparse(),
    "hooks": hooked,
    r"dtype \|V4": lambda: np.zeros(2, "V4"),
    "dtype float128": lambda: np.zeros(2, np.longdouble),
    "whose state is not a dict": Slotted,
    "Listed": Listed,
    "other generators": lambda: np.random.RandomState(np.random.PCG64(0)),
    "without a name": zone_of_a_file,
    "keys": lambda: dict.fromkeys(np.arange(5000.0).tolist()) | {(1,): 2},
    "more than": lambda: [(i,) for i in range(encoder.MOST_OBJECTS + 1)],
    "IntIndex": lambda: pd.Series(pd.arrays.SparseArray([0, 1])),
}


@pytest.mark.parametrize("message", UNSAVABLE)
def test_what_cannot_be_saved_is_refused(message):
    with pytest.raises(UnsavableError, match=message):
        archive_of(UNSAVABLE[message](), kind="test")


def test_the_place_is_named():
    module = torch.nn.Sequential(torch.nn.Linear(1, 1))
    module[0].note = lambda: None
    with pytest.raises(UnsavableError, match=r"^_modules\.note: .*<lambda>"):
        archive_of(module, kind="test")


def test_every_codec_is_tested():
    content = [*test_archive.VALUES.values(), functools.partial(test_archive.twice), test_archive.Scaled().forward]
    archive, _ = archive_of(content, kind="test")
    header = parsed(bytes(archive[8 : 8 + int.from_bytes(archive[:8], "little")]))
    document = parsed(header["__metadata__"]["skode"].encode())
    assert {entry[0] for entry in document["objects"]} == set(BY_TAG)


def test_long_sequences_are_tensors():
    short, long = (len(archive_of([list(range(n)), [f"{i}" for i in range(n)]], kind="test")[0]) for n in (1000, 2000))
    assert long - short < 1000 * (8 + 8 + 4 + 1)

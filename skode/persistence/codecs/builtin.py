"""Python's own numbers and containers."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import numpy as np
import torch

from skode.persistence.decoder import Decoder, expected
from skode.persistence.encoder import Codec, Encoder


def _container(tag: str, kind: type) -> Codec:
    return Codec(tag, lambda xs, encoder: [encoder.items(xs)], lambda decoder, items: kind(decoder.items(items)))


def _collection(tag: str, kind: type) -> Codec:
    """The codec of a set, whose order is to be the same in each process."""
    return Codec(
        tag,
        lambda xs, encoder: [encoder.items(sorted(xs, key=repr))],
        lambda decoder, items: kind(decoder.items(items)),
    )


def _mapping(tag: str, kind: type) -> Codec:
    def decode(decoder: Decoder, keys: Any, values: Any) -> Any:
        return kind(zip(decoder.items(keys), decoder.items(values), strict=True))

    return Codec(tag, lambda d, encoder: [encoder.items(d.keys()), encoder.items(d.values())], decode)


def _encoded_bytes(x: bytes, encoder: Encoder) -> list[Any]:
    return [encoder.data(torch.from_numpy(np.frombuffer(x, dtype=np.uint8).copy()))]


def _parts(tag: str, kind: type, *names: str) -> Codec:
    """The codec of objects that their parts make, all of which are plain values."""

    def decode(decoder: Decoder, *parts: Any) -> Any:
        return kind(*map(decoder.value, parts))

    return Codec(tag, lambda x, encoder: [encoder.value(getattr(x, name)) for name in names], decode)


#: Floats that JSON has no words for.
SPECIAL = {"nan": float("nan"), "inf": float("inf"), "-inf": float("-inf")}

BUILTIN: dict[type, Codec] = {
    float: Codec("float", lambda x, encoder: [str(x)], lambda decoder, name: SPECIAL[name]),
    int: Codec("int", lambda x, encoder: [hex(x)], lambda decoder, digits: int(expected(digits, str), 16)),
    complex: _parts("complex", complex, "real", "imag"),
    bytes: Codec("bytes", _encoded_bytes, lambda decoder, name: decoder.array(name, "uint8").tobytes()),
    list: _container("list", list),
    tuple: _container("tuple", tuple),
    set: _collection("set", set),
    frozenset: _collection("frozenset", frozenset),
    dict: _mapping("dict", dict),
    OrderedDict: _mapping("ordered_dict", OrderedDict),
    slice: _parts("slice", slice, "start", "stop", "step"),
    range: _parts("range", range, "start", "stop", "step"),
}

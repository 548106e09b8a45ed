"""Python's own numbers, containers and paths."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from pathlib import Path, PosixPath, WindowsPath
from typing import Any

import numpy as np
import torch

from skode.persistence.decoder import Decoder, expected
from skode.persistence.encoder import LARGEST_INT, SMALLEST_INT, Codec, Encoder
from skode.persistence.errors import DamagedFileError

#: Floats that JSON has no words for.
SPECIAL = {"nan": float("nan"), "inf": float("inf"), "-inf": float("-inf")}

#: Most keys of a dict, or items of a set, that are not strings or short integers: of other kinds so many can be found
#: with the same hash that to tell them apart takes forever.
MOST_KEYS = 4096


def _are_too_many(keys: Iterable[Any]) -> bool:
    keys = list(keys)
    return len(keys) > MOST_KEYS and not all(
        type(key) is str or (type(key) is int and SMALLEST_INT <= key <= LARGEST_INT) for key in keys
    )


def _keys(keys: Iterable[Any], encoder: Encoder) -> Any:
    if _are_too_many(keys):
        raise encoder.refuse(f"more than {MOST_KEYS} keys that are neither strings nor integers can't be saved.")
    return encoder.items(keys)


def _keys_again(decoder: Decoder, keys: Any) -> list[Any]:
    found = decoder.items(keys)
    if _are_too_many(found):
        raise DamagedFileError("it has too many keys")
    return found


def _sequence(tag: str, kind: type) -> Codec:
    return Codec(tag, lambda xs, encoder: [encoder.items(xs)], lambda decoder, items: kind(decoder.items(items)))


def _collection(tag: str, kind: type) -> Codec:
    """The codec of a set, whose order is to be the same in each process."""

    def encode(xs: Any, encoder: Encoder) -> list[Any]:
        return [_keys(sorted(xs, key=repr), encoder)]

    return Codec(tag, encode, lambda decoder, items: kind(_keys_again(decoder, items)))


def _mapping(tag: str, kind: type) -> Codec:
    def decode(decoder: Decoder, keys: Any, values: Any) -> Any:
        names = _keys_again(decoder, keys)
        found = kind(zip(names, decoder.items(values), strict=True))
        if len(found) < len(names):
            raise DamagedFileError("a dict has a key twice")
        return found

    return Codec(tag, lambda d, encoder: [_keys(d.keys(), encoder), encoder.items(d.values())], decode)


def _parts(tag: str, kind: type, *names: str) -> Codec:
    """The codec of objects that their parts make, all of which are plain values."""

    def decode(decoder: Decoder, *parts: Any) -> Any:
        return kind(*map(decoder.value, parts))

    return Codec(tag, lambda x, encoder: [encoder.value(getattr(x, name)) for name in names], decode)


def _text(x: str, encoder: Encoder) -> list[Any]:
    return _bytes(x.encode("utf-8", "surrogatepass"), encoder)


def _text_again(decoder: Decoder, name: Any) -> str:
    return decoder.array(name, "uint8").tobytes().decode("utf-8", "surrogatepass")


def _bytes(x: bytes, encoder: Encoder) -> list[Any]:
    return [encoder.data(torch.from_numpy(np.frombuffer(x, dtype=np.uint8).copy()))]


#: Read as a path of the system that reads it.
PATH = Codec("path", lambda x, encoder: [str(x)], lambda decoder, text: Path(expected(text, str)))

BUILTIN: dict[type, Codec] = {
    float: Codec("float", lambda x, encoder: [str(x)], lambda decoder, name: SPECIAL[name]),
    int: Codec("int", lambda x, encoder: [hex(x)], lambda decoder, digits: int(expected(digits, str), 16)),
    complex: _parts("complex", complex, "real", "imag"),
    bytes: Codec("bytes", _bytes, lambda decoder, name: decoder.array(name, "uint8").tobytes()),
    str: Codec("text", _text, _text_again),
    list: _sequence("list", list),
    tuple: _sequence("tuple", tuple),
    set: _collection("set", set),
    frozenset: _collection("frozenset", frozenset),
    dict: _mapping("dict", dict),
    OrderedDict: _mapping("ordered_dict", OrderedDict),
    slice: _parts("slice", slice, "start", "stop", "step"),
    range: _parts("range", range, "start", "stop", "step"),
    PosixPath: PATH,
    WindowsPath: PATH,
}

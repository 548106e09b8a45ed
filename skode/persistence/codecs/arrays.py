"""NumPy's arrays, numbers, dtypes and random states."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import torch

from skode.persistence.codecs.layout import order_of, original
from skode.persistence.decoder import Decoder, expected
from skode.persistence.encoder import Codec, Encoder
from skode.persistence.errors import DamagedFileError

#: The dtypes that arrays in files may have.
DTYPE = re.compile(r"[<>|=]?(?:b1|[iu][1248]|f[248]|c(?:8|16)|O|[SU]\d{1,6}|[mM]8(?:\[\d{0,9}[a-zA-Z]{1,7}\])?)")

#: Largest code point of a letter.
LAST_LETTER = 0x10FFFF

#: Numbers in the state of the Mersenne twister.
TWISTER = 624


def dtype_of(name: Any) -> np.dtype:
    """The dtype of a name in files."""
    if not DTYPE.fullmatch(expected(name, str)):
        raise DamagedFileError("a dtype is unknown")
    return np.dtype(name)


def _array(x: np.ndarray, encoder: Encoder) -> list[Any]:
    dtype = x.dtype.str
    if not DTYPE.fullmatch(dtype):
        raise encoder.refuse(f"arrays of dtype {x.dtype} can't be saved.")
    if x.dtype.kind == "O":
        return [dtype, list(x.shape), encoder.items(x.ravel().tolist())]
    x = np.asarray(x.astype(x.dtype.newbyteorder("="), order="K", copy=False))
    order = order_of(x.shape, [stride // max(x.itemsize, 1) for stride in x.strides])
    numbers = np.asarray(x if order is None else x.transpose(order), order="C")
    part = _part(x.dtype)
    if part != x.dtype:
        # parts of an element, such as the letters of a string, are one more dimension
        numbers = numbers.reshape(*numbers.shape, 1).view(part)
    return [dtype, order, encoder.data(torch.from_numpy(numbers if numbers.flags.writeable else numbers.copy()))]


def _array_again(decoder: Decoder, dtype: Any, order: Any, content: Any) -> np.ndarray:
    wanted = dtype_of(dtype)
    native = wanted.newbyteorder("=")
    if wanted.kind == "O":
        return objects(decoder.items(content)).reshape(order)
    found = decoder.data(content).numpy()
    part = _part(native)
    if found.dtype != part:
        raise DamagedFileError("an array is of another type than it is said to be")
    if wanted.kind == "U" and found.size and found.max() > LAST_LETTER:
        raise DamagedFileError("a string has letters that are none")
    if part != native:
        found = found.view(native)[..., 0]
    if order is not None:
        found = found.transpose(original(order, found.ndim))
    return found.astype(wanted, order="K", copy=False)


def _part(dtype: np.dtype) -> np.dtype:
    """The dtype of numbers that an element consists of."""
    by_kind = {"U": np.uint32, "S": np.uint8, "m": np.int64, "M": np.int64}
    if dtype.kind == "c":
        return np.dtype(f"f{dtype.itemsize // 2}")
    return np.dtype(by_kind[dtype.kind]) if dtype.kind in by_kind else dtype


def objects(items: list[Any]) -> np.ndarray:
    """An array of one dimension of objects, whatever these are."""
    found = np.empty(len(items), dtype=object)
    for i, item in enumerate(items):
        found[i] = item
    return found


def _scalar(x: np.generic, encoder: Encoder) -> list[Any]:
    return [x.dtype.str, encoder.value(int(x.view(np.int64)) if x.dtype.kind in "mM" else x.item())]


def _scalar_again(decoder: Decoder, dtype: Any, value: Any) -> Any:
    wanted, found = dtype_of(dtype), expected(decoder.value(value), (bool, int, float, complex, str))
    if wanted.kind in "mM":
        return np.array(expected(found, int), dtype=np.int64).view(wanted)[()]
    return np.array(found).astype(wanted)[()] if wanted.kind != "U" else np.str_(expected(found, str))


def _random_state(x: np.random.RandomState, encoder: Encoder) -> list[Any]:
    state: Any = x.get_state(legacy=False)
    if state["bit_generator"] != "MT19937":
        raise encoder.refuse("random states of other generators than the Mersenne twister can't be saved.")
    key = torch.from_numpy(state["state"]["key"].astype(np.uint32))
    return [
        encoder.data(key),
        int(state["state"]["pos"]),
        int(state["has_gauss"]),
        encoder.value(float(state["gauss"])),
    ]


def _random_state_again(decoder: Decoder, key: Any, place: Any, has_gauss: Any, gauss: Any) -> np.random.RandomState:
    numbers = decoder.array(key, "uint32")
    if len(numbers) != TWISTER or not 0 <= expected(place, int) <= TWISTER or has_gauss not in (0, 1):
        raise DamagedFileError("a random state is none")
    found = np.random.RandomState(0)
    found.set_state(("MT19937", numbers, place, has_gauss, float(decoder.value(gauss))))
    return found


SCALAR = Codec("number", _scalar, _scalar_again)

DTYPE_CODEC = Codec("dtype", lambda x, encoder: [x.str], lambda decoder, name: dtype_of(name))

CODES = "?bBhHiIlLqQefdFDUmM"

ARRAYS: dict[type, Codec] = {
    np.ndarray: Codec("array", _array, _array_again),
    **{np.dtype(code).type: SCALAR for code in CODES},
    **{type(np.dtype(code)): DTYPE_CODEC for code in CODES + "SO"},
    np.random.RandomState: Codec("random_state", _random_state, _random_state_again),
}

"""From objects to a flat table that JSON can hold, and tensors beside it.

The table has one entry for each object, ``[tag, ...]``, whose tag names the :class:`Codec` that made it. A *value*
inside an entry is None, a truth value, a number or a string as it is, or ``[i]``, the object of entry ``i``, which
always is an earlier one: so an object that occurs in several places is one entry, and nothing contains itself.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from skode.persistence.errors import UnsavableError

#: Most levels of objects inside one another.
DEEPEST = 64

#: Most objects beside plain values, which bounds how long a file takes to be read.
MOST_OBJECTS = 20_000

#: A sequence of this many items or more, all numbers or all strings, is written as a tensor.
LONG = 32

#: Integers outside of these bounds are no plain values.
SMALLEST_INT, LARGEST_INT = -(2**63), 2**63 - 1


#: NumPy's numbers of which long sequences are written as tensors.
PACKED = [np.dtype(code) for code in "?bBhHiIqQefd"]


@dataclass(frozen=True)
class Codec:
    """How objects of one kind are written and read.

    Attributes
    ----------
    tag : str
        The name that stands in files.
    encode : callable
        ``encode(object, encoder)`` returns a list of what follows the tag: values, lists of names, and what
        :meth:`Encoder.items` and :meth:`Encoder.data` return.
    decode : callable
        ``decode(decoder, *what_follows)`` returns the object.
    """

    tag: str
    encode: Callable[[Any, Encoder], list[Any]]
    decode: Callable[..., Any]


class Encoder:
    """A table of objects, to which more are added.

    Parameters
    ----------
    codec_of : callable
        Finds the codec of an object; None where there is none.

    Attributes
    ----------
    entries : list
        The table.
    tensors : dict of str to Tensor
        The tensors that it refers to.
    users : list
        The user's classes and functions that it names.
    """

    def __init__(self, codec_of: Callable[[Any], Codec | None]) -> None:
        self.entries: list[list[Any]] = []
        self.tensors: dict[str, Tensor] = {}
        self.users: list[Any] = []
        self._codec_of = codec_of
        self._places: dict[int, int] = {}
        self._kept_alive: list[Any] = []  # so that no other object gets the place in memory of one that is written
        self._within: list[int] = []
        self._path: list[str] = []
        self._storages: set[int] = set()

    def value(self, x: Any) -> Any:
        """An object as a value.

        Raises
        ------
        UnsavableError
            If it can't be written; the message says where it was found.
        """
        kind = type(x)
        if x is None or kind is bool or kind is str:
            return x
        if (kind is int and SMALLEST_INT <= x <= LARGEST_INT) or (kind is float and math.isfinite(x)):
            return x
        if id(x) not in self._places:
            self._add(x)
        return [self._places[id(x)]]

    def items(self, xs: Iterable[Any]) -> Any:
        """A sequence: a list of values, or where it is long and of one kind the tensors that stand for it."""
        xs = list(xs)
        if len(xs) >= LONG:
            packed = self._packed(xs)
            if packed is not None:
                return packed
        return [self.value(x) for x in xs]

    def named(self, state: dict[str, Any]) -> list[Any]:
        """Names and what they stand for, as two sequences."""
        values = []
        for name, x in state.items():
            self._path.append(str(name))
            values.append(self.value(x))
            self._path.pop()
        return [list(state), values]

    def data(self, tensor: Tensor) -> str:
        """The name of a new tensor in the file."""
        tensor = tensor.detach().cpu().contiguous()
        storage = tensor.untyped_storage().data_ptr()
        if storage in self._storages:
            tensor = tensor.clone()
        self._storages.add(storage)
        name = str(len(self.tensors))
        self.tensors[name] = tensor
        return name

    def refuse(self, reason: str) -> UnsavableError:
        """An error that says where it happened, to be raised."""
        where = ".".join(self._path)
        return UnsavableError(f"{where}: {reason}" if where else reason)

    def _add(self, x: Any) -> None:
        codec = self._codec_of(x)
        if codec is None:
            raise self.refuse(f"objects of the class {type(x).__module__}.{type(x).__qualname__} can't be saved.")
        if id(x) in self._within:
            raise self.refuse(f"a {type(x).__name__} that contains itself can't be saved.")
        if len(self._within) >= DEEPEST:
            raise self.refuse(f"objects more than {DEEPEST} levels inside one another can't be saved.")
        if len(self.entries) >= MOST_OBJECTS:
            raise self.refuse(f"more than {MOST_OBJECTS} objects can't be saved; hold them in arrays.")
        self._within.append(id(x))
        entry = [codec.tag, *codec.encode(x, self)]
        self._within.pop()
        self._places[id(x)] = len(self.entries)
        self._kept_alive.append(x)
        self.entries.append(entry)

    def _packed(self, xs: Sequence[Any]) -> dict[str, Any] | None:
        kinds = {type(x) for x in xs}
        if kinds == {bool}:
            return {"bool": self.data(torch.from_numpy(np.array(xs, dtype=bool)))}
        if kinds == {float}:
            return {"float": self.data(torch.from_numpy(np.array(xs, dtype=np.float64)))}
        if kinds == {int} and min(xs) >= SMALLEST_INT and max(xs) <= LARGEST_INT:
            return {"int": self.data(torch.from_numpy(np.array(xs, dtype=np.int64)))}
        if kinds == {str}:
            texts = [x.encode("utf-8", "surrogatepass") for x in xs]
            ends = np.array(list(itertools.accumulate(map(len, texts))), dtype=np.int64)
            letters = np.frombuffer(b"".join(texts), dtype=np.uint8).copy()
            return {"str": self.data(torch.from_numpy(letters)), "ends": self.data(torch.from_numpy(ends))}
        if len(kinds) == 1 and issubclass(kind := kinds.pop(), np.generic) and np.dtype(kind) in PACKED:
            return {"numbers": self.data(torch.from_numpy(np.array(xs)))}
        return None

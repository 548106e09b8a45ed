"""From a table of objects and tensors back to objects; see :mod:`skode.persistence.encoder`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from torch import Tensor

from skode.persistence.encoder import DEEPEST, MOST_OBJECTS, Codec
from skode.persistence.errors import DamagedFileError, UnreadableFileError
from skode.persistence.tensor_file import TensorFile

#: Objects that a table may unfold to, if each is counted wherever it occurs: more would take forever to go through,
#: which short tables whose entries all occur twice in the next one could lead to.
MOST_UNFOLDED = 10_000_000

KINDS = {"bool": "bool", "float": "float64", "int": "int64"}


class Decoder:
    """A table whose objects are made one after the other.

    Parameters
    ----------
    entries : list
        The table.
    file : TensorFile
        The tensors.
    users : mapping of str to class or function
        Classes and functions that the caller trusts, by name.
    codecs : mapping of str to Codec
        All codecs by their tags.

    Raises
    ------
    DamagedFileError
        If the table is not one that skode would have written.
    """

    def __init__(self, entries: Any, file: TensorFile, users: Mapping[str, Any], codecs: Mapping[str, Codec]) -> None:
        self.users = users
        self._file, self._codecs = file, codecs
        self._objects: list[Any] = []
        self._sizes: list[tuple[int, int]] = []  # levels inside each object, and objects that it unfolds to
        if len(expected(entries, list)) > MOST_OBJECTS:
            raise DamagedFileError("it has too many objects")
        for entry in entries:
            self._levels, self._unfolded = 0, 1
            self._objects.append(self._made(expected(entry, list)))
            self._sizes.append((self._levels, self._unfolded))

    def value(self, x: Any) -> Any:
        """The object that a value stands for."""
        if not isinstance(x, list):
            if isinstance(x, dict):
                raise DamagedFileError("a value is of a wrong type")
            return x
        (place,) = x
        if type(place) is not int or not 0 <= place < len(self._objects):
            raise DamagedFileError("an object refers to one that doesn't come before it")
        if place < len(self._sizes):
            levels, unfolded = self._sizes[place]
            self._levels = max(self._levels, levels + 1)
            self._unfolded += unfolded
            if self._levels > DEEPEST or self._unfolded > MOST_UNFOLDED:
                raise DamagedFileError("its objects are nested too deeply")
        return self._objects[place]

    def items(self, xs: Any) -> list[Any]:
        """The objects of a sequence."""
        if isinstance(xs, list):
            return [self.value(x) for x in xs]
        names = expected(xs, dict)
        if names.keys() == {"str", "ends"}:
            return self._texts(names["str"], names["ends"])
        if names.keys() == {"numbers"}:
            return list(self.data(names["numbers"]).numpy())
        ((kind, name),) = names.items()
        return self.array(name, KINDS[kind]).tolist()

    def named(self, names: Any, values: Any) -> dict[str, Any]:
        """A dict by names and values."""
        found = dict(zip([expected(name, str) for name in names], self.items(values), strict=True))
        if len(found) < len(names):
            raise DamagedFileError("a name stands twice in an object")
        return found

    def data(self, name: Any) -> Tensor:
        """The tensor of a name, which can be had once."""
        return self._file.take(expected(name, str))

    def array(self, name: Any, dtype: str) -> np.ndarray:
        """The tensor of a name as an array of one dimension, of a dtype that it is to have."""
        found = self.data(name).numpy()
        if found.dtype != np.dtype(dtype) or found.ndim != 1:
            raise DamagedFileError("numbers are of another type than they are said to be")
        return found

    def _made(self, entry: list[Any]) -> Any:
        tag = expected(entry[0], str)
        if tag not in self._codecs:
            raise DamagedFileError(f"it has objects of an unknown type {tag!r}")
        return self._codecs[tag].decode(self, *entry[1:])

    def _texts(self, letters: Any, ends: Any) -> list[str]:
        joined, places = self.array(letters, "uint8").tobytes(), self.array(ends, "int64")
        starts = np.concatenate([[0], places[:-1]])
        if (places < starts).any() or (places[-1] if len(places) else 0) != len(joined):
            raise DamagedFileError("strings overlap, or leave gaps")
        return [joined[a:b].decode("utf-8", "surrogatepass") for a, b in zip(starts, places, strict=True)]


def expected(x: Any, kind: type | tuple[type, ...]) -> Any:
    """An object, which has to be of a kind."""
    if not isinstance(x, kind) or (isinstance(x, bool) and kind is int):
        raise DamagedFileError(f"{type(x).__name__} stands where another type belongs")
    return x


def in_terms_of_the_file(decode: Callable[[], Any]) -> Any:
    """The result of a function, whose errors, of whatever kind, come from the file."""
    try:
        return decode()
    except (UnreadableFileError, MemoryError, Warning):
        raise
    except Exception as error:
        raise DamagedFileError(f"its objects can't be made ({type(error).__name__}: {str(error)[:200]})") from error

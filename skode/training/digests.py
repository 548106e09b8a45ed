"""Digests of parameters and data: the same in every process, and others wherever a fit may be another one."""

from __future__ import annotations

import hashlib
import re
import sys
import types
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.sparse import issparse
from torch import nn

from skode.io.blocks import BlockTable
from skode.io.sources import as_block_table
from skode.training.dataframes import to_pandas

DATA = np.ndarray | np.generic | torch.Tensor | pd.DataFrame | pd.Series | list | tuple | dict | set | frozenset
PLAIN = int | float | complex | str | bytes | None

#: Numbers of an array that are hashed at a time.
AT_ONCE = 2**20

#: Attributes of modules that have no influence on their values.
OF_MODULES = set(vars(nn.Module())) - {"_buffers"}


def digest(value: Any) -> str:
    """SHA-256 of a parameter or of data, the same in every process."""
    return _Digest().of(value)


def without_address(text: str) -> str:
    """A text without the places in memory that it names, which differ from process to process."""
    return re.sub(r" at 0x[0-9a-fA-F]+", "", text)


class _Digest:
    """One SHA-256, with the objects that it is in the midst of: they may refer to each other in a circle."""

    def __init__(self, within: Mapping[int, Any] | None = None) -> None:
        self.total = hashlib.sha256()
        self.within = dict(within or {})

    def of(self, value: Any) -> str:
        self.feed(value)
        return self.total.hexdigest()

    def text(self, text: str) -> None:
        self.total.update(f"{text},".encode())

    def feed(self, value: Any) -> None:
        """Feed a value's type and content."""
        if isinstance(value, types.FunctionType):  # compiled by torch.compile, whose wrapper holds all of its compiler
            value = vars(value).get("_torchdynamo_orig_callable", value)
        if id(value) in self.within:
            self.text(_name(value))
            return
        if not isinstance(value, PLAIN):
            self.within[id(value)] = value
        self._content(value)
        if not isinstance(value, types.FunctionType | type):  # each of which is fed once: many may call each other
            self.within.pop(id(value), None)

    def _content(self, value: Any) -> None:
        if (table := as_block_table(value)) is not None:
            self._table(table)
            return
        if not isinstance(value, PLAIN | Mapping | nn.Module | list | tuple | type):
            value = to_pandas(value)
        self.text(_name(type(value)))
        if isinstance(value, PLAIN | np.generic):
            self.text(repr(value))
        elif isinstance(value, type):
            self.text(_name(value))
            self._class(value)
        elif isinstance(value, nn.Module):
            self._module(value)
        elif isinstance(value, Mapping):
            self._values(part for item in value.items() for part in item)
        elif isinstance(value, set | frozenset):
            self._values(sorted(_Digest(self.within).of(own) for own in value))
        elif isinstance(value, list | tuple):
            self._values(value)
        elif isinstance(value, pd.DataFrame | pd.Series | pd.Index):
            self._frame(value)
        elif isinstance(value, np.ndarray):
            self._array(value)
        elif isinstance(value, torch.Tensor):
            self._array(value.detach().cpu().numpy())
        elif issparse(value):
            rows = value.tocsr()
            for part in (rows.data, rows.indices, rows.indptr, np.array(rows.shape)):
                self._array(part)
        elif isinstance(value, np.random.RandomState):
            self.feed(value.get_state(legacy=False))
        elif isinstance(value, types.FunctionType):
            self._function(value)
        elif isinstance(value, types.CodeType):
            self._code(value)
        elif isinstance(value, types.MethodType):
            self._values([value.__func__, value.__self__])
        elif isinstance(value, types.ModuleType):
            self.text(value.__name__)
        elif hasattr(value, "get_params"):
            self.feed(value.get_params(deep=False))
        else:
            self._object(value)

    def _values(self, values: Any) -> None:
        for value in values:
            self.feed(value)
        self.text("end")

    def _frame(self, frame: Any) -> None:
        columns = frame.items() if isinstance(frame, pd.DataFrame) else [(frame.name, frame)]
        for name, column in columns:
            self.text(f"{name!r} {column.dtype}")
            if isinstance(column.dtype, pd.CategoricalDtype):  # whose order is that of codes
                self.text(f"{column.dtype.ordered}")
                self.feed(column.dtype.categories)
        self.total.update(pd.util.hash_pandas_object(frame).to_numpy().tobytes())

    def _array(self, array: np.ndarray) -> None:
        self.text(f"{array.dtype} {array.shape}")
        if array.dtype == object:
            array = pd.util.hash_array(array.ravel())
        flat = np.ascontiguousarray(array).reshape(-1)
        for first in range(0, flat.size, AT_ONCE):  # copies of parts only
            self.total.update(flat[first : first + AT_ONCE].tobytes())

    def _table(self, table: BlockTable) -> None:
        """A table that is read in blocks by its content, and by its blocks, on which the order of training depends."""
        self.feed([table.shape, str(table.dtype), table.names, table.ends.tolist()])
        for bounds in table.bounds():
            self._array(table.read(*bounds))

    def _module(self, module: nn.Module) -> None:
        """A module by its weights and structure; those of users also by their code and all else that they hold."""
        self.feed(dict(module.state_dict()))
        self._values(parameter.requires_grad for parameter in module.parameters())
        self.text(without_address(repr(module)))
        for name, own in module.named_modules():
            if not _is_of_library(type(own)):
                self.text(name)
                self._class(type(own))
                self.feed({key: value for key, value in vars(own).items() if key not in OF_MODULES})

    def _function(self, function: types.FunctionType) -> None:
        """A function by its code, its defaults, what it closes over and the globals that it reads."""
        self._code(function.__code__)
        cells = {
            name: cell.cell_contents
            for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
            if cell != types.CellType()  # not assigned yet
        }
        self._values([function.__defaults__, function.__kwdefaults__, cells])
        if not _is_of_library(function):
            for name in sorted(set(_names(function.__code__)) & set(function.__globals__)):
                value = function.__globals__[name]
                if callable(value) or isinstance(value, PLAIN | DATA):
                    self.text(name)
                    self.feed(value)

    def _code(self, code: types.CodeType) -> None:
        self.total.update(code.co_code)
        self._values(code.co_consts)
        self._values(code.co_names)

    def _class(self, cls: type) -> None:
        """The code of a class of users, with that of its bases."""
        for base in cls.__mro__:
            if not _is_of_library(base):
                for name, value in vars(base).items():
                    value = getattr(value, "__func__", getattr(value, "fget", value))
                    if isinstance(value, types.FunctionType) or (isinstance(value, PLAIN) and name[:2] != "__"):
                        self.text(name)
                        self.feed(value)

    def _object(self, value: Any) -> None:
        """Any other object by what pickle takes of it, or else by its text."""
        try:
            reduced = value.__reduce_ex__(2)
        except Exception:  # what can't be pickled
            self.text(without_address(repr(value)))
            return
        if isinstance(reduced, str):  # a name in its module
            self.text(f"{getattr(value, '__module__', None)}.{reduced}")
            return
        build, arguments, *states = reduced
        self.text(_name(build))
        self._values(arguments)
        self._values(list(state) if isinstance(state, Iterator) else state for state in states)
        self._class(type(value))


def _name(value: Any) -> str:
    return f"{getattr(value, '__module__', None)}.{getattr(value, '__qualname__', None)}"


def _is_of_library(thing: Any) -> bool:
    """Whether a class or function is installed, and not of a user's script."""
    name = getattr(thing, "__module__", None) or "builtins"
    file = getattr(sys.modules.get(name), "__file__", None) or ""
    top = name.partition(".")[0]
    return top in {*sys.stdlib_module_names, "skode"} - {"__main__"} or "-packages" in file


def _names(code: types.CodeType) -> Iterator[str]:
    """The names of globals and attributes that code and the functions inside it use."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names(constant)

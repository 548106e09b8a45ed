"""Classes and functions, by name: those that skode knows, and those that the caller of ``load`` trusts."""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any

import numpy as np

from skode.persistence.classes import name_of, named
from skode.persistence.decoder import Decoder, expected
from skode.persistence.encoder import Codec, Encoder
from skode.persistence.errors import DamagedFileError, UntrustedError

REMEDY = (
    "Files hold functions and classes by the name under which they are imported: define it at the top level of a "
    "module, and hand that over."
)


def reference_of(x: Any) -> Codec | None:
    """The codec of a class or function; None for other objects."""
    if isinstance(x, type):
        if issubclass(x, np.generic):
            return NUMPY_TYPE
    elif isinstance(x, MethodType):
        return METHOD
    elif isinstance(x, functools.partial):
        return PARTIAL
    elif not isinstance(x, FunctionType | BuiltinFunctionType | np.ufunc) and name_of(x) is None:
        return None
    return KNOWN if name_of(x) is not None else USERS


def full_name(thing: Any) -> str:
    """The name by which a class or function is trusted."""
    return f"{thing.__module__}.{thing.__qualname__}"


def _users(x: Any, encoder: Encoder) -> list[Any]:
    module, name = getattr(x, "__module__", None), getattr(x, "__qualname__", None)
    if module is None or name is None:
        raise encoder.refuse(f"{x!r} can't be saved, for it has no name. {REMEDY}")
    if _found(sys.modules.get(module), name) is not x:
        kind = "a lambda" if "<lambda>" in name else "a local one" if "<locals>" in name else "not what has that name"
        raise encoder.refuse(f"{module}.{name} can't be saved, for it is {kind}. {REMEDY}")
    encoder.users.append(x)
    return [module, name]


def _found(module: Any, name: str) -> Any:
    """The attribute of a dotted name; None if there is none."""
    for part in name.split("."):
        module = getattr(module, part, None)
    return module


def _users_again(decoder: Decoder, module: Any, name: Any) -> Any:
    return decoder.users[f"{module}.{name}"]


def trusted_ones(path: str, entries: Any, trusted: Iterable[Any]) -> dict[str, Any]:
    """The classes and functions that a table names, or how they are imported, where the caller trusts all of them.

    Parameters
    ----------
    path : str
        The file, for messages.
    entries : list
        The table.
    trusted : iterable of str, class or function
        Classes and functions that the caller trusts, or their names.

    Returns
    -------
    dict
        By names the things, or :class:`Importable` where names are trusted.

    Raises
    ------
    UntrustedError
        If a name is not trusted.
    """
    wanted = {}
    for entry in expected(entries, list):
        if isinstance(entry, list) and entry[:1] == [USERS.tag]:
            _, module, name = entry
            wanted[f"{expected(module, str)}.{expected(name, str)}"] = Importable(module, name)
    given = {thing if isinstance(thing, str) else full_name(thing): thing for thing in trusted}
    missing = wanted.keys() - given.keys()
    if missing:
        raise UntrustedError(path, missing)
    return {key: where if isinstance(given[key], str) else given[key] for key, where in wanted.items()}


@dataclass(frozen=True)
class Importable:
    """A class or function by its module and its name there."""

    module: str
    name: str


def imported(thing: Any) -> Any:
    """A class or function that is trusted, imported where only its name is known.

    Raises
    ------
    ImportError, AttributeError
        If it can't be imported.
    """
    if not isinstance(thing, Importable):
        return thing
    found = _found(sys.modules.get(thing.module) or importlib.import_module(thing.module), thing.name)
    if found is None:
        raise AttributeError(f"The module {thing.module} has no {thing.name}.")
    return found


def _known_again(decoder: Decoder, name: Any) -> Any:
    try:
        return named(expected(name, str))
    except KeyError:
        raise DamagedFileError(f"it names {name!r}, which skode does not know") from None


def _numpy_type_again(decoder: Decoder, name: Any) -> type:
    found = getattr(np, expected(name, str), None)
    if not (isinstance(found, type) and issubclass(found, np.generic)):
        raise DamagedFileError("a type of numbers is unknown")
    return found


def _method(x: MethodType, encoder: Encoder) -> list[Any]:
    name = x.__func__.__name__
    if _found(type(x.__self__), name) is not x.__func__ or reference_of(type(x.__self__)) is not USERS:
        raise encoder.refuse(f"{x!r} can't be saved, for it is not a plain method of a class of yours. {REMEDY}")
    return [encoder.value(x.__self__), name]


def _method_again(decoder: Decoder, owner: Any, name: Any) -> MethodType:
    owner = decoder.value(owner)
    function = _found(type(owner), expected(name, str))
    if not isinstance(function, FunctionType) or type(owner) not in decoder.users.values():
        raise DamagedFileError("a method belongs to no class of the user's")
    return MethodType(function, owner)


def _partial(x: functools.partial, encoder: Encoder) -> list[Any]:
    return [encoder.value(x.func), encoder.items(x.args), *encoder.named(x.keywords)]


def _partial_again(decoder: Decoder, function: Any, arguments: Any, names: Any, values: Any) -> functools.partial:
    function = decoder.value(function)
    if not callable(function):
        raise DamagedFileError("a partial function is of no function")
    return functools.partial(function, *decoder.items(arguments), **decoder.named(names, values))


KNOWN = Codec("known", lambda x, encoder: [name_of(x)], _known_again)
USERS = Codec("users", _users, _users_again)
NUMPY_TYPE = Codec("numpy_type", lambda x, encoder: [x.__name__], _numpy_type_again)
METHOD = Codec("method", _method, _method_again)
PARTIAL = Codec("partial", _partial, _partial_again)

REFERENCE_CODECS = (KNOWN, USERS, NUMPY_TYPE, METHOD, PARTIAL)

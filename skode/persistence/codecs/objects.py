"""Objects of classes: their attributes by name, set without a call of their constructors."""

from __future__ import annotations

import copyreg
import dataclasses
import inspect
from functools import cached_property
from types import FunctionType
from typing import Any

from sklearn.base import BaseEstimator
from torch import Tensor, nn

from skode.persistence.classes import name_of
from skode.persistence.decoder import Decoder, expected
from skode.persistence.encoder import Codec, Encoder
from skode.persistence.errors import DamagedFileError

#: Of the attributes that torch gives every module, those with a content of the module's own.
PARTS = ("training", "_parameters", "_buffers", "_modules", "_non_persistent_buffers_set")

#: Types of the values of the dicts among them.
HELD = {"_parameters": nn.Parameter, "_buffers": Tensor, "_modules": nn.Module}

#: The function by which pickles make an object of a plain class.
NEW = copyreg.__newobj__  # type: ignore[attr-defined]

#: Ways to set a state that only set attributes, or compare versions besides.
PLAIN = (None, nn.Module.__setstate__, BaseEstimator.__setstate__)

#: Class attributes that attributes of an object may not hide.
METHODS = (FunctionType, property, classmethod, staticmethod)


def state_of(x: Any, encoder: Encoder) -> dict[str, Any]:
    """The attributes of an object, as pickles have them, without cached properties.

    Objects whose state in files is another one than in pickles return it from ``_state_in_files``.
    """
    cls = type(x)
    if hasattr(cls, "_state_in_files"):
        return x._state_in_files()
    try:
        function, arguments, state, *contents = (*x.__reduce_ex__(2), None)[:5]
    except Exception as error:
        raise encoder.refuse(f"a {cls.__qualname__} can't be saved, as it can't be pickled ({error}).") from error
    if function is not NEW or arguments != (cls,) or any(part is not None for part in contents):
        raise encoder.refuse(f"objects of the class {cls.__module__}.{cls.__qualname__} can't be saved.")
    state = {} if state is None else state
    if not isinstance(state, dict) or not all(isinstance(name, str) for name in state):
        raise encoder.refuse(f"a {cls.__qualname__}, whose state is not a dict of attributes, can't be saved.")
    # the version of skode stands for those of what its objects consist of
    state.pop("_sklearn_version", None)
    computed = {name for base in cls.__mro__ for name, own in vars(base).items() if isinstance(own, cached_property)}
    return {name: own for name, own in state.items() if name not in computed}


def _object(x: Any, encoder: Encoder) -> list[Any]:
    return [encoder.value(type(x)), *encoder.named(state_of(x, encoder))]


def _module(x: nn.Module, encoder: Encoder) -> list[Any]:
    plain, state = vars(nn.Module()), state_of(x, encoder)
    for name in plain.keys() - set(PARTS):
        if state.pop(name, None):
            raise encoder.refuse(f"a {type(x).__qualname__} with hooks ({name}) can't be saved: remove them first.")
    return [encoder.value(type(x)), *encoder.named(state)]


def _object_again(decoder: Decoder, cls: Any, names: Any, values: Any) -> Any:
    cls, state = expected(decoder.value(cls), type), decoder.named(names, values)
    if issubclass(cls, nn.Module):
        raise DamagedFileError("a module is said to be something else")
    new = object.__new__(cls)
    _check_names(cls, state)
    if dataclasses.is_dataclass(cls):
        _check_fields(cls, state)
    elif issubclass(cls, BaseEstimator):
        set_defaults(cls, state)
    _set_state(new, state)
    return new


def _module_again(decoder: Decoder, cls: Any, names: Any, values: Any) -> nn.Module:
    cls, state = expected(decoder.value(cls), type), decoder.named(names, values)
    if not issubclass(cls, nn.Module):
        raise DamagedFileError("something is said to be a module")
    new = object.__new__(cls)
    nn.Module.__init__(new)
    _check_names(cls, state)
    for name, kind in HELD.items():
        for own_name, held in expected(state.get(name), dict).items():
            if not isinstance(own_name, str) or not (held is None or isinstance(held, kind)):
                raise DamagedFileError("a module has parts that are none")
    expected(state.get("training"), bool)
    expected(state.get("_non_persistent_buffers_set"), set)
    _set_state(new, state)
    return new


def _set_state(new: Any, state: dict[str, Any]) -> None:
    cls = type(new)
    if getattr(cls, "__setstate__", None) in PLAIN or hasattr(cls, "_state_in_files"):
        new.__dict__.update(state)
    else:
        new.__setstate__(state)


def _check_names(cls: type, state: dict[str, Any]) -> None:
    """Refuse attributes by which methods of skode's and torch's classes would be something else."""
    if name_of(cls) is None:
        return
    for name in state:
        if name.startswith("__") or isinstance(inspect.getattr_static(cls, name, None), METHODS):
            raise DamagedFileError(f"an attribute takes the place of {cls.__qualname__}.{name}")


def _check_fields(cls: Any, state: dict[str, Any]) -> None:
    """Refuse a record that lacks fields without a default; others get theirs."""
    for field in dataclasses.fields(cls):
        if field.name in state:
            continue
        if field.default is not dataclasses.MISSING:
            state[field.name] = field.default
        elif field.default_factory is not dataclasses.MISSING:
            state[field.name] = field.default_factory()
        else:
            raise DamagedFileError(f"a {cls.__qualname__} has no {field.name}")


def parameters_of(cls: type) -> dict[str, Any]:
    """Defaults of the parameters of an estimator, by name; ``inspect.Parameter.empty`` for those without."""
    parameters = inspect.signature(cls).parameters
    return {name: parameter.default for name, parameter in parameters.items()}


def set_defaults(cls: type, state: dict[str, Any]) -> None:
    """Set the parameters of an estimator that a state lacks, as those of older versions do."""
    for name, default in parameters_of(cls).items():
        if name not in state and default is not inspect.Parameter.empty:
            state[name] = default


MODULE = Codec("module", _module, _module_again)
OBJECT = Codec("object", _object, _object_again)

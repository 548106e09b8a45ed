"""The state that a module's evaluations depend on, as far as Python shows it; a recording is valid until it changes.

A recording does again what a module did when it was recorded. So it may only be used while everything that the module
reads is what it was: tensors are read anew from where they are in memory, all else must be equal.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Hashable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

#: Types that are compared by value.
VALUES = (int, float, complex, str, bytes, type(None), torch.dtype, torch.device, torch.Size, torch.layout)

#: Types that are compared by identity: they do not change, or hold nothing that an evaluation would read by itself.
THINGS = (
    *(types.ModuleType, types.BuiltinFunctionType, types.MethodDescriptorType, types.WrapperDescriptorType),
    *(types.CodeType, types.GetSetDescriptorType, types.MemberDescriptorType, types.MethodWrapperType),
)

#: Packages whose classes and functions are taken to stay as they are.
SETTLED = {"torch", "numpy", "math", "builtins", "typing", "abc", "enum", "functools", "itertools", "collections"}

#: Packages whose functions return different values from call to call, or from machine to machine.
UNSETTLED = {"os", "sys", "time", "random", "datetime", "secrets", "uuid", "threading"}

#: Attributes of classes that evaluations don't read.
UNREAD_OF_CLASSES = {
    *("__dict__", "__weakref__", "__doc__", "__module__", "__qualname__", "__slots__", "__init__", "__new__"),
    *("__annotations__", "__annotate__", "__annotate_func__", "__annotations_cache__", "__static_attributes__"),
    *("__firstlineno__", "__parameters__", "__orig_bases__", "__abstractmethods__", "__match_args__"),
    *("__dataclass_fields__", "__dataclass_params__", "__hash__", "__repr__", "__eq__"),
}

#: Attributes of modules that evaluations don't read. Hooks are refused elsewhere.
UNREAD = {
    "_non_persistent_buffers_set",
    "_is_full_backward_hook",
    *("_backward_pre_hooks", "_backward_hooks", "_forward_hooks", "_forward_pre_hooks"),
    *("_forward_hooks_with_kwargs", "_forward_hooks_always_called", "_forward_pre_hooks_with_kwargs"),
    *("_state_dict_hooks", "_state_dict_pre_hooks", "_load_state_dict_pre_hooks", "_load_state_dict_post_hooks"),
}


class Unknown(Exception):  # noqa: N818
    """An object that may change in ways that can't be seen."""


def fingerprint(module: nn.Module) -> Hashable | None:
    """A key of all that a module's evaluations depend on; None where that can't be found out.

    Parameters
    ----------
    module : nn.Module
        The module.

    Returns
    -------
    tuple or None
        Addresses, shapes, strides, dtypes of tensors; values of numbers and strings; identities of code, and in what
        way they hang together. None where it holds something else, as an array or a generator, tensors that require
        grad besides its parameters, or functions that reach modules or such tensors by themselves.
    """
    found: list[Hashable] = []
    visited: dict[int, int] = {}
    stack: list[Any] = [module]
    own = {id(parameter) for parameter in module.parameters()}
    try:
        while stack:
            thing = stack.pop()
            if isinstance(thing, VALUES):
                found.append((type(thing).__name__, thing))
            elif isinstance(thing, THINGS):
                found.append(id(thing))
            elif id(thing) in visited:
                found.append(("again", visited[id(thing)]))
            else:
                visited[id(thing)] = len(visited)
                if isinstance(thing, Tensor):
                    found.append(_of_tensor(thing, own))
                else:
                    inside = list(_inside(thing))
                    found.append((type(thing).__name__, id(thing) if isinstance(thing, type) else 0, len(inside)))
                    stack.extend(reversed(inside))
    except Unknown:
        return None
    return tuple(found)


def _of_tensor(tensor: Tensor, own: set[int]) -> Hashable:
    strange = type(tensor) not in (Tensor, nn.Parameter) or tensor.layout != torch.strided or tensor.is_inference()
    if strange or (tensor.requires_grad and id(tensor) not in own) or not tensor.is_leaf:
        raise Unknown
    return (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype, tensor.device, tensor.requires_grad)


def _inside(thing: Any) -> Iterator[Any]:
    """Parts of an object that its use may read."""
    if isinstance(thing, nn.Module):
        yield type(thing)
        for name, value in vars(thing).items():
            if name not in UNREAD:
                yield from (name, value)
    elif isinstance(thing, dict):
        for key, value in thing.items():
            yield from (key, value)
    elif isinstance(thing, list | tuple):
        yield from thing
    elif isinstance(thing, set | frozenset):
        yield from sorted(thing, key=repr)
    elif isinstance(thing, slice):
        yield from (thing.start, thing.stop, thing.step)
    elif isinstance(thing, functools.partial):
        yield from (thing.func, thing.args, thing.keywords)
    elif isinstance(thing, types.MethodType):
        yield from (thing.__self__, thing.__func__)
    elif isinstance(thing, staticmethod | classmethod):
        yield thing.__func__
    elif isinstance(thing, property):
        yield thing.fget
    elif isinstance(thing, types.FunctionType):
        yield from _inside_function(thing)
    elif isinstance(thing, type):
        yield from _inside_class(thing)
    elif hasattr(thing, "__dict__") and not _is_settled(type(thing)):
        yield type(thing)
        yield vars(thing)
    else:
        raise Unknown


def _is_settled(thing: Any) -> bool:
    """Whether a class or function is of a package that is taken to stay as it is."""
    return (getattr(thing, "__module__", None) or "builtins").split(".")[0] in SETTLED


def _inside_class(kind: type) -> Iterator[Any]:
    """The attributes of a class and of those that it inherits from."""
    for base in kind.__mro__:
        if not _is_settled(base):
            for name, value in vars(base).items():
                if name not in UNREAD_OF_CLASSES and not name.startswith("_abc_"):
                    yield from (name, value)


def _inside_function(function: types.FunctionType) -> Iterator[Any]:
    """The code of a function, and what it finds outside of its arguments."""
    yield function.__code__
    if _is_settled(function):
        return
    held = [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
    for cell in function.__closure__ or ():
        try:
            held.append(cell.cell_contents)
        except ValueError:  # a name that is not bound yet
            continue
    names = list(_names(function.__code__))
    held += [function.__globals__[name] for name in names if name in function.__globals__]
    held = [inner for thing in held for inner in _of_packages(thing, names)]
    for thing in held:
        # A copy of the module that has other parameters would still call these.
        at = thing.__self__ if isinstance(thing, types.MethodType) else thing
        if isinstance(at, nn.Module) or (isinstance(at, Tensor) and at.requires_grad):
            raise Unknown
    yield from held


def _of_packages(thing: Any, names: list[str]) -> Iterator[Any]:
    """A thing itself; of a Python module, what a function with these names in its code may read of it."""
    if not isinstance(thing, types.ModuleType):
        yield thing
        return
    package = thing.__name__.split(".")[0]
    if package in UNSETTLED or (package == "numpy" and "random" in names):
        raise Unknown
    yield thing
    if package not in SETTLED:
        for name in names:
            if hasattr(thing, name):
                inner = getattr(thing, name)
                yield from [inner] if inner is thing else _of_packages(inner, names)


def _names(code: types.CodeType) -> Iterator[str]:
    """Names that a function's code looks up, that of functions defined inside it included."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names(constant)

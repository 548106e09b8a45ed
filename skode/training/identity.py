"""Which fit a checkpoint is of: parameters, data and versions, as digests that can be compared."""

from __future__ import annotations

import functools
import hashlib
import types
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.sparse import issparse
from torch import nn

from skode.training.dataframes import to_pandas
from skode.version import __version__

#: Parameters that a fit may go on with others of.
FREE = {"checkpoint", "checkpoint_interval", "verbose"}

#: Longest text of a value in a message.
LONGEST = 80


def identity(estimator: Any, data: Mapping[str, Any]) -> dict[str, list[str]]:
    """Digests and short texts of all that a fit depends on, by name.

    Parameters
    ----------
    estimator : BaseEstimator
        The estimator, before the fit.
    data : dict
        Arguments of ``fit``, by name.
    """
    found = {"skode": __version__, "torch": str(torch.__version__), "estimator": type(estimator).__name__}
    entries = {name: [value, value] for name, value in found.items()}
    for name, value in estimator.get_params(deep=False).items():
        if name not in FREE:
            entries[name] = [digest(value), repr(value)[:LONGEST]]
    for name, value in data.items():
        shape = getattr(value, "shape", None)
        entries[name] = [digest(value), repr(value)[:LONGEST] if shape is None else f"data of shape {tuple(shape)}"]
    if getattr(estimator, "warm_start", False) and hasattr(estimator, "module_"):
        entries["the model that warm_start goes on from"] = [digest(estimator.module_), "another one"]
    return entries


def differences(ours: Mapping[str, list[str]], others: Mapping[str, list[str]]) -> list[str]:
    """The entries that differ, in words: ours, and those of the fit that a checkpoint is of."""
    found = []
    for name in [*ours, *(name for name in others if name not in ours)]:
        own, other = ours.get(name), others.get(name)
        if own is None or other is None or own[0] != other[0]:
            text, begun = (entry[1] if entry is not None else "none" for entry in (own, other))
            found.append(f"{name} is {text}, but it was begun with {begun if begun != text else 'another one'}")
    return found


def digest(value: Any) -> str:
    """SHA-256 of a parameter or of data, the same in every process."""
    total = hashlib.sha256()
    _feed(total, value)
    return total.hexdigest()


def _feed(total: Any, value: Any) -> None:
    """Feed a value's type and content to a digest."""
    value = to_pandas(value) if not isinstance(value, str | bytes | Mapping | nn.Module | list | tuple) else value
    total.update(f"{type(value).__module__}.{type(value).__qualname__}:".encode())
    if isinstance(value, nn.Module):
        _feed(total, value.state_dict())
        _feed(total, repr(value))
    elif isinstance(value, Mapping):
        for name, own in value.items():
            _feed(total, name)
            _feed(total, own)
    elif isinstance(value, pd.DataFrame | pd.Series | pd.Index):
        _feed_frame(total, value)
    elif isinstance(value, np.ndarray):
        _feed_array(total, value)
    elif isinstance(value, torch.Tensor):
        _feed_array(total, value.detach().cpu().numpy())
    elif issparse(value):
        rows = value.tocsr()
        for part in (rows.data, rows.indices, rows.indptr, np.array(rows.shape)):
            _feed_array(total, part)
    elif isinstance(value, np.random.RandomState):
        _feed(total, value.get_state(legacy=False))
    elif isinstance(value, list | tuple):
        total.update(f"{len(value)},".encode())
        for own in value:
            _feed(total, own)
    elif isinstance(value, types.FunctionType):
        _feed_function(total, value)
    elif hasattr(value, "get_params"):
        _feed(total, value.get_params(deep=False))
    elif isinstance(value, functools.partial | types.MethodType):
        _feed(
            total, value.__reduce__()[-1] if isinstance(value, functools.partial) else [value.__func__, value.__self__]
        )
    elif type(value).__repr__ is object.__repr__:  # which tells an address
        _feed(total, getattr(value, "__dict__", None))
    else:
        total.update(f"{value!r},".encode())


def _feed_frame(total: Any, frame: Any) -> None:
    if isinstance(frame, pd.DataFrame):
        for name, column in frame.items():
            total.update(f"{name!r} {column.dtype},".encode())
    total.update(pd.util.hash_pandas_object(frame).to_numpy().tobytes())


def _feed_array(total: Any, array: np.ndarray) -> None:
    total.update(f"{array.dtype} {array.shape},".encode())
    if array.dtype == object:
        array = pd.util.hash_array(array.ravel())
    total.update(np.ascontiguousarray(array).tobytes())


def _feed_function(total: Any, function: types.FunctionType) -> None:
    """A function by its code, its defaults and what it closes over, as far as these are plain values."""
    _feed_code(total, function.__code__)
    cells = [cell.cell_contents for cell in function.__closure__ or ()]
    plain = [value for value in cells if isinstance(value, int | float | str | np.ndarray | torch.Tensor)]
    _feed(total, [list(function.__defaults__ or ()), plain])


def _feed_code(total: Any, code: types.CodeType) -> None:
    total.update(code.co_code)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            _feed_code(total, constant)
        else:
            total.update(f"{constant!r},".encode())
    total.update(repr(code.co_names).encode())

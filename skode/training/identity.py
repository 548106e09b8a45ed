"""Which fit a checkpoint is of: parameters, data and versions, as digests that can be compared."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from skode.training.digests import digest, without_address
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

    Returns
    -------
    dict of str to list of str
        Digest and text of each.
    """
    found = {"skode": __version__, "torch": str(torch.__version__), "estimator": type(estimator).__name__}
    entries = {name: [value, value] for name, value in found.items()}
    for name, value in estimator.get_params(deep=False).items():
        if name not in FREE:
            entries[name] = [digest(value), _text(value)]
    for name, value in data.items():
        entries[name] = [digest(value), _text(value) if getattr(value, "shape", None) is None else _summary(value)]
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


def _text(value: Any) -> str:
    return without_address(repr(value))[:LONGEST]


def _summary(value: Any) -> str:
    """Kind, shape and dtypes of data."""
    dtypes = f" and dtype {value.dtype}" if hasattr(value, "dtype") else ""
    return f"{type(value).__name__} of shape {tuple(value.shape)}{dtypes}"

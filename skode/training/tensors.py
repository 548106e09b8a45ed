"""The one place where numpy becomes torch and back: dtypes, devices and seeds."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from scipy.sparse import issparse
from sklearn.preprocessing import StandardScaler
from torch import Tensor


def resolve_device(device: str) -> torch.device:
    """The device of a name; ``"auto"`` is a CUDA device where there is one.

    Raises
    ------
    ValueError
        Where torch does not know the name, or the device is not there.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
        torch.empty(0, device=resolved)
        if resolved.type == "meta":
            raise RuntimeError("its tensors hold no numbers")
    except (RuntimeError, AssertionError) as error:
        there = ", ".join(repr(name) for name in usable_devices())
        raise ValueError(
            f"device={device!r} can't be used here: {str(error).splitlines()[0]}. There are {there} and 'auto'."
        ) from error
    return resolved


def usable_devices() -> list[str]:
    """Names of the devices that are here."""
    return ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]


def resolve_dtype(dtype: str | None, X: Any, device: torch.device) -> torch.dtype:
    """The dtype of computations: ``dtype``, else X's own on the CPU (as ``MLPClassifier``) and float32 elsewhere.

    Where convolutions are to be in bfloat16, all else is in float32.
    """
    if dtype is not None:
        return {"bfloat16": torch.float32, "float32": torch.float32, "float64": torch.float64}[dtype]
    if device.type != "cpu":
        return torch.float32
    return torch.float32 if getattr(X, "dtype", None) == np.float32 else torch.float64


def to_tensor(array: np.ndarray, dtype: torch.dtype, device: torch.device) -> Tensor:
    """A tensor that shares no memory with the array (which may be read-only)."""
    return torch.tensor(np.asarray(array), dtype=dtype, device=device)


def fitted_scaler(X: Any, weights: np.ndarray | None = None, *, what: str = "X") -> StandardScaler:
    """A scaler fitted to X, which may be sparse; ValueError, which calls it ``what``, where its spread overflows."""
    return sound_scaler(fitted_on(StandardScaler(), X, weights), by_weights=weights is not None, what=what)


def sound_scaler(scaler: StandardScaler, *, by_weights: bool = True, what: str = "X") -> StandardScaler:
    """A fitted scaler as it is; ValueError, which calls the data ``what``, where its spread overflows."""
    if not np.isfinite(scaler.scale_).all():
        or_weights = " (or the weights)" if by_weights else ""
        raise ValueError(f"{what}{or_weights} holds values too large to standardise in its dtype; rescale it.")
    return scaler


def fitted_on(scaler: StandardScaler, X: Any, weights: np.ndarray | None) -> StandardScaler:
    """A scaler that has learned from X too, which may be sparse; what it transforms has to be dense."""
    # Of sparse features it learns the means as well, but wants to be told that these are not subtracted.
    scaler.set_params(with_mean=not issparse(X))
    nothing = (np.zeros(X.shape[1]), np.zeros(X.shape[1]), np.ones(X.shape[1]))
    before = (scaler.mean_, scaler.var_, scaler.scale_) if hasattr(scaler, "mean_") else nothing
    with np.errstate(over="ignore", invalid="ignore"):
        scaler.partial_fit(X, sample_weight=weights)
    if not issparse(X) and np.isnan(scaler.var_).any():
        # It divides by the number of values, which is 0 for a column that is missing in all of these rows.
        missing = np.isnan(X).all(axis=0)
        for learned, known in zip((scaler.mean_, scaler.var_, scaler.scale_), before, strict=True):
            learned[missing] = known[missing]
    return scaler.set_params(with_mean=True)


def standardised(scaler: StandardScaler, X: np.ndarray) -> np.ndarray:
    """X by a fitted scaler; ValueError where that overflows."""
    with np.errstate(over="ignore", invalid="ignore"):
        scaled = scaler.transform(X)
    if not np.isfinite(scaled).all():
        raise ValueError("X holds values too large to standardise in its dtype; rescale it.")
    return scaled


def to_numpy(tensor: Tensor) -> np.ndarray:
    """An array on the CPU, without a graph."""
    return tensor.detach().cpu().numpy()


def new_generator(rng: np.random.RandomState, device: torch.device | str = "cpu") -> torch.Generator:
    """A torch generator seeded from a numpy one; torch's global state is never touched.

    Numbers that are drawn on a device differ from those drawn on another.
    """
    return torch.Generator(device).manual_seed(int(rng.randint(np.iinfo(np.int32).max)))


def as_index(rows: np.ndarray | Tensor, device: torch.device) -> Tensor:
    """Positions of samples as a tensor on the device of what they index."""
    return rows if isinstance(rows, Tensor) else torch.from_numpy(rows).to(device)


def check_unit_times(t: Any) -> np.ndarray:
    """Times along the depth of a flow, as floats; ValueError where they don't rise strictly from 0 or later to 1."""
    try:
        times = np.asarray(t, dtype=np.float64)
    except (TypeError, ValueError):
        times = np.empty(0)
    if times.ndim != 1 or not len(times) or not (np.diff(times) > 0).all() or not 0 <= times[0] <= times[-1] <= 1:
        raise ValueError(f"t must be depths from 0 to 1, one at least, strictly increasing; got {t!r}.")
    return times

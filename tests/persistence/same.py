"""Whether two objects are the same to the bit, however they are nested."""

import numpy as np
import pandas as pd
import torch


def differences(a, b, where="", seen=None):
    """Where two objects differ in type, value or memory layout; empty if nowhere."""
    seen = {} if seen is None else seen
    if type(a) is not type(b):
        return [f"{where}: {type(a).__name__} and {type(b).__name__}"]
    if id(a) in seen:
        return [] if seen[id(a)] is b else [f"{where}: no longer one object"]
    if isinstance(a, torch.Tensor):
        same = a.dtype == b.dtype and a.shape == b.shape and a.requires_grad == b.requires_grad
        same = same and (a.stride() == b.stride() or 0 in a.stride() or a.numel() < 2)
        return [] if same and _bits(a) == _bits(b) else [f"{where}: tensors"]
    if isinstance(a, np.ndarray):
        if a.dtype == object:
            return differences([a.shape, *a.ravel()], [b.shape, *b.ravel()], where, seen)
        same = a.dtype == b.dtype and a.shape == b.shape
        same = same and (a.ndim < 2 or a.flags.f_contiguous == b.flags.f_contiguous)
        return [] if same and a.tobytes() == b.tobytes() else [f"{where}: arrays"]
    if isinstance(a, np.generic | float | complex):
        return [] if np.asarray(a).tobytes() == np.asarray(b).tobytes() else [f"{where}: {a!r} and {b!r}"]
    if isinstance(a, pd.Index | pd.Series | pd.DataFrame):
        check = {pd.Series: pd.testing.assert_series_equal, pd.DataFrame: pd.testing.assert_frame_equal}
        check.get(type(a), lambda a, b: pd.testing.assert_index_equal(a, b, exact=True))(a, b)
        return []
    if isinstance(a, pd.api.extensions.ExtensionArray):
        pd.testing.assert_extension_array_equal(a, b)
        return []
    parts = _parts(a), _parts(b)
    if parts[0] is None or parts[1] is None:
        return [] if a is b or a == b or a is pd.NaT else [f"{where}: {a!r} and {b!r}"]
    seen[id(a)] = b
    seen.setdefault("alive", []).append(a)
    if parts[0].keys() != parts[1].keys():
        return [f"{where}: {parts[0].keys() ^ parts[1].keys()}"]
    return [found for key in parts[0] for found in differences(parts[0][key], parts[1][key], f"{where}.{key}", seen)]


def _bits(tensor):
    numbers = torch.empty(tensor.numel(), dtype=tensor.dtype).copy_(tensor.detach().flatten())
    return numbers.view(torch.uint8).numpy().tobytes()


def _parts(x):
    """Parts of an object by name; None if it has none."""
    if isinstance(x, dict):
        return {**x, "its order": list(x)} if list(x) != ["its order"] else None
    if isinstance(x, list | tuple):
        return dict(enumerate(x)) | {"length": len(x)}
    if isinstance(x, torch.Generator):
        return {"state": x.get_state()}
    if isinstance(x, np.random.RandomState):
        return {"state": x.get_state()}
    if hasattr(x, "_state_in_files"):
        return x._state_in_files()
    state = None if isinstance(x, type | pd.offsets.BaseOffset) else x.__getstate__()
    if state is None and type(x).__eq__ is object.__eq__ and not callable(x):
        return {}
    return state if isinstance(state, dict) else None

"""Arrays of other libraries than NumPy: taken everywhere, answered in kind where scikit-learn dispatches on them."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import torch
from sklearn._config import get_config
from sklearn.externals.array_api_compat import is_array_api_obj
from sklearn.externals.array_api_compat import numpy as numpy_namespace
from sklearn.utils._array_api import get_namespace_and_device, move_to
from torch import Tensor

from skode.training.company import in_company_answer
from skode.training.partitions import for_fit, gathered
from skode.training.snapshot import of_one_model

Method = TypeVar("Method", bound=Callable[..., Any])

#: Methods that go through data as often as need be, and may read them a block at a time.
FITS = {"fit", "fit_predict"}

#: Dtypes that NumPy has as well.
NUMPY_FLOATS = (torch.float16, torch.float32, torch.float64)


def array_api(method: Method) -> Method:
    """Let an answer of an estimator, written for NumPy, take tensors in place of arrays; it is that of one model.

    The method reads all attributes of one fit, even where another ends meanwhile in another thread, and must not set
    any; see :func:`skode.training.snapshot.of_one_model`. The rest is as of :func:`array_api_fit`.
    """
    return array_api_fit(in_company_answer(of_one_model(method)))


def array_api_fit(method: Method) -> Method:
    """Let a method of an estimator that fits it, written for NumPy, take tensors in place of arrays.

    Where ``sklearn.set_config(array_api_dispatch=True)`` holds it also takes arrays of any other library that
    scikit-learn knows, and arrays that it returns are of the library, and on the device, of its first argument.
    Labels that these can't hold, such as strings, stay in NumPy.

    Raises
    ------
    ValueError
        Where a tensor requires grad, as no gradient flows through the method, or is sparse.
    """
    names = list(inspect.signature(method).parameters)[1:]

    @functools.wraps(method)
    def dispatching(self: Any, *args: Any, **kwargs: Any) -> Any:
        who = type(self).__name__
        fits = method.__name__ in FITS
        values = for_fit(self, *args, *kwargs.values()) if fits else gathered(*args, *kwargs.values())
        args, kwargs = values[: len(args)], dict(zip(kwargs, values[len(args) :], strict=True))
        home = _home(args[0] if args else kwargs.get(names[0]))
        positional = [as_numpy(value, name, who) for name, value in zip(names, args, strict=False)]
        named = {name: as_numpy(value, name, who) for name, value in kwargs.items()}
        answer = method(self, *positional, *args[len(names) :], **named)
        if home is None:
            return answer
        return tuple(_moved(part, *home) for part in answer) if isinstance(answer, tuple) else _moved(answer, *home)

    return dispatching  # type: ignore[return-value]


def as_numpy(array: Any, name: str, who: str) -> Any:
    """A tensor, or an array of another library where scikit-learn dispatches on it, in NumPy; the rest as it is.

    Parameters
    ----------
    array : Any
        An argument.
    name, who : str
        Its name, and that of the estimator, for the message of an error.
    """
    if isinstance(array, Tensor):
        return _tensor_as_numpy(array, name, who)
    if _home(array) is None:
        return array
    return move_to(array, xp=numpy_namespace, device="cpu")


def _tensor_as_numpy(tensor: Tensor, name: str, who: str) -> np.ndarray:
    if tensor.requires_grad:
        raise ValueError(
            f"{name} is a tensor that requires grad, but {who} works in NumPy, through which no gradient flows: pass "
            f"{name}.detach(). To differentiate, call the fitted torch module, module_."
        )
    if tensor.layout != torch.strided or tensor.is_nested:
        raise ValueError(
            f"{name} is a tensor of the layout {tensor.layout}, but {who} takes dense tensors: pass {name}.to_dense()."
        )
    if tensor.is_floating_point() and tensor.dtype not in NUMPY_FLOATS:
        tensor = tensor.float()
    return tensor.numpy(force=True)


def _home(array: Any) -> tuple[Any, Any] | None:
    """The namespace and the device of an array where scikit-learn dispatches on it; None for NumPy's."""
    if not get_config()["array_api_dispatch"] or isinstance(array, np.ndarray) or not is_array_api_obj(array):
        return None
    xp, _, device = get_namespace_and_device(array)
    return xp, device


def _moved(answer: Any, xp: Any, device: Any) -> Any:
    if not isinstance(answer, np.ndarray) or answer.dtype.kind not in "biuf":
        return answer
    return move_to(answer, xp=xp, device=device)

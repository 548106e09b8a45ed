"""A fit that fails leaves the estimator as it was."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from skode.solvers import free_idle_memory
from skode.training.failures import is_want_of_memory, reason_of
from skode.training.tensors import resolve_device

#: Parameters that memory grows with.
SIZES = (
    "batch_size",
    "hidden_layer_sizes",
    "state_size",
    "augment_dim",
    "latent_size",
    "encoder_size",
    "n_samples",
    "n_draws",
)

#: Attributes by which scikit-learn tears down the callbacks of a fit, also of one that fails.
OF_CALLBACKS = ("_callback_fit_ctx", "_skl_callbacks_to_teardown")


@contextmanager
def rollback(estimator: Any, changed_in_place: Sequence[str] = ()) -> Iterator[None]:
    """Restore all attributes of an estimator where the block ends by an exception, of whatever kind.

    Parameters
    ----------
    estimator : NeuralODEEstimator
        The estimator.
    changed_in_place : sequence of str, default=()
        Names of attributes whose values the block changes rather than replaces. They are copied beforehand.

    Raises
    ------
    MemoryError
        If memory ran out, with the parameters of the estimator that it grows with.
    """
    before = dict(vars(estimator))
    copies = {name: copy.deepcopy(before[name]) for name in changed_in_place if name in before}
    try:
        yield
    except BaseException as error:
        callbacks = {name: value for name, value in vars(estimator).items() if name in OF_CALLBACKS}
        estimator.__dict__.clear()
        estimator.__dict__.update(before | copies | callbacks)
        if not is_want_of_memory(error):
            raise
        error.__traceback__ = None  # whose frames hold on to what there was no room for
        free_idle_memory()
        torch.cuda.empty_cache()  # of blocks that are too small for what comes next
        raise MemoryError(_advice(estimator, error)) from error


def _advice(estimator: Any, error: BaseException) -> str:
    device = resolve_device(estimator.device)
    sizes = ", ".join(f"{name}={getattr(estimator, name)!r}" for name in SIZES if hasattr(estimator, name))
    elsewhere = ", or set device='cpu'" if device.type != "cpu" else ""
    return (
        f"The memory of {device} is too small for this fit: lower one of {sizes}{elsewhere}. The estimator is as it "
        f"was before. ({reason_of(error)})"
    )

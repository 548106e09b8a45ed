"""A fit works on a draft of the estimator, which stays as it was until the fit has ended well."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, TypeVar

import torch
from sklearn.base import BaseEstimator

from skode.solvers import free_idle_memory
from skode.training.checkpoint import Checkpoint
from skode.training.company import in_company
from skode.training.failures import is_want_of_memory, reason_of
from skode.training.snapshot import snapshot
from skode.training.tensors import resolve_device

Estimator = TypeVar("Estimator", bound=BaseEstimator)

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
def draft(
    estimator: Estimator,
    changed_in_place: Sequence[str] = (),
    data: Mapping[str, Any] | None = None,
    *,
    shared: bool = False,
    partial: bool = False,
) -> Iterator[Estimator]:
    """Fit a copy of an estimator, whose attributes become the estimator's where the block ends well.

    Until then the estimator answers as before, in other threads too; where the block ends by an exception, of whatever
    kind, it does so from then on as well. The change is that of one reference, so that there is no moment with some
    attributes of each.

    Parameters
    ----------
    estimator : BaseEstimator
        The estimator.
    changed_in_place : sequence of str, default=()
        Names of attributes whose values the block changes rather than replaces. The draft has copies of them.
    data : dict or None, default=None
        Arguments of the fit, by name, if it may have a checkpoint or be shared.
    shared : bool, default=False
        Whether several processes may share the fit.
    partial : bool, default=False
        Whether it is one call of ``partial_fit``, which has no checkpoint.

    Yields
    ------
    BaseEstimator
        The draft, with the journal of the fit in ``_checkpoint``.

    Raises
    ------
    MemoryError
        If memory ran out, with the parameters of the estimator that it grows with.
    """
    new = snapshot(estimator)
    before = dict(vars(new))
    try:
        with in_company(estimator, data, shared=shared, goes_on=partial) as processes:
            checkpoint = Checkpoint() if data is None or partial else Checkpoint.of(estimator, data)
            vars(new)["_checkpoint"] = checkpoint
            for name in changed_in_place:
                if name in before:
                    vars(new)[name] = copy.deepcopy(before[name])
            with checkpoint.interruption.listening() if checkpoint.path or processes else nullcontext():
                if processes is not None:
                    processes.interruption = checkpoint.interruption
                yield new
                if processes is not None:  # whose processors may round differently
                    processes.take_from_first([*new.module_.parameters(), *new.module_.buffers()])
            checkpoint.end()
        del vars(new)["_checkpoint"]
        # With what others have set on the estimator meanwhile, such as its parameters.
        meanwhile = {name: value for name, value in vars(estimator).items() if before.get(name, new) is not value}
        estimator.__dict__ = vars(new) | meanwhile
    except BaseException as error:
        if not is_want_of_memory(error):
            raise
        error.__traceback__ = None  # whose frames hold on to what there was no room for
        free_idle_memory()
        torch.cuda.empty_cache()  # of blocks that are too small for what comes next
        raise MemoryError(_advice(estimator, error)) from error
    finally:
        vars(estimator).update({name: value for name, value in vars(new).items() if name in OF_CALLBACKS})


def _advice(estimator: Any, error: BaseException) -> str:
    device = resolve_device(getattr(estimator, "device", "cpu"))
    sizes = ", ".join(f"{name}={getattr(estimator, name)!r}" for name in SIZES if hasattr(estimator, name))
    elsewhere = ", or set device='cpu'" if device.type != "cpu" else ""
    return (
        f"The memory of {device} is too small for this fit: lower one of {sizes}{elsewhere}. The estimator is as it "
        f"was before. ({reason_of(error)})"
    )

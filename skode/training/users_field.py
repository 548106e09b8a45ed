"""Training with a vector field of the user's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

from skode.solvers import SolverError


@contextmanager
def users_field(field: Any, rng: np.random.RandomState, shape: str) -> Iterator[None]:
    """Seed the random numbers of a user's field, and explain its errors; without effect on built-in fields.

    Parameters
    ----------
    field : nn.Module, str or None
        The estimator's parameter; a module is a user's field.
    rng : RandomState
        Source of the seed of torch's global generator, whose state is restored at the end.
    shape : str
        Shape of the states, as error messages write it.
    """
    if not isinstance(field, nn.Module):
        yield
        return
    seed = int(rng.randint(np.iinfo(np.int32).max))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            yield
        except (TypeError, ValueError, RuntimeError, IndexError) as error:
            if not isinstance(error, SolverError):
                # In place of the solver's own note, which speaks of func and of the modules around the field.
                error.__notes__ = [
                    f"field={type(field).__name__}(...) is called as field(t, z) with a time t and states z of shape "
                    f"{shape}, and must return dz/dt of that shape and z's dtype, without changing z in place."
                ]
            raise

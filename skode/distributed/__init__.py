"""Fits on several processes, or machines, at once.

Under ``torchrun``, or wherever a process group of torch.distributed has been initialised, ``fit`` of the estimators
that are trained by gradients is one fit of all processes: each takes its share of every batch.
"""

from skode.distributed.errors import ProcessError
from skode.distributed.scope import alone, together

__all__ = ["ProcessError", "alone", "together"]

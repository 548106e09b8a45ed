"""Errors that come from another process."""

from __future__ import annotations

import math

from skode.solvers import SolverError


class ProcessError(RuntimeError):
    """A fit of several processes that can't go on, because one of them has ended, failed or does something else."""


class SolveFailedElsewhereError(SolverError):
    """A solve that failed in another process, in which this one has a share."""

    @classmethod
    def new(cls) -> SolveFailedElsewhereError:
        """The error as roll calls tell it."""
        return cls("A solve failed in another process", time=math.nan, step_size=math.nan, advice="See its message.")

    def __str__(self) -> str:
        return f"{self.reason}, whose message says why."

"""Errors of a solve, as types: each names the time, the reason and a remedy."""

from __future__ import annotations

import math


class SolverError(RuntimeError):
    """A solve that could not be finished.

    Parameters
    ----------
    reason : str
        The reason.
    time : float
        The time reached, in the units of ``t``.
    advice : str
        A remedy to try.
    step_size : float, default=nan
        The signed size of the step that failed, in the units of ``t``; NaN where no single step did.
    sample : int, default=None
        The sample (index into the first dimension of the state) where it happened, if it is known.

    Attributes
    ----------
    reason, time, step_size, advice, sample
        As given.
    """

    def __init__(
        self, reason: str, *, time: float, advice: str, step_size: float = math.nan, sample: int | None = None
    ) -> None:
        where = f" in sample {sample}" if sample is not None else ""
        step = "" if math.isnan(step_size) else f" with step size {step_size:.3g}"
        super().__init__(f"{reason}{where} at t={time:.6g}{step}. {advice}")
        self.reason = reason
        self.time = time
        self.step_size = step_size
        self.advice = advice
        self.sample = sample

    def __reduce__(self) -> tuple:
        """Survive pickling, as joblib sends errors between processes."""
        return _rebuild, (type(self), self.reason, self.time, self.step_size, self.advice, self.sample)


def _rebuild(
    cls: type[SolverError], reason: str, time: float, step_size: float, advice: str, sample: int | None
) -> SolverError:
    return cls(reason, time=time, step_size=step_size, advice=advice, sample=sample)


class NonFiniteDerivativeError(SolverError):
    """``func(t, y)`` returned NaN or infinity where the solution already is, or however small the step."""


class StepSizeUnderflowError(SolverError):
    """The error test asks for steps too small to advance the time."""


class MaxStepsError(SolverError):
    """The solve used up ``max_steps`` before the end of its time span."""


class ConvergenceError(SolverError):
    """The equations of an implicit method's stages could not be solved at a fixed step size."""


def newton_failed(t: float, h: float, sample: int | None = None) -> ConvergenceError:
    """The error of an implicit step that is not solved and may not be made smaller."""
    return ConvergenceError(
        "Newton's method did not solve the equations of the stages",
        time=t,
        step_size=h,
        sample=sample,
        advice="Take smaller steps (min_step or step_size), or an adaptive method for stiff problems (kvaerno5).",
    )

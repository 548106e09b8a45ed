"""Failures of solves, told in terms of what an estimator's user can change."""

from __future__ import annotations

from skode.solvers import (
    ConvergenceError,
    MaxStepsError,
    NonFiniteDerivativeError,
    SolverError,
    StepSizeUnderflowError,
)

EASIER = "lower learning_rate_init or raise alpha and fit again, for easier dynamics"

ADVICE: dict[type[SolverError], str] = {
    MaxStepsError: "Loosen rtol and atol (float32 can't meet 1e-6), set method='kvaerno5' (for stiff dynamics), or "
    f"{EASIER}.",
    NonFiniteDerivativeError: "See that X has no extreme values and that field, if it is yours, is finite; or "
    f"{EASIER}.",
    StepSizeUnderflowError: f"Loosen rtol and atol or set dtype='float64'; or {EASIER}.",
    ConvergenceError: "Lower step_size, or set method='kvaerno5', which chooses its own steps.",
}

COARSER = "Raise step_size."


def in_terms_of_parameters(error: SolverError, *, adaptive: bool) -> SolverError:
    """The same failure with advice on an estimator's parameters, which has no ``max_steps`` and no ``func``.

    Parameters
    ----------
    error : SolverError
        What the solver raised.
    adaptive : bool
        Whether the method chooses its own steps.

    Returns
    -------
    SolverError
        An error of the same type.
    """
    advice = ADVICE.get(type(error), error.advice)
    if not adaptive and isinstance(error, MaxStepsError):
        advice = COARSER
    reason = error.reason.replace("max_steps=", "").replace("func(t, y)", "The vector field")
    return type(error)(reason, time=error.time, step_size=error.step_size, advice=advice, sample=error.sample)

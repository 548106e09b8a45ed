"""The error test on arrays."""

from __future__ import annotations

import math

import numpy as np

from skode.solvers.fused.memory import StepMemory
from skode.solvers.tolerances import SharedNorm, Tolerances

# Looked up once: names of a module's own are found faster.
dot, multiply, absolute, maximum, add, divide = np.dot, np.multiply, np.absolute, np.maximum, np.add, np.divide


class ArrayTolerances:
    """The test of :class:`skode.solvers.tolerances.Tolerances` in the root mean square, on arrays.

    Parameters
    ----------
    tolerances : Tolerances
        Of all elements alike.
    """

    def __init__(self, tolerances: Tolerances) -> None:
        self.rtol, self.atol = float(tolerances.rtol), float(tolerances.atol)
        self.shared = tolerances.norm if isinstance(tolerances.norm, SharedNorm) else None

    def allowed(self, y: np.ndarray) -> np.ndarray:
        """The error allowed at a state, element by element; infinite where there is none."""
        allowed = np.abs(y)
        allowed *= self.rtol
        allowed += self.atol
        if self.atol == 0.0:
            allowed[allowed == 0.0] = np.inf  # over such a component nothing is measured
        return allowed

    def over(self, x: np.ndarray, allowed: np.ndarray) -> np.ndarray:
        """``x`` in units of the allowed error."""
        return x / allowed

    def size(self, x: np.ndarray) -> float:
        """The root mean square."""
        flat = x.reshape(-1)
        return self._root_mean(float(np.dot(flat, flat)), x.size)

    def error_ratio(self, step: StepMemory, h: float, y_next: np.ndarray) -> float:
        """How many times the allowed error a step of size ``h`` made; moves ``size_next`` along."""
        error, scale, size_next = step.error, step.scale, step.size_next
        multiply(step.coefficients.e, h, step.h_e)
        dot(step.h_e, step.derivatives, error)
        absolute(y_next, size_next)
        maximum(step.size, size_next, out=scale)
        multiply(scale, self.rtol, scale)
        add(scale, self.atol, scale)
        if self.atol == 0.0:
            # With a purely relative test, a component that is and stays zero makes no error: 0 / tiny, not 0 / 0.
            maximum(scale, np.finfo(scale.dtype).tiny, out=scale)
        divide(error, scale, scale)
        return self._root_mean(float(dot(scale, scale)), scale.size)

    def _root_mean(self, squares: float, n: int) -> float:
        return math.sqrt(squares / n) if self.shared is None else self.shared.of(squares, n)

"""Complex states, solved as real ones whose last dimension holds real and imaginary parts.

So every method and every adjoint serves them, and gradients follow torch's convention: that of a real loss with respect
to ``z = x + iy`` is ``dL/dx + i dL/dy``. The error test takes the moduli of complex numbers, as SciPy's does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from skode.solvers.dense_output import DenseOutput
from skode.solvers.fields.function import check_value
from skode.solvers.fields.samples import take_samples
from skode.solvers.solution import Solution
from skode.solvers.tolerances import Norm, NormOfModuli


def as_complex(y: Tensor) -> Tensor:
    """States of shape (..., 2) as complex ones of shape (...)."""
    return torch.view_as_complex(y.contiguous())


def real_part_wise(y: Tensor) -> Tensor:
    """Complex states of shape (...) as real ones of shape (..., 2)."""
    return torch.view_as_real(y.resolve_conj())


@dataclass(eq=False)
class RealField:
    """A vector field over complex states as one over their real and imaginary parts.

    Attributes
    ----------
    func : callable
        ``func(t, y)`` over complex states.
    """

    func: Callable[[Tensor, Tensor], Tensor]

    def take(self, rows: Tensor) -> RealField:
        """The field on some samples."""
        return RealField(take_samples(self.func, rows))

    def __call__(self, t: Tensor, y: Tensor) -> Tensor:
        state = self.complex_state(y)
        value = self.func(_time(t), state)
        check_value(value, state)
        return real_part_wise(value)

    @staticmethod
    def complex_state(y: Tensor) -> Tensor:
        """The state that ``func`` receives."""
        return as_complex(y)


@dataclass(frozen=True)
class RealEvent:
    """An event function over complex states as one over their real and imaginary parts.

    Attributes
    ----------
    func : callable
        ``event(t, y)`` over complex states, real-valued.
    name : str
        How messages name it.
    """

    func: Callable[[Tensor, Tensor], Any]
    name: str = "An event"

    def take(self, rows: Tensor) -> RealEvent:
        """The event on some samples."""
        return RealEvent(take_samples(self.func, rows), self.name)

    def __call__(self, t: Tensor, y: Tensor) -> Any:
        value = self.func(_time(t), as_complex(y))
        if isinstance(value, Tensor) and value.is_complex():
            raise TypeError(
                f"{self.name} must return real numbers, whose sign changes are found; got {value.dtype}: take the "
                "real or imaginary part, or the modulus."
            )
        return value


def _time(t: Tensor) -> Tensor:
    """Times as functions over complex states receive them: a column of them has one dimension less."""
    return t.squeeze(-1) if t.ndim else t


def real_norm(norm: str | Norm, y0: Tensor) -> Any:
    """The norm for the error test of complex states like ``y0``; a callable one receives moduli, in their shape."""
    if callable(norm):
        return NormOfModuli(lambda x: norm(x[..., ::2].squeeze(-1)))
    # A state of one dimension has no samples, though its real and imaginary parts are a matrix.
    return NormOfModuli("rms" if norm == "mixed" and y0.ndim < 2 else norm)


def real_options(options: Mapping[str, Any], func: Any, y0: Tensor) -> dict[str, Any]:
    """The options of :func:`skode.solvers.odeint` over real and imaginary parts, from those over complex states."""
    chosen = {**options, "norm": real_norm(options.get("norm", "rms"), y0)}
    constructor = options.get("grid_constructor")
    if constructor is not None:
        chosen["grid_constructor"] = lambda _, __, t: constructor(func, y0, t)
    return chosen


def complex_solution(solution: Solution) -> Solution:
    """A solution over real and imaginary parts as that over complex states."""
    return replace(
        solution,
        y=as_complex(solution.y),
        sol=None if solution.sol is None else ComplexDenseOutput(solution.sol),
        y_events=None if solution.y_events is None else [as_complex(y) for y in solution.y_events],
    )


class ComplexDenseOutput(DenseOutput):
    """Dense output of complex states; see :class:`skode.solvers.dense_output.DenseOutput`.

    Parameters
    ----------
    parts : DenseOutput
        That of their real and imaginary parts.
    """

    def __init__(self, parts: DenseOutput) -> None:
        self.parts = parts
        self.t0, self.t1 = parts.t0, parts.t1

    def __call__(self, t: Any) -> Tensor:
        return as_complex(self.parts(t))

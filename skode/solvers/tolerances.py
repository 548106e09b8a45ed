"""The error test: norms and tolerances."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from skode.solvers.transforms import is_transformed, untransformed

Norm = Callable[[Tensor], Tensor]


def all_finite(x: Tensor | np.ndarray) -> bool:
    """Whether no element is NaN or infinite."""
    if isinstance(x, np.ndarray):
        return math.isfinite(x.sum()) or bool(np.isfinite(x).all())
    # A sum costs a tenth of torch.isfinite; it is not finite if an element isn't, and else only where it overflows.
    try:
        return math.isfinite(x.sum().item()) or bool(torch.isfinite(x).all())
    except RuntimeError:  # states that vmap maps over have no one number
        if not is_transformed(x):
            raise
        return all_finite(untransformed(x))


def rms_norm(x: Tensor) -> Tensor:
    """Root mean square of all elements, the norm of Hairer, Norsett and Wanner I (eq. II.4.11)."""
    flat = x.reshape(-1)
    return torch.sqrt(torch.dot(flat, flat) / max(x.numel(), 1))


def max_norm(x: Tensor) -> Tensor:
    """The largest absolute value: no element may exceed its tolerance."""
    return x.abs().amax() if x.numel() else x.new_zeros(())


def mixed_norm(x: Tensor) -> Tensor:
    """Root mean square within each sample (each row of a state with two dimensions or more), the largest over them."""
    if x.ndim < 2 or not x.numel():
        return rms_norm(x)
    return torch.linalg.vector_norm(x.flatten(1), dim=1).amax() / math.sqrt(x[0].numel())


class SharedNorm:
    """The root mean square over a state of which other processes have further samples.

    Parameters
    ----------
    total : callable
        Takes a sum of squares and a number of elements, and returns their sums over all processes.
    """

    def __init__(self, total: Callable[[float, int], tuple[float, float]]) -> None:
        self.total = total

    def of(self, squares: float, n: int) -> float:
        """The norm, from this process's sum of squares and number of elements."""
        squares, n_all = self.total(squares, n)
        return math.sqrt(squares / max(n_all, 1.0)) if squares >= 0.0 else math.nan

    def __call__(self, x: Tensor) -> float:
        flat = x.detach().reshape(-1)
        return self.of(torch.dot(flat, flat).item(), flat.numel())


NORMS: dict[str, Norm] = {"rms": rms_norm, "max": max_norm, "mixed": mixed_norm}


@dataclass(frozen=True)
class Tolerances:
    """The error that a step may make: ``norm(error / (atol + rtol |y|)) <= 1``.

    Attributes
    ----------
    rtol, atol : float, or Tensor of the state's shape and dtype
        Relative and absolute tolerance, of all elements or of each.
    norm : callable
        Makes one number of the elements' errors.
    """

    rtol: float | Tensor
    atol: float | Tensor
    norm: Norm = rms_norm
    # Whether an element that is zero is allowed no error at all.
    purely_relative: bool = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "purely_relative", _least(self.atol) == 0.0)

    @property
    def of_elements(self) -> bool:
        """Whether elements of the state have tolerances of their own."""
        return isinstance(self.rtol, Tensor) or isinstance(self.atol, Tensor)

    def tightest(self) -> Tolerances:
        """The smallest of the elements' tolerances, for all."""
        return Tolerances(_least(self.rtol), _least(self.atol), self.norm)

    def error_ratio(self, error: Tensor, y: Tensor, y_next: Tensor) -> float:
        """How many times the allowed error a step made; not finite where the step left the field's domain."""
        return self.size(self.in_allowed_errors(error, y, y_next))

    def size(self, x: Tensor) -> float:
        """The norm of a state as a number."""
        if self.norm is rms_norm:  # the same in fewer operations
            flat = x.reshape(-1)
            return math.sqrt(torch.dot(flat, flat).item() / max(flat.numel(), 1))
        size = self.norm(x)
        if isinstance(size, Tensor) and size.numel() != 1:
            raise ValueError(f"norm must return one number, got shape {tuple(size.shape)}.")
        return float(size)

    def in_allowed_errors(self, error: Tensor, y: Tensor, y_next: Tensor) -> Tensor:
        """The error of a step, element by element, in units of the allowed one."""
        scale = torch.maximum(y.abs(), y_next.abs()).mul_(self.rtol).add_(self.atol)
        if self.purely_relative:
            # With a purely relative test, a component that is and stays zero makes no error: 0 / tiny, not 0 / 0.
            scale.clamp_min_(torch.finfo(scale.dtype).tiny)
        return torch.div(error, scale, out=scale)

    def mapped(self) -> MappedTolerances:
        """The same test of states that ``vmap`` maps over."""
        return MappedTolerances(self.rtol, self.atol, self.norm)

    def allowed(self, y: Tensor) -> Tensor:
        """The error allowed at a state, element by element."""
        return y.abs().mul_(self.rtol).add_(self.atol)

    def over(self, x: Tensor, allowed: Tensor) -> Tensor:
        """``x`` in units of the allowed error; 0 for components that are allowed none."""
        return torch.where(allowed > 0.0, x / allowed, 0.0) if self.purely_relative else x / allowed


def _least(tolerance: float | Tensor) -> float:
    return float(tolerance.min()) if isinstance(tolerance, Tensor) else tolerance


@dataclass(frozen=True)
class NormOfModuli:
    """A norm for states whose neighbouring elements are real and imaginary parts: it is that of the moduli.

    Attributes
    ----------
    norm : str or callable
        As :func:`skode.solvers.solve_ivp` takes it; it meets each modulus twice, in place of either part.
    """

    norm: str | Norm


class TolerancesOfModuli(Tolerances):
    """The same test for such states: the error's modulus may be ``atol + rtol |y|``, with the modulus of ``y``."""

    def in_allowed_errors(self, error: Tensor, y: Tensor, y_next: Tensor) -> Tensor:
        return super().in_allowed_errors(moduli(error), moduli(y), moduli(y_next))

    def allowed(self, y: Tensor) -> Tensor:
        return super().allowed(moduli(y))

    def over(self, x: Tensor, allowed: Tensor) -> Tensor:
        return super().over(moduli(x), allowed)


def moduli(x: Tensor) -> Tensor:
    """The modulus of each pair of neighbours, real and imaginary part, in the place of both."""
    return torch.linalg.vector_norm(x.reshape(-1, 2), dim=1).repeat_interleave(2).view(x.shape)


class MappedTolerances(Tolerances):
    """The same for states that ``vmap`` maps over: each of them is held to the tolerance."""

    def size(self, x: Tensor) -> float:
        return float(untransformed(torch.as_tensor(self.norm(x))).max())

    def in_allowed_errors(self, error: Tensor, y: Tensor, y_next: Tensor) -> Tensor:
        scale = torch.maximum(y.abs(), y_next.abs()) * self.rtol + self.atol
        return error / (scale.clamp_min(torch.finfo(scale.dtype).tiny) if self.purely_relative else scale)


class EachSample:
    """An error ratio for each sample (the first dimension of the state)."""

    def __init__(self, tolerances: Tolerances) -> None:
        self.norm = tolerances.norm
        self.tolerances = tolerances

    def size(self, x: Tensor) -> np.ndarray:
        if not x[0].numel():
            return np.zeros(len(x))
        if self.norm in (rms_norm, mixed_norm):
            sizes = torch.linalg.vector_norm(x.flatten(1), dim=1) / math.sqrt(x[0].numel())
        elif self.norm is max_norm:
            sizes = x.flatten(1).abs().amax(dim=1)
        elif hasattr(self.norm, "of_each"):
            sizes = self.norm.of_each(x)
        else:
            sizes = torch.stack([torch.as_tensor(self.norm(row)) for row in x])
        return sizes.double().cpu().numpy()

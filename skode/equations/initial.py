"""Initial states: given, unknown, or functions of parameters and inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from skode.equations.dynamics import System, along
from skode.equations.users import called


def _expands(y0: Tensor, shape: tuple[int, ...]) -> bool:
    """Whether a tensor expands to a shape."""
    ahead = shape[len(shape) - y0.dim() :]
    return y0.dim() <= len(shape) and all(own in (1, other) for own, other in zip(y0.shape, ahead, strict=True))


@dataclass(frozen=True)
class InitialStates:
    """Initial states as a function of a series' unknowns and of its inputs at the start.

    Attributes
    ----------
    function : callable or None
        ``initial(p)``, of shape (..., n_states); None: state by state.
    sources : tuple
        For each state the position among the unknowns (int), its value (float), or the name of a parameter or input
        (str).
    """

    function: Callable[[dict[str, Tensor]], Tensor] | None
    sources: tuple[int | float | str, ...]

    def __call__(self, system: System, values: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
        """Initial states of shape (*shape, n_states) from unknowns of shape (*shape, n_unknowns)."""
        numbers = values.unbind(-1)
        shape = values.shape[:-1]
        inputs = {name: value.reshape(len(value), *[1] * (len(shape) - 1)) for name, value in inputs.items()}
        p = system.p(numbers[: len(system.names)], inputs)
        if self.function is not None:
            y0 = called("initial(p)", self.function, p)
            wanted = *shape, system.n_states
            if not isinstance(y0, Tensor) or y0.shape[-1:] != wanted[-1:] or not _expands(y0, wanted):
                got = tuple(y0.shape) if isinstance(y0, Tensor) else type(y0).__name__
                raise ValueError(
                    f"initial(p) must return a tensor of shape (..., {system.n_states}), here {wanted}, for parameters "
                    f"of shape (...); got {got}. torch.stack([...], dim=-1) puts states together."
                )
            return y0.to(values.dtype).expand(wanted)
        parts = []
        for source in self.sources:
            if isinstance(source, str):
                part = p[source]
            else:
                part = numbers[source] if isinstance(source, int) else torch.tensor(source, dtype=torch.float64)
            parts.append(part.to(values).expand(shape))
        return torch.stack(parts, dim=-1)

    @torch.no_grad()
    def with_slopes(
        self, system: System, values: np.ndarray, slopes: np.ndarray, inputs: Mapping[str, Tensor]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Initial states (n, n_states), and their derivatives by the scaled unknowns (n, n_states, n_unknowns)."""
        q = values.shape[1]
        if not q:
            given = self(system, torch.from_numpy(values), inputs).numpy()
            return given, np.zeros((*given.shape, 0))
        if self.function is None and not any(isinstance(source, str) for source in self.sources):
            return self._without_parameters(values, slopes)
        primal = torch.from_numpy(np.repeat(values[:, None], q, axis=1))
        y0, derivatives = along(lambda known: self(system, known, inputs), primal, torch.from_numpy(_diagonal(slopes)))
        return y0[:, 0].numpy(), derivatives.transpose(1, 2).numpy()

    def _without_parameters(self, values: np.ndarray, slopes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        y0 = np.empty((len(values), len(self.sources)))
        derivatives = np.zeros((*y0.shape, values.shape[1]))
        for state, source in enumerate(self.sources):
            if isinstance(source, int):
                y0[:, state], derivatives[:, state, source] = values[:, source], slopes[:, source]
            else:
                y0[:, state] = source
        return y0, derivatives


def _diagonal(slopes: np.ndarray) -> np.ndarray:
    matrices: Any = np.zeros((*slopes.shape, slopes.shape[1]))
    places = np.arange(slopes.shape[1])
    matrices[:, places, places] = slopes
    return matrices

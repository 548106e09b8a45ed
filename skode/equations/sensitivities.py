r"""Solutions with their derivatives by initial states and parameters, of a whole batch in one solve.

The sensitivity equation is solved beside the states, by the same steps: the error test looks at the states alone. A
Runge-Kutta step of both is the step of the states and its derivative (differentiation and discretisation commute), so
that what comes out is the derivative of the computed solution, its step sizes taken as given: H. G. Bock, "Numerical
treatment of inverse problems in chemical reaction kinetics", 1981, calls it internal differentiation. An implicit
method solves for all of it in each stage, but as the states and each of their derivatives have the same Jacobian,
Newton's matrix is that of the states (:class:`skode.solvers.stepping.jacobians.SharedJacobian`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from skode.equations.dynamics import BatchField, Driver, System
from skode.solvers import Solution, solve_ivp

#: Attempted steps of a sample after which it counts as failed.
MAX_STEPS = 2000
#: The methods between which ``method="auto"`` chooses: the explicit, and the one for stiff equations.
AUTO = "dopri5", "kvaerno5"


@dataclass(frozen=True)
class SolverSettings:
    """How equations are solved.

    Attributes
    ----------
    method, rtol, atol, step_size, max_steps, first_step
        As :func:`skode.solvers.solve_ivp` takes them; in a course (:mod:`skode.equations.legs`) the method may be
        "auto" as well.
    """

    method: str
    rtol: float
    atol: float
    step_size: float | None = None
    max_steps: int = MAX_STEPS
    first_step: float | None = None

    def solve(self, field: BatchField, spans: Tensor, y0: Tensor, times: Tensor, **kwargs: Any) -> Solution:
        """States of a batch at times of each sample, padded with NaN; NaN where a sample can't be solved."""
        return solve_ivp(
            field,
            spans,
            y0,
            t_eval=times,
            method=self.method,
            rtol=self.rtol,
            atol=self.atol,
            step_size=self.step_size,
            step_control="per_sample",
            max_steps=self.max_steps,
            first_step=self.first_step,
            on_failure="nan",
            **kwargs,
        )


class StatesNorm:
    """Root mean square of the states' errors in each sample, where sensitivities stand behind them."""

    def __call__(self, x: Tensor) -> Tensor:
        return self.of_each(x[None])[0]

    def of_each(self, x: Tensor) -> Tensor:
        """The norms of samples of shape (n, 1 + k, n_states)."""
        return torch.linalg.vector_norm(x[:, 0], dim=1) / math.sqrt(x.shape[2])


STATES_NORM = StatesNorm()


@torch.no_grad()
def solve_states(
    system: System, settings: SolverSettings, values: Tensor, driver: Driver, y0: Tensor, spans: Tensor, times: Tensor
) -> Tensor:
    """States of shape (n, n_times, n_states) from initial ones of shape (n, n_states); see below."""
    return settings.solve(system.vector_field(values, driver), spans, y0, times).y


@torch.no_grad()
def solve_sensitivities(
    system: System,
    settings: SolverSettings,
    parameters: tuple[Tensor, Tensor],
    driver: Driver,
    y0: Tensor,
    spans: Tensor,
    times: Tensor,
) -> tuple[Tensor, Tensor]:
    """States and sensitivities at given times.

    Parameters
    ----------
    system : System
        The equations.
    settings : SolverSettings
        How they are solved.
    parameters : tuple of two Tensor of shape (n, n_parameters)
        Each sample's parameters, and their derivatives by the scaled ones.
    driver : Driver
        The samples' inputs.
    y0 : Tensor of shape (n, n_states)
        Initial states.
    spans : Tensor of shape (n, 2)
        From when to when each sample is solved.
    times : Tensor of shape (n, n_times)
        Output times, padded with NaN.

    Returns
    -------
    states : Tensor of shape (n, n_times, 1 + n_states + n_parameters, n_states)
        States, and their derivatives by the initial states and the scaled parameters; NaN from where a sample can't be
        solved.
    n_steps : Tensor of int, of shape (n,)
        The number of steps that each sample tried.
    """
    n_samples, n = y0.shape
    Y0 = y0.new_zeros(n_samples, 1 + n + parameters[0].shape[1], n)
    Y0[:, 0] = y0
    Y0[:, 1 : 1 + n] = torch.eye(n, dtype=y0.dtype)
    field = system.sensitivity_field(*parameters, driver)
    solution = settings.solve(field, spans, Y0, times, norm=STATES_NORM)
    return solution.y, _steps(solution, n_samples)


def _steps(solution: Solution, n_samples: int) -> Tensor:
    """Steps tried by each sample of a solution, or by the batch where all take the same."""
    return torch.as_tensor(solution.n_accepted + solution.n_rejected).expand(n_samples)

"""The solvers of ``scipy.integrate.solve_ivp``, with gradients by the continuous adjoint.

SciPy solves in float64 on the host, the whole state as one system. The adjoint equation reads states off the forward
solve, which is kept for it: those of stiff problems can't be solved for backward.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.integrate import solve_ivp as scipy_solve_ivp
from torch import Tensor

from skode.solvers.adjoints.augmented import AugmentedField
from skode.solvers.errors import NonFiniteDerivativeError, SolverError
from skode.solvers.fields.bind import as_field
from skode.solvers.fields.protocols import Field
from skode.solvers.first_order import first_order
from skode.solvers.statistics import Statistics
from skode.solvers.tolerances import Tolerances
from skode.solvers.transforms import transform_of

SOLVERS = ("RK45", "RK23", "DOP853", "Radau", "BDF", "LSODA")


@dataclass(frozen=True)
class ScipySolver:
    """One of SciPy's solvers with its settings.

    Attributes
    ----------
    name : str
        One of :data:`SOLVERS`.
    tolerances : Tolerances
        The error that a step may make, in SciPy's own norm.
    steps : dict
        ``first_step``, ``min_step`` and ``max_step``, as far as they are given.
    """

    name: str
    tolerances: Tolerances
    steps: dict[str, float | None]

    def __call__(self, field: Field, y0: Tensor, times: np.ndarray, *, dense: bool = False) -> tuple[Tensor, Any]:
        """Flat states at all times, of shape (n_times, n), and at any time between them if ``dense``."""

        def rates(t: float, y: np.ndarray) -> np.ndarray:
            state = torch.from_numpy(y).to(y0).view(y0.shape)
            return field(t, state).detach().reshape(-1).double().cpu().numpy()

        if len(times) == 1 or not y0.numel():
            return y0.reshape(1, -1).expand(len(times), -1).clone(), None
        start = y0.detach().reshape(-1).double().cpu().numpy()
        # SciPy's solvers may loop forever on NaN: refuse it where it appears.
        found = scipy_solve_ivp(
            _finite(rates),
            (times[0], times[-1]),
            start,
            method=self.name,
            t_eval=times,
            dense_output=dense,
            rtol=_flat(self.tolerances.rtol),
            atol=_flat(self.tolerances.atol),
            **self.steps,
        )
        if not found.success:
            raise SolverError(
                f"SciPy's {self.name} failed: {found.message}",
                time=float(found.t[-1]) if len(found.t) else float(times[0]),
                step_size=0.0,
                advice="Try another of SciPy's solvers, or looser tolerances.",
            )
        return torch.from_numpy(found.y.T.copy()).to(y0), found.sol


def odeint_scipy(
    func: Any,
    y0: Tensor,
    times: np.ndarray,
    *,
    solver: ScipySolver,
    backward: ScipySolver,
    parameters: Sequence[Tensor] | None = None,
) -> Tensor:
    """States at all times, solved by SciPy; differentiable.

    Parameters
    ----------
    func, y0
        The problem.
    times : ndarray of shape (n_times,)
        Output times.
    solver, backward : ScipySolver
        The solvers of the equation and of its adjoint equation.
    parameters : sequence of Tensor or None
        The tensors behind ``func`` whose gradients are wanted; None: all that are found.
    """
    differentiate = torch.is_grad_enabled()
    transform = transform_of(func, float(times[0]), y0, None)
    if transform is not None:
        raise TypeError(
            f"The solve is inside {transform}, which method='scipy_solver' gives no derivatives for: pass another "
            "method and adjoint='backprop'."
        )
    field, _, _ = as_field(func, float(times[0]), y0.detach(), differentiate=differentiate, parameters=parameters)
    if not (differentiate and any(x.requires_grad for x in (y0, *field.parameters))):
        return solver(field, y0.detach(), times)[0].view(len(times), *y0.shape)
    return _ScipyAdjoint.apply(field, solver, backward, times, y0, *field.parameters)


def _flat(tolerance: float | Tensor) -> float | np.ndarray:
    return tolerance.reshape(-1).double().cpu().numpy() if isinstance(tolerance, Tensor) else tolerance


def _finite(rates: Any) -> Any:
    def checked(t: float, y: np.ndarray) -> np.ndarray:
        value = rates(t, y)
        if not np.isfinite(value).all():
            raise NonFiniteDerivativeError(
                "func(t, y) gave NaN or infinity",
                time=t,
                step_size=0.0,
                advice="The solution leaves the domain of func, or grows without bound.",
            )
        return value

    return checked


class _ScipyAdjoint(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        field: Field,
        solver: ScipySolver,
        backward: ScipySolver,
        times: np.ndarray,
        y0: Tensor,
        *parameters: Tensor,
    ) -> Tensor:
        outputs, ctx.states = solver(field, y0, times, dense=True)
        outputs = outputs.view(len(times), *y0.shape)
        ctx.field, ctx.solver, ctx.times = field, backward, times
        ctx.save_for_backward(outputs, y0, *parameters)
        return outputs

    @staticmethod
    @first_order
    def backward(ctx: Any, grad_outputs: Tensor) -> tuple:
        outputs, y0, *_ = ctx.saved_tensors
        n, times = y0.numel(), ctx.times
        low, high = sorted((times[0], times[-1]))

        def state_at(t: float) -> Tensor:
            return torch.from_numpy(ctx.states(min(max(t, low), high))).to(y0)

        field = AugmentedField(ctx.field, y0, Statistics(), float(times[0]), implicit=False, states=state_at)
        augmented = y0.new_zeros(field.size)
        for i in range(len(times) - 1, -1, -1):
            augmented[:n] = outputs[i].reshape(-1)
            augmented[n : 2 * n] += grad_outputs[i].reshape(-1)
            if i > 0:
                augmented = ctx.solver(field, augmented, times[[i, i - 1]])[0][-1].clone()
        grad_y0 = augmented[n : 2 * n].view(y0.shape)
        return (None, None, None, None, grad_y0, *field.parameter_gradients(augmented))

"""Any solver of ``scipy.integrate.solve_ivp``, with gradients by the continuous adjoint.

SciPy solves in float64 on the host, the whole state as one system. The adjoint equation reads states off the forward
solve, which is kept for it: those of stiff problems can't be solved for backward.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from scipy.integrate import solve_ivp as scipy_solve_ivp
from torch import Tensor

from skode.solvers.adjoints.continuous import AugmentedField
from skode.solvers.errors import NonFiniteDerivativeError, SolverError
from skode.solvers.first_order import first_order
from skode.solvers.options import check_choice
from skode.solvers.statistics import Statistics
from skode.solvers.transforms import transform_of
from skode.solvers.vector_field import Field, as_field

SOLVERS = ("RK45", "RK23", "DOP853", "Radau", "BDF", "LSODA")


def odeint_scipy(func: Any, y0: Tensor, times: np.ndarray, *, rtol: float, atol: float, solver: str) -> Tensor:
    """States at all times, solved by SciPy; differentiable with respect to ``y0`` and the tensors behind ``func``."""
    check_choice("options['solver']", solver, SOLVERS)
    differentiate = torch.is_grad_enabled()
    transform = transform_of(func, float(times[0]), y0, None)
    if transform is not None:
        raise TypeError(
            f"The solve is inside {transform}, which method='scipy_solver' gives no derivatives for: pass another "
            "method and adjoint='backprop'."
        )
    field, _, _ = as_field(func, float(times[0]), y0.detach(), differentiate=differentiate)
    solve = _Solve(field, rtol, atol, solver)
    if not (differentiate and (y0.requires_grad or any(p.requires_grad for p in field.parameters))):
        return solve(y0.detach(), times)
    return _ScipyAdjoint.apply(solve, times, y0, *field.parameters)


class _Solve:
    """SciPy's solver over a field and its adjoint equation."""

    def __init__(self, field: Field, rtol: float, atol: float, solver: str) -> None:
        self.field, self.rtol, self.atol, self.solver = field, rtol, atol, solver

    def __call__(self, y0: Tensor, times: np.ndarray) -> Tensor:
        return self.solve(self.field, y0, times)[0].view(len(times), *y0.shape)

    def solve(self, field: Any, y0: Tensor, times: np.ndarray, *, dense: bool = False) -> tuple[Tensor, Any]:
        """Flat states at all times, of shape (n_times, n), and at any time between them if ``dense``."""

        def rates(t: float, y: np.ndarray) -> np.ndarray:
            state = torch.from_numpy(y).to(y0).view(y0.shape)
            return field(t, state).detach().reshape(-1).double().cpu().numpy()

        if len(times) == 1:
            return y0.reshape(1, -1).clone(), None
        start = y0.detach().reshape(-1).double().cpu().numpy()
        # SciPy's solvers may loop forever on NaN: refuse it where it appears.
        found = scipy_solve_ivp(
            _finite(rates),
            (times[0], times[-1]),
            start,
            method=self.solver,
            t_eval=times,
            dense_output=dense,
            rtol=self.rtol,
            atol=self.atol,
        )
        if not found.success:
            raise SolverError(
                f"SciPy's {self.solver} failed: {found.message}",
                time=float(found.t[-1]) if len(found.t) else float(times[0]),
                step_size=0.0,
                advice="Try another of SciPy's solvers, or looser tolerances.",
            )
        return torch.from_numpy(found.y.T.copy()).to(y0), found.sol


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
    def forward(ctx: Any, solve: _Solve, times: np.ndarray, y0: Tensor, *parameters: Tensor) -> Tensor:
        outputs, ctx.states = solve.solve(solve.field, y0, times, dense=True)
        outputs = outputs.view(len(times), *y0.shape)
        ctx.solve, ctx.times = solve, times
        ctx.save_for_backward(outputs, y0, *parameters)
        return outputs

    @staticmethod
    @first_order
    def backward(ctx: Any, grad_outputs: Tensor) -> tuple:
        outputs, y0, *_ = ctx.saved_tensors
        solve, n = ctx.solve, y0.numel()
        low, high = sorted((ctx.times[0], ctx.times[-1]))

        def state_at(t: float) -> Tensor:
            return torch.from_numpy(ctx.states(min(max(t, low), high))).to(y0)

        field = AugmentedField(solve.field, y0, Statistics(), float(ctx.times[0]), implicit=False, states=state_at)
        augmented = y0.new_zeros(field.size)
        for i in range(len(ctx.times) - 1, -1, -1):
            augmented[:n] = outputs[i].reshape(-1)
            augmented[n : 2 * n] += grad_outputs[i].reshape(-1)
            if i > 0:
                augmented = solve.solve(field, augmented, ctx.times[[i, i - 1]])[0][-1].clone()
        return (None, None, augmented[n : 2 * n].view(y0.shape), *field.parameter_gradients(augmented))

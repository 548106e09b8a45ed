"""One explicit Runge-Kutta step, forward in place, forward under autograd, and pulled back."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from skode.solvers.statistics import Statistics
from skode.solvers.tableaus import ButcherTableau
from skode.solvers.vector_field import Field, GradientSession


class TableauTensors:
    """A tableau's coefficients in the state's dtype, as the step's matrix-vector products need them."""

    def __init__(self, tableau: ButcherTableau, like: Tensor) -> None:
        def tensor(values: Any) -> Tensor:
            return torch.tensor(values, dtype=like.dtype, device=like.device)

        s = tableau.n_stages
        padded = [row + (0.0,) * (s - len(row)) for row in tableau.a]
        a, b = tensor(padded), tensor(tableau.b)
        self.a = [a[i, :i].contiguous() for i in range(s)]
        self.b = b
        self.e = tensor(tableau.e) if tableau.e is not None else None
        # Stages that belong to the step alone; a last one that is the next step's first is handled there.
        self.n_own = s - 1 if tableau.first_same_as_last else s
        # Column i of [a; b], below the diagonal: the weights with which later stages and the result used stage i.
        self.uses = [torch.cat([a[i + 1 : self.n_own, i], b[i : i + 1]]) for i in range(self.n_own)]


class Stepper:
    """Takes steps of one method over one field, with all stages in one preallocated buffer.

    Parameters
    ----------
    tableau : ButcherTableau
        The method.
    field : Field
        What is integrated.
    y0 : Tensor
        A state, for its shape, dtype and device.
    f0 : Tensor
        The field's value at the start of the solve.
    statistics : Statistics
        Where evaluations are counted.

    Notes
    -----
    The buffer holds the stages as rows, flattened, so that every combination of stages is one matrix-vector product.
    """

    def __init__(
        self,
        tableau: ButcherTableau,
        field: Field,
        y0: Tensor,
        f0: Tensor,
        statistics: Statistics,
    ) -> None:
        self.tableau = tableau
        self.field = field
        self.shape = y0.shape
        self.statistics = statistics
        self.coefficients = TableauTensors(tableau, y0)
        self.stages = y0.new_empty((tableau.n_stages, y0.numel()))
        self.earlier = [self.stages[:i].t() for i in range(tableau.n_stages + 1)]
        self.keeps_residuals = False
        self.residuals: list[Any] = [None] * tableau.n_stages
        self.stages[0] = f0.reshape(-1)
        self._first_is_current = True

    def keep_residuals(self, first: Any) -> None:
        """Keep what each stage's pullback needs in ``residuals``, given what that of the first stage does."""
        self.keeps_residuals = True
        self.residuals[0] = first

    def begin(self, t: float, y: Tensor) -> Tensor:
        """Make the first stage current for a step from ``(t, y)``; returns it flattened."""
        if not self._first_is_current:
            self._evaluate(0, t, y)
        self._first_is_current = True
        return self.stages[0]

    def attempt(self, t: float, h: float, y: Tensor) -> tuple[Tensor, Tensor | None]:
        """Try a step of size ``h`` from ``(t, y)``, whose first stage is current.

        Returns
        -------
        y_next : Tensor
            The state after the step.
        error : Tensor or None
            The estimated local error, where the method has one.
        """
        tableau, coefficients = self.tableau, self.coefficients
        flat = y.reshape(-1)
        last = coefficients.n_own
        for i in range(1, last):
            stage_state = torch.addmv(flat, self.earlier[i], coefficients.a[i], alpha=h).view(self.shape)
            self._evaluate(i, t + tableau.c[i] * h, stage_state)
        y_next = torch.addmv(flat, self.earlier[last], coefficients.b[:last], alpha=h).view(self.shape)
        if tableau.first_same_as_last:
            self._evaluate(last, t + h, y_next)
        if coefficients.e is None:
            return y_next, None
        error = torch.mv(self.earlier[-1], coefficients.e).mul_(h).view(self.shape)
        return y_next, error

    def accept(self) -> None:
        """Move on: the last stage of the step just tried is the first of the next one, where the method allows."""
        self._first_is_current = self.tableau.first_same_as_last
        if self._first_is_current:
            self.stages[0] = self.stages[-1]
            self.residuals[0] = self.residuals[-1]

    def interpolate(self, h: float, y: Tensor, weights: Tensor) -> Tensor:
        r"""States inside the step just tried, of shape (m, \\*y.shape), from interpolation weights of shape (m, s)."""
        inside = torch.addmm(y.reshape(-1), weights, self.stages, alpha=h)
        return inside.view(len(weights), *self.shape)

    def interpolate_rows(self, h: float, y: Tensor, weights: Tensor, rows: Tensor) -> Tensor:
        """States of single samples: entry i is sample ``rows[i]`` read with ``weights[i]``."""
        stages = self.stages.view(-1, y.shape[0], y[0].numel())[:, rows]
        inside = torch.einsum("qs,sqf->qf", weights, stages).mul_(h).view(-1, *y.shape[1:])
        return inside.add_(y[rows])

    def _evaluate(self, i: int, t: float, y: Tensor) -> None:
        self.statistics.nfev += 1
        if self.keeps_residuals:
            value, self.residuals[i] = self.field.linearize(t, y)
        else:
            value = self.field(t, y)
        self.stages[i] = value.reshape(-1)


class GraphStepper:
    """The same steps as differentiable operations, for autograd to record.

    Times and step sizes may be tensors that require grad; the interface is that of :class:`Stepper`.
    """

    def __init__(self, tableau: ButcherTableau, func: Any, y0: Tensor, statistics: Statistics) -> None:
        self.tableau = tableau
        self.func = func
        self.shape = y0.shape
        self.statistics = statistics
        self.coefficients = TableauTensors(tableau, y0)
        self.stages: list[Tensor] = []
        self._first_is_current = False

    def begin(self, t: Tensor, y: Tensor) -> Tensor:
        if not self._first_is_current:
            self.stages = [self._evaluate(t, y)]
        self._first_is_current = True
        return self.stages[0]

    def attempt(self, t: Tensor, h: Tensor, y: Tensor) -> tuple[Tensor, Tensor | None]:
        tableau, coefficients = self.tableau, self.coefficients
        self.stages = self.stages[:1]
        flat = y.reshape(-1)
        last = coefficients.n_own
        for i in range(1, last):
            stage_state = (flat + h * (coefficients.a[i] @ torch.stack(self.stages))).view(self.shape)
            self.stages.append(self._evaluate(t + tableau.c[i] * h, stage_state))
        y_next = (flat + h * (coefficients.b[:last] @ torch.stack(self.stages))).view(self.shape)
        if tableau.first_same_as_last:
            self.stages.append(self._evaluate(t + h, y_next))
        if coefficients.e is None:
            return y_next, None
        with torch.no_grad():
            error = (h * (coefficients.e @ torch.stack(self.stages))).view(self.shape)
        return y_next, error

    def accept(self) -> None:
        self._first_is_current = self.tableau.first_same_as_last
        self.stages = self.stages[-1:]

    def interpolate(self, h: Tensor, y: Tensor, weights: Tensor) -> Tensor:
        inside = y.reshape(-1) + h * (weights @ torch.stack(self.stages))
        return inside.view(len(weights), *self.shape)

    def interpolate_rows(self, h: Tensor, y: Tensor, weights: Tensor, rows: Tensor) -> Tensor:
        stages = torch.stack(self.stages).view(-1, y.shape[0], y[0].numel())[:, rows]
        inside = h * torch.einsum("qs,sqf->qf", weights, stages)
        return y[rows] + inside.view(-1, *y.shape[1:])

    def _evaluate(self, t: Tensor, y: Tensor) -> Tensor:
        self.statistics.nfev += 1
        return self.func(t, y).reshape(-1)


class PulledStep:
    """Cotangents that one step hands back: of the stages' times and, where asked for, of the step size."""

    __slots__ = ("grad_h", "grad_t", "grad_y")

    def __init__(self, grad_y: Tensor, grad_t: float, grad_h: float) -> None:
        self.grad_y = grad_y
        self.grad_t = grad_t
        self.grad_h = grad_h


def pull_step(
    stepper: Stepper,
    session: GradientSession,
    h: float,
    residuals: list[Any],
    stages: Tensor | None,
    cotangent: Tensor,
    stage_cotangents: Tensor | None,
) -> PulledStep:
    """The vector-Jacobian product of one explicit Runge-Kutta step.

    With ``lam`` the cotangent of ``y1`` and ``g_i`` the cotangents that outputs inside the step give its stages,
    the stages' cotangents are found last to first (Hager, Numerische Mathematik 87,
    2000; Sanz-Serna, SIAM Review 58, 2016)::

        kbar_i = h (b_i lam + sum_{j>i} a_ji ybar_j) + g_i,    ybar_i = kbar_i^T df/dy(t_i, Y_i)

    and the cotangent of ``y`` is ``lam + sum_i ybar_i``. The last stage of a method whose first stage is the same
    as the last is the first one of the next step: it is pulled back there.

    Parameters
    ----------
    stepper : Stepper
        For the method and the shapes.
    session : GradientSession
        Where vector-Jacobian products are taken.
    h : float
        The step size.
    residuals : list
        What :meth:`linearize` kept at each stage that is pulled back here.
    stages : Tensor of shape (s, n) or None
        The stages' values; given where the times' gradients are wanted.
    cotangent : Tensor
        ``lam``, of the state's shape.
    stage_cotangents : Tensor of shape (s, n) or None
        ``g_i``.

    Returns
    -------
    PulledStep
        Cotangents of ``y``, and of ``t`` and ``h`` as explicit arguments of the step (0 if not wanted). Those of
        outputs inside the step are not in ``grad_t`` and ``grad_h``.
    """
    coefficients = stepper.coefficients
    with_time = stages is not None
    n = coefficients.n_own
    # Rows i < n: ybar_i; row n: lam.
    pulled = cotangent.new_empty((n + 1, cotangent.numel()))
    pulled[n] = cotangent.reshape(-1)
    grad_t = grad_h = 0.0
    if stages is not None:
        grad_h = float(torch.dot(pulled[n], coefficients.b @ stages))
    for i in reversed(range(n)):
        kbar = torch.mv(pulled[i + 1 :].t(), coefficients.uses[i]).mul_(h)
        if stage_cotangents is not None:
            kbar += stage_cotangents[i]
        grad_y, grad_time = session.pull(residuals[i], kbar.view(stepper.shape), with_time=with_time)
        pulled[i] = grad_y.reshape(-1)
        if stages is not None and grad_time is not None:
            time_part = float(grad_time)
            grad_t += time_part
            grad_h += stepper.tableau.c[i] * time_part
            grad_h += float(torch.dot(pulled[i], coefficients.a[i] @ stages[:i]))
    session.flush()
    return PulledStep(pulled.sum(0).view(stepper.shape), grad_t, grad_h)

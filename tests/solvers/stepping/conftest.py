"""Fields, and steps computed straight from a method's definition."""

import pytest
import torch

from skode.solvers.fields.autograd import AutogradField
from skode.solvers.fields.times import time_tensor
from skode.solvers.statistics import Statistics
from skode.solvers.stepping import ExplicitStepper, new_graph_stepper, new_stepper
from skode.solvers.tableaus import ButcherTableau
from skode.solvers.tolerances import Tolerances

T, H = 0.3, 0.2
# An implicit adaptive method solves its stages to a thousandth of the tolerance.
TIGHT = Tolerances(1e-11, 1e-11)


@pytest.fixture
def p():
    """The parameters of the fields."""
    return torch.tensor([0.7, -0.4, 1.1], dtype=torch.float64, requires_grad=True)


@pytest.fixture(params=["independent", "mixed"])
def field(request, p):
    """A field of states of three features, whose samples may depend on each other."""

    def independent(t, y):
        return torch.sin(p * y) * torch.cos(t) - 0.5 * y.roll(1, -1) ** 2 + t**2 * p

    def mixed(t, y):
        return independent(t, y) + y - 1.5 * y.mean(0) * p

    return {"independent": independent, "mixed": mixed}[request.param]


@pytest.fixture
def y():
    return torch.linspace(-0.5, 1.5, 6, dtype=torch.float64).view(2, 3)


@pytest.fixture
def draw():
    """Random tensors of given shapes."""
    generator = torch.Generator().manual_seed(0)
    return lambda *shape: torch.randn(shape, generator=generator, dtype=torch.float64)


@pytest.fixture
def explicit_kind():
    """The class of explicit steppers without a graph."""
    return ExplicitStepper


@pytest.fixture
def started(explicit_kind):
    """A stepper at the state ``y``, with or without a graph."""

    def make(method, func, y, *, parameters=(), graph=False, t=T, tolerances=TIGHT, keep=False):
        if graph:
            stepper = new_graph_stepper(method, lambda t, y: func(time_tensor(t, y), y), y, Statistics(), tolerances)
        else:
            field = AutogradField(func, parameters)
            explicit = isinstance(method, ButcherTableau) and not method.implicit
            new = explicit_kind if explicit else new_stepper
            stepper = new(method, field, y, Statistics(), tolerances, keep=keep)
        with torch.no_grad():
            stepper.start(func(torch.as_tensor(t, dtype=y.dtype), y.detach()))
        return stepper

    return make


class Definition:
    """A step from the tableau's definition ``k_i = f(t + c_i h, y + h sum_j a_ij k_j)``."""

    def __init__(self, tableau, func, t, h, y):
        self.tableau, self.func, self.t, self.h, self.y = tableau, func, t, h, y.detach()
        s = tableau.n_stages
        self.a = torch.tensor([[*row, *[0.0] * (s - len(row))] for row in tableau.a], dtype=torch.float64)
        self.b = torch.tensor(tableau.b, dtype=torch.float64)
        self.stages = self._stages() if tableau.implicit else self._in_turn()
        self.y_next = self.y + h * torch.tensordot(self.b, self.stages, 1)

    @property
    def error(self):
        return self.h * torch.tensordot(torch.tensor(self.tableau.e, dtype=torch.float64), self.stages, 1)

    def residual(self, stages, t, h, y, first=None):
        """``k - f(Y)``; of a first stage taken over from the step before, its difference from that."""
        missed = []
        for i, c in enumerate(self.tableau.c):
            time = torch.as_tensor(t + c * h, dtype=torch.float64)
            value = self.func(time, y + h * torch.tensordot(self.a[i], stages, 1)) if i or first is None else first
            missed.append(stages[i] - value)
        return torch.stack(missed)

    def _in_turn(self):
        stages = torch.zeros(self.tableau.n_stages, *self.y.shape, dtype=torch.float64)
        for i, c in enumerate(self.tableau.c):
            state = self.y + self.h * torch.tensordot(self.a[i], stages, 1)
            stages[i] = self.func(torch.tensor(self.t + c * self.h, dtype=torch.float64), state).detach()
        return stages

    def _stages(self):
        """By Newton's method on all the equations at once."""
        stages = torch.zeros(self.tableau.n_stages, *self.y.shape, dtype=torch.float64)
        for _ in range(12):
            stages = stages - torch.linalg.solve(*self._jacobian(stages)).view_as(stages)
        assert self._jacobian(stages)[1].abs().max() < 1e-14 * max(1.0, stages.abs().max())
        return stages

    def _jacobian(self, stages, first=None):
        def missed(k):
            return self.residual(k.view_as(stages), self.t, self.h, self.y, first).reshape(-1)

        flat = stages.reshape(-1)
        return torch.autograd.functional.jacobian(missed, flat), missed(flat).detach()

    def pulled(self, cotangent, stage_cotangents, parameters, *, takes_over):
        """Gradients for y, the parameters and the stage taken over, by the implicit function theorem."""
        y, t, h = self.y.clone().requires_grad_(), torch.tensor(self.t, dtype=torch.float64), self.h
        first = self.stages[0].clone().requires_grad_() if takes_over else None
        stages = self.stages.clone().requires_grad_()
        loss = (cotangent * (y + h * torch.tensordot(self.b, stages, 1))).sum() + (stage_cotangents * stages).sum()
        (of_loss,) = torch.autograd.grad(loss, stages, retain_graph=True)
        matrix, _ = self._jacobian(self.stages, self.stages[0] if takes_over else None)
        multipliers = torch.linalg.solve(matrix.T, of_loss.reshape(-1)).view_as(stages)
        loss = loss - (multipliers * self.residual(stages, t, h, y, first)).sum()
        wanted = [y, *parameters, *([first] if takes_over else [])]
        return torch.autograd.grad(loss, wanted, allow_unused=True, materialize_grads=True)


@pytest.fixture
def definition():
    return Definition

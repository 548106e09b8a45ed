"""Solves that are recorded, and counts of their recordings."""

import torch
from torch import nn

from skode.dynamics.convolutional import ConvField
from skode.solvers import solve_ivp
from skode.solvers.device.kinds import KINDS
from tests.solvers.problems import EQUAL

#: Solves of one kind. The first of them makes no recordings.
N = 5


def convolutions(hidden=(4,), **settings):
    field = ConvField(4, hidden, n_pixels=9, generator=torch.Generator().manual_seed(0), **settings).double()
    nn.init.constant_(field.norms[-1].weight, 0.5)
    return field


def n_kept():
    """How many recordings no solve is using."""
    return sum(len(idle) for idle in KINDS.kept.values())


def solve(field, y0, **settings):
    """One of a kind."""
    return solve_ivp(field, (0.0, 1.0), y0, **{"t_eval": [0.35, 1.0], **EQUAL, **settings}).y


def gradients(field, y0, **settings):
    """Of a loss, by the state and the parameters."""
    y0 = y0.clone().requires_grad_()
    return torch.autograd.grad(solve(field, y0, **settings).square().sum(), [y0, *field.parameters()])


class Frozen(torch.nn.Module):
    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weight = torch.nn.Parameter(torch.randn(3, 3, generator=generator, dtype=torch.float64))
        frozen = torch.randn(3, 3, generator=generator, dtype=torch.float64)
        self.frozen = torch.nn.Parameter(frozen, requires_grad=False)

    def forward(self, t, y):
        return torch.tanh(y @ self.weight) @ self.frozen


class Plain(nn.Module):
    """With an attribute, a buffer, a switch and a part."""

    def __init__(self, randn):
        super().__init__()
        self.layer = nn.Linear(3, 3).double()
        self.frozen = nn.Parameter(randn(3, seed=4), requires_grad=False)
        self.register_buffer("shift", randn(3, seed=5))
        self.rate, self.settings = 1.0, {"damped": False}
        with torch.no_grad():
            self.layer.weight.copy_(randn(3, 3, seed=6))
            self.layer.bias.zero_()

    def forward(self, t, y):
        value = self.rate * torch.tanh(self.layer(y) + self.shift * torch.sin(3 * t)) + self.frozen
        return value - y if self.settings["damped"] else value

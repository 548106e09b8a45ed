"""Fields, states and settings that several test modules solve."""

import math

import torch

from skode.solvers import METHODS, ButcherTableau

TABLEAUS = {name: method for name, method in METHODS.items() if isinstance(method, ButcherTableau)}
#: Explicit methods that choose their steps, and those whose first stage is the last of the step before.
EXPLICIT = sorted(name for name, tableau in TABLEAUS.items() if tableau.adaptive and not tableau.implicit)
TAKING_OVER = [name for name in EXPLICIT if TABLEAUS[name].fsal]

#: Steps of 0.2, whatever rounding does to the error estimates.
EQUAL = {"first_step": 0.2, "max_step": 0.2, "rtol": 1.0, "atol": 1.0}

#: Time spans of four samples, and output times in them.
SPANS = [[0.0, 1.0], [2.0, 0.5], [1.0, 1.0], [-0.5, 0.5]]
OWN_TIMES = [[1.0, 0.3], [0.5, math.nan], [1.0, 1.0], [math.nan, -0.2]]


def vector(*numbers, requires_grad=False):
    """A vector, or a matrix of rows, in float64."""
    return torch.tensor(numbers, dtype=torch.float64, requires_grad=requires_grad)


def ones(*shape, dtype=torch.float64):
    return torch.ones(shape, dtype=dtype)


def decay(t, y):
    return -y


def pendulum(t, y):
    return torch.stack([y[..., 1], -torch.sin(y[..., 0])], dim=-1)


def explode(t, y):
    """``y0 / (1 - y0 t)``."""
    return y**2


def in_steps(n):
    """Arguments that make an adaptive method take n steps of equal size over one unit of time."""
    return {"rtol": 1e3, "atol": 1e3, "first_step": 1 / n, "max_step": 1 / n}


def steps_of(name, h, *, equations=1e-13):
    """Arguments that make any method take steps of size h; of implicit ones, how well their equations are solved."""
    method = METHODS[name]
    if not method.adaptive:
        return {"method": name, "step_size": h}
    if method.implicit:  # whose equations are solved only as well as the tolerances say
        return {"method": name, "rtol": equations, "atol": equations, "first_step": h, "max_step": h, "min_step": h}
    return {"method": name, "rtol": 1e3, "atol": 1e3, "first_step": h, "max_step": h}


def relative_error(found, expected):
    found = found.double()
    return (torch.linalg.vector_norm(found - expected) / torch.linalg.vector_norm(expected)).item()

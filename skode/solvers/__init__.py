"""The differentiable ODE solver core: torch only.

Two doors to one engine: :func:`solve_ivp` in SciPy's vocabulary, :func:`odeint` in torchdiffeq's.
"""

from skode.solvers.buffer_pool import free_idle_memory, set_idle_memory_limit
from skode.solvers.dense_output import DenseOutput
from skode.solvers.errors import (
    ConvergenceError,
    MaxStepsError,
    NonFiniteDerivativeError,
    SolverError,
    StepSizeUnderflowError,
)
from skode.solvers.fields.protocols import OffersPullback
from skode.solvers.fields.samples import TakesSamples
from skode.solvers.ivp import solve_ivp
from skode.solvers.odeint import odeint, odeint_adjoint, odeint_dense, odeint_event
from skode.solvers.solution import Solution
from skode.solvers.statistics import Statistics
from skode.solvers.stepping.graph import local_error
from skode.solvers.tableaus import METHODS, AdamsMethod, ButcherTableau, get_method

__all__ = [
    "METHODS",
    "AdamsMethod",
    "ButcherTableau",
    "ConvergenceError",
    "DenseOutput",
    "MaxStepsError",
    "NonFiniteDerivativeError",
    "OffersPullback",
    "Solution",
    "SolverError",
    "Statistics",
    "StepSizeUnderflowError",
    "TakesSamples",
    "free_idle_memory",
    "get_method",
    "local_error",
    "odeint",
    "odeint_adjoint",
    "odeint_dense",
    "odeint_event",
    "set_idle_memory_limit",
    "solve_ivp",
]

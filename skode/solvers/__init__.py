"""The differentiable ODE solver core: torch only.

Two doors to one engine: :func:`solve_ivp` in SciPy's vocabulary, :func:`odeint` in torchdiffeq's.
"""

from skode.solvers.dense_output import DenseOutput
from skode.solvers.errors import MaxStepsError, NonFiniteDerivativeError, SolverError, StepSizeUnderflowError
from skode.solvers.ivp import solve_ivp
from skode.solvers.odeint import odeint
from skode.solvers.solution import Solution
from skode.solvers.statistics import Statistics
from skode.solvers.tableaus import METHODS, ButcherTableau
from skode.solvers.vector_field import OffersPullback

__all__ = [
    "METHODS",
    "ButcherTableau",
    "DenseOutput",
    "MaxStepsError",
    "NonFiniteDerivativeError",
    "OffersPullback",
    "Solution",
    "SolverError",
    "Statistics",
    "StepSizeUnderflowError",
    "odeint",
    "solve_ivp",
]

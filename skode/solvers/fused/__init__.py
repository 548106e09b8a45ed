"""The fused path: whole solves of small problems on NumPy arrays, for fields that have a form for it.

A call of a NumPy function costs a fraction of one of torch's, and with small states calls are most of the time. Steps
are those of :mod:`skode.solvers.forward.shared_steps`, gradients those of :mod:`skode.solvers.adjoints.discrete`.
"""

from skode.solvers.fused.solve import fused_solve

__all__ = ["fused_solve"]

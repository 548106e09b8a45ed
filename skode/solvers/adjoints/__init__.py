"""How gradients of a solve are computed: one module per way, all with the same signature.

``solve(problem, y0, times, func) -> (outputs, path)``, where ``times`` is the tensor ``[t0, t1, *output_times]`` if
any of them requires grad, and ``func`` the callable as the user gave it. See :mod:`skode.solvers.times`.
"""

from skode.solvers.adjoints import backprop, continuous, discrete

ADJOINTS = {"discrete": discrete.solve, "continuous": continuous.solve, "backprop": backprop.solve}

__all__ = ["ADJOINTS"]

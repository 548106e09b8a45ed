"""How gradients of a solve are computed: one module per way, all with the same signature.

``solve(run, y0, func) -> (outputs, path)``, where ``func`` is the callable as the user gave it. Times are constants
here, but for those at which the field jumps; see :mod:`skode.solvers.time_gradients`.
"""

from skode.solvers.adjoints import backprop, continuous, discrete

ADJOINTS = {"discrete": discrete.solve, "continuous": continuous.solve, "backprop": backprop.solve}

__all__ = ["ADJOINTS"]

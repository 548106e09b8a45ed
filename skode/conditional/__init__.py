"""Conditional densities of targets given features."""

from skode.conditional.estimator import CNFRegressor

__all__ = ["CNFRegressor"]

"""Equations from data: an estimator for the parameters of a known right-hand side."""

from skode.equations.estimator import ODERegressor

__all__ = ["ODERegressor"]

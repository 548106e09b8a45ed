"""Densities by continuous normalizing flows."""

from skode.density.estimator import CNFDensityEstimator

__all__ = ["CNFDensityEstimator"]

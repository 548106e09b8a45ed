"""Equations from data: an estimator for the parameters of a known right-hand side."""

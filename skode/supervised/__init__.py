"""Classifiers and regressors: what they share, and their networks."""

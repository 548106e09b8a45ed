"""Classifiers and regressors whose hidden layers are the solution of a neural ODE."""

from skode.supervised.classifier import ODENetClassifier
from skode.supervised.regressor import ODENetRegressor

__all__ = ["ODENetClassifier", "ODENetRegressor"]

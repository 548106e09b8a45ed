"""Recovery of unknown vector fields from time series."""

from skode.identification.analysis import FieldAnalysis
from skode.identification.estimator import NeuralODERegressor as NeuralODERegressor

__all__ = ["FieldAnalysis"]

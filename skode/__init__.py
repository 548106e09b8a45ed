"""Neural ordinary differential equations for scikit-learn users."""

from skode.density import CNFDensityEstimator
from skode.equations import ODERegressor
from skode.identification import NeuralODERegressor
from skode.supervised import ODENetClassifier, ODENetRegressor
from skode.timeseries import KnownDynamics, LatentODERegressor

__version__ = "0.1.0"

__all__ = [
    "CNFDensityEstimator",
    "KnownDynamics",
    "LatentODERegressor",
    "NeuralODERegressor",
    "ODENetClassifier",
    "ODENetRegressor",
    "ODERegressor",
]

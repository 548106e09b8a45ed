"""Neural ordinary differential equations for scikit-learn users."""

from skode.conditional import CNFRegressor
from skode.density import CNFDensityEstimator
from skode.equations import ODERegressor
from skode.identification import NeuralODERegressor
from skode.persistence import load
from skode.supervised import ODENetClassifier, ODENetRegressor
from skode.timeseries import KnownDynamics, LatentODERegressor
from skode.version import __version__ as __version__

__all__ = [
    "CNFDensityEstimator",
    "CNFRegressor",
    "KnownDynamics",
    "LatentODERegressor",
    "NeuralODERegressor",
    "ODENetClassifier",
    "ODENetRegressor",
    "ODERegressor",
    "load",
]

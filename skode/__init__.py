"""Neural ordinary differential equations for scikit-learn users."""

from skode.classification import ODENetClassifier
from skode.density import CNFDensityEstimator
from skode.regression import ODENetRegressor
from skode.timeseries import LatentODERegressor

__version__ = "0.1.0"

__all__ = ["CNFDensityEstimator", "LatentODERegressor", "ODENetClassifier", "ODENetRegressor"]

"""Irregular time series: long frames in, latent neural ODEs, forecasts with uncertainty out."""

from skode.timeseries.estimator import LatentODERegressor
from skode.timeseries.known_dynamics import KnownDynamics

__all__ = ["KnownDynamics", "LatentODERegressor"]

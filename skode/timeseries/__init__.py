"""Irregular time series: long frames in, latent neural ODEs, forecasts with uncertainty out."""

from skode.timeseries.estimator import LatentODERegressor

__all__ = ["LatentODERegressor"]

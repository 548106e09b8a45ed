"""``LatentODERegressor`` as a program: from known rows and times to predictions."""

from skode.timeseries.exported.estimator import ExportsLatentODE

__all__ = ["ExportsLatentODE"]

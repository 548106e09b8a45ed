"""Looking into fitted estimators."""

from skode.inspection.tolerance import tolerance_curve

__all__ = ["tolerance_curve"]

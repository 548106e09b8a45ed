"""Looking into fitted estimators."""

from skode.inspection.density import DensityDisplay
from skode.inspection.density_evolution import DensityEvolutionDisplay
from skode.inspection.series_forecast import SeriesForecastDisplay
from skode.inspection.tolerance import ToleranceDisplay, tolerance_curve
from skode.inspection.training_curve import TrainingCurveDisplay
from skode.inspection.trajectory import TrajectoryDisplay

__all__ = [
    "DensityDisplay",
    "DensityEvolutionDisplay",
    "SeriesForecastDisplay",
    "ToleranceDisplay",
    "TrainingCurveDisplay",
    "TrajectoryDisplay",
    "tolerance_curve",
]

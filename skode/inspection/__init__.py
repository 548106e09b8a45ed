"""Looking into fitted estimators."""

from skode.inspection.density import DensityDisplay
from skode.inspection.density_evolution import DensityEvolutionDisplay
from skode.inspection.ode_fit import ODEFitDisplay
from skode.inspection.profile import ProfileDisplay
from skode.inspection.series_forecast import SeriesForecastDisplay
from skode.inspection.tolerance import ToleranceDisplay, tolerance_curve
from skode.inspection.training_curve import TrainingCurveDisplay
from skode.inspection.trajectory import TrajectoryDisplay
from skode.inspection.vector_field import VectorFieldDisplay

__all__ = [
    "DensityDisplay",
    "DensityEvolutionDisplay",
    "ODEFitDisplay",
    "ProfileDisplay",
    "SeriesForecastDisplay",
    "ToleranceDisplay",
    "TrainingCurveDisplay",
    "TrajectoryDisplay",
    "VectorFieldDisplay",
    "tolerance_curve",
]

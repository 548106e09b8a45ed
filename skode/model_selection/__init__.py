"""Cross-validation of long frames: forecasts of known series, and new series of which a first part is known."""

from skode.model_selection._continuation import ContinuationScorer
from skode.model_selection._distribution import DistributionScorer
from skode.model_selection._forecast import ForecastSplit
from skode.model_selection._prefix import PrefixSplit

__all__ = ["ContinuationScorer", "DistributionScorer", "ForecastSplit", "PrefixSplit"]

"""Base class of estimators that can be exported."""

from __future__ import annotations

from typing import Any

from skode.training import NeuralODEEstimator


class Exports(NeuralODEEstimator):
    """Base of estimators with a method ``export``."""

    n_features_in_: int

    def _description(self, method: str) -> dict[str, Any]:
        """Description of the model, written to files as JSON."""
        names = getattr(self, "feature_names_in_", None)
        return {
            "estimator": type(self).__name__,
            "method": method,
            "n_features": self.n_features_in_,
            "feature_names": None if names is None else [str(name) for name in names],
            "solver": {name: getattr(self, name) for name in ("method", "rtol", "atol", "step_size")},
        }

"""Every estimator with small data that it can be fitted to, and its answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from skode import (
    CNFDensityEstimator,
    CNFRegressor,
    LatentODERegressor,
    NeuralODERegressor,
    ODENetClassifier,
    ODENetRegressor,
    ODERegressor,
)


@dataclass
class Case:
    """An estimator and its data.

    Attributes
    ----------
    estimator : estimator
        Unfitted.
    data : list of tuple
        Two sets of arguments of ``fit``, of equal columns, that lead to different models.
    answer : callable
        The answer of a fitted model to ``X``.
    """

    estimator: Any
    data: list[tuple[Any, ...]]
    answer: Callable[[Any, Any], Any]


def predict(model: Any, X: Any) -> Any:
    return model.predict(X)


def probabilities(model: Any, X: Any) -> Any:
    return model.predict_proba(X)


def log_densities(model: Any, X: Any) -> Any:
    return model.score_samples(X)


def decay(t: Any, y: Any, p: Any) -> Any:
    """The equation of ``ODERegressor``."""
    return (-p["rate"] * y[..., 0])[..., None]


def cases() -> dict[str, Case]:
    """A case of every estimator, by the estimator's name."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(30, 2))
    label, target = (X[:, 0] > X[:, 1]).astype(int), X[:, 0] * X[:, 1]
    small: dict[str, Any] = {"hidden_layer_sizes": (8,), "max_iter": 2, "random_state": 0}
    rows = pd.DataFrame({"series": np.repeat(["a", "b", "c", "d"], 8), "t": np.tile(np.linspace(0.0, 2.0, 8), 4)})
    start = np.repeat([1.0, 2.0, 0.5, 1.5], 8)
    noise = rng.normal(scale=0.02, size=32)
    panel = {"series": "series", "time": "t"}

    def curves(rate: float) -> pd.Series:
        return pd.Series(start * np.exp(-rate * rows["t"].to_numpy()) + noise, name="y")

    def of_series(estimator: Any) -> Case:
        return Case(estimator, [(rows, curves(0.5)), (rows, curves(1.0))], predict)

    return {
        "ODENetClassifier": Case(
            ODENetClassifier(state_size=3, alpha=1e-4, **small), [(X, label), (X, 1 - label)], probabilities
        ),
        "ODENetRegressor": Case(
            ODENetRegressor(state_size=3, alpha=1e-4, **small), [(X, target), (X, 10.0 + target)], predict
        ),
        "CNFDensityEstimator": Case(CNFDensityEstimator(stacking=False, **small), [(X,), (3.0 * X,)], log_densities),
        "CNFRegressor": Case(CNFRegressor(**small), [(X, target), (X, 10.0 + target)], predict),
        "LatentODERegressor": of_series(
            LatentODERegressor(latent_size=2, encoder_size=4, n_draws=4, rtol=1e-2, atol=1e-2, **panel, **small)
        ),
        "ODERegressor": of_series(ODERegressor(decay, {"rate": (0.3, 0, None)}, n_restarts=0, **panel)),
        "NeuralODERegressor": of_series(NeuralODERegressor(field="linear", **panel)),
    }

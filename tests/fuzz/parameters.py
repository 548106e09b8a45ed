"""Parameters of an estimator at their bounds, beyond them, and of the wrong kind, from its own constraints."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils._param_validation import Interval, StrOptions

#: What no parameter is.
NONSENSE = ("nonsense", None, float("nan"), float("inf"), -1, 2.5, [], {}, b"bytes", 1j)

#: Values of its own for parameters whose constraints don't tell the interesting ones.
OWN: dict[str, tuple[Any, ...]] = {
    "hidden_layer_sizes": (1, (3, 3), (2, 2, 2), (), 10**9, (10**5, 10**5), (0,), (-3,), "8", (2.5,), [[4]], True),
    "random_state": (0, 2**32 - 1, 2**32, -1, "0", np.random.RandomState(1)),
    "device": ("cpu", "auto", "cuda", "cuda:7", "nowhere", "meta"),
    "field": ("mlp", "concatsquash", "gated_planar", None, "nonsense"),
    "image_shape": ((1, 1, 1), (1, 2, 1), (0, 1, 1), (1, 1), "abc", (1.0, 1, 1)),
    "class_weight": ("balanced", {0: 1.0, 1: 2.0}, {0: -1.0}, {0: float("nan")}, "nonsense", {}, {5: 1.0}),
    "max_iter": (1, 2, 3, 0, -1, 2.5, "2"),
    "matching_iter": (0, 1, 2, -1, 2.5),
    "verbose": (0, 1, True, "yes", -1),
    "series": ("series", 0, None, "nobody", -1, 99, 1.5),
    "time": ("time", 1, "nobody", -2, 99, 1.5, None),
    "latent_size": (1, 2, 17, 10**9, 0),
    "encoder_size": (1, 2, 10**9, 0),
    "state_size": (1, None, 10**9, 0),
    "augment_dim": (0, 1, 10**9, -1),
    "n_draws": (1, 2, 3, 10**10, 0),
    "n_samples": (1, 2, 10**10, 0),
    "n_iter_no_change": (1, 2, None, 0, 1.5),
}

#: Numbers within an interval, where it holds them.
NUMBERS = (1, 0.5, 0.99, 1e-3, 1e-6, 1e-30, 1e-300, 2, 3, 1e3, 1e30, 1e300)


def values_of(constraints: list[Any]) -> list[Any]:
    """Values at the bounds of constraints, within and just beyond them."""
    values: list[Any] = []
    for constraint in constraints:
        if isinstance(constraint, StrOptions):
            values += sorted(constraint.options)
        elif isinstance(constraint, Interval):
            bounds = [bound for bound in (constraint.left, constraint.right) if bound is not None]
            values += [bound + step for bound in bounds for step in (-1e-9, 0, 1e-9, 1)]
            values += [number for number in NUMBERS if number in constraint] * 2  # so that most can be fitted
        elif constraint == "boolean":
            values += [True, False, "yes"]
        elif constraint is None:
            values.append(None)
    return values


def change(estimator: BaseEstimator, rng: np.random.Generator) -> dict[str, Any]:
    """Change some parameters of an estimator, or none; returns them."""
    changed = {}
    n_changes = rng.choice([0, 1, 2, 3], p=[0.55, 0.25, 0.15, 0.05])
    for name in rng.choice(sorted(estimator._parameter_constraints), size=n_changes, replace=False):
        values = OWN.get(name) or values_of(estimator._parameter_constraints[name])
        if rng.random() < 0.05:
            values = NONSENSE
        changed[str(name)] = values[rng.integers(len(values))]
    estimator.set_params(**changed)
    return changed

"""Cases of CNFDensityEstimator."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
from sklearn.base import clone

from skode import CNFDensityEstimator
from tests.fuzz import parameters, tables
from tests.fuzz.cases import Case, same

#: Depths that are taken, and some that are refused.
TIMES = ([[0.0, 1.0], [0.5], [1.0], (0, 1)], [[], [1.0, 0.0], [0.0, 2.0], "all", [np.nan], [[0.0]], None, 1.0])


def case(rng: np.random.Generator) -> Case:
    """A density, a table, and every call of its methods."""
    model = CNFDensityEstimator(hidden_layer_sizes=(4,), max_iter=2, random_state=0)
    changed = parameters.change(model, rng)
    X, given, done = tables.table(rng)
    weights, kind_of_weights = tables.weights(rng, len(X))
    query, kind = tables.query(rng, X, given)
    t = tables.mostly(rng, [0.0, 0.5, 1.0, 1], [-0.1, 1.1, np.nan, "1", None])
    times = tables.mostly(rng, *TIMES)
    n = tables.mostly(rng, [1, 3, np.int64(2)], [0, -1, 1.5, "3", 10**12])
    latent = tables.table(rng, p_odd=0.2, p_form=0.2)[1] if rng.random() < 0.2 else np.zeros((2, X.shape[1]))

    def fit() -> Any:
        model.fit(given, sample_weight=weights)
        return model.loss_curve_

    def score_samples() -> Any:
        answer = model.score_samples(query)
        same("one log-density a row", answer.shape, (len(query),))
        return answer

    def pickled() -> Any:
        again = pickle.loads(pickle.dumps(model))
        same("an answer of a pickle", again.sample(2, random_state=0), model.sample(2, random_state=0))

    def transform() -> Any:
        answer = model.transform(query)
        same("a state a row", answer.shape, (len(query), model.n_features_in_))
        return answer

    def warm() -> Any:
        return clone(model).set_params(warm_start=True).fit(given).fit(given).loss_curve_

    steps = {
        "fit": fit,
        "score_samples": score_samples,
        "score": lambda: model.score(query),
        "log_prob": lambda: model.log_prob(query, t=t),
        "sample": lambda: model.sample(n, random_state=0),
        "transform": transform,
        "inverse_transform": lambda: model.inverse_transform(latent),
        "trajectory": lambda: model.trajectory(query, times),
        "get_feature_names_out": lambda: model.get_feature_names_out().tolist(),
        "pickle": pickled,
    }
    if rng.random() < 0.1:
        steps["fit again"] = warm
    told = {"parameters": changed, "X": done, "shape": X.shape, "weights": kind_of_weights, "query": kind}
    return Case(model, steps, told | {"t": t, "times": times, "n": n}, rng)

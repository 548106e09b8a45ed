"""Cases of ODENetClassifier and ODENetRegressor."""

from __future__ import annotations

import datetime
import pickle
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse
from sklearn.base import clone

from skode import ODENetClassifier, ODENetRegressor
from tests.fuzz import parameters, tables
from tests.fuzz.cases import Case, holds, same
from tests.fuzz.density import TIMES
from tests.fuzz.tables import Rng, pick

Targets = dict[str, Callable[[int, Rng], Any]]


def n_rows(X):
    """How many rows a table has, which sparse ones don't tell by their length."""
    return X.shape[0] if sparse.issparse(X) else len(X)


def _of(*labels: Any) -> Callable[[int, Rng], Any]:
    """Labels of n samples, as objects so that they stay what they are."""

    def made(n: int, rng: Rng) -> np.ndarray:
        values = np.empty(n, dtype=object)
        for i in range(n):
            values[i] = labels[i % len(labels)]
        return values

    return made


USUAL_LABELS: Targets = {
    "two classes": lambda n, rng: np.arange(n) % 2,
    "text": lambda n, rng: np.array(["no", "yes", "perhaps"])[np.arange(n) % 3],
    "bool": lambda n, rng: np.arange(n) % 2 == 0,
    "random": lambda n, rng: rng.integers(0, 3, size=n),
    "whole floats": lambda n, rng: (np.arange(n) % 2).astype(float),
    "objects of text": _of("a", "b"),
}
LABELS: Targets = {
    **USUAL_LABELS,
    "one class": lambda n, rng: np.ones(n, dtype=int),
    "each its own": lambda n, rng: np.arange(n),
    "each its own but two": lambda n, rng: np.arange(n) // 2,
    "rare": lambda n, rng: (np.arange(n) == 0).astype(int),
    "fractions": lambda n, rng: rng.normal(size=n),
    "mixed": _of(1, "a"),
    "mixed text and None": _of("a", None, "b"),
    "mixed bool and text": _of(True, "a"),
    "mixed bytes and text": _of(b"a", "a"),
    "bytes": _of(b"a", b"b"),
    "objects of int": _of(3, 1),
    "objects of float": _of(0.5, 1.5),
    "tuples": _of((1,), (2, 3)),
    "lists": _of([1], [2]),
    "sets": _of({1}, {2}),
    "dicts": _of({"a": 1}, {"b": 2}),
    "NaN": _of(1.0, float("nan")),
    "pd.NA": lambda n, rng: pd.Series([pd.NA, *[0, 1] * n][:n], dtype="Int64"),
    "infinity": lambda n, rng: np.where(np.arange(n) % 2 == 0, np.inf, 1.0),
    "NumPy's text": _of(np.str_("a"), np.str_("b")),
    "empty text": _of("", "a"),
    "large integers": lambda n, rng: (np.arange(n) % 2) + 2**62,
    "uint64": lambda n, rng: np.array([2**64 - 1, 2**63], dtype=np.uint64)[np.arange(n) % 2],
    "larger integers": _of(2**70, 2**80),
    "negative": lambda n, rng: -(np.arange(n) % 3),
    "dates": lambda n, rng: np.array(["2020-01-01", "2021-01-01"], dtype="datetime64[D]")[np.arange(n) % 2],
    "date objects": _of(datetime.date(2020, 1, 1), datetime.date(2021, 1, 1)),
    "differences": lambda n, rng: (np.arange(n) % 2).astype("timedelta64[s]"),
    "complex": lambda n, rng: np.arange(n) % 2 + 1j,
    "categories": lambda n, rng: pd.Series(pd.Categorical(["a", "b", *["a", "c"] * n][:n])),
    "pandas text": lambda n, rng: pd.Series(["a", "b"] * n, dtype="string")[:n],
    "nullable bool": lambda n, rng: pd.Series([True, False] * n, dtype="boolean")[:n],
    "a column": lambda n, rng: (np.arange(n) % 2)[:, None],
    "several labels": lambda n, rng: rng.integers(0, 2, size=(n, 3)),
    "several labels, one never": lambda n, rng: np.column_stack([np.arange(n) % 2, np.zeros(n, dtype=int)]),
    "several columns of classes": lambda n, rng: rng.integers(0, 4, size=(n, 2)),
    "frame": lambda n, rng: pd.DataFrame({"label": np.arange(n) % 2}),
    "sparse": lambda n, rng: sparse.csr_matrix(rng.integers(0, 2, size=(n, 3))),
    "3-D": lambda n, rng: np.zeros((n, 1, 1), dtype=int),
    "0-D": lambda n, rng: 1,
    "None": lambda n, rng: None,
    "too many": lambda n, rng: np.arange(n + 1) % 2,
    "none at all": lambda n, rng: [],
    "a list": lambda n, rng: ["a", "b"] * (n // 2) + ["a"] * (n % 2),
    "a ragged list": lambda n, rng: [[1], [2, 3]] * n,
}

USUAL_TARGETS: Targets = {
    "normal": lambda n, rng: rng.normal(size=n),
    "scaled": lambda n, rng: rng.normal(size=n) * 10.0 ** rng.uniform(-30, 30),
    "shifted": lambda n, rng: rng.normal(size=n) + 10.0 ** rng.uniform(0, 18),
    "constant": lambda n, rng: np.full(n, pick(rng, [0.0, 1e-6, 1.0, -7.5, 1e300, 5e-324, 1e-300, 1e30])),
    "two outputs": lambda n, rng: rng.normal(size=(n, 2)) * 10.0 ** rng.uniform(-30, 30, size=2),
    "float32": lambda n, rng: rng.normal(size=n).astype(np.float32),
    "integers": lambda n, rng: rng.integers(-3, 3, size=n),
}
TARGETS: Targets = {
    **USUAL_TARGETS,
    "nearly constant": lambda n, rng: 1.0 + 10.0 ** rng.uniform(-17, -6) * rng.normal(size=n),
    "one output constant": lambda n, rng: np.column_stack([rng.normal(size=n), np.full(n, 3.0)]),
    "an outlier": lambda n, rng: np.where(np.arange(n) == 0, pick(rng, [1e30, 1e200, 1.7e308]), rng.normal(size=n)),
    "largest": lambda n, rng: np.where(np.arange(n) % 2 == 0, -1.7e308, 1.7e308),
    "denormal": lambda n, rng: rng.normal(size=n) * 1e-310,
    "bool": lambda n, rng: np.arange(n) % 2 == 0,
    "float16": lambda n, rng: rng.normal(size=n).astype(np.float16),
    "longdouble": lambda n, rng: rng.normal(size=n).astype(np.longdouble),
    "NaN": lambda n, rng: np.where(np.arange(n) == 0, np.nan, 1.0),
    "infinity": lambda n, rng: np.where(np.arange(n) == 0, -np.inf, 1.0),
    "text": lambda n, rng: np.array(["abc"] * n),
    "text of numbers": lambda n, rng: np.arange(n).astype(str),
    "objects": _of(1, 2.5),
    "objects and text": _of(1.0, "abc"),
    "objects and None": _of(1.0, None),
    "objects and pd.NA": _of(1.0, pd.NA),
    "decimals": _of(Decimal("1.5"), Decimal("2.5")),
    "lists": _of([1.0], [2.0]),
    "complex": lambda n, rng: rng.normal(size=n) + 1j,
    "dates": lambda n, rng: np.arange(n).astype("datetime64[D]"),
    "differences": lambda n, rng: np.arange(n).astype("timedelta64[s]"),
    "pd.NA": lambda n, rng: pd.Series([pd.NA, *[1.5] * n][:n], dtype="Float64"),
    "nullable": lambda n, rng: pd.Series([2.5, *[1.5] * n][:n], dtype="Float64"),
    "categories": lambda n, rng: pd.Series(pd.Categorical([1, *[2] * n][:n])),
    "frame": lambda n, rng: pd.DataFrame({"a": rng.normal(size=n), "b": rng.normal(size=n)}),
    "frame with text": lambda n, rng: pd.DataFrame({"a": rng.normal(size=n), "b": ["abc"] * n}),
    "a column": lambda n, rng: rng.normal(size=(n, 1)),
    "no outputs": lambda n, rng: np.zeros((n, 0)),
    "3-D": lambda n, rng: rng.normal(size=(n, 1, 2)),
    "sparse": lambda n, rng: sparse.csr_matrix(rng.normal(size=(n, 2))),
    "0-D": lambda n, rng: 1.0,
    "None": lambda n, rng: None,
    "too few": lambda n, rng: np.zeros(n - 1),
    "ragged": lambda n, rng: [[1.0], [2.0, 3.0]] * n,
}


def _targets(rng: Rng, n: int, usual: Targets, odd: Targets) -> tuple[Any, str]:
    targets = odd if rng.random() < 0.4 else usual
    kind = pick(rng, targets)
    return targets[kind](n, rng), kind


def classifier(rng: Rng) -> Case:
    """A classifier, a table with labels, and every call of its methods."""
    model = ODENetClassifier(hidden_layer_sizes=(4,), state_size=4, max_iter=2, random_state=0)
    changed = parameters.change(model, rng)
    X, given, done = tables.table(rng)
    y, kind_of_y = _targets(rng, len(X), USUAL_LABELS, LABELS)
    query, kind = tables.query(rng, X, given)
    in_parts, classes = bool(rng.random() < 0.15), _classes(rng, y)

    def fit(weights: Any) -> None:
        if in_parts:
            model.partial_fit(given, y, sample_weight=weights, classes=classes)
        else:
            model.fit(given, y, sample_weight=weights)

    def predict() -> Any:
        answer, nfe = model.predict(query, return_nfe=True)
        same("an answer a row", (len(answer), len(nfe)), (n_rows(query),) * 2)
        if model.target_type_ != "multilabel-indicator":
            holds("predictions are classes", set(np.unique(answer)) <= set(model.classes_))
        return nfe

    def predict_proba() -> Any:
        answer = model.predict_proba(query)
        same("a probability a class", answer.shape, (n_rows(query), len(model.classes_)))
        holds("probabilities are from 0 to 1", not ((answer < 0) | (answer > 1)).any())
        if model.target_type_ != "multilabel-indicator":
            holds(
                "probabilities add up to 1", np.allclose(answer.sum(axis=1), 1.0, atol=1e-5) or np.isnan(answer).any()
            )
        return answer

    own = {
        "predict_proba": predict_proba,
        "predict_log_proba": lambda: model.predict_log_proba(query),
    }
    told = {"parameters": changed, "X": done, "shape": X.shape, "y": kind_of_y, "query": kind, "in parts": in_parts}
    if in_parts:
        told["classes"] = classes
    return _case(model, rng, X, given, y, query, fit, predict, own, told)


def _classes(rng: Rng, y: Any) -> Any:
    """All classes that may come, or something else."""
    try:
        known = pd.unique(np.ravel(y))
    except (TypeError, ValueError):
        known = None
    return tables.mostly(rng, [known], [None, [], [0], ["a", 1], "ab", [[0, 1]], [0, 1, np.nan], 3])


def regressor(rng: Rng) -> Case:
    """A regressor, a table with targets, and every call of its methods."""
    model = ODENetRegressor(hidden_layer_sizes=(4,), state_size=4, max_iter=2, random_state=0)
    changed = parameters.change(model, rng)
    X, given, done = tables.table(rng)
    y, kind_of_y = _targets(rng, len(X), USUAL_TARGETS, TARGETS)
    query, kind = tables.query(rng, X, given)
    in_parts = bool(rng.random() < 0.15)

    def fit(weights: Any) -> None:
        (model.partial_fit if in_parts else model.fit)(given, y, sample_weight=weights)

    def predict() -> Any:
        answer, nfe = model.predict(query, return_nfe=True)
        same("an answer a row", (len(answer), len(nfe)), (n_rows(query),) * 2)
        return answer

    told = {"parameters": changed, "X": done, "shape": X.shape, "y": kind_of_y, "query": kind, "in parts": in_parts}
    return _case(model, rng, X, given, y, query, fit, predict, {}, told)


def _case(
    model: Any,
    rng: Rng,
    X: np.ndarray,
    given: Any,
    y: Any,
    query: Any,
    fit: Callable[[Any], None],
    predict: Callable[[], Any],
    own: dict[str, Callable[[], Any]],
    told: dict[str, Any],
) -> Case:
    """What both have in common."""
    weights, kind_of_weights = tables.weights(rng, len(X))
    times = tables.mostly(rng, *TIMES)
    in_parts = told["in parts"]

    def fitted() -> Any:
        fit(weights)
        return model.loss_curve_

    def pickled() -> None:
        again = pickle.loads(pickle.dumps(model))
        same("an answer of a pickle", again.predict(given), model.predict(given))

    def part() -> Any:
        return model.partial_fit(given, y).loss_curve_

    def transform() -> Any:
        answer = model.transform(query)
        same("a state a row", answer.shape, (n_rows(query), len(model.get_feature_names_out())))
        return answer

    steps = {
        "partial_fit" if in_parts else "fit": fitted,
        "predict": predict,
        **own,
        "score": lambda: model.score(given, y, sample_weight=weights),
        "transform": transform,
        "trajectory": lambda: model.trajectory(query, times),
        "pickle": pickled,
    }
    if rng.random() < 0.1:
        steps["a part more"] = part
    if rng.random() < 0.1:
        steps["fit again"] = lambda: clone(model).set_params(warm_start=True).fit(given, y).fit(given, y).loss_curve_
    return Case(model, steps, told | {"weights": kind_of_weights, "times": times}, rng)

"""Tables, their weights and targets: common ones, odd ones, and such as no estimator can take."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy import sparse

Rng = np.random.Generator
Change = Callable[[np.ndarray, Rng], Any]


def pick(rng: Rng, options: Any) -> Any:
    """One of several things of whatever kind."""
    options = list(options)
    return options[rng.integers(len(options))]


def mostly(rng: Rng, usual: Any, odd: Any) -> Any:
    """A usual thing, or once in ten times an odd one."""
    return pick(rng, odd if rng.random() < 0.1 else usual)


def _with(X: np.ndarray, rng: Rng, *values: Any) -> np.ndarray:
    """Some entries replaced."""
    X = X.copy()
    if X.size:
        X.flat[rng.integers(X.size, size=1 + int(rng.integers(3)))] = pick(rng, values)
    return X


def _column(X: np.ndarray, rng: Rng, new: Callable[[np.ndarray], Any]) -> np.ndarray:
    """One column replaced by what is made of it."""
    X = X.copy()
    if X.shape[1]:
        j = rng.integers(X.shape[1])
        X[:, j] = new(X[:, j])
    return X


def _repeated(X: np.ndarray, rng: Rng) -> np.ndarray:
    return X[rng.integers(max(len(X) // 3, 1), size=len(X))]


def _beside(X: np.ndarray, *columns: np.ndarray) -> np.ndarray:
    return np.column_stack([X, *columns])


#: Tables of floats made odd.
NUMERIC: dict[str, Change] = {
    "scaled": lambda X, rng: X * 10.0 ** rng.uniform(-30, 30),
    "columns scaled": lambda X, rng: X * 10.0 ** rng.uniform(-30, 30, size=X.shape[1]),
    "shifted": lambda X, rng: X + 10.0 ** rng.uniform(0, 18),
    "a constant column": lambda X, rng: _column(X, rng, lambda x: pick(rng, [0.0, 1.0, -1e-300, 1e30, 1e300])),
    "a nearly constant column": lambda X, rng: _column(X, rng, lambda x: 1.0 + 10.0 ** rng.uniform(-17, -6) * x),
    "all zero": lambda X, rng: np.zeros_like(X),
    "a column twice": lambda X, rng: _beside(X, X[:, :1]),
    "a sum of columns": lambda X, rng: _beside(X, X.sum(axis=1)),
    "nearly a sum of columns": lambda X, rng: _beside(
        X, X.sum(axis=1) + 10.0 ** rng.uniform(-16, -3) * rng.normal(size=len(X))
    ),
    "whole numbers": lambda X, rng: np.round(X),
    "heavy tails": lambda X, rng: rng.standard_cauchy(X.shape) ** pick(rng, [1, 3, 9]),
    "an outlier": lambda X, rng: _with(X, rng, 1e6, -1e30, 1e100, 1e200, 1.7e308),
    "largest floats": lambda X, rng: np.sign(X) * 1.7e308,
    "denormal floats": lambda X, rng: X * 1e-310,
    "rows repeated": _repeated,
    "NaN": lambda X, rng: _with(X, rng, np.nan),
    "infinity": lambda X, rng: _with(X, rng, np.inf, -np.inf),
    "two values": lambda X, rng: (X > 0).astype(float),
}


def frame(X: np.ndarray, rng: Rng) -> pd.DataFrame:
    """A DataFrame with names."""
    return pd.DataFrame(X, columns=[f"column_{j}" for j in range(X.shape[1])])


def _frame_with(X: np.ndarray, rng: Rng, make: Callable[[int], Any]) -> pd.DataFrame:
    made = frame(X, rng)
    made["column_odd"] = make(len(X))
    return made


def _named(X: np.ndarray, names: list[Any]) -> pd.DataFrame:
    return pd.DataFrame(X, columns=(names * X.shape[1])[: X.shape[1]])


#: What a table may come as.
FORMS: dict[str, Change] = {
    "float32": lambda X, rng: np.clip(X, -3e38, 3e38).astype(np.float32),
    "float16": lambda X, rng: np.clip(X, -6e4, 6e4).astype(np.float16),
    "longdouble": lambda X, rng: X.astype(np.longdouble),
    "int64": lambda X, rng: np.nan_to_num(np.clip(X, -1e15, 1e15)).astype(np.int64),
    "int8": lambda X, rng: np.nan_to_num(np.clip(X, -100, 100)).astype(np.int8),
    "uint64": lambda X, rng: np.nan_to_num(np.clip(np.abs(X), 0, 1e15)).astype(np.uint64),
    "bool": lambda X, rng: X > 0,
    "complex": lambda X, rng: X + 1j,
    "objects": lambda X, rng: X.astype(object),
    "objects and None": lambda X, rng: _with(X.astype(object), rng, None, pd.NA),
    "objects and text": lambda X, rng: _with(X.astype(object), rng, "abc", "1.5"),
    "decimals": lambda X, rng: np.array([[Decimal(float(x)) for x in row] for row in X]),
    "text": lambda X, rng: X.astype(str),
    "list": lambda X, rng: X.tolist(),
    "ragged list": lambda X, rng: [*X.tolist(), [1.0]],
    "Fortran order": lambda X, rng: np.asfortranarray(X),
    "a view": lambda X, rng: np.repeat(X, 2, axis=0)[::2],
    "frame": frame,
    "frame of int names": lambda X, rng: pd.DataFrame(X),
    "frame of equal names": lambda X, rng: _named(X, ["a"]),
    "frame of mixed names": lambda X, rng: _named(X, ["a", 1]),
    "frame of nullable floats": lambda X, rng: frame(X, rng).convert_dtypes(),
    "frame with pd.NA": lambda X, rng: _frame_with(X, rng, lambda n: pd.array([1, pd.NA, *[3] * n][:n], "Int64")),
    "frame with text": lambda X, rng: _frame_with(X, rng, lambda n: ["abc"] * n),
    "frame with dates": lambda X, rng: _frame_with(X, rng, lambda n: pd.date_range("2020", periods=n)),
    "frame with differences": lambda X, rng: _frame_with(X, rng, lambda n: pd.to_timedelta(np.arange(n), unit="s")),
    "frame with categories": lambda X, rng: _frame_with(X, rng, lambda n: pd.Categorical(["a", "b", *["a"] * n][:n])),
    "frame with bool": lambda X, rng: _frame_with(X, rng, lambda n: np.arange(n) % 2 == 0),
    "frame with objects": lambda X, rng: _frame_with(X, rng, lambda n: [[1]] * n),
    "series": lambda X, rng: pd.Series(X[:, 0]) if X.shape[1] else pd.Series(dtype=float),
    "1-D": lambda X, rng: X.ravel(),
    "3-D": lambda X, rng: X[None],
    "0-D": lambda X, rng: 3.0,
    "None": lambda X, rng: None,
    "a word": lambda X, rng: "table",
    "no rows": lambda X, rng: X[:0],
    "no columns": lambda X, rng: X[:, :0],
    "sparse": lambda X, rng: sparse.csr_matrix(X),
    "sparse array": lambda X, rng: sparse.coo_array(X),
    "masked": lambda X, rng: np.ma.masked_array(X, mask=np.abs(X) > 1),
    "matrix": lambda X, rng: pd.DataFrame(X).to_numpy().view(np.ndarray),
    "torch": lambda X, rng: torch.from_numpy(X.copy()),
    "dates": lambda X, rng: np.nan_to_num(np.clip(X, -1e9, 1e9)).astype("datetime64[s]"),
    "records": lambda X, rng: np.array([(1.0, 2)] * len(X), dtype=[("a", float), ("b", int)]),
}

ROWS, COLUMNS = (1, 2, 3, 5, 12, 30, 60), (1, 1, 2, 3, 5, 25)


def table(rng: Rng, *, p_odd: float = 0.35, p_form: float = 0.2) -> tuple[np.ndarray, Any, list[str]]:
    """Floats, the same as they are handed over, and what was done to them."""
    rows = pick(rng, ROWS if rng.random() < 0.4 else ROWS[4:])
    X = rng.normal(size=(rows, pick(rng, COLUMNS)))
    done = []
    with np.errstate(all="ignore"):
        for _ in range(2):
            if rng.random() < p_odd:
                done.append(pick(rng, NUMERIC))
                X = NUMERIC[done[-1]](X, rng)
        given: Any = X
        if rng.random() < p_form:
            done.append(pick(rng, FORMS))
            given = FORMS[done[-1]](X, rng)
    return X, given, done


def query(rng: Rng, X: np.ndarray, given: Any) -> tuple[Any, str]:
    """A table to be answered for: mostly the one that was fitted, or one that is odd in relation to it."""
    kind = pick(rng, ["same"] * 10 + ["one row", "far", "very far", "small floats", "NaN", "more columns", "no rows"])
    with np.errstate(all="ignore"):
        made = {
            "same": lambda: given,
            "one row": lambda: X[:1],
            "far": lambda: X * 1e4 + 1e3,
            "very far": lambda: X * 10.0 ** rng.uniform(10, 300),
            "small floats": lambda: np.clip(X, -3e38, 3e38).astype(np.float32),
            "NaN": lambda: np.full_like(X, np.nan),
            "more columns": lambda: _beside(X, X[:, :1]),
            "no rows": lambda: X[:0],
        }[kind]()
    return made, kind


#: Weights of n samples.
WEIGHTS: dict[str, Callable[[int, Rng], Any]] = {
    "ones": lambda n, rng: np.ones(n),
    "random": lambda n, rng: rng.exponential(size=n),
    "whole": lambda n, rng: rng.integers(1, 4, size=n),
    "some zero": lambda n, rng: rng.integers(0, 2, size=n).astype(float),
    "all zero": lambda n, rng: np.zeros(n),
    "only one": lambda n, rng: np.eye(n)[0],
    "a negative one": lambda n, rng: np.where(np.arange(n) == 0, -1.0, 1.0),
    "NaN": lambda n, rng: np.where(np.arange(n) == 0, np.nan, 1.0),
    "infinity": lambda n, rng: np.where(np.arange(n) == 0, np.inf, 1.0),
    "large": lambda n, rng: np.full(n, 10.0 ** rng.uniform(10, 308)),
    "small": lambda n, rng: np.full(n, 10.0 ** rng.uniform(-320, -10)),
    "unequal": lambda n, rng: 10.0 ** rng.uniform(-30, 30, size=n),
    "text": lambda n, rng: np.array(["heavy"] * n),
    "text of numbers": lambda n, rng: ["1.0"] * n,
    "objects": lambda n, rng: np.array([None, "a", *[1.0] * n], dtype=object)[:n],
    "a number": lambda n, rng: 2.0,
    "a word": lambda n, rng: "balanced",
    "too many": lambda n, rng: np.ones(n + 1),
    "a column": lambda n, rng: np.ones((n, 1)),
    "bool": lambda n, rng: np.arange(n) % 2 == 0,
    "series": lambda n, rng: pd.Series(np.ones(n), index=np.arange(n)[::-1]),
    "pd.NA": lambda n, rng: pd.Series([pd.NA, *[1] * n][:n], dtype="Int64"),
    "complex": lambda n, rng: np.ones(n) + 1j,
    "dates": lambda n, rng: np.ones(n).astype("datetime64[s]"),
}


def weights(rng: Rng, n: int, *, p: float = 0.15) -> tuple[Any, str]:
    """Weights, mostly None."""
    if rng.random() >= p:
        return None, "None"
    kind = pick(rng, WEIGHTS)
    with np.errstate(all="ignore"):
        return WEIGHTS[kind](n, rng), kind

"""Cases of LatentODERegressor."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import clone

from skode import LatentODERegressor
from tests.fuzz import parameters, tables
from tests.fuzz.cases import Case, same
from tests.fuzz.tables import Rng, pick

#: What times are made into.
TIMES: dict[str, Callable[[np.ndarray, Rng], Any]] = {
    "shuffled": lambda t, rng: rng.permutation(t),
    "equal in pairs": lambda t, rng: np.repeat(t[::2], 2)[: len(t)],
    "all equal": lambda t, rng: np.full_like(t, 3.0),
    "scaled": lambda t, rng: t * 10.0 ** rng.uniform(-30, 30),
    "shifted": lambda t, rng: t + 10.0 ** rng.uniform(0, 18),
    "negative": lambda t, rng: -t,
    "one absurd": lambda t, rng: np.where(np.arange(len(t)) == len(t) - 1, pick(rng, [1e4, 1e9, 1e18, 1e300]), t),
    "denormal": lambda t, rng: t * 1e-310,
    "largest": lambda t, rng: np.sign(t - 1.0) * 1.7e308,
    "NaN": lambda t, rng: np.where(np.arange(len(t)) == 0, np.nan, t),
    "infinity": lambda t, rng: np.where(np.arange(len(t)) == 0, np.inf, t),
    "integers": lambda t, rng: np.round(10 * t).astype(int),
    "float32": lambda t, rng: t.astype(np.float32),
    "bool": lambda t, rng: t > 1,
    "text": lambda t, rng: t.astype(str),
    "complex": lambda t, rng: t + 1j,
    "dates": lambda t, rng: pd.Timestamp("2020-01-01") + pd.to_timedelta(np.round(t * 1e5), unit="s"),
    "dates with a zone": lambda t, rng: pd.date_range("2020-03-28", periods=len(t), freq="h", tz="Europe/Paris"),
    "dates with NaT": lambda t, rng: pd.to_datetime([pd.NaT, *["2020-01-01"] * len(t)][: len(t)]),
    "an absurd date": lambda t, rng: np.array(
        ["9999-12-31" if i == 0 else f"2020-01-{1 + i % 28:02d}" for i in range(len(t))], dtype="datetime64[s]"
    ),
    "date objects": lambda t, rng: list(pd.date_range("2020", periods=len(t)).date),
    "text dates": lambda t, rng: pd.date_range("2020", periods=len(t)).astype(str),
    "differences": lambda t, rng: pd.to_timedelta(t, unit="h"),
    "periods": lambda t, rng: pd.period_range("2020-01", periods=len(t), freq="M"),
    "objects": lambda t, rng: t.astype(object),
    "objects and text": lambda t, rng: np.array(["abc", *t][: len(t)], dtype=object),
    "nullable": lambda t, rng: pd.array(t, dtype="Float64"),
    "pd.NA": lambda t, rng: pd.array([pd.NA, *t][: len(t)], dtype="Float64"),
    "categories": lambda t, rng: pd.Categorical(np.round(t)),
}

#: What ids, 0, 1, ..., are made into.
IDS: dict[str, Callable[[np.ndarray, Rng], Any]] = {
    "text": lambda c, rng: np.array([f"series {i}" for i in c], dtype=object),
    "mixed": lambda c, rng: np.array([i if i % 2 else f"series {i}" for i in c], dtype=object),
    "floats": lambda c, rng: c + 0.5,
    "NaN": lambda c, rng: np.where(c == 0, np.nan, c),
    "None": lambda c, rng: np.array([None if i == 0 else i for i in c], dtype=object),
    "pd.NA": lambda c, rng: pd.array([pd.NA, *c][: len(c)], dtype="Int64"),
    "nullable": lambda c, rng: pd.array(c, dtype="Int64"),
    "tuples": lambda c, rng: pd.Series([(i, "a") for i in c]),
    "lists": lambda c, rng: pd.Series([[i] for i in c]),
    "dicts": lambda c, rng: pd.Series([{"id": i} for i in c]),
    "categories": lambda c, rng: pd.Categorical(c.astype(str)),
    "dates": lambda c, rng: pd.Timestamp("2020-01-01") + pd.to_timedelta(c, unit="D"),
    "bool": lambda c, rng: c > 0,
    "each its own": lambda c, rng: np.arange(len(c)),
    "complex": lambda c, rng: c + 1j,
    "infinity": lambda c, rng: np.where(c == 0, np.inf, c),
    "large": lambda c, rng: c + 2**62,
}

#: What values of two outputs are made into.
VALUES: dict[str, Callable[[np.ndarray, Rng], Any]] = {
    "some NaN": lambda y, rng: np.where(rng.random(y.shape) < 0.4, np.nan, y),
    "all NaN": lambda y, rng: np.full_like(y, np.nan),
    "one output NaN": lambda y, rng: np.where(np.arange(y.shape[1]) == 0, np.nan, y),
    "a series NaN": lambda y, rng: np.where(np.arange(len(y))[:, None] < len(y) // 2, np.nan, y),
    "one value": lambda y, rng: np.where(np.arange(y.size).reshape(y.shape) == 0, y, np.nan),
    "constant": lambda y, rng: np.full_like(y, pick(rng, [0.0, 1e-6, 1.0, -3.0, 1e30, 1e300, 5e-324])),
    "nearly constant": lambda y, rng: 1.0 + 10.0 ** rng.uniform(-17, -6) * y,
    "scaled": lambda y, rng: y * 10.0 ** rng.uniform(-30, 30),
    "shifted": lambda y, rng: y + 10.0 ** rng.uniform(0, 18),
    "an outlier": lambda y, rng: np.where(
        np.arange(y.size).reshape(y.shape) == 0, pick(rng, [1e6, 1e30, 1e200, 1.7e308]), y
    ),
    "largest": lambda y, rng: np.sign(y) * 1.7e308,
    "denormal": lambda y, rng: y * 1e-310,
    "infinity": lambda y, rng: np.where(np.arange(y.size).reshape(y.shape) == 0, np.inf, y),
    "binary": lambda y, rng: (y > 0).astype(int),
    "counts": lambda y, rng: rng.poisson(2.0, size=y.shape),
    "large counts": lambda y, rng: rng.poisson(2.0, size=y.shape) * 10 ** int(rng.integers(3, 13)),
    "zeros": lambda y, rng: np.zeros_like(y),
    "bool": lambda y, rng: y > 0,
    "text": lambda y, rng: y.astype(str),
    "words": lambda y, rng: np.full(y.shape, "abc"),
    "objects": lambda y, rng: y.astype(object),
    "objects and None": lambda y, rng: np.where(rng.random(y.shape) < 0.4, None, y),
    "objects and pd.NA": lambda y, rng: np.where(rng.random(y.shape) < 0.4, pd.NA, y.astype(object)),
    "complex": lambda y, rng: y + 1j,
    "dates": lambda y, rng: np.round(np.clip(y, -9, 9) * 1e5).astype("datetime64[s]"),
    "float16": lambda y, rng: y.astype(np.float16),
    "frame": lambda y, rng: pd.DataFrame(y, columns=[f"column_{j}" for j in range(y.shape[1])]),
    "frame of equal names": lambda y, rng: pd.DataFrame(y, columns=["column_0"] * y.shape[1]),
    "frame with names of X": lambda y, rng: pd.DataFrame(y, columns=["series", "time"][: y.shape[1]]),
    "frame with text": lambda y, rng: pd.DataFrame(y).assign(column_odd="abc"),
    "nullable": lambda y, rng: pd.DataFrame(y).convert_dtypes(),
    "no outputs": lambda y, rng: y[:, :0],
    "3-D": lambda y, rng: y[None],
    "too few": lambda y, rng: y[1:],
    "None": lambda y, rng: None,
    "0-D": lambda y, rng: 1.0,
}

#: What a covariate is made into.
COVARIATES: dict[str, Callable[[np.ndarray, Rng], Any]] = {
    "normal": lambda u, rng: u,
    "scaled": lambda u, rng: u * 10.0 ** rng.uniform(-30, 30),
    "shifted": lambda u, rng: u + 10.0 ** rng.uniform(0, 18),
    "constant": lambda u, rng: np.full_like(u, pick(rng, [0.0, 1.0, 1e300])),
    "an outlier": lambda u, rng: np.where(np.arange(len(u)) == 0, pick(rng, [1e6, 1e30, 1e200, 1.7e308]), u),
    "largest": lambda u, rng: np.sign(u) * 1.7e308,
    "bool": lambda u, rng: u > 0,
    "NaN": lambda u, rng: np.where(np.arange(len(u)) == 0, np.nan, u),
    "infinity": lambda u, rng: np.where(np.arange(len(u)) == 0, np.inf, u),
    "text": lambda u, rng: np.full(len(u), "abc"),
    "text of numbers": lambda u, rng: u.astype(str),
    "complex": lambda u, rng: u + 1j,
    "dates": lambda u, rng: pd.date_range("2020", periods=len(u)),
    "nullable": lambda u, rng: pd.array(u, dtype="Float64"),
    "pd.NA": lambda u, rng: pd.array([pd.NA, *u][: len(u)], dtype="Float64"),
    "objects": lambda u, rng: u.astype(object),
    "lists": lambda u, rng: pd.Series([[1.0]] * len(u)),
    "categories": lambda u, rng: pd.Categorical(np.round(u)),
}

#: What a frame of rows is handed over as.
FORMS: dict[str, Callable[[pd.DataFrame, Rng], Any]] = {
    "array": lambda X, rng: X.to_numpy(),
    "list": lambda X, rng: X.to_numpy().tolist(),
    "float32": lambda X, rng: X.to_numpy().astype(np.float32) if X.shape[1] else X,
    "index of series": lambda X, rng: X.set_index("series"),
    "index of series and time": lambda X, rng: X.set_index(["series", "time"]),
    "index of numbers": lambda X, rng: X.set_index(np.zeros(len(X), dtype=int)),
    "time twice": lambda X, rng: pd.concat([X, X[["time"]]], axis=1),
    "a covariate twice": lambda X, rng: pd.concat([X, X.iloc[:, -1:]], axis=1),
    "mixed names": lambda X, rng: X.assign(column_1=1.0).rename(columns={"column_1": 1}),
    "int names": lambda X, rng: X.set_axis(range(X.shape[1]), axis=1),
    "no time": lambda X, rng: X.drop(columns="time"),
    "no rows": lambda X, rng: X.iloc[:0],
    "no columns": lambda X, rng: X.iloc[:, :0],
    "columns of two levels": lambda X, rng: X.set_axis(pd.MultiIndex.from_product([["a"], X.columns]), axis=1),
    "records": lambda X, rng: X.to_records(),
    "a column": lambda X, rng: X["time"],
    "1-D": lambda X, rng: np.arange(len(X)),
    "3-D": lambda X, rng: np.zeros((1, *X.shape)),
    "None": lambda X, rng: None,
    "a word": lambda X, rng: "panel",
}


def _panel(rng: Rng) -> tuple[pd.DataFrame, np.ndarray]:
    """A usual panel: rows of a few series, and values of their outputs."""
    lengths = rng.integers(1, 7, size=pick(rng, [1, 2, 2, 4]))
    codes = np.repeat(np.arange(len(lengths)), lengths)
    time = np.concatenate([np.sort(rng.uniform(0, 2, size=n)) for n in lengths])
    X = pd.DataFrame({"series": codes, "time": time})
    for j in range(pick(rng, [0, 0, 1, 2])):
        X[f"column_{j}"] = rng.normal(size=len(X))
    y = np.column_stack([np.sin(3 * time + j) + 0.1 * rng.normal(size=len(time)) for j in range(pick(rng, [1, 1, 2]))])
    return X, y


def case(rng: Rng) -> Case:
    """A latent ODE, a panel, and every call of its methods."""
    model = LatentODERegressor(
        series="series",
        time="time",
        latent_size=2,
        hidden_layer_sizes=(4,),
        encoder_size=4,
        max_iter=2,
        n_draws=2,
        early_stopping=False,
        posterior=pick(rng, ["laplace", "encoder", "encoder"]),
        rtol=1e-2,
        atol=1e-2,
        random_state=0,
    )
    changed = parameters.change(model, rng)
    X, y = _panel(rng)
    done = []
    with np.errstate(all="ignore"):
        if rng.random() < 0.3:
            done.append(pick(rng, TIMES))
            X["time"] = TIMES[done[-1]](X["time"].to_numpy(), rng)
        if rng.random() < 0.2:
            done.append(pick(rng, IDS))
            X["series"] = IDS[done[-1]](X["series"].to_numpy(), rng)
        if X.shape[1] > 2 and rng.random() < 0.4:
            done.append(f"covariate {pick(rng, COVARIATES)}")
            X["column_0"] = COVARIATES[done[-1].removeprefix("covariate ")](X["column_0"].to_numpy(), rng)
        likelihood = pick(rng, ["gaussian"] * 4 + ["bernoulli", "poisson"]) if "likelihood" not in changed else None
        values: Any = y
        if likelihood is not None:
            model.set_params(likelihood=likelihood)
            values = {"gaussian": y, "bernoulli": (y > 0).astype(float), "poisson": np.round(np.abs(3 * y))}[likelihood]
        if rng.random() < 0.4:
            done.append(f"y {pick(rng, VALUES)}")
            values = VALUES[done[-1].removeprefix("y ")](values, rng)
        elif y.shape[1] == 1 and rng.random() < 0.5:
            values = values[:, 0]
        given: Any = X
        if rng.random() < 0.15:
            done.append(pick(rng, FORMS))
            try:
                given = FORMS[done[-1]](X, rng)
            except (TypeError, ValueError):  # there is no such form of what is in it
                done.pop()
            if not isinstance(given, pd.DataFrame) and rng.random() < 0.7:
                model.set_params(series=0, time=1)
    query, kind = _query(rng, X, given)
    weights, kind_of_weights = tables.weights(rng, len(X), p=0.15)
    n = tables.mostly(rng, [1, 2, np.int64(2)], [0, -1, 1.5, "2", None, 10**11])
    times = tables.mostly(rng, [None, None, [0.0, 1.0], [1.0, 0.5, 0.5]], [[], 1.0, ["a"], [np.nan], [1e300], [[0.0]]])
    covariates = tables.mostly(rng, [None], [0.0, [1.0], np.zeros((3, 3, 3)), [np.nan], "a", [1e300]])
    factor = float(tables.mostly(rng, [1.0], [0.0, 1e6, 1e30, 1e200]))  # of the values that are judged
    told = {"parameters": changed, "likelihood": likelihood, "done": done, "shape": (*X.shape, y.shape[1])}
    told |= {
        "query": kind,
        "weights": kind_of_weights,
        "n": n,
        "times": times,
        "covariates": covariates,
        "factor": factor,
    }

    def fit() -> Any:
        return model.fit(given, values).loss_curve_

    def score_samples() -> Any:
        judged = values if factor == 1.0 else np.asarray(values, dtype=np.float64) * factor
        answer = model.score_samples(given, judged)
        seen = ~pd.isna(np.asarray(values, dtype=object).reshape(len(answer), -1)).all(axis=1)
        same("rows without an observation are NaN", np.isnan(answer[~seen]).all(), True)
        return answer[seen]

    def score() -> Any:
        answer = model.score(given, values, sample_weight=weights)
        seen = ~pd.isna(np.asarray(values, dtype=object).reshape(len(X), -1))
        return answer if (seen.sum(axis=0) >= 2).any() else None  # NaN is the documented answer

    def condition() -> Any:
        new = model.condition(given, values)
        return new.predict(given)

    def pickled() -> None:
        again = pickle.loads(pickle.dumps(model))
        same("an answer of a pickle", again.predict(given), model.predict(given))

    def noise() -> Any:
        return (model.noise_std_, model.noise_share_) if hasattr(model, "noise_std_") else None

    def warm() -> Any:
        return clone(model).set_params(warm_start=True).fit(given, values).fit(given, values).loss_curve_

    steps = {
        "fit": fit,
        "predict": lambda: model.predict(query, return_std=True),
        "score_samples": score_samples,
        "score": score,
        "sample_y": lambda: model.sample_y(query, n_samples=n, random_state=0),
        "sample": lambda: _numbers(model.sample(n, times, covariates=covariates, random_state=0)),
        "transform": lambda: model.transform(query),
        "latent_states": lambda: model.latent_states(),
        "latent_trajectory": lambda: model.latent_trajectory(query),
        "condition": condition,
        "noise": noise,
        "pickle": pickled,
    }
    if model.observation_times == "poisson":
        steps["predict_intensity"] = lambda: model.predict_intensity(query)
    if rng.random() < 0.05:
        steps["fit again"] = warm
    return Case(model, steps, told, rng)


def _query(rng: Rng, X: pd.DataFrame, given: Any) -> tuple[Any, str]:
    """Rows to be answered for: mostly those that were fitted, or others."""
    kind = pick(rng, ["same"] * 8 + ["new ids", "later", "long before", "one row", "no rows", "other columns"])
    try:
        return {
            "same": lambda: given,
            "new ids": lambda: X.assign(series=[f"new {i % 2}" for i in range(len(X))]),
            "later": lambda: X.assign(time=X["time"] + pick(rng, [1.0, 100.0, 1e6, 1e300])),
            "long before": lambda: X.assign(time=X["time"] - pick(rng, [1.0, 100.0, 1e6, 1e300])),
            "one row": lambda: X.iloc[:1],
            "no rows": lambda: X.iloc[:0],
            "other columns": lambda: X.assign(column_odd=1.0),
        }[kind](), kind
    except TypeError:  # of times that have no such sum
        return given, "same"


def _numbers(frame: pd.DataFrame) -> list[np.ndarray]:
    """The numeric columns of a frame."""
    return [column.to_numpy() for _, column in frame.select_dtypes("number").items()]

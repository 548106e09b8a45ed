"""Exported models beside the estimators: how far answers are off, and how long one row takes.

``python -m tests.benchmarks.exports [--only NAME]`` prints a table: for each estimator, field, method and tolerance the
largest difference of the answers in onnxruntime and of ``torch.export`` from the estimator's own over all rows, the
median latency of one row (one series) of each, and how many times longer the estimator takes than onnxruntime.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pandas as pd
import torch
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, make_moons

from skode import CNFDensityEstimator, LatentODERegressor, ODENetClassifier, ODENetRegressor

#: Tolerances of the adaptive methods.
TOLERANCES = (1e-3, 1e-4, 1e-5, 1e-6)

#: Calls that a median is taken of.
ROUNDS = 30

Answer = Callable[[dict[str, np.ndarray]], list[np.ndarray]]
Case = tuple[str, Any, dict[str, np.ndarray], dict[str, np.ndarray], Callable[[bool], list[np.ndarray]]]


def supervised() -> Iterator[Case]:
    """Classifiers and regressors: fields, methods, tolerances."""
    X, y = make_moons(200, noise=0.2, random_state=0)
    settings = {"max_iter": 20, "random_state": 0, "alpha": 1e-4}
    for field in (None, "concatsquash", "gated_planar"):
        model = ODENetClassifier(field=field, **settings).fit(X, y)
        for rtol in TOLERANCES if field is None else (1e-3, 1e-6):
            model.set_params(rtol=rtol, atol=1e-3 * rtol)
            yield of_rows(f"classifier, {field or 'perceptron'}, dopri5, {rtol:g}", model, "predict_proba", X)
    model = ODENetClassifier(**settings).fit(X, y)
    for method in ("bosh3", "tsit5", "dopri8"):
        model.set_params(method=method, rtol=1e-5, atol=1e-8)
        yield of_rows(f"classifier, perceptron, {method}, 1e-05", model, "predict_proba", X)
    for method in ("euler", "rk4"):
        model.set_params(method=method)
        yield of_rows(f"classifier, perceptron, {method}, 10 steps", model, "predict_proba", X)
    X, y = load_breast_cancer(return_X_y=True)
    yield of_rows("classifier, 30 columns, dopri5, 0.001", ODENetClassifier(**settings).fit(X, y), "predict_proba", X)
    model = ODENetClassifier(**settings).fit(X.astype(np.float32), y)
    yield of_rows("classifier, float32, dopri5, 0.001", model, "predict_proba", X.astype(np.float32))
    X, y = load_digits(return_X_y=True)
    X = X.astype(np.float32)  # runtimes have no convolutions of double precision
    model = ODENetClassifier(**{**settings, "max_iter": 2, "image_shape": (1, 8, 8), "hidden_layer_sizes": (16,)})
    yield of_rows("classifier, images, dopri5, 0.001", model.fit(X[:300], y[:300]), "predict_proba", X[:100])
    X, y = load_diabetes(return_X_y=True)
    yield of_rows(
        "regressor, evolving, dopri5, 0.001", ODENetRegressor(evolving_weights=True, **settings).fit(X, y), "predict", X
    )


def densities() -> Iterator[Case]:
    """Densities: fields, marginals, discrete columns."""
    rng = np.random.RandomState(0)
    X = rng.standard_t(3, size=(200, 2))
    X[:, 1] += X[:, 0] ** 2
    settings = {"max_iter": 20, "random_state": 0, "hidden_layer_sizes": (32,)}
    for field in ("mlp", "concatsquash", "gated_planar"):
        model = CNFDensityEstimator(field=field, **settings).fit(X)
        for rtol in TOLERANCES if field == "mlp" else (1e-3,):
            model.set_params(rtol=rtol, atol=1e-3 * rtol)
            yield of_rows(f"density, {field}, dopri5, {rtol:g}", model, "score_samples", X)
    discrete = np.column_stack([X, rng.randint(0, 3, len(X))])
    yield of_rows(
        "density, a discrete column, dopri5, 0.001",
        CNFDensityEstimator(**settings).fit(discrete),
        "score_samples",
        discrete[:40],
    )


def of_rows(name: str, model: Any, method: str, X: np.ndarray) -> Case:
    """A case whose input is a table."""
    return name, model, {"X": X}, {"X": X[:1]}, lambda one: [getattr(model, method)(X[:1] if one else X)]


def panels() -> Iterator[Case]:
    """Latent ODEs: posteriors, encoders, covariates."""
    for name, options, with_dose in (
        ("encoder, gru", {"posterior": "encoder"}, False),
        ("encoder, ode_rnn", {"posterior": "encoder", "encoder": "ode_rnn"}, False),
        ("laplace, white noise", {"noise": "white"}, False),
        ("laplace, coloured noise", {}, False),
        ("laplace, a covariate", {}, True),
    ):
        columns = ["series", "time", "dose"][: 2 + with_dose]
        X, y = waves(20, seed=0)
        model = LatentODERegressor("series", "time", max_iter=30, random_state=0, latent_size=4, **options)
        model.fit(X[columns], y)
        (known, y), (new, _) = waves(10, seed=1), waves(10, seed=2)
        new["series"] = known["series"].unique()[new["series"] - new["series"].min()]

        def inputs(known: pd.DataFrame, y: np.ndarray, new: pd.DataFrame, with_dose: bool = with_dose) -> dict:
            found = {
                "known_times": in_slots(known, known["time"]),
                "known_y": in_slots(known, y)[..., None],
                "times": in_slots(new, new["time"]),
            }
            if with_dose:
                found["known_covariates"] = in_slots(known, known["dose"])[..., None]
                found["covariates"] = in_slots(new, new["dose"])[..., None]
            return found

        def answer(one: bool, model: Any = model, columns: list[str] = columns, known=known, y=y, new=new) -> list:
            first = known["series"].iloc[0]
            kept = known["series"] == first if one else slice(None)
            query = new[new["series"] == first] if one else new
            found = model.condition(known[columns][kept], y[kept]).predict(query[columns], return_std=True)
            return [in_slots(query, x)[..., None] for x in found]

        first = known["series"] == known["series"].iloc[0]
        one = inputs(known[first], y[first], new[new["series"] == known["series"].iloc[0]])
        yield f"latent ODE, {name}, dopri5, 0.001", model, inputs(known, y, new), one, answer


def waves(n_series: int, seed: int) -> tuple[pd.DataFrame, np.ndarray]:
    """Noisy sines at irregular times, with a covariate."""
    rng = np.random.RandomState(seed)
    series = np.repeat(np.arange(n_series) + 100 * seed, rng.randint(8, 16, n_series))
    X = pd.DataFrame({"series": series, "time": rng.uniform(0.0, 6.0, len(series)), "dose": rng.randn(len(series))})
    X = X.sort_values(["series", "time"], ignore_index=True)
    return X, np.sin(2.0 * X["time"] + X["series"]).to_numpy() + 0.1 * rng.randn(len(X))


def in_slots(X: pd.DataFrame, values: Any) -> np.ndarray:
    """Values of rows with a row for each series, NaN behind its last one."""
    parts = [np.asarray(values)[np.flatnonzero(X["series"] == name)] for name in X["series"].unique()]
    slots = np.full((len(parts), max(map(len, parts))), np.nan)
    for row, part in zip(slots, parts, strict=True):
        row[: len(part)] = part
    return slots


def median_ms(function: Callable[[], Any]) -> float:
    """Median of the milliseconds that a call takes."""
    function()
    spent = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        function()
        spent.append(1e3 * (time.perf_counter() - start))
    return statistics.median(spent)


def difference(found: np.ndarray, expected: np.ndarray) -> float:
    """The largest; infinite where one has an answer and the other has none."""
    if (np.isnan(found) != np.isnan(expected)).any():
        return np.inf
    return float(np.nanmax(np.abs(found - expected)))


def report(case: Case, folder: Path) -> str:
    """A row of the table."""
    name, model, inputs, one, answer = case
    program = (
        model._program(None) if hasattr(model, "target_scaler_") or hasattr(model, "classes_") else model._program()
    )
    start = time.process_time()
    program.write(folder / "model.pt2", "torch")
    program.write(folder / "model.onnx", "onnx")
    seconds = time.process_time() - start
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, 1
    session = onnxruntime.InferenceSession(folder / "model.onnx", options, providers=["CPUExecutionProvider"])
    module = torch.export.load(folder / "model.pt2").module()

    def by_torch(given: dict[str, np.ndarray]) -> list[np.ndarray]:
        found = module(*(torch.from_numpy(x) for x in given.values()))
        return [x.numpy() for x in (found if isinstance(found, tuple) else (found,))]

    def by_onnx(given: dict[str, np.ndarray]) -> list[np.ndarray]:
        return session.run(None, given)

    expected = answer(False)
    off = [max(map(difference, run(inputs), expected)) for run in (by_onnx, by_torch)]
    onnx_ms, torch_ms, own_ms = (
        median_ms(lambda: by_onnx(one)),
        median_ms(lambda: by_torch(one)),
        median_ms(lambda: answer(True)),
    )
    kib = (folder / "model.onnx").stat().st_size / 1024
    return (
        f"| {name} | {off[0]:.1e} | {off[1]:.1e} | {onnx_ms:.2f} | {torch_ms:.2f} | {own_ms:.2f} | "
        f"{own_ms / onnx_ms:.1f} | {kib:.0f} | {seconds:.0f} |"
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.exports", description=__doc__)
    parser.add_argument("--only", default="", help="cases whose names have this in them")
    only = parser.parse_args().only
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    columns = "off, onnxruntime | off, torch.export | onnxruntime ms | torch.export ms | estimator ms | ratio | KiB"
    print(f"| model | {columns} | export s |")
    print("|---|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for cases in (supervised, densities, panels):
            for case in cases():
                if only in case[0]:
                    print(report(case, Path(folder)), flush=True)


if __name__ == "__main__":
    sys.exit(main())

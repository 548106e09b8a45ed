"""``partial_fit`` beside ``fit``: likelihood after as many passes, by dask-ml's ``Incremental`` over a dask array.

Run ``python -m tests.benchmarks.incremental``; ``--quick`` takes fewer samples and passes. Without dask-ml, which needs
``pip install dask-ml``, the calls of ``Incremental`` are made in a loop over the blocks.
"""

from __future__ import annotations

import argparse
import time
import warnings
from typing import Any

import numpy as np
from sklearn.datasets import make_moons

from skode import CNFDensityEstimator, LatentODERegressor
from skode.datasets import make_spirals


def moons(n: int, seed: int) -> np.ndarray:
    return make_moons(n, noise=0.1, random_state=seed)[0]


def clusters(n: int, seed: int) -> np.ndarray:
    """Four normal clusters of different widths in five dimensions."""
    rng, means = np.random.default_rng(seed), np.random.default_rng(99).normal(scale=3.0, size=(4, 5))
    k = rng.integers(0, 4, n)
    return means[k] + rng.normal(size=(n, 5)) * (0.5 + 0.3 * k[:, None])


def bent(n: int, seed: int) -> np.ndarray:
    """A parabola and a wave with noise, of one normal variable."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=n)
    return np.column_stack([x, x**2 + 0.3 * rng.normal(size=n), np.sin(2.0 * x) + 0.2 * rng.normal(size=n)])


def incrementally(model: Any, X: np.ndarray, n_blocks: int, n_passes: int) -> tuple[Any, str]:
    """A model trained by passes over the blocks of a dask array, and by what."""
    import dask.array as da

    lazy = da.from_array(X, chunks=(-(-len(X) // n_blocks), X.shape[1]))
    try:
        from dask_ml.wrappers import Incremental
    except ImportError:
        for _ in range(n_passes):
            for block in lazy.to_delayed().ravel():
                model.partial_fit(block.compute())
        return model, "a loop"
    wrapped = Incremental(model, shuffle_blocks=False)
    for _ in range(n_passes):
        wrapped.partial_fit(lazy)
    return wrapped.estimator_, "dask_ml.wrappers.Incremental"


def densities(n: int, n_blocks: int, n_passes: int) -> None:
    print(f"{n} samples in {n_blocks} blocks, {n_passes} passes; mean log-likelihood of 5000 others, seconds")
    for draw in (moons, clusters, bent):
        X, test = draw(n, 1), draw(5000, 2)
        for name, settings in {"fit, flow alone": {"stacking": False}, "fit, defaults": {}}.items():
            began = time.perf_counter()
            fitted = CNFDensityEstimator(max_iter=n_passes, random_state=0, **settings).fit(X)
            took = time.perf_counter() - began
            print(f"  {draw.__name__:9} {name:42} {fitted.score(test):8.4f} {took:6.1f} s", flush=True)
        began = time.perf_counter()
        model, by = incrementally(CNFDensityEstimator(random_state=0), X, n_blocks, n_passes)
        took = time.perf_counter() - began
        print(f"  {draw.__name__:9} {by:42} {model.score(test):8.4f} {took:6.1f} s", flush=True)


def series(n_series: int, n_parts: int, n_passes: int) -> None:
    print(f"{n_series} spirals in {n_parts} parts, {n_passes} passes; R2 of the second halves of 30 others, seconds")
    X, y = make_spirals(n_series=n_series, n_observations=30, random_state=0)
    new, y_new = make_spirals(n_series=30, n_observations=30, random_state=1)
    new["series"] = -1 - new["series"]
    early = (new.groupby("series").cumcount() < 15).to_numpy()

    def report(name: str, model: Any, began: float) -> None:
        took = time.perf_counter() - began
        known = model.condition(new[early], y_new[early])
        print(f"  {name:12} {known.score(new[~early], y_new[~early]):8.4f} {took:6.1f} s", flush=True)

    settings: dict[str, Any] = {"series": "series", "time": "time", "random_state": 0}
    began = time.perf_counter()
    report("fit", LatentODERegressor(**settings, max_iter=n_passes).fit(X, y), began)
    began = time.perf_counter()
    model = LatentODERegressor(**settings)
    for _ in range(n_passes):
        for ids in np.array_split(X["series"].unique(), n_parts):
            rows = X["series"].isin(ids).to_numpy()
            model.partial_fit(X[rows], y[rows])
    report("partial_fit", model, began)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    densities(*((2000, 5, 5) if quick else (5000, 10, 70)))
    series(*((20, 2, 5) if quick else (60, 3, 60)))

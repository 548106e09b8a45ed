"""Sizes of files, and predictions in another process: ``python -m tests.benchmarks.saved_files``.

``--write FOLDER`` leaves the files and predictions there, and ``--read FOLDER`` compares them on another machine, with
another version of Python, or without the GPU (``--tolerance`` then allows rounding).
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

import skode
from skode.datasets import make_lotka_volterra
from skode.persistence.archive import read_archive, write_archive
from skode.training import TrainingRecord
from tests.benchmarks.report import setup, table
from tests.persistence import models

#: Models of realistic sizes, and data to predict.
CASES = {
    "ODENetClassifier, 256 x 256": lambda: (
        skode.ODENetClassifier(hidden_layer_sizes=(256, 256), max_iter=1, alpha=1.0, random_state=0),
        *_digits(),
    ),
    "ODENetClassifier, images": lambda: (
        skode.ODENetClassifier(image_shape=(1, 8, 8), max_iter=1, alpha=1.0, random_state=0),
        *_digits(),
    ),
    "ODENetRegressor, defaults": lambda: (
        skode.ODENetRegressor(max_iter=1, alpha=1.0, random_state=0),
        _digits()[0],
        _digits()[0].sum(axis=1),
    ),
    "CNFDensityEstimator, 2,000 rows": lambda: (
        skode.CNFDensityEstimator(hidden_layer_sizes=(64, 64), max_iter=1, random_state=0),
        np.random.default_rng(0).normal(size=(2000, 2)) ** 3,
        None,
    ),
    "LatentODERegressor, 500 series": lambda: (
        skode.LatentODERegressor("id", "time", max_iter=1, random_state=0),
        *_panel(500),
    ),
    "ODERegressor, 100 series": lambda: (
        skode.ODERegressor(models.decay, {"rate": (0.5, 0, None)}, states=["y"], series="id", time="time"),
        *_panel(100),
    ),
    "NeuralODERegressor, 20 series": lambda: (
        skode.NeuralODERegressor(field="polynomial", series="series", time="time", max_iter=2),
        *make_lotka_volterra(n_series=20, random_state=0),
    ),
}


def _digits() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits

    return load_digits(return_X_y=True)


def _panel(n_series: int) -> tuple[pd.DataFrame, np.ndarray]:
    rng = np.random.default_rng(0)
    X = pd.DataFrame(
        {"id": np.repeat([f"s{i}" for i in range(n_series)], 20), "time": np.tile(np.arange(20.0), n_series)}
    )
    return X, 2.0 * np.exp(-0.1 * X["time"].to_numpy()) + rng.normal(0.0, 0.05, len(X))


def nbytes(x: Any, moments: list[int] | None = None, seen: set[int] | None = None) -> int:
    """Bytes of all tensors and arrays that an object holds; those of optimisers are added up in ``moments``."""
    seen = set() if seen is None else seen
    if id(x) in seen or isinstance(x, type | str | bytes):
        return 0
    seen.add(id(x))
    if isinstance(x, torch.Tensor):
        return x.numel() * x.element_size()
    if isinstance(x, np.ndarray) and x.dtype != object:
        return x.nbytes
    if isinstance(x, pd.Index | pd.Series | pd.DataFrame):
        return int(np.sum(x.memory_usage(deep=True)))
    if isinstance(x, TrainingRecord) and moments is not None:
        moments.append(nbytes(x.optimizer_state, None, seen))
        return 0
    parts = (
        x.values()
        if isinstance(x, dict)
        else x
        if isinstance(x, list | tuple | set)
        else vars(x).values()
        if hasattr(x, "__dict__")
        else ()
    )
    return sum(nbytes(part, moments, seen) for part in parts)


def write(folder: Path) -> None:
    """Save every model with what it predicts, and print the sizes."""
    rows = []
    for i, (name, case) in enumerate(CASES.items()):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of fits that end early
            model, X, _ = models.fitted_to(*case())
        path = folder / f"{i}.skode"
        model.save(path)
        write_archive(folder / f"{i}.data", {"name": name, "X": X, "answer": answer(model, X)}, kind="data")
        moments: list[int] = []
        own = nbytes(model, moments)
        size, kept = path.stat().st_size, own + sum(moments)
        rows.append([name, size, own, sum(moments) or None, f"{size / kept:.3f}", f"{size / own:.2f}"])
    header = ["model", "file, bytes", "weights and context", "moments", "file to all these", "without moments"]
    print(table(header, rows))


def read(folder: Path, tolerance: float) -> None:
    """Load every model, and compare what it predicts."""
    for path in sorted(folder.glob("*.skode")):
        data = read_archive(path.with_suffix(".data"), kind="data")
        model = skode.load(path, trusted=models.TRUSTED)
        np.testing.assert_allclose(answer(model, data["X"]), data["answer"], rtol=tolerance, atol=tolerance)
        print(f"{data['name']}: predictions agree ({'to the bit' if tolerance == 0.0 else tolerance})")
    print(setup())


def answer(model: Any, X: Any) -> np.ndarray:
    """Numbers that a model predicts."""
    name = next(name for name in ("predict_proba", "score_samples", "predict") if hasattr(model, name))
    return np.asarray(model.predict(X) if hasattr(model, "condition") else getattr(model, name)(X))


def main() -> None:
    """Write, and read in another process; or one of these."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", type=Path)
    parser.add_argument("--read", type=Path)
    parser.add_argument("--tolerance", type=float, default=0.0)
    arguments = parser.parse_args()
    if arguments.read is not None:
        read(arguments.read, arguments.tolerance)
    elif arguments.write is not None:
        arguments.write.mkdir(parents=True, exist_ok=True)
        write(arguments.write)
    else:
        with tempfile.TemporaryDirectory() as folder:
            write(Path(folder))
            subprocess.run([sys.executable, "-m", "tests.benchmarks.saved_files", "--read", folder], check=True)


if __name__ == "__main__":
    main()

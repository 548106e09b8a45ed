"""Fits that are killed at random moments and resumed, compared with undisturbed ones to the bit.

Run as ``python -m tests.benchmarks.kills [n_kills]`` with ``OMP_NUM_THREADS=1``; 200 kills take about ten minutes.

Every fit runs in a fork of this process, with a checkpoint that is written after every update or step, and is killed by
SIGKILL at a moment drawn between its beginning and the time that an undisturbed one takes. The next fork goes on from
the file that was left, and may be killed in turn; one in three is left to end. Weights, curves and predictions of that
one are compared with those of a fit without a checkpoint.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import random
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from skode import (
    CNFDensityEstimator,
    LatentODERegressor,
    NeuralODERegressor,
    ODENetClassifier,
    ODENetRegressor,
    ODERegressor,
)
from skode.datasets import make_spirals


def growth(t: Any, y: Any, p: dict[str, Any]) -> Any:
    """Logistic growth."""
    return (p["rate"] * y[..., 0] * (1 - y[..., 0] / p["capacity"]))[..., None]


def data() -> dict[str, tuple[Callable[..., Any], tuple[Any, ...]]]:
    """Makers of the estimators, with their data."""
    rng = np.random.RandomState(0)
    X = rng.normal(size=(160, 3))
    series, values = make_spirals(n_series=12, n_observations=12, random_state=0)
    t = np.linspace(0, 8, 40)
    sizes = pd.Series(8 / (1 + 15 * np.exp(-t)) + rng.normal(0, 0.2, 40), name="size")
    wave = pd.DataFrame({"x": np.cos(t), "v": -np.sin(t)}) + rng.normal(0, 0.05, (40, 2))
    times = pd.DataFrame({"t": t})
    params = {"rate": (0.3, 0, None), "capacity": (3, 0, None)}

    def latent(**options: Any) -> Any:
        return LatentODERegressor("series", "time", max_iter=6, **options)

    return {
        "classifier": (lambda **o: ODENetClassifier(max_iter=12, **o), (X, X[:, 0] * X[:, 1] > 0)),
        "regressor": (lambda **o: ODENetRegressor(max_iter=8, likelihood="gaussian", **o), (X, X[:, 0] * X[:, 1])),
        "density": (lambda **o: CNFDensityEstimator(max_iter=12, matching_iter=4, **o), (X,)),
        "latent": (latent, (series, values)),
        "equations": (lambda **o: ODERegressor(growth, params, time="t", n_restarts=3, **o), (times, sizes)),
        "field": (lambda **o: NeuralODERegressor(time="t", **o), (times, wave)),
    }


def outcome(estimator: Any, X: Any) -> str:
    """A digest of all that a fit has learned, and of its predictions."""
    answer = (estimator.score_samples if isinstance(estimator, CNFDensityEstimator) else estimator.predict)(X)
    parts = [np.asarray(answer).tobytes()]
    if hasattr(estimator, "module_"):
        parts += [value.numpy().tobytes() for value in estimator.module_.state_dict().values()]
        curves = ("loss_curve_", "validation_scores_", "nfe_forward_", "nfe_backward_", "stop_reason_")
        parts += [repr(getattr(estimator, name)).encode() for name in curves]
    else:
        parts += [repr(estimator.params_).encode(), estimator.initial_states_.to_numpy().tobytes()]
    return hashlib.sha256(b"".join(parts)).hexdigest()


def in_fork(work: Callable[[], Any], seconds: float | None = None) -> Any:
    """The result of work in a fork of this process; None where it was killed after so many seconds."""
    reading, writing = os.pipe()
    if not (child := os.fork()):
        os.close(reading)
        try:
            with os.fdopen(writing, "wb") as pipe:
                pickle.dump(work(), pipe)
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    os.close(writing)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    with os.fdopen(reading, "rb") as pipe:
        result = pipe.read()
    status = os.waitpid(child, 0)[1]
    if os.WIFSIGNALED(status):
        return None
    if status:
        raise RuntimeError("a fit has failed")
    return pickle.loads(result)


def campaign(n_kills: int, seed: int = 0, names: list[str] | None = None) -> dict[str, tuple[int, int, int]]:
    """Kill and resume; numbers of kills, of resumed fits that ended, and of those that differ, by estimator."""
    draw, found = random.Random(seed), {}
    cases = {name: case for name, case in data().items() if names is None or name in names}
    for name, (make, arguments) in cases.items():

        def undisturbed(make: Any = make, arguments: Any = arguments) -> tuple[str, float]:
            began = time.perf_counter()
            fitted = make(random_state=0).fit(*arguments)
            return outcome(fitted, arguments[0]), time.perf_counter() - began

        expected, seconds = in_fork(undisturbed)
        killed = ended = different = 0
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "fit.checkpoint"

            def resumed(make: Any = make, arguments: Any = arguments, path: Path = path) -> str:
                fitted = make(random_state=0, checkpoint=path, checkpoint_interval=0.0).fit(*arguments)
                return outcome(fitted, arguments[0])

            while killed < -(-n_kills // len(cases)):
                path.unlink(missing_ok=True)
                n_before = killed
                # Writing after every update takes time as well.
                while killed == n_before or draw.random() < 2 / 3:
                    killed += in_fork(resumed, draw.uniform(0.02, 1.2 * seconds)) is None
                    if killed >= -(-n_kills // len(cases)):
                        break
                ended += 1
                different += in_fork(resumed) != expected
        found[name] = killed, ended, different
        print(f"{name:10} {killed} kills, {ended} resumed fits, {different} differ", flush=True)
    return found


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    results = campaign(int(sys.argv[1]) if sys.argv[1:] else 200, names=sys.argv[2:] or None)
    sys.exit(any(different for _, _, different in results.values()))

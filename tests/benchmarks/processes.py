"""Fits of two processes of torchrun beside those of one: their numbers, their time, and what becomes of killed ones.

Run as ``python -m tests.benchmarks.processes numbers``, ``... epochs`` and ``... kills [n]``.
"""

from __future__ import annotations

import argparse
import os
import pickle
import random
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits, load_wine, make_classification
from sklearn.model_selection import GridSearchCV, KFold

from skode import CNFDensityEstimator, LatentODERegressor, ODENetClassifier
from skode.datasets import load_tumour_growth, make_spirals


def numbers(model: Any) -> dict[str, np.ndarray]:
    """Weights and curves of a fitted model."""
    found = {f"weights {name}": x.double().numpy() for name, x in model.module_.state_dict().items()}
    found |= {"losses": np.array(model.loss_curve_), "validation": np.array(model.validation_scores_ or [0.0])}
    return found


def readme_fits(dtype: str | None) -> dict[str, dict[str, np.ndarray]]:
    """The three fits of the README, with early stopping and within a search."""
    found = {}
    X, volume = load_tumour_growth(return_X_y=True)
    y = np.log(volume.clip(lower=0.005))
    known = X["mouse"] != "m040"
    latent = LatentODERegressor(series="mouse", time="day", max_iter=60, random_state=0, dtype=dtype)
    latent.fit(X[known], y[known])
    found["latent ODE"] = numbers(latent) | {"predictions": latent.predict(X[known])}
    wine = load_wine(as_frame=True).data[["alcohol", "flavanoids", "color_intensity", "proline"]]
    cnf = CNFDensityEstimator(max_iter=20, random_state=0, dtype=dtype).fit(wine)
    found["density"] = numbers(cnf) | {"predictions": cnf.score_samples(wine)}
    tolerances = [{"rtol": [tol], "atol": [tol]} for tol in (1e-1, 1e-3)]
    search = GridSearchCV(cnf, tolerances, cv=KFold(3, shuffle=True, random_state=0)).fit(wine)
    found["density, searched"] = numbers(search.best_estimator_) | {"scores": search.cv_results_["mean_test_score"]}
    X, y = load_digits(return_X_y=True)
    for name, early in (("classifier", False), ("classifier, early stopping", True)):
        model = ODENetClassifier(max_iter=20, early_stopping=early, random_state=0, dtype=dtype).fit(X[:1347], y[:1347])
        found[name] = numbers(model) | {"predictions": model.predict_proba(X[1347:])}
    search = GridSearchCV(model, {"rtol": [1e-2, 1e-4]}, cv=KFold(2)).fit(X[:600], y[:600])
    found["classifier, searched"] = numbers(search.best_estimator_) | {"scores": search.cv_results_["mean_test_score"]}
    return found


def large_fits() -> dict[str, Callable[[int], Any]]:
    """Fits with large batches, by their number of epochs."""
    X, y = make_classification(20_000, 32, n_informative=16, random_state=0)
    samples = np.random.default_rng(0).normal(size=(20_000, 6)).astype(np.float32)
    samples[:, 1:] += np.sin(2 * samples[:, :-1])
    series, values = make_spirals(n_series=512, n_observations=60, random_state=0)
    table = {"batch_size": 4096, "random_state": 0}
    return {
        "classifier, batches of 4,096, 2 x 256 units": lambda n: ODENetClassifier(
            (256, 256), state_size=64, alpha=1.0, max_iter=n, **table
        ).fit(X.astype(np.float32), y),
        "density, batches of 4,096, 2 x 128 units": lambda n: CNFDensityEstimator(
            (128, 128), stacking=False, early_stopping=True, max_iter=n, **table
        ).fit(samples),
        "latent ODE, 512 series of 60, batches of 256, 2 x 128 units": lambda n: LatentODERegressor(
            series="series",
            time="time",
            hidden_layer_sizes=(128, 128),
            latent_size=8,
            encoder_size=64,
            batch_size=256,
            max_iter=n,
            early_stopping=False,
            posterior="encoder",
            warm_up=0.0,
            forecasting=0.0,
            hindcasting=0.0,
            noise="white",
            random_state=0,
        ).fit(series, values),
    }


def seconds_of_epochs(few: int = 2, many: int = 6) -> dict[str, float]:
    """Seconds of an epoch: those that more epochs take more."""
    found = {}
    for name, fit in large_fits().items():
        fit(1)
        times = []
        for n in (few, many):
            began = time.perf_counter()
            fit(n)
            times.append(time.perf_counter() - began)
        found[name] = (times[1] - times[0]) / (many - few)
    return found


def long_fit(path: str | None) -> dict[str, dict[str, np.ndarray]]:
    """A fit of some seconds with a checkpoint."""
    X, y = load_digits(return_X_y=True)
    model = ODENetClassifier(
        max_iter=30, random_state=0, checkpoint=path, checkpoint_interval=0.01, early_stopping=True
    )
    model.fit(X, y)
    wine = load_wine(return_X_y=True)[0][:, [0, 6, 9, 12]]
    cnf = CNFDensityEstimator(max_iter=20, random_state=0, checkpoint=path and path + ".2", checkpoint_interval=0.01)
    return {"classifier": numbers(model), "density": numbers(cnf.fit(wine))}


def child(task: str, argument: str, out: str) -> None:
    """Run the task of a process; the result goes to a file of its own."""
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    warnings.simplefilter("ignore")
    if task == "numbers":
        result: Any = readme_fits(argument or None)
    elif task == "epochs":
        result = seconds_of_epochs()
    else:
        result = long_fit(argument or None)
    Path(f"{out}.{os.environ.get('RANK', '0')}").write_bytes(pickle.dumps(result))


def start(task: str, argument: str, out: str, *, processes: int, threads: int = 1) -> subprocess.Popen[bytes]:
    """The task in one process, or in several of torchrun."""
    launcher = ["torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), "-m"]
    command = [sys.executable, "-m", *(launcher if processes > 1 else [])]
    command += ["tests.benchmarks.processes", "--child", task, argument, out]
    quiet = subprocess.DEVNULL
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    return subprocess.Popen(command, env=environment, stdout=quiet, stderr=quiet, start_new_session=True)


def results(task: str, argument: str, *, processes: int, threads: int = 1) -> list[Any]:
    """What the task ends with in each process."""
    with tempfile.TemporaryDirectory() as folder:
        out = f"{folder}/result"
        code = start(task, argument, out, processes=processes, threads=threads).wait()
        if code:
            raise SystemExit(f"{task} ended with {code} in {processes} processes.")
        return [pickle.loads(Path(f"{out}.{rank}").read_bytes()) for rank in range(processes)]


def same(one: Any, other: Any) -> bool:
    """Whether all numbers of two results are equal to the bit."""
    return all(np.array_equal(x, other[fit][name]) for fit in one for name, x in one[fit].items())


def compare_numbers() -> None:
    """Print how far the fits of two processes are from those of one, and from each other."""
    print("| fit | dtype | ranks equal to the bit | weights | losses | validation | predictions or scores |")
    print("|---|---|---|---|---|---|---|")
    for dtype in ("", "float64"):
        (one,), (first, second) = results("numbers", dtype, processes=1), results("numbers", dtype, processes=2)
        for fit, alone in one.items():
            off: dict[str, float] = {}
            for name, x in alone.items():
                kind = "predictions" if name in ("predictions", "scores") else name.split()[0]
                scale = max(float(np.abs(x).max()), 1.0)
                off[kind] = max(off.get(kind, 0.0), float(np.abs(first[fit][name] - x).max()) / scale)
            equal = same({fit: first[fit]}, second)
            kinds = ("weights", "losses", "validation", "predictions")
            print(f"| {fit} | {dtype or 'default'} | {equal} | " + " | ".join(f"{off[k]:.1e}" for k in kinds) + " |")


def compare_epochs() -> None:
    """Print seconds of an epoch in one process and in two, and their ratios."""
    (one,), (threads,) = results("epochs", "", processes=1), results("epochs", "", processes=1, threads=2)
    two = results("epochs", "", processes=2)[0]
    print("| fit | one process, s an epoch | one process of two threads | two processes | ratio | to two threads |")
    print("|---|---|---|---|---|---|")
    for name, seconds in one.items():
        both = two[name]
        print(
            f"| {name} | {seconds:.3f} | {threads[name]:.3f} | {both:.3f} | {both / seconds:.2f} | "
            f"{both / threads[name]:.2f} |"
        )


def kill(n: int) -> None:
    """Kill one of two processes at random moments, and let the fits go on."""
    began = time.monotonic()
    undisturbed = results("long", "", processes=2)
    longest = time.monotonic() - began
    rng, n_killed, hung, different, unreadable, ended = random.Random(0), 0, 0, 0, 0, [0.0]
    for _ in range(n):
        with tempfile.TemporaryDirectory() as folder:
            job = start("long", f"{folder}/fit", f"{folder}/result", processes=2)
            time.sleep(rng.uniform(0.3, 1.0) * longest)
            workers = subprocess.run(["pgrep", "-P", str(job.pid)], capture_output=True, text=True).stdout.split()
            if workers:
                os.kill(int(rng.choice(workers)), signal.SIGKILL)
                n_killed += 1
            killed = time.monotonic()
            try:
                job.wait(60)
                ended += [time.monotonic() - killed] if workers else []
            except subprocess.TimeoutExpired:
                hung += 1
                os.killpg(job.pid, signal.SIGKILL)
            again = start("long", f"{folder}/fit", f"{folder}/again", processes=2)
            if again.wait(600):
                unreadable += 1
                continue
            resumed = [pickle.loads(Path(f"{folder}/again.{rank}").read_bytes()) for rank in range(2)]
            different += not all(same(whole, own) for whole, own in zip(undisturbed, resumed, strict=True))
    print(
        f"{n_killed} of {n} pairs lost a process: {hung} hung; the others had ended after {max(ended):.1f} s at most; "
        f"{unreadable} did not go on; {different} went on to other numbers."
    )


def main() -> None:
    """Run one of the comparisons."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.processes", description=__doc__)
    parser.add_argument("what", nargs="?", choices=["numbers", "epochs", "kills"], default="numbers")
    parser.add_argument("n", nargs="?", type=int, default=10)
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(*options.child)
    elif options.what == "numbers":
        compare_numbers()
    elif options.what == "epochs":
        compare_epochs()
    else:
        kill(options.n)


if __name__ == "__main__":
    main()

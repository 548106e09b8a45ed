"""This version of skode beside another one: ``python -m tests.benchmarks.versions PATH``, a checkout of the other.

Each version runs in a process of its own, under the same benchmark code, and the two take turns call by call, so that
a noisy machine disturbs them alike. Only public names of skode are used, so that old checkouts can run too.
"""

from __future__ import annotations

import argparse
import cProfile
import os
import pstats
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from time import process_time
from typing import Any

import numpy as np

from tests.benchmarks.report import ROOT, setup, table

TURN = 0.05  # seconds for which a fast call is repeated in its turn
WORKER = "from tests.benchmarks.versions import work; work()"


def solver_calls() -> dict[str, Callable[[], Any]]:
    """Solves and gradients: those of the pages on speed and on work against precision, and one of each other road."""
    import torch

    from skode.solvers import odeint, solve_ivp
    from tests.benchmarks.peers import make_problem, mlp_field, skode_field, skode_module

    calls: dict[str, Callable[[], Any]] = {}
    for shape in ((64, 4, 32), (128, 2, 64), (256, 32, 128), (256, 64, 128), (512, 64, 256)):
        (own,) = skode_field(make_problem(*shape))
        calls[f"forward {shape}"], calls[f"gradient {shape}"] = own.states, own.gradient
    for shape in ((64, 4, 32), (256, 32, 128)):
        (module,) = skode_module(make_problem(*shape))
        calls[f"module forward {shape}"], calls[f"module gradient {shape}"] = module.states, module.gradient
    (many,) = skode_field(make_problem(256, 32, 128, np.linspace(0.01, 1.0, 100)))
    calls["100 outputs"] = many.gradient

    problem = make_problem(50, 4, 32)
    field, parameters = mlp_field(problem.net), list(problem.net.parameters())
    own_times = torch.from_numpy(np.sort(np.random.default_rng(0).uniform(0.0, 1.0, (50, 40)), axis=1))
    spans = torch.stack([torch.zeros(50), torch.linspace(0.5, 1.0, 50)], dim=1)
    last = torch.linspace(0.5, 1.0, 50)[:, None]

    def gradient(function: Any, *, t_span: Any = (0.0, 1.0), **settings: Any) -> Callable[[], Any]:
        weights = list(function.parameters()) if isinstance(function, torch.nn.Module) else parameters
        options = {"rtol": 1e-5, "atol": 1e-5} | settings

        def call() -> Any:
            y0 = problem.y0.clone().requires_grad_()
            y = solve_ivp(function, t_span, y0, **options).y
            return torch.autograd.grad(y.square().sum(), [y0, *weights])

        return call

    def plain(t: Any, y: Any) -> Any:
        return problem.net(y)

    calls["own output times"] = gradient(field, t_eval=own_times)
    calls["own spans"] = gradient(field, t_span=spans, t_eval=last)
    calls["steps of each sample"] = gradient(field, step_control="per_sample")
    calls["steps of each sample, own spans"] = gradient(field, t_span=spans, t_eval=last, step_control="per_sample")
    for adjoint in ("continuous", "backprop"):
        calls[adjoint] = gradient(field, adjoint=adjoint)
        calls[f"{adjoint}, plain function"] = gradient(plain, adjoint=adjoint)
    calls["dopri8"] = gradient(field, method="dopri8")
    calls["rk4"] = gradient(field, method="rk4", step_size=0.05)
    calls["kvaerno5"] = gradient(field, method="kvaerno5")
    one = torch.randn(1, 4, generator=torch.Generator().manual_seed(0))
    ends = torch.tensor([0.0, 1.0])

    def tiny() -> Any:
        y0 = one.clone().requires_grad_()
        return odeint(field, y0, ends, rtol=1e-3, atol=1e-4).sum().backward()

    calls["a single sample"] = tiny
    return calls


def estimator_calls() -> dict[str, Callable[[], Any]]:
    """Fits of a few epochs, and answers of fitted models: those of the pages on fitting and of the two races."""
    import pandas as pd
    from sklearn.datasets import load_digits, make_circles

    from skode import CNFDensityEstimator, LatentODERegressor, ODENetClassifier, ODENetRegressor
    from skode.datasets import make_spirals

    digits, label = load_digits(return_X_y=True)
    circles, _ = make_circles(4000, noise=0.1, factor=0.5, random_state=0)
    spirals, position = make_spirals(50, 40, random_state=0)[:2]
    frame = pd.DataFrame(spirals)
    columns = {"series": frame.columns[0], "time": frame.columns[1]}

    def few(estimator: Any, epochs: int, **settings: Any) -> Any:
        return estimator(max_iter=epochs, n_iter_no_change=epochs + 1, random_state=0, **settings)

    classifier = few(ODENetClassifier, 5).fit(digits, label)
    density = few(CNFDensityEstimator, 2).fit(circles)
    series = few(LatentODERegressor, 5, **columns).fit(frame, position)
    return {
        "ODENetClassifier.fit": lambda: few(ODENetClassifier, 5).fit(digits, label),
        "ODENetClassifier.predict": lambda: classifier.predict(digits),
        "ODENetRegressor.fit": lambda: few(ODENetRegressor, 5).fit(digits, label),
        "CNFDensityEstimator.fit": lambda: few(CNFDensityEstimator, 2).fit(circles),
        "CNFDensityEstimator.score_samples": lambda: density.score_samples(circles),
        "CNFDensityEstimator.sample": lambda: density.sample(1000),
        "LatentODERegressor.fit": lambda: few(LatentODERegressor, 5, **columns).fit(frame, position),
        "LatentODERegressor.predict": lambda: series.predict(frame),
    }


def work() -> None:
    """Answer names on standard input by the seconds of processor time that a call of that name takes.

    A name after ``count`` is answered by the number of functions, Python's and built-in ones, that a call calls.
    """
    import torch

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    calls = solver_calls() | estimator_calls()
    repeats: dict[str, int] = {}
    print("\t".join(calls), flush=True)
    for line in sys.stdin:
        command, _, name = line.rstrip("\n").partition("\t")
        if command == "count":
            print(_n_calls(calls[name]), flush=True)
            continue
        if name not in repeats:
            for _ in range(2):
                calls[name]()
            repeats[name] = int(np.clip(TURN / _seconds(calls[name], 1), 1, 200))
        print(_seconds(calls[name], repeats[name]), flush=True)


class Version:
    """A process that has one version of skode and this benchmark's code.

    Parameters
    ----------
    checkout : Path
        A folder with ``skode``.
    folder : Path
        Where a folder with links to it and to this checkout's ``tests`` is made.
    """

    def __init__(self, checkout: Path, folder: Path) -> None:
        folder.mkdir()
        (folder / "skode").symlink_to((checkout / "skode").resolve())
        (folder / "tests").symlink_to(ROOT / "tests")
        environment = os.environ | {"PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            [sys.executable, "-c", WORKER],
            cwd=folder,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.names = self._line().split("\t")

    def seconds(self, name: str) -> float:
        """Seconds per call of that name."""
        return self._answer("time", name)

    def count(self, name: str) -> float:
        """Number of functions that a call of that name calls."""
        return self._answer("count", name)

    def _answer(self, command: str, name: str) -> float:
        assert self._process.stdin is not None
        print(command, name, sep="\t", file=self._process.stdin, flush=True)
        return float(self._line())

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("a version's process has ended; its message stands above")
        return line.rstrip("\n")


def main() -> None:
    """Time both versions and print a table."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.versions", description=__doc__)
    parser.add_argument("checkout", type=Path, help="a checkout of the other version, such as a git worktree")
    parser.add_argument("--rounds", type=int, default=25, help="turns of each call; more of them tell smaller changes")
    parser.add_argument("--only", default="", help="a part of the names of the calls to time")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        old, new = Version(options.checkout, Path(folder, "old")), Version(ROOT, Path(folder, "new"))
        rows = []
        for name in old.names:
            if options.only in name:
                rows.append([name, *_compared(old, new, name, options.rounds)])
                print(rows[-1], file=sys.stderr, flush=True)
    print(
        setup(),
        "",
        table(["", "old, ms", "new, ms", "old / new", "middle half", "of the shortest", "of calls"], rows),
        sep="\n",
    )


def _compared(old: Version, new: Version, name: str, rounds: int) -> list[str]:
    """Medians in milliseconds; ratios: median and quartiles within rounds, of the shortest times, of function calls."""
    taken: dict[Version, list[float]] = {old: [], new: []}
    for i in range(-1, rounds):  # the first round warms up
        for version in (old, new) if i % 2 else (new, old):
            taken[version].append(version.seconds(name))
    before, after = np.array(taken[old][1:]), np.array(taken[new][1:])
    low, middle, high = np.quantile(before / after, [0.25, 0.5, 0.75])
    return [
        f"{1e3 * np.median(before):.2f}",
        f"{1e3 * np.median(after):.2f}",
        f"{middle:.2f}",
        f"{low:.2f} to {high:.2f}",
        f"{before.min() / after.min():.2f}",
        f"{old.count(name) / new.count(name):.2f}",
    ]


def _n_calls(call: Callable[[], Any]) -> int:
    profile = cProfile.Profile()
    profile.runcall(call)
    return pstats.Stats(profile).total_calls  # type: ignore[attr-defined]


def _seconds(call: Callable[[], Any], repeats: int) -> float:
    """Processor time per call, of one thread, which other work on the machine hardly touches."""
    start = process_time()
    for _ in range(repeats):
        call()
    return (process_time() - start) / repeats


if __name__ == "__main__":
    main()

"""Densities whose truth is known, beside GMM and KDE: ``python -m tests.benchmarks.density_toys``."""

from __future__ import annotations

import argparse
import copy
import warnings
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KernelDensity

from skode import CNFDensityEstimator
from skode.datasets import make_toy_density, toy_log_density
from tests.benchmarks.report import machine, table, write

NOTES = """\
Excess: the mean of (true log-density - the model's) in nats over 20,000 fresh points, after a fit to 20,000; 0 is
perfect. The seconds of the fit stand beside it. CNFDensityEstimator, the flow alone, has its defaults; the mixture
has 50 components; the kernel density's bandwidth was cross-validated (five folds) on 5,000 points and shrunk by Scott's
rate, n^(-1/6), for the rest. NFE: evaluations of the field and its divergence that a point's log-density took at
rtol = atol = 1e-5, mean over 1,000 points."""

NAMES = ("two_circles", "two_moons", "eight_gaussians", "pinwheel", "checkerboard", "two_spirals")
N_TRAIN, N_FRESH, N_KDE_SEARCH, N_NFE = 20_000, 20_000, 5_000, 1_000
TOLERANCE = 1e-5
BANDWIDTHS = np.geomspace(0.01, 0.4, 10)


def nfe_of_density(estimator: Any, X: np.ndarray, rtol: float = TOLERANCE) -> float:
    """Mean evaluations of the field that the log-density of a point takes.

    Parameters
    ----------
    estimator : CNFDensityEstimator
        A fitted estimator; it is left as it is.
    X : ndarray of shape (n_samples, n_features)
        Points.
    rtol : float, default=1e-5
        Relative and absolute tolerance.

    Returns
    -------
    float
        Evaluations per point; where a solve steps its points together, each took part in all.
    """
    counted = copy.copy(estimator).set_params(rtol=rtol, atol=rtol)
    solve, evaluations = counted._solve, []

    def counting(field: Any, t_span: Any, y0: Any, *args: Any, **settings: Any) -> Any:
        solution = solve(field, t_span, y0, *args, **settings)
        found = solution.statistics
        evaluations.append(found.nfev * len(y0) if found.by_sample is None else found.by_sample[0].sum())
        return solution

    counted._solve = counting
    counted.score_samples(X)
    return float(sum(evaluations)) / len(X)


def kernel_density(X: np.ndarray) -> KernelDensity:
    """A Gaussian kernel density, its bandwidth searched for on some of the points."""
    search = GridSearchCV(KernelDensity(), {"bandwidth": BANDWIDTHS}, cv=5).fit(X[:N_KDE_SEARCH])
    shrunk = search.best_params_["bandwidth"] * min(1.0, N_KDE_SEARCH / len(X)) ** (1 / 6)
    return KernelDensity(bandwidth=shrunk).fit(X)


MODELS: dict[str, Callable[[np.ndarray], Any]] = {
    "CNFDensityEstimator": lambda X: CNFDensityEstimator(stacking=False, random_state=0).fit(X),
    "GMM (50)": lambda X: GaussianMixture(50, random_state=0).fit(X),
    "KDE": kernel_density,
}


def section(names: tuple[str, ...] = NAMES, n_train: int = N_TRAIN, n_fresh: int = N_FRESH) -> str:
    """The Markdown of the part: notes and a table, which is also printed row by row."""
    warnings.simplefilter("ignore", ConvergenceWarning)
    rows = []
    for name in names:
        X = make_toy_density(name, n_train, random_state=0)
        fresh = make_toy_density(name, n_fresh, random_state=1)
        truth = toy_log_density(name, fresh)
        cells, nfe = [], None
        for make in MODELS.values():
            started = perf_counter()
            model = make(X)
            seconds = perf_counter() - started
            excess = (truth - model.score_samples(fresh)).mean()
            cells.append(f"{excess:.4f} ({seconds:.1f} s)")
            if isinstance(model, CNFDensityEstimator):
                nfe = f"{nfe_of_density(model, fresh[:N_NFE]):.1f}"
        rows.append([name, f"{-truth.mean():.4f}", *cells, nfe])
        print(*rows[-1], sep=" | ", flush=True)
    return f"{NOTES}\n\n" + table(["density", "entropy", *MODELS, "NFE"], rows)


def main() -> None:
    """Fit all, print the table, and write the page where ``--out`` says."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.density_toys", description=__doc__)
    parser.add_argument("--names", nargs="+", choices=NAMES, default=NAMES)
    parser.add_argument("--samples", type=int, default=N_TRAIN, help="points to train on")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, help="a Markdown file to write, besides printing")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    body = section(tuple(options.names), options.samples)
    command = "python -m tests.benchmarks.density_toys"
    print(machine(command), body, sep="\n\n")
    if options.out:
        write(options.out, "Densities whose truth is known", body, command)


if __name__ == "__main__":
    main()

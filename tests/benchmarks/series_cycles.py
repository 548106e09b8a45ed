"""Sensors with daily and weekly cycles: ``python -m tests.benchmarks.series_cycles [--quick] [--tuning] [names...]``.

LatentODERegressor with ``periods`` beside regressions on harmonics.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import process_time

import numpy as np
import pandas as pd
import torch
from sklearn.exceptions import ConvergenceWarning

from skode import LatentODERegressor
from tests.benchmarks.report import ROOT, machine, table, write

NOTES = """\
Simulated sensors: a level and a drift of each, a daily cycle of two harmonics and a weekly one of one, and white
noise of 0.4, over four weeks at irregular times. Those of `common` share their cycles; in `own` each has amplitudes
and phases of its own, in `growing` they also grow linearly in time to twice their size, `clock` is `own` by the clock
of Berlin, on both sides of the change of clocks in March, and `gaps` is `own` with 8 to 150 rows a sensor.

Forecast: the last week of every sensor is held out. New sensors: eight sensors are not in the fit; the first two
weeks of each are then given, and the others predicted. RMSE is against the noisy values, so that 0.4 is the least;
coverage is the share of them within `predict_interval(level=0.9)`, CRPS is `DistributionScorer`'s, which is lower for
the better. Seconds are of the processor, for fit and answers.

The regressions are least squares on level, slope and the sines and cosines of three harmonics of a day and of a week:
of each sensor by itself, and with the same harmonics for all sensors. Which of them suits depends on the case; the
model is not told. All have the same harmonics, more than the sensors have.

The rule, written before the run: in each case and in the forecast, the model's mean RMSE over the seeds is to be at
most 1.2 times that of the better regression. Settings were chosen on seeds 0 to 9 (`--tuning` takes 0 and 1), the
page is of 100 and 101. LatentODERegressor has its defaults and `periods=["1D", "7D"]`."""

DAYS, NOISE, WEEK = 28.0, 0.4, 7.0
CASES = ("common", "own", "growing", "clock", "gaps")
SEEDS = {"tuning": (0, 1), "final": (100, 101)}
PAGE = ROOT / "docs" / "benchmarks" / "series_cycles.md"


@dataclass(frozen=True)
class Sensors:
    """Rows of sensors; ``clock`` has days since a midnight, by the clock."""

    X: pd.DataFrame
    clock: np.ndarray
    y: np.ndarray

    def take(self, rows: np.ndarray) -> Sensors:
        """Some of the rows."""
        return Sensors(self.X[rows].reset_index(drop=True), self.clock[rows], self.y[rows])


def sensors(case: str, seed: int, n_series: int = 24) -> Sensors:
    """The rows of a case."""
    rng = np.random.default_rng([seed, CASES.index(case)])
    n_rows = rng.integers(8, 151, n_series) if case == "gaps" else np.full(n_series, 100)
    code = np.repeat(np.arange(n_series), n_rows)
    days = rng.uniform(0, DAYS, len(code))
    days = days[np.lexsort((days, code))]
    start = pd.Timestamp("2024-03-18", tz="Europe/Berlin" if case == "clock" else None)  # a Monday
    date = start + pd.to_timedelta(np.round(days * 86_400), unit="s")
    clock = (pd.Series(date).dt.tz_localize(None) - pd.Timestamp("2024-03-18")) / pd.Timedelta("1D")
    own = 0.0 if case == "common" else 1.0
    phase = 2 * np.pi * np.outer(clock, [1.0, 2.0, 1 / WEEK])
    waves = np.hstack([np.sin(phase), np.cos(phase)])
    typical, spread = np.array([3.0, 0.8, 1.0, -2.0, 0.0, 1.5]), np.array([1.0, 0.2, 0.5, 1.0, 0.2, 0.5])
    amplitudes = typical + own * spread * rng.standard_normal((n_series, 6))
    cycle = (waves * amplitudes[code]).sum(1) * (1.0 + days / DAYS if case == "growing" else 1.0)
    level, drift = rng.normal(20, 3, n_series)[code], rng.normal(0, 0.1, n_series)[code]
    y = level + drift * (days - DAYS / 2) + cycle + rng.normal(0, NOISE, len(code))
    return Sensors(pd.DataFrame({"sensor": code, "date": date}), clock.to_numpy(), y)


def harmonics(clock: np.ndarray) -> np.ndarray:
    """Sines and cosines of three harmonics of a day and of a week."""
    phase = 2 * np.pi * np.outer(clock, [1.0, 2.0, 3.0, 1 / WEEK, 2 / WEEK, 3 / WEEK])
    return np.hstack([np.sin(phase), np.cos(phase)])


def by_sensor(fit: Sensors, known: Sensors, query: Sensors) -> np.ndarray:
    """Least squares for each sensor by itself."""
    answer = np.empty(len(query.y))
    for name, rows in query.X.groupby("sensor").indices.items():
        own = (known.X["sensor"] == name).to_numpy()
        designs = [
            np.column_stack([np.ones(len(t)), t / DAYS, harmonics(t)]) for t in (known.clock[own], query.clock[rows])
        ]
        answer[rows] = designs[1] @ np.linalg.lstsq(designs[0], known.y[own], rcond=None)[0]
    return answer


def pooled(fit: Sensors, known: Sensors, query: Sensors) -> np.ndarray:
    """Least squares with a level and a slope for each sensor, and harmonics of all of them."""
    code, t = fit.X["sensor"].to_numpy(), fit.clock
    levels = (code[:, None] == np.unique(code)).astype(float)
    design = np.hstack([harmonics(t), levels, levels * t[:, None] / DAYS])
    common = np.linalg.lstsq(design, fit.y, rcond=None)[0][: harmonics(t).shape[1]]
    answer = harmonics(query.clock) @ common
    for name, rows in query.X.groupby("sensor").indices.items():
        own = (known.X["sensor"] == name).to_numpy()
        left = known.y[own] - harmonics(known.clock[own]) @ common
        degree = 1 if own.sum() > 2 else 0
        answer[rows] += np.polyval(np.polyfit(known.clock[own], left, degree), query.clock[rows])
    return answer


def splits(rows: Sensors) -> dict[str, tuple[Sensors, Sensors, Sensors]]:
    """Of each task the rows to fit, those known then, and those to predict."""
    days = ((rows.X["date"] - rows.X["date"].min()) / pd.Timedelta("1D")).to_numpy()
    later, new = days >= DAYS - WEEK, (rows.X["sensor"] < 8).to_numpy()
    counts = pd.Series(~later).groupby(rows.X["sensor"]).transform("sum").to_numpy()
    query = later & (counts >= 3)
    early = days < DAYS / 2
    counts = pd.Series(early).groupby(rows.X["sensor"]).transform("sum").to_numpy()
    return {
        "forecast": (rows.take(~later), rows.take(~later), rows.take(query)),
        "new sensors": (rows.take(~new), rows.take(new & early), rows.take(new & ~early & (counts >= 3))),
    }


def latent_ode(fit: Sensors, known: Sensors, query: Sensors, **settings: int) -> tuple[np.ndarray, float, float]:
    """Means, coverage and CRPS of the model."""
    model = LatentODERegressor("sensor", "date", periods=["1D", "7D"], random_state=0, **settings).fit(fit.X, fit.y)
    if known is not fit:
        model = model.condition(known.X, known.y)
    ends = model.predict_interval(query.X)
    inside = (ends[:, 0] <= query.y) & (query.y <= ends[:, 1])
    return model.predict(query.X), float(inside.mean()), float(model.crps(query.X, query.y).mean())


def measures(case: str, seed: int, **settings: int) -> list[dict[str, str | float]]:
    """All models at all tasks of a case."""
    found: list[dict[str, str | float]] = []
    for task, (fit, known, query) in splits(sensors(case, seed)).items():
        answers: dict[str, Callable[[], tuple[np.ndarray, float, float]]] = {
            "LatentODERegressor": lambda rows=(fit, known, query): latent_ode(*rows, **settings),
            "harmonics, by sensor": lambda rows=(fit, known, query): (by_sensor(*rows), np.nan, np.nan),
            "harmonics, common": lambda rows=(fit, known, query): (pooled(*rows), np.nan, np.nan),
        }
        for model, answer in answers.items():
            started = process_time()
            mean, coverage, crps = answer()
            rmse = float(np.sqrt(np.mean((mean - query.y) ** 2)))
            found.append(
                {
                    "case": case,
                    "task": task,
                    "model": model,
                    "RMSE": rmse,
                    "coverage": coverage,
                    "CRPS": crps,
                    "seconds": process_time() - started,
                }
            )
            print(seed, *found[-1].values(), sep=" | ", flush=True)
    return found


def section(which: str, names: list[str], **settings: int) -> str:
    """The Markdown of the page."""
    warnings.simplefilter("ignore", ConvergenceWarning)
    cases = [case for case in CASES if not names or case in names]
    rows = pd.DataFrame([row for case in cases for seed in SEEDS[which] for row in measures(case, seed, **settings)])
    means = rows.groupby(["case", "task", "model"], sort=False).mean().reset_index()
    rivals = means[means["model"] != "LatentODERegressor"].groupby(["case", "task"])["RMSE"].min()
    ours = means["model"] == "LatentODERegressor"
    ratio = means["RMSE"] / rivals.loc[pd.MultiIndex.from_frame(means[["case", "task"]])].to_numpy()
    means["to the better regression"] = ratio.where(ours)
    formats = {"RMSE": "{:.3f}", "coverage": "{:.0%}", "CRPS": "{:.3f}", "seconds": "{:.1f}"}
    formats["to the better regression"] = "{:.2f}"
    cells = [
        ["" if pd.isna(value) else formats.get(str(key), "{}").format(value) for key, value in row.items()]
        for row in means.to_dict("records")
    ]
    return NOTES + "\n\n" + table(list(means.columns), cells)


def main() -> None:
    """Fit all, print the page, and write it if it is the whole of the final seeds."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.series_cycles", description=__doc__)
    parser.add_argument("names", nargs="*", help="cases; all without any")
    parser.add_argument("--tuning", action="store_true", help="the seeds that settings may be chosen on")
    parser.add_argument("--quick", action="store_true", help="one epoch: to see that all works, not to publish")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="a Markdown file to write, besides printing")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    which = "tuning" if options.tuning else "final"
    body = section(which, options.names, **({"max_iter": 1} if options.quick else {}))
    command = "python -m tests.benchmarks.series_cycles" + (" --tuning" if options.tuning else "")
    print(machine(command), body, sep="\n\n")
    if page := options.out or (None if options.tuning or options.quick or options.names else PAGE):
        write(page, "Cycles of sensors", body, command)


if __name__ == "__main__":
    main()

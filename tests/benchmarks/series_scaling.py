"""Seconds and memory of a latent ODE against the number of rows: ``python -m tests.benchmarks.series_scaling``."""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from time import process_time
from typing import Any

import torch
from sklearn.exceptions import ConvergenceWarning

from skode import LatentODERegressor
from skode.datasets import make_spirals
from tests.benchmarks.report import ROOT, machine, table, write

PAGE = ROOT / "docs" / "benchmarks" / "series_scaling.md"

NOTES = """\
Spirals in panels of ever more rows; one thread, every line a process of its own. Seconds are those of the processor,
behind them stand microseconds a row. 'fit' is one of one epoch with all that comes before and after it, in the default
batches of 50 series or a fifth of them; 'condition' takes in as many rows again, of other series; 'predict' answers all
rows of the fit with their standard deviations. 'times' counts the distinct values of the time column: with few, all
series share one grid. Memory is the peak resident set of the process: 'before', of imports and data, and by how much it
had grown after each."""

LONG_NOTES = """\
One spiral of ever more rows that a fitted model is conditioned on, whose noise has a memory: the row that is predicted
is its last one. 'times as long' says how much longer a time the series spans than those of the fit."""

#: Rows of the panels, and of each of their series.
PANELS = ((1_000, 50), (10_000, 50), (100_000, 50), (1_000_000, 50), (1_000_000, 10_000))
LENGTHS = (1_000, 4_000, 16_000, 64_000)
CALLS = ("fit", "condition", "predict")


def measure(n_rows: int, n_times: int, times: str) -> dict[str, float]:
    """Fit, condition and predict in this process, which must be fresh.

    Parameters
    ----------
    n_rows, n_times : int
        Rows, and those of each series.
    times : {"own", "shared"}
        Whether each series has times of its own, or all share a grid.

    Returns
    -------
    dict
        ``times``, the number of distinct ones; in seconds each of :data:`CALLS`; in MiB the peak resident set
        ``before`` them, and by how much it had grown after each: ``fit memory`` and so on.
    """
    n_series = n_rows // n_times
    X, y = make_spirals(n_series, n_times, irregular=times == "own", random_state=0)
    new = X.assign(series=X["series"] + n_series)
    few = make_spirals(10, 40, random_state=0)
    small = new_model().fit(*few).condition(few[0].assign(series=few[0]["series"] + 10), few[1])
    small.predict(few[0], return_std=True)  # libraries are ready
    found: dict[str, float] = {"times": X["time"].nunique(), "before": _peak_resident()}
    model = new_model()
    calls = (
        lambda: model.fit(X, y),
        lambda: model.condition(new, y),
        lambda: model.predict(X, return_std=True),
    )
    for name, call in zip(CALLS, calls, strict=True):
        found[name] = _seconds(call)
        found[f"{name} memory"] = _peak_resident() - found["before"]
    return found


def measure_long(n_rows: int, n_times: int) -> dict[str, float]:
    """Condition on one series, ``n_rows / n_times`` times as long a time as those of the fit, and predict.

    Returns
    -------
    dict
        Seconds of ``condition``, and of ``one`` and ``all``, predictions of its last row and of all.
    """
    model = new_model().fit(*make_spirals(20, 50, random_state=0))
    for output in range(2):
        model.module_.likelihood.colour(output, 0.8, 1.0)
    X, y = make_spirals(1, n_rows, irregular=True, random_state=0)
    X = X.assign(series="long", time=X["time"] * (n_rows / n_times))
    answered = []
    found = {"condition": _seconds(lambda: answered.append(model.condition(X, y)))}
    found["one"] = _seconds(lambda: answered[0].predict(X[-1:], return_std=True))
    found["all"] = _seconds(lambda: answered[0].predict(X, return_std=True))
    return found


def _seconds(call: Callable[[], Any]) -> float:
    """Time that the processor spends on a call."""
    started = process_time()
    call()
    return process_time() - started


def new_model() -> LatentODERegressor:
    """What is to be fitted, for one epoch."""
    return LatentODERegressor(series="series", time="time", max_iter=1, random_state=0)


def measure_apart(*what: Any) -> dict[str, float]:
    """:func:`measure`, or with two arguments :func:`measure_long`, in a process of its own."""
    command = [sys.executable, "-m", "tests.benchmarks.series_scaling", "--measure", *map(str, what)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def section(panels: Sequence[tuple[int, int]], lengths: Sequence[int]) -> str:
    """The Markdown of the part."""
    rows = []
    for n_rows, n_times, times in [*((*panel, "own") for panel in panels), (*panels[:3][-1], "shared")]:
        found = measure_apart(n_rows, n_times, times)
        seconds = [f"{found[name]:.2f} ({1e6 * found[name] / n_rows:.0f})" for name in CALLS]
        memory = [f"{found[name]:.0f}" for name in ("before", *(f"{name} memory" for name in CALLS))]
        rows.append([f"{n_rows:,}", f"{n_rows // n_times:,}", f"{found['times']:,}", *seconds, *memory])
        print(*rows[-1], sep=" | ", flush=True)
    units = [f"{name}, s (µs)" for name in CALLS] + ["before, MiB", *(f"after {name}, MiB" for name in CALLS)]
    of_panels = table(["rows", "series", "times", *units], rows)
    rows = []
    for n_rows in lengths:
        for n_times in sorted({n_rows, lengths[0]}):
            found = measure_apart(n_rows, n_times)
            seconds = [f"{found[name]:.2f} ({1e6 * found[name] / n_rows:.0f})" for name in ("condition", "one", "all")]
            rows.append([f"{n_rows:,}", f"{n_rows // n_times}", *seconds])
            print(*rows[-1], sep=" | ", flush=True)
    of_series = table(["rows", "times as long", "condition, s (µs)", "predict a row, s (µs)", "all, s (µs)"], rows)
    return f"{NOTES}\n\n{of_panels}\n\n## One series\n\n{LONG_NOTES}\n\n{of_series}"


def _peak_resident() -> float:
    """The largest resident set that the process had, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def main() -> None:
    """Measure all sizes, print the table, and write the page."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.series_scaling", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few rows: to see that all works, not to publish")
    parser.add_argument("--out", type=Path, help=f"where to write the page; else {PAGE}, if it is to be published")
    parser.add_argument("--measure", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        warnings.simplefilter("ignore", ConvergenceWarning)
        torch.set_num_threads(1)
        n_rows, n_times, *times = options.measure
        print(json.dumps((measure if times else measure_long)(int(n_rows), int(n_times), *times)))
        return
    body = section(PANELS[:2], LENGTHS[:2]) if options.quick else section(PANELS, LENGTHS)
    command = "python -m tests.benchmarks.series_scaling" + (" --quick" if options.quick else "")
    print(machine(command), body, sep="\n\n")
    if options.out or not options.quick:
        write(options.out or PAGE, "A latent ODE against the number of rows", body, command)


if __name__ == "__main__":
    main()

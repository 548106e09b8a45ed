"""Seconds and memory of a latent ODE against the number of rows: ``python -m tests.benchmarks.series_scaling``."""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import warnings
from pathlib import Path
from time import perf_counter

import torch
from sklearn.exceptions import ConvergenceWarning

from skode import LatentODERegressor
from skode.datasets import make_spirals
from tests.benchmarks.report import ROOT, machine, table, write

PAGE = ROOT / "docs" / "benchmarks" / "series_scaling.md"

NOTES = """\
Spirals of 40 observations each, ever more of them; one thread, every line a process of its own. 'fit' is one of one
epoch, batches of 50 series, with all that comes before it; 'predict' answers all rows with their standard deviations;
behind them stand microseconds a row. 'times' counts the distinct values of the time column: with 40 all series share
one grid. Memory is the peak resident set of the process: 'before', of imports and data, and by how much it had grown
after fit, and after predict."""

N_TIMES, BATCH = 40, 50
SIZES = (1_000, 10_000, 100_000, 1_000_000)


def measure(n_rows: int, times: str) -> dict[str, float]:
    """Fit and predict in this process, which must be fresh.

    Parameters
    ----------
    n_rows : int
        Rows, a multiple of 40.
    times : {"own", "shared"}
        Whether each series has times of its own, or all share a grid.

    Returns
    -------
    dict
        ``times``, the number of distinct ones; in seconds ``fit`` and ``predict``; in MiB the peak resident set
        ``before`` them, and by how much it had grown after each, ``fit memory`` and ``predict memory``.
    """
    warnings.simplefilter("ignore", ConvergenceWarning)
    torch.set_num_threads(1)
    X, y = make_spirals(n_rows // N_TIMES, N_TIMES, irregular=times == "own", random_state=0)
    few = make_spirals(10, N_TIMES, random_state=0)
    new_model().fit(*few).predict(few[0], return_std=True)  # libraries are ready
    before = _peak_resident()
    started = perf_counter()
    model = new_model().fit(X, y)
    fitted, after_fit = perf_counter(), _peak_resident()
    model.predict(X, return_std=True)
    predicted, after_predict = perf_counter(), _peak_resident()
    return {
        "times": X["time"].nunique(),
        "fit": fitted - started,
        "predict": predicted - fitted,
        "before": before,
        "fit memory": after_fit - before,
        "predict memory": after_predict - before,
    }


def new_model() -> LatentODERegressor:
    """What is to be fitted, for one epoch."""
    return LatentODERegressor(series="series", time="time", max_iter=1, batch_size=BATCH, random_state=0)


def measure_apart(n_rows: int, times: str) -> dict[str, float]:
    """:func:`measure` in a process of its own."""
    command = [sys.executable, "-m", "tests.benchmarks.series_scaling", "--measure", str(n_rows), times]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def section(sizes: tuple[int, ...]) -> str:
    """The Markdown of the part."""
    rows = []
    for n_rows, times in [*((n_rows, "own") for n_rows in sizes), (max(sizes), "shared")]:
        found = measure_apart(n_rows, times)
        seconds = [f"{found[name]:.2f} ({1e6 * found[name] / n_rows:.0f})" for name in ("fit", "predict")]
        memory = [f"{found[name]:.0f}" for name in ("before", "fit memory", "predict memory")]
        rows.append([f"{n_rows:,}", f"{found['times']:,}", *seconds, *memory])
        print(*rows[-1], sep=" | ", flush=True)
    header = ["rows", "times", "fit, s (µs)", "predict, s (µs)", "before, MiB", "after fit, MiB", "after predict, MiB"]
    return f"{NOTES}\n\n" + table(header, rows)


def _peak_resident() -> float:
    """The largest resident set that the process had, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def main() -> None:
    """Measure all sizes, print the table, and write the page."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.series_scaling", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="up to 10,000 rows: to see that all works, not to publish")
    parser.add_argument("--out", type=Path, help=f"where to write the page; else {PAGE}, if it is to be published")
    parser.add_argument("--measure", nargs=2, metavar=("ROWS", "TIMES"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(int(options.measure[0]), options.measure[1])))
        return
    body = section(SIZES[:2] if options.quick else SIZES)
    command = "python -m tests.benchmarks.series_scaling" + (" --quick" if options.quick else "")
    print(machine(command), body, sep="\n\n")
    if options.out or not options.quick:
        write(options.out or PAGE, "A latent ODE against the number of rows", body, command)


if __name__ == "__main__":
    main()

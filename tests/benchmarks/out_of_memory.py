"""Seconds and memory of fits to tables on disk, by rows: ``python -m tests.benchmarks.out_of_memory``."""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from time import process_time
from typing import Any

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning

from skode import CNFDensityEstimator, ODENetClassifier
from skode.io import ArrayTable, ParquetTable
from skode.training.loop import _Training
from skode.training.order import AllRows
from tests.benchmarks.report import ROOT, machine, table, write

PAGE = ROOT / "docs" / "benchmarks" / "out_of_memory.md"

NOTES = """\
Tables of {columns} columns of float32 on disk, one epoch in batches of {batch} rows; one thread, every line a process
of its own. The classifier has `hidden_layer_sizes=(32,)` and `state_size=16`, the density `hidden_layer_sizes=(32,)`,
the rest are defaults, with the search for the penalty's strength and the mixtures beside the flow, which see 100,000
rows at most. Seconds are those of the processor: of all of `fit`; of the epoch, behind which stand microseconds a row;
and of `predict_proba` or `score_samples` of all rows, where these are {answers:,} at most. Memory is in MiB above
that after imports, the largest up to the end of the fit: 'resident' is VmHWM, in which pages of a memory map count,
and 'own' RssAnon, which is looked at every 10 ms. 'array' is the table in memory, read after imports. The score is the
accuracy or the mean log-density of 20,000 rows. A table of 10,000,000 rows has 381 MiB."""

SIZES = (10_000, 100_000, 1_000_000, 10_000_000)
N_COLUMNS, BATCH, MOST_ANSWERED, AT_ONCE = 10, 1000, 100_000, 100_000
KINDS = ("memmap", "parquet", "array")
ESTIMATORS = ("classifier", "density")


def write_table(folder: Path, n_rows: int) -> None:
    """A table with targets that no linear classifier knows, as arrays and in Parquet."""
    import pyarrow as pa
    from pyarrow import parquet

    X = np.lib.format.open_memmap(folder / "X.npy", "w+", np.float32, (n_rows, N_COLUMNS))
    y = np.lib.format.open_memmap(folder / "y.npy", "w+", np.int8, (n_rows,))
    names = [f"x{j}" for j in range(N_COLUMNS)]
    schema = pa.schema([*((name, pa.float32()) for name in names), ("y", pa.int8())])
    with parquet.ParquetWriter(folder / "table.parquet", schema) as file:
        for start in range(0, n_rows, AT_ONCE):
            rng = np.random.default_rng([0, start])
            part = rng.normal(size=(min(AT_ONCE, n_rows - start), N_COLUMNS)).astype(np.float32)
            part[:, 1] = part[:, 0] ** 2 + 0.5 * part[:, 1]
            own = (part[:, 0] * part[:, 2] > 0.0).astype(np.int8)
            X[start : start + len(part)], y[start : start + len(part)] = part, own
            columns = [*(pa.array(column) for column in part.T), pa.array(own)]
            file.write_table(pa.table(columns, schema=schema))
    X.flush()
    y.flush()


def read_table(folder: Path, kind: str) -> tuple[Any, Any]:
    """Features and targets of a table, on disk or in memory."""
    if kind == "parquet":
        found = ParquetTable(folder / "table.parquet")
        return found.drop("y"), found["y"]
    if kind == "array":
        return np.load(folder / "X.npy"), np.load(folder / "y.npy")
    X, y = (np.load(folder / name, mmap_mode="r") for name in ("X.npy", "y.npy"))
    return ArrayTable(X), y  # in blocks also where the map is small


class Memory:
    """The largest resident set of this process, and of its own memory, in MiB above those at the start."""

    def __init__(self) -> None:
        self.before = self.read()
        self.own, self.over = self.before["RssAnon"], threading.Event()
        self.watch = threading.Thread(target=self.look, daemon=True)
        self.watch.start()

    @staticmethod
    def read() -> dict[str, float]:
        """VmHWM and RssAnon of Linux."""
        found = re.findall(r"(VmHWM|RssAnon):\s+(\d+) kB", Path("/proc/self/status").read_text())
        return {name: int(value) / 1024.0 for name, value in found}

    def look(self) -> None:
        """Look at the process's own memory until it is over."""
        while not self.over.wait(0.01):
            self.own = max(self.own, self.read()["RssAnon"])

    def largest(self) -> dict[str, float]:
        """Both so far."""
        now = self.read()
        return {
            "resident": now["VmHWM"] - self.before["VmHWM"],
            "own": max(self.own, now["RssAnon"]) - self.before["RssAnon"],
        }


def measure(estimator: str, kind: str, folder: Path) -> dict[str, float]:
    """Fit and answer in this process, which must be fresh.

    Returns
    -------
    dict
        Seconds of ``fit``, of its ``epoch`` and of ``answers``; MiB of memory after the fit, ``resident`` and ``own``;
        ``score``, the accuracy or the mean log-density of some rows.
    """
    memory = Memory()
    epochs: list[float] = []
    epoch = _Training._epoch

    def timed(self: Any, under_way: Any) -> None:
        started = process_time()
        epoch(self, under_way)
        if (kind == "array") == isinstance(self.order, AllRows):  # and not that of a search
            epochs.append(process_time() - started)

    _Training._epoch = timed  # type: ignore[method-assign]
    X, y = read_table(folder, kind)
    common = {"hidden_layer_sizes": (32,), "batch_size": BATCH, "max_iter": 1, "random_state": 0}
    model: Any
    if estimator == "classifier":
        model = ODENetClassifier(state_size=16, **common)
        answer = model.predict_proba
    else:
        model = CNFDensityEstimator(**common)
        answer = model.score_samples
    found = {"fit": _seconds(lambda: model.fit(X, y)), "epoch": epochs[-1], **memory.largest()}
    if len(X) <= MOST_ANSWERED:
        found["answers"] = _seconds(lambda: answer(X))
    some = np.load(folder / "X.npy", mmap_mode="r")[:20_000], np.load(folder / "y.npy", mmap_mode="r")[:20_000]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of names that only Parquet has
        found["score"] = model.score(*some)
    memory.over.set()
    return found


def measure_apart(*what: Any) -> dict[str, float]:
    """:func:`measure` in a process of its own."""
    command = [sys.executable, "-m", "tests.benchmarks.out_of_memory", "--measure", *map(str, what)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def section(sizes: Sequence[int], kinds: Sequence[str]) -> str:
    """The Markdown of the part."""
    rows = []
    for n_rows in sizes:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            write_table(folder, n_rows)
            for estimator in ESTIMATORS:
                for kind in [kind for kind in kinds if kind != "array" or n_rows < SIZES[-1]]:
                    started = time.time()
                    found = measure_apart(estimator, kind, folder)
                    per_row = f"{found['epoch']:.1f} ({1e6 * found['epoch'] / n_rows:.1f})"
                    answers = f"{found['answers']:.1f}" if "answers" in found else None
                    memory = [f"{found['resident']:.0f}", f"{found['own']:.0f}"]
                    own = [f"{found['fit']:.1f}", per_row, answers, *memory, f"{found['score']:.3f}"]
                    rows.append([estimator, kind, f"{n_rows:,}", *own])
                    print(
                        *("" if cell is None else cell for cell in rows[-1]),
                        f"{time.time() - started:.0f} s",
                        sep=" | ",
                        flush=True,
                    )
    header = ["estimator", "table", "rows", "fit, s", "epoch, s (µs)", "answers, s", "resident", "own", "score"]
    notes = NOTES.format(columns=N_COLUMNS, batch=BATCH, answers=MOST_ANSWERED)
    return f"{notes}\n\n{table(header, rows)}"


def _seconds(call: Callable[[], Any]) -> float:
    """Time that the processor spends on a call."""
    started = process_time()
    call()
    return process_time() - started


def main() -> None:
    """Measure all sizes, print the table, and write the page."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.out_of_memory", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few rows: to see that all works, not to publish")
    parser.add_argument("--out", type=Path, help=f"where to write the page; else {PAGE}, if it is to be published")
    parser.add_argument("--tables", nargs="+", choices=KINDS, default=KINDS, help="kinds of table; all by default")
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        warnings.simplefilter("ignore", ConvergenceWarning)
        torch.set_num_threads(1)
        estimator, kind, folder = options.measure
        print(json.dumps(measure(estimator, kind, Path(folder))))
        return
    body = section(SIZES[:2] if options.quick else SIZES, options.tables)
    command = "python -m tests.benchmarks.out_of_memory" + (" --quick" if options.quick else "")
    print(machine(command), body, sep="\n\n")
    if options.out or not options.quick:
        write(options.out or PAGE, "Tables on disk against the number of rows", body, command)


if __name__ == "__main__":
    main()

"""Thread counts, which the libraries read once, when they start."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

MARK = "SKODE_BENCHMARK_THREADS"


def run_with_threads(n_threads: int, module: str, arguments: Sequence[str]) -> Iterator[str]:
    """Run ``python -m module`` with so many threads in every library, on so many processors.

    Parameters
    ----------
    n_threads : int
        Number of threads.
    module : str
        The module's full name.
    arguments : sequence of str
        What follows it on the command line.

    Yields
    ------
    str
        Its output, line by line.

    Raises
    ------
    SystemExit
        Where it fails, with its status.
    """
    command = [sys.executable, "-m", module, *arguments]
    with (
        _pinned(n_threads),
        subprocess.Popen(command, env=_environment(n_threads), stdout=subprocess.PIPE, text=True) as process,
    ):
        yield from process.stdout or ()
    if process.returncode:
        raise SystemExit(process.returncode)


def started_with_threads() -> int | None:
    """The number of threads this process was started with by :func:`run_with_threads`, None if it was not."""
    return int(os.environ[MARK]) if MARK in os.environ else None


def _environment(n_threads: int) -> dict[str, str]:
    xla = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1" if n_threads == 1 else ""
    return {
        **os.environ,
        **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", MARK), str(n_threads)),
        # Two threads of libgomp that meet on one processor would wait for each other a whole time slice.
        "GOMP_SPINCOUNT": "10000",
        # numpy's idle threads spin, and would take a processor from whoever has the next turn.
        "OPENBLAS_NUM_THREADS": "1",
        "XLA_FLAGS": xla,
        "JAX_PLATFORMS": "cpu",
    }


@contextmanager
def _pinned(n_threads: int) -> Iterator[None]:
    """This process, and those it starts meanwhile, on as many processors as threads, where the system allows."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(before)[-n_threads:])
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)

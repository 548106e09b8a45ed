"""Memory that stays after solves of many shapes: ``python -m tests.benchmarks.memory_kept``."""

from __future__ import annotations

import argparse
import gc
import os
from pathlib import Path

import numpy as np
import torch

from skode.dynamics import MLPField
from skode.dynamics.flow import flow_field
from skode.solvers import free_idle_memory, solve_ivp
from skode.solvers.buffer_pool import BufferPool
from tests.benchmarks.report import table

MIB = 2**20


def resident() -> float:
    """The resident set of this process, MiB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / MIB


def one_solve(rng: np.random.Generator) -> None:
    """Solve with a drawn field for a drawn number of states, half of the time with the gradient."""
    d, hidden, n = int(rng.integers(1, 33)), int(rng.integers(4, 129)), int(2 ** rng.uniform(0, 11))
    kind = rng.integers(3)
    field = MLPField(d, (hidden,))
    y0 = torch.randn(n, d)
    func = field
    if kind == 1:
        func, y0 = flow_field(field), torch.cat([y0, torch.zeros(n, 1)], dim=1)
    elif kind == 2:
        func = lambda t, y: field(t, y)  # noqa: E731
    with torch.set_grad_enabled(bool(rng.integers(2))):
        y = solve_ivp(func, (0.0, 1.0), y0, t_eval=[0.5, 1.0], rtol=1e-3, atol=1e-3).y
    if y.requires_grad:
        y.sum().backward()


def main() -> None:
    """Solve, and print how much memory stays before and after it is freed."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.memory_kept", description=__doc__)
    parser.add_argument("--solves", type=int, default=2000)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    for _ in range(20):  # libraries are ready
        one_solve(rng)
    gc.collect()
    free_idle_memory()
    start = resident()
    rows = [["at the start", f"{start:.0f}", "0", f"{BufferPool.total / MIB:.0f}"]]

    def note(when: str) -> None:
        rows.append([when, f"{resident():.0f}", f"{resident() - start:.0f}", f"{BufferPool.total / MIB:.0f}"])

    for i in range(1, options.solves + 1):
        one_solve(rng)
        if i % (options.solves // 4) == 0:
            note(f"after {i} solves")
    gc.collect()
    note("after a garbage collection")
    free_idle_memory()
    note("after free_idle_memory()")
    print(table(["", "resident, MiB", "more than at the start", "in the pools"], rows))


if __name__ == "__main__":
    main()

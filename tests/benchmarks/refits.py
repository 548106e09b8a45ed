"""Former models after refits that fail: ``python -m tests.benchmarks.refits``."""

from __future__ import annotations

import argparse
import warnings

import torch

from tests.benchmarks.report import table
from tests.failing_refits import differences, fitted
from tests.failing_refits import table as all_refits


def main() -> None:
    """Try all, and print a table."""
    argparse.ArgumentParser(prog="python -m tests.benchmarks.refits", description=__doc__).parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    rows, n_changed = [], 0
    for name, way, warm in all_refits():
        model, case = fitted(name, way)
        found = differences(model, case, way, warm)
        n_changed += bool(found)
        rows.append([name, way, "warm" if warm else "cold", ", ".join(found) or "as before"])
    print(table(["estimator", "refit", "start", "former model"], rows))
    print(f"{len(rows)} cases, of which {n_changed} changed the former model or did not fail")


if __name__ == "__main__":
    main()

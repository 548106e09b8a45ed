"""Everything about densities on one page: ``python -m tests.benchmarks.density --out docs/benchmarks/density.md``."""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path

import torch
from sklearn.exceptions import ConvergenceWarning

from tests.benchmarks import density_race, density_tables, density_toys
from tests.benchmarks.report import machine, write


def main() -> None:
    """Run the race, the toys and the final tables, print them, and write the page where ``--out`` says."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.density", description=__doc__)
    parser.add_argument("--seconds", type=float, default=80.0, help="training time of each in the race")
    parser.add_argument("--out", type=Path, help="a Markdown file to write, besides printing")
    options = parser.parse_args()
    warnings.simplefilter("ignore", ConvergenceWarning)
    torch.set_num_threads(1)
    parts = [
        f"## Against the clock\n\nOne thread. {density_race.section(options.seconds)}",
    ]
    torch.set_num_threads(2)
    parts += [
        f"## Known densities\n\nTwo threads. {density_toys.section()}",
        f"## Tables\n\nTwo threads. {density_tables.section('final', list(density_tables.MODELS))}",
    ]
    body = "\n\n".join(parts)
    command = f"python -m tests.benchmarks.density --seconds {options.seconds:g}"
    print(machine(command), body, sep="\n\n")
    if options.out:
        write(options.out, "Density estimation", body, command)


if __name__ == "__main__":
    main()

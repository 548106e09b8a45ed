"""Run every benchmark and write the pages of docs/benchmarks: ``python -m tests.benchmarks [--quick]``."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from tests.benchmarks.report import ROOT


def main() -> None:
    """Run each script in a process of its own."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few rounds: to see that all works, not to publish")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "benchmarks", help="the folder to write to")
    options = parser.parse_args()
    quick = ["--quick"] if options.quick else []
    tolerances = ["--tolerances", "1e-2", "1e-5", "1e-8"] if options.quick else []
    for script, settings in {
        "speed": ["--out", str(options.out / "speed.md"), *quick],
        "work_precision": ["--out", str(options.out), *quick, *tolerances],
        "fit": ["--out", str(options.out / "fit.md"), *(["--rounds", "3"] if options.quick else [])],
        "tables": ["--out", str(options.out / "tables.md")],
        "memory": ["--out", str(options.out), *tolerances],
    }.items():
        subprocess.run([sys.executable, "-m", f"tests.benchmarks.{script}", *settings], check=True)


if __name__ == "__main__":
    main()

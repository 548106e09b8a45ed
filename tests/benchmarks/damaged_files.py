"""Files that are damaged, and files that are made to attack: ``python -m tests.benchmarks.damaged_files``."""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np

import skode
from skode.persistence import UnreadableFileError
from tests.benchmarks.memory import peak_resident
from tests.benchmarks.report import setup, table
from tests.persistence import models
from tests.persistence.attacks import ATTACKS
from tests.persistence.damage import DAMAGES, damaged
from tests.persistence.watched import watched

LONGEST_SECONDS, LARGEST_MIB = 1.0, 100.0


def refusal(path: Path) -> tuple[str, float, float]:
    """How a file is refused: the name of the error, seconds of the processor, and MiB that memory grew by.

    Raises
    ------
    AssertionError
        If it is loaded, fails otherwise, or runs something.
    """
    before = peak_resident(reset=True)
    began = time.process_time()
    with watched() as ran:
        try:
            loaded = skode.load(path)
        except UnreadableFileError as error:
            name = type(error).__name__
        else:
            raise AssertionError(f"{path} was loaded as {loaded!r}")
    seconds = time.process_time() - began
    assert not ran, ran
    return name, seconds, (peak_resident() - before) / 2**20


def main() -> None:
    """Damage files of each estimator, refuse all of them and all attacks, and print what that took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=1000, help="number of damaged files")
    n_files = parser.parse_args().files
    rng = np.random.default_rng(0)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.skode"
        whole = {}
        for case in models.CASES:
            models.fitted(case)[0].save(path)
            skode.load(path, trusted=models.TRUSTED)
            whole[case] = path.read_bytes()
        measured: dict[str, list[tuple[str, float, float]]] = {}
        for i in range(n_files):
            kind, case = DAMAGES[i % len(DAMAGES)], list(whole)[i % len(whole)]
            path.write_bytes(damaged(whole[case], kind, rng))
            measured.setdefault(kind, []).append(refusal(path))
        for attack, content in ATTACKS.items():
            path.write_bytes(content)
            measured.setdefault(f"attack: {attack}", []).append(refusal(path))
    for kind, found in measured.items():
        names = ", ".join(f"{name} {n}" for name, n in Counter(name for name, _, _ in found).items())
        longest, largest = (max(values) for values in list(zip(*found, strict=True))[1:])
        assert longest < LONGEST_SECONDS, (kind, longest)
        assert largest < LARGEST_MIB, (kind, largest)
        rows.append([kind, len(found), names, f"{longest:.3f}", f"{largest:.1f}"])
    print(table(["files", "number", "refused by", "longest, s", "memory, MiB"], rows))
    print(f"\n{len(whole)} estimators, seed 0. {setup()}")


if __name__ == "__main__":
    main()

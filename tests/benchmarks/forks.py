"""Forks of a process whose threads predict: ``python -m tests.benchmarks.forks``."""

from __future__ import annotations

import argparse
import time
import warnings
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from tests.every_estimator import cases
from tests.forked import meanwhile, outcome


def repeated(call: Callable[[], Any], name: str, counts: Counter[str]) -> Callable[[Callable[[], bool]], None]:
    """A function that calls another as long as it is to go on, and counts how often."""

    def repeat(goes_on: Callable[[], bool]) -> None:
        while goes_on():
            call()
            counts[name] += 1

    return repeat


def main() -> None:
    """Fork, and print what became of the children."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.forks", description=__doc__)
    parser.add_argument("--forks", type=int, default=200)
    parser.add_argument("--only", nargs="*", help="names of the estimators whose threads predict")
    parser.add_argument("--timeout", type=float, default=20.0, help="seconds after which a child counts as hung")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    calls: dict[str, Callable[[], Any]] = {}
    for name, case in cases().items():
        if not options.only or name in options.only:
            model, X = case.estimator.fit(*case.data[0]), case.data[0][0]
            calls[name] = lambda model=model, X=X, answer=case.answer: answer(model, X)
    expected = {name: call() for name, call in calls.items()}
    outcomes: Counter[str] = Counter()
    counts: Counter[str] = Counter()

    def same() -> bool:
        return all(np.array_equal(call(), expected[name]) for name, call in calls.items())

    with meanwhile(*(repeated(call, name, counts) for name, call in calls.items())):
        for _ in range(options.forks):
            time.sleep(0.01)
            outcomes[outcome(same, options.timeout)] += 1
    print("children that answer as their parent does:", dict(outcomes))
    print("predictions of the parent's threads meanwhile:", dict(counts))


if __name__ == "__main__":
    main()

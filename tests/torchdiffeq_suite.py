"""torchdiffeq's own test suite against ``skode.solvers``, through a shim: ``python -m tests.torchdiffeq_suite PATH``.

``PATH`` is the folder ``tests`` of a checkout of https://github.com/rtqichen/torchdiffeq, which is fetched by whoever
runs this and is no part of the project. Counted are subtests, and tests that have none.
"""

from __future__ import annotations

import argparse
import functools
import sys
import types
import unittest
import warnings
from collections import Counter
from pathlib import Path

from skode import solvers

MODULES = ("api_tests", "event_tests", "gradient_tests", "norm_tests", "odeint_tests")


def shim() -> types.ModuleType:
    """A module with torchdiffeq's names: its ``odeint`` lets autograd record the solve."""
    module = types.ModuleType("torchdiffeq")
    backprop = functools.partial(solvers.odeint, adjoint="backprop")
    vars(module).update(
        odeint=backprop,
        odeint_adjoint=solvers.odeint_adjoint,
        odeint_dense=solvers.odeint_dense,
        odeint_event=functools.partial(solvers.odeint_event, odeint_interface=backprop),
    )
    return module


class Counts(unittest.TestResult):
    """Counts subtests that pass and that do not, and keeps what was raised."""

    def __init__(self) -> None:
        super().__init__()
        self.passed: Counter[str] = Counter()
        self.failed: list[tuple[str, str]] = []
        self.has_subtests = False

    def startTest(self, test: unittest.TestCase) -> None:
        super().startTest(test)
        self.has_subtests = False

    def addSubTest(self, test, subtest, err) -> None:
        self.has_subtests = True
        if err is None:
            self.passed[test.id()] += 1
        else:
            self._fail(subtest, err)

    def addSuccess(self, test) -> None:
        if not self.has_subtests:
            self.passed[test.id()] += 1

    def addError(self, test, err) -> None:
        self._fail(test, err)

    addFailure = addError  # noqa: N815

    def _fail(self, test, err) -> None:
        message = " ".join(str(err[1]).split())
        self.failed.append((test.id(), f"{err[0].__name__}: {message[:300]}"))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("path", type=Path, help="the folder of torchdiffeq's tests")
    parser.add_argument("--torchdiffeq", type=Path, help="a folder with torchdiffeq, to run instead of skode")
    parser.add_argument("-k", dest="pattern", default="", help="only tests whose names contain this")
    options = parser.parse_args()
    if options.torchdiffeq is None:
        sys.modules["torchdiffeq"] = shim()
    else:
        sys.path.insert(0, str(options.torchdiffeq))
    sys.path.insert(0, str(options.path))
    loader = unittest.defaultTestLoader
    if options.pattern:
        loader.testNamePatterns = [f"*{options.pattern}*"]
    counts = Counts()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loader.loadTestsFromNames(MODULES).run(counts)
    for name, message in counts.failed:
        print(f"{name}\n    {message}")
    n_failed = len(counts.failed)
    print(f"{counts.passed.total()} of {counts.passed.total() + n_failed} pass, {n_failed} fail")
    return int(n_failed > 0)


if __name__ == "__main__":
    sys.exit(main())

"""A fuzz of the estimators: whatever they are given, they answer, warn, or say in terms of it why they can't."""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch

from tests.fuzz import density, series, supervised
from tests.fuzz.cases import Case

#: What makes a case of each estimator.
ESTIMATORS: dict[str, Callable[[np.random.Generator], Case]] = {
    "classifier": supervised.classifier,
    "density": density.case,
    "regressor": supervised.regressor,
    "series": series.case,
}

#: Bytes of address space that cases are run in.
LIMIT = 16 * 2**30


def new_case(name: str, seed: int) -> Case:
    """The case of a seed, which alone decides what it is."""
    return ESTIMATORS[name](np.random.default_rng([sorted(ESTIMATORS).index(name), seed]))


@contextmanager
def limited_memory() -> Iterator[None]:
    """Let what takes too much memory fail, rather than the machine.

    Not where there is a GPU, whose driver takes address space by the terabyte.
    """
    before = resource.getrlimit(resource.RLIMIT_AS)
    if not torch.cuda.is_available():
        resource.setrlimit(resource.RLIMIT_AS, (LIMIT, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)

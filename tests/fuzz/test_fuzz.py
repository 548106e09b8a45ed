"""The first seeds of each estimator: ``python -m tests.fuzz`` runs as many as one likes."""

import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.utils import check_array

from tests.fuzz import ESTIMATORS, limited_memory, new_case, outcomes
from tests.fuzz.cases import worst
from tests.fuzz.outcomes import (
    FINITE,
    HANG,
    NAMELESS,
    NOT_FINITE,
    NUMPY_WARNING,
    RAW_ERROR,
    REFUSED,
    WARNED,
    WRONG,
    WrongAnswerError,
    attempt,
)

BLOCK = 20
SEEDS = range(0, 60, BLOCK)


@pytest.mark.parametrize("first", SEEDS)
@pytest.mark.parametrize("name", sorted(ESTIMATORS))
def test_estimators_answer_warn_or_say_why_not(name, first):
    with limited_memory():
        ends = {seed: worst(new_case(name, seed).run()) for seed in range(first, first + BLOCK)}
    assert {seed: end for seed, end in ends.items() if end.bad} == {}


@pytest.mark.parametrize("name", sorted(ESTIMATORS))
def test_a_seed_alone_decides_what_a_case_is(name):
    told = [repr(new_case(name, seed).told) for seed in (3, 3, 4)]
    assert told[0] == told[1] != told[2]


def warn_and_answer(kind, answer):
    warnings.warn("odd", kind, stacklevel=2)
    return answer


def compute_for_ever():
    while True:
        pass


def wrong():
    raise WrongAnswerError("it is odd")


ENDS = [
    (lambda: [1.0, 2], FINITE),
    (lambda: pd.DataFrame({"a": ["text"], "b": [1.0]}), FINITE),
    (lambda: warn_and_answer(UserWarning, [np.nan]), WARNED),
    (lambda: check_array([[np.nan]], input_name="X"), REFUSED),
    (lambda: check_array([[np.nan]], input_name="Q"), NAMELESS),
    (lambda: [1.0, np.nan], NOT_FINITE),
    (lambda: (np.zeros(2), np.array([-np.inf], dtype=np.float32)), NOT_FINITE),
    (lambda: warn_and_answer(RuntimeWarning, [1.0]), NUMPY_WARNING),
    (lambda: np.array(["X"]).astype(float), RAW_ERROR),
    (lambda: torch.zeros(2) + torch.zeros(3), RAW_ERROR),
    (compute_for_ever, HANG),
    (wrong, WRONG),
]


@pytest.mark.parametrize(("call", "kind"), ENDS, ids=[f"{i} {kind}" for i, (_, kind) in enumerate(ENDS)])
def test_ends_are_told_apart(monkeypatch, call, kind):
    monkeypatch.setattr(outcomes, "PATIENCE", 0.1)
    end = attempt("call", call, set())
    assert end.kind == kind
    assert end.bad == kind.startswith("BAD")

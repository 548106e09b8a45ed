"""Refits that fail, each in its way, and all that a former model consists of."""

from __future__ import annotations

import copy
import functools
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd
import torch
from torch import nn

from skode.solvers import ivp_call
from skode.timeseries.known_dynamics import KnownDynamics
from tests.every_estimator import Case, cases

#: Estimators with a network, which have callbacks, a device and warm starts.
NETWORKS = ("ODENetClassifier", "ODENetRegressor", "CNFDensityEstimator", "CNFRegressor", "LatentODERegressor")


class BreaksError(Exception):
    """Raised by a user's callback or field."""


class Breaking:
    """Counts calls, and raises an error from one on."""

    n_calls = 0
    most: float = np.inf

    def count(self) -> None:
        """Raise the error if its time has come."""
        self.n_calls += 1
        if self.n_calls > self.most:
            raise BreaksError


#: Called by users' functions and fields. It is not an attribute of them, so that no pickle has its count.
BREAKING = Breaking()

#: How often fits called the field of the user's, by the estimator's name.
N_CALLS: dict[str, int] = {}


class Callback:
    """A callback of scikit-learn's that breaks."""

    def setup(self, estimator: Any, context: Any) -> None: ...
    def teardown(self, estimator: Any, context: Any) -> None: ...
    def on_fit_task_begin(self, estimator: Any, context: Any, **kwargs: Any) -> None: ...

    def on_fit_task_end(self, estimator: Any, context: Any, **kwargs: Any) -> bool:
        BREAKING.count()
        return False


class UsersField(nn.Module):
    """A field that breaks."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.linear = nn.Linear(size, size)

    def forward(self, *time_and_state: Any) -> Any:
        BREAKING.count()
        return torch.tanh(self.linear(time_and_state[-1]))


def decay(t: Any, y: Any, p: Any) -> Any:
    """Equations that break."""
    BREAKING.count()
    return (-p["rate"] * y[..., 0])[..., None]


class Interrupting:
    """Data that are interrupted while they are read."""

    def __array__(self, *args: Any, **kwargs: Any) -> np.ndarray:
        raise KeyboardInterrupt

    def __len__(self) -> int:
        return 30


def with_users_field(name: str, case: Case) -> Any:
    """The estimator with a field, or equations, of the user's."""
    estimator = copy.deepcopy(case.estimator)
    if name in ("ODENetClassifier", "ODENetRegressor"):
        return estimator.set_params(field=UsersField(3))
    if name == "CNFDensityEstimator":
        return estimator.set_params(field=UsersField(2))
    if name == "LatentODERegressor":
        return estimator.set_params(
            dynamics=KnownDynamics(decay, {"rate": (0.3, 0.0, None)}, states=["y"], observe=["y"])
        )
    if name == "ODERegressor":
        return estimator.set_params(rhs=decay)
    return estimator.set_params(field=UsersField(1), max_iter=3)


def changed(X: Any, change: str) -> Any:
    """Features with a value that is not finite, a row less, or a column less or more."""
    if isinstance(X, pd.DataFrame):
        return {"infinite": X.assign(t=X["t"].where(X.index > 0)), "short": X[:-1], "columns": X[["t"]]}[change]
    if change == "infinite":
        X = X.copy()
        X[0, 0] = np.inf
        return X
    return X[:-1] if change == "short" else np.column_stack([X, X])


@contextmanager
def memory_error(after: int) -> Iterator[None]:
    """While memory runs out in a solve."""
    solve, n_solves = ivp_call.solve, 0

    def failing(*args: Any, **kwargs: Any) -> Any:
        nonlocal n_solves
        n_solves += 1
        if n_solves > after:
            raise MemoryError("none left")
        return solve(*args, **kwargs)

    with mock.patch.object(ivp_call, "solve", failing):
        yield


@contextmanager
def breaking(after: float) -> Iterator[None]:
    """While callbacks and fields break, after some calls."""
    BREAKING.n_calls, BREAKING.most = 0, after
    try:
        yield
    finally:
        BREAKING.most = np.inf


Refit = Callable[[Any, tuple[Any, ...]], Any]


def set_and_fit(**params: Any) -> Refit:
    """A refit with other parameters, which are set back when it has failed."""

    def refit(model: Any, data: tuple[Any, ...]) -> None:
        before = {name: getattr(model, name) for name in params}
        model.set_params(**params)
        try:
            model.fit(*data)
        finally:
            model.set_params(**before)

    return refit


def of_data(change: Callable[[tuple[Any, ...]], tuple[Any, ...]]) -> Refit:
    """A refit to changed data."""
    return lambda model, data: model.fit(*change(data))


def within(context: Callable[[float], Any], after: float) -> Refit:
    """A refit while something fails."""

    def refit(model: Any, data: tuple[Any, ...]) -> None:
        with context(after):
            model.fit(*data)

    return refit


def in_the_midst(model: Any, data: tuple[Any, ...]) -> None:
    """A refit whose field breaks after a third of the calls of the first fit."""
    with breaking(N_CALLS[type(model).__name__] // 3):
        model.fit(*data)


def one_weight_too_few(data: tuple[Any, ...]) -> tuple[Any, ...]:
    """Data with weights of all rows but one."""
    return (*data, None, np.ones(len(data[0]) - 1)) if len(data) == 1 else (*data, np.ones(len(data[0]) - 1))


#: Ways in which a refit fails, by what they are, with the error that it raises.
WAYS: dict[str, tuple[Refit, type[BaseException]]] = {
    "refused argument": (set_and_fit(rtol=-1.0), ValueError),
    "value not finite": (of_data(lambda data: (changed(data[0], "infinite"), *data[1:])), ValueError),
    "inconsistent lengths": (
        of_data(lambda data: (changed(data[0], "short"), *data[1:]) if len(data) > 1 else one_weight_too_few(data)),
        ValueError,
    ),
    "weights of other length": (of_data(one_weight_too_few), ValueError),
    "no memory at the first solve": (within(memory_error, 0), MemoryError),
    "no memory at a later solve": (within(memory_error, 1), MemoryError),
    "interrupted outside training": (of_data(lambda data: (Interrupting(), *data[1:])), KeyboardInterrupt),
    "field breaks": (in_the_midst, BreaksError),
    "callback breaks": (within(breaking, 1), BreaksError),
    "invalid device": (set_and_fit(device="nowhere"), ValueError),
    "wrong columns": (of_data(lambda data: (changed(data[0], "columns"), *data[1:])), ValueError),
}


def table() -> list[tuple[str, str, bool]]:
    """All combinations that exist: estimator, way, and whether it starts warm."""
    found = []
    for name in cases():
        for way in WAYS:
            for warm in (False, True) if name in NETWORKS else (False,):
                if name not in NETWORKS and way in ("callback breaks", "invalid device"):
                    continue
                if way == "wrong columns" and not warm and name in NETWORKS[:4]:
                    continue  # a table of other columns is nothing wrong for a fit from scratch
                if way == "field breaks" and name == "CNFRegressor":
                    continue  # which takes no field of the user's
                found.append((name, way, warm))
    return found


def fitted(name: str, way: str) -> tuple[Any, Case]:
    """A model that refits in that way can be made of, one for all ways that need the same."""
    return _fitted(name, way if way in ("field breaks", "callback breaks") else "any")


@functools.cache
def _fitted(name: str, way: str) -> tuple[Any, Case]:
    case = cases()[name]
    estimator = with_users_field(name, case) if way == "field breaks" else copy.deepcopy(case.estimator)
    if way == "callback breaks":
        estimator.set_callbacks(Callback())
    BREAKING.n_calls = 0
    estimator.fit(*case.data[0])
    if way == "field breaks":
        N_CALLS[name] = BREAKING.n_calls
    return estimator, case


def differences(model: Any, case: Case, way: str, warm: bool) -> list[str]:
    """Refit a model in a way that fails, and say what has changed of it."""
    X = case.data[0][0]
    if type(model).__name__ in NETWORKS:
        model.set_params(warm_start=warm)
    before = dict(vars(model))
    modes = [part.training for part in module.modules()] if (module := getattr(model, "module_", None)) else []
    answer, pickled = case.answer(model, X), pickle.dumps(model)
    refit, expected = WAYS[way]
    try:
        refit(model, case.data[1])
    except BaseException as error:
        found = [] if isinstance(error, expected) else [f"a {type(error).__name__} in place of {expected.__name__}"]
    else:
        return ["the refit did not fail"]
    after = vars(model)
    found += [f"attribute {name}" for name in before.keys() | after.keys() if before.get(name) is not after.get(name)]
    if modes != ([part.training for part in module.modules()] if module is not None else []):
        found.append("module_.training")
    if not np.array_equal(answer, case.answer(model, X)):
        found.append("answers")
    if pickled != pickle.dumps(model):
        found.append("pickle")
    return found

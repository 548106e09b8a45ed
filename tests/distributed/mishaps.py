"""Fits of several processes in which something goes wrong."""

import os
import signal
import threading
import time
import warnings

import numpy as np
import pandas as pd
import torch
from sklearn.model_selection import GridSearchCV

import skode.distributed
from skode import CNFDensityEstimator, LatentODERegressor, ODENetRegressor, ODERegressor
from skode.io import ArrayTable
from tests.distributed.fits import SERIES, TABLE, numbers, spirals

RANK = int(os.environ.get("RANK", 0))


def data(n=40, seed=0):
    X = np.random.default_rng(seed).standard_normal((n, 3))
    return X, X.sum(1)


def regressor(**parameters):
    return ODENetRegressor(**TABLE | {"alpha": 0.1, "max_iter": 3} | parameters)


class Field(torch.nn.Module):
    """A field that does something in one process, in a solve of some number."""

    def __init__(self, rank=1, solve=4):
        super().__init__()
        self.inner, self.rank, self.solve, self.n = torch.nn.Linear(3, 3), rank, solve, 0

    def forward(self, t, y):
        starts = bool((torch.as_tensor(t) == 0.0).all())
        self.n += starts
        now = self.rank == RANK and self.n == self.solve and starts
        return self.inner(y) + (self.happens() if now else 0.0)


class Failing(Field):
    def happens(self):
        raise ValueError("out of order")


class Infinite(Field):
    def happens(self):
        return np.inf


class Interrupted(Field):
    def happens(self):
        if "INTERRUPTED" not in os.environ:  # the fits that follow are left in peace
            os.environ["INTERRUPTED"] = "once"
            signal.raise_signal(signal.SIGINT)
        return 0.0


def errors():
    """The errors that fits end with in this process, by name, and that the next fit is well."""
    X, y = data()
    # A field of the user's own has no weights to agree about beforehand.
    torch.manual_seed(0)
    attempts = {
        "other data": lambda: regressor().fit(*data(seed=RANK)),
        "other parameters": lambda: regressor(max_iter=3 + RANK).fit(X, y),
        "bad data": lambda: regressor().fit(np.full_like(X, np.inf), y),
        "one fails": lambda: regressor(state_size=3, field=Failing()).fit(X, y),
        "first fails": lambda: regressor(state_size=3, field=Failing(rank=0)).fit(X, y),
        "first solve": lambda: regressor(state_size=3, field=Infinite(solve=1)).fit(X, y),
        "parts in blocks": lambda: _parts(ArrayTable(X), y, None),
        "None in one": lambda: _parts(X, y, None if RANK else np.ones(len(X))),
        "other types": lambda: _parts(X if RANK else pd.DataFrame(X), y, None),
        "other columns": lambda: _parts(pd.DataFrame(X, columns=["a", "b", "c" if RANK else "d"]), y, None),
        "other widths": lambda: _parts(X[:, RANK:], y, None),
        "other contents": lambda: _parts(X, y.astype(str) if RANK else y, None),
        "other batches": lambda: regressor().partial_fit(*data(seed=RANK)),
    } | _answers(X, y)
    found = {}
    for name, attempt in attempts.items():
        try:
            attempt()
            found[name] = "none"
        except Exception as error:
            found[name] = f"{type(error).__name__}: {error}"
    found["afterwards"] = numbers(regressor().fit(X, y))
    return found


def _answers(X, y):
    """Predictions that are not the same in all processes, by name."""
    model = regressor().fit(X, y)
    with skode.distributed.alone():
        own = regressor(random_state=RANK).fit(X, y)
        density = CNFDensityEstimator(**TABLE | {"max_iter": 1, "stacking": False}).fit(X)
    nan = np.where(np.arange(len(X))[:, None] == RANK - 1, np.nan, X)  # in the second process only

    def together(predict, *args):
        with skode.distributed.together():
            predict(*args)

    return {
        "other X": lambda: together(model.predict, X + RANK),
        "other models": lambda: together(own.predict, X),
        "other tolerances": lambda: together(regressor().fit(X, y).set_params(rtol=0.1**RANK).predict, X),
        "other calls": lambda: together(model.transform if RANK else model.predict, X),
        "answer fails": lambda: together(density.score_samples, nan),
    }


def _parts(X, y, weights):
    with skode.distributed.together(sharded=True):
        regressor().fit(X, y, weights)


class InFirst:
    """A callback that predicts in the first process only, and by which the second one ends training."""

    n = 0

    def setup(self, estimator, context): ...

    def teardown(self, estimator, context): ...

    def on_fit_task_begin(self, estimator, context): ...

    def on_fit_task_end(self, estimator, context, *, fitted_estimator):
        InFirst.n += 1
        if RANK == 0:
            fitted_estimator.predict(data()[0])
        return RANK == 1 and InFirst.n == 2


def recovered():
    """A fit in one process of which a solve fails in training, and how often it diverged."""
    X, y = data()
    torch.manual_seed(0)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = regressor(state_size=3, field=Infinite(), max_iter=4).fit(X, y)
    return numbers(model), [str(w.message) for w in caught]


def scopes():
    """Fits alone and together, in parts and in threads."""
    X, y = data()
    found = {"whole": numbers(regressor().fit(X, y))}
    found["called back"] = {"epochs": np.array(regressor().set_callbacks(InFirst()).fit(X, y).n_iter_)}
    with skode.distributed.alone():
        if RANK == 0:  # the others do something else meanwhile
            found["alone"] = numbers(regressor().fit(X, y))
    with skode.distributed.together(sharded=True):
        part = slice(0, 25) if RANK == 0 else slice(25, None)
        found["parts"] = numbers(regressor().fit(X[part], y[part]))
    model = regressor().fit(X, y)
    density = CNFDensityEstimator(**TABLE | {"max_iter": 2}).fit(X)
    series, y_series = spirals()
    latent = LatentODERegressor(**SERIES | {"max_iter": 1}).fit(series, y_series)

    def predictions():
        mean, std = latent.predict(series, return_std=True)
        return {
            "all": model.predict(X),
            "one": model.predict(X[:1]),
            "in blocks": model.predict(ArrayTable(X, block_rows=7)),
            "log-density": density.score_samples(X),
            "mean": mean,
            "std": std,
            "one series": latent.predict(series[series["series"] == 3]),
            "log-density of rows": latent.score_samples(series, y_series),
        }

    with skode.distributed.together():
        found["predictions"] = predictions()
    found["by itself"] = predictions()
    thread = threading.Thread(target=lambda: found.update(thread=numbers(regressor().fit(X, y))))
    thread.start()
    thread.join()
    search = GridSearchCV(regressor(), {"rtol": [1e-2, 1e-3]}, cv=2, n_jobs=2, error_score="raise").fit(X, y)
    found["workers"] = {"scores": search.cv_results_["mean_test_score"]}
    times = np.linspace(0, 1, 8)
    decay = ODERegressor(lambda t, y, p: -p["k"][..., None] * y, {"k": 0.5}).fit(times[:, None], np.exp(-times))
    found["equations"] = {"k": np.array(decay.params_["k"])}
    return found


def interrupted(path):
    """A fit that one process is told to end by Ctrl-C, and the fit that goes on from its checkpoint."""
    X, y = data(400)
    torch.manual_seed(0)
    parameters = {"max_iter": 4, "batch_size": 50, "state_size": 3}
    model = regressor(**parameters, field=Interrupted(solve=12), checkpoint=path, checkpoint_interval=1e9)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(X, y)
        reason, n = model.stop_reason_, model.n_iter_
        model.fit(X, y)
        undisturbed = regressor(**parameters, field=model.field).fit(X, y)
    return reason, n, numbers(model), numbers(undisturbed)


def long_fit(path=None):
    """A fit that takes a while."""
    X, y = data(600)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = regressor(max_iter=25, batch_size=100, checkpoint=path, checkpoint_interval=0.05).fit(X, y)
    return numbers(model)


def only_first():
    """The first process calls fit once more than the other, which ends."""
    regressor(max_iter=1).fit(*data())
    if RANK == 0:
        began = time.monotonic()
        try:
            regressor().fit(*data())
        except Exception as error:
            return f"{type(error).__name__}: {error}", time.monotonic() - began
    return None

"""On a cluster of dask: searches, workers that are killed, answers and fits."""

import itertools
import os
import pickle
import signal
from pathlib import Path

import joblib
import numpy as np
import pytest
import torch
from sklearn.base import BaseEstimator, clone
from sklearn.model_selection import GridSearchCV, KFold, cross_validate

from skode import CNFDensityEstimator, ODENetClassifier, ODENetRegressor
from skode.io import ArrayTable
from skode.training.loop import _Training
from tests.every_estimator import cases
from tests.weights import same_weights

da = pytest.importorskip("dask.array")
dd = pytest.importorskip("dask.dataframe")
distributed = pytest.importorskip("distributed")

# Of tasks that a killed worker had, and of those that the scheduler moves.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")

RNG = np.random.default_rng(0)
X = RNG.normal(size=(260, 3))
Y = (X[:, 0] * X[:, 1] > 0).astype(int)
QUICK = {"hidden_layer_sizes": (6,), "max_iter": 2, "random_state": 0}
FOLDS = KFold(2)


@pytest.fixture(scope="module")
def cluster():
    """Two worker processes, started where the user's threads are three."""
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "3"
    try:
        started = distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None, silence_logs=50)
    finally:
        os.environ.pop("OMP_NUM_THREADS") if before is None else os.environ.update(OMP_NUM_THREADS=before)
    with started, distributed.Client(started):
        yield started


@pytest.fixture
def client(cluster):
    client = distributed.get_client()
    client.wait_for_workers(2, timeout=60)
    client.amm.stop()  # which drops copies of scattered data, so that a worker that is killed may have the only one
    return client


def results(search):
    """All that a search found, but for times."""
    return {key: value for key, value in search.cv_results_.items() if "time" not in key}


def check_same_results(one, other):
    one, other = results(one), results(other)
    assert one.keys() == other.keys()
    for key, values in one.items():
        if key != "params":
            np.testing.assert_array_equal(np.asarray(values), np.asarray(other[key]), err_msg=key)
    assert one["params"] == other["params"]


def grid(estimator, values=None, **settings):
    values = values or {"learning_rate_init": [1e-3, 3e-3, 1e-2, 3e-2], "state_size": [3, 4, 5]}
    return GridSearchCV(estimator, values, cv=settings.pop("cv", FOLDS), error_score="raise", **settings)


def test_a_search_is_that_of_one_process(client):
    search = grid(ODENetClassifier(alpha=1e-3, **QUICK))
    serial = clone(search).fit(X, Y)
    with joblib.parallel_config("dask"):
        search.fit(X, Y)
    assert len(search.cv_results_["params"]) == 12
    check_same_results(search, serial)
    assert same_weights(search.best_estimator_, serial.best_estimator_)
    restored = pickle.loads(pickle.dumps(search))
    assert (restored.predict(X) == serial.predict(X)).all()


@pytest.mark.parametrize("name", ["CNFDensityEstimator", "LatentODERegressor"])  # forward AD loads for seconds
def test_estimators_come_back_from_workers(client, name):
    case = cases()[name]
    rows = case.data[0][0]
    halves = [np.arange(len(rows) // 2), np.arange(len(rows) // 2, len(rows))]  # of whole series
    given = {"X": rows, "y": (*case.data[0], None)[1], "cv": list(zip(halves, halves, strict=True))}
    settings = {"error_score": "raise", "return_estimator": True}
    serial = cross_validate(clone(case.estimator), **given, **settings)
    with joblib.parallel_config("dask"):
        found = cross_validate(clone(case.estimator), **given, **settings)
    np.testing.assert_allclose(found["test_score"], serial["test_score"], rtol=1e-9)
    for one, other, half in zip(found["estimator"], serial["estimator"], halves, strict=True):
        some = rows.iloc[half] if hasattr(rows, "iloc") else rows[half]
        np.testing.assert_allclose(case.answer(one, some), case.answer(other, some), rtol=1e-9)


def test_each_slot_has_one_thread(client):
    """Nannies set the variable that torch reads, whatever the user's was."""
    assert set(client.run(torch.get_num_threads).values()) == {1}


def test_data_are_sent_once(client, monkeypatch):
    """Not once for each of 24 fits: to the scheduler, to a worker, and from there to the other."""
    from distributed.comm.tcp import TCP

    sent, write = [], TCP.write

    async def counted(self, *args, **kwargs):
        n = await write(self, *args, **kwargs)
        sent.append(n)
        return n

    many = np.random.default_rng(1).normal(size=(len(X), 2000))  # 4 MB
    search = grid(Ridge(), {"learning_rate_init": list(range(12))}, refit=False)
    monkeypatch.setattr(TCP, "write", counted)
    with joblib.parallel_config("dask"):
        search.fit(many, Y)
    assert sum(sent) < 4 * many.nbytes


class Ridge(BaseEstimator):
    """A mean of columns, which takes no time."""

    def __init__(self, learning_rate_init=0):
        self.learning_rate_init = learning_rate_init

    def fit(self, X, y):
        self.mean_ = X.mean()
        return self

    def score(self, X, y):
        return self.mean_ + self.learning_rate_init


class Fragile(BaseEstimator):
    """An estimator in whose first fit with a learning rate of 3e-3 the process is killed, at the nth epoch.

    It writes how many epochs ran in each fit with that rate.
    """

    def __init__(self, estimator, folder, kill_at=1):
        self.estimator, self.folder, self.kill_at = estimator, folder, kill_at

    def fit(self, X, y):
        folder = Path(self.folder)
        fatal = self.estimator.learning_rate_init == 3e-3
        first = fatal and not (folder / "killed").exists()
        ran, epoch = [0], _Training._epoch

        def counted(training, *args):
            ran[0] += 1
            if first and ran[0] == self.kill_at:
                (folder / "killed").write_text(str(ran[0]))
                os.kill(os.getpid(), signal.SIGKILL)
            return epoch(training, *args)

        _Training._epoch = counted
        try:
            self.model_ = clone(self.estimator).fit(X, y)
        finally:
            _Training._epoch = epoch
        if fatal:
            with (folder / "ran").open("a") as file:
                file.write(f"{ran[0]} ")
        return self

    def score(self, X, y):
        return self.model_.score(X, y)


def fit_or_again(search, X, y, splits):
    """Fit a search, and once more where the scheduler has given its tasks up, as the guide says."""
    for attempt in range(2):
        try:
            with joblib.parallel_config("dask", scatter=[X, y, *itertools.chain(*splits)]):
                return search.fit(X, y)
        except distributed.client.FutureCancelledError:
            if attempt:
                raise
            distributed.get_client().wait_for_workers(2, timeout=60)


RATES = {"estimator__learning_rate_init": [1e-3, 3e-3, 1e-2, 3e-2]}


def test_a_killed_worker_does_not_change_the_result(client, tmp_path):
    estimator = ODENetClassifier(alpha=1e-3, **QUICK)
    splits = list(FOLDS.split(X))
    (tmp_path / "serial").mkdir()
    (tmp_path / "serial" / "killed").touch()
    serial = grid(Fragile(estimator, str(tmp_path / "serial")), RATES, cv=splits, refit=False).fit(X, Y)
    search = grid(Fragile(estimator, str(tmp_path)), RATES, cv=splits, refit=False)
    fit_or_again(search, X, Y, splits)
    assert (tmp_path / "killed").exists()
    check_same_scores(search, serial)


def check_same_scores(one, other):
    for key, values in results(one).items():
        if "score" in key:
            np.testing.assert_array_equal(values, other.cv_results_[key], err_msg=key)


def test_a_killed_candidate_goes_on_from_its_checkpoint(client, tmp_path):
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    settings = {**QUICK, "max_iter": 6}
    plain = ODENetRegressor(alpha=1e-3, **settings)
    noted = ODENetRegressor(alpha=1e-3, **settings, checkpoint=str(folder), checkpoint_interval=0.0)
    splits = list(FOLDS.split(X))
    (tmp_path / "serial").mkdir()
    (tmp_path / "serial" / "killed").touch()
    y, rates = X[:, 0].copy(), {"estimator__learning_rate_init": [3e-3, 1e-2]}
    serial = grid(Fragile(plain, str(tmp_path / "serial")), rates, cv=splits, refit=False).fit(X, y)
    search = grid(Fragile(noted, str(tmp_path), kill_at=5), rates, cv=splits, refit=False)
    fit_or_again(search, X, y, splits)
    check_same_scores(search, serial)
    # One of two fits was killed as its fifth epoch of six began, and went on with that.
    assert "2" in (tmp_path / "ran").read_text().split()


class Count:
    """Writes a line for each epoch."""

    def __init__(self, path):
        self.path = path

    def setup(self, estimator, context):
        pass

    def teardown(self, estimator, context):
        pass

    def on_fit_task_begin(self, estimator, context):
        pass

    def on_fit_task_end(self, estimator, context):
        if context.task_name == "epoch":
            with open(self.path, "a") as file:
                file.write(f"{os.getpid()}\n")


def test_callbacks_are_called_on_workers(client, tmp_path):
    estimator = ODENetClassifier(alpha=1e-3, **QUICK).set_callbacks(Count(str(tmp_path / "epochs")))
    with joblib.parallel_config("dask"):
        grid(estimator, {"state_size": [3, 4]}, refit=False).fit(X, Y)
    epochs = (tmp_path / "epochs").read_text().split()
    assert len(epochs) == 2 * 2 * QUICK["max_iter"]
    assert str(os.getpid()) not in epochs


def test_answers_are_computed_by_workers(client):
    model = CNFDensityEstimator(stacking=False, **QUICK).fit(X)
    lazy = da.from_array(X, chunks=(100, 3))
    densities = model.score_samples(lazy).persist()
    distributed.wait(densities)
    assert {key for keys in client.has_what().values() for key in keys} >= set(densities.__dask_keys__())
    np.testing.assert_allclose(densities.compute(), model.score_samples(X), rtol=1e-12)
    assert model.score(lazy) == pytest.approx(model.score(X), abs=1e-12)


def test_a_fit_reads_partitions_from_workers(client):
    lazy = da.from_array(X, chunks=(100, 3)).persist()
    model = CNFDensityEstimator(stacking=False, **QUICK).fit(lazy)
    assert same_weights(model, CNFDensityEstimator(stacking=False, **QUICK).fit(ArrayTable(X, block_rows=100)))


def test_series_by_partition(client):
    case = cases()["LatentODERegressor"]
    rows, y = case.data[0]
    model = clone(case.estimator).fit(rows, y)
    lazy = dd.from_pandas(rows.set_index("series"), npartitions=2)
    np.testing.assert_allclose(model.predict(lazy).compute(), model.predict(rows), rtol=1e-12)

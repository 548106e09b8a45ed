"""Fits that were cut off go on from their checkpoints, and end as if nothing had happened."""

import itertools
import os
import signal
import threading

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from torch import nn

from skode import CNFDensityEstimator, LatentODERegressor, ODENetClassifier, ODENetRegressor
from skode.datasets import make_spirals
from skode.io import ArrayTable
from skode.persistence.errors import ForeignFileError
from skode.training.checkpoint import Checkpoint

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

rng = np.random.RandomState(0)
X = rng.normal(size=(60, 2))
SERIES, VALUES = make_spirals(n_series=4, n_observations=8, random_state=0)
SMALL = {"hidden_layer_sizes": (4,), "max_iter": 2}


class Noisy(nn.Module):
    """A user's field with dropout, batch statistics and a state of its own."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Dropout(0.3), nn.Tanh(), nn.Linear(4, 2))

    def forward(self, t, z):
        return self.layers(z)


FITS = {
    "classifier": (ODENetClassifier(batch_size=20, **SMALL), (X, X[:, 0] > 0)),
    "validated": (
        ODENetClassifier(early_stopping=True, alpha=1.0, batch_size=10, learning_rate="cosine", **SMALL),
        (X, X[:, 0] > 0),
    ),
    "own field": (
        ODENetRegressor(field=Noisy(), state_size=2, method="rk4", alpha=1.0, max_iter=2, batch_size=20),
        (X, X[:, 0]),
    ),
    "likelihood": (ODENetRegressor(likelihood="gaussian", alpha=1.0, input_dropout=0.2, **SMALL), (X, X[:, 0])),
    "density": (CNFDensityEstimator(matching_iter=1, divergence="hutchinson", **SMALL), (X,)),
    "classifier in blocks": (ODENetClassifier(batch_size=8, **SMALL), (ArrayTable(X, block_rows=10), X[:, 0] > 0)),
    "density in blocks": (CNFDensityEstimator(batch_size=8, **SMALL), (ArrayTable(np.round(X, 1), block_rows=10),)),
    "latent": (
        LatentODERegressor("series", "time", latent_size=2, encoder_size=4, n_draws=4, **SMALL),
        (SERIES, VALUES),
    ),
}


def outcome(estimator, data):
    """All that a fit has learned."""
    is_density = isinstance(estimator, CNFDensityEstimator)
    answer = (estimator.score_samples if is_density else estimator.predict)(data[0])
    curves = (estimator.loss_curve_, estimator.validation_scores_, estimator.nfe_forward_, estimator.nfe_backward_)
    weights = {name: value.numpy().tolist() for name, value in estimator.module_.state_dict().items()}
    return np.asarray(answer).tolist(), curves, weights, estimator.stop_reason_


def test_fits_end_in_the_same_bits_wherever_they_were_cut_off(fit, tmp_path, cut, monkeypatch):
    monkeypatch.setattr("skode.training.blocks.POOL_BYTES", 500)  # of some blocks at a time
    monkeypatch.setattr("skode.training.blocks.MOST_DRAWN", 55)
    estimator, data = fit
    estimator = clone(estimator).set_params(random_state=0)
    expected = outcome(clone(estimator).fit(*data), data)
    estimator.set_params(checkpoint=tmp_path / "fit")
    looks = cut()
    assert outcome(clone(estimator).fit(*data), data) == expected
    n = looks[0]
    assert n >= 4
    for first in {1, n - 1}:
        (tmp_path / "fit").unlink()
        for position in (first, max((n - first) // 2, 1)):
            cut(position)
            with pytest.raises(cut.Cut):
                clone(estimator).fit(*data)
        cut()
        assert outcome(clone(estimator).fit(*data), data) == expected


@pytest.fixture(params=FITS)
def fit(request):
    return FITS[request.param]


def test_a_fit_that_has_ended_answers_at_once(tmp_path, cut):
    model = ODENetClassifier(checkpoint=tmp_path / "fit", **SMALL).fit(X, X[:, 0] > 0)  # without a random state
    looks = cut()
    again = clone(model).fit(X, X[:, 0] > 0)
    assert looks[0] == 0
    np.testing.assert_array_equal(again.predict_proba(X), model.predict_proba(X))


def cut_off(model, cut, *data):
    cut(2)
    with pytest.raises(cut.Cut):
        model.fit(*data)
    cut()


def test_a_table_in_blocks_is_told_by_its_content(tmp_path, cut):
    y = X[:, 0] > 0
    model = ODENetClassifier(checkpoint=tmp_path / "fit", batch_size=10, random_state=0, **SMALL)
    cut_off(model, cut, ArrayTable(X, block_rows=10), y)
    other = X.copy()
    other[-1] += 1e-9
    for changed in (ArrayTable(other, block_rows=10), ArrayTable(X, block_rows=20), ArrayTable(X, ["a", "b"])):
        with pytest.raises(ValueError, match="of another fit, which has not ended: X is ArrayTable of shape"):
            clone(model).fit(changed, y)
    clone(model).fit(ArrayTable(X.copy(), block_rows=10), y)


def test_another_fit_is_refused_by_what_differs(tmp_path, cut):
    y = X[:, 0] > 0
    model = ODENetClassifier(checkpoint=tmp_path / "fit", batch_size=10, random_state=0, **SMALL)
    cut_off(model, cut, X, y)
    for changed, told in [
        ({"max_iter": 3}, "max_iter is 3, but it was begun with 2"),
        ({"rtol": 1e-4, "random_state": 1}, "random_state is 1, but it was begun with 0; rtol is 0.0001"),
    ]:
        with pytest.raises(ValueError, match=f"of another fit, which has not ended: {told}"):
            clone(model).set_params(**changed).fit(X, y)
    with pytest.raises(
        ValueError,
        match=r"X is ndarray of shape \(50, 2\) .*, but it was begun with ndarray of shape \(60, 2\)",
    ):
        clone(model).fit(X[:50], y[:50])
    with pytest.raises(ValueError, match=r"ended: y is ndarray of .* dtype bool, but it was begun with another one"):
        clone(model).fit(X, ~y)
    with pytest.raises(ValueError, match="estimator is ODENetRegressor"):
        ODENetRegressor(checkpoint=tmp_path / "fit").fit(X, X[:, 0])
    clone(model).set_params(verbose=True, checkpoint_interval=5.0).fit(X, y)  # which are no part of a fit
    clone(model).set_params(max_iter=3).fit(X, y)  # nothing is lost any more


def test_the_weights_to_go_on_from_are_part_of_a_fit(tmp_path, cut):
    y = X[:, 0] > 0
    model = ODENetClassifier(warm_start=True, batch_size=10, random_state=0, **SMALL).fit(X, y)
    model.set_params(checkpoint=tmp_path / "fit")
    cut_off(model, cut, X, y)
    with pytest.raises(ValueError, match="the model that warm_start goes on from is none, but"):
        clone(model).fit(X, y)
    model.fit(X, y)


def test_a_folder_has_a_file_for_each_fit(tmp_path, cut):
    model = ODENetClassifier(checkpoint=tmp_path, batch_size=20, random_state=0, **SMALL)
    search = GridSearchCV(model, {"rtol": [1e-2, 1e-3]}, cv=2)
    scores = search.fit(X, X[:, 0] > 0).cv_results_["mean_test_score"]
    assert len(list(tmp_path.glob("ODENetClassifier-*.checkpoint"))) == len(list(tmp_path.iterdir())) == 5
    looks = cut()
    again = clone(search).fit(X, X[:, 0] > 0)
    assert looks[0] == 0
    np.testing.assert_array_equal(again.cv_results_["mean_test_score"], scores)


def test_files_in_a_folder_have_the_same_name_in_every_process(tmp_path):
    def rule():  # by an object whose text tells an address, as those of functions do
        return ODENetClassifier(checkpoint=tmp_path, class_weight=lambda: 1)

    kept = [rule(), rule()]
    assert len({Checkpoint.of(model, {}).path for model in kept}) == 1


def test_data_that_are_refused_leave_no_file(tmp_path):
    with pytest.raises(ValueError, match="NaN"):
        CNFDensityEstimator(checkpoint=tmp_path / "fit", checkpoint_interval=0.0).fit(np.full((30, 2), np.nan))
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path, monkeypatch):
    model = ODENetClassifier(checkpoint=tmp_path / "fit", random_state=0, **SMALL).fit(X, X[:, 0] > 0)
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write anywhere
    with pytest.raises(PermissionError, match=r"checkpoint='.*fit': the folder '.*' can't be written to"):
        clone(model).set_params(max_iter=3).fit(X, X[:, 0] > 0)
    clone(model).fit(X, X[:, 0] > 0)  # which has ended


def test_a_path_with_a_slash_at_its_end_is_a_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"checkpoint='.*/new/': there is no such folder"):
        ODENetClassifier(checkpoint=f"{tmp_path}/new/", **SMALL).fit(X, X[:, 0] > 0)


def test_a_damaged_file_is_told_with_the_way_out(tmp_path):
    (tmp_path / "fit").write_bytes(b"")
    with pytest.raises(ForeignFileError, match=r"checkpoint: .*fit is not a file.* delete the file to begin anew"):
        ODENetClassifier(checkpoint=tmp_path / "fit", **SMALL).fit(X, X[:, 0] > 0)


def test_a_folder_that_is_missing_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        ODENetClassifier(checkpoint=tmp_path / "none" / "fit").fit(X, X[:, 0] > 0)


def test_an_empty_path_is_refused():
    with pytest.raises(ValueError, match="checkpoint='' is no path"):
        ODENetClassifier(checkpoint="").fit(X, X[:, 0] > 0)


def test_a_fit_does_not_die_of_a_file_that_cannot_be_written(tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("skode.training.checkpoint.write_archive", full)
    with pytest.warns(UserWarning, match="could not be written.*No space left"):
        ODENetClassifier(checkpoint=tmp_path / "fit", checkpoint_interval=0.0, **SMALL).fit(X, X[:, 0] > 0)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_end_a_fit_with_a_checkpoint(number, tmp_path, monkeypatch):
    y = X[:, 0] > 0
    model = ODENetClassifier(alpha=1.0, batch_size=20, checkpoint=tmp_path / "fit", random_state=0, **SMALL)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # pytest's workers ignore it
    handlers = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)]
    expected = clone(model).set_params(checkpoint=None).fit(X, y).predict_proba(X)
    looks, look = itertools.count(1), Checkpoint.look

    def killed(checkpoint):
        if next(looks) == 4:
            os.kill(os.getpid(), number)
        look(checkpoint)

    monkeypatch.setattr(Checkpoint, "look", killed)
    with pytest.warns(UserWarning, match="interrupted by user.*The same fit goes on from checkpoint="):
        cut_short = clone(model).fit(X, y)
    assert cut_short.stop_reason_ == "interrupted"
    assert cut_short.predict(X).shape == (60,)
    assert [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)] == handlers
    signal.signal(signal.SIGINT, before)
    np.testing.assert_array_equal(clone(model).fit(X, y).predict_proba(X), expected)


def test_a_signal_after_an_interruption_does_not_write(tmp_path):
    class Step:
        def state(self):
            return pytest.fail("written")

        go_on_from = state

    checkpoint = Checkpoint(tmp_path / "fit", 0.0)
    checkpoint.close()

    def work():
        with checkpoint.careful():
            checkpoint.interruption._on_signal(signal.SIGTERM, None)
            checkpoint.look()

    with pytest.raises(KeyboardInterrupt):
        checkpoint.step(work, under_way=Step())
    assert not list(tmp_path.iterdir())


def test_signals_are_left_alone_in_other_threads(tmp_path):
    model = ODENetClassifier(checkpoint=tmp_path / "fit", **SMALL)
    thread = threading.Thread(target=model.fit, args=(X, X[:, 0] > 0))
    thread.start()
    thread.join()
    assert model.predict(X).shape == (60,)


def test_time_that_was_spent_counts(tmp_path, cut):
    model = CNFDensityEstimator(
        max_time=600.0, checkpoint=tmp_path / "fit", stacking=False, random_state=0, hidden_layer_sizes=(4,), max_iter=2
    )
    cut_off(model, cut, X)
    spent = Checkpoint.of(model, {"X": X, "sample_weight": None}).seconds_before
    assert 0.0 < spent < 60.0
    assert model.fit(X).n_iter_ == 2


def test_steps_are_taken_from_the_journal(tmp_path):
    def journal():
        checkpoint = Checkpoint(tmp_path / "fit", 0.0)
        if checkpoint.path.exists():
            checkpoint._go_on()
        return checkpoint

    weights = torch.zeros(2)

    class Part:
        def state(self):
            return weights.clone()

        def go_on_from(self, state):
            weights.copy_(state)

    def work():
        weights.add_(1.0)
        return {"answer": 42}

    assert journal().step(work, changes=Part()) == {"answer": 42}
    weights.zero_()
    again = journal()
    assert again.step(lambda: pytest.fail("run again"), changes=Part()) == {"answer": 42}
    assert weights.tolist() == [1.0, 1.0]
    assert again.step(lambda: "next") == "next"


def test_steps_that_have_ended_are_written_where_the_next_one_is_interrupted(tmp_path):
    def interrupted():
        raise KeyboardInterrupt

    checkpoint = Checkpoint(tmp_path / "fit", 1e9)
    checkpoint.step(lambda: 42)
    assert not checkpoint.path.exists()
    with pytest.raises(KeyboardInterrupt):
        checkpoint.step(interrupted)
    again = Checkpoint(tmp_path / "fit", 1e9)
    again._go_on()
    assert again.step(lambda: pytest.fail("run again")) == 42

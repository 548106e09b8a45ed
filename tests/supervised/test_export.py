"""Exported classifiers and regressors answer as they do themselves."""

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.datasets import make_moons

from skode import ODENetClassifier, ODENetRegressor
from tests.serving.run import by_module
from tests.supervised.tiny import TINY

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


@pytest.fixture(scope="module")
def moons():
    return make_moons(40, noise=0.2, random_state=0)


@pytest.fixture(scope="module")
def classifier(moons):
    X, y = moons
    return ODENetClassifier(**TINY).fit(X, np.array(["in", "out"])[y])


@pytest.mark.parametrize("rtol", [1e-3, 1e-4, 1e-5, 1e-6])
def test_adaptive_steps_at_any_tolerance(classifier, moons, rtol, monkeypatch):
    classifier.set_params(rtol=rtol, atol=1e-3 * rtol)
    found = by_module(classifier._program("predict_proba"), monkeypatch, moons[0])
    np.testing.assert_allclose(found, classifier.predict_proba(moons[0]), rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    "options",
    [
        {"field": "concatsquash"},
        {"field": "gated_planar", "augment_dim": 2},
        {"evolving_weights": True},
        {"state_size": None, "activation": "softplus", "hidden_layer_sizes": (4, 4)},
        {"field": torch.nn.Module},
        {"method": "rk4", "step_size": 0.3},
    ],
    ids=["concatsquash", "gated_planar", "evolving", "no embedding", "own", "fixed steps"],
)
def test_fields_and_methods(moons, options, monkeypatch):
    class Own(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(4, 4)

        def forward(self, t, z):
            return torch.tanh(self.layer(z)) * (1.0 + torch.as_tensor(t))

    if options.get("field") is torch.nn.Module:
        options = {"field": Own()}
    regressor = ODENetRegressor(**{**TINY, "max_iter": 1, **options}).fit(moons[0], moons[1])
    found = by_module(regressor._program(None), monkeypatch, moons[0])
    np.testing.assert_allclose(found, regressor.predict(moons[0]), rtol=0, atol=1e-10)


def test_images(monkeypatch, tmp_path):
    X, y = np.random.RandomState(0).rand(8, 64), np.arange(8) % 2
    shape = {"image_shape": (1, 8, 8), "n_blocks": 2, "hidden_layer_sizes": (4,)}
    classifier = ODENetClassifier(**{**TINY, "max_iter": 1, **shape}).fit(X, y)
    found = by_module(classifier._program("predict_log_proba"), monkeypatch, X)
    np.testing.assert_allclose(found, classifier.predict_log_proba(X), rtol=0, atol=1e-10)
    with pytest.raises(ValueError, match="no convolutions in double precision: fit with dtype='float32'"):
        classifier.export(tmp_path / "images.onnx")


def test_categories_are_taken_as_codes_and_missing_values_as_nan(monkeypatch):
    rng = np.random.RandomState(0)
    X = pd.DataFrame({"size": rng.randn(40), "colour": pd.Categorical(rng.choice(["red", "blue"], 40))})
    X.loc[3, "size"], X.loc[5, "colour"] = np.nan, np.nan
    y = rng.randn(40, 2)
    regressor = ODENetRegressor(**{**TINY, "max_iter": 1}).fit(X, y)
    program = regressor._program("predict")
    codes = pd.Categorical(X["colour"], categories=program.description["categories"]["1"]).codes.astype(float)
    table = np.column_stack([X["size"], np.where(codes < 0, np.nan, codes)])
    np.testing.assert_allclose(by_module(program, monkeypatch, table), regressor.predict(X), rtol=0, atol=1e-10)


def test_labels_are_classes_that_are_numbers_or_positions_of_others(classifier, moons, monkeypatch):
    codes = by_module(classifier._program("predict"), monkeypatch, moons[0])
    assert (classifier.classes_[codes] == classifier.predict(moons[0])).all()
    numbers = ODENetClassifier(**{**TINY, "max_iter": 1}).fit(moons[0], moons[1] * 5 - 2)
    assert (by_module(numbers._program("predict"), monkeypatch, moons[0]) == numbers.predict(moons[0])).all()


def test_a_sample_that_cannot_be_solved_has_no_label(classifier, moons, monkeypatch):
    X, y = moons[0].copy(), moons[1]
    X[1] = np.inf
    codes = by_module(classifier._program("predict"), monkeypatch, X)
    assert codes[1] == len(classifier.classes_)
    assert (classifier.classes_[codes[2:]] == classifier.predict(moons[0])[2:]).all()
    tiny = {**TINY, "max_iter": 1}
    for targets, expected in ((y * 2 - 1, np.iinfo(np.int64).min), (1.0 * y, np.nan), (np.column_stack([y, y]), -1)):
        found = by_module(ODENetClassifier(**tiny).fit(moons[0], targets)._program("predict"), monkeypatch, X)
        np.testing.assert_equal(found[1], np.full(found.shape[1:], expected))


def test_a_graph_of_evolving_weights(moons):
    options = {"evolving_weights": True, "method": "euler", "state_size": None, "max_iter": 1}
    regressor = ODENetRegressor(**{**TINY, **options}).fit(moons[0], moons[1])
    found = regressor._program(None).exported.module()(torch.tensor(moons[0]))
    np.testing.assert_allclose(found.numpy(), regressor.predict(moons[0]), rtol=0, atol=1e-10)


def test_several_labels(moons, monkeypatch):
    y = np.column_stack([moons[1], moons[0][:, 0] > 0])
    classifier = ODENetClassifier(**{**TINY, "max_iter": 1}).fit(moons[0], y)
    for method in ("predict", "predict_proba", "predict_log_proba"):
        found = by_module(classifier._program(method), monkeypatch, moons[0])
        np.testing.assert_allclose(found, getattr(classifier, method)(moons[0]), rtol=0, atol=1e-10)


def test_single_precision(moons, monkeypatch):
    X = moons[0].astype(np.float32)
    classifier = ODENetClassifier(**{**TINY, "max_iter": 1}).fit(X, moons[1])
    found = by_module(classifier._program("predict_proba"), monkeypatch, X)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, classifier.predict_proba(X), rtol=0, atol=1e-5)


def test_a_method_that_is_not_known_is_refused(classifier, tmp_path):
    with pytest.raises(ValueError, match="method='score' can't be exported; choose one of"):
        classifier.export(tmp_path / "file.onnx", method="score")
